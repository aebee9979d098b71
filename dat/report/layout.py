"""Scores of methods at seeds, as the sum of a method and a seed, and what its residuals say of means and differences.

Every mark, sentence, interval and figure of a comparison asks here, so that none denies another. Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy import special

from dat.evaluation.intervals import FEWEST, PictureScores

Seed = int | None
Kind = Literal["seeds", "both", "pictures"]
"""What an interval is over: seeds on the same pictures, seeds and pictures together, or pictures of models that stay these."""
BySeed = Float64[np.ndarray, "methods seeds"]
ByPicture = Float64[np.ndarray, "methods seeds pictures"]
Means = Float64[np.ndarray, "methods pictures"]
Covariance = Float64[np.ndarray, "methods methods"]
Part = tuple[float, float]
"""A variance and its degrees of freedom."""

CONFIDENCE = 0.95
FEWEST_SEEDS = 3
"""Of fewer, seeds give no interval: two that agree by chance would make it a point, others 13 standard errors wide."""
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 30, 40, 60, 120, 1000)
"""Degrees of freedom that are no whole number are taken down to one of these: a point of the range takes a quarter second."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """What other pictures would add: the `covariance` that it gives the means of the methods, known from `count` pictures."""

    covariance: Covariance
    count: int

    def part(self, *places: int) -> Part:
        """Of the mean of the method at one place, or of the difference of two; never below 0."""
        sign = np.array([1.0, -1.0])[: len(places)]
        return max(0.0, float(sign @ self.covariance[np.ix_(places, places)] @ sign)), self.count - 1.0


@dataclass(frozen=True, eq=False)
class Layout:
    """`values` of `methods` at `seeds`, none missing. `rounding`: the variance that the grid of values hides.

    With `pictures`, of which every score is a mean, intervals are over these, too. With fewer than three seeds they are over
    nothing else: they hold for these models, and say nothing of the next seed.
    """

    methods: tuple[str, ...]
    seeds: tuple[Seed, ...]
    values: BySeed
    rounding: float = 0.0
    pictures: Pictures | None = None

    @property
    def kind(self) -> Kind:
        """What the intervals are over."""
        if len(self.seeds) < FEWEST_SEEDS:
            return "pictures"
        return "seeds" if self.pictures is None else "both"

    def mean(self, method: str) -> float:
        """Over the seeds."""
        return float(self._of(method).mean())

    def half_interval(self, method: str) -> float:
        """Half of the 95 % interval of a method's mean.

        Its variance over seeds is pooled over the methods, or the method's own where that is larger. Pooled alone, it would
        be too small for a method that is less steady than the others: with standard deviations of 0.4, 0.8 and 2.0 the
        intervals of the last cover 77 % instead of 87; those of the steady ones are too wide in both. Methods share their
        seeds, so m (n - 1) degrees of freedom would be too many; they are Satterthwaite's, of the mean squares of seeds and
        residuals, and of pictures where these are known.
        Source: Satterthwaite (1946), An approximate distribution of estimates of variance components.
        """
        variance, degrees = satterthwaite([*self._of_seeds(method), *self._of_pictures(method)])
        return float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2)) * math.sqrt(variance)

    def least_difference(self, first: str, second: str, *, together: int = 1) -> float:
        """By more than this two means must differ, in the 95 % simultaneous intervals of all pairs; needs two methods.

        `together`: so many such sets of pairs are to hold at once (Bonferroni). Of two methods it is half of the paired
        Student interval. Residuals are taken to be equally wide for all methods, or as wide as those of the pair where these
        are wider: of fifteen equal methods with the standard deviations above 12 % of layouts show a difference, 20 % with
        the common width alone, and 3.5 % where all are equally steady.
        Source: Tukey's honestly significant difference, randomised blocks; Montgomery (2017), Design and Analysis of
        Experiments, section 4.1. We add `rounding`, the pair's own width, and pictures as a second random factor, crossed
        with seeds (as readers and cases are; Hillis (2007), A comparison of denominator degrees of freedom methods).
        """
        parts = [*self._of_seeds(first, second), *self._of_pictures(first, second)]
        variance, degrees = satterthwaite(parts)
        confidence = 1 - (1 - CONFIDENCE) / together
        return studentized_range(len(self.methods), whole(degrees), confidence) * math.sqrt(variance / 2)

    def _of(self, method: str) -> np.ndarray:
        return self.values[self.methods.index(method)]

    def _of_pictures(self, *methods: str) -> list[Part]:
        return [] if self.pictures is None else [self.pictures.part(*map(self.methods.index, methods))]

    def _of_seeds(self, first: str, second: str | None = None) -> list[Part]:
        """What other seeds would add to the mean of a method, or to the difference of two."""
        if self.kind == "pictures":
            return []
        if second is None:
            (common, degrees), own = self._pooled, float(self._of(first).var(ddof=1))
            return [((max(common, own) + self.rounding) / len(self.seeds), degrees)]
        methods, seeds = self.values.shape
        own = float((self._of(first) - self._of(second)).var(ddof=1)) / 2
        variance = max(self._mean_squares[1], own) + self.rounding
        return [(2 * variance / seeds, float((methods - 1) * (seeds - 1)))]

    @cached_property
    def _mean_squares(self) -> tuple[float, float]:
        """Of seeds and of residuals; of one method these are 0."""
        methods, seeds = self.values.shape
        of_seeds = self.values.mean(axis=0)
        residuals = self.values - self.values.mean(axis=1, keepdims=True) - of_seeds + self.values.mean()
        degrees = max(1, methods - 1) * (seeds - 1)
        return methods * float(of_seeds.var(ddof=1)), float((residuals**2).sum()) / degrees

    @cached_property
    def _pooled(self) -> Part:
        """Mean of the methods' variances over seeds."""
        methods, seeds = self.values.shape
        of_seeds, residual = (square / methods for square in self._mean_squares)
        rest = (methods - 1) * (seeds - 1)
        return satterthwaite([(of_seeds, float(seeds - 1)), ((methods - 1) * residual, float(rest))])


