"""The answers per picture that a run kept of its models, for intervals over seeds and pictures together, and for mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dat.errors import DataError
from dat.evaluation.intervals import FEWEST
from dat.evaluation.mistakes import Answered
from dat.evaluation.right import RIGHT, Kept, Model, read_all
from dat.report.tables import Answers, Comparison, listed
from dat.results import SET, Row, without_set

Said = dict[str, dict[Model, Answered]]
"""What models said of pictures as they are, by the name of the test set, and by model."""


def kept_answers(run: Path, rows: Iterable[Row]) -> dict[Model, Kept]:
    """Of the models of these rows; of those of which none were kept, nothing.

    Raises:
        DataError: a file of them is damaged.
    """
    return read_all(run, ((row.method, row.seed) for row in rows if row.source == "ours"))


def right_of(kept: Mapping[Model, Kept]) -> Answers:
    """Which pictures models answered rightly."""
    return {model: answers.right for model, answers in kept.items()}


def said_of(kept: Mapping[Model, Kept], rows: Iterable[Row]) -> Said:
    """What models said of each test set; the rows say what the first is called.

    Raises:
        DataError: it was not kept.
    """
    ours = (row for row in rows if row.source == "ours" and row.metric == "accuracy")
    first = next((str(row.protocol.get(SET, "")) for row in ours), "")
    found: Said = {}
    for model, answers in kept.items():
        for suite, said in answers.said.items():
            found.setdefault(without_set(suite)[1] or first, {})[model] = said
    if not found:
        raise DataError(
            f"No {RIGHT}/*.npz tells what was said of clean pictures: an older version wrote them, or none were shown."
        )
    return found


def unused_answers(comparison: Comparison) -> list[str]:
    """That intervals are over seeds alone although answers are there, and why."""
    layouts = {suite: comparison.layout(suite) for suite in comparison.suites} if comparison.answers else {}
    unused = [comparison.title(suite) for suite, layout in layouts.items() if layout is None or layout.pictures is None]
    if not unused:
        return []
    why = f"Those of some models are missing, of fewer than {FEWEST} pictures, or do not give the numbers of the rows."
    return [f"Answers per picture: left out on {listed(unused)}. {why}"]
