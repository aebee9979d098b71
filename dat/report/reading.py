"""What the numbers show, in sentences; nothing that the paired intervals of the tables do not show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from dat.evaluation.intervals import CERTAIN_OF_SIGN
from dat.report.tables import (
    BASELINE,
    DASH,
    MINUS,
    Comparison,
    Estimate,
    comparison_table,
    estimate,
    method_title,
    number,
    seeds_text,
    suite_title,
)
from dat.results import Row, without_set

FEW_SEEDS = 10
MANY_METHODS = 6
"""From here on the text says which differences are shown, and leaves every number to the tables."""
WORDS = ("standard", "random-codes")
"""Methods whose titles are words, not names."""

PLACES = {"clean": "on clean images", "fgsm": "under FGSM", "c": "on the corruptions"}
NO_ADVERSARY = {
    -1: "the adversary's loss is below that of the random step beyond chance: it is none there",
    0: "the two may differ by chance: whether it is an adversary there is open",
}
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
    found += [modified_codes(comparison), changed_words(comparison), cost(comparison), seeds(comparison), chance(comparison)]
    return [text for text in found if text]


def verdicts(comparison: Comparison) -> str:
    """Whether DAT beats each other method on each test set, by the paired interval."""
    others = [method for method in comparison.methods if method != "dat"]
    if "dat" not in comparison.methods or not others:
        return ""
    found = [clause for other in others if (clause := verdict(comparison, other))]
    if not found:
        return "Whether DAT is better cannot be said: it shares fewer than two seeds with every other method."
    if len(others) >= MANY_METHODS:
        clauses = [f"{place(suite)} DAT {sides(comparison, suite, 'dat')}" for suite in comparison.suites]
        return f"Paired by seed, {'; '.join(clauses)}."
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


def sides(comparison: Comparison, suite: str, method: str) -> str:
    """Which methods one method beats on a test set, which beat it, and of how many the order is open."""
    found: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for other in comparison.methods:
        value = comparison.difference(suite, method, to=other) if other != method else None
        if value and value.interval:
            found[value.sign].append(called(other))
    shown = [f"{VERDICTS[sign]} {listed(found[sign])}" for sign in (1, -1) if found[sign]]
    open_ones = f"against {len(found[0])} other{'s' * (len(found[0]) != 1)} the order is open"
    return ", ".join([*(shown or ["beats none"]), *[open_ones] * bool(found[0])])


def on_suite(comparison: Comparison, suite: str) -> str:
    """The highest mean of a test set, what cannot be told apart from it, and every method against the baseline."""
    return " ".join(filter(None, [highest(comparison, suite), against_baseline(comparison, suite)]))


def highest(comparison: Comparison, suite: str) -> str:
    """Which mean is highest, and whether that makes it the best."""
    found = {method: value for method in comparison.methods if (value := comparison.estimate(suite, method))}
    if not found:
        return ""
    top = comparison.highest(suite)
    begin = f"{comparison.title(suite)}: the highest mean is that of {called(top)}, {with_interval(found[top])}"
    marks = comparison.marks(suite)
    if len(found) < 2:
        return begin + "; no other method was measured."
    if not marks:
        why = "with a single seed" if any(value.seeds < 2 for value in found.values()) else "with fewer than two common seeds"
        return begin + f"; {why} in the comparison, no method can be called the best."
    tied = [called(method) for method in marks if method != top]
    if tied:
        whom = f"{len(tied)} others" if len(tied) >= MANY_METHODS else listed(tied)
        return begin + f"; it cannot be told apart from {whom}, so which of them is best is open."
    return begin + "; it differs from every other, so it is the best."


def against_baseline(comparison: Comparison, suite: str) -> str:
    """Paired differences to the baseline; which of their intervals exclude 0."""
    others = [method for method in comparison.methods if method != BASELINE]
    found = {m: value for m in others if (value := comparison.difference(suite, m)) and value.interval}
    if not found:
        return ""
    if len(found) >= MANY_METHODS:
        return against_baseline_in_short(found)
    clauses = [f"{called(method)} {difference(value)}" for method, value in found.items()]
    return f"Against {called(BASELINE)}, paired by seed, in points with 95 % intervals: {'; '.join(clauses)}."


def against_baseline_in_short(found: Mapping[str, Estimate]) -> str:
    """The methods whose difference to the baseline is shown, the largest first; of how many it is open."""
    ranked = sorted(found.items(), key=lambda pair: -pair[1].mean)
    words = {1: "above", -1: "below"}
    clauses = [
        f"{words[sign]} it are {listed([f'{called(m)} ({number(v.mean, signed=True)})' for m, v in ranked if v.sign == sign])}"
        for sign in (1, -1)
        if any(value.sign == sign for _, value in ranked)
    ]
    rest = sum(value.sign == 0 for value in found.values())
    clauses += [f"of {rest} the difference is open"] * bool(rest)
    return f"Against {called(BASELINE)}, paired by seed, in points: {'; '.join(clauses)}."


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
    if len(found) >= MANY_METHODS:
        low, high = (pick(found, key=lambda method: found[method].mean) for pick in (min, max))
        return (
            "Modified codes of the test images, under the discrete adversary against each trained model: from "
            f"{number(found[low].mean)} % with {called(low)} to {number(found[high].mean)} % with {called(high)}."
        )
    clauses = [f"{with_interval(value)} with {called(method)}" for method, value in found.items() if value.mean > 0]
    what = "Modified codes of the test images, under the discrete adversary against each trained model"
    return f"{what}: {listed(clauses)}." if clauses else ""


def changed_words(comparison: Comparison) -> str:
    """What the adversary's words do to the loss, beside those of a random step: what their number cannot tell."""
    found = {method: value for method in comparison.methods if (value := raised(comparison, method, "adversarial"))}
    blind = {method: value for method in found if (value := raised(comparison, method, "random"))}
    rates = [value.mean for method in blind if (value := comparison.estimate("codes/random", method))]
    if not blind or not rates:
        return ""
    return (
        f"A random step of the same length modifies {span(rates, number)} % of these codes, so their share says how long a "
        "step is, not that it is an adversary's. The mean loss says that: from Q(x), the adversary raises it by "
        f"{span([value.mean for value in found.values()], loss)}, the random step by "
        f"{span([value.mean for value in blind.values()], loss)}." + no_adversary(comparison)
    )


