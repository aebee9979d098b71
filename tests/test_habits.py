"""What maintainers do: the checks before a commit, the notes of a release, the promises of SECURITY.md and who holds them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "docs/site/release_notes.py"
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- Three.

## [0.2.0] - 2026-02-01

- Two, see [a page](docs/a.md).

## [0.1.0] - 2026-01-01

- One.
"""


# ---- which tests are long


def test_each_long_test_is_there() -> None:
    tests, listed = ROOT / "tests", (ROOT / "tests/long.txt").read_text().splitlines()
    names = [line.split("::") for line in listed if not line.startswith("#")]
    assert names == sorted(names)
    trees = {file: ast.parse((tests / file).read_text()) for file in dict(names)}
    for file, name in names:
        functions = {node.name for node in trees[file].body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}; take it out of tests/long.txt"


@pytest.mark.parametrize(
    ("name", "fixtures", "is_long"),
    [
        ("test_ten_steps_give_the_same_weights", (), True),
        ("test_ten_steps", (), False),
        ("test_a_number_is_read", ("tmp_path", "runs"), True),  # the fixture takes long
        ("test_a_number_is_read", ("tmp_path",), False),
    ],
)
def test_what_is_named_is_long(request: pytest.FixtureRequest, name: str, fixtures: tuple[str, ...], is_long: bool) -> None:
    marks: list[pytest.MarkDecorator] = []
    path = ROOT / "tests/engine/test_processes.py"
    item = SimpleNamespace(path=path, originalname=name, name=f"{name}[1]", fixturenames=fixtures, add_marker=marks.append)
    conftest: Any = request.config.pluginmanager.get_plugin(str(ROOT / "tests/conftest.py"))
    conftest.pytest_collection_modifyitems([item])
    assert [mark.name for mark in marks] == ["long"] * is_long


# ---- before a commit


def checked_by_make() -> list[str]:
    """The commands of `make check`."""
    _, after = (ROOT / "Makefile").read_text().split("\ncheck:")
    lines = after.splitlines()[1:]
    commands = lines[: next(number for number, line in enumerate(lines) if not line.startswith("\t"))]
    return [command.strip().replace("$(BIN)", ".venv/bin") for command in commands]


def test_a_commit_and_a_push_are_checked_as_make_checks() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = configuration["repos"]
    hooks = repository["hooks"]
    later = [hook["id"] for hook in hooks if "stages" in hook]
    assert (configuration["default_stages"], later) == (["pre-commit"], ["types"])
    assert configuration["default_install_hook_types"] == ["pre-commit", *hooks[2]["stages"]] == ["pre-commit", "pre-push"]
    assert repository["repo"] == "local"  # no tool of another version
    assert [hook["entry"] for hook in hooks] == checked_by_make()
    assert len(hooks) == 4
    assert all((hook["language"], hook["pass_filenames"]) == ("system", False) for hook in hooks)
    assert len({hook["id"] for hook in hooks}) == len(hooks)


# ---- the notes of a release


def told(version: str, changelog: Path) -> subprocess.CompletedProcess[str]:
    program = f"import runpy, sys\nsys.argv = ['notes', {version!r}]\n"
    program += f"import pathlib; module = runpy.run_path({str(NOTES)!r})\n"
    program += f"module['main'].__globals__['CHANGELOG'] = pathlib.Path({str(changelog)!r})\nmodule['main']()"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("version", "notes"),
    [("Unreleased", "### Added\n\n- Three.\n"), ("0.2.0", "- Two, see [a page](docs/a.md).\n"), ("0.1.0", "- One.\n")],
)
def test_the_notes_of_a_version_are_its_part_of_the_changelog(version: str, notes: str, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    assert told(version, tmp_path / "CHANGELOG.md").stdout == notes


def test_a_version_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    done = told("0.3.0", tmp_path / "CHANGELOG.md")
    said = "CHANGELOG.md has no version '0.3.0'; write one of Unreleased, 0.2.0, 0.1.0.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_our_changelog_has_notes() -> None:
    done = subprocess.run([sys.executable, str(NOTES), "Unreleased"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("The first version")
    assert done.stdout.strip() in (ROOT / "CHANGELOG.md").read_text()


# ---- promises


def promised() -> list[tuple[str, str]]:
    """Files and names of the tests in the last column of the table of SECURITY.md."""
    found = []
    for line in (ROOT / "SECURITY.md").read_text().splitlines():
        file = ""
        for name in re.findall(r"`([^`]+)`", line.rpartition(" | ")[2]) if line.startswith("| **") else ():
            file = name if name.startswith("tests/") else file
            found += [(file, name)] if name != file else []
    return found


def test_every_promise_is_held_by_a_test_that_is_there() -> None:
    rows = [line for line in (ROOT / "SECURITY.md").read_text().splitlines() if line.startswith("| **")]
    assert len(rows) == 8
    assert all("`test_" in line.rpartition(" | ")[2] for line in rows)
    assert len(promised()) >= 20
    for file, name in promised():
        defined = [node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)]
        assert name in defined, f"{file} has no {name}"
