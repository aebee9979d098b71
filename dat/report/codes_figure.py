"""Table 8 of the paper for models of one's own, drawn: modified codes, loss, answers and pixels, by the length of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dat.evaluation.intervals import PERCENT
from dat.report.figures import METHOD_COLOURS, OTHER_COLOURS, STYLE, add_titled_legend
from dat.results import UNBOUNDED, mean_interval

Values = Float64[np.ndarray, "alphas ways pictures"]

PANELS = {
    "rates": "modified codes, %",
    "losses": "loss above that of Q(x)",
    "same": "same answer, %",
    "l2": "l2 in pixels from Q(x)",
}
SHARES = ("rates", "same")
"""Panels in percent, whose intervals end at 0 and 100, as in the rows."""
LOOKS = {
    "discrete": ("adversary (DAT)", METHOD_COLOURS["dat"][0], "s"),
    "random-step": ("random step, as long", OTHER_COLOURS[0][0], "v"),
    "random-codes": ("random codes, as many", METHOD_COLOURS["random-codes"][0], "D"),
    "reconstruction": ("no adversary, Q(x)", METHOD_COLOURS["standard"][0], "^"),
}


@dataclass(frozen=True, eq=False)
class Sweep:
    """What was measured of one model with one discretizer; `values` by what `PANELS` shows, without what its task has not."""

    name: str
    ways: tuple[str, ...]
    alphas: tuple[float, ...]
    values: Mapping[str, Values]


@mpl.rc_context(STYLE)
def codes_figure(sweeps: Sequence[Sweep]) -> Figure:
    """A row for each model and discretizer; 95 % intervals over the pictures."""
    shown = [name for name in PANELS if any(name in one.values for one in sweeps)]
    figure = Figure(figsize=(0.5 + 2.9 * len(shown), 0.8 + 2.4 * len(sweeps)), layout="constrained")
    grid = figure.subplots(len(sweeps), len(shown), squeeze=False)
    for row, one in zip(grid, sweeps, strict=True):
        row[0].set_title(one.name, loc="left", fontweight="bold")
        for axes, name in zip(row, shown, strict=True):
            axes.set_ylabel(PANELS[name])
            if name in one.values:
                draw_sweep(axes, one, name)
    for axes in grid[-1]:
        axes.set_xlabel("alpha")
    add_titled_legend(figure, {label: (colour, marker) for label, colour, marker in LOOKS.values()})
    return figure


def draw_sweep(axes: Axes, found: Sweep, name: str) -> None:
    """A line for each way over alpha; of losses by how much they are above that of Q(x), picture by picture."""
    before = found.values[name][:, found.ways.index("reconstruction")] if name == "losses" else 0
    for way, (_, colour, marker) in LOOKS.items():
        of_way = found.values[name][:, found.ways.index(way)] - before
        means = [mean_interval(values.tolist(), bounds=PERCENT if name in SHARES else UNBOUNDED) for values in of_way]
        low, high = zip(*[interval or (mean, mean) for mean, interval in means], strict=True)
        axes.plot(found.alphas, [mean for mean, _ in means], color=colour, marker=marker, ms=4)
        axes.fill_between(found.alphas, low, high, color=colour, alpha=0.18, lw=0)
