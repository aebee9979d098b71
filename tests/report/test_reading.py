import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_run import full_rows, row, rows_of

from dat.report.layout import Seed, rounding_of
from dat.report.reading import listed, opening, place, reading, sentences
from dat.report.tables import MINUS, Comparison, comparison_table
from dat.results import Row

LOW, HIGH = [80.0, 80.5, 81.0], [90.0, 90.5, 91.2]
BETWEEN = [80.2, 80.1, 81.3]
GRID = rounding_of(450)


def test_the_first_sentence_says_whether_it_helped_on_what_and_at_what_cost():
    """By numbers that can be counted by hand: differences of 9.5, 10 and 10.2 and of -0.5, 0 and 0.5, two of two test sets."""
    rows = rows_of("clean", {"standard": [80.0, 80.5, 81.0], "dat": [80.5, 80.5, 80.5]})
    rows += rows_of("fgsm", {"standard": [10.0, 10.5, 11.0], "dat": [19.5, 20.5, 21.2]})
    rows += rows_of("cost", {"standard": [1.0, 2.0, 1.0], "dat": [3.0, 7.0, 3.25]})
    widths = [stats.t.ppf(1 - 0.05 / 4, 2) * np.sqrt((spread + 2 * GRID) / 3) for spread in (0.25, 0.13)]
    (low, high), (below, above) = ((mean - width, mean + width) for mean, width in zip((0, 9.9), widths, strict=True))
    text = reading(rows)
    assert text[0] == (
        f"Against standard training, DAT helped under FGSM (+9.90 points, 95 % interval +{below:.2f} to +{above:.2f}) and made "
        f"no difference that can be told on clean images (+0.00, {low:+.2f} to {high:+.2f}); a training step took 3.25 times "
        "as long (3.00 to 3.50 over 3 seeds)."
    ).replace("-", MINUS)
    assert text[1].startswith("Clean: the highest mean is that of ")


PAID = rows_of("clean", {"standard": LOW, "dat": [70.0, 70.5, 71.2]})
OPEN = rows_of("c", {"standard": LOW, "dat": BETWEEN})
GAINED = rows_of("fgsm", {"standard": LOW, "dat": HIGH})
COST = rows_of("cost", {"standard": [1.0, 2.0, 1.0], "dat": [3.0, 7.0, 3.25]})


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [*PAID, *OPEN, *GAINED, *COST],
            "DAT helped under FGSM (+10.1 points) and hurt on clean images (-9.9), at 3.2 times the cost of a step; on the "
            "corruptions it is open.",
        ),
        (GAINED, "DAT helped under FGSM (+10.1 points); its cost was not measured."),
        ([*OPEN, *COST], "DAT made no difference that can be told on the corruptions, at 3.2 times the cost of a step."),
    ],
)
def test_a_page_opens_with_what_helped_what_hurt_and_what_it_cost(rows: list[Row], said: str):
    assert opening(comparison_table(rows)) == f"Against standard training, {said}".replace("-", MINUS)


def test_the_opening_of_many_methods_counts_them():
    values = {"standard": LOW, "at": HIGH, "augmix": [85.0, 85.5, 86.2], "advprop": [70.0, 70.5, 71.1]}
    rows = rows_of("clean", values) + rows_of("fgsm", dict.fromkeys(values, BETWEEN))
    rows += rows_of("cost", {method: [1.0 + place] * 3 for place, method in enumerate(values)})
    assert opening(comparison_table(rows)) == (
        "Against standard training, of 3 methods on clean images 2 helped (most: AT, +10.1 points) and 1 hurt; under FGSM none "
        "helped; at 2.0 to 4.0 times the cost of a step."
    )


def test_the_opening_claims_nothing_of_one_seed_or_without_the_baseline():
    few = comparison_table(rows_of("clean", {"standard": [80.0], "dat": [99.0]}))
    assert opening(few) == "Whether DAT helped against standard training cannot be told (one seed: no interval)."
    several = comparison_table(rows_of("clean", {"standard": [80.0], "at": [99.0], "augmix": [99.0]}))
    assert (
        opening(several) == "Whether any of 2 methods helped against standard training cannot be told (one seed: no interval)."
    )
    assert opening(comparison_table(rows_of("clean", {"at": LOW, "dat": HIGH}))) == ""
    assert opening(answered([], seeds=1)) == (
        "Of these models alone, against standard training, DAT was above it on clean images (+2.2 points); its cost was not "
        "measured."
    )


