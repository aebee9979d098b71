"""The page of an analysis of models, or of a table of the paper: what came of it, figures, tables whose numbers tell whence.

Knows rows, tables and figures; no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from dat.report.figures import svg_text
from dat.report.origins import Origins
from dat.report.page import Plot, render
from dat.report.tables import ABSENT, Cell, Column, Estimate, Line, Table, cell
from dat.results import Row
from dat.version import __version__

MOST_PLOTS = 8
"""Figures of a page, which stays below 5 MB; further ones are pictures beside it."""
GAP = "-minus-"
MARKED = "Bold: the interval of the difference excludes 0."


@dataclass(frozen=True)
class Sheet:
    """All that a page shows; `lead` answers what it asks, `files` lie beside it."""

    title: str
    subtitle: str
    lead: tuple[str, ...]
    tables: Mapping[str, Table]
    plots: Mapping[str, Plot]
    files: tuple[str, ...]


def sheet_page(sheet: Sheet) -> str:
    """The page: styles, figures and one script inside, no address outside."""
    return render("sheet.html.j2", report=sheet, origins=Origins([*sheet.tables.values()]), version=__version__)


def plots_of(figures: Mapping[str, Figure], captions: Mapping[str, str]) -> dict[str, Plot]:
    """Figures by name as parts of a page; of many the first, whose caption says where the others are."""
    left = list(figures)[MOST_PLOTS:]
    beside = f" The figures of {len(left)} more ({', '.join(left)}) are in the pictures beside this page." * bool(left)
    named = [(f"plot-{place}", name, figures[name]) for place, name in enumerate(list(figures)[:MOST_PLOTS])]
    plots = {key: Plot(key, svg_text(figure, name=key, label=name), captions[name]) for key, name, figure in named}
    return {key: replace(plot, caption=plot.caption + beside * (key == "plot-0")) for key, plot in plots.items()}


def rows_table(
    rows: Sequence[Row], *, caption: str, lines: Mapping[str, str], metrics: Mapping[str, Column], groups: Sequence[str]
) -> Table:
    """A line for each of `lines`, which are suites, under each group of rows; a column for each metric.

    `groups`: entries of the protocol whose values tell the groups apart.
    """
    found = {(_group(row, groups), row.suite, row.metric): row for row in rows}
    shown = [
        Line(title, tuple(_cell(found.get((group, suite, metric))) for metric in metrics), group=group)
        for group in dict.fromkeys(_group(row, groups) for row in rows)
        for suite, title in lines.items()
        if any((group, suite, metric) in found for metric in metrics)
    ]
    is_marked = any(one.mark for line in shown for one in line.cells)
    return Table("numbers", caption, "Pictures after", tuple(metrics.values()), tuple(shown), (MARKED,) * is_marked)


def _group(row: Row, names: Sequence[str]) -> str:
    first, *others = (row.protocol[name] for name in names)
    return ", ".join([str(first), *(f"{name} {value}" for name, value in zip(names[1:], others, strict=True))])


def _cell(row: Row | None) -> Cell:
    """Small numbers, as correlations, with four digits behind the point."""
    if row is None:
        return ABSENT
    value, is_gap = Estimate(row.value, row.ci, 1, row.n, (row,)), GAP in row.suite
    decimals = 4 if row.metric.startswith("correlation") else 2
    return replace(cell(value, decimals=decimals, signed=is_gap), mark="best" if is_gap and value.sign else "")


def tally(rows: Sequence[Row], suite: str, metric: str) -> str:
    """In how many rows a difference is above 0, below it, and open: `higher on 2 of 10, lower on 7, open on 1`."""
    found = [Estimate(row.value, row.ci, 1, row.n) for row in rows if (row.suite, row.metric) == (suite, metric)]
    counts = {word: sum(one.sign == sign for one in found) for word, sign in {"higher": 1, "lower": -1, "open": 0}.items()}
    said = [f"{word} on {count}" for word, count in counts.items() if count]
    return ", ".join([f"{said[0]} of {len(found)}", *said[1:]]) if said else "not measured"
