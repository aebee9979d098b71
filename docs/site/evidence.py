"""Draw what each method gained over standard training, in every comparison that this repository keeps with three seeds or more.

python docs/site/evidence.py docs/images/evidence.png
"""

import argparse
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dat.report.answered import kept_answers, right_of
from dat.report.figures import METHOD_COLOURS, MUTED, STYLE
from dat.report.page import in_order, read_facts
from dat.report.tables import Comparison, comparison_table, method_title
from dat.results import RESULTS, RUN, read_rows

ROOT = Path(__file__).resolve().parents[2]
RUNS = {
    "imagenette-rate": "Photographs, EfficientNet-Lite0 fine-tuned",
    "cifar10-shares": "CIFAR-10, ResNet-20 fine-tuned",
    "cifar10-compare": "CIFAR-10, a small network, five epochs",
    "demo": "Digits of 8 pixels, a small network",
}
"""Folders of `results/`, and what was trained there."""
SUITES = {"clean": "Clean pictures", "fgsm": "FGSM", "c": "15 corruptions"}
METHODS = {name: name for name in ("random-codes", "at", "augmix", "dat", "dat-free", "dat-fast")} | {"fast-60-30": "dat-fast"}
"""Labels of runs that the figure shows, and the method of each."""


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the picture to write")
    FigureCanvasAgg(drawn()).print_figure(parser.parse_args().out, dpi=110, metadata={"Software": None})


def drawn() -> Figure:
    """A panel for each kind of pictures and each comparison, a line for each method."""
    runs = {name: compared(name) for name in RUNS}
    heights = [1 + len(shown(run)) for run in runs.values()]
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(9.5, 0.24 * sum(heights) + 1), layout="constrained")
        panels = figure.subplots(len(runs), len(SUITES), squeeze=False, sharex="col", gridspec_kw={"height_ratios": heights})
        for panel, title in zip(panels[0], SUITES.values(), strict=True):
            panel.set_title(title, pad=26, fontweight="bold")
        for line, (name, run) in zip(panels, runs.items(), strict=True):
            for panel, suite in zip(line, SUITES, strict=True):
                draw(panel, run, suite)
            line[0].set_yticks(range(len(shown(run))), [method_title(METHODS[label]) for label in shown(run)])
            line[0].annotate(
                RUNS[name], (-0.36, 1), xycoords="axes fraction", xytext=(0, 7), textcoords="offset points", color=MUTED
            )
        figure.supxlabel("points of accuracy more than standard training, with the 95 % interval", fontsize=9)
    return figure


def compared(name: str) -> Comparison:
    """A kept run, with the intervals of its own page."""
    folder = ROOT / "results" / name
    rows = read_rows(folder / RESULTS)
    return comparison_table(in_order(rows, read_facts(folder / RUN)), answers=right_of(kept_answers(folder, rows)))


def shown(run: Comparison) -> list[str]:
    """Labels of the methods of the figure that the run has."""
    return [label for label in METHODS if label in run.methods]


def draw(panel: Axes, run: Comparison, suite: str) -> None:
    """Gains and their intervals; an interval that leaves the panel ends at its edge."""
    gains = [(label, gain) for label in shown(run) if (gain := run.difference(suite, label))]
    for place, (label, gain) in enumerate(gains):
        low, high = gain.interval or (gain.mean, gain.mean)
        colour = METHOD_COLOURS[METHODS[label]][0]
        panel.plot([low, high], [place, place], color=colour, linewidth=2.4, alpha=0.55, solid_capstyle="butt")
        panel.plot(gain.mean, place, "o", color=colour, markersize=6, markeredgecolor="white")
    panel.axvline(0, color=MUTED, linewidth=1)
    panel.set_ylim(len(gains) - 0.4, -0.6)
    panel.set_yticks(range(len(gains)), [])
    panel.grid(axis="y", visible=False)
    panel.tick_params(labelbottom=True)


if __name__ == "__main__":
    main()
