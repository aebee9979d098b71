"""What the numbers show, in sentences; nothing that an interval does not show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dat.report.tables import (
    BASELINE,
    DASH,
    Comparison,
    Estimate,
    comparison_table,
    method_title,
    number,
    seeds_text,
    suite_title,
)
from dat.results import Row

FEW_SEEDS = 10
PLACES = {"clean": "on clean images", "fgsm": "under FGSM", "c": "on the corruptions"}
VERDICTS = {1: "beats", -1: "loses to", 0: "cannot be told apart from"}


def reading(rows: Iterable[Row], *, mixed: bool = False) -> list[str]:
    """An honest text: DAT against the others, every test set, codes and cost, then how far the numbers carry.

    Raises:
        UsageError, DataError: as `comparison_table`.
    """
    return sentences(comparison_table(rows, mixed=mixed))


def sentences(comparison: Comparison) -> list[str]:
    """The text of a comparison; each entry speaks of one thing."""
    found = [verdicts(comparison)]
    found += [on_suite(comparison, suite) for suite in comparison.suites]
    found += [modified_codes(comparison), cost(comparison), seeds(comparison), width(comparison)]
    return [text for text in found if text]


def verdicts(comparison: Comparison) -> str:
    """Whether DAT beats each other method on each test set, by the paired interval."""
    others = [method for method in comparison.methods if method != "dat"]
    if "dat" not in comparison.methods or not others:
        return ""
    found = [clause for other in others if (clause := verdict(comparison, other))]
    if not found:
        return "Whether DAT is better cannot be said: it shares fewer than two seeds with every other method."
    return "Paired by seed, " + "; ".join(found) + "."


def verdict(comparison: Comparison, other: str) -> str:
    """DAT against one method: the test sets where it beats it, loses to it, or where that stays open."""
    places: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for suite in comparison.suites:
        value = comparison.difference(suite, "dat", to=other)
        if value and value.interval:
            places[value.sign].append(place(suite))
    clauses = [f"{VERDICTS[sign]} {{}} {listed(where)}" for sign, where in places.items() if where]
    names = [called(other), *["it"] * (len(clauses) - 1)]
    return "DAT " + listed([clause.format(name) for clause, name in zip(clauses, names, strict=True)]) if clauses else ""


def on_suite(comparison: Comparison, suite: str) -> str:
    """The highest mean of a test set, what overlaps it, and every method against the baseline."""
    return " ".join(filter(None, [highest(comparison, suite), against_baseline(comparison, suite)]))


def highest(comparison: Comparison, suite: str) -> str:
    """Which mean is highest, and whether that makes it the best."""
    found = {method: value for method in comparison.methods if (value := comparison.estimate(suite, method))}
    if not found:
        return ""
    top = max(found, key=lambda method: found[method].mean)
    begin = f"{suite_title(suite)}: the highest mean is that of {called(top)}, {with_interval(found[top])}"
    marks = comparison.marks(suite)
    if len(found) < 2:
        return begin + "; no other method was measured."
    if not marks:
        return begin + "; with a single seed in the comparison, no method can be called the best."
    tied = [called(method) for method in marks if method != top]
    if tied:
        return begin + f"; its interval overlaps {genitive(tied)}, so the order is open."
    return begin + "; its interval overlaps no other, so it is the best."


def against_baseline(comparison: Comparison, suite: str) -> str:
    """Paired differences to the baseline; which of their intervals exclude 0."""
    others = [method for method in comparison.methods if method != BASELINE]
    found = {m: value for m in others if (value := comparison.difference(suite, m)) and value.interval}
    if not found:
        return ""
    clauses = [f"{called(method)} {difference(value)}" for method, value in found.items()]
    return f"Against {called(BASELINE)}, paired by seed, in points with 95 % intervals: {'; '.join(clauses)}."


def difference(value: Estimate) -> str:
    """A difference with its interval and whether that excludes 0."""
    assert value.interval is not None
    low, high = (number(end, decimals=2, signed=True) for end in value.interval)
    mean = number(value.mean, decimals=2, signed=True)
    return f"{mean} ({low} to {high}, {'excludes' if value.sign else 'includes'} 0)"


def with_interval(value: Estimate) -> str:
    """A percentage, with its interval where there is one."""
    mean = f"{number(value.mean)} %"
    if value.interval is None:
        return f"{mean} (one seed, no interval)"
    low, high = map(number, value.interval)
    return f"{mean} (95 % interval {low} to {high})"


def modified_codes(comparison: Comparison) -> str:
    """How many codes the adversary changes against the model of each method."""
    found = {method: value for method in comparison.methods if (value := comparison.estimate("codes", method))}
    clauses = [f"{with_interval(value)} with {called(method)}" for method, value in found.items() if value.mean > 0]
    what = "Modified codes of the test images, under the discrete adversary against each trained model"
    return f"{what}: {listed(clauses)}." if clauses else ""


def cost(comparison: Comparison) -> str:
    """What a step costs, relative to the baseline."""
    others = [method for method in comparison.methods if method != BASELINE]
    found = {method: value for method in others if (value := comparison.ratio("cost", method))}
    clauses = [f"{number(value.mean, decimals=2)} times with {called(method)}" for method, value in found.items()]
    return f"A training step takes, relative to {called(BASELINE)}, {listed(clauses)}." if clauses else ""


def seeds(comparison: Comparison) -> str:
    """How many seeds stand behind the means, and what follows from so few."""
    count = seeds_text(comparison, comparison.suites, comparison.methods)
    if count == "1":
        return "Every method was run with one seed, so there is no interval and no ranking is claimed."
    few = int(count.split(DASH)[0]) < FEW_SEEDS
    wide = " With so few, the intervals are wide, and a difference that stays open may still be real." * few
    fixed = " The intervals are over seeds on the same test images; other images would add their own spread."
    return f"All means are over {count} seeds.{wide}{fixed}"


def width(comparison: Comparison) -> str:
    """How many paired comparisons were made, and intervals of no width, which say little."""
    pairs = [
        value
        for suite in comparison.suites
        for method in comparison.methods
        for to in {BASELINE, "dat"} & set(comparison.methods)
        if method != to and (value := comparison.difference(suite, method, to=to)) and value.interval
    ]
    text = (
        "The paired intervals are not corrected for their number: where there is no difference at all, about one in "
        "twenty excludes 0 by chance."
    )
    flat = " An interval of no width, from seeds that gave one and the same number, says little about other seeds."
    return (text + flat * any(pair.interval and pair.interval[0] == pair.interval[1] for pair in pairs)) * bool(pairs)


def called(method: str) -> str:
    """The name of a method within a sentence."""
    title = method_title(method)
    return title if title.isupper() else title[:1].lower() + title[1:]


def place(suite: str) -> str:
    """Where a comparison was made, within a sentence."""
    return PLACES.get(suite, f"on {suite_title(suite)}")


def genitive(names: Sequence[str]) -> str:
    """`that of AT`, `those of AT and standard`."""
    return f"{'that' if len(names) == 1 else 'those'} of {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
