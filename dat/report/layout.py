"""Scores of methods at seeds, as the sum of a method and a seed, and what its residuals say of means and differences.

Every mark, sentence, interval and figure of a comparison asks here, so that none denies another. Knows numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from scipy import special

Seed = int | None
BySeed = Float64[np.ndarray, "methods seeds"]

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Layout:
    """`values` of `methods` at `seeds`, two or more, none missing. `rounding`: the variance that the grid of values hides."""

    methods: tuple[str, ...]
    seeds: tuple[Seed, ...]
    values: BySeed
    rounding: float = 0.0

    def mean(self, method: str) -> float:
        """Over the seeds."""
        return float(self._of(method).mean())

    def half_interval(self, method: str) -> float:
        """Half of the 95 % interval of a method's mean over seeds.

        Its variance is pooled over the methods, or the method's own where that is larger. Pooled alone, it would be too
        small for a method that is less steady than the others: with standard deviations of 0.4, 0.8 and 2.0 the intervals
        of the last cover 77 % instead of 87; those of the steady ones are too wide in both. Methods share their seeds, so
        m (n - 1) degrees of freedom would be too many; they are Satterthwaite's, of the mean squares of seeds and residuals.
        Source: Satterthwaite (1946), An approximate distribution of estimates of variance components.
        """
        pooled, degrees = self._pooled()
        variance = max(pooled, float(self._of(method).var(ddof=1))) + self.rounding
        return float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / len(self.seeds))

    def least_difference(self) -> float:
        """By more than this two means must differ, in the 95 % simultaneous intervals of all pairs; needs two methods.

        Of two methods it is half of the paired Student interval. Residuals are taken to be equally wide for all methods:
        where they are not, it is too small for two unsteady methods and too large for two steady ones (with the standard
        deviations above, a fifth of layouts of equal methods shows a difference).
        Source: Tukey's honestly significant difference, randomised blocks; Montgomery (2017), Design and Analysis of
        Experiments, section 4.1. We add `rounding`.
        """
        _, residual = self._mean_squares()
        methods, seeds = self.values.shape
        variance = (residual + self.rounding) / seeds
        return studentized_range(methods, (methods - 1) * (seeds - 1)) * math.sqrt(variance)

    def _of(self, method: str) -> np.ndarray:
        return self.values[self.methods.index(method)]

    def _mean_squares(self) -> tuple[float, float]:
        """Of seeds and of residuals; of one method these are 0."""
        methods, seeds = self.values.shape
        of_seeds = self.values.mean(axis=0)
        residuals = self.values - self.values.mean(axis=1, keepdims=True) - of_seeds + self.values.mean()
        degrees = max(1, methods - 1) * (seeds - 1)
        return methods * float(of_seeds.var(ddof=1)), float((residuals**2).sum()) / degrees

    def _pooled(self) -> tuple[float, float]:
        """Mean of the methods' variances over seeds, and its degrees of freedom."""
        methods, seeds = self.values.shape
        of_seeds, residual = (square / methods for square in self._mean_squares())
        rest = (methods - 1) * residual
        pooled = of_seeds + rest
        if not pooled:
            return 0.0, float(methods * (seeds - 1))
        shared = (of_seeds / pooled) ** 2 / (seeds - 1)
        own = (rest / pooled) ** 2 / (max(1, methods - 1) * (seeds - 1))
        return pooled, 1 / (shared + own)


def layout_of(scores: Mapping[str, Mapping[Seed, float]], *, rounding: float = 0.0) -> Layout | None:
    """The methods that have two seeds or more, at the seeds that all of these have; None where these are fewer than two."""
    methods = tuple(method for method, values in scores.items() if len(values) > 1)
    seeds = shared_seeds([scores[method] for method in methods])
    if len(seeds) < 2:
        return None
    values = np.array([[float(scores[method][seed]) for seed in seeds] for method in methods])
    return Layout(methods, seeds, values, rounding)


def shared_seeds(values: Sequence[Mapping[Seed, float]]) -> tuple[Seed, ...]:
    """Seeds that all have, in the order of the first."""
    return tuple(seed for seed in (values[0] if values else ()) if all(seed in of_method for of_method in values))


def rounding_of(images: int) -> float:
    """Variance within one step of an accuracy, in percent, on so many images; means over several sets have finer steps."""
    return (100 / images) ** 2 / 12 if images else 0.0


@lru_cache
def studentized_range(methods: int, degrees: int) -> float:
    """The 95 % point of the range of so many means over their common standard error."""
    from scipy import stats  # takes seconds, and a training needs none of it

    return float(stats.studentized_range.ppf(CONFIDENCE, methods, degrees))
