"""The plane of clean against robust accuracy: who gains what, what is paid for it, and what a step costs, in one picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from dat.errors import DataError
from dat.report.figures import MUTED, PAPER, STYLE, looks, not_below_0, panels
from dat.report.labels import away, named_apart
from dat.report.tables import BASELINE, TIMES, Comparison, Estimate, method_title

CLEAN, ROBUST = "clean", ("c", "fgsm")
"""What is on the two axes: a figure for each of the robust ones that was measured, the corruptions first."""
SMALLEST, LARGEST = 5.0, 17.0
"""Diameters of marks in points."""
LETTER = 7.5
"""Size of the names in points."""
LINE = 1.25
"""Height of a line over the size of its letters."""
THIN = np.array([-0.5, -0.5, 0.5, 0.5])
"""A line as a rectangle, in points."""
LED = 14.0
"""A name that is further from its mark, in points, is joined to it by a line."""

Point = tuple[Estimate, Estimate]
Ends = tuple[float, float]


@dataclass(frozen=True)
class Name:
    """What stands beside a mark."""

    text: str
    colour: str


def points_of(comparison: Comparison, clean: str = CLEAN, robust: Sequence[str] = ROBUST) -> dict[str, dict[str, Point]]:
    """By robust suite and method: the clean and the robust estimate, where a method has both.

    Raises:
        DataError: on no suite have two methods both.
    """
    found = {suite: dict(_points(comparison, clean, suite)) for suite in robust if suite in comparison.suites}
    shown = {suite: points for suite, points in found.items() if len(points) > 1}
    if not shown:
        raise DataError("No two methods were measured both as pictures are and when they are corrupted or attacked.")
    return shown


def _points(comparison: Comparison, clean: str, robust: str) -> Iterator[tuple[str, Point]]:
    for method in comparison.methods:
        first, second = (comparison.estimate(suite, method) for suite in (clean, robust))
        if first and second:
            yield method, (first, second)


def costs_of(comparison: Comparison) -> dict[str, float]:
    """What a step of each method costs over one of the baseline, the median over seeds; of those where it was measured."""
    return {method: median(ratios) for method in comparison.methods if (ratios := comparison.ratios("cost", method))}


def diameters(methods: Sequence[str], costs: Mapping[str, float]) -> dict[str, float]:
    """Of the marks, in points: the area is proportional to the cost, but for the smallest; all alike where it is unknown."""
    dearest = max(costs.values(), default=1.0)
    return {m: max(SMALLEST, LARGEST * math.sqrt(costs[m] / dearest)) if m in costs else 1.4 * SMALLEST for m in methods}


@mpl.rc_context(STYLE)
def trade_figures(
    comparison: Comparison, *, measure: str = "accuracy", clean: str = CLEAN, robust: Sequence[str] = ROBUST
) -> dict[str, Figure]:
    """Clean against robust `measure` in percent, a figure for each robust suite; marks as large as a step is dear.

    Raises:
        DataError: as `points_of`.
    """
    costs, found = costs_of(comparison), dict[str, Figure]()
    sizes, names = diameters(comparison.methods, costs), names_of(comparison, costs)
    for suite, points in points_of(comparison, clean, robust).items():
        figure, (panel,) = panels(1, width=4.3, height=4.0)
        FigureCanvasAgg(figure)
        _draw_points(panel, points, comparison, sizes)
        panel.set_xlabel(f"{comparison.title(clean)}, {measure} in %")
        panel.set_ylabel(f"{comparison.title(suite)}, {measure} in %")
        panel.margins(0.14)
        not_below_0(panel)
        figure.draw_without_rendering()
        _name_points(panel, points, sizes, names)
        found[suite] = figure
    return found


def _draw_points(panel: Axes, points: Mapping[str, Point], comparison: Comparison, sizes: Mapping[str, float]) -> None:
    """Marks over light crosses of intervals, the small ones above, and lines through the baseline."""
    for line, value in zip((panel.axvline, panel.axhline), points.get(BASELINE, ()), strict=False):
        line(value.mean, color=MUTED, lw=0.8, ls=(0, (1, 3)), zorder=1)
    shown = looks(comparison.methods)
    for method in sorted(points, key=lambda method: -sizes[method]):
        (x, y), colour = points[method], shown[method].color
        for xs, ys in _cross(x, y):
            panel.plot(xs, ys, color=colour, lw=0.9, alpha=0.4, zorder=2)
        drawn: dict[str, Any] = {"markersize": sizes[method], "markeredgecolor": PAPER, "markeredgewidth": 0.8, "alpha": 0.85}
        panel.plot(x.mean, y.mean, "o", color=colour, zorder=3, **drawn)


def _cross(x: Estimate, y: Estimate) -> tuple[tuple[Ends, Ends], tuple[Ends, Ends]]:
    """The two intervals as lines through the means."""
    across, up = (x.mean, x.mean), (y.mean, y.mean)
    return (x.interval or across, up), (across, y.interval or up)


def _name_points(panel: Axes, points: Mapping[str, Point], sizes: Mapping[str, float], names: Mapping[str, Name]) -> None:
    """A name beside each mark, joined by a thin line where it had to go further away."""
    scale, placed = 72 / panel.figure.dpi, panel.transData
    means = np.array([(x.mean, y.mean) for x, y in points.values()])
    centres, radii = placed.transform(means) * scale, np.array([sizes[method] / 2 for method in points])[:, None]
    marks = np.hstack([centres - radii, centres + radii])
    crosses = np.array([np.transpose(line) for point in points.values() for line in _cross(*point)])
    lines = (placed.transform(crosses.reshape(-1, 2)) * scale).reshape(-1, 4) + THIN
    needed = np.array([_size(panel, names[method].text, scale) for method in points])
    boxes = named_apart(marks, needed, np.array(panel.bbox.extents) * scale, lines)
    for method, mean, centre, mark, box in zip(points, means, centres, marks, boxes, strict=True):
        line = {"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 0} if away(box, mark) > LED else None
        written: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "fontsize": LETTER, "zorder": 4}
        text, colour = names[method].text.replace("$", r"\$"), names[method].colour
        panel.annotate(text, tuple(mean), tuple(box[:2] - centre), color=colour, arrowprops=line, **written)


def names_of(comparison: Comparison, costs: Mapping[str, float]) -> dict[str, Name]:
    """`AT, 2.1 x` in the colour of its mark: the method, and what a step of it costs over one of the baseline."""
    said = {method: f", {costs[method]:.1f} {TIMES}" for method in costs if method != BASELINE}
    return {m: Name(method_title(m) + said.get(m, ""), look.color) for m, look in looks(comparison.methods).items()}


def _size(panel: Axes, text: str, scale: float) -> tuple[float, float]:
    """Width and height of a name in points."""
    renderer = panel.figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]  # that of Agg has one
    width, *_ = renderer.get_text_width_height_descent(text, FontProperties(size=LETTER), ismath=False)
    return width * scale, LINE * LETTER