def test_a_clear_win():
    text = reading(rows_of("clean", {"standard": LOW, "dat": HIGH}))
    assert text[0].startswith("Against standard training, DAT helped on clean images (+10.07 points, 95 % interval +9.")
    assert text[0].endswith("; what it cost was not measured.")
    assert "the highest mean is that of DAT, 90.6 %" in text[1]
    assert "it differs from every other, so it is the best" in text[1]
    assert "excludes 0" in text[1]


def test_an_open_order_claims_nothing():
    text = reading(rows_of("clean", {"standard": LOW, "dat": BETWEEN}))
    assert text[0].startswith(
        "Against standard training, DAT made no difference that can be told on clean images (+0.03 points"
    )
    assert "it cannot be told apart from standard, so which of them is best is open" in text[1]
    assert "includes 0" in text[1]
    assert not any("beats" in sentence or "helped" in sentence or "it is the best" in sentence for sentence in text)


def test_a_loss_is_said():
    text = reading(rows_of("fgsm", {"at": HIGH, "dat": LOW}) + rows_of("clean", {"at": LOW, "dat": HIGH}))
    assert text[0] == "Paired by seed, DAT beats AT on clean images and loses to it under FGSM."
    assert text[2].startswith("FGSM: the highest mean is that of AT")
    text = reading(rows_of("fgsm", {"standard": HIGH, "dat": LOW}))
    assert text[0].startswith(f"Against standard training, DAT hurt under FGSM ({MINUS}10.07 points")


def test_intervals_of_means_that_overlap_deny_no_difference():
    text = reading(rows_of("clean", {"standard": [10.0, 50.0, 90.0], "dat": [11.0, 51.1, 90.9]}))
    assert "DAT helped on clean images (+1.00 points" in text[0]
    assert "it differs from every other, so it is the best" in text[1]
    assert "excludes 0" in text[1]


@pytest.mark.parametrize(("seeds", "words"), [(1, "one seed"), (2, "two seeds")])
def test_one_or_two_seeds_rank_nothing(seeds: int, words: str):
    """Two that differ by the same at both would else be a point far from 0."""
    text = reading(rows_of("clean", {"standard": [80.0] * seeds, "dat": [99.0] * seeds}))
    assert text[0] == (
        f"Whether DAT helped against standard training cannot be told ({words}: no interval); the means differ by +19.00 "
        "points on clean images; what it cost was not measured."
    )
    assert f"99.0 % ({words}: no interval); no method can be called the best" in text[1]
    assert any(f"run with {words}: no interval (3 are the fewest), and no ranking" in sentence for sentence in text)
    assert not any("excludes" in sentence or "beats" in sentence or "helped on" in sentence for sentence in text)


def test_of_a_few_methods_without_dat_each_has_its_sentence_and_of_more_they_are_counted():
    few = reading(rows_of("clean", {"standard": LOW, "at": HIGH, "augmix": BETWEEN}))
    assert few[0].startswith("Against standard training, AT helped on clean images (+10.07 points")
    assert few[1].startswith("Against standard training, AugMix made no difference that can be told on clean images (+0.03")
    values = {"standard": LOW, "at": HIGH, "augmix": BETWEEN, "advprop": [70.0, 70.5, 71.1], "debiased": BETWEEN}
    rows = rows_of("clean", values) + rows_of("fgsm", dict.fromkeys(values, BETWEEN))
    rows += rows_of("cost", {method: [1.0 + place] * 3 for place, method in enumerate(values)})
    text = reading(rows)[0]
    assert text.startswith(
        "Against standard training, on clean images 1 of 4 methods helped (most: AT, +10.07 points, 95 % interval +"
    )
    assert ") and 1 hurt; under FGSM none of 4 methods made a difference that can be told; a training step took from " in text
    assert text.endswith("with AT to 5.00 times as long (5.00 to 5.00 over 3 seeds) with Debiased.")


def test_what_a_single_seed_cost_has_no_spread():
    rows = rows_of("clean", {"standard": [80.0], "dat": [81.0]}) + rows_of("cost", {"standard": [2.0], "dat": [5.0]})
    text = reading(rows)
    assert text[0].endswith("; a training step took 2.50 times as long (one seed, no spread).")
    assert any("2.50 times with DAT (one seed, no spread)" in sentence for sentence in text)


