"""A run folder belongs to one process and one recipe; whoever comes second is told so in one sentence."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dat.engine.run_folder import RUN, claimed
from dat.errors import RunFolderError

HOLDER = """
import sys, time
from pathlib import Path
from dat.engine.run_folder import claimed
with claimed(Path(sys.argv[1]), recipe_hash="a", resume=False):
    print("held", flush=True)
    time.sleep(60)
"""


def run_once(folder: Path, recipe_hash: str = "a") -> None:
    with claimed(folder, recipe_hash=recipe_hash, resume=False):
        (folder / RUN).write_text(f'{{"recipe_hash": "{recipe_hash}"}}')


def assert_refused(folder: Path, *said: str, recipe_hash: str = "a", resume: bool = False) -> None:
    with pytest.raises(RunFolderError) as error, claimed(folder, recipe_hash=recipe_hash, resume=resume):
        raise AssertionError("the folder was given away")
    for part in (str(folder), *said):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_a_new_folder_is_made_and_a_second_run_in_it_is_refused(tmp_path: Path) -> None:
    run_once(tmp_path / "runs" / "first")
    assert_refused(tmp_path / "runs" / "first", "already holds a run", "--resume", "out=")


def test_a_run_is_resumed_with_its_own_recipe_only(tmp_path: Path) -> None:
    run_once(tmp_path)
    with claimed(tmp_path, recipe_hash="a", resume=True):
        pass
    assert_refused(tmp_path, "of recipe a, not of b", "recipe.yaml", recipe_hash="b", resume=True)


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    run_once(tmp_path)
    (tmp_path / "recipe.yaml").write_text("title: old\nmodel: {options: {width: 4}}\nseeds: [0]\nmethods: {dat: {}}\n")
    now = {"title": "new", "model": {"options": {"width": 8}}, "seeds": [0], "methods": {"dat": {"alpha": 0.2}}}
    said = r"holds a run with other settings \(model\.options\.width was 4, is 8; methods\.dat\.alpha was not there, is 0\.2\)"
    with pytest.raises(RunFolderError, match=said), claimed(tmp_path, recipe_hash="b", resume=True, settings=now):
        raise AssertionError


def test_of_many_settings_the_first_are_named(tmp_path: Path) -> None:
    run_once(tmp_path)
    (tmp_path / "recipe.yaml").write_text("".join(f"key{number}: 0\n" for number in range(20)))
    now = {f"key{number}": 1 for number in range(20)}
    with (
        pytest.raises(RunFolderError, match=r"key7 was 0, is 1; 12 more\)"),
        claimed(tmp_path, recipe_hash="b", resume=True, settings=now),
    ):
        raise AssertionError


def test_inputs_that_differ_are_named_and_those_that_were_not_noted_are_accepted(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text('{"recipe_hash": "a", "inputs": {"data.train": "1", "model.weights": "2"}}')
    how: dict[str, Any] = {"recipe_hash": "a", "resume": True}
    with claimed(tmp_path, **how, inputs={"data.train": "1", "model.weights": "2", "init": "3"}):
        pass
    with (
        pytest.raises(RunFolderError, match=r"What data\.train and model\.weights of the recipe name is not what the run in"),
        claimed(tmp_path, **how, inputs={"data.train": "0", "model.weights": "0"}),
    ):
        raise AssertionError


def test_resuming_nothing_begins(tmp_path: Path) -> None:
    with claimed(tmp_path, recipe_hash="a", resume=True):
        pass


def test_a_folder_that_failed_is_given_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path, recipe_hash="a", resume=False):
        raise ZeroDivisionError
    run_once(tmp_path)


def test_a_refused_second_run_does_not_hold_the_folder(tmp_path: Path) -> None:
    run_once(tmp_path)
    assert_refused(tmp_path, "--resume")
    with claimed(tmp_path, recipe_hash="a", resume=True):
        pass


def test_a_folder_in_use_is_refused_until_its_process_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for resume in (False, True):
            assert_refused(tmp_path, f"in use by process {holder.pid} ", "out=", resume=resume)
        holder.kill()  # nothing is cleaned up
        holder.wait()
    deadline = time.monotonic() + 10
    with claimed(tmp_path, recipe_hash="a", resume=False):
        assert time.monotonic() < deadline
        assert f'"pid": {os.getpid()}' in (tmp_path / ".owner.json").read_text()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write into read-only folders")
    assert_refused(folder, "cannot be written (Permission denied)", "out=")
    assert_refused(folder / "below", "cannot be written (Permission denied)", "out=")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert_refused(tmp_path / "taken", "cannot be written", "out=")


@pytest.mark.parametrize("content", ["", '{"recipe_hash": ', "[]", "7"])
def test_a_damaged_run_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN).write_text(content)
    assert_refused(tmp_path, "run.json is damaged", resume=True)
