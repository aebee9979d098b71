"""Result rows to means over seeds with 95 % intervals, and from these to tables of cells.

Whether two methods differ is asked of their paired difference (`Comparison.difference`), and of nothing else.
Knows neither files nor HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Literal

import numpy as np

from dat.errors import DataError, UsageError
from dat.evaluation.cells import Correct, Shares
from dat.evaluation.intervals import PictureScores, certain_sign
from dat.report.grounds import corrected, no_interval, over_each, seeds_words
from dat.report.layout import FEWEST_SEEDS, Layout, Seed, layout_of, rounding_of, shared_seeds
from dat.results import INTERVAL, SET, SOUGHT, Row, differing, mean_interval, of_set, without_set

Mark = Literal["", "best", "tie", "open"]
"""`open`: a difference whose interval does not say on which side of 0 it is."""
Scores = dict[str, dict[str, dict[Seed, float]]]
"""suite -> method -> seed -> value"""
Answers = Mapping[tuple[str, Seed], Mapping[str, Correct | Shares]]
"""Of each model, by method and seed, and on each suite: whether it was right, or how often, for every picture."""
Rows = Mapping[tuple[str, str], Sequence[Row]]
"""By suite and method."""

BASELINE = "standard"
ADVERSARY = ("words/adversarial", "loss_above_random")
"""Suite and metric of the rows that say whether there is an adversary: how far its loss is above that of a random step."""
METRICS = {"codes": "modified_code_rate", "codes/random": "modified_code_rate", "cost": "seconds_per_step"}
METRICS |= dict.fromkeys(("words/reconstruction", "words/adversarial", "words/random"), "loss")
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The 15 corruptions in their four groups. Source: Hendrycks and Dietterich (2019), ImageNet-C."""

METHOD_TITLES = {
    "standard": "Standard",
    "at": "AT",
    "random-codes": "Random codes",
    "dat": "DAT",
    "dat-official": "DAT (official)",
    "dat-free": "DAT (free)",
    "dat-fast": "DAT (fast)",
    "dat-codes": "DAT (code space)",
    "advprop": "AdvProp",
    "fast-advprop": "Fast AdvProp",
    "pyramid-at": "Pyramid AT",
    "debiased": "Debiased",
    "augmix": "AugMix",
    "deepaugment": "DeepAugment",
    "deepaugment-decoder": "DeepAugment (decoder)",
    "deepaugment-augmix-dat": "DeepAugment + AugMix + DAT",
}
TIMES, MINUS, DASH = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}", "\N{EN DASH}"
CLEAN_OF_C = "clean-c"
"""Accuracy on the very pictures that are corrupted, as they are; a column beside `c`, and no test set of its own."""
SUITE_TITLES = {
    "clean": "Clean",
    "fgsm": "FGSM",
    "clean-c": "Clean, the corrupted pictures",
    "c": "Corruptions",
    "damagenet": "DamageNet",
    "a": "ImageNet-A",
    "v2": "ImageNet-V2",
    "r": "ImageNet-R",
    "sketch": "Sketch",
    "stylized": "Stylized",
}