def test_few_seeds_are_called_few_and_many_are_not():
    assert any("With so few, they are wide" in text for text in reading(rows_of("clean", {"standard": LOW, "dat": HIGH})))
    many = rows_of("clean", {"standard": LOW * 4, "dat": HIGH * 4})
    assert any("over 12 seeds." in text for text in reading(many))
    assert not any("they are wide" in text for text in reading(many))


def test_no_common_seeds_are_called_so():
    found = [(m, seed) for m, seeds in (("at", (0, 1, 2)), ("dat", (1, 2, 3))) for seed in seeds]
    text = reading([row("clean", 80 + seed, method=method, seed=seed) for method, seed in found])
    assert text[0] == "Whether DAT is better than another method cannot be said: fewer than 3 common seeds: no interval."
    assert "no method can be called the best (fewer than 3 common seeds: no interval)" in text[1]
    assert not any("one in twenty" in sentence for sentence in text)


def answered(rows: list[Row], *, seeds: int) -> Comparison:
    """The comparison of two methods on clean pictures with answers: DAT gets ten pictures right that standard does not."""
    right = {method: np.arange(450) < count for method, count in (("standard", 300), ("dat", 310))}
    answers: dict[tuple[str, Seed], dict[str, np.ndarray]] = {
        (method, seed): {"clean": right[method]} for method in right for seed in range(seeds)
    }
    return comparison_table(
        [*rows_of("clean", {m: [100 * r.mean()] * seeds for m, r in right.items()}), *rows], answers=answers
    )


def test_answers_per_picture_are_used_and_the_text_says_so():
    text = sentences(answered([], seeds=3))
    assert text[0].startswith("Against standard training, DAT helped on clean images (+2.22 points, 95 % interval +0.")
    assert any("Intervals are over 3 seeds and the pictures together (a mixed model" in sentence for sentence in text)
    assert not any("no answers per picture" in sentence for sentence in text)


def test_with_answers_one_seed_speaks_of_its_models_alone():
    comparison = answered([], seeds=1)
    text = sentences(comparison)
    assert text[0].startswith(
        "Against standard training, of these models alone (one seed), DAT was above it on clean images (+2.22"
    )
    assert "no method can be called the best (one seed of each method, and other seeds may give another order)" in text[1]
    assert not any("helped" in sentence or "it is the best" in sentence for sentence in text)
    assert comparison.marks("clean") == {}


def test_the_comparisons_are_counted():
    text = " ".join(reading(full_rows()))
    assert "corrected for 18 comparisons: all 6 pairs of methods (Tukey's range) on each of 3 test sets (Bonferroni)" in text
    alone = " ".join(reading(rows_of("clean", {"standard": LOW, "dat": HIGH})))
    assert "there is one comparison, so nothing to correct for" in alone


def test_what_the_intervals_allow_for_is_said():
    assert any("one in twenty shows a difference by chance" in sentence for sentence in reading(full_rows()))


def test_codes_and_cost_are_said():
    text = " ".join(reading(full_rows()))
    assert "Modified codes" in text
    assert "10.7 % (95 % interval 9.9 to 11.5) with random codes and 11.8 %" in text
    assert re.search(r"2.03 times with AT \(\d.\d\d to \d.\d\d over 3 seeds\), 1.59 times with random codes \(", text)
    assert re.search(r" and 3.25 times with DAT \(\d.\d\d to \d.\d\d over 3 seeds\)", text)


def words(method: str, adversarial: list[float], random: list[float], *, half: float = 0.05) -> list[Row]:
    """Losses by seed, from 0.5 at Q(x) on, and the rate of a random step; `half` the interval of their difference."""
    losses = {"reconstruction": [0.5] * len(random), "adversarial": adversarial, "random": random}
    found = [
        row(f"words/{shown}", value, method=method, seed=seed, metric="loss")
        for shown, values in losses.items()
        for seed, value in enumerate(values)
    ]
    rates = [row("codes/random", 6.5, method=method, seed=seed, metric="modified_code_rate") for seed in range(len(random))]
    gaps = [above - below for above, below in zip(adversarial, random, strict=True)]
    found += [
        row("words/adversarial", gap, method=method, seed=seed, metric="loss_above_random", n=100, ci=(gap - half, gap + half))
        for seed, gap in enumerate(gaps)
    ]
    return [*found, *rates, *rows_of("clean", {method: [80.0] * len(random)})]


