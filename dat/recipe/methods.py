"""Settings of the methods, taken from the dataclass of each, so that a new method needs no line here."""

from __future__ import annotations

import dataclasses
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, Discriminator, Field, Tag, create_model, model_validator
from pydantic.dataclasses import dataclass as validated_dataclass

from dat.attacks.rate import Length, Rate
from dat.methods import METHODS
from dat.methods.serving import why_not
from dat.recipe.faults import member
from dat.recipe.strict import STRICT, Strict
from dat.types import Codes, Discretizer, Images, Method


class _AnyDiscretizer:
    """Stands for the discretizer while settings are checked: the real one is loaded or trained later."""

    codebook_size = 1
    stride = 1

    def encode(self, images: Images) -> Codes:
        raise NotImplementedError

    def decode(self, codes: Codes) -> Images:
        raise NotImplementedError

    def __call__(self, images: Images) -> Images:
        raise NotImplementedError


@validated_dataclass(config=STRICT, frozen=True)
class RateSection(Rate):
    """`dat.attacks.rate.Rate`, read strictly."""


SoughtLength = Annotated[
    Annotated[float, Tag(member("length"))] | Annotated[RateSection, Tag(member("rate"))],
    Discriminator(lambda value: member("rate" if isinstance(value, dict | Rate) else "length")),
]
"""A number, or in its place a rate."""


class _MethodSection(Strict):
    """Settings of a method; what the method refuses is a fault of the recipe.

    `training` changes keys of the recipe's training for this method alone, e.g. `{epochs: 88}`.
    """

    training: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _accepted(self) -> _MethodSection:
        build_method(self, _AnyDiscretizer())
        return self


def _method_section(name: str, method: type) -> type[BaseModel]:
    """The settings of a method, taken from its dataclass, so that a new method needs no line here."""
    hints = {key: SoughtLength if hint == Length else hint for key, hint in get_type_hints(method).items()}
    fields: dict[str, Any] = {"method": (Literal[name], name)}
    fields |= {
        entry.name: (hints[entry.name], ... if entry.default is dataclasses.MISSING else entry.default)
        for entry in dataclasses.fields(method)
        if entry.name != "discretizer"
    }
    return create_model(method.__name__, __base__=_MethodSection, **fields)


if TYPE_CHECKING:
    MethodSection = BaseModel
else:
    MethodSection = Annotated[
        reduce(or_, (_method_section(name, method) for name, method in METHODS.items())), Field(discriminator="method")
    ]


RADII = {"dat-official": "epsilon"}
"""What a method calls its alpha, where that is another word."""


def alpha_key(section: BaseModel) -> str:
    """What a method of a recipe calls its alpha, if it has one."""
    return RADII.get(dict(section)["method"], "alpha")


def alpha_of(section: BaseModel) -> Length | None:
    """The L2 length of the step of a method of a recipe, where it has one; a control of length 0 or of no step has none."""
    return (getattr(section, alpha_key(section), None) or None) if takes_l2_step(section) else None


def takes_l2_step(section: BaseModel) -> bool:
    """Whether the length of a step, if a method of a recipe has one, is in L2 and is gone at all."""
    return getattr(section, "gradient_scale", "l2") == "l2" and getattr(section, "direction", "gradient") != "none"


def wants_auxiliary_norms(section: BaseModel) -> bool:
    """Whether a method of a recipe trains the model with auxiliary normalisation layers."""
    return bool(getattr(section, "auxiliary_norms", False))


def needs_discretizer(section: BaseModel) -> bool:
    """Whether a method of a recipe uses `Q`."""
    method = METHODS[dict(section)["method"]]
    return "discretizer" in {entry.name for entry in dataclasses.fields(method)}


def build_method(section: BaseModel, discretizer: Discretizer | None) -> Method:
    """The method with the settings of the recipe.

    Raises:
        UsageError: the method refuses its settings.
    """
    settings = {key: value for key, value in section if key != "training"}
    method = METHODS[settings.pop("method")]
    return method(discretizer, **settings) if needs_discretizer(section) else method(**settings)


def why_only_classes(section: BaseModel) -> str:
    """Why a method of a recipe serves tasks whose models give one logit per class, and no others; empty where it serves all."""
    settings = dict(section)
    return why_not(settings["method"], settings)
