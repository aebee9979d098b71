"""The additive model of methods and seeds, against SciPy and plain loops; how often its intervals are right, by simulation."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import special, stats

from dat.report.layout import Layout, Seed, layout_of, rounding_of

SEEDS: dict[str, dict[Seed, float]] = {
    "standard": {0: 80.0, 1: 81.5, 2: 80.9},
    "at": {0: 82.0, 1: 83.1, 2: 84.4},
    "dat": {0: 90.3, 1: 90.1, 2: 91.0},
}


def layout(values: np.ndarray, *, images: int | None = None) -> Layout:
    methods = tuple(f"method-{number}" for number in range(len(values)))
    return Layout(methods, tuple(range(values.shape[1])), values, rounding_of(images) if images else 0.0)


def found(*, images: int = 450) -> Layout:
    made = layout_of(SEEDS, rounding=rounding_of(images))
    assert made is not None
    return made


def test_the_residuals_are_those_of_least_squares():
    made = found()
    columns = [
        [float(m == method) for method in range(3)] + [float(s == seed) for seed in (1, 2)] for m in range(3) for s in range(3)
    ]
    _, (squares,), _, _ = np.linalg.lstsq(np.array(columns), made.values.ravel(), rcond=None)
    expected = stats.studentized_range.isf(0.05, 3, 4) * np.sqrt((squares / 4 + (100 / 450) ** 2 / 12) / 3)
    assert made.least_difference() == pytest.approx(expected)


def test_two_methods_are_judged_by_the_paired_interval_of_scipy():
    values = np.array([[10.0, 50.0, 90.0, 31.0], [11.0, 51.1, 90.9, 31.2]])
    paired = stats.ttest_rel(values[1], values[0]).confidence_interval(0.95)
    gap, least = values[1].mean() - values[0].mean(), layout(values).least_difference()
    assert (gap - least, gap + least) == pytest.approx(tuple(paired))


def test_one_method_has_the_interval_of_student():
    values = np.array([[91.0, 93.5, 92.2, 95.0]])
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values[0]))
    assert layout(values).half_interval("method-0") == pytest.approx(expected[1] - values.mean())


def test_the_spread_is_pooled_or_the_own_where_that_is_larger():
    values = np.array([[80.0, 81.0, 82.0], [70.1, 70.0, 70.2], [60.0, 66.0, 61.0]])
    own = values.var(axis=1, ddof=1)
    of_seeds = 3 * values.mean(axis=0).var(ddof=1)
    rest = own.sum() * 2 - of_seeds * 2
    parts = of_seeds / 3, rest / 4 * 2 / 3
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 4)
    assert sum(parts) == pytest.approx(own.mean())
    halves = [layout(values).half_interval(f"method-{number}") for number in range(3)]
    expected = stats.t.ppf(0.975, degrees) * np.sqrt(np.maximum(own, own.mean()) / 3)
    assert halves == pytest.approx(expected)
    assert halves[0] == halves[1] < halves[2]


def test_seeds_that_agree_leave_the_width_of_the_grid():
    made = layout(np.full((2, 3), 98.2), images=450)
    assert made.half_interval("method-0") == pytest.approx(stats.t.ppf(0.975, 4) * 100 / 450 / np.sqrt(36))
    assert made.least_difference() > 0.2


def test_the_scale_of_the_grid():
    values = np.random.default_rng(0).uniform(0, 100, size=100_000)
    lost = values - np.round(values / 100 * 450) / 450 * 100
    assert rounding_of(450) == pytest.approx(lost.var(), rel=0.02)
    assert rounding_of(0) == 0


def test_a_seed_counts_where_every_judged_method_has_it():
    made = layout_of({**SEEDS, "dat": {0: 90.3, 2: 91.0, 7: 12.0}, "augmix": {1: 50.0}})
    assert made is not None
    assert (made.methods, made.seeds) == (("standard", "at", "dat"), (0, 2))
    assert made.mean("dat") == pytest.approx(90.65)
    assert layout_of({"standard": {0: 1.0, 1: 2.0}, "dat": {1: 1.0, 2: 2.0}}) is None
    assert layout_of({"standard": {0: 1.0}, "dat": {0: 2.0}}) is None
    assert layout_of({}) is None


def test_no_command_waits_for_the_distributions_of_scipy():
    program = "import sys, dat.cli, dat.report.page, dat.studies.table; print('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"


# How often they are right.


def equal_methods(random: np.random.Generator, *, methods: int, seeds: int, shared: float, images: int) -> np.ndarray:
    """Accuracies of methods that are all equal: a part that methods share at a seed, one of their own, the grid."""
    scores = 70 + shared * random.normal(size=seeds) + random.normal(size=(methods, seeds))
    return np.round(scores / 100 * images) / images * 100


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "seeds"), [(4, 3), (15, 3), (15, 5), (4, 2), (2, 3)])
def test_of_equal_methods_one_column_in_twenty_shows_a_difference(methods: int, seeds: int):
    random, simulations, wrong = np.random.default_rng(7), 4000, 0
    for _ in range(simulations):
        made = layout(equal_methods(random, methods=methods, seeds=seeds, shared=2.0, images=5000), images=5000)
        means = made.values.mean(axis=1)
        wrong += bool(means.max() - means.min() > made.least_difference())
    assert 0.04 <= wrong / simulations <= 0.06


@dataclass(frozen=True)
class Study:
    """Made-up trainings: centres of the pictures' logits of each method, and by how much seeds move them, shared and alone."""

    centres: tuple[float, ...]
    images: int
    shared: float
    own: float | tuple[float, ...]

    def accuracies(self, random: np.random.Generator, hardness: np.ndarray, *, seeds: int) -> np.ndarray:
        """By method and seed: a picture is right with a chance that its hardness, the method and the seed give."""
        methods = len(self.centres)
        own = np.broadcast_to(np.array(self.own).reshape(-1, 1), (methods, seeds))
        moved = self.shared * random.normal(size=seeds) + own * random.normal(size=(methods, seeds))
        logits = (np.array(self.centres)[:, None] + moved)[..., None] + hardness
        return 100 * (random.random(logits.shape) < special.expit(logits)).mean(axis=-1)