def satterthwaite(parts: Sequence[Part]) -> Part:
    """The sum of independent variances, and its degrees of freedom; where all are 0, as many as they have together."""
    total = sum(variance for variance, _ in parts)
    if not total:
        return 0.0, float(sum(degrees for _, degrees in parts))
    return total, 1 / sum((variance / total) ** 2 / degrees for variance, degrees in parts if variance)


def layout_of(
    scores: Mapping[str, Mapping[Seed, float]],
    *,
    rounding: float = 0.0,
    answers: Mapping[str, Mapping[Seed, PictureScores]] | None = None,
) -> Layout | None:
    """The methods that have three seeds or more, at the seeds that all of these have; None where these are fewer than three.

    `answers`: what the scores are the means of, by picture. With them fewer seeds will do, but for another `Kind`.
    """
    methods = tuple(method for method, values in scores.items() if len(values) >= FEWEST_SEEDS)
    seeds = shared_seeds([scores[method] for method in methods])
    if len(seeds) < FEWEST_SEEDS:
        methods = tuple(scores)
        seeds = shared_seeds([scores[method] for method in methods])
    pictures = pictures_of(answers or {}, methods, seeds)
    if not seeds or (len(seeds) < FEWEST_SEEDS and pictures is None):
        return None
    values = np.array([[float(scores[method][seed]) for seed in seeds] for method in methods])
    return Layout(methods, seeds, values, rounding, pictures)


def pictures_of(
    answers: Mapping[str, Mapping[Seed, PictureScores]], methods: Sequence[str], seeds: Sequence[Seed]
) -> Pictures | None:
    """What pictures add to the means of methods over seeds; None where a model lacks answers, or they are of fewer pictures."""
    found = [answers.get(method, {}).get(seed) for method in methods for seed in seeds]
    there = [scores for scores in found if scores is not None]
    if not there or len(there) < len(found) or len({*map(len, there)}) > 1 or len(there[0]) < FEWEST:
        return None
    return spread_of_pictures(np.array(there, dtype=np.float64).reshape(len(methods), len(seeds), -1))


def spread_of_pictures(scores: ByPicture) -> Pictures:
    """What other pictures would add to the means of methods over seeds.

    Pictures and seeds are both drawn at random and crossed. The residual of the two is in the spread of the seeds already, so
    it is taken off here. With fewer than three seeds these models stay, and it is not; then one picture that only the one,
    and one that only the other model gets right are added to each pair (Agresti and Min, as `intervals.matched_interval`).
    """
    methods, seeds, count = scores.shape
    means = scores.mean(axis=1)
    between = covariance(means)
    if seeds < FEWEST_SEEDS:
        return Pictures(between / count + np.eye(methods) * (100 / count) ** 2 / 2, count)
    within = sum(covariance(scores[:, place] - means) for place in range(seeds)) / (seeds * (seeds - 1))
    return Pictures((between - within) / count, count)


def covariance(scores: Means) -> Covariance:
    """Of methods over pictures."""
    return np.cov(scores).reshape(len(scores), len(scores))


def shared_seeds(values: Sequence[Mapping[Seed, float]]) -> tuple[Seed, ...]:
    """Seeds that all have, in the order of the first."""
    return tuple(seed for seed in (values[0] if values else ()) if all(seed in of_method for of_method in values))


def rounding_of(images: int) -> float:
    """Variance within one step of an accuracy, in percent, on so many images; means over several sets have finer steps."""
    return (100 / images) ** 2 / 12 if images else 0.0


def whole(degrees: float) -> int:
    """Degrees of freedom as a whole number; others are taken down to one of `STEPS`."""
    if math.isclose(degrees, round(degrees), rel_tol=1e-9):
        return round(degrees)
    return max((step for step in STEPS if step <= degrees), default=1)


@lru_cache
def studentized_range(methods: int, degrees: int, confidence: float = CONFIDENCE) -> float:
    """The 95 % point, or that of another confidence, of the range of so many means over their common standard error."""
    if methods == 2:
        return float(special.stdtrit(degrees, (1 + confidence) / 2)) * math.sqrt(2)
    from scipy import stats  # takes seconds, and a training needs none of it

    return float(stats.studentized_range.ppf(confidence, methods, degrees))
