"""`dat --version` says what is installed, as `importlib.metadata` and torch itself have it, and imports none of it."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dat.commands import versions
from dat.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_program_says_its_version_and_those_of_what_matters():
    program = (
        "import sys; from dat.cli import main\n"
        "sys.argv = ['dat', '--version']\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'numpy', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    first, python, torch_line, *others, end = done.stdout.splitlines()
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    assert (first, python) == (f"dat {__version__}", f"Python {platform.python_version()}")
    assert torch_line == f"torch {version('torch')} ({build})"
    assert others == [f"{name} {version(name)}" for name in ("torchvision", "timm", "accelerate", "numpy")]
    assert end == "0 []"


@pytest.mark.parametrize(
    ("facts", "build"),
    [
        ("cuda = None\nhip = None\n", "CPU"),
        ("cuda = '12.4'\nhip = None\n", "CUDA 12.4"),
        ("cuda = None\nhip = '6.2'\n", "ROCm 6.2"),
        ("cuda = None\nxpu = '20250000'\n", "XPU 20250000"),
    ],
)
def test_the_build_of_torch_is_read_from_its_file(
    facts: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text(facts)
    monkeypatch.setattr(versions, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert f"({build})" in versions.as_text()


def test_a_package_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> str:
        if name in {"torch", "timm"}:
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(versions, "version", without)
    lines = versions.as_text().splitlines()
    assert {"torch missing", "timm missing", f"numpy {version('numpy')}"} <= set(lines)
