"""Checkpoints: what was saved comes back, damage is seen, and what was there before survives."""

import errno
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import assert_same_state

from dat.engine import checkpoint
from dat.engine.checkpoint import State
from dat.errors import CheckpointError

FILES = ["model.safetensors", "optimizer.safetensors", "manifest.json"]


def state(step: int = 1, *, size: int = 50) -> State:
    numbers = torch.Generator().manual_seed(step)
    tensors = {
        "model": {"weight": torch.randn(size, 3, generator=numbers), "bias": torch.randn(3, generator=numbers).bfloat16()},
        "optimizer": {"0.step": torch.tensor(float(step)), "0.moment": torch.randn(3, size, generator=numbers).T},
    }
    return State(tensors, {"step": step, "optimizer": {"groups": [{"lr": 0.1 / 3, "params": [0, 1]}], "numbers": {}}})


def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    assert path.name == "step-00000001"
    loaded = checkpoint.load(path)
    assert_same_state(loaded, state())
    assert loaded.tensors["model"]["bias"].dtype == torch.bfloat16


def test_a_part_without_tensors_comes_back(tmp_path: Path) -> None:
    empty = State({"optimizer": {}}, {"step": 1})
    assert_same_state(checkpoint.load(checkpoint.save(tmp_path, 1, empty)), empty)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 1, 7, 100, -1])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, name: str, left: int) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:left])
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(path)


@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_changed_is_seen(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    whole, places = (path / name).read_bytes(), random.Random(0)
    for place in places.sample(range(len(whole)), 30):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << places.randrange(8)
        (path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError) as error:
            checkpoint.load(path)
        # A changed name of a file in the manifest is a file that is missing.
        assert str(path) in str(error.value)
        assert name == "manifest.json" or name in str(error.value)


def test_every_number_of_the_manifest_is_guarded(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["numbers"]["step"] = 2
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", "not JSON", '{"files": {}, "numbers": {}}'])
def test_something_else_as_manifest_is_refused(tmp_path: Path, text: str) -> None:
    path = checkpoint.save(tmp_path, 1, state())
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.load(path)


def test_the_newest_whole_one_is_taken(tmp_path: Path) -> None:
    assert checkpoint.newest_valid(tmp_path) is None
    for step in (1, 2):
        checkpoint.save(tmp_path, step, state(step))
    found = checkpoint.newest_valid(tmp_path)
    assert found is not None
    assert (found[0].name, found[2]) == ("step-00000002", [])

    (found[0] / "model.safetensors").write_bytes(b"")
    found = checkpoint.newest_valid(tmp_path)
    assert found is not None
    assert found[0].name == "step-00000001"
    assert_same_state(found[1], state(1))
    assert len(found[2]) == 1
    assert "step-00000002/model.safetensors" in found[2][0]


def test_nothing_whole_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    for step in (1, 2):
        (checkpoint.save(tmp_path, step, state(step)) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"No checkpoint .* is whole; the newest: .*step-00000002"):
        checkpoint.newest_valid(tmp_path)


def test_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, step, state(step))
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000015", "step-00000020"]


def test_a_damaged_later_one_does_not_count_among_the_two(tmp_path: Path) -> None:
    for step in (5, 20):
        checkpoint.save(tmp_path, step, state(step))
    checkpoint.save(tmp_path, 10, state(10))
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000005", "step-00000010"]


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    assert_same_state(checkpoint.load(checkpoint.save(tmp_path, 1, state(2))), state(2))


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".step-00000001.12345.tmp"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoint.list_checkpoints(tmp_path) == []
    checkpoint.save(tmp_path, 2, state())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def assert_old_one_is_intact(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert_same_state(checkpoint.load(folder / "step-00000001"), state(1))


@pytest.mark.parametrize("part", [1, 2])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    save_file, calls = checkpoint.save_file, []

    def full(tensors: dict[str, torch.Tensor], file: Path) -> None:
        calls.append(file)
        if len(calls) == part:
            file.write_bytes(b"the beginning")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(tensors, file)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step-00000002 could not be written \(the disk is full: .* MiB needed"):
        checkpoint.save(tmp_path, 2, state(2))
    assert len(calls) == part
    assert_old_one_is_intact(tmp_path)


def test_another_fault_of_the_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, state(1))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.save(tmp_path, 2, state(2))
    assert_old_one_is_intact(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of 1 MiB can be mounted by root only")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("size", [60_000, 40_000])
def test_a_disk_that_is_really_full(small_disk: Path, size: int) -> None:
    """First a part that does not fit at all, then one that would fit if the old checkpoint were not there."""
    checkpoint.save(small_disk, 1, state(1))
    (small_disk / "step-00000001" / "other").write_bytes(b"0" * (0 if size > 50_000 else 300_000))
    with pytest.raises(CheckpointError, match="the disk is full"):
        checkpoint.save(small_disk, 2, state(2, size=size))
    assert_old_one_is_intact(small_disk)
