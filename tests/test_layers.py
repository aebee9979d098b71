"""Imports go down: the layer table of the design, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dat"

LAYERS = [
    {"errors", "version", "progress", "recipe_faults", "strict", "allocator"},
    {"types", "results", "recipe_file"},
    {"nn"},
    {"discretizers"},
    {"attacks", "augment"},
    {"tasks", "data", "code_attack"},
    {"methods"},
    {"engine", "evaluation", "analysis"},
    {"report"},
    {"recipe_data"},
    {"recipe"},
    {"measure", "tested"},
    {"assess", "copies", "run", "doctor", "discretize", "rehearse"},
    {"cli"},
    {"__main__"},
    {"__init__"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))
MODULES_AT_LEAST = 60
LINES = 60


def part_of(path: Path) -> str:
    """The file or the folder of `dat/` that a module belongs to: the unit of a layer."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def layer_of(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def imported_modules(tree: ast.Module, path: Path) -> Iterator[str]:
    """Dotted names of what a module imports from the package; `dat` alone where it imports the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "dat")
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}:{node.lineno}: a relative import; write it in full")
        elif isinstance(node, ast.ImportFrom) and node.module == "dat":
            yield from (f"dat.{alias.name}" if is_module(alias.name) else "dat" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dat."):
            yield node.module


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").is_file() or (PACKAGE / name / "__init__.py").is_file()


def faults(source: str, path: Path) -> list[str]:
    """Imports of `path` that do not go down."""
    part, found = part_of(path), []
    for name in imported_modules(ast.parse(source), path):
        if name == "dat":
            found.append(f"{path.name} imports the package itself")
            continue
        other = name.split(".")[1]
        if other != part and layer_of(other) >= layer_of(part):
            found.append(f"{path.name} imports {name}, which is not below {part}")
    return found


def test_every_module_is_found_and_has_one_layer() -> None:
    assert len(MODULES) >= MODULES_AT_LEAST
    known = [part for parts in LAYERS for part in parts]
    assert len(known) == len(set(known))
    assert {part_of(path) for path in MODULES} <= set(known)
    assert set(known) - {part_of(path) for path in MODULES} <= {"augment"}, "a layer of something that is not there"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    assert faults(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("source", "file", "fault"),
    [
        ("import dat", "cli.py", "the package itself"),
        ("import dat as d", "run.py", "the package itself"),
        ("from dat import discrete_adversary", "run.py", "the package itself"),
        ("def f():\n    import dat.recipe", "attacks.py", "not below attacks"),
        ("from dat import recipe", "methods/dat.py", "not below methods"),
        ("from dat.engine.loop import train", "evaluation/predict.py", "not below evaluation"),
        ("from dat.tasks import classification", "data/folders.py", "not below data"),
        ("if TYPE_CHECKING:\n    from dat.attacks import pgd", "types.py", "not below types"),
    ],
)
def test_an_import_upwards_is_seen(source: str, file: str, fault: str) -> None:
    assert [fault in line for line in faults(source, PACKAGE / file)] == [True]


def test_an_import_downwards_is_allowed() -> None:
    source = "from dat import attacks\nfrom dat.types import Batch\nfrom dat.methods.at import AT\nimport dataclasses"
    assert faults(source, PACKAGE / "methods" / "dat.py") == []


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        total -= (first.end_lineno or first.lineno) - first.lineno + 1
    return total


def test_no_function_is_long() -> None:
    nodes = [(path, node) for path in MODULES for node in ast.walk(ast.parse(path.read_text()))]
    functions = [(path, node) for path, node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(functions) > 300
    assert [f"{path.name}: {node.name} has {n} lines" for path, node in functions if (n := code_lines(node)) > LINES] == []