def coverage(study: Study, *, seeds: int, simulations: int) -> np.ndarray:
    """In how many of a hundred simulations the interval of each method held the mean over all seeds there are."""
    random = np.random.default_rng(11)
    hardness = 3 * random.normal(size=study.images)
    made = [layout(study.accuracies(random, hardness, seeds=seeds), images=study.images) for _ in range(simulations)]
    truths = np.mean([found.values for found in made], axis=(0, 2))
    halves = np.array([[found.half_interval(method) for method in found.methods] for found in made])
    means = np.array([found.values.mean(axis=1) for found in made])
    return 100 * (abs(means - truths) <= halves).mean(axis=0)


DEMO = Study((7.5, 6.0, 4.5, 5.0), images=450, shared=0.1, own=0.1)
COMPARED = Study(tuple(np.linspace(-1, 1, 15)), images=1000, shared=0.12, own=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("study", [DEMO, COMPARED], ids=["demo", "compared"])
def test_intervals_over_seeds_cover_the_mean(study: Study, seeds: int):
    """As many methods and pictures as in our results, or nearly, and seeds that move all methods, as there."""
    found = coverage(study, seeds=seeds, simulations=1500)
    assert 93 <= found.mean() <= 97
    assert found.min() >= 90


@pytest.mark.slow
def test_an_unsteady_method_is_covered_less_and_the_docstring_says_how_much():
    random, spreads, hit, wrong = np.random.default_rng(2), np.repeat([0.4, 0.8, 2.0], 5)[:, None], np.zeros(15), 0
    for _ in range(3000):
        made = layout(np.round(50 + spreads * random.normal(size=(15, 3)), 2), images=10_000)
        hit += [abs(made.mean(method) - 50) <= made.half_interval(method) for method in made.methods]
        wrong += bool(np.ptp(made.values.mean(axis=1)) > made.least_difference())
    assert wrong / 3000 == pytest.approx(0.2, abs=0.03)
    assert (hit / 3000)[-5:].mean() == pytest.approx(0.87, abs=0.015)
    assert (hit / 3000)[:5].min() > 0.97


@pytest.mark.slow
def test_the_old_interval_did_not_cover_it():
    """Each method by its own three seeds, on a coarse grid, as it was: some agree exactly, and the interval is a point."""
    study = Study((9.0, 9.5, 10.0, 10.5), images=450, shared=0.0, own=0.0)
    random = np.random.default_rng(11)
    hardness = 3 * random.normal(size=study.images)
    values = np.array([study.accuracies(random, hardness, seeds=3) for _ in range(1500)])
    halves = stats.t.ppf(0.975, 2) * values.std(axis=2, ddof=1) / np.sqrt(3)
    old = 100 * (abs(values.mean(axis=2) - values.mean(axis=(0, 2))) <= halves).mean(axis=0)
    assert old.min() < 80
    assert coverage(study, seeds=3, simulations=1500).min() >= 93
