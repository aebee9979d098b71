"""Shells complete commands, options and names of recipes; bash itself is asked, of the others what they would be told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = f"#!{sys.executable}\nfrom dat.cli import main\nmain()\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `dat` is the program of this checkout, and a home that may be written into."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dat").write_text(PROGRAM)
    (tmp_path / "bin/dat").chmod(0o755)
    (tmp_path / "mine.yaml").touch()
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


def said(command: list[str], environment: dict[str, str], **more: str) -> str:
    """What it prints, from the folder that is its home."""
    called = {"cwd": environment["HOME"], "env": {**environment, **more}, "capture_output": True, "text": True}
    return subprocess.run(command, check=True, timeout=120, **called).stdout


def completed(words: str, environment: dict[str, str]) -> list[str]:
    """What bash offers for the last of these words."""
    program = (
        "source <(dat --show-completion)\n"
        "function=$(complete -p dat | sed 's/.* -F \\([^ ]*\\) .*/\\1/')\n"
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); $function dat\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    bash = shutil.which("bash")
    assert bash is not None
    return said([bash, "--norc", "-c", program], environment).split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("dat rep", ["report", "reproduce"]),
        ("dat discretizer c", ["check", "convert"]),
        ("dat train --r", ["--resume"]),
        ("dat train imagenette/", ["imagenette/base", "imagenette/finetune"]),
        ("dat recipes check demo imagenette/b", ["imagenette/base"]),
        ("dat train mine", []),  # so that bash offers files
    ],
)
def test_bash_completes(words: str, offered: list[str], environment: dict[str, str]):
    assert completed(words, environment) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_falls_back_to_files(environment: dict[str, str]):
    said_of_it = said(["bash", "--norc", "-c", "source <(dat --show-completion); complete -p dat"], environment)
    assert said_of_it == "complete -o default -F _dat_completion dat\n"


@pytest.mark.parametrize(("shell", "hook"), [("zsh", "compdef _dat_completion dat"), ("fish", "complete --command dat")])
def test_other_shells_are_given_a_script_that_asks_for_the_same(shell: str, hook: str, environment: dict[str, str]):
    script = said(["dat"], environment, _DAT_COMPLETE=f"source_{shell}")
    assert hook in script
    assert f"_DAT_COMPLETE=complete_{shell}" in script
    asked = {"_DAT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "dat train imagenette/f"}
    fish_asks = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert "imagenette/finetune" in said(["dat"], environment, **asked, **fish_asks)
