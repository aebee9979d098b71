"""Figure 2 of the paper for models of one's own: correlations at normalisation layers, as histograms and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dat.analysis.statistics import POSSIBLE
from dat.report.figures import METHOD_COLOURS, STYLE, add_titled_legend
from dat.results import mean_interval

Values = Float64[np.ndarray, "adversaries batches layers 2"]
OfBatches = Float64[np.ndarray, "batches 2"]

TITLES = ("means", "variances")
COLOURS = {"pixel": "at", "discrete": "dat", "random-codes": "random-codes", "reconstruction": "standard"}
"""The method whose colour an adversary has."""
LABELS = {
    "pixel": "pixels (AT)",
    "discrete": "words (DAT)",
    "random-codes": "random words",
    "reconstruction": "no adversary, Q(x)",
}
MARKERS = {"pixel": "o", "discrete": "s", "random-codes": "D", "reconstruction": "^"}
BINS = 24
OUTLIERS = 2.0
"""Percent of the values that a histogram need not show."""


@dataclass(frozen=True, eq=False)
class Correlations:
    """Of one model: means and variances (last axis), NaN where there is no correlation; `own`: what it was trained with."""

    layers: tuple[str, ...]
    adversaries: tuple[str, ...]
    values: Values
    own: str = ""

    def of(self, adversary: str) -> np.ndarray:
        """By batch, layer, and mean or variance."""
        return self.values[self.adversaries.index(adversary)]

    def over_layers(self, adversary: str) -> OfBatches:
        """Mean over the layers that have one, of each batch."""
        return _mean(self.of(adversary))

    def gaps(self, first: str, second: str) -> OfBatches:
        """By how much the first is above the second: mean over the layers that have both, of each batch."""
        return _mean(self.of(first) - self.of(second))


def _mean(values: np.ndarray) -> OfBatches:
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.where(known, values, 0).sum(axis=1) / np.maximum(counts, 1), np.nan)


@mpl.rc_context(STYLE)
def statistics_figure(models: Mapping[str, Correlations]) -> Figure:
    """A row for each model: on the left how often which correlation was met, over batches and layers; on the right by layer."""
    figure = Figure(figsize=(11.5, 0.7 + 2.3 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 4, squeeze=False)
    lows = [_low(models, which) for which in range(len(TITLES))]
    for row, (name, found) in zip(grid, models.items(), strict=True):
        for which, title in enumerate(TITLES):
            draw_histogram(row[which], found, which, lows[which])
            draw_layers(row[2 + which], found, which)
            row[which].set_title(f"{name}: {title}", loc="left", fontweight="bold")
            row[2 + which].set_title(f"{title}, by layer", loc="left", fontweight="bold")
        row[0].set_ylabel("batches x layers")
    for panel, label in zip(grid[-1], ("correlation",) * 2 + ("layer, from the input on",) * 2, strict=True):
        panel.set_xlabel(label)
    shown = next(iter(models.values())).adversaries
    add_titled_legend(figure, {LABELS[name]: (colour_of(name), MARKERS[name]) for name in shown})
    return figure


def colour_of(adversary: str) -> str:
    """That of the method which trains with it."""
    return METHOD_COLOURS[COLOURS[adversary]][0]


def _low(models: Mapping[str, Correlations], which: int) -> float:
    """Where histograms begin, the same for all models."""
    values = np.concatenate([found.values[..., which].ravel() for found in models.values()])
    known = values[~np.isnan(values)]
    return float(np.percentile(known, OUTLIERS)) if len(known) else 0.0


def draw_histogram(axes: Axes, found: Correlations, which: int, low: float) -> None:
    """Values below the axis count in its first bin."""
    edges = np.linspace(min(low, 0.999), 1, BINS + 1)
    for adversary in found.adversaries:
        values = found.of(adversary)[..., which].ravel()
        counts, _ = np.histogram(values[~np.isnan(values)].clip(edges[0], 1), edges)
        axes.stairs(counts, edges, color=colour_of(adversary), lw=1.4)
        axes.stairs(counts, edges, color=colour_of(adversary), fill=True, alpha=0.12)
    axes.grid(axis="x", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(3))  # numbers of four digits behind the point overlap if they are more


def draw_layers(axes: Axes, found: Correlations, which: int) -> None:
    """Mean over batches at each layer, with its 95 % interval, which is cut at 1."""
    for adversary in found.adversaries:
        of_layers = found.of(adversary)[..., which].T
        places = [place for place, values in enumerate(of_layers) if not np.isnan(values).all()]
        means = [mean_interval(of_layers[place][~np.isnan(of_layers[place])].tolist(), bounds=POSSIBLE) for place in places]
        colour = colour_of(adversary)
        axes.plot(places, [mean for mean, _ in means], color=colour, marker=MARKERS[adversary], ms=2.6, lw=1.1)
        low, high = zip(*[interval or (mean, mean) for mean, interval in means], strict=True) if means else ((), ())
        axes.fill_between(places, low, high, color=colour, alpha=0.18, lw=0)
