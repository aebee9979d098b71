"""What older versions meant by a setting is not gone on with as if it were the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dat
from dat.errors import RunFolderError
from dat.recipe.older import as_it_was_meant

pytestmark = pytest.mark.usefixtures("all_undrawn")

RECIPE: dict[str, Any] = {
    "kind": "classification",
    "title": "tiny",
    "data": {"source": "digits", "augment": {"kind": "none"}},
    "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
    "training": {"epochs": 1, "batch_size": 449, "lr": 0.01},
    "methods": {"standard": {}},
    "evaluation": {"suites": ["clean"]},
}


@pytest.mark.parametrize("schedule", ["step", "poly", "cosine"])
def test_a_training_that_began_with_another_schedule_of_that_name_is_not_gone_on_with(schedule: str, tmp_path: Path) -> None:
    recipe = {**RECIPE, "training": {**RECIPE["training"], "schedule": schedule}}
    run = dat.train(recipe, out=tmp_path / "run", cpu=True)
    dat.train(recipe, out=run, resume=True, cpu=True)  # begun by this version
    for path in run.rglob("settings.json"):  # which older versions did not write
        path.unlink()
    if schedule == "cosine":
        dat.train(recipe, out=run, resume=True, cpu=True)
        return
    for _ in range(2):
        with pytest.raises(RunFolderError, match=rf"training\.schedule was {schedule} \(.*\), is {schedule}\); put"):
            dat.train(recipe, out=run, resume=True, cpu=True)


def test_parts_without_a_schedule_are_as_they_are() -> None:
    for part in ({"data": 1}, {"training": {"lr": 1.0}}, {"training": {"schedule": "cosine"}}):
        assert as_it_was_meant(part) == part
