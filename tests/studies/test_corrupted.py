"""What a comparison says of corrupted pictures: beside each number what the very same pictures give as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.errors import UsageError
from dat.recipe.classification import EvaluationSection
from dat.report.figures import severity_figure
from dat.report.tables import accuracy_table, comparison_table, refuse_mixed_protocols
from dat.results import Row
from dat.studies import measured
from dat.studies.study import Job
from dat.types import Place

SIZES = (90, 30, 0)
"""Pictures of each class; the third has none."""


class Always(nn.Module):
    """Says the same of every picture."""

    def forward(self, images: Tensor) -> Tensor:
        """The first class."""
        return functional.one_hot(torch.zeros(len(images), dtype=torch.int64), len(SIZES)).float()


class Sees(nn.Module):
    """Says what the brightness of a picture says, which some corruptions change."""

    def forward(self, images: Tensor) -> Tensor:
        """A dark picture is of the first class, a bright one of the second."""
        return functional.one_hot((images.mean((1, 2, 3)) > 0.5).long(), len(SIZES)).float()


def measured_on(**settings: Any) -> list[Row]:
    """Rows of both models on unbalanced pictures."""
    targets = np.repeat(np.arange(len(SIZES)), SIZES)
    shades = np.random.default_rng(0).integers(-60, 60, (len(targets), 3, 8, 8))
    images = (np.where(targets == 0, 90, 165)[:, None, None, None] + shades).astype(np.uint8)
    source = ArraySource(images, targets, ("dark", "bright", "none"), [f"{index}.png" for index in range(len(targets))])
    evaluation = EvaluationSection(**{"suites": ["clean", "c"], **settings}).build()
    test = ImageDataset(source, CenterCrop(), seed=0)
    subject = measured.Subject(evaluation, "hash", test, (8, 8), Place(torch.device("cpu")))
    return measured.accuracies(subject, {Job("standard", 0): Always(), Job("dat", 0): Sees()})


def values(rows: list[Row], method: str) -> Mapping[str, tuple[float, int]]:
    return {
        row.suite: (row.value, row.n)
        for row in rows
        if row.method == method and row.metric == "accuracy" and not row.suite.startswith("c/")
    }


@pytest.fixture(scope="module")
def few() -> list[Row]:
    """Measured on 20 corrupted pictures of 120."""
    return measured_on(c_per_class=10)


def test_a_model_that_ignores_its_input_loses_nothing_to_corruptions(few: list[Row]) -> None:
    found = values(few, "standard")
    assert found == {"clean": (75.0, 120), "clean-c": (75.0, 20), "c": (75.0, 20)}
    assert found["clean-c"][0] - found["c"][0] == 0.0


def test_severity_0_is_of_the_very_same_pictures(few: list[Row]) -> None:
    found = values(few, "dat")
    assert (found["clean"], found["clean-c"]) == ((100.0, 120), (100.0, 20))
    assert 40 < found["c"][0] < 95
    table = accuracy_table(comparison := comparison_table(few))
    titles = [column.title for column in table.columns]
    assert titles[:3] == ["Clean", "Clean, the corrupted pictures", "Corruptions"]
    assert [cell.text for cell in table.lines[0].cells[:3]] == ["75.0", "75.0", "75.0"]
    assert comparison.suites == ("clean", "c")
    assert labels(few) == ["0", "1", "2", "3", "4", "5"]


def labels(rows: list[Row]) -> list[str]:
    """Of the severities that are drawn."""
    return [label.get_text() for label in severity_figure(comparison_table(rows)).axes[0].get_xticklabels()]


def test_clean_accuracy_on_other_pictures_is_no_severity_0(few: list[Row]) -> None:
    """As in rows of older versions."""
    older = [row for row in few if row.suite != "clean-c"]
    assert labels(older) == ["1", "2", "3", "4", "5"]
    assert [column.title for column in accuracy_table(comparison_table(older)).columns[:2]] == ["Clean", "Corruptions"]


def test_where_all_pictures_are_corrupted_clean_is_severity_0() -> None:
    rows = measured_on()
    assert {*values(rows, "dat")} == {"clean", "c"}
    assert not any("draw" in row.protocol for row in rows)
    assert labels(rows) == ["0", "1", "2", "3", "4", "5"]
    assert {*values(measured_on(suites=["c"]), "dat")} == {"clean-c", "c"}


def test_rows_say_how_their_pictures_were_drawn_and_are_not_compared_with_others(few: list[Row]) -> None:
    of_few = [row for row in few if row.suite != "clean"]
    assert {(row.protocol["draw"], row.protocol["draw_seed"]) for row in of_few} == {("in proportion to classes", 0)}
    assert not any("draw" in row.protocol for row in few if row.suite == "clean")
    older = measured_on(c_per_class=10, c_draw="first")
    assert not any("draw" in row.protocol for row in older)  # as rows of older versions, with which they may be compared
    assert values(older, "standard") == {"clean": (75.0, 120), "clean-c": (50.0, 20), "c": (50.0, 20)}
    with pytest.raises(UsageError, match=r"Suite 'clean-c' was measured in two ways: .*'in proportion to classes'"):
        refuse_mixed_protocols([*few, *older])


def test_what_is_kept_of_a_cell_is_known_by_its_draw() -> None:
    """So that predictions on pictures of one draw are not taken for those of another."""
    targets = np.repeat(np.arange(2), 30)
    images = np.zeros((60, 3, 8, 8), dtype=np.uint8)
    test = ImageDataset(ArraySource(images, targets, ("a", "b")), CenterCrop(), seed=0)
    found = set()
    for draw in ("in-proportion", "first"):
        evaluation = EvaluationSection(suites=["c"], c_per_class=3, c_draw=draw).build()
        subject = measured.Subject(evaluation, "hash", test, (8, 8), Place(torch.device("cpu")))
        measured.accuracies(subject, {Job("standard", 0): Always()}, keep=lambda cell, _: found.add(cell.protocol["data"]))
    assert len(found) == 2
