import numpy as np
import pytest
from scipy import stats

from dat.errors import UsageError
from dat.evaluation.intervals import (
    FEWEST,
    PERCENT,
    Scores,
    matched_interval,
    paired_difference,
    picture_interval,
)


def scores(values: list[float] | np.ndarray, pictures: str = "list", **protocol: object) -> Scores:
    return Scores(np.asarray(values, dtype=float), np.arange(len(values)), pictures, protocol)


def test_the_interval_of_a_mean_is_the_student_interval_of_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=300)
    expected = stats.t.interval(0.95, 299, loc=values.mean(), scale=stats.sem(values))
    assert picture_interval(values) == pytest.approx(expected)


def test_its_ends_stay_within_the_bounds() -> None:
    values = np.array([100.0] * 19 + [40.0])
    unbounded, bounded = picture_interval(values), picture_interval(values, bounds=PERCENT)
    assert unbounded is not None
    assert bounded is not None
    assert unbounded[1] > 100
    assert bounded == (unbounded[0], 100)


def test_a_few_pictures_have_no_interval() -> None:
    values = np.linspace(0, 100, FEWEST)
    assert picture_interval(values) is not None
    assert picture_interval(values[1:]) is None
    with pytest.raises(UsageError, match=f"fewer than {FEWEST} pictures \\({FEWEST - 1}\\)"):
        paired_difference(scores(values[1:]), scores(values[1:] / 2))
    assert paired_difference(scores([100.0, 0.0]), scores([0.0, 0.0])).n == 2  # an accuracy has an interval at any count


def shares(random: np.random.Generator, a: float, b: float, n: int) -> np.ndarray:
    """Percent right in 75 cells, of pictures that are mostly hard or mostly easy."""
    return 100 * random.binomial(75, random.beta(a, b, size=n)) / 75


@pytest.mark.slow
@pytest.mark.parametrize(("n", "least"), [(10, 91), (15, 92.5), (30, 93), (200, 94)])
@pytest.mark.parametrize(("a", "b"), [(0.9, 0.5), (2.0, 1.0), (0.4, 1.2)], ids=["usual", "even", "skew"])
def test_the_interval_covers_the_mean(a: float, b: float, n: int, least: float) -> None:
    random, truth, simulations = np.random.default_rng(3), 100 * a / (a + b), 5000
    found = [picture_interval(shares(random, a, b, n)) for _ in range(simulations)]
    covered = 100 * np.mean([interval is not None and interval[0] <= truth <= interval[1] for interval in found])
    assert least <= covered <= 97


@pytest.mark.slow
@pytest.mark.parametrize(("n", "differing"), [(10, 0.5), (20, 0.3), (200, 0.02), (200, 0.04), (200, 0.08), (1000, 0.02)])
def test_of_equal_models_that_differ_on_few_pictures_few_are_told_apart(n: int, differing: float) -> None:
    random, simulations = np.random.default_rng(4), 3000
    size = np.minimum(random.geometric(0.2, size=(simulations, n)), 75) * 100 / 75
    gaps = (random.random((simulations, n)) < differing) * size * random.choice([-1, 1], size=(simulations, n))
    found = [picture_interval(values) for values in gaps if values.any()]
    assert np.mean([interval is not None and not interval[0] <= 0 <= interval[1] for interval in found]) < 0.06


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


def test_matched_interval_says_what_the_mid_p_test_of_mcnemar_says() -> None:
    others = []
    for both in range(1, 81):
        for gains in range(both + 1):
            fewer = min(gains, both - gains)
            mid_p = min(1.0, 2 * stats.binom.cdf(fewer, both, 0.5) - stats.binom.pmf(fewer, both, 0.5))
            low, high = matched_interval(gains, both - gains, 1000)
            if (low > 0 or high < 0) != (mid_p < 0.05):
                others.append(mid_p)
    assert len(others) < 12
    assert all(0.048 < mid_p < 0.054 for mid_p in others)


@pytest.mark.parametrize(("n", "differing"), [(20, 0.3), (100, 0.05), (100, 0.2), (1000, 0.005), (1000, 0.02)])
def test_of_equal_models_one_in_twenty_pairs_is_told_apart(n: int, differing: float) -> None:
    """Exactly: over all counts of pictures that one of the two got right."""
    chances = stats.binom.pmf(np.arange(n + 1), n, differing)
    wrong = 0.0
    for both in np.flatnonzero(chances > 1e-9).tolist():
        found = [matched_interval(gains, both - gains, n) for gains in range(both + 1)]
        claims = [not low <= 0 <= high for low, high in found]
        wrong += chances[both] * stats.binom.pmf(np.arange(both + 1), both, 0.5)[claims].sum()
    assert wrong < 0.056


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
    how = scores([100.0, 0.0], epsilon=1, resize=256, interval="another")
    assert paired_difference(ours, how).value == 0
    moved = Scores(ours.values, ours.positions + 1, ours.pictures, ours.protocol)
    with pytest.raises(UsageError, match="not the same"):
        paired_difference(ours, moved)
