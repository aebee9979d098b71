"""What each model of a run answered: one file per model, from which its accuracies and mistakes can be counted again.

An array of a suite's name says which pictures were answered rightly (all that older versions kept). Of pictures that were shown
as they are there is also what was said, `said.<suite>`, with the class of each picture, `targets.<suite>`, and how probable the
model said it is, `sure.<suite>`; `classes` are their names. Suites on further test sets say these (`clean@art`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dat.errors import DataError
from dat.evaluation.mistakes import OTHER, Answered, Flags
from dat.results import write_arrays

RIGHT = "right"
"""Folder of these files in that of the run."""
SAID, TARGETS, SURE, CLASSES = "said.", "targets.", "sure.", "classes"
"""What the names of arrays begin with, and the name of one."""

Model = tuple[str, int | None]
"""Method and seed."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of a model, by suite: whether it was right, picture by picture, and where it is known what it said.

    Suites may be of different numbers of pictures.
    """

    right: dict[str, np.ndarray] = field(default_factory=dict)
    said: dict[str, Answered] = field(default_factory=dict)


def path_of(run: Path, label: str, seed: int | None) -> Path:
    """Where the answers of a model lie."""
    return run / RIGHT / f"{label}-seed{seed}.npz"


def write_kept(path: Path, kept: Kept) -> None:
    """Write what a model answered, of one list of classes, at once; the same answers give the same bytes."""
    arrays: dict[str, np.ndarray] = dict(kept.right)
    for suite, answered in kept.said.items():
        arrays |= {CLASSES: np.array(answered.classes), TARGETS + suite: answered.targets.astype(np.int32)}
        arrays[SAID + suite] = answered.said.astype(np.int32)
        if answered.sure is not None:
            arrays[SURE + suite] = answered.sure.astype(np.float32)
    write_arrays(path, **arrays)


def read_kept(path: Path) -> Kept:
    """What a model answered; nothing where no answers were kept.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return Kept()
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        return _kept(arrays)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path.parent.name}/{path.name} is damaged ({error}).") from error


def read_all(run: Path, models: Iterable[Model]) -> dict[Model, Kept]:
    """Of models by method and seed, as `read_kept`; those of which no answers were kept are not among them.

    Raises:
        DataError: as `read_kept`.
    """
    found = {model: read_kept(path_of(run, *model)) for model in dict.fromkeys(models)}
    return {model: kept for model, kept in found.items() if kept.right}


def _kept(arrays: Mapping[str, np.ndarray]) -> Kept:
    """Raises: ValueError, KeyError: arrays of something else, or that do not belong together."""
    right = {name: array for name, array in arrays.items() if array.dtype == np.bool_ and array.ndim == 1}
    said = {suite: _answered(arrays, suite, correct) for suite, correct in right.items() if SAID + suite in arrays}
    known = {CLASSES, *right, *(part + suite for suite in said for part in (SAID, TARGETS, SURE))}
    if others := sorted(set(arrays) - known):
        raise ValueError(f"it holds other arrays, as {others[0]}")
    return Kept(right, said)


def _answered(arrays: Mapping[str, np.ndarray], suite: str, correct: Flags) -> Answered:
    """Raises: ValueError, KeyError: arrays that do not belong together."""
    classes = tuple(str(name) for name in arrays[CLASSES])
    targets, said = (arrays[part + suite].astype(np.int64) for part in (TARGETS, SAID))
    sure = arrays[SURE + suite].astype(np.float64) if SURE + suite in arrays else None
    shapes = {array.shape for array in (correct, targets, said, *([] if sure is None else [sure]))}
    inside = bool(targets.size) and targets.min() >= 0 and said.min() >= OTHER and max(targets.max(), said.max()) < len(classes)
    if len(shapes) > 1 or not inside or not np.array_equal(said == targets, correct):
        raise ValueError(f"what was said on {suite} does not belong to its pictures and classes")
    if sure is not None and not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError(f"probabilities on {suite} are not in [0, 1]")
    return Answered(classes, targets, said, sure)