@dataclass(frozen=True)
class Estimate:
    """Mean over `seeds` with its 95 % interval (none where there is nothing to judge by); `n` images at each seed.

    `rows` are what it was made of, those of both methods where it is a difference; none where that is not told.
    """

    mean: float
    interval: tuple[float, float] | None
    seeds: int
    n: int
    rows: tuple[Row, ...] = field(default=(), compare=False, repr=False)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies wholly above or below 0; 0 where nothing can be said."""
        if self.interval is None:
            return 0
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


@dataclass(frozen=True)
class Comparison:
    """Scores of methods on test sets. `suites` are the whole test sets; `scores` also holds what is derived from cells.

    Derived names: `c/fog` (mean over severities), `group/blur` (mean over its corruptions), `severity/3` and
    `severity/blur/3` (mean over corruptions). A seed counts only where none of the cells is missing, and no method with
    two seeds or more lacks it.

    `adversaries` say of each model, by method and seed, whether the adversary raises its loss above that of a random step
    beyond chance (1), lowers it below that (-1), or neither can be said (0), as the self-test does.

    `pictures` is what the first of several test sets is called; suites on the others say their own, as `clean@art`.

    `answers` are what the accuracies are the means of. Where those of all models are there, intervals are over seeds and
    pictures; else over seeds, of which there must be three. `rows` are what all of it was made of, by suite and method.
    """

    methods: tuple[str, ...]
    suites: tuple[str, ...]
    corruptions: dict[str, tuple[str, ...]]
    severities: tuple[str, ...]
    scores: Scores
    images: dict[str, int]
    adversaries: dict[str, dict[Seed, int]]
    pictures: str = ""
    answers: Answers = field(default_factory=dict)
    rows: Rows = field(default_factory=dict, compare=False, repr=False)
    _layouts: dict[str, Layout | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _marks: dict[str, dict[str, Mark]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def title(self, suite: str) -> str:
        """The name of a suite as a heading, with that of its pictures where there are several sets."""
        own = of_set(suite, self.pictures) if suite in self.suites and not without_set(suite)[1] else suite
        return suite_title(own)

    def layout(self, suite: str) -> Layout | None:
        """What the means and differences of a suite are judged by; None where there is nothing to judge by.

        Seconds grow with the method, and so does their spread: the cost of a step has none.
        """
        if suite == "cost":
            return None
        if suite not in self._layouts:
            scores = self.scores.get(suite, {})
            in_order = {method: scores[method] for method in self.methods if scores.get(method)}
            rounding = rounding_of(self.images.get(suite, 0))
            self._layouts[suite] = layout_of(in_order, rounding=rounding, answers=self.answers_to(suite))
        return self._layouts[suite]

    def answers_to(self, suite: str) -> dict[str, dict[Seed, PictureScores]]:
        """The score of each picture, in percent, by method and seed; of a mean over cells its mean over these.

        Answers that do not give the number of the row, as those of another evaluation, are left out.
        """
        found: dict[str, dict[Seed, PictureScores]] = {}
        for method, values in self.scores.get(suite, {}).items() if self.answers else ():
            for seed, value in values.items():
                by_picture = self._by_picture(suite, self.answers.get((method, seed), {}))
                if by_picture is not None and math.isclose(by_picture.mean(), value, abs_tol=1e-6):
                    found.setdefault(method, {})[seed] = by_picture
        return found

    def _by_picture(self, suite: str, answers: Mapping[str, Correct]) -> PictureScores | None:
        """What `answers_to` gives of one model; None where a cell is missing, or cells are of different pictures."""
        is_mean = without_set(suite)[0] == "c"
        members = [name for name in answers if name.startswith(f"{suite}/")] if is_mean else self._cells.get(suite, [suite])
        right = [answers[name] for name in members if name in answers]
        if not right or len(right) < len(members) or len({*map(len, right)}) > 1:
            return None
        return 100 * np.mean(right, axis=0)

    def together(self, suite: str) -> int:
        """On how many test sets differences are judged at once: those of one table."""
        if suite.startswith("group/"):
            return len(self.corruptions)
        if suite.startswith("c/"):
            return sum(map(len, self.corruptions.values()))
        columns = with_clean_of_c(self)
        return len(columns) if suite in columns else 1

    def estimate(self, suite: str, method: str) -> Estimate | None:
        """Mean over the seeds of a method on a suite, its interval within what can be; None where it was not measured.

        Where methods share no three seeds, each is judged by its own spread over those that it has.
        """
        found = self._estimate(suite, method)
        return replace(found, rows=self.rows_of(suite, method)) if found else None

    def _estimate(self, suite: str, method: str) -> Estimate | None:
        values = self.scores.get(suite, {}).get(method, {})
        images = self.images.get(suite, 0)
        if suite == "cost":
            return estimate(list(values.values()), n=images)
        layout = self.layout(suite)
        if layout is None or method not in layout.methods:
            layout = layout_of({method: values}, rounding=rounding_of(images))
        if layout is None:
            return estimate(list(values.values()), n=images)
        mean, half = layout.mean(method), layout.half_interval(method)
        return Estimate(mean, (max(0.0, mean - half), min(100.0, mean + half)), len(layout.seeds), images)

    def rows_of(self, suite: str, *methods: str) -> tuple[Row, ...]:
        """What a number of methods on a suite was made of, at the seeds that count; of a mean over cells, all of these."""
        layout, values = self.layout(suite), [self.scores.get(suite, {}).get(method, {}) for method in methods]
        seeds = layout.seeds if layout is not None and {*methods} <= {*layout.methods} else shared_seeds(values)
        members = self._cells.get(suite, [suite])
        found = (row for method in methods for member in members for row in self.rows.get((member, method), ()))
        return tuple(row for row in found if row.seed in seeds)

    def seeds(self, method: str) -> set[Seed]:
        """Of all models of a method that were measured."""
        return {seed for methods in self.scores.values() for seed in methods.get(method, {})}

    def difference(self, suite: str, method: str, *, to: str = BASELINE) -> Estimate | None:
        """Mean of `method - to` over their seeds; its interval is one of those of all pairs on all suites of a table at once.

        There is no interval where one of the two is not judged, or without two methods.
        """
        found = self._difference(suite, method, to)
        return replace(found, rows=self.rows_of(suite, method, to)) if found else None

    def _difference(self, suite: str, method: str, to: str) -> Estimate | None:
        layout, images = self.layout(suite), self.images.get(suite, 0)
        if layout is None or method == to or not {method, to} <= set(layout.methods):
            gaps = [ours - theirs for ours, theirs in self._pairs(suite, method, to)]
            return Estimate(sum(gaps) / len(gaps), None, len(gaps), images) if gaps else None
        gap, least = layout.mean(method) - layout.mean(to), layout.least_difference(method, to, together=self.together(suite))
        return Estimate(gap, (gap - least, gap + least), len(layout.seeds), images)

    def ratios(self, suite: str, method: str, *, to: str = BASELINE) -> list[float]:
        """`method / to` in each seed that both have: a seed's trainings follow one another, and meet the same machine."""
        return [ours / theirs for ours, theirs in self._pairs(suite, method, to)]

    def highest(self, suite: str) -> str:
        """The method of the highest mean; empty where none was measured."""
        found = {method: value.mean for method in self.methods if (value := self._estimate(suite, method))}
        return max(found, key=lambda method: found[method], default="")

    def marks(self, suite: str) -> dict[str, Mark]:
        """The best method, or those that cannot be told apart from the highest mean; empty where one cannot be judged.

        Which of a few models is best does not say which method is: without three seeds nothing is marked.
        """
        if suite not in self._marks:
            self._marks[suite] = self._marked(suite)
        return self._marks[suite]

    def _marked(self, suite: str) -> dict[str, Mark]:
        layout = self.layout(suite)
        measured = [method for method in self.methods if self.scores.get(suite, {}).get(method)]
        if layout is None or layout.kind == "pictures" or len(measured) < 2 or len(layout.methods) < len(measured):
            return {}
        top = self.highest(suite)
        level = [method for method in measured if method == top or self._is_open(suite, method, top)]
        return {top: "best"} if level == [top] else dict.fromkeys(level, "tie")

    def why_unmarked(self, suite: str) -> str:
        """Why no method of a suite is marked, where none is."""
        layout = self.layout(suite)
        measured = {method: by_seed for method in self.methods if (by_seed := self.scores.get(suite, {}).get(method))}
        if len(measured) < 2:
            return "no other method was measured"
        if layout is not None and layout.kind == "pictures":
            return f"{seeds_words(len(layout.seeds))} of each method, and other seeds may give another order"
        return no_interval(min(map(len, measured.values())))

    def uncounted_seeds(self, suite: str) -> tuple[Seed, ...]:
        """Seeds of methods that are judged, which another of these lacks."""
        layout = self.layout(suite)
        judged = [self.scores[suite][method] for method in layout.methods] if layout else []
        return tuple(dict.fromkeys(seed for values in judged for seed in values if layout and seed not in layout.seeds))

    def _is_open(self, suite: str, method: str, to: str) -> bool:
        value = self._difference(suite, method, to)
        return value is None or not value.sign

    @cached_property
    def _cells(self) -> dict[str, list[str]]:
        return derived_suites(self.corruptions, self.severities)

    def _pairs(self, suite: str, method: str, to: str) -> list[tuple[float, float]]:
        """Values of both at the seeds that both have."""
        ours, theirs = (self.scores.get(suite, {}).get(name, {}) for name in (method, to))
        return [(ours[seed], theirs[seed]) for seed in shared_seeds([ours, theirs])]


