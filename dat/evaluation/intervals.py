"""95 % intervals of numbers that are means over pictures, and of what two models differ by on the same pictures.

Knows scores per picture; neither models nor what a score stands for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import special

from dat.errors import UsageError
from dat.results import differing

PictureScores = Float64[np.ndarray, " pictures"]
ScoreColumns = Float64[np.ndarray, "pictures columns"]
DrawnMeans = Float64[np.ndarray, "draws columns"]
Positions = Int64[np.ndarray, " pictures"]

DRAWS = 1000
SEED = 0
METHOD = f"bootstrap over pictures, {DRAWS} draws, seed {SEED}"
"""How the intervals of this module are made, for protocols and pages."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What one number is the mean of: a score, in percent, for each picture that counts.

    `positions` of these pictures in their list, `pictures`: the fingerprint of that list, `protocol`: how it was measured.
    """

    values: PictureScores
    positions: Positions
    pictures: str
    protocol: Mapping[str, object]


@dataclass(frozen=True)
class Difference:
    """`value` in percentage points, with its 95 % interval, over `n` pictures."""

    value: float
    ci: tuple[float, float]
    n: int

    @property
    def is_open(self) -> bool:
        """Whether the interval holds 0."""
        return self.ci[0] <= 0 <= self.ci[1]


def bootstrap_means(scores: ScoreColumns, *, draws: int = DRAWS, seed: int = SEED) -> DrawnMeans:
    """Means of every column over pictures drawn with replacement, the same ones for all columns.

    50,000 pictures: seconds, and no more memory than the scores and one draw.
    """
    random, count = np.random.default_rng(seed), len(scores)
    means = np.empty((draws, scores.shape[1]))
    for draw in means:
        draw[:] = scores[random.integers(count, size=count)].mean(axis=0)
    return means


def bootstrap_interval(scores: PictureScores, *, draws: int = DRAWS, seed: int = SEED) -> tuple[float, float]:
    """Percentile interval of the mean. Source: Efron and Tibshirani (1993), chapter 13."""
    low, high = np.percentile(bootstrap_means(scores[:, None], draws=draws, seed=seed)[:, 0], [2.5, 97.5])
    return float(low), float(high)


def matched_interval(gains: int, losses: int, n: int) -> tuple[float, float]:
    """Interval, in percent, of (gains - losses) / n: pictures that only the first, or only the second model got right.

    Half a picture is added to each of the four kinds of pictures, so that it keeps its width where the models never differ.
    Source: Agresti and Min (2005), Wald interval for matched pairs, adjusted.
    """
    size, both, net = n + 2, gains + losses + 1, gains - losses
    half = float(special.ndtri(0.975)) * math.sqrt(both - net**2 / size)
    return 100 * (net - half) / size, 100 * (net + half) / size


def paired_difference(first: Scores, second: Scores) -> Difference:
    """By how much the first model's number is above the second's, on the same pictures.

    Where every score is 0 or 100 (an accuracy), the interval is that of matched proportions; otherwise a bootstrap over the
    differences per picture, which draws the same pictures for both models.

    Raises:
        UsageError: the pictures are not the same, or were not measured alike.
    """
    refuse_unpaired(first, second)
    gaps, n = first.values - second.values, len(first.values)
    if all(np.isin(scores.values, (0.0, 100.0)).all() for scores in (first, second)):
        ci = matched_interval(int((gaps > 0).sum()), int((gaps < 0).sum()), n)
    else:
        ci = bootstrap_interval(gaps)
    return Difference(float(gaps.mean()), ci, n)


def refuse_unpaired(first: Scores, second: Scores) -> None:
    """Raises: UsageError: two models were not measured on the same pictures in the same way (what differs is said)."""
    ours, theirs = differing(first.protocol, second.protocol)
    if ours:
        raise UsageError(f"The protocols differ, {ours} and {theirs}, so there is no paired difference; evaluate both alike.")
    if first.pictures != second.pictures or not np.array_equal(first.positions, second.positions):
        raise UsageError(
            f"The pictures are not the same ({_described(first)} and {_described(second)}), so there is no paired difference; "
            "evaluate both models on one list of pictures."
        )


def _described(scores: Scores) -> str:
    return f"{len(scores.values)} of the list {scores.pictures[:12] or 'without a name'}"
