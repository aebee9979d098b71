"""Recipes from files: read strictly, every fault reported together, near misses suggested.

What is stored with a run is the resolved recipe, all defaults written out, and its hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from dat.errors import UsageError
from dat.recipe import file
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.detection import DetectionRecipe
from dat.recipe.discretizer import DiscretizerRecipe
from dat.recipe.distillation import DistillationRecipe
from dat.recipe.faults import sentence
from dat.recipe.header import Recipe
from dat.recipe.selfsupervised import SelfSupervisedRecipe

KINDS = {
    "classification": ClassificationRecipe,
    "detection": DetectionRecipe,
    "discretizer": DiscretizerRecipe,
    "distillation": DistillationRecipe,
    "selfsupervised": SelfSupervisedRecipe,
}
"""Recipes by kind."""


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a file, or the name of a shipped one), with `key.sub=value` replaced, and check all of it.

    Raises:
        UsageError: listing every fault of the recipe.
    """
    path = file.find(name)
    file.check_overrides(overrides)
    return parse(file.read(path, overrides), where=str(path))


def parse(values: Mapping[str, Any], *, where: str = "the recipe") -> Recipe:
    """Check the values of a recipe.

    Raises:
        UsageError: listing every fault.
    """
    values = _with_method_names(values)
    try:
        return _adapter(tuple(KINDS.values())).validate_json(json.dumps(values, default=_path_as_text))
    except ValidationError as error:
        faults = [sentence(fault, values, _json_schema(tuple(KINDS.values()))) for fault in error.errors()]
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise UsageError(f"{where} has {len(faults)} fault{'s' * (len(faults) > 1)}:{lines}") from error
    except (TypeError, ValueError) as error:  # a date, or a list that holds itself
        raise UsageError(f"{where} holds a value that is not text, number, list or mapping ({error}).") from error


def _path_as_text(value: object) -> str:
    """A recipe that is written in Python may hold paths."""
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")


def _with_method_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A method whose label is its name need not repeat it: `dat: {alpha: 0.1}`."""
    methods = values.get("methods")
    if not isinstance(methods, dict):
        return dict(values)
    named = {
        label: {"method": label, **(section or {})} if isinstance(section, dict | None) else section
        for label, section in methods.items()
    }
    return {**values, "methods": named}


@cache
def _adapter(kinds: tuple[type, ...]) -> Any:
    any_of_them: Any = Annotated[reduce(or_, kinds), Field(discriminator="kind")]  # pyright: ignore[reportInvalidTypeForm]  # made at run time, of a table
    return TypeAdapter(any_of_them)


@cache
def _json_schema(kinds: tuple[type, ...]) -> dict[str, Any]:
    return _adapter(kinds).json_schema()