def estimate(values: Sequence[float], *, n: int) -> Estimate | None:
    """Mean and Student's interval of one value per seed, of three at least; None where there is none."""
    if not values:
        return None
    mean, interval = mean_interval(values)
    return Estimate(mean, interval if len(values) >= FEWEST_SEEDS else None, len(values), n)


def counted(rows: Iterable[Row]) -> list[Row]:
    """Our own rows of the metrics that are compared: accuracy, modified-code rate, seconds per step."""
    return [row for row in rows if row.source == "ours" and row.metric == METRICS.get(row.suite, "accuracy")]


def comparison_table(
    rows: Iterable[Row], *, mixed: bool = False, answers: Answers | None = None, named: bool = False
) -> Comparison:
    """Methods by test sets, over seeds. Rows of other sources (`paper`) and other metrics are left out.

    `mixed` allows rows of one suite that were measured in different ways. `answers` are of the models of these rows. `named`:
    a single set has its name in headings, too.

    Raises:
        UsageError: rows of one suite have different protocols.
        DataError: there is no accuracy on a whole test set, or one number is there twice.
    """
    rows = list(rows)
    adversaries = adversaries_of(rows)
    rows, pictures = by_set(counted(rows), named=named)
    if not whole_suites(rows):
        raise DataError("The results hold no accuracy of ours on a whole test set (clean, fgsm, c); run `dat eval` first.")
    if not mixed:
        refuse_mixed_protocols(rows)
    scores, images = collect(rows), {row.suite: row.n for row in rows}
    cells = [suite.split("/") for suite in scores if suite.startswith("c/")]
    corruptions = grouped([corruption for _, corruption, _ in cells])
    severities = tuple(sorted({severity for *_, severity in cells}))
    for name, members in derived_suites(corruptions, severities).items():
        scores[name], images[name] = averaged(scores, members), images[members[0]]
    return Comparison(
        methods=tuple(dict.fromkeys(row.method for row in rows)),
        suites=whole_suites(rows),
        corruptions=corruptions,
        severities=severities,
        scores=scores,
        images=images,
        adversaries=adversaries,
        pictures=pictures,
        answers=answers or {},
        rows=by_suite(rows),
    )


