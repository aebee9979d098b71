"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the repository by somebody who reads nothing else."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("dat", "tests", "recipes", "weights", "pyproject.toml", "README.md", "LICENSE")
SAID = {
    "A method": [" passed", "noisy "],
    "A task": ["1 passed"],
    "A discretizer": ["1 passed"],
    "A suite": ["Standard", "grey"],
}
"""Each recipe, and what its commands print."""
STEP = re.compile(r"^`([\w/]+\.py)`|^```(python|diff|sh)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
PROGRAMS = {"pytest": ["-m", "pytest", "-p", "no:cacheprovider"], "dat": ["-m", "dat"]}
LONGEST = 75
"""Lines of all blocks of a recipe."""


def recipes() -> dict[str, str]:
    """The text below each heading of the part."""
    part = (ROOT / "CONTRIBUTING.md").read_text().split("\n## Four recipes\n")[1].split("\n## ")[0]
    _, *found = re.split(r"^### (.+)\n", part, flags=re.MULTILINE)
    return dict(zip(found[::2], found[1::2], strict=True))


def steps(recipe: str) -> Iterator[tuple[str, str, str]]:
    """Kind, file and text of each block; a file is named once for the blocks that follow."""
    file = ""
    for name, kind, text in STEP.findall(recipe):
        file = name or file
        if kind:
            yield kind, file, text


def edited(old: str, hunk: str) -> str:
    """A file after a hunk, whose lines without `+` stand in it, whole or in their beginning, and only once."""
    marked = [(line[:1], line[1:]) for line in hunk.splitlines()]
    before, after = ("\n".join(text for mark, text in marked if mark != other) for other in "+-")
    assert old.count(f"\n{before}") == 1, f"these lines are there {old.count(before)} times, not once:\n{before}"
    return old.replace(f"\n{before}", f"\n{after}")


def carried_out(line: str, folder: Path) -> str:
    """What a command prints in the copy."""
    program, *arguments = shlex.split(line)
    command = [sys.executable, *PROGRAMS[program], *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "200",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def follow(recipe: str, folder: Path) -> str:
    """Write, change and run what it says; returns what its commands printed."""
    printed = ""
    for kind, file, text in steps(recipe):
        if kind == "python":
            assert not (folder / file).exists(), f"{file} is there already"
            (folder / file).write_text(text)
        elif kind == "diff":
            (folder / file).write_text(edited((folder / file).read_text(), text))
        else:
            printed += "".join(carried_out(line, folder) for line in text.replace("\\\n", " ").splitlines())
    return printed


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository, as far as a newcomer changes it."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_these_are_the_recipes_and_they_are_short() -> None:
    assert set(recipes()) == set(SAID)
    for text in recipes().values():
        assert [kind for kind, _, _ in steps(text)][-1] == "sh"
        assert sum(len(code.splitlines()) for _, _, code in steps(text)) <= LONGEST


@pytest.mark.parametrize("name", SAID)
def test_a_newcomer_who_follows_it_is_done(name: str, copy: Path) -> None:
    printed = follow(recipes()[name], copy)
    for words in SAID[name]:
        assert words in printed


@pytest.mark.parametrize("name", SAID)
def test_its_files_pass_the_linter(name: str, copy: Path) -> None:
    pytest.importorskip("ruff", reason="the linter comes with the extra dev")
    written = [file for kind, file, text in steps(recipes()[name]) if kind == "python"]
    for kind, file, text in steps(recipes()[name]):
        if kind == "python":
            (copy / file).write_text(text)
    for check in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        command = [sys.executable, "-m", "ruff", *check, *written]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (('     "standard": Standard,', '     "standart": Standard,'), "0 times, not once"),
        (("dat/methods/noisy.py", "dat/methods/at.py"), "is there already"),
    ],
)
def test_a_wrong_line_is_noticed(wrong: tuple[str, str], fault: str, copy: Path) -> None:
    text = recipes()["A method"]
    assert wrong[0] in text
    with pytest.raises(AssertionError, match=fault):
        follow(text.replace(*wrong), copy)
