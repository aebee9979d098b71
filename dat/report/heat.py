"""Heat maps: the difference to the baseline on each corruption and in each class, as tables whose cells a page shades.

Knows scores and answers per picture; no files, no HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dat.errors import DataError
from dat.evaluation.mistakes import Answered
from dat.evaluation.right import Model
from dat.report.answered import Clean, rows_of_class
from dat.report.grounds import corrected, over
from dat.report.layout import Layout, Seed, layout_of, rounding_of
from dat.report.tables import (
    ABSENT,
    BASELINE,
    Cell,
    Column,
    Comparison,
    Estimate,
    Line,
    Table,
    cell,
    judged_notes,
    method_title,
    spread_words,
    suite_title,
)
from dat.results import Row

CLASSES = 30
"""So many classes are shown at most: those that methods differ most on."""
OPEN = "\N{ALMOST EQUAL TO}, pale: open, the interval includes 0 or there is none. The others are above or below for certain."
SHADING = "Blue: above, orange: below; stronger is further, on one scale for all."


def heat(value: Estimate | None) -> Cell:
    """A signed difference, marked where it is open; its shade is the difference itself, until `on_one_scale`."""
    if value is None:
        return ABSENT
    return replace(cell(value, mark="" if value.sign else "open", signed=True), shade=value.mean)


def on_one_scale(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Lines whose shades are within [-1, 1], by the largest of all."""
    scale = max((abs(one.shade) for line in lines for one in line.cells), default=0.0) or 1.0
    return tuple(replace(line, cells=tuple(replace(one, shade=one.shade / scale) for one in line.cells)) for line in lines)


def corruption_heat(comparison: Comparison) -> Table | None:
    """Corruptions by methods; None without corruptions, the baseline, or another method."""
    others = [method for method in comparison.methods if method != BASELINE]
    names = [(group, name) for group, members in comparison.corruptions.items() for name in members]
    if not names or not others or len(others) == len(comparison.methods):
        return None
    suites = [f"c/{name}" for _, name in names]
    lines = [
        Line(suite_title(suite), tuple(heat(comparison.difference(suite, method)) for method in others), group=group)
        for suite, (group, _) in zip(suites, names, strict=True)
    ]
    return Table(
        name="corruption-differences",
        caption=f"Difference in accuracy to {method_title(BASELINE).lower()} training on each corruption, in points: mean over "
        f"severities and seeds{spread_words(comparison, suites)}.",
        corner="Corruption",
        columns=tuple(Column(method_title(method), method=method) for method in others),
        lines=on_one_scale(lines),
        notes=(OPEN, *judged_notes(comparison, suites, what="corruptions")),
        shading=SHADING,
    )


# Classes.


def class_heat(said: Mapping[Model, Answered], *, name: str, title: str = "", clean: Clean | None = None) -> Table | None:
    """Classes by methods: accuracy of `standard`, or of the first, and differences of the others to it; None of one method.

    `clean`: rows of the models, of which the numbers say that they are made.

    Raises:
        DataError: the models have different classes, or were shown other pictures.
    """
    methods = list(dict.fromkeys(method for method, _ in said))
    if len(methods) < 2:
        return None
    base, first = BASELINE if BASELINE in methods else methods[0], _alike(said)
    there, others = np.flatnonzero(first.counts).tolist(), [method for method in methods if method != base]
    shown = most_different(said, base, there)
    layouts = {place: class_layout(said, place) for place in shown}
    lines = [
        Line(
            f"{first.classes[place]} ({first.counts[place]})",
            (
                replace(_accuracy(said, place, layout, base), quoted=_rows(clean, said, place, layout, base)),
                *(
                    replace(
                        heat(_gap(said, place, layout, m, base, len(there))), quoted=_rows(clean, said, place, layout, m, base)
                    )
                    for m in others
                ),
            ),
        )
        for place, layout in layouts.items()
    ]
    few = f"the {len(shown)} of {len(there)} classes on which methods differ most" if len(shown) < len(there) else "all classes"
    return Table(
        name=name,
        caption=f"Accuracy of {method_title(base)} by class{f' on {title}' * bool(title)}, in percent, and differences of the "
        f"others to it, in points: mean over seeds, ± half of its 95 % interval; {few}, the most different first.",
        corner="Class",
        columns=tuple(Column(method_title(method), method=method) for method in (base, *others)),
        lines=on_one_scale(lines),
        notes=("In brackets: pictures of the class.", OPEN, *_judged_by([*filter(None, layouts.values())], len(there))),
        shading=SHADING,
    )


