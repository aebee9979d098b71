"""The rows of an evaluation, from what a model said of every picture.

Knows no model and no picture: the same predictions give the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from dat.data.corruptions.table import CORRUPTIONS, EXTRA_CORRUPTIONS
from dat.data.pipeline import ImageDataset
from dat.data.testsets.class_maps import NOTHING
from dat.errors import DataError
from dat.evaluation.cells import Cell, Correct, Labels, Predictions, View, answered, is_unchanged
from dat.evaluation.intervals import METHOD, PERCENT, TOO_FEW, PictureScores, picture_interval
from dat.evaluation.metrics import ALEXNET_CLEAN_ERROR, MakeRow, Shares, class_rows, mce, relative_mce
from dat.evaluation.suites import SEVERITIES, clean_beside
from dat.results import INTERVAL, UNBOUNDED, Row, wilson, without_set

IMAGENET_C = ("c", "c-generated")
"""Sets of corruptions whose mean is over the 15 of the benchmark, and that have an mCE."""
NAMED = 4
"""So many missing cells are named in a sentence."""

CellName = tuple[str, str, int]
"""Set, corruption and severity, as in `c/fog/3`."""


@dataclass(frozen=True)
class Rows:
    """Rows of an evaluation; `notes` are sentences that say which number is not among them, and why."""

    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True, eq=False)
class Answers:
    """Of the pictures of a cell that count, their positions and whether the model was right; `bad` could not be read."""

    correct: Correct
    positions: Labels
    bad: int
    protocol: Mapping[str, object]


def robustness_rows(
    cells: Sequence[Cell],
    predictions: Mapping[str, Predictions],
    *,
    model: str,
    checkpoint: str,
    seed: int | None,
    recipe_hash: str,
    versions: Mapping[str, str],
    imagenet: bool,
) -> Rows:
    """One row per cell and view, then those of every set of corruptions: mean accuracy, mCE and relative mCE.

    Whole sets that are shown as they are have two rows more, of the accuracy's mean over classes and of its calibration.
    `imagenet`: the model's outputs are ImageNet's 1000 classes in their usual order; only then there is an mCE, and only of
    all 15 corruptions in five severities. The extra corruptions count for none of the three. Their intervals are over
    pictures; where the cells hold different pictures, or too few, there is none, and the protocol says so.

    Raises:
        DataError: no picture of a cell counts.
    """
    facts = {"seed": seed, "method": model, "recipe_hash": recipe_hash, "versions": dict(versions), "checkpoint": checkpoint}
    make = partial(Row, **facts)
    rows = [cell_row(make, cell, view, predictions[cell.name]) for cell in cells for view in cell.views]
    notes: list[str] = []
    for cell in filter(is_unchanged, cells):
        rows += _beside_accuracy(make, cell, predictions[cell.name])
    for name in dict.fromkeys(key[0] for cell in cells if (key := corruption_cell(cell.name))):
        found = _rows_of_set(make, name, cells, predictions, imagenet=imagenet)
        rows += found.rows
        notes += found.notes
    return Rows(rows, notes)


def cell_row(make: MakeRow, cell: Cell, view: View, predictions: Predictions) -> Row:
    """Accuracy of a cell as a view counts it, with Wilson's interval."""
    answers = answers_of(cell.name, cell.protocol, view, predictions)
    right, n = int(answers.correct.sum()), len(answers.correct)
    return make(cell.name, view.metric, 100 * right / n, n, wilson(right, n), protocol=dict(answers.protocol))


def _beside_accuracy(make: MakeRow, cell: Cell, predictions: Predictions) -> list[Row]:
    """What else a cell of unchanged pictures tells; no calibration error where an older version kept what was said."""
    view = cell.views[0]
    protocol = answers_of(cell.name, cell.protocol, view, predictions).protocol
    return class_rows(make, cell.name, answered(view, predictions, cell.dataset.source.classes), protocol)


