"""Scores per picture behind the rows of an evaluation, counted from the predictions beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dat.errors import DataError, UsageError
from dat.evaluation import store
from dat.evaluation.intervals import PictureScores, Positions, Scores
from dat.evaluation.robustness import Answers, answers_of, members_of, picture_scores
from dat.evaluation.suites import clean_beside
from dat.report.scorecard.rows import LOWER, Key
from dat.results import INTERVAL, SET, Row, of_set, without_set

TOLERANCE = 1e-6
"""Percentage points by which a row may differ from the predictions it was made of."""


def named_by_set(rows: Sequence[Row]) -> list[Row]:
    """Rows whose suites say the set that was measured on."""
    return [replace(row, suite=of_set(row.suite, str(row.protocol.get(SET, "")))) for row in rows]


class Predicted:
    """The scores per picture behind the rows of a folder; each file is read once."""

    def __init__(self, folder: Path, rows: Mapping[Key, Row]) -> None:
        self.folder, self.rows = folder, rows
        self._answers: dict[Key, Answers] = {}

    def scores(self, row: Row) -> Scores:
        """Score of each picture that counts; their mean is the row's number.

        Raises:
            DataError: the predictions are missing, damaged, or not those of the row.
            UsageError: the number is of cells with different pictures, or of too few.
        """
        counted = _counted(row.metric)
        members = members_of(row.suite, [suite for suite, metric in self.rows if metric == counted])
        if members and row.ci is None:
            why = str(row.protocol.get(INTERVAL, "")).removeprefix("none: ") or "its row does not say why"
            raise UsageError(f"the number has no interval ({why}), so there is no paired difference.")
        values, positions = self._of_set(row, members) if members else self._of_cell(row)
        self._check(row, values)
        parts = [*members.values(), *[self._clean_beside(row)] * (row.metric == "relative_mce")] or [row.suite]
        pictures = dict.fromkeys(str(self.rows[part, counted].protocol.get("data", "")) for part in parts)
        return Scores(values, positions, "/".join(pictures), row.protocol)

    def _of_set(self, row: Row, members: Mapping[tuple[str, int], str]) -> tuple[PictureScores, Positions]:
        answers = {key: self._of(name, _counted(row.metric)) for key, name in members.items()}
        clean = self._of(self._clean_beside(row), "accuracy").correct.astype(float) if row.metric == "relative_mce" else None
        shares = {key: answer.correct.astype(float) for key, answer in answers.items()}
        metric = row.metric if row.metric in LOWER else "accuracy"
        return picture_scores(metric, shares, clean), next(iter(answers.values())).positions

    def _of_cell(self, row: Row) -> tuple[PictureScores, Positions]:
        answers = self._of(row.suite, row.metric)
        return 100 * answers.correct.astype(float), answers.positions

    def _of(self, suite: str, metric: str) -> Answers:
        if (suite, metric) not in self._answers:
            place = (without_set(suite)[0], str(self.rows[suite, metric].protocol.get(SET, "")))
            views, predictions = store.read_views(self.folder, *place), store.read_predictions(self.folder, *place)
            if metric not in views:
                raise DataError(f"The predictions of {suite} in {self.folder} do not say how {metric} counts; evaluate again.")
            self._answers[suite, metric] = answers_of(suite, {}, views[metric], predictions)
        return self._answers[suite, metric]

    def _clean_beside(self, row: Row) -> str:
        """The clean pictures that a set of corruptions was made of, as they are, or where they were not shown, all of them."""
        suite, pictures = without_set(row.suite)
        same = self.rows.get((of_set(clean_beside(suite), pictures), "accuracy"))
        is_same = same is not None and same.protocol.get("data") == row.protocol.get("data")
        return same.suite if same is not None and is_same else of_set("clean", pictures)

    def _check(self, row: Row, values: np.ndarray) -> None:
        if len(values) != row.n or abs(float(values.mean()) - row.value) > TOLERANCE:
            raise DataError(
                f"The predictions in {self.folder} give {values.mean():.4f} on {len(values)} pictures for {row.metric} of "
                f"{row.suite}, its row {row.value:.4f} on {row.n}; evaluate again into a new folder."
            )


def _counted(metric: str) -> str:
    """By which answers of the cells a number of all of them is made."""
    return "accuracy" if metric in LOWER else metric
