"""Folders as trainings leave them, without a training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dat.commands.trained import as_trained
from dat.engine import checkpoint
from dat.recipe import read
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.detection import DetectionRecipe
from dat.recipe.header import recipe_hash, resolved
from dat.recipe.methods import wants_auxiliary_norms
from dat.recipe.pretraining import PretrainingBlueprint
from dat.recipe.selfsupervised import SelfSupervisedRecipe
from dat.results import Row, write_rows

CLASSES = ("cat", "déjà vu", "dog")
SIDE = 16
CLASSIFICATION: dict[str, Any] = {
    "kind": "classification",
    "title": "Made up",
    "data": {"source": "folder", "train": "/home/someone/photos/train", "test": "photos/test", "size": SIDE, "crop_pct": 0.9},
    "discretizer": {"load": "cifar-f2-1024-fast"},
    "model": {"name": "test_resnet", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.1},
    "methods": {"standard": {}, "dat": {"alpha": 0.3}, "advprop": {}},
}


def made_up_run(
    folder: Path, *, label: str = "dat", steps: tuple[int, int] = (8, 8), classes: Sequence[str] = CLASSES, **changes: Any
) -> Path:
    """The folder of a model with random weights, of a run of these settings; `steps` are those done and those there are."""
    recipe = read.parse({**CLASSIFICATION, "out": str(folder), **changes})
    model = _model(recipe, label, len(classes))
    for part in model.modules():  # statistics of untrained norms would hide those that are missing
        if isinstance(part, nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.1, 0.1)  # pyright: ignore[reportArgumentType]  # it has them
            torch.nn.init.uniform_(part.running_var, 0.9, 1.1)  # pyright: ignore[reportArgumentType]
    checkpoint.save(
        folder / f"{label}-seed0" / "checkpoints",
        steps[0],
        checkpoint.State({"model": model.state_dict()}, {"step": steps[0], "steps": steps[1]}),
    )
    (folder / "recipe.yaml").write_text(resolved(recipe), encoding="utf-8")
    facts = {"recipe_hash": recipe_hash(recipe), "kind": recipe.kind, "title": recipe.title, "class_names": list(classes)}
    facts["data"] = {"name": "folder", "train_images": 60, "test_images": 30, "image_size": [SIDE, SIDE]}
    facts |= {"versions": {"dat": "0.1.0"}, "machine": "2 CPU cores", "inputs": {"data.train": "/home/someone/photos"}}
    (folder / "run.json").write_text(json.dumps(facts))
    write_rows(folder / "results.jsonl", rows(recipe_hash(recipe)))
    return folder / f"{label}-seed0"


def _model(recipe: Any, label: str, classes: int) -> nn.Module:
    torch.manual_seed(3)
    if isinstance(recipe, SelfSupervisedRecipe):
        return PretrainingBlueprint(recipe.model, recipe.task, SIDE).untrained(0)
    assert isinstance(recipe, ClassificationRecipe | DetectionRecipe)
    return as_trained(recipe, 0, classes, auxiliary_norms=wants_auxiliary_norms(recipe.methods[label]))


def rows(digest: str) -> list[Row]:
    """Of two methods: clean, one step of FGSM, the mean over corruptions and two of its cells."""
    measured = {"clean": 91.2, "fgsm": 40.4, "c": 62.5, "c/fog/3": 60.0, "c/snow/1": 65.0}
    fgsm: Mapping[str, object] = {"epsilon_255": 1.0, "norm": "linf", "steps": 1, "loss": "logsumexp(others) - true"}
    return [
        Row(
            suite=suite,
            metric="accuracy",
            value=value + shift,
            n=500,
            ci=(value + shift - 2, value + shift + 2),
            seed=0,
            method=method,
            recipe_hash=digest,
            protocol={"height": SIDE, "width": SIDE, "crop_pct": 0.9, "data": "b5", **(fgsm if suite == "fgsm" else {})},
        )
        for method, shift in (("standard", 0.0), ("dat", 1.1))
        for suite, value in measured.items()
    ]