def _alike(said: Mapping[Model, Answered]) -> Answered:
    """One of the models, all of which have its classes and pictures. Raises: DataError: they have not."""
    first, *others = said.values()
    if any(other.classes != first.classes or not np.array_equal(other.targets, first.targets) for other in others):
        raise DataError("The models have different classes, or were shown other pictures.")
    return first


def most_different(said: Mapping[Model, Answered], base: str, there: Sequence[int]) -> list[int]:
    """Of the classes that are there, those with the largest difference of any method to the base, the largest first."""
    means: dict[str, list[np.ndarray]] = {}
    for (method, _), answered in said.items():
        means.setdefault(method, []).append(answered.accuracies)
    of_base = np.mean(means.pop(base), axis=0)
    widest = np.max([abs(np.mean(found, axis=0) - of_base) for found in means.values()], axis=0)
    return sorted(there, key=lambda place: -widest[place])[:CLASSES]


def class_layout(said: Mapping[Model, Answered], place: int) -> Layout | None:
    """What the accuracies of one class are judged by, over seeds and its pictures; None where there is nothing to judge by."""
    answers: dict[str, dict[Seed, np.ndarray]] = {}
    for (method, seed), answered in said.items():
        answers.setdefault(method, {})[seed] = 100.0 * answered.correct[answered.targets == place]
    count = int(next(iter(said.values())).counts[place])
    scores = {method: {seed: float(right.mean()) for seed, right in found.items()} for method, found in answers.items()}
    return layout_of(scores, rounding=rounding_of(count), answers=answers)


def _rows(
    clean: Clean | None, said: Mapping[Model, Answered], place: int, layout: Layout | None, *methods: str
) -> tuple[Row, ...]:
    """What a number was made of, at the seeds that count."""
    seeds = layout.seeds if layout is not None and {*methods} <= {*layout.methods} else None
    return rows_of_class(clean or {}, said, place, *methods, seeds=seeds)


def _accuracy(said: Mapping[Model, Answered], place: int, layout: Layout | None, method: str) -> Cell:
    values, count = _of_class(said, place, method)
    if layout is None or method not in layout.methods:
        return cell(Estimate(float(np.mean(values)), None, len(values), count))
    mean, half = layout.mean(method), layout.half_interval(method)
    return cell(Estimate(mean, (max(0.0, mean - half), min(100.0, mean + half)), len(layout.seeds), count))


def _gap(said: Mapping[Model, Answered], place: int, layout: Layout | None, method: str, base: str, together: int) -> Estimate:
    (ours, count), (theirs, _) = (_of_class(said, place, name) for name in (method, base))
    if layout is None or not {method, base} <= set(layout.methods):
        return Estimate(float(np.mean(ours) - np.mean(theirs)), None, min(len(ours), len(theirs)), count)
    gap, least = layout.mean(method) - layout.mean(base), layout.least_difference(method, base, together=together)
    return Estimate(gap, (gap - least, gap + least), len(layout.seeds), count)


def _of_class(said: Mapping[Model, Answered], place: int, method: str) -> tuple[list[float], int]:
    """Accuracies of a method on one class, by seed, and how many pictures it has."""
    found = [answered for (name, _), answered in said.items() if name == method]
    return [float(answered.accuracies[place]) for answered in found], int(found[0].counts[place])


def _judged_by(layouts: Sequence[Layout], classes: int) -> tuple[str, ...]:
    """What intervals are over, and how many comparisons those of differences allow for."""
    if not layouts:
        return ()
    kinds = "; of other classes ".join(dict.fromkeys(map(over, layouts)))
    return (f"Intervals are {kinds}. Differences are paired, and {corrected(layouts, classes, what='classes')}.",)
