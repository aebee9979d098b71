"""What is sent to others: the wheel is small, typed and whole; the sdist holds all that the repository does."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST = 40 * 10**6
"""Bytes of a wheel."""


def travelling() -> dict[str, Path]:
    """The files of the wheel by their places in it, as pyproject.toml says: the package, recipes and weights."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    homes = dict.fromkeys(wheel["packages"], "") | wheel["force-include"]
    files = {home or source: ROOT / source for source, home in homes.items()}
    return {
        f"{home}/{path.relative_to(folder).as_posix()}": path
        for home, folder in files.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_package_is_typed_and_small_before_it_is_packed() -> None:
    files = travelling()
    assert {"dat/py.typed", "dat/recipes/demo.yaml", "dat/weights/cifar-f2-1024-fast.safetensors"} <= set(files)
    assert len(files) > 300
    assert sum(path.stat().st_size for path in files.values()) < MOST


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both; the wheel is made of the sdist."""
    pytest.importorskip("build", reason="what builds both is in the environment of the tests of a checkout")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < MOST
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set(travelling())


@pytest.mark.slow
def test_the_sdist_holds_what_the_repository_does(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("there is no repository to compare with")
    assert len(listed.stdout.split()) > 700
    assert set(listed.stdout.split()) <= names
    assert not [name for name in names if name.startswith(("runs/", ".venv", "build/", "dist/"))]
