"""What the numbers show, in sentences; nothing that the paired intervals of the tables do not show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from dat.evaluation.intervals import CERTAIN_OF_SIGN
from dat.report.grounds import corrected, no_interval, over_each, paired_by, seeds_words
from dat.report.layout import FEWEST_SEEDS, Layout
from dat.report.tables import (
    BASELINE,
    DASH,
    MINUS,
    Comparison,
    Estimate,
    comparison_table,
    estimate,
    listed,
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

MOST_ASKED = 3
"""Of so many methods the first sentences speak one by one."""

PLACES = {
    "clean": "on clean images",
    "fgsm": "under FGSM",
    "c": "on the corruptions",
    "AP": "in AP",
    "FGSM, AP": "in AP under FGSM",
    "k-NN": "by k-NN",
    "Probe": "by the probe",
    "k-NN, FGSM": "by k-NN under FGSM",
    "Probe, FGSM": "by the probe under FGSM",
    "mPC": "in mPC",
    "k-NN, corr.": "by k-NN on the corruptions",
    "Probe, corr.": "by the probe on the corruptions",
}
POINTS = " points"
UNIT = f"{POINTS}, 95 % interval"
HELP = {1: "helped", -1: "hurt", 0: "made no difference that can be told"}
OF_MODELS = {1: "was above it", -1: "was below it", 0: "cannot be told apart from it"}
NO_ADVERSARY = {
    -1: "the adversary's loss is below that of the random step beyond chance: it is none there",
    0: "the two may differ by chance: whether it is an adversary there is open",
}
VERDICTS = {1: "beats", -1: "loses to", 0: "cannot be told apart from"}


def reading(rows: Iterable[Row], *, mixed: bool = False) -> list[str]:
    """An honest text: did it help, DAT against the others, every test set, codes and cost, then how far the numbers carry.

    Raises:
        UsageError, DataError: as `comparison_table`.
    """
    return sentences(comparison_table(rows, mixed=mixed))


def sentences(comparison: Comparison) -> list[str]:
    """The text of a comparison; each entry speaks of one thing."""
    found = [*lead(comparison), verdicts(comparison)]
    found += [on_suite(comparison, suite) for suite in comparison.suites]
    found += [modified_codes(comparison), changed_words(comparison), cost(comparison), seeds(comparison), chance(comparison)]
    return [text for text in found if text]


def lead(comparison: Comparison, suites: Sequence[str] = ()) -> list[str]:
    """The first sentence, or one for each of a few methods: did it help against the baseline, on what, at what cost?

    `suites`: on which, if not on all. Without the baseline it is not said.
    """
    shown = [*(suites or comparison.suites)]
    others = [method for method in comparison.methods if method != BASELINE]
    if BASELINE not in comparison.methods or not others:
        return []
    asked = ["dat"] if "dat" in others else others
    if len(asked) > MOST_ASKED:
        return [helped_of_many(comparison, others, shown)]
    return [helped(comparison, method, shown) for method in asked]


def opening(comparison: Comparison, suites: Sequence[str] = ()) -> str:
    """What a page begins with, in a line or two: did it help, on what, and what did it cost? `lead` has the intervals.

    `suites` as there; empty without the baseline or another method.
    """
    others = [method for method in comparison.methods if method != BASELINE]
    if BASELINE not in comparison.methods or not others:
        return ""
    asked, shown = ["dat"] if "dat" in others else others, [*(suites or comparison.suites)]
    return opening_of_one(comparison, asked[0], shown) if len(asked) == 1 else opening_of_many(comparison, asked, shown)


def opening_of_one(comparison: Comparison, method: str, suites: Sequence[str]) -> str:
    """`DAT helped under FGSM (+9.9 points), at 3.2 times the cost of a step; on clean images it is open.`"""
    told = {suite: gap for suite in suites if (gap := comparison.difference(suite, method)) and gap.interval}
    ratios = comparison.ratios("cost", method)
    price = f", at {number(median(ratios))} times the cost of a step" if ratios else ""
    if not told:
        why = comparison.why_unmarked(suites[0])
        return f"Whether {called(method)} helped against {called(BASELINE)} training cannot be told ({why}){price}."
    kind = layout_of_first(comparison, told).kind
    verbs, begin = (OF_MODELS, "Of these models alone, against") if kind == "pictures" else (HELP, "Against")
    signs = {sign: [place(s) + by_points(gap) for s, gap in told.items() if gap.sign == sign] for sign in verbs}
    certain = [f"{verbs[sign]} {listed(signs[sign])}" for sign in (1, -1) if signs[sign]]
    said = listed(certain) or f"{verbs[0]} {listed(signs[0])}"
    rest = f"; {listed(signs[0])} it is open" * bool(certain and signs[0])
    unknown = "; its cost was not measured" * (not ratios)
    return unit_once(f"{begin} {called(BASELINE)} training, {called(method)} {said}{price}{rest}{unknown}.", unit=POINTS)


def by_points(gap: Estimate) -> str:
    """` (+3.7 points)`; of a difference that cannot be told nothing."""
    return f" ({number(gap.mean, signed=True)}{POINTS})" if gap.sign else ""


def opening_of_many(comparison: Comparison, methods: Sequence[str], suites: Sequence[str]) -> str:
    """How many of several methods helped on each test set, the most helpful one by name, and what steps cost."""
    gaps = {s: {m: gap for m in methods if (gap := comparison.difference(s, m)) and gap.interval} for s in suites}
    told = {suite: found for suite, found in gaps.items() if found}
    if not told:
        why = comparison.why_unmarked(suites[0])
        return f"Whether any of {len(methods)} methods helped against {called(BASELINE)} training cannot be told ({why})."
    clauses = [f"{place(suite)} {counted_only(found)}" for suite, found in told.items()]
    costs = [median(ratios) for method in methods if (ratios := comparison.ratios("cost", method))]
    took = f"; at {span(costs, number)} times the cost of a step" * bool(costs)
    begin = f"Against {called(BASELINE)} training, of {len(methods)} methods"
    return unit_once(f"{begin} {'; '.join(clauses)}{took}.", unit=POINTS)


def counted_only(gaps: Mapping[str, Estimate]) -> str:
    """`3 helped (most: AT, +8.6 points) and 1 hurt`; `none helped`."""
    signs, top = [gap.sign for gap in gaps.values()], max(gaps, key=lambda method: gaps[method].mean)
    most = f" (most: {called(top)}, {by_points(gaps[top])[2:]}" if gaps[top].sign == 1 else ""
    hurt = f" and {signs.count(-1)} hurt" if -1 in signs else ""
    return f"{signs.count(1) or 'none'} helped{most}{hurt}"


def helped(comparison: Comparison, method: str, suites: Sequence[str]) -> str:
    """Whether one method helped against the baseline, where, by how much, and what a step of it cost."""
    gaps = {suite: gap for suite in suites if (gap := comparison.difference(suite, method))}
    told = {suite: gap for suite, gap in gaps.items() if gap.interval}
    baseline, took = f"{called(BASELINE)} training", f"; {step_took(comparison, method)}."
    if not told:
        return cannot_tell(comparison, method, gaps) + took
    layout = layout_of_first(comparison, told)
    verbs = OF_MODELS if layout.kind == "pictures" else HELP
    clauses = [
        f"{verbs[sign]} {listed([f'{place(suite)} {by_how_much(gap)}' for suite, gap in told.items() if gap.sign == sign])}"
        for sign in verbs
        if any(gap.sign == sign for gap in told.values())
    ]
    begin = f"Against {baseline}" + f", of these models alone ({seeds_words(len(layout.seeds))})" * (layout.kind == "pictures")
    return unit_once(f"{begin}, {called(method)} {listed(clauses)}{took}")


def unit_once(text: str, *, unit: str = UNIT) -> str:
    """A sentence that says with its first number alone what the others are, too."""
    first, *rest = text.split(unit)
    return f"{first}{unit}{(',' * (unit == UNIT)).join(rest)}" if rest else first


def cannot_tell(comparison: Comparison, method: str, gaps: Mapping[str, Estimate]) -> str:
    """That nothing is known of a method beside the baseline, and by how much the means differ."""
    begin = f"Whether {called(method)} helped against {called(BASELINE)} training cannot be told"
    if not gaps:
        return f"{begin}: they share no seed"
    means = [f"{number(gap.mean, decimals=2, signed=True)} points {place(suite)}" for suite, gap in gaps.items()]
    why = comparison.why_unmarked(next(iter(gaps)))
    return f"{begin} ({why}); the means differ by {listed(means)}"


def helped_of_many(comparison: Comparison, methods: Sequence[str], suites: Sequence[str]) -> str:
    """How many methods helped and hurt on each test set, the most helpful one by name, and what steps cost."""
    clauses = [clause for suite in suites if (clause := counted_helpful(comparison, methods, suite))]
    if not clauses:
        return f"Whether any of {len(methods)} methods helped against {called(BASELINE)} training cannot be told" + (
            f" ({comparison.why_unmarked(suites[0])})."
        )
    return unit_once(f"Against {called(BASELINE)} training, {'; '.join(clauses)}; {steps_took(comparison, methods)}.")


def counted_helpful(comparison: Comparison, methods: Sequence[str], suite: str) -> str:
    """`under FGSM 3 of 7 methods helped (most: AT, +8.58 points, ...) and 1 hurt`; empty without intervals."""
    gaps = {method: gap for method in methods if (gap := comparison.difference(suite, method)) and gap.interval}
    if not gaps:
        return ""
    signs = [gap.sign for gap in gaps.values()]
    if not any(signs):
        return f"{place(suite)} none of {len(gaps)} methods made a difference that can be told"
    top = max(gaps, key=lambda method: gaps[method].mean)
    most = f" (most: {called(top)}, {by_how_much(gaps[top])[1:]}" if gaps[top].sign == 1 else ""
    return f"{place(suite)} {signs.count(1)} of {len(gaps)} methods helped{most} and {signs.count(-1)} hurt"


def by_how_much(gap: Estimate) -> str:
    """`(+3.72 points, 95 % interval +1.19 to +6.25)`."""
    assert gap.interval is not None
    low, high = (number(end, decimals=2, signed=True) for end in gap.interval)
    return f"({number(gap.mean, decimals=2, signed=True)}{UNIT} {low} to {high})"


def step_took(comparison: Comparison, method: str) -> str:
    """`a training step took 3.67 times as long (3.20 to 4.65 over 3 seeds)`."""
    ratios = comparison.ratios("cost", method)
    return f"a training step took {times(ratios)}" if ratios else "what it cost was not measured"


def steps_took(comparison: Comparison, methods: Sequence[str]) -> str:
    """What steps of many methods took, from the cheapest to the dearest."""
    found = {method: ratios for method in methods if (ratios := comparison.ratios("cost", method))}
    if not found:
        return "what they cost was not measured"
    cheap, dear = (pick(found, key=lambda method: median(found[method])) for pick in (min, max))
    return f"a training step took from {times(found[cheap])} with {called(cheap)} to {times(found[dear])} with {called(dear)}"


def times(ratios: Sequence[float]) -> str:
    """The median of ratios with the lowest and the highest: `3.67 times as long (3.20 to 4.65 over 3 seeds)`."""
    return f"{number(median(ratios), decimals=2)} times as long ({spread_of(ratios)})"


def spread_of(ratios: Sequence[float]) -> str:
    """The lowest and the highest ratio; of one, that it has no spread."""
    if len(ratios) == 1:
        return "one seed, no spread"
    return f"{number(min(ratios), decimals=2)} to {number(max(ratios), decimals=2)} over {seeds_words(len(ratios))}"


def layout_of_first(comparison: Comparison, suites: Iterable[str]) -> Layout:
    """What the first of the test sets is judged by, of those that are."""
    return next(layout for suite in suites if (layout := comparison.layout(suite)))


def verdicts(comparison: Comparison) -> str:
    """Whether DAT beats each other method on each test set, by the paired interval; of the baseline alone, `lead` says it."""
    others = [method for method in comparison.methods if method != "dat"]
    if "dat" not in comparison.methods or others in ([], [BASELINE]):
        return ""
    found = [clause for other in others if (clause := verdict(comparison, other))]
    if not found:
        return f"Whether DAT is better than another method cannot be said: {comparison.why_unmarked(comparison.suites[0])}."
    begin = paired_by(layout_of_first(comparison, comparison.suites))
    if len(others) >= MANY_METHODS:
        clauses = [f"{place(suite)} DAT {sides(comparison, suite, 'dat')}" for suite in comparison.suites]
        return f"{begin}, {'; '.join(clauses)}."
    return f"{begin}, {'; '.join(found)}."


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
        return begin + f"; no method can be called the best ({comparison.why_unmarked(suite)})."
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
    paired = paired_by(layout_of_first(comparison, [suite]))
    begin = f"Against {called(BASELINE)}, {paired[0].lower()}{paired[1:]}, in points"
    if len(found) >= MANY_METHODS:
        return f"{begin}: {against_baseline_in_short(found)}."
    clauses = [f"{called(method)} {difference(value)}" for method, value in found.items()]
    return f"{begin} with 95 % intervals: {'; '.join(clauses)}."


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
    return "; ".join(clauses)


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
        return f"{mean} ({no_interval(value.seeds)})"
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
    """What a step costs, relative to the baseline: the median over seeds of the ratio in the same seed, and its spread."""
    others = [method for method in comparison.methods if method != BASELINE]
    found = {method: ratios for method in others if (ratios := comparison.ratios("cost", method))}
    begin = f"A training step takes, relative to {called(BASELINE)} in the same seed,"
    clauses = [f"{number(median(r), decimals=2)} times with {called(m)} ({spread_of(r)})" for m, r in found.items()]
    if len(found) >= MANY_METHODS:
        ranked = sorted(zip(map(median, found.values()), clauses, strict=True))
        return f"{begin} from {ranked[0][1]} to {ranked[-1][1]}."
    return f"{begin} {listed(clauses)}." if clauses else ""


def seeds(comparison: Comparison) -> str:
    """How many seeds stand behind the means, what the intervals are over, and what follows from few."""
    count = seeds_text(comparison, comparison.suites, comparison.methods)
    layouts = {comparison.title(suite): layout for suite in comparison.suites if (layout := comparison.layout(suite))}
    if not layouts:
        runs = seeds_words(int(count)) if count.isdigit() else f"{count} seeds"
        return f"Every method was run with {runs}: no interval ({FEWEST_SEEDS} are the fewest), and no ranking is claimed."
    kinds, few = {layout.kind for layout in layouts.values()}, int(count.split(DASH)[0]) < FEW_SEEDS
    if kinds == {"pictures"}:
        return f"Intervals are {over_each(layouts)}; no ranking of methods is claimed."
    wide = " With so few, they are wide, and a difference that stays open may still be real." * few
    fixed = " Other images would add their own spread: no answers per picture are kept here." * (kinds == {"seeds"})
    return f"All means are over {count} seeds. Intervals are {over_each(layouts)}.{wide}{fixed}"


def chance(comparison: Comparison) -> str:
    """What the paired intervals allow for, and what they do not."""
    layouts = {s: found for s in comparison.suites if (found := comparison.layout(s)) and len(found.methods) > 1}
    if not layouts:
        return ""
    said = corrected(layouts.values(), comparison.together(next(iter(layouts))))
    return (
        f"What differs is asked of paired differences, {said}; of tables in which all methods are equal, one in twenty shows a "
        "difference by chance. Intervals of single means are not corrected."
    )


def called(method: str) -> str:
    """The name of a method within a sentence."""
    title = method_title(method)
    return title.lower() if method in WORDS else title


def place(suite: str) -> str:
    """Where a comparison was made, within a sentence."""
    plain, pictures = without_set(suite)
    where = PLACES.get(plain, f"on {suite_title(plain)}")
    return where + f" {'of' if where.startswith('on ') else 'on'} the set {pictures}" * bool(pictures)
