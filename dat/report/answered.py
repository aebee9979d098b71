"""The answers per picture that a run kept of its models, for intervals over seeds and pictures together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dat.evaluation.intervals import FEWEST
from dat.evaluation.right import read_all
from dat.report.tables import Answers, Comparison, listed
from dat.results import Row


def kept_answers(run: Path, rows: Iterable[Row]) -> Answers:
    """Of the models of these rows; of those of which none were kept, nothing.

    Raises:
        DataError: a file of them is damaged.
    """
    return read_all(run, ((row.method, row.seed) for row in rows if row.source == "ours"))


def unused_answers(comparison: Comparison) -> list[str]:
    """That intervals are over seeds alone although answers are there, and why."""
    layouts = {suite: comparison.layout(suite) for suite in comparison.suites} if comparison.answers else {}
    unused = [comparison.title(suite) for suite, layout in layouts.items() if layout is None or layout.pictures is None]
    if not unused:
        return []
    why = f"Those of some models are missing, of fewer than {FEWEST} pictures, or do not give the numbers of the rows."
    return [f"Answers per picture: left out on {listed(unused)}. {why}"]
