"""What is computed of answers: rows of accuracies, each with its interval, and the errors of ImageNet-C against AlexNet's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from dat.data.corruptions.table import CORRUPTIONS
from dat.evaluation.cells import Correct
from dat.evaluation.mistakes import BINS, CALIBRATION, CLASS_MEAN, Answered, class_mean_accuracy, reliability
from dat.evaluation.suites import Corruption, Suite
from dat.results import Row, mean_interval, wilson

PerImageMeans = Float64[np.ndarray, " images"]
MakeRow = Callable[..., Row]
Shares = Float64[np.ndarray, " pictures"]
"""Between 0 and 1, for each picture, or one for a whole set."""

ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Errors of AlexNet, means over the five severities. Source: hendrycks/robustness:ImageNet-C/test.py."""
ALEXNET_CLEAN_ERROR = 0.43478
"""On ImageNet's validation pictures; the benchmark's table has 43.5 %. Source: torchvision's record of these weights."""


def mce(errors: Mapping[str, Shares]) -> Shares:
    """Mean over the 15 corruptions of the error in percent of AlexNet's.

    `errors`: of each corruption the mean over its five severities, which AlexNet's is too. Other corruptions do not count.
    Source: Hendrycks and Dietterich (2019), Benchmarking Neural Network Robustness to Common Corruptions, section 4.
    """
    return np.mean([100 * errors[name] / ALEXNET_ERRORS[name] for name in CORRUPTIONS], axis=0)


def relative_mce(errors: Mapping[str, Shares], clean: Shares, *, alexnet_clean: float = ALEXNET_CLEAN_ERROR) -> Shares:
    """As `mce`, of what the corruptions add to the error on clean pictures. Source: as `mce`."""
    added = [100 * (errors[name] - clean) / (ALEXNET_ERRORS[name] - alexnet_clean) for name in CORRUPTIONS]
    return np.mean(added, axis=0)


def accuracy_rows(
    answers: Mapping[str, Correct],
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
    """One row per suite of whether the model was right, and the row `c`, the mean accuracy over all corruption cells.

    The interval of a suite is Wilson's over its images; that of `c` is a Student interval over the images, each with its
    mean over the cells: the cells show the same images and are no independent samples.
    """

    def row(suite: str, value: float, n: int, ci: tuple[float, float] | None, more: Mapping[str, object]) -> Row:
        return Row(suite, "accuracy", value, n, ci, seed, method, recipe_hash, {**protocol, **more}, dict(versions))

    rows = []
    for suite in suites:
        correct = answers[suite.name]
        value, ci = 100 * float(correct.mean()), wilson(int(correct.sum()), len(correct))
        rows.append(row(suite.name, value, len(correct), ci, suite.protocol(height, width)))
    cells = [suite for suite in suites if isinstance(suite, Corruption)]
    if cells:
        per_image: PerImageMeans = 100 * np.mean([answers[cell.name] for cell in cells], axis=0)
        value, ci = mean_interval(per_image.tolist())
        rows.append(row("c", value, len(per_image), ci, {"cells": len(cells), **cells[0].protocol(height, width)}))
    return rows


def class_rows(make: MakeRow, suite: str, answered: Answered, protocol: Mapping[str, object]) -> list[Row]:
    """What stands beside an accuracy: its mean over classes, and where it is known how sure the model was, how well it knows.

    The expected calibration error has no interval: it is biased upwards, the more the fewer the pictures.
    """
    n = len(answered.targets)
    value, ci = class_mean_accuracy(answered)
    rows = [make(suite, CLASS_MEAN, value, n, ci, protocol={**protocol, "classes_counted": int((answered.counts > 0).sum())})]
    if answered.sure is not None:
        error = reliability(answered.sure, answered.correct).error
        rows.append(make(suite, CALIBRATION, error, n, None, protocol={**protocol, "bins": BINS}))
    return rows
