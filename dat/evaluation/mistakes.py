"""What went wrong where: accuracy by class, what is taken for what, and how often a model is right when it is sure.

Knows what was said of pictures; neither models nor files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import special

Labels = Int64[np.ndarray, " pictures"]
Flags = Bool[np.ndarray, " pictures"]
Shares = Float64[np.ndarray, " pictures"]
ByClass = Float64[np.ndarray, " classes"]
ByBin = Float64[np.ndarray, " bins"]
Counts = Int64[np.ndarray, "classes said"]
PerClass = Int64[np.ndarray, " classes"]
PerBin = Int64[np.ndarray, " bins"]

BINS = 15
"""Of equal width, over [0, 1]. Source: as `reliability`."""
OTHER = -1
"""In the place of a class: what was said is none of the set's."""
ANOTHER = "another"
"""What pages call it."""
CLASS_MEAN, CALIBRATION = "accuracy_macro", "ece"
"""Metrics of rows that stand beside an accuracy, called as torchmetrics does (`average="macro"`) and the literature."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Of the pictures of a test set that count: the class of each, what a model said, and how probable it said that is.

    `said` is a class of the set or `OTHER`; `sure`, in [0, 1], is None where it was not kept.
    """

    classes: tuple[str, ...]
    targets: Labels
    said: Labels
    sure: Shares | None

    @property
    def correct(self) -> Flags:
        """Whether the model was right."""
        return self.said == self.targets

    @cached_property
    def confusion(self) -> Counts:
        """How many pictures of each class (rows) were said to be of each class (columns); the last column is `OTHER`."""
        counts = np.zeros((len(self.classes), len(self.classes) + 1), np.int64)
        np.add.at(counts, (self.targets, self.said), 1)  # OTHER, -1, is the last column
        return counts

    @property
    def counts(self) -> PerClass:
        """Pictures of each class."""
        return self.confusion.sum(axis=1)

    @property
    def accuracies(self) -> ByClass:
        """Of each class, in percent; NaN where it has no picture."""
        right, counts = np.diagonal(self.confusion), self.counts
        return np.divide(100.0 * right, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def class_mean_accuracy(answered: Answered) -> tuple[float, tuple[float, float]]:
    """Mean accuracy over the classes with pictures, in percent, with its 95 % interval over pictures of each class.

    It is scikit-learn's balanced accuracy, and torchmetrics' macro average where each class that is said has a picture (else
    that counts the class as 0).
    The interval is the normal one of a mean of independent proportions, each with two right and two wrong pictures added
    (Agresti and Coull, 1998), so that classes without a mistake keep a width; it is cut at 0 and 100.
    """
    counts = answered.counts[answered.counts > 0]
    right = np.diagonal(answered.confusion)[answered.counts > 0]
    value = float((100 * right / counts).mean())
    share = (right + 2) / (counts + 4)
    half = 100 * float(special.ndtri(0.975)) * math.sqrt(float((share * (1 - share) / (counts + 4)).sum())) / len(counts)
    return value, (max(0.0, value - half), min(100.0, value + half))


@dataclass(frozen=True, eq=False)
class Reliability:
    """Pictures by how sure a model is: of each bin their number, and means of what it says and of how often it is right.

    Both means are shares in [0, 1]; of an empty bin 0.
    """

    counts: PerBin
    sure: ByBin
    right: ByBin

    @property
    def error(self) -> float:
        """Expected calibration error in percent: the mean distance of the two, weighted by pictures."""
        return 100 * float((self.counts * np.abs(self.sure - self.right)).sum() / self.counts.sum())


def reliability(sure: Shares, correct: Flags, *, bins: int = BINS) -> Reliability:
    """Of at least one picture, by the probability of what is said (of the top label alone), in bins of equal width.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, equations 1 to 3. As in torchmetrics a bin holds its
    lower end, theirs its upper; the last holds 1, too, for which torchmetrics has one bin more.
    """
    places = np.digitize(sure, np.linspace(0, 1, bins + 1)[1:-1])
    counts = np.bincount(places, minlength=bins)
    sums = [np.bincount(places, weights=values, minlength=bins) for values in (sure, correct.astype(np.float64))]
    means = [np.divide(total, counts, out=np.zeros(bins), where=counts > 0) for total in sums]
    return Reliability(counts, *means)