def test_the_words_of_an_adversary_are_told_by_the_loss_and_not_by_their_number():
    text = " ".join(reading(words("dat", [0.9, 1.1], [0.51, 0.53]) + words("standard", [0.7, 0.7], [0.49, 0.49])))
    assert "A random step of the same length modifies 6.5 % of these codes, so their share says how long a step is" in text
    assert f"from Q(x), the adversary raises it by 0.2 to 0.5, the random step by {MINUS}0.01 to 0.02." in text
    assert "it is none there" not in text
    assert "chance: whether" not in text


def test_an_adversary_that_lowers_the_loss_beyond_chance_is_called_none():
    text = " ".join(reading(words("dat", [0.4, 0.3], [0.51, 0.53]) + words("standard", [0.7, 0.7], [0.49, 0.49])))
    assert "Against DAT the adversary's loss is below that of the random step beyond chance: it is none there." in text
    assert "chance: whether" not in text


def test_of_an_adversary_within_chance_nothing_is_claimed():
    """Whether its mean is above or below that of the random step."""
    rows = words("dat", [0.54, 0.50], [0.51, 0.53]) + words("standard", [0.9, 0.52], [0.49, 0.51])
    text = " ".join(reading(rows))
    assert "Against DAT and standard (seed 1) the two may differ by chance: whether it is an adversary there is open." in text
    assert "none there" not in text
    few = [replace(each, ci=None, n=1) for each in rows]
    assert "Against DAT and standard the two may differ by chance" in " ".join(reading(few))


def test_without_dat_there_is_no_verdict_on_it():
    assert reading(rows_of("clean", {"augmix": LOW, "at": HIGH}))[0].startswith("Clean: the highest mean is that of AT")
    assert not any("DAT" in text for text in reading(rows_of("clean", {"standard": LOW, "at": HIGH})))


@pytest.mark.parametrize(("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_listed(names: list[str], text: str):
    assert listed(names) == text


values = st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(values, values, values)
def test_never_claims_what_the_interval_does_not_show(standard: list[float], at: list[float], dat: list[float]):
    rows = rows_of("clean", {"standard": standard, "at": at, "dat": dat})
    comparison, text = comparison_table(rows), reading(rows)
    for other, name in (("standard", "standard"), ("at", "AT")):
        difference = comparison.difference("clean", "dat", to=other)
        sign = difference.sign if difference else 0
        assert (f"DAT beats {name} " in text[1]) == (sign == 1)
        assert (f"DAT loses to {name} " in text[1]) == (sign == -1)
        if other == "standard":
            assert [f"DAT {verb} on" in text[0] for verb in ("helped", "hurt")] == [sign == 1, sign == -1]
    assert any("so it is the best" in sentence for sentence in text) == ("best" in comparison.marks("clean").values())


def test_many_methods_are_told_in_short():
    """Nobody reads fourteen intervals in a row: what is shown is named, the rest is counted."""
    worse, better = [70.0, 70.4, 71.1], [95.0, 95.4, 96.1]
    values = {"standard": LOW, "dat": HIGH, "at": worse, "augmix": better, "advprop": BETWEEN, "debiased": BETWEEN}
    values |= {"pyramid-at": BETWEEN, "deepaugment": BETWEEN}
    text = reading(rows_of("clean", values))
    assert text[1].startswith("Paired by seed, on clean images DAT beats standard, AT, AdvProp, ")
    assert "loses to AugMix" in text[1]
    assert "above it are AugMix (+15.0) and DAT (+10.1); below it are AT (" in text[2]
    assert "of 4 the difference is open" in text[2]
    assert max(map(len, text)) < 420


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("clean", "on clean images"),
        ("clean@snow", "on clean images of the set snow"),
        ("c@snow", "on the corruptions of the set snow"),
        ("fgsm@snow", "under FGSM on the set snow"),
        ("sketch@snow", "on Sketch of the set snow"),
    ],
)
def test_where_it_was_measured_is_said_with_the_name_of_the_set(suite: str, said: str) -> None:
    assert place(suite) == said
