"""The answers per picture that a run kept of its models, for intervals over seeds and pictures together, and for mistakes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dat.errors import DataError
from dat.evaluation.intervals import FEWEST
from dat.evaluation.mistakes import Answered
from dat.evaluation.right import RIGHT, Kept, Model, read_all
from dat.report.tables import Answers, Comparison, listed
from dat.results import CLASS, SET, Row, without_set

Said = dict[str, dict[Model, Answered]]
"""What models said of pictures as they are, by the name of the test set, and by model."""
Clean = Mapping[Model, Row]
"""The rows of the accuracies of models on one test set as it is."""


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


def clean_rows(comparison: Comparison) -> dict[str, dict[Model, Row]]:
    """The rows of a comparison that are of sets as they are, by the name of the set, and by model."""
    found: dict[str, dict[Model, Row]] = {}
    for (suite, method), rows in comparison.rows.items():
        for row in rows if without_set(suite)[0] == "clean" else ():
            found.setdefault(str(row.protocol.get(SET, "")), {})[method, row.seed] = row
    return found


def rows_of_class(
    clean: Clean, said: Mapping[Model, Answered], place: int, *methods: str, seeds: Sequence[int | None] | None = None
) -> tuple[Row, ...]:
    """Rows of the accuracies of methods on one class (at some `seeds`), as the models answered; none where no row is known.

    Answers that do not give the accuracy of their row, as those of another evaluation, have none.
    """
    models = [(name, seed) for method in methods for name, seed in said if name == method and (seeds is None or seed in seeds)]
    agreeing = [
        model
        for model in models
        if model in clean and math.isclose(100 * said[model].correct.mean(), clean[model].value, abs_tol=1e-6)
    ]
    return tuple(_of_class(clean[model], said[model], place) for model in agreeing)


def _of_class(row: Row, answered: Answered, place: int) -> Row:
    protocol = {**row.protocol, CLASS: answered.classes[place]}
    value, count = float(answered.accuracies[place]), int(answered.counts[place])
    return replace(row, value=value, n=count, ci=None, protocol=protocol)


def unused_answers(comparison: Comparison) -> list[str]:
    """That intervals are over seeds alone although answers are there, and why."""
    layouts = {suite: comparison.layout(suite) for suite in comparison.suites} if comparison.answers else {}
    unused = [comparison.title(suite) for suite, layout in layouts.items() if layout is None or layout.pictures is None]
    if not unused:
        return []
    why = f"Those of some models are missing, of fewer than {FEWEST} pictures, or do not give the numbers of the rows."
    return [f"Answers per picture: left out on {listed(unused)}. {why}"]