def by_suite(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by suite and method."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.suite, row.method), []).append(row)
    return found


def by_set(rows: Sequence[Row], *, named: bool = False) -> tuple[list[Row], str]:
    """The rows, those on other sets than the first under names of their own; and the first's name if `named` or not alone."""
    first, *others = dict.fromkeys(str(row.protocol.get(SET, "")) for row in rows if row.metric == "accuracy") or [""]
    if not (others or named):
        return [*rows], ""
    return [row if (name := str(row.protocol.get(SET, ""))) in ("", first) else _on(row, name) for row in rows], first


def _on(row: Row, name: str) -> Row:
    """A row whose suite says its set."""
    return row if without_set(row.suite)[1] else replace(row, suite=of_set(row.suite, name))


def adversaries_of(rows: Iterable[Row]) -> dict[str, dict[Seed, int]]:
    """The sign of each model's adversary, as `Comparison` has it; none of rows that say nothing of it."""
    found: dict[str, dict[Seed, int]] = {}
    for row in rows:
        if row.source == "ours" and (row.suite, row.metric) == ADVERSARY:
            found.setdefault(row.method, {})[row.seed] = certain_sign(row.value, row.ci, row.n)
    return found


def refuse_mixed_protocols(rows: Iterable[Row]) -> None:
    """Raises: UsageError: two rows of one suite were measured in different ways (what differs is said)."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        other = first.setdefault((row.suite, row.metric), row)
        theirs, ours = differing(conditions(other), conditions(row))
        if ours:
            raise UsageError(
                f"Suite {row.suite!r} was measured in two ways: {theirs} ({other.method}) and "
                f"{ours} ({row.method}); evaluate both alike, or allow it with --mixed (mixed=True)."
            )


def conditions(row: Row) -> dict[str, object]:
    """How a row was measured; for what is no cost, that includes on how many images.

    What a folder is called says nothing, nor how the interval was made, nor what part of a cost a search took.
    """
    protocol = {name: value for name, value in row.protocol.items() if name not in (SET, INTERVAL, SOUGHT)}
    return protocol | ({} if row.suite in METRICS else {"images": row.n})


def collect(rows: Iterable[Row]) -> Scores:
    """Values by suite, method and seed.

    Raises:
        DataError: one number is there twice, or the name of a corruption cell is not `c/<corruption>/<severity>`.
    """
    scores: Scores = {}
    for row in rows:
        if row.suite.startswith("c/") and row.suite.count("/") != 2:
            raise DataError(f"Suite {row.suite!r} is not a corruption cell; write c/<corruption>/<severity>.")
        values = scores.setdefault(row.suite, {}).setdefault(row.method, {})
        if row.seed in values:
            raise DataError(f"The results hold {row.suite!r} of {row.method!r}, seed {row.seed}, twice; remove one.")
        values[row.seed] = row.value
    return scores


def whole_suites(rows: Iterable[Row]) -> tuple[str, ...]:
    """Test sets that are one column each: clean, FGSM, the mean over corruptions, then others as they come."""
    names = [row.suite for row in rows if row.metric == "accuracy" and not is_part(row.suite)]
    return tuple(name for name in dict.fromkeys([*SUITE_TITLES, *names]) if name in names)


def is_part(suite: str) -> bool:
    """Whether a suite is no test set of its own: a cell of corruptions, or what stands beside them."""
    plain, _ = without_set(suite)
    return plain.startswith("c/") or plain == CLEAN_OF_C


def grouped(corruptions: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Corruptions by group, in the order of the benchmark; those outside it come last, as `extra`."""
    found = list(dict.fromkeys(corruptions))
    known = {name for group in GROUPS.values() for name in group}
    groups = {name: tuple(corruption for corruption in group if corruption in found) for name, group in GROUPS.items()}
    groups["extra"] = tuple(corruption for corruption in found if corruption not in known)
    return {name: group for name, group in groups.items() if group}


def derived_suites(corruptions: dict[str, tuple[str, ...]], severities: Sequence[str]) -> dict[str, list[str]]:
    """Names of the means over corruption cells, each with its cells."""
    names = [corruption for group in corruptions.values() for corruption in group]
    suites = {f"c/{name}": cells([name], severities) for name in names}
    suites |= {f"group/{group}": cells(members, severities) for group, members in corruptions.items()}
    suites |= {f"severity/{severity}": cells(names, [severity]) for severity in severities} if names else {}
    for group, members in corruptions.items():
        suites |= {f"severity/{group}/{severity}": cells(members, [severity]) for severity in severities}
    return suites


def cells(corruptions: Iterable[str], severities: Sequence[str]) -> list[str]:
    """Suites of the corruption cells of a rectangle."""
    return [f"c/{corruption}/{severity}" for corruption in corruptions for severity in severities]


def averaged(scores: Scores, members: Sequence[str]) -> dict[str, dict[Seed, float]]:
    """Mean over suites, by method and seed, where none of them is missing."""
    means: dict[str, dict[Seed, float]] = {}
    for method, values in scores.get(members[0], {}).items():
        of_method = [scores.get(suite, {}).get(method, {}) for suite in members]
        seeds = [seed for seed in values if all(seed in suite for suite in of_method)]
        means[method] = {seed: sum(suite[seed] for suite in of_method) / len(members) for seed in seeds}
    return means


# Tables: what a reader sees, before it is Markdown, HTML or plain text.


@dataclass(frozen=True)
class Cell:
    """A number as text, its half interval as text, how it ranks, and `shade` in [-1, 1]: how far from the baseline.

    `estimate`: what the text is of, where it is one, for files that are not read by eye. `quoted`: the rows behind a text that
    is no estimate.
    """

    text: str
    spread: str = ""
    mark: Mark = ""
    shade: float = 0.0
    estimate: Estimate | None = field(default=None, compare=False, repr=False)
    quoted: tuple[Row, ...] = field(default=(), compare=False, repr=False)

    @property
    def rows(self) -> tuple[Row, ...]:
        """What its number was made of."""
        return self.quoted or (self.estimate.rows if self.estimate else ())


@dataclass(frozen=True)
class Column:
    """Heading of a column: what it holds, and the unit or count below it; `method` where it is one method's."""

    title: str
    detail: str = ""
    method: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a table; `group` is the heading that it stands under."""

    title: str
    cells: tuple[Cell, ...]
    method: str = ""
    group: str = ""


@dataclass(frozen=True)
class Table:
    """Columns and lines, with what the first column holds, a caption, and notes that explain every sign used.

    `shading` explains the shade of the cells of a heat map, where a page can show it.
    """

    name: str
    caption: str
    corner: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    shading: str = ""


ABSENT = Cell("—")
BEST = "Bold: best, it differs from every other."
TIED = "≈: cannot be told apart from the highest mean."
OVERLAP = "Intervals of two means may overlap and the methods differ."
EXCLUDES = "Bold: the interval excludes 0."
COST = "Cost: the median over seeds of the ratio to standard training in the same seed, with the lowest and the highest."
COST_ONCE = "Cost: the ratio to standard training, of one seed: no spread."
CUT = f"{MINUS} and +: both sides of an interval that was cut at 0 or 100."


def method_title(method: str) -> str:
    """The name of a method as the field writes it."""
    return METHOD_TITLES.get(method, method)


def suite_title(suite: str) -> str:
    """The name of a test set as a heading, with that of its pictures where it says it."""
    plain, pictures = without_set(suite)
    title = SUITE_TITLES.get(plain, plain.removeprefix("c/").replace("_", " ").replace("jpeg", "JPEG"))
    return title + f" ({pictures})" * bool(pictures)


def number(value: float, *, decimals: int = 1, signed: bool = False) -> str:
    """Decimal text with a true minus sign; `signed` writes the plus as well."""
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", MINUS)


def cell(value: Estimate | None, *, mark: Mark = "", decimals: int = 1, signed: bool = False) -> Cell:
    """Mean and half of its interval."""
    if value is None:
        return ABSENT
    text = number(value.mean, decimals=decimals, signed=signed)
    return Cell(text, spread_text(value, decimals=decimals), mark, estimate=value)


def spread_text(value: Estimate, *, decimals: int = 1) -> str:
    """`± 1.4`, or both sides where the interval was cut at 0 or 100; empty where there is none."""
    if value.interval is None:
        return ""
    low, high = value.interval[0] - value.mean, value.interval[1] - value.mean
    below, above = number(low, decimals=decimals), number(high, decimals=decimals, signed=True)
    if math.isclose(-low, high, abs_tol=1e-9) or below[1:] == above[1:]:
        return f"± {above[1:]}"
    return f"{below} {above}"


def seeds_text(comparison: Comparison, suites: Iterable[str], methods: Iterable[str]) -> str:
    """How many seeds stand behind the means: `3`, or `2-3` where it differs."""
    pairs = [(suite, method) for suite in suites for method in methods]
    counts = sorted({value.seeds for suite, method in pairs if (value := comparison.estimate(suite, method))})
    return DASH.join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "0"


def images_text(comparison: Comparison, suite: str) -> str:
    """Seeds and images behind the means of a suite: `3 x 450 images`."""
    return f"{seeds_text(comparison, [suite], comparison.methods)} {TIMES} {comparison.images[suite]} images"


def ranking_notes(comparison: Comparison, suites: Iterable[str], *, what: str = "test sets") -> tuple[str, ...]:
    """What the marks of these suites mean, as far as there are any, by what they are judged, and which seeds do not count."""
    suites = [suite for suite in suites if suite in comparison.scores]
    found = {mark for suite in suites for mark in comparison.marks(suite).values()}
    lacking = {suite: seeds for suite in suites if (seeds := comparison.uncounted_seeds(suite))}
    marks = " ".join([*[BEST] * ("best" in found), *[TIED] * ("tie" in found), *[OVERLAP] * bool(found)])
    return (
        *[marks] * bool(found),
        *unranked_notes(comparison, suites),
        *judged_notes(comparison, suites, what=what),
        *(f"{comparison.title(s)}: seed {', '.join(map(str, n))} does not count, not all have it." for s, n in lacking.items()),
    )


def unranked_notes(comparison: Comparison, suites: Sequence[str]) -> tuple[str, ...]:
    """Why no method is marked; by suite where it is not so on all."""
    unmarked = [s for s in suites if not comparison.marks(s)] if len(comparison.methods) > 1 else []
    titles: dict[str, list[str]] = {}
    for suite in unmarked:
        titles.setdefault(comparison.why_unmarked(suite), []).append(comparison.title(suite))
    return tuple(
        f"No method is marked{f' on {listed(named)}' * (len(named) < len(suites))}: {why}." for why, named in titles.items()
    )


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def judged_notes(comparison: Comparison, suites: Iterable[str], *, what: str = "test sets") -> tuple[str, ...]:
    """What the intervals of these suites are over, and for how many comparisons those of differences allow."""
    layouts = {suite: layout for suite in suites if (layout := comparison.layout(suite))}
    if not layouts:
        return ()
    begin = f"Intervals are {over_each({comparison.title(suite): layout for suite, layout in layouts.items()})}"
    judged = {suite: layout for suite, layout in layouts.items() if len(layout.methods) > 1}
    if not judged:
        return (f"{begin}.",)
    together = comparison.together(next(iter(judged)))
    return (f"{begin}. Differences are paired, and {corrected(judged.values(), together, what=what)}.",)


def cut_notes(lines: Iterable[Line]) -> tuple[str, ...]:
    """What a minus and a plus beside a mean say, where there are some."""
    return (CUT,) * any(cell.spread.startswith(MINUS) for line in lines for cell in line.cells)


def spread_words(comparison: Comparison, suites: Iterable[str], *, drawn: bool = False) -> str:
    """What stands beside a mean, or is `drawn` through it, within a caption: its interval, or why there is none."""
    pairs = [(suite, method) for suite in suites for method in comparison.methods]
    found = [value for suite, method in pairs if (value := comparison.estimate(suite, method))]
    if not any(value.interval for value in found):
        return f" ({no_interval(max((value.seeds for value in found), default=0))})"
    kinds = {layout.kind for suite, _ in pairs if (layout := comparison.layout(suite))}
    alone = " over pictures, for these models" * (kinds == {"pictures"})
    return ("; lines: its 95 % interval" if drawn else ", ± half of its 95 % interval") + alone


def cost_notes(comparison: Comparison) -> tuple[str, ...]:
    """What stands in the column of costs, where they are relative to the baseline's."""
    ratios = [comparison.ratios("cost", method) for method in comparison.methods if method != BASELINE]
    counts = [len(found) for found in ratios if found]
    return ((COST if max(counts) > 1 else COST_ONCE),) if counts else ()


def accuracy_table(comparison: Comparison) -> Table:
    """Methods by test sets, with the share of codes that the method changes and what a step costs."""
    whole = with_clean_of_c(comparison)
    suites = [suite for suite in (*whole, "codes") if suite in comparison.scores]
    columns = [Column(comparison.title(suite), images_text(comparison, suite)) for suite in whole]
    columns += [Column("Codes changed", "%")] * ("codes" in suites)
    columns += cost_columns(comparison)
    lines = [
        Line(method_title(method), (*accuracy_cells(comparison, method, suites), *cost_cells(comparison, method)), method)
        for method in comparison.methods
    ]
    return Table(
        name="accuracy",
        caption=f"Accuracy in percent: mean over seeds{spread_words(comparison, suites)}.",
        corner="Method",
        columns=tuple(columns),
        lines=tuple(lines),
        notes=(
            *ranking_notes(comparison, comparison.suites),
            *cut_notes(lines),
            *cost_notes(comparison),
        ),
    )


def with_clean_of_c(comparison: Comparison) -> list[str]:
    """The test sets; before the corruptions, where it was measured, what the same pictures give as they are."""
    shown = [name for suite in comparison.suites for name in ([CLEAN_OF_C, suite] if suite == "c" else [suite])]
    return [name for name in shown if name in comparison.scores]


def accuracy_cells(comparison: Comparison, method: str, suites: Iterable[str]) -> list[Cell]:
    """One cell per suite; the share of changed codes is no contest and gets no mark."""
    marks: dict[str, Mark] = {s: comparison.marks(s).get(method, "") for s in suites if s != "codes"}
    return [cell(comparison.estimate(suite, method), mark=marks.get(suite, "")) for suite in suites]


def cost_columns(comparison: Comparison) -> list[Column]:
    """Cost relative to the baseline where that was measured, else in seconds; none where no cost was."""
    if "cost" not in comparison.scores:
        return []
    relative = BASELINE in comparison.scores["cost"]
    return [Column("Cost per step", f"{TIMES} {method_title(BASELINE).lower()}" if relative else "seconds")]


def cost_cells(comparison: Comparison, method: str) -> list[Cell]:
    """The cost of a step, in the unit of `cost_columns`; no cell where no cost was measured."""
    if "cost" not in comparison.scores:
        return []
    if BASELINE in comparison.scores["cost"]:
        if method == BASELINE:
            return [Cell("1", quoted=comparison.rows_of("cost", method))]
        ratio = ratio_cell(comparison.ratios("cost", method))
        return [replace(ratio, quoted=comparison.rows_of("cost", method, BASELINE)) if ratio != ABSENT else ratio]
    return [cell(comparison.estimate("cost", method), decimals=3)]


def ratio_cell(ratios: Sequence[float]) -> Cell:
    """The median over seeds, with the lowest and the highest."""
    if not ratios:
        return ABSENT
    low, high = (number(end(ratios), decimals=2) for end in (min, max))
    return Cell(number(median(ratios), decimals=2), f"({low} to {high})" if len(ratios) > 1 else "")


def difference_table(comparison: Comparison, *, method: str = "", to: str = "") -> Table:
    """Paired differences in accuracy: of every method `to` one, or of one `method` to every other."""
    others = [name for name in comparison.methods if name != (method or to)]
    pairs = [(method or other, to or other) for other in others]
    lines = [
        Line(method_title(other), tuple(difference_cell(comparison, suite, *pair) for suite in comparison.suites), other)
        for other, pair in zip(others, pairs, strict=True)
    ]
    what = f"each method minus {method_title(to).lower()}" if to else f"{method_title(method)} minus each other method"
    return Table(
        name="difference-to" if to else "difference-of",
        caption=f"Difference in accuracy, in percentage points, {what}: mean of the paired differences"
        f"{spread_words(comparison, comparison.suites)}.",
        corner="Method" if to else f"{method_title(method)} minus",
        columns=tuple(Column(comparison.title(suite), "points") for suite in comparison.suites),
        lines=tuple(lines),
        notes=(*judged_notes(comparison, comparison.suites), *[EXCLUDES] * any(c.mark for line in lines for c in line.cells)),
    )


def difference_cell(comparison: Comparison, suite: str, method: str, to: str) -> Cell:
    """A signed difference; marked where its interval excludes 0."""
    value = comparison.difference(suite, method, to=to)
    return cell(value, mark="best" if value and value.sign else "", decimals=2, signed=True)


def group_table(comparison: Comparison) -> Table:
    """Methods by groups of corruptions."""
    suites = [f"group/{group}" for group in comparison.corruptions]
    columns = [Column(g.capitalize(), counted_corruptions(len(names))) for g, names in comparison.corruptions.items()]
    lines = [Line(method_title(m), tuple(accuracy_cells(comparison, m, suites)), m) for m in comparison.methods]
    return Table(
        name="groups",
        caption="Accuracy in percent on each group of corruptions: mean over its corruptions and severities, then over "
        f"seeds{spread_words(comparison, suites)}.",
        corner="Method",
        columns=tuple(columns),
        lines=tuple(lines),
        notes=ranking_notes(comparison, suites, what="groups") + cut_notes(lines),
    )


def counted_corruptions(count: int) -> str:
    """`1 corruption`, `4 corruptions`."""
    return f"{count} corruption{'s' * (count != 1)}"


def corruption_table(comparison: Comparison) -> Table:
    """Corruptions by methods."""
    names = [(group, name) for group, members in comparison.corruptions.items() for name in members]
    suites = [f"c/{name}" for _, name in names]
    lines = [
        Line(suite_title(suite), corruption_cells(comparison, suite), group=group)
        for suite, (group, _) in zip(suites, names, strict=True)
    ]
    return Table(
        name="corruptions",
        caption="Accuracy in percent on each corruption: mean over severities, then over seeds"
        f"{spread_words(comparison, suites)}.",
        corner="Corruption",
        columns=tuple(Column(method_title(method), method=method) for method in comparison.methods),
        lines=tuple(lines),
        notes=ranking_notes(comparison, suites, what="corruptions") + cut_notes(lines),
    )


def corruption_cells(comparison: Comparison, suite: str) -> tuple[Cell, ...]:
    """Accuracy of every method on one suite, best or tied ones marked."""
    marks = comparison.marks(suite)
    return tuple(cell(comparison.estimate(suite, m), mark=marks.get(m, "")) for m in comparison.methods)


def all_tables(comparison: Comparison) -> list[Table]:
    """Every table that the rows support, in reading order."""
    tables = [accuracy_table(comparison)]
    if BASELINE in comparison.methods and len(comparison.methods) > 1:
        tables.append(difference_table(comparison, to=BASELINE))
    if "dat" in comparison.methods and len(set(comparison.methods) - {"dat", BASELINE}) > 0:
        tables.append(difference_table(comparison, method="dat"))
    if comparison.corruptions:
        tables += [group_table(comparison), corruption_table(comparison)]
    return tables


def terminal_table(rows: Iterable[Row], *, mixed: bool = False, answers: Answers | None = None, named: bool = False) -> str:
    """The table of test sets as aligned plain text, with a legend; no line ends in blanks. Settings as of `comparison_table`.

    Raises:
        UsageError, DataError: as `comparison_table`.
    """
    return plain_table(accuracy_table(comparison_table(rows, mixed=mixed, answers=answers, named=named)))


def plain_table(table: Table) -> str:
    """A table as aligned plain text; what stands under a heading is indented."""
    grid = [
        [table.corner, *(column.title for column in table.columns)],
        ["", *(column.detail for column in table.columns)],
    ]
    group = ""
    for line in table.lines:
        if line.group != group:
            group = line.group
            grid.append([group, *[""] * len(table.columns)])
        grid.append([f"  {line.title}" if group else line.title, *map(plain_cell, line.cells)])
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in grid]
    legend = [note.replace("Bold", "*").replace("≈", "~") for note in table.notes]
    return "\n".join([*lines[:2], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[2:], table.caption, *legend])


def plain_cell(value: Cell) -> str:
    """A cell in plain text; the sign in front keeps the numbers of a column below each other."""
    sign = {"best": "*", "tie": "~", "open": "~", "": ""}[value.mark]
    return f"{sign}{value.text} {value.spread}".rstrip()