def answers_of(name: str, protocol: Mapping[str, object], view: View, predictions: Predictions) -> Answers:
    """What a model got right, as a view counts it; the protocol says how many outputs were looked at and what was bad.

    Raises:
        DataError: no picture counts.
    """
    outputs = predictions.outputs[view.metric]
    counted = np.flatnonzero(view.counted(predictions.targets, outputs))
    if not len(counted):
        raise DataError(f"No picture of {name} counts for {view.metric} ({predictions.bad} unreadable); check the folder.")
    shown, total = int((view.groups != NOTHING).sum()), len(view.groups)
    mask = {"mask": f"{shown} of {total} outputs"} if shown < total else {}
    bad = {"bad": predictions.bad} if predictions.bad else {}
    return Answers(view.correct(predictions.targets, outputs), counted, predictions.bad, {**protocol, **mask, **bad})


# Sets of corruptions.


def corruption_cell(name: str) -> CellName | None:
    """Set, corruption and severity of a cell; None for any other."""
    match name.split("/"):
        case [suite, corruption, severity] if severity.isdigit():
            return suite, corruption, int(severity)
    return None


def members_of(name: str, cells: Iterable[str]) -> dict[tuple[str, int], str]:
    """Of the named cells those that count for the mean of a set, by corruption and severity."""
    found = {key[1:]: cell for cell in cells if (key := corruption_cell(cell)) and key[0] == name}
    left_out = EXTRA_CORRUPTIONS if without_set(name)[0] in IMAGENET_C else ()
    return {key: cell for key, cell in found.items() if key[0] not in left_out}


@dataclass(frozen=True, eq=False)
class CorruptionSet:
    """Answers to the cells of one set that count for its mean, and to the clean pictures.

    `paired`: all cells show the same pictures; `paired_clean`: these are the clean ones too.
    """

    name: str
    cells: Mapping[tuple[str, int], Answers]
    clean: Answers | None
    paired: bool
    paired_clean: bool

    @property
    def missing(self) -> list[str]:
        """Cells of ImageNet-C that are not there."""
        wanted = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
        return [
            f"{self.name}/{corruption}/{severity}"
            for corruption, severity in wanted
            if (corruption, severity) not in self.cells
        ]


def _rows_of_set(
    make: MakeRow, name: str, cells: Sequence[Cell], predictions: Mapping[str, Predictions], *, imagenet: bool
) -> Rows:
    found = _corruption_set(name, cells, predictions)
    if not found.cells:
        return Rows([], [f"The mean of {name} is not given: only extra corruptions were evaluated, and they do not count."])
    rows = [_mean_row(make, found, "accuracy")]
    if name not in IMAGENET_C:
        return Rows(rows, [])
    if why := _why_no_mce(found, imagenet=imagenet):
        return Rows(rows, [why])
    rows.append(_mean_row(make, found, "mce"))
    if found.clean is None:
        return Rows(rows, ["Relative mCE is not given: it needs the clean pictures; add the suite clean."])
    return Rows([*rows, _mean_row(make, found, "relative_mce")], [])


def _corruption_set(name: str, cells: Sequence[Cell], predictions: Mapping[str, Predictions]) -> CorruptionSet:
    by_name = {cell.name: cell for cell in cells}
    members = {key: by_name[cell_name] for key, cell_name in members_of(name, by_name).items()}
    answers = {key: _accuracy_answers(cell, predictions) for key, cell in members.items()}
    clean_cell = by_name.get(clean_beside(name), by_name.get("clean"))
    clean = _accuracy_answers(clean_cell, predictions) if clean_cell else None
    listings: dict[int, str] = {}
    paired = _show_the_same(list(members.values()), list(answers.values()), listings)
    with_clean = ([clean_cell, *members.values()], [clean, *answers.values()]) if clean_cell and clean else None
    return CorruptionSet(name, answers, clean, paired, bool(with_clean) and paired and _show_the_same(*with_clean, listings))


def _accuracy_answers(cell: Cell, predictions: Mapping[str, Predictions]) -> Answers:
    view = next(view for view in cell.views if view.metric == "accuracy")
    return answers_of(cell.name, cell.protocol, view, predictions[cell.name])


