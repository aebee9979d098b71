import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from dat.errors import UsageError
from dat.evaluation.intervals import (
    Scores,
    bootstrap_interval,
    bootstrap_means,
    matched_interval,
    paired_difference,
)


def scores(values: list[float] | np.ndarray, pictures: str = "list", **protocol: object) -> Scores:
    return Scores(np.asarray(values, dtype=float), np.arange(len(values)), pictures, protocol)


def test_the_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=300)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    width = theirs.high - theirs.low
    assert bootstrap_interval(values, draws=4000) == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_the_same_pictures_are_drawn_for_all_columns() -> None:
    values = np.random.default_rng(1).random(50)
    means = bootstrap_means(np.stack([values, 3 * values + 1], axis=1), draws=20)
    np.testing.assert_allclose(means[:, 1], 3 * means[:, 0] + 1)
    assert len(np.unique(means[:, 0])) == 20


def test_the_bootstrap_covers_the_truth_in_19_of_20_simulations() -> None:
    random, truth, simulations = np.random.default_rng(3), 0.7, 250
    sets = random.binomial(75, truth, size=(simulations, 200)) / 75
    found = [bootstrap_interval(values, draws=100) for values in sets]
    covered = np.mean([low <= truth <= high for low, high in found])
    assert 0.9 <= covered <= 0.98


def test_fifty_thousand_pictures_take_seconds_and_little_memory() -> None:
    values = np.random.default_rng(0).random((50_000, 2))
    tracemalloc.start()
    begin = time.process_time()
    bootstrap_means(values, draws=50)
    seconds, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 20 * seconds < 30
    assert peak < 20e6


def test_matched_interval_by_hand() -> None:
    # Four kinds of pictures 60, 12, 5, 23, each with half a picture added: 12.5 and 5.5 of 102 differ.
    first, second = 12.5 / 102, 5.5 / 102
    spread = 1.959964 * np.sqrt((first + second - (first - second) ** 2) / 102)
    expected = 100 * (first - second - spread), 100 * (first - second + spread)
    assert matched_interval(12, 5, 100) == pytest.approx(expected, rel=1e-6)
    assert matched_interval(0, 0, 10)[1] > 10


def test_matched_interval_covers_the_truth_of_two_dependent_models() -> None:
    random, simulations, n = np.random.default_rng(5), 2000, 80
    kinds = random.multinomial(n, [0.6, 0.15, 0.05, 0.2], size=simulations)
    found = [matched_interval(int(gains), int(losses), n) for _, gains, losses, _ in kinds]
    assert 0.935 <= np.mean([low <= 10 <= high for low, high in found]) <= 0.965


def test_paired_difference_of_accuracies() -> None:
    first, second = np.repeat([100.0, 0.0], 5), np.tile([100.0, 0.0], 5)
    found = paired_difference(scores(first), scores(second))
    assert (found.value, found.n, found.ci) == (0, 10, matched_interval(2, 2, 10))
    assert found.is_open


def test_paired_difference_of_other_scores_is_narrower_than_that_of_strangers() -> None:
    random = np.random.default_rng(6)
    base = 100 * random.random(400)
    found = paired_difference(scores(base + 1 + random.normal(size=400)), scores(base))
    low, high = found.ci
    assert found.value == pytest.approx(1, abs=0.2)
    assert 0.1 < high - low < 0.3
    assert not found.is_open


def test_what_was_not_measured_alike_is_not_paired() -> None:
    ours = scores([100.0, 0.0], epsilon=1, resize=256)
    with pytest.raises(UsageError, match=r"\{'epsilon': 1\} and \{'epsilon': 2\}"):
        paired_difference(ours, scores([100.0, 0.0], epsilon=2, resize=256))
    with pytest.raises(UsageError, match="2 of the list list and 2 of the list other"):
        paired_difference(ours, scores([100.0, 0.0], "other", epsilon=1, resize=256))
    moved = Scores(ours.values, ours.positions + 1, ours.pictures, ours.protocol)
    with pytest.raises(UsageError, match="not the same"):
        paired_difference(ours, moved)
