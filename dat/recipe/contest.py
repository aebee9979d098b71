"""What comparisons of methods have in common, whatever their task: methods by label, each with its training, and seeds."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, TypeAdapter, ValidationError

from dat.attacks.rate import Length
from dat.engine.loop import Training
from dat.recipe.discretizer import DiscretizerSection
from dat.recipe.faults import sentence
from dat.recipe.methods import alpha_of, build_method, needs_discretizer, wants_auxiliary_norms
from dat.recipe.older import without_untold_aim
from dat.recipe.training import TrainingSection
from dat.types import Discretizer, Method


@runtime_checkable
class Contest(Protocol):
    """The sections of a recipe that compares methods."""

    @property
    def methods(self) -> Mapping[str, BaseModel]:
        """By label."""
        ...

    @property
    def seeds(self) -> Sequence[int]:
        """Each method is trained with every one."""
        ...

    @property
    def training(self) -> TrainingSection:
        """Of all methods, but for what their own sections change."""
        ...

    @property
    def data(self) -> BaseModel:
        """What is trained and tested on."""
        ...

    @property
    def model(self) -> BaseModel:
        """What is trained."""
        ...

    @property
    def discretizer(self) -> DiscretizerSection | None:
        """Whose words the adversary changes."""
        ...


@dataclass(frozen=True, eq=False)
class Contestant:
    """One method of a comparison: `method` makes it, given its `Q` if it uses one; how it trains; the step of its adversary.

    `auxiliary_norms`: whether its model has auxiliary normalisation layers while it trains.
    """

    method: Callable[[Discretizer | None], Method]
    training: Training
    alpha: Length | None
    auxiliary_norms: bool


def contestant(section: BaseModel, training: Training) -> Contestant:
    """Of a method's section and its training."""
    return Contestant(partial(build_method, section), training, alpha_of(section), wants_auxiliary_norms(section))


def check_contest(recipe: Contest) -> None:
    """Refuse methods, seeds and trainings that no comparison can have.

    Raises:
        ValueError: naming the first fault.
    """
    needing = [label for label, section in recipe.methods.items() if needs_discretizer(section)]
    if needing and recipe.discretizer is None:
        raise ValueError(f"method {needing[0]} needs a discretizer; add a section `discretizer:` with load or train")
    if not recipe.methods or not recipe.seeds or len(set(recipe.seeds)) < len(recipe.seeds):
        raise ValueError("give at least one method, and seeds that differ")
    if min(recipe.seeds) < 0:
        raise ValueError(f"seed {min(recipe.seeds)} is negative; write 0 or more")
    if odd := [label for label in recipe.methods if not re.fullmatch(r"[\w.+-]+", label) or label.startswith(".")]:
        raise ValueError(f"method label {odd[0]!r} becomes the name of a folder; use letters, digits and any of . + - _")
    for label in recipe.methods:
        _check_judged(recipe, label)


def _check_judged(recipe: Contest, label: str) -> None:
    """Refuse a training that is to be judged while nothing judges it."""
    training, data = training_of(recipe, label), recipe.data
    asked = {"keep: best": training.keep == "best", f"patience: {training.patience}": training.patience is not None}
    if named := [key for key, is_asked in asked.items() if is_asked and getattr(data, "validation", None) is None]:
        advice = "add data.validation, e.g. 0.1 or a folder"
        if not hasattr(data, "validation"):
            advice = "only recipes of classification have that, leave it out"
        raise ValueError(f"training of {label} has {' and '.join(named)}, which needs pictures of validation; {advice}")


def trainings_of(recipe: Contest, *, data: Mapping[str, Any], **more: object) -> dict[str, dict[str, Any]]:
    """What the training of each method and seed depends on, by its folder.

    `data` are the settings of what it is trained on; `more` are settings of the recipe's kind.
    """
    discretizer = recipe.discretizer and recipe.discretizer.model_dump(mode="json")
    found: dict[str, dict[str, Any]] = {}
    for label, method in recipe.methods.items():
        settings = {
            "data": data,
            **more,
            "model": recipe.model.model_dump(mode="json"),
            "training": _dumped(training_of(recipe, label)),
            "methods": {label: without_untold_aim(method.model_dump(mode="json", exclude={"training"}))},
            **({"discretizer": discretizer} if needs_discretizer(method) else {}),
        }
        found |= {f"{label}-seed{seed}": {**settings, "seed": seed} for seed in recipe.seeds}
    return found


_TRAINING = TypeAdapter(TrainingSection)


def _dumped(training: TrainingSection) -> dict[str, Any]:
    """Its settings; without `keep` where it says the same as before there was the key."""
    settings = _TRAINING.dump_python(training, mode="json")
    return {key: value for key, value in settings.items() if (key, value) != ("keep", "last")}


def training_of(recipe: Contest, label: str) -> TrainingSection:
    """The training of one method: that of the recipe, with what the method's own section changes.

    Raises:
        ValueError: naming every fault of that section.
    """
    changes: dict[str, Any] = dict(recipe.methods[label])["training"]
    values = {**dataclasses.asdict(recipe.training), **changes}
    try:
        return _TRAINING.validate_json(json.dumps(values))
    except ValidationError as error:
        faults = [sentence(fault, values, _TRAINING.json_schema()) for fault in error.errors()]
        raise ValueError("; ".join(f"methods.{label}.training.{fault.rstrip('.')}" for fault in faults)) from error