def _show_the_same(cells: Sequence[Cell], answers: Sequence[Answers], listings: dict[int, str]) -> bool:
    """Whether the same pictures count in all cells, by their names and classes."""
    for cell in cells:
        if id(cell.dataset) not in listings:
            listings[id(cell.dataset)] = listing(cell.dataset)
    same_list = len({listings[id(cell.dataset)] for cell in cells}) < 2
    return same_list and all(np.array_equal(other.positions, answers[0].positions) for other in answers)


def listing(dataset: ImageDataset) -> str:
    """SHA-256 over the names of the pictures, without their kinds, and their classes.

    Not the set's own fingerprint: that of a corrupted copy on disk is another, for its files hold other pictures.
    """
    source = dataset.source
    lines = (f"{target}\t{PurePosixPath(source.name(i)).with_suffix('')}\n" for i, target in enumerate(source.targets.tolist()))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _why_no_mce(found: CorruptionSet, *, imagenet: bool) -> str:
    """Why there is no mCE; empty where there is one."""
    if not imagenet:
        return (
            f"mCE of {found.name} is not given: it divides by AlexNet's errors, so the model must have ImageNet's 1000 outputs."
        )
    if missing := found.missing:
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        total = len(CORRUPTIONS) * len(SEVERITIES)
        return (
            f"mCE of {found.name} is not given: {len(missing)} of its {total} cells are missing ({named}); evaluate them too."
        )
    return ""


def picture_scores(metric: str, cells: Mapping[tuple[str, int], Shares], clean: Shares | None) -> PictureScores:
    """What each picture adds to a number of a set of corruptions, in percent: their mean is the number.

    `cells`: for each picture whether, or how often, the model was right. All three numbers are linear in that.
    """
    if metric == "accuracy":
        return 100 * np.mean(list(cells.values()), axis=0)
    names = dict.fromkeys(corruption for corruption, _ in cells)
    errors = {
        name: 1 - np.mean([right for (corruption, _), right in cells.items() if corruption == name], axis=0) for name in names
    }
    if metric == "mce":
        return mce(errors)
    assert clean is not None
    return relative_mce(errors, 1 - clean)


def _mean_row(make: MakeRow, found: CorruptionSet, metric: str) -> Row:
    """A number over all cells, from the accuracies of these; its interval where the cells show the same pictures."""
    clean = found.clean if metric == "relative_mce" else None
    shares = {key: answers.correct.mean(keepdims=True) for key, answers in found.cells.items()}
    value = float(picture_scores(metric, shares, clean.correct.mean(keepdims=True) if clean else None)[0])
    paired = found.paired_clean if clean else found.paired
    ci = _interval(found, metric, clean) if paired else None
    how = METHOD if ci else f"none: {TOO_FEW if paired else 'the cells hold different pictures'}"
    counts = [len(answers.correct) for answers in found.cells.values()]
    return make(found.name, metric, value, min(counts), ci, protocol=_protocol(found, metric, clean) | {INTERVAL: how})


def _interval(found: CorruptionSet, metric: str, clean: Answers | None) -> tuple[float, float] | None:
    right = {key: answers.correct.astype(float) for key, answers in found.cells.items()}
    scores = picture_scores(metric, right, clean.correct.astype(float) if clean else None)
    return picture_interval(scores, bounds=PERCENT if metric == "accuracy" else UNBOUNDED)


def _protocol(found: CorruptionSet, metric: str, clean: Answers | None) -> dict[str, object]:
    """What all cells share, and how the number was made of them."""
    first, *others = [answers.protocol for answers in found.cells.values()]
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    bad = (max if found.paired else sum)(answers.bad for answers in found.cells.values())
    added: dict[str, object] = {"cells": len(found.cells)}
    if bad:
        added["bad"] = bad
    if metric == "mce":
        added["normaliser"] = "AlexNet"
    if clean:
        added |= {"normaliser": f"AlexNet, clean error {100 * ALEXNET_CLEAN_ERROR:.2f} %", "clean_pictures": len(clean.correct)}
    return shared | added