def no_adversary(comparison: Comparison) -> str:
    """Against whose models the step is none, and against whose that is open, by the rule of the self-test."""
    found = [f" Against {listed(m)} {said}." for sign, said in NO_ADVERSARY.items() if (m := models_of(comparison, sign))]
    return "".join([*found, f" (A paired t-test over the pictures, each side at {CERTAIN_OF_SIGN}.)"]) if found else ""


def models_of(comparison: Comparison, sign: int) -> list[str]:
    """Methods with an adversary of this sign, each with its seeds where that is not so of all."""
    found = []
    for method, signs in comparison.adversaries.items():
        seeds = [str(seed) for seed, of_model in signs.items() if of_model == sign]
        where = f" (seed {listed(seeds)})" if len(seeds) < len(signs) else ""
        found += [f"{called(method)}{where}"] * bool(seeds)
    return found


def raised(comparison: Comparison, method: str, shown: str) -> Estimate | None:
    """By how much the mean loss is higher on what the model is shown than on the reconstruction."""
    before, after = (comparison.scores.get(f"words/{name}", {}).get(method, {}) for name in ("reconstruction", shown))
    return estimate([value - before[seed] for seed, value in after.items() if seed in before], n=0)


def span(values: Sequence[float], spelled: Callable[[float], str]) -> str:
    """`1.2`, or `1.2 to 3.4` where they differ as they are written."""
    return " to ".join(dict.fromkeys(map(spelled, (min(values), max(values)))))


def loss(value: float) -> str:
    """A difference of losses to two digits."""
    return f"{value:.2g}".replace("-", MINUS)


def cost(comparison: Comparison) -> str:
    """What a step costs, relative to the baseline: the median over seeds of the ratio in the same seed."""
    others = [method for method in comparison.methods if method != BASELINE]
    found = {method: median(ratios) for method in others if (ratios := comparison.ratios("cost", method))}
    if len(found) >= MANY_METHODS:
        ends = (pick(found, key=lambda method: found[method]) for pick in (min, max))
        clauses = [f"{number(found[method], decimals=2)} times with {called(method)}" for method in ends]
        return f"A training step takes, relative to {called(BASELINE)}, from {' to '.join(clauses)}."
    clauses = [f"{number(ratio, decimals=2)} times with {called(method)}" for method, ratio in found.items()]
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


def chance(comparison: Comparison) -> str:
    """What the paired intervals allow for, and what they do not."""
    if not any(comparison.layout(suite) and len(comparison.methods) > 1 for suite in comparison.suites):
        return ""
    return (
        "The paired intervals hold for all pairs of methods on one test set at once (Tukey's range on the residuals of method "
        "+ seed), not for all test sets: of test sets on which all methods are equal, about one in twenty shows a difference "
        "by chance."
    )


def called(method: str) -> str:
    """The name of a method within a sentence."""
    title = method_title(method)
    return title.lower() if method in WORDS else title


def place(suite: str) -> str:
    """Where a comparison was made, within a sentence."""
    plain, pictures = without_set(suite)
    return PLACES.get(plain, f"on {suite_title(plain)}") + f" of {pictures}" * bool(pictures)


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
