"""Figure 3 of the paper for models of one's own: a picture and its perturbations, their colours and their frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dat.report.figures import INK, MUTED, STYLE
from dat.report.statistics_figure import LABELS, MARKERS, colour_of
from dat.results import mean_interval

Picture = Float[np.ndarray, "3 height width"]
Energy = Float[np.ndarray, "height width"]
Curves = Float[np.ndarray, "pictures rings"]

CLEAN, KINDS = "clean", ("discrete", "pixel", "random-codes", "reconstruction")
FLOOR = 1e-9
"""Of the largest mean energy; smaller ones are drawn as it."""
HALF, WHOLE = 0.25, 0.5
"""Half of Nyquist's frequency, and all of it, in cycles per pixel."""
ROWS = ("picture", "its middle patch", "log spectrum", "", "")


@dataclass(frozen=True, eq=False)
class Perturbations:
    """Of one model: a picture and what becomes of it, with the colours of its `patch` (top, left, height, width).

    `pictures` and `deltas`: mean energy by frequency of all pictures and of what was done to them; `curves`: of each picture,
    at `rings`, in cycles per pixel; `numbers`: by adversary and metric; `white`: percent of white noise above half Nyquist.
    """

    name: str
    examples: Mapping[str, Picture]
    colours: Mapping[str, int]
    patch: tuple[int, int, int, int]
    pictures: Mapping[str, Energy]
    deltas: Mapping[str, Energy]
    curves: Mapping[str, Curves]
    rings: np.ndarray
    numbers: Mapping[str, Mapping[str, float]]
    white: float


@mpl.rc_context({**STYLE, "axes.grid": False})
def spectrum_figure(found: Perturbations) -> Figure:
    """A column for the picture and each adversary; below them the energy by radius, as means over the pictures."""
    figure = Figure(figsize=(10.5, 13), layout="constrained")
    grid = figure.add_gridspec(len(ROWS) + 1, 1 + len(KINDS), height_ratios=[1] * len(ROWS) + [1.5])
    cells = [[figure.add_subplot(grid[row, column]) for column in range(1 + len(KINDS))] for row in range(len(ROWS))]
    for row, title in zip(cells, ROWS, strict=True):
        row[0].set_ylabel(title, color=MUTED)
    for column, name in enumerate((CLEAN, *KINDS)):
        draw_example(cells[0][column], cells[1][column], found, name)
        draw_energies(cells[2][column], found.pictures, name)
    draw_differences(cells[3], found)
    say(cells[4][0], "log spectrum\nof the difference")
    for column, name in enumerate(KINDS, start=1):
        draw_energies(cells[4][column], found.deltas, name)
        cells[4][column].set_xlabel(_share(found, name))
    for axes in (axes for row in cells for axes in row):
        axes.set(xticks=[], yticks=[])
    draw_curves(figure.add_subplot(grid[len(ROWS), :]), found)
    figure.suptitle(f"{found.name}: one picture, and means over {len(found.curves['pixel'])}", fontsize=10, x=0.01, ha="left")
    return figure


def say(axes: Axes, words: str) -> None:
    """Words in the place of a picture."""
    axes.axis("off")
    axes.text(0.95, 0.5, words, color=MUTED, ha="right", va="center", transform=axes.transAxes)


def _share(found: Perturbations, name: str) -> str:
    share = found.numbers[name].get("energy_above_half_nyquist")
    return "nothing is changed" if share is None else f"{share:.1f} % above half Nyquist"


def draw_example(whole: Axes, part: Axes, found: Perturbations, name: str) -> None:
    """The picture with its patch framed, and the patch with the number of its colours."""
    top, left, height, width = found.patch
    picture = found.examples[name].transpose(1, 2, 0).clip(0, 1)
    whole.imshow(picture, interpolation="nearest")
    whole.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec=INK, lw=1.2))
    whole.set_title("picture" if name == CLEAN else LABELS[name], fontweight="bold")
    part.imshow(picture[top : top + height, left : left + width], interpolation="nearest")
    part.set_xlabel(f"{found.colours[name]} colours")


def draw_energies(axes: Axes, energies: Mapping[str, Energy], name: str) -> None:
    """Logarithm of the energy by frequency, 0 in the middle; all panels of a row have one scale."""
    most = max(float(one.max()) for one in energies.values()) or 1.0
    logs = {one: np.log10(np.maximum(values, FLOOR * most)) for one, values in energies.items()}
    low = min(float(np.percentile(values, 1)) for values in logs.values())
    axes.imshow(logs[name], cmap="viridis", vmin=low, vmax=np.log10(most), interpolation="nearest")


def draw_differences(row: list[Axes], found: Perturbations) -> None:
    """Around grey, each amplified by a factor of its own, with its sizes, which are means over the pictures."""
    say(row[0], "difference\nto the picture,\namplified")
    for axes, name in zip(row[1:], KINDS, strict=True):
        delta = (found.examples[name] - found.examples[CLEAN]).transpose(1, 2, 0)
        factor = amplification(delta)
        axes.imshow((0.5 + factor * delta).clip(0, 1), interpolation="nearest")
        numbers = found.numbers[name]
        axes.set_title(f"x {factor}", fontsize=8)
        axes.set_xlabel(f"l2 {numbers['l2']:.2f}, linf {numbers['linf_255']:.0f}/255\nl0 {numbers['l0']:.0f} % of the pixels")


def amplification(delta: np.ndarray) -> int:
    """Largest whole factor that keeps 99 % of the differences between black and white; at least 1."""
    return max(1, int(0.5 / max(float(np.percentile(np.abs(delta), 99)), 1 / 512)))


def draw_curves(axes: Axes, found: Perturbations) -> None:
    """Energy of a ring over that of white noise of the same energy, with 95 % intervals over the pictures."""
    for name in KINDS:
        curves = found.curves[name][~np.isnan(found.curves[name]).any(axis=1)]
        if not len(curves):
            continue
        means = [mean_interval(ring.tolist()) for ring in curves.T]
        low, high = zip(*[interval or (mean, mean) for mean, interval in means], strict=True)
        every = max(1, len(means) // 12)
        shown = {"color": colour_of(name), "marker": MARKERS[name], "ms": 3.5, "markevery": every, "label": LABELS[name]}
        axes.plot(found.rings, [mean for mean, _ in means], **shown)
        axes.fill_between(found.rings, np.maximum(low, 1e-4), high, color=colour_of(name), alpha=0.18, lw=0)
    axes.axhline(1, color=MUTED, lw=0.9)
    axes.axvline(HALF, color=MUTED, lw=0.9, ls=":")
    axes.axvline(WHOLE, color=MUTED, lw=0.9, ls=":")
    axes.text(
        HALF,
        0.02,
        f" half Nyquist ({found.white:.0f} % of white noise is above)",
        transform=axes.get_xaxis_transform(),
        color=MUTED,
    )
    axes.set(yscale="log", xlabel="cycles per pixel", ylabel="energy of the difference, white noise = 1")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # of less than a decade there would be one number
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(ncols=2, loc="upper right")
