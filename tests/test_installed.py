"""What counts as an installed package."""

import sys
from pathlib import Path

import pytest

from dat.installed import is_installed


def test_a_folder_of_a_packages_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb_of_nobody" / "run-1").mkdir(parents=True)
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert not is_installed("wandb_of_nobody")
    assert not is_installed("not_there_at_all")
    assert is_installed("package_of_mine")
    assert is_installed("torch")
