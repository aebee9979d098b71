"""From outcomes per image to result rows, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from dat.evaluation.evaluate import Outcome
from dat.evaluation.suites import Corruption, Suite
from dat.results import Row, mean_interval, wilson

PerImageMeans = Float64[np.ndarray, " images"]


def accuracy_rows(
    outcomes: Mapping[str, Outcome],
    suites: Sequence[Suite],
    *,
    height: int,
    width: int,
    method: str,
    seed: int | None,
    recipe_hash: str,
    protocol: Mapping[str, object],
    versions: Mapping[str, str],
) -> list[Row]:
    """One row per suite, and the row `c`, the mean accuracy over all corruption cells that are there.

    The interval of a suite is Wilson's over its images; that of `c` is a Student interval over the images, each with its
    mean over the cells: the cells show the same images and are no independent samples.
    """

    def row(suite: str, value: float, n: int, ci: tuple[float, float] | None, more: Mapping[str, object]) -> Row:
        return Row(suite, "accuracy", value, n, ci, seed, method, recipe_hash, {**protocol, **more}, dict(versions))

    rows = []
    for suite in suites:
        correct = outcomes[suite.name].correct
        ci = wilson(int(correct.sum()), len(correct))
        rows.append(row(suite.name, outcomes[suite.name].accuracy, len(correct), ci, suite.protocol(height, width)))
    cells = [suite for suite in suites if isinstance(suite, Corruption)]
    if cells:
        per_image: PerImageMeans = 100 * np.mean([outcomes[cell.name].correct for cell in cells], axis=0)
        value, ci = mean_interval(per_image.tolist())
        rows.append(row("c", value, len(per_image), ci, {"cells": len(cells), **cells[0].protocol(height, width)}))
    return rows
