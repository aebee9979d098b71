"""What a paper reports beside what was measured here: `paper | ours | delta | n`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dat.report.tables import (
    ABSENT,
    BASELINE,
    Cell,
    Column,
    Comparison,
    Line,
    Table,
    cell,
    method_title,
    number,
    suite_title,
)
from dat.results import Row

Quoted = Mapping[tuple[str, str, str], Row]
"""What a paper reports, by method, suite and metric."""


def paper_table(comparison: Comparison, rows: Iterable[Row]) -> Table | None:
    """One line for each quoted number, under the heading of its method; None where nothing is quoted.

    `delta` is ours minus the paper's. The gains are over standard training, each within its own experiment: they can be
    compared where models and pictures differ.
    """
    papers = [row for row in rows if row.source == "paper"]
    if not papers:
        return None
    quoted = {(row.method, row.suite, row.metric): row for row in papers}
    sources = sorted({str(row.protocol.get("source", "not said")) for row in papers})
    return Table(
        name="paper",
        caption="Beside the numbers of the paper, in percent; accuracy, but mCE where it says so (lower is better).",
        corner="Test set",
        columns=(
            Column("Paper"),
            Column("Ours"),
            Column("Delta", "points"),
            Column("n", "images"),
            Column("Paper: gain", "over standard"),
            Column("Ours: gain", "over standard"),
        ),
        lines=tuple(_line(comparison, quoted, key) for key in quoted),
        notes=(f"The paper: {'; '.join(sources)}. An em dash stands where a number was not measured here.",),
    )


def _line(comparison: Comparison, quoted: Quoted, key: tuple[str, str, str]) -> Line:
    method, suite, metric = key
    is_ours = metric == "accuracy"
    ours = comparison.estimate(suite, method) if is_ours else None
    delta = Cell(number(ours.mean - quoted[key].value, decimals=2, signed=True), quoted=ours.rows) if ours else ABSENT
    count = Cell(str(ours.n), quoted=ours.rows) if ours else ABSENT
    gain = cell(comparison.difference(suite, method), decimals=2, signed=True) if is_ours and method != BASELINE else ABSENT
    title = suite_title(suite) if is_ours else "Corruptions, mCE"
    paper = Cell(number(quoted[key].value, decimals=2), quoted=(quoted[key],))
    cells = (paper, cell(ours, decimals=2), delta, count, _gain(quoted, key), gain)
    return Line(title, cells, group=method_title(method))


def _gain(quoted: Quoted, key: tuple[str, str, str]) -> Cell:
    """The paper's own difference to its standard training."""
    method, suite, metric = key
    baseline = quoted.get((BASELINE, suite, metric))
    if method == BASELINE or baseline is None:
        return ABSENT
    gain = quoted[key].value - baseline.value
    return Cell(number(gain, decimals=2, signed=True), quoted=(quoted[key], baseline))
