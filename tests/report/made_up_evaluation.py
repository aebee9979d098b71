"""Evaluation folders whose numbers are invented here: they show the shape of a page, and measure nothing."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dat.data.corruptions.table import CORRUPTIONS
from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.testsets.class_maps import NOTHING
from dat.evaluation import store
from dat.evaluation.cells import Cell, Predictions, View, all_classes
from dat.evaluation.robustness import Rows, robustness_rows
from dat.evaluation.suites import SEVERITIES, Clean
from dat.results import write_rows

CLASSES = 6
SUITES = ("clean", "fgsm", "damagenet", "a", "v2/matched-frequency", "v2/top-images", "r", "sketch", "stylized")
HARDNESS: dict[str, float] = dict(zip(SUITES, (0.1, 0.85, 0.7, 0.9, 0.25, 0.2, 0.6, 0.7, 0.9), strict=True))


@dataclass(frozen=True)
class Skill:
    """How good an invented model is, and on which suites its protocol has other entries."""

    seed: int
    skill: float
    protocol: tuple[tuple[str, str, object], ...] = ()


def dataset(count: int) -> ImageDataset:
    targets = np.arange(count) % CLASSES
    return ImageDataset(ArraySource(np.zeros((count, 3, 1, 1), np.uint8), targets, tuple("abcdef")), CenterCrop(None), seed=0)


def masked(metric: str) -> View:
    """Half of the classes."""
    groups = np.array([0, NOTHING, 2, NOTHING, 4, NOTHING])
    return View(metric, groups, groups)


def cells(pictures: ImageDataset, suites: Sequence[str], *, corruptions: Sequence[str]) -> list[Cell]:
    """Of the suites that are named, and of corruptions."""
    shown: dict[str, object] = {"data": "0123456789ab", "resize": 256, "height": 224, "interpolation": "bicubic"}
    made = {"fgsm": {"epsilon_255": 1.0, "steps": 1}, "a": {}, "r": {}}
    plain, names = all_classes(CLASSES), [f"c/{name}/{severity}" for name in corruptions for severity in SEVERITIES]
    views = {
        "clean": (plain, masked("accuracy_a_classes")),
        "a": (masked("accuracy"), replace(plain, metric="accuracy_unmasked")),
    }
    whole = [Cell(name, pictures, Clean(), views.get(name, (plain,)), shown | made.get(name, {})) for name in suites]
    return whole + [Cell(name, pictures, Clean(), (plain,), shown | {"generated": True}) for name in names]


def predictions(cell: Cell, skill: Skill) -> Predictions:
    """Right where the picture's own hardness is below the model's skill; hardness is the same for all models."""
    targets, parts = cell.dataset.source.targets, cell.name.split("/")
    hardness = HARDNESS.get(cell.name, 0.13 * int(parts[-1]) + 0.015 * CORRUPTIONS.index(parts[1]) if parts[0] == "c" else 0.5)
    own = np.random.default_rng(list(cell.name.encode())).random(len(targets))
    noise = np.random.default_rng([skill.seed, *cell.name.encode()]).normal(0, 0.1, len(targets))
    right = own + noise < skill.skill - hardness
    return Predictions(targets, {view.metric: np.where(right, targets, (targets + 2) % CLASSES) for view in cell.views})


def write_evaluation(
    folder: Path,
    name: str,
    skill: Skill,
    *,
    count: int = 60,
    suites: Sequence[str] = SUITES,
    corruptions: Sequence[str] = CORRUPTIONS,
    change: Callable[[Cell], Cell] = lambda cell: cell,
) -> Rows:
    """A folder of `dat eval`; `change` makes one evaluation unlike another."""
    found = [change(cell) for cell in cells(dataset(count), suites, corruptions=corruptions)]
    said = {cell.name: predictions(cell, skill) for cell in found}
    facts = {"model": name, "checkpoint": "0a1b2c" * 10, "seed": None, "recipe_hash": "", "versions": {"torch": "2.15.0"}}
    rows = robustness_rows(found, said, imagenet=True, **facts)  # pyright: ignore[reportArgumentType]  # one dict of all types
    for cell in found:
        store.write_predictions(folder, cell, said[cell.name], "identity")
    write_rows(folder / "results.jsonl", rows.rows)
    known = {"kind": "evaluation", "name": name, "notes": rows.notes, "machine": "2 cores", "seconds": 12.5}
    (folder / "evaluation.json").write_text(json.dumps(known))
    return rows
