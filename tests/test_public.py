"""The public names: each resolves, is listed once, and costs nothing until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dat

SOURCE = Path(dat.__file__)
LOOPS = SOURCE.parents[1] / "docs" / "your-own-loop.md"


def imported_for_checkers() -> dict[str, str]:
    """Names and their modules in the `if TYPE_CHECKING` block."""
    (block,) = (
        node
        for node in ast.parse(SOURCE.read_text()).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    names: dict[str, str] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            assert alias.asname == alias.name, f"{alias.name} is not marked as re-exported"
            names[alias.name] = str(statement.module).removeprefix("dat.")
    return names


def test_checkers_and_the_table_of_names_agree():
    assert imported_for_checkers() == dat._HOME
    assert len(dat._HOME) >= 23


@pytest.mark.parametrize("name", sorted(dat._HOME))
def test_a_public_name_is_the_one_of_its_home(name: str):
    assert getattr(dat, name) is getattr(import_module(f"dat.{dat._HOME[name]}"), name)


def test_dir_lists_the_public_names():
    assert set(dir(dat)) == {"__version__", *dat._HOME}


def test_an_unknown_name_says_which_there_are():
    with pytest.raises(AttributeError, match=r"dat has no public name 'discreet'; it has .*discrete_adversary"):
        _ = dat.discreet  # pyright: ignore[reportAttributeAccessIssue]  # that it is missing is the point


def test_importing_the_package_does_not_wait_for_torch():
    program = "import sys, dat; dat.__version__; print('torch' in sys.modules, 'dat.attacks' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_method_is_public():
    assert {method.__name__ for method in dat.METHODS.values()} <= set(dat._HOME)


def test_the_page_of_loops_shows_the_main_names():
    text = LOOPS.read_text()
    for name in [
        "load_discretizer", "discrete_adversary", "Normalized", "fgsm", "pgd", "random_start", "input_gradient",
        "modified_code_rate", "corrupt", "CORRUPTIONS", "METHODS", *(method.__name__ for method in dat.METHODS.values()),
    ]:  # fmt: skip
        assert name in dat._HOME
        assert name in text
