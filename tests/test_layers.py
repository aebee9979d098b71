"""Imports go down: the rooms of the house and their floors, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dat"

LAYERS = [
    {"errors", "version", "progress", "installed"},
    {"types", "results", "boxes"},
    {"nn"},
    {"discretizers"},
    {"attacks", "augment", "tasks", "data"},
    {"methods"},
    {"evaluation", "analysis", "engine"},
    {"report"},
    {"recipe"},
    {"studies"},
    {"commands"},
    {"cli"},
    {"__main__"},
    {"__init__"},
]
"""The rooms, from the ground up."""

INSIDE = {
    "attacks": [{"gradient"}, {"discrete", "codes", "pixels", "pyramid"}],
    "data": [
        {"images", "contents"},
        {"folders", "annotated"},
        {"corruptions", "coco", "yolo"},
        {"embedded", "subset", "concatenated", "annotations"},
        {"testsets", "pipeline"},
        {"readable", "boxed", "views"},
        {"annotation_check"},
    ],
    "discretizers": [{"autoencoder", "configuration", "codes"}, {"quantizers"}, {"networks"}, {"layouts"}, {"pretrained"}],
    "recipe": [
        {"strict", "faults", "file"},
        {"data", "perceptual", "methods", "training"},
        {"boxes", "unlabelled"},
        {"parts"},
        {"header", "model", "pretraining"},
        {"inputs", "begun"},
        {"rehearsal"},
        {"discretizer", "distillation"},
        {"contest"},
        {"classification", "detection", "selfsupervised"},
        {"read"},
    ],
    "studies": [
        {"study"},
        {"words"},
        {"measured", "discretizer"},
        {"boxed_pictures", "contest", "judged"},
        {"classification", "detection", "distillation", "selfsupervised"},
        {"table"},
    ],
    "commands": [{"subject"}, {"evaluation_plan"}, {"evaluate"}],
}
"""Floors of a room, where an order matters; files that are not named stand where they like."""

MODULES = sorted(PACKAGE.rglob("*.py"))
MODULES_AT_LEAST = 150
LINES = 46
"""No function is longer; nine of ten are within `USUAL`."""
USUAL = 14


def part_of(path: Path) -> str:
    """The file or the folder of `dat/` that a module belongs to: the unit of a layer."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def layer_of(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def inside_name(path: Path) -> str:
    """The file or the folder within its room that a module belongs to."""
    return Path(*path.relative_to(PACKAGE).parts[1:2]).stem


def floor_of(part: str, name: str) -> int | None:
    return next((number for number, names in enumerate(INSIDE.get(part, ())) if name in names), None)


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
        other, *rest = name.split(".")[1:]
        if other != part and layer_of(other) >= layer_of(part):
            found.append(f"{path.name} imports {name}, which is not below {part}")
        if other == part and rest:
            mine, theirs = floor_of(part, inside_name(path)), floor_of(part, rest[0])
            if mine is not None and theirs is not None and rest[0] != inside_name(path) and theirs >= mine:
                found.append(f"{path.name} imports {name}, which is no floor below {part}.{inside_name(path)}")
    return found


def test_every_module_is_found_and_has_one_layer() -> None:
    assert len(MODULES) >= MODULES_AT_LEAST
    known = [part for parts in LAYERS for part in parts]
    assert len(known) == len(set(known))
    assert {part_of(path) for path in MODULES} <= set(known)
    assert set(known) == {part_of(path) for path in MODULES}, "a layer of something that is not there"
    named = {(room, name) for room, floors in INSIDE.items() for names in floors for name in names}
    assert named <= {(part_of(path), inside_name(path)) for path in MODULES if path.name != "__init__.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    assert faults(path.read_text(), path) == []


def test_no_circle_of_files() -> None:
    """Each file can be read after those that it imports, in functions, too."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found = imported_names(ast.parse(path.read_text()))
        graph[name] = {other for other in found if other in names}
    assert sum(map(len, graph.values())) > 500
    list(TopologicalSorter(graph).static_order())


def imported_names(tree: ast.Module) -> Iterator[str]:
    """What a module imports, each as the dotted name of a file if it may be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("source", "file", "fault"),
    [
        ("import dat", "cli.py", "the package itself"),
        ("import dat as d", "commands/train.py", "the package itself"),
        ("from dat import discrete_adversary", "commands/train.py", "the package itself"),
        ("def f():\n    import dat.recipe", "attacks/pixels.py", "not below attacks"),
        ("from dat import recipe", "methods/dat.py", "not below methods"),
        ("from dat.engine.loop import train", "evaluation/predict.py", "not below evaluation"),
        ("from dat.tasks import classification", "data/folders.py", "not below data"),
        ("if TYPE_CHECKING:\n    from dat.attacks.pixels import pgd", "types.py", "not below types"),
        ("from dat.recipe.classification import Comparison", "analysis/codes.py", "not below analysis"),
        ("from dat.attacks.pixels import pgd", "attacks/gradient.py", "no floor below attacks.gradient"),
        ("from dat.discretizers.networks import vqgan", "discretizers/quantizers/nearest.py", "no floor below"),
        ("from dat.studies.table import STUDIES", "studies/classification.py", "no floor below studies.classification"),
    ],
)
def test_an_import_upwards_is_seen(source: str, file: str, fault: str) -> None:
    assert [fault in line for line in faults(source, PACKAGE / file)] == [True]


def test_an_import_downwards_is_allowed() -> None:
    source = "from dat.attacks import pixels\nfrom dat.types import Batch\nfrom dat.methods.at import AT\nimport dataclasses"
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
    assert len(functions) > 1500
    assert sum(code_lines(node) <= USUAL for _, node in functions) >= 0.9 * len(functions)
    assert [f"{path.name}: {node.name} has {n} lines" for path, node in functions if (n := code_lines(node)) > LINES] == []
