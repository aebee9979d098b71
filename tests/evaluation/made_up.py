"""Cells without pictures worth seeing, and predictions of which we say ourselves how many are right."""

from collections.abc import Iterable

import numpy as np

from dat.data.corruptions.table import CORRUPTIONS
from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.testsets.class_maps import NOTHING
from dat.evaluation.cells import Cell, Labels, Predictions, View, all_classes
from dat.evaluation.suites import SEVERITIES, Clean

CLASSES = 4
NAMES = [f"c/{corruption}/{severity}" for corruption in CORRUPTIONS for severity in SEVERITIES]


def dataset(count: int, *, kind: str = "png", prefix: str = "") -> ImageDataset:
    """`count` black pictures; the classes take turns."""
    names = [f"{prefix}{index}.{kind}" for index in range(count)]
    targets = np.arange(count) % CLASSES
    return ImageDataset(
        ArraySource(np.zeros((count, 3, 1, 1), np.uint8), targets, tuple("abcd"), names), CenterCrop(None), seed=0
    )


def cell(name: str, pictures: ImageDataset, *views: View, **protocol: object) -> Cell:
    return Cell(name, pictures, Clean(), views or (all_classes(CLASSES),), {"resize": 256, **protocol})


def answered(pictures: ImageDataset, right: Iterable[bool] | np.ndarray, metric: str = "accuracy") -> Predictions:
    """The target where it is right, the class after it elsewhere."""
    targets: Labels = pictures.source.targets
    said = np.where(np.fromiter(right, bool), targets, (targets + 1) % CLASSES)
    return Predictions(targets, {metric: said})


def masked(metric: str, shown: Iterable[int]) -> View:
    """Only these outputs are looked at, and only pictures of their classes count."""
    groups = np.full(CLASSES, NOTHING)
    groups[list(shown)] = list(shown)
    return View(metric, groups, groups)
