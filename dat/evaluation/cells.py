"""A cell is what is evaluated at once: one set of pictures, one change of them, and the ways to count what a model says.

What a model said is kept per picture, so every number can be computed again without the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from dat.data.pipeline import ImageDataset
from dat.data.testsets.class_maps import NOTHING, Groups
from dat.evaluation.mistakes import OTHER, Answered
from dat.evaluation.suites import Clean, Suite, clean_beside
from dat.types import Logits

Labels = Int64[np.ndarray, " count"]
Correct = Bool[np.ndarray, " counted"]
Shares = Float64[np.ndarray, " count"]

CORRUPTED = 2
"""So many slashes are in the name of a cell of corruptions, made here or published (`c/fog/3`)."""
UNREADABLE = -1
"""In the place of a model's output: the picture could not be read, and counts for nothing."""


@dataclass(frozen=True, eq=False)
class View:
    """One way to count: which outputs of a model are looked at, and what stands for being right. Gives one metric.

    `groups` say for each output of the model what it stands for (`NOTHING`: it is masked), `labels` for each class of the
    set what is right (`NOTHING`: its pictures do not count). Usually both are positions among ImageNet's 1000 classes; where
    one class of a set is many of the model's (ObjectNet), outputs share a group.
    """

    metric: str
    groups: Groups
    labels: Labels

    def outputs(self, logits: Logits) -> Labels:
        """For each picture the output with the highest logit among those that are looked at."""
        shown = np.flatnonzero(self.groups != NOTHING)
        return shown[logits[:, shown].argmax(dim=1).cpu().numpy()]

    def confidence(self, logits: Logits, *, sigmoid: bool = False) -> Shares:
        """For each picture the probability of what `outputs` says: among what is looked at, all outputs that stand for it.

        `sigmoid`: the model says yes or no to each output; that of the surest counts.
        """
        shown = np.flatnonzero(self.groups != NOTHING)
        asked, groups = logits[:, shown].float(), torch.from_numpy(self.groups[shown]).to(logits.device)
        alike = groups[None] == groups[asked.argmax(dim=1)][:, None]
        if sigmoid:
            return (asked.sigmoid() * alike).amax(dim=1).cpu().double().numpy()
        return (asked.softmax(dim=1) * alike).sum(dim=1).clamp(max=1).cpu().double().numpy()

    def counted(self, targets: Labels, outputs: Labels) -> np.ndarray:
        """Which pictures count: readable, and of a class that is right somewhere."""
        return (outputs != UNREADABLE) & (self.labels[targets] != NOTHING)

    def correct(self, targets: Labels, outputs: Labels) -> Correct:
        """Of the pictures that count, in their order: whether the model was right."""
        counted = self.counted(targets, outputs)
        return self.groups[outputs[counted]] == self.labels[targets[counted]]


@dataclass(frozen=True, eq=False)
class Cell:
    """`name` is the suite in result rows (`clean`, `c/fog/3`); `protocol` says how its pictures are made and counted,
    under `data` which they are.
    """

    name: str
    dataset: ImageDataset
    change: Suite
    views: tuple[View, ...]
    protocol: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said of a cell: the class of each picture, and for each metric the model's output, in the set's order.

    `confidence`: of a cell of unchanged pictures (`is_unchanged`) how probable the model said the output of the first view is.
    """

    targets: Labels
    outputs: Mapping[str, Labels]
    confidence: Shares | None = None

    @property
    def bad(self) -> int:
        """How many pictures could not be read."""
        return int((next(iter(self.outputs.values())) == UNREADABLE).sum())


def all_classes(count: int, columns: Labels | None = None) -> View:
    """The plain accuracy over all outputs; `columns`: the output of each class of the set, its position by default."""
    groups = np.arange(count)
    return View("accuracy", groups, groups if columns is None else columns)


def is_unchanged(cell: Cell) -> bool:
    """Whether a cell shows a whole test set as it is: no attack, none of many corruptions, nor what stands beside these."""
    beside = cell.name.startswith(clean_beside(""))
    return isinstance(cell.change, Clean) and cell.name.count("/") < CORRUPTED and not beside


def answered(view: View, predictions: Predictions, classes: Sequence[str]) -> Answered:
    """What a model said in classes of the set, of the pictures that count by its first view."""
    outputs = predictions.outputs[view.metric]
    counted = view.counted(predictions.targets, outputs)
    targets, groups = predictions.targets[counted], view.groups[outputs[counted]]
    meant = {int(group): place for place, group in reversed([*enumerate(view.labels.tolist())]) if group != NOTHING}
    said = np.array([meant.get(group, OTHER) for group in groups.tolist()], np.int64)
    sure = None if predictions.confidence is None else predictions.confidence[counted]
    return Answered(tuple(classes), targets, np.where(groups == view.labels[targets], targets, said), sure)
