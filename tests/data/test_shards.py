"""Shards give what the same files give, each picture once in every epoch, and each fault of a shard in one sentence."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dat.data import shards
from dat.data.folders import ImageFolder
from dat.data.overlap import shared_pictures
from dat.data.pipeline import CenterCrop, ImageDataset, TrainingOrder, fetch
from dat.data.places import open_place
from dat.errors import DataError

CLASSES = ("cat", "dog", "eel")
PICTURES = 10
"""In each of three shards."""


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, held in files:
            info = tarfile.TarInfo(name)
            info.size = len(held)
            tar.addfile(info, io.BytesIO(held))
    return path


def example(number: int, label: str | None = None) -> list[tuple[str, bytes]]:
    label = CLASSES[number % 3] if label is None else label
    return [(f"deep.er/{number:04d}.cls", label.encode()), (f"deep.er/{number:04d}.png", png(number))]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dat" / "shards"


@pytest.fixture
def pattern(tmp_path: Path) -> str:
    for shard in range(3):
        files = [file for number in range(PICTURES) for file in example(PICTURES * shard + number)]
        write(tmp_path / "s" / f"train-{shard + 8:03d}.tar", [*files, (f"{shard}.json", b"{}")])
    return str(tmp_path / "s" / "train-{008..010}.tar")


def shown(source: object, index: int) -> int:
    return int(np.asarray(source.read(index)).max())  # type: ignore[attr-defined]


def test_all_shards_are_one_source(pattern: str) -> None:
    source = open_place(pattern)
    assert (len(source), source.classes, source.targets.tolist()) == (30, CLASSES, [number % 3 for number in range(30)])
    assert [shown(source, index) for index in (29, 0, 11)] == [29, 0, 11]
    assert source.name(11) == "train-009.tar/deep.er/0011.png"
    assert source.size(4) == (5, 4)
    assert source.class_order == f"files .cls in {pattern}, by the alphabet"
    assert open_place(pattern.replace("{008..010}", "*")).fingerprint() == source.fingerprint()
    assert len(open_place(pattern.replace("{008..010}", "009"))) == PICTURES
    assert len(open_place(pattern, per_class=4)) == 12


def test_the_fingerprint_is_of_pictures_and_classes(pattern: str, tmp_path: Path) -> None:
    whole = open_place(pattern)
    first, second = example(0), example(1, "dog")
    for files in ([*example(0, "dog"), *second], [*first, second[0], (second[1][0], png(77))]):
        write(tmp_path / "x" / "train-008.tar", [*first, *second])
        before = open_place(tmp_path / "x" / "train-008.tar", classes=CLASSES, subset=True).fingerprint()
        write(tmp_path / "x" / "train-008.tar", files)
        assert open_place(tmp_path / "x" / "train-008.tar", classes=CLASSES, subset=True).fingerprint() != before
    (tmp_path / "f" / "a").mkdir(parents=True)
    (tmp_path / "f" / "a" / "x.png").write_bytes(png(12))
    ((ours, _),) = shared_pictures(ImageFolder(tmp_path / "f"), whole)
    assert str(ours.path).endswith("train-009.tar/deep.er/0012.png")


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_has_every_picture_once_in_an_order_of_its_own_and_goes_on_at_any_step(pattern: str, workers: int) -> None:
    dataset = ImageDataset(open_place(pattern), CenterCrop(), seed=3)
    orders = [TrainingOrder(len(dataset), batch_size=6, processes=2, process=process, seed=3) for process in (0, 1)]

    def seen(epoch: int, process: int, start: int = 0) -> list[list[int]]:
        batches = fetch(dataset, orders[process].batches(epoch, start_step=start), workers=workers)
        return [np.rint(255 * images.amax((1, 2, 3)).numpy()).astype(int).tolist() for images, *_ in batches]

    epochs = [[seen(epoch, process) for process in (0, 1)] for epoch in (0, 1)]
    for both in epochs:
        assert sorted(value for share in both for batch in share for value in batch) == list(range(30))
    assert epochs[0] != epochs[1]
    assert seen(1, 0, start=2) == epochs[1][0][2:]


def test_an_index_is_remembered_until_its_shard_is_another(
    pattern: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "JUST_NOW_NS", -1)
    first = open_place(pattern).fingerprint()
    assert len(list(cache.iterdir())) == 3
    scans: list[str] = []
    scanned = shards._scanned
    monkeypatch.setattr(shards, "_scanned", lambda shard, suffix: scans.append(shard.name) or scanned(shard, suffix))
    assert (open_place(pattern).fingerprint(), scans) == (first, [])
    write(tmp_path / "s" / "train-009.tar", example(50))
    assert (len(open_place(pattern)), scans) == (21, ["train-009.tar"])
    next(iter(cache.iterdir())).write_text("{")
    assert (len(open_place(pattern)), len(scans)) == (21, 2)


def test_a_shard_that_is_cut_off_anywhere_is_named(pattern: str, tmp_path: Path) -> None:
    """No cut loses a picture without a word; beyond the last picture nothing is lost but the mark of the end."""
    shard = tmp_path / "s" / "train-009.tar"
    whole = shard.read_bytes()
    end = -(-len(whole.rstrip(b"\0")) // 512) * 512
    for cut in (*range(0, len(whole), 512), 700, 1300):
        shard.write_bytes(whole[:cut])
        if cut > end:
            assert len(open_place(pattern)) == 30
            continue
        with pytest.raises(DataError, match=rf"The shard .*train-009.tar \({cut} bytes\) is cut off"):
            open_place(pattern)
    shard.write_bytes(whole[:2000] + b"\1" * 600 + whole[2600:])
    with pytest.raises(DataError, match=r"train-009.tar .* is cut off, damaged or no tar file; fetch it again\.$"):
        open_place(pattern)
    shard.write_bytes(whole + whole)
    with pytest.raises(DataError, match=r"train-009.tar .* is cut off, damaged"):
        open_place(pattern)
    shard.write_bytes(whole)
    source = open_place(pattern)
    shard.write_bytes(whole[:2000])
    with pytest.raises(DataError, match=r"train-009.tar \(2000 bytes\) is cut off"):
        source.read(15)


def test_other_faults_are_told(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"4 of the shards .* are not there \(.*train-011.tar, .*012.tar, .*013.tar, ...\); fetch"
    ):
        open_place(pattern.replace("010", "014"))
    with pytest.raises(DataError, match=r"1 of the shards .*none-\*.tar are not there"):
        open_place(tmp_path / "none-*.tar")
    picture = ("k.png", png(1))
    for files, said in [
        ([*example(0), picture], r"1 picture \(x.tar/k.png\) of .*x.tar without a class; put a file KEY.cls"),
        (
            [*example(0), ("k.jxl", b"x"), ("k.cls", b"cat")],
            r"has 1 picture \(k\) with a class, but with no file of a known kind",
        ),
        ([*example(0), picture, ("k.jpg", png(2)), ("k.cls", b"cat")], "has two pictures for k; keep one"),
        ([*example(0), *example(0, "dog")], "has two classes for deep.er/0000; keep one"),
        ([picture, ("k.cls", b"\xff\xfe")], r"k.cls in .*x.tar is no text"),
    ]:
        with pytest.raises(DataError, match=said):
            open_place(write(tmp_path / "x.tar", files))
    named = write(tmp_path / "x.tar", [picture, ("k.txt", b"10"), ("l.png", png(2)), ("l.txt", b"9")])
    assert open_place(f"{named}::label=txt").classes == ("9", "10")
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("k.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/elsewhere.png"
        tar.addfile(link)
    with pytest.raises(DataError, match=r"link.tar holds the link k.png"):
        open_place(tmp_path / "link.tar")
    for name in ("z.tar.gz", "z.tar"):
        (tmp_path / name).write_bytes(gzip.compress(named.read_bytes()))
        with pytest.raises(DataError, match=rf"The shard .*{name} is compressed, .*; unpack it: gunzip"):
            open_place(tmp_path / name)
