"""What `dat eval` left beside the models of a run, beside what their training measured, and judged by the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from dat.errors import DataError, UsageError
from dat.evaluation.right import Model
from dat.report.answered import unused_answers
from dat.report.scorecard.predicted import Predicted, named_by_set
from dat.report.tables import Comparison, Table, accuracy_table, by_set, comparison_table, is_part, spread_words
from dat.results import RESULTS, SET, Row, of_set, read_rows

CELL = 2
"""So many slashes are in the name of a cell of corruptions."""

Renamed = Callable[[list[Row]], list[Row]]
Found = tuple[Row, np.ndarray | None]
"""A row of a model of a run, its suite under the name of its set; and how often each picture was right, where that is known."""


def later_table(
    run: Path,
    rows: Sequence[Row],
    comparison: Comparison,
    left_out: list[str],
    *,
    clean: Collection[str] = ("clean",),
    renamed: Renamed = list,
) -> Table | None:
    """What `dat eval` left beside the models of a run, beside the accuracy on clean pictures that the training measured.

    Of a set that was measured twice, it is the later number. Intervals are as those of `comparison`: over pictures, too, where
    it has answers; `left_out` is told where those of an evaluation cannot be used. `clean`: what the suites of clean pictures
    are called in `rows`, `renamed` calls the suites of an evaluation so.

    Raises:
        DataError: rows are damaged, or cannot be put beside each other.
    """
    models = [(method, seed) for method in comparison.methods for seed in comparison.seeds(method)]
    later = [found for model in models for found in _later(run, model, renamed)]
    if not later:
        return None
    again = {row.suite for row, _ in later}
    measured = [
        found for found in _trained([row for row in rows if row.suite in clean], comparison) if found[0].suite not in again
    ]
    compared = _compared([*measured, *later], judged=bool(comparison.answers))
    left_out += [said for said in unused_answers(compared) if said not in left_out]
    caption = (
        "What `dat eval` measured later, beside the clean pictures of the training: accuracy in percent, mean over "
        f"seeds{spread_words(compared, compared.suites)}."
    )
    return replace(accuracy_table(compared), name="later", caption=caption)


def _compared(found: Sequence[Found], *, judged: bool) -> Comparison:
    """Raises: DataError: the rows were measured in different ways."""
    answers: dict[Model, dict[str, np.ndarray]] = {}
    for row, right in found if judged else ():
        if right is not None:
            answers.setdefault((row.method, row.seed), {})[row.suite] = right
    try:
        return comparison_table([row for row, _ in found], answers=answers)
    except UsageError as error:
        raise DataError(str(error)) from error


def _trained(rows: Sequence[Row], comparison: Comparison) -> Iterator[Found]:
    """Ours of a training, which keeps answers on the first of its sets without its name."""
    for row, kept in zip(rows, by_set(rows)[0], strict=True):
        right = comparison.answers.get((row.method, row.seed), {}).get(kept.suite)
        if row.source == "ours":
            yield replace(row, suite=of_set(row.suite, str(row.protocol.get(SET, "")))), right


def _later(run: Path, model: Model, renamed: Renamed) -> list[Found]:
    """Accuracies on whole test sets that an evaluation of one model left, in the order of `renamed`."""
    method, seed = model
    folder = run / f"{method}-seed{seed}" / "evaluation"
    stored = read_rows(folder / RESULTS) if (folder / RESULTS).is_file() else []
    named = named_by_set(stored)
    predicted = Predicted(folder, {(row.suite, row.metric): row for row in named})
    found: dict[str, Found] = {}
    for row, own in zip(stored, named, strict=True):
        for called in filter(_is_whole, renamed([row])):
            suite, right = _suite(called), None
            with suppress(DataError, UsageError):  # without an interval; the page says so
                right = predicted.scores(own).values / 100
            found[suite] = replace(called, suite=suite, method=method, seed=seed), right
    return [found[suite] for suite in map(_suite, filter(_is_whole, renamed(stored)))]


def _is_whole(row: Row) -> bool:
    return row.metric == "accuracy" and not is_part(row.suite) and row.suite.count("/") < CELL


def _suite(row: Row) -> str:
    return of_set(row.suite, str(row.protocol.get(SET, "later")))
