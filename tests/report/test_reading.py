from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import full_rows, row, rows_of

from dat.report.reading import listed, reading
from dat.report.tables import MINUS, comparison_table
from dat.results import Row

LOW, HIGH = [80.0, 80.5, 81.0], [90.0, 90.5, 91.2]
BETWEEN = [80.2, 80.1, 81.3]


def test_a_clear_win():
    text = reading(rows_of("clean", {"standard": LOW, "dat": HIGH}))
    assert text[0] == "Paired by seed, DAT beats standard on clean images."
    assert "the highest mean is that of DAT, 90.6 %" in text[1]
    assert "it differs from every other, so it is the best" in text[1]
    assert "excludes 0" in text[1]


def test_an_open_order_claims_nothing():
    text = reading(rows_of("clean", {"standard": LOW, "dat": BETWEEN}))
    assert text[0] == "Paired by seed, DAT cannot be told apart from standard on clean images."
    assert "it cannot be told apart from standard, so which of them is best is open" in text[1]
    assert "includes 0" in text[1]
    assert not any("beats" in sentence or "it is the best" in sentence for sentence in text)


def test_a_loss_is_said():
    text = reading(rows_of("fgsm", {"at": HIGH, "dat": LOW}) + rows_of("clean", {"at": LOW, "dat": HIGH}))
    assert text[0] == "Paired by seed, DAT beats AT on clean images and loses to it under FGSM."
    assert text[2].startswith("FGSM: the highest mean is that of AT")


def test_intervals_of_means_that_overlap_deny_no_difference():
    text = reading(rows_of("clean", {"standard": [10.0, 50.0, 90.0], "dat": [11.0, 51.1, 90.9]}))
    assert "beats standard" in text[0]
    assert "it differs from every other, so it is the best" in text[1]
    assert "excludes 0" in text[1]


def test_one_seed_ranks_nothing():
    text = reading([row("clean", 80, method="standard"), row("clean", 99)])
    assert text[0].startswith("Whether DAT is better cannot be said")
    assert "no method can be called the best" in text[1]
    assert any("one seed" in sentence and "no ranking" in sentence for sentence in text)
    assert not any("excludes" in sentence or "beats" in sentence for sentence in text)


def test_few_seeds_are_called_few_and_many_are_not():
    assert any("intervals are wide" in text for text in reading(rows_of("clean", {"standard": LOW, "dat": HIGH})))
    many = rows_of("clean", {"standard": LOW * 4, "dat": HIGH * 4})
    assert any("over 12 seeds." in text for text in reading(many))
    assert not any("intervals are wide" in text for text in reading(many))


def test_no_common_seeds_are_called_so():
    rows = [row("clean", 80 + seed, method=m, seed=seed) for m, seeds in (("at", (0, 1)), ("dat", (1, 2))) for seed in seeds]
    text = reading(rows)
    assert text[0].startswith("Whether DAT is better cannot be said")
    assert "with fewer than two common seeds in the comparison, no method can be called the best" in text[1]
    assert not any("one in twenty" in sentence for sentence in text)


def test_what_the_intervals_allow_for_is_said():
    assert any("for all pairs of methods on one test set at once" in sentence for sentence in reading(full_rows()))


def test_codes_and_cost_are_said():
    text = " ".join(reading(full_rows()))
    assert "Modified codes" in text
    assert "10.7 % (95 % interval 9.9 to 11.5) with random codes and 11.8 %" in text
    assert "2.03 times with AT, 1.59 times with random codes and 3.25 times with DAT" in text


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
    assert reading(rows_of("clean", {"standard": LOW, "at": HIGH}))[0].startswith("Clean: the highest mean is that of AT")


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
        assert (f"DAT beats {name} " in text[0]) == (sign == 1)
        assert (f"DAT loses to {name} " in text[0]) == (sign == -1)
    assert any("so it is the best" in sentence for sentence in text) == ("best" in comparison.marks("clean").values())


def test_many_methods_are_told_in_short():
    """Nobody reads fourteen intervals in a row: what is shown is named, the rest is counted."""
    worse, better = [70.0, 70.4, 71.1], [95.0, 95.4, 96.1]
    values = {"standard": LOW, "dat": HIGH, "at": worse, "augmix": better, "advprop": BETWEEN, "debiased": BETWEEN}
    values |= {"pyramid-at": BETWEEN, "deepaugment": BETWEEN}
    text = reading(rows_of("clean", values))
    assert text[0].startswith("Paired by seed, on clean images DAT beats standard, AT, AdvProp, ")
    assert "loses to AugMix" in text[0]
    assert "above it are AugMix (+15.0) and DAT (+10.1); below it are AT (" in text[1]
    assert "of 4 the difference is open" in text[1]
    assert max(map(len, text)) < 400
