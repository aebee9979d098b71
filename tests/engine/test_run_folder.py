"""A run folder belongs to one process; whoever comes second is told so in one sentence."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dat.engine.run_folder import RUN, claimed, read_run
from dat.errors import RunFolderError

HOLDER = """
import sys, time
from pathlib import Path
from dat.engine.run_folder import claimed
with claimed(Path(sys.argv[1]), resume=False):
    print("held", flush=True)
    time.sleep(60)
"""


def run_once(folder: Path) -> None:
    with claimed(folder, resume=False):
        (folder / RUN).write_text('{"recipe_hash": "a"}')


def assert_refused(folder: Path, *said: str, resume: bool = False) -> None:
    with pytest.raises(RunFolderError) as error, claimed(folder, resume=resume):
        raise AssertionError("the folder was given away")
    for part in (str(folder), *said):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_a_new_folder_is_made_and_a_second_run_in_it_is_refused(tmp_path: Path) -> None:
    run_once(tmp_path / "runs" / "first")
    assert_refused(tmp_path / "runs" / "first", "already holds a run", "--resume", "out=")


def test_resuming_nothing_begins(tmp_path: Path) -> None:
    with claimed(tmp_path, resume=True):
        pass


def test_a_folder_that_failed_is_given_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path, resume=False):
        raise ZeroDivisionError
    run_once(tmp_path)


def test_a_refused_second_run_does_not_hold_the_folder(tmp_path: Path) -> None:
    run_once(tmp_path)
    assert_refused(tmp_path, "--resume")
    with claimed(tmp_path, resume=True):
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
    with claimed(tmp_path, resume=False):
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
    with pytest.raises(RunFolderError, match=r"run\.json is damaged .*\.$"):
        read_run(tmp_path)
