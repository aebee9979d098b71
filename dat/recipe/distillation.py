"""Distillation: a fast discretizer is trained after a slow one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.frozen import FrozenDiscretizer, check_image_size
from dat.discretizers.networks.fast import FastAutoencoder, affordable, student_of
from dat.discretizers.objective import Perceptual
from dat.engine.distill import Distillation
from dat.engine.steps import stream_seed
from dat.engine.trackers import Names
from dat.recipe.data import Data, OneTestSet
from dat.recipe.fits import check_batches, check_perceptual
from dat.recipe.header import Header, header_of, whole
from dat.recipe.parts import Parts, Precision
from dat.recipe.perceptual import MultiscaleGradientSection, NoPerceptual, PerceptualSection, with_hashes
from dat.recipe.rehearsal import MADE_UP, SIDE, shorter, stride_of
from dat.recipe.strict import Strict
from dat.recipe.training import DistillationSection
from dat.results import versions


class TeacherSection(Strict):
    """The discretizer to learn from: a file of weights, or a name of `dat discretizer list`."""

    load: str
    precision: Precision = "fp32"


class StudentSection(Strict):
    """The widest student within `budget`, its share of the teacher's FLOPs; its blocks before and after the codes."""

    budget: float = Field(default=0.02, gt=0)
    encoder_blocks: int = Field(default=3, ge=0)
    decoder_blocks: int = Field(default=3, ge=0)


@dataclass(frozen=True, eq=False)
class OpenedDistillation:
    """A recipe of a distillation, opened: the untrained student, and all that its training needs."""

    header: Header
    data: Data
    teacher: FrozenDiscretizer
    student: FastAutoencoder
    perceptual: Perceptual | None
    training: Distillation
    seed: int
    provenance: Mapping[str, Any]


class DistillationRecipe(Strict):
    """Train a fast discretizer after a slow one."""

    kind: Literal["distillation"]
    title: str
    data: OneTestSet
    teacher: TeacherSection
    student: StudentSection = StudentSection()
    training: DistillationSection
    perceptual: Annotated[PerceptualSection, Field(discriminator="kind")] = NoPerceptual(kind="none")
    seed: int = 0
    trackers: Names = None
    out: str = ""

    @model_validator(mode="after")
    def _weighted(self) -> DistillationRecipe:
        if bool(self.training.perceptual_weight) == isinstance(self.perceptual, NoPerceptual):
            raise ValueError(
                f"training.perceptual_weight is {self.training.perceptual_weight}, perceptual.kind {self.perceptual.kind!r}; "
                "give a distance and a weight above 0, or neither"
            )
        return self

    def check(self) -> None:
        """Nothing that a file need not tell."""

    def open(self, parts: Parts) -> OpenedDistillation:
        """Open pictures and weights, and make the student.

        Raises:
            DataError, CheckpointError: they cannot be read.
            UsageError: no student is within the budget, or none can have the teacher's codes.
        """
        data = parts.data(self.data)
        check_batches(self.training, data, where="training")
        teacher = parts.discretizer(self.teacher.load, precision=self.teacher.precision)
        check_image_size(data.size, teacher.network)
        header = header_of(self, data, "a student")
        provenance = {
            "recipe_hash": header.recipe_hash,
            "data": data.fingerprint,
            "teacher": {**parts.origin(self.teacher.load), "precision": self.teacher.precision},
            "perceptual": with_hashes(self.perceptual),
            "seed": self.seed,
            "versions": versions(),
        }
        student = build_student(self, teacher.network, size=max(data.size))
        perceptual = parts.perceptual(self.perceptual)
        check_perceptual(perceptual, data)
        return OpenedDistillation(header, data, teacher, student, perceptual, self.training, self.seed, provenance)

    def depends_on(self) -> dict[str, dict[str, Any]]:
        """As `whole`."""
        return whole(self)

    def rehearsal(self) -> DistillationRecipe:
        """The same with a small teacher of the same stride, for two short steps."""
        stride = stride_of(self.teacher.load)
        none, gradients = NoPerceptual(kind="none"), MultiscaleGradientSection()
        changes: dict[str, Any] = {
            "teacher": TeacherSection(load=f"{MADE_UP}{stride}"),
            "student": self.student.model_copy(update={"budget": 0.5}),
            "training": shorter(self.training),
            "perceptual": gradients if self.training.perceptual_weight > 0 else none,
            "data": self.data.model_copy(update={"size": max(SIDE, 2 * stride)}),
        }
        return self.model_copy(update=changes)


def build_student(recipe: DistillationRecipe, teacher: Autoencoder, *, size: int) -> FastAutoencoder:
    """The untrained student of a recipe, for pictures of `size` pixels a side.

    Raises:
        UsageError: no student is within the budget, or none can have the teacher's codes.
    """
    torch.manual_seed(stream_seed(recipe.seed, 0))
    return student_of(teacher, affordable(teacher, size=size, **recipe.student.model_dump()))
