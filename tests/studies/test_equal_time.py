"""The epochs of equal time are counted once: those of a method that has begun with them stay, whatever seeds come and go."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dat.engine.dependence import keep
from dat.engine.run_folder import Run
from dat.errors import RunFolderError
from dat.recipe import read
from dat.recipe.classification import ClassificationRecipe, training_of
from dat.recipe.inputs import dependences
from dat.recipe.parts import OnDisk
from dat.studies.classification import ClassificationStudy
from dat.types import Place

METHODS: dict[str, Any] = {"standard": {}, "at": {"epsilon": 0.1}, "advprop": {}}
IMAGES_PER_S = {0: {"standard": 300, "at": 100, "advprop": 150}, 1: {"standard": 700, "at": 100, "advprop": 800}}
"""By seed: on the second one the machine had something else to do."""


def following(run: Path, *, as_method: str = "at", epochs: int = 4, **changes: Any) -> ClassificationRecipe:
    """The recipe that follows when all are trained with the speeds above."""
    values: dict[str, Any] = {
        "kind": "classification",
        "title": "tiny",
        "data": {"source": "digits"},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": epochs, "batch_size": 449, "lr": 0.01},
        "methods": METHODS,
        "seeds": [0],
        "equal_time_as": as_method,
        "out": str(run),
        **changes,
    }
    recipe = read.parse(values)
    assert isinstance(recipe, ClassificationRecipe)
    keep(run, dependences(recipe.depends_on(), {}), {})
    for seed in recipe.seeds:
        for label in recipe.methods:
            (run / f"{label}-seed{seed}" / "log.jsonl").write_text(
                json.dumps({"images_per_s": float(IMAGES_PER_S[seed][label])})
            )
    path = ClassificationStudy(recipe.open(OnDisk()), Run(run, Place(torch.device("cpu")), True, {})).following()
    assert path is not None
    follows = read.load(str(path))
    assert isinstance(follows, ClassificationRecipe)
    return follows


def begin(recipe: ClassificationRecipe, *names: str) -> None:
    again = Path(recipe.out)
    again.mkdir()
    keep(again, dependences(recipe.depends_on(), {}), {})
    for name in names:
        (again / name / "checkpoints" / "step-00000001").mkdir(parents=True)


def epochs_of(recipe: ClassificationRecipe) -> dict[str, int]:
    return {label: training_of(recipe, label).epochs for label in recipe.methods}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """All but one method have begun in equal time, with the speeds of seed 0."""
    follows = following(tmp_path)
    assert epochs_of(follows) == {"standard": 12, "at": 4, "advprop": 6}
    begin(follows, "standard-seed0", "at-seed0")
    return tmp_path


@pytest.mark.parametrize(("seeds", "advprop"), [([0], 6), ([0, 1], 19), ([1], 32), ([1, 0], 19)])
def test_what_has_begun_keeps_its_epochs_whatever_seeds_come_and_go(run: Path, seeds: list[int], advprop: int) -> None:
    assert epochs_of(following(run, seeds=seeds)) == {"standard": 12, "at": 4, "advprop": advprop}
    assert not (run / "run.json").exists()


def test_a_corrected_method_is_counted_anew_and_the_others_stay(run: Path) -> None:
    corrected = {**METHODS, "standard": {"training": {"lr": 0.02}}}
    assert epochs_of(following(run, seeds=[1], methods=corrected)) == {"standard": 28, "at": 4, "advprop": 32}


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ({"methods": {**METHODS, "at": {"epsilon": 0.2}}}, {"standard": 28, "at": 4, "advprop": 32}),
        ({"as_method": "standard"}, {"standard": 4, "at": 1, "advprop": 5}),
        ({"epochs": 3}, {"standard": 21, "at": 3, "advprop": 24}),
    ],
)
def test_with_another_time_all_are_counted_anew(run: Path, changes: dict[str, Any], epochs: dict[str, int]) -> None:
    assert epochs_of(following(run, seeds=[1], **changes)) == epochs


def test_a_method_whose_name_begins_like_another_is_not_taken_for_it(run: Path) -> None:
    (run / "equal-time" / "standard-seed0").rename(run / "equal-time" / "standard-seed1-seed0")
    assert epochs_of(following(run, seeds=[1])) == {"standard": 28, "at": 4, "advprop": 32}


def test_damaged_settings_are_said(run: Path) -> None:
    (run / "equal-time" / "at-seed0" / "settings.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"at-seed0/settings\.json is damaged"):
        following(run)
