"""The model of a recipe, opened as a blueprint: what every method of a seed begins with, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dat.engine.steps import stream_seed
from dat.nn.drvit import DrViT, VisualWords
from dat.nn.norm import Normalized, with_auxiliary_norms
from dat.nn.pretrained import FROZEN, pretrained_tensors, published
from dat.nn.zoo import begin_with, classes_of_head, create_network, needs_words
from dat.progress import warn
from dat.recipe.parts import Parts
from dat.recipe.strict import Strict


class ModelSection(Strict):
    """A classifier by its timm name, `small_resnet` or `drvit_*`; normalised inside by `mean` and `std`.

    `weights`: a file to begin with: of the same network (the head may be for other classes), or of a masked autoencoder;
    `FILE#KEY` of a file with several; or the folder `RUN/<method>-seed<k>` of a run.
    `pretrained`: begin with timm's weights of that name, e.g. `resnet50` or `resnet50.a1_in1k`; `mean` and `std` are then
    those of the weights, unless they are set. `freeze: backbone` trains the last layer alone, `freeze: norms` all but the batch
    normalisations.
    `discretizer`: whose codes a DrViT reads, as `load` of a discretizer; those of the methods may be another's.
    """

    name: str
    options: dict[str, Any] = Field(default={})
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    weights: str | None = None
    pretrained: bool | None = None
    freeze: Literal["backbone", "norms"] | None = None
    discretizer: str | None = None

    @model_validator(mode="after")
    def _as_the_weights_were_made(self) -> ModelSection:
        """Name and normalisation of weights by name, written out, so that what is stored with a run says them."""
        if not self.pretrained:
            return self
        if self.weights is not None:
            raise ValueError("pretrained and weights both say what the model begins with; leave one out")
        known = published(self.name)
        own = {"mean": known.mean, "std": known.std}
        missing = {key: value for key, value in own.items() if key not in self.model_fields_set}
        return self.model_copy(update={"name": known.name, **missing})

    @model_validator(mode="after")
    def _fits_drvit(self) -> ModelSection:
        if needs_words(self.name) != (self.discretizer is not None):
            raise ValueError(
                f"{self.name} {'reads' if needs_words(self.name) else 'reads no'} visual words; "
                f"{'name a discretizer' if needs_words(self.name) else 'leave out discretizer'}"
            )
        if low := [value for value in self.std if value <= 0]:
            raise ValueError(f"std is {[*self.std]}, and images are divided by it; write numbers above 0 instead of {low[0]}")
        if needs_words(self.name) and (self.mean, self.std) != (DrViT.mean, DrViT.std):
            raise ValueError(f"{self.name} takes images in [-1, 1]; write mean: [0.5, 0.5, 0.5] and std: [0.5, 0.5, 0.5]")
        return self


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A model as it is before training, as often as it is asked for: the same for every method of a seed.

    `weights`: the tensors of the file it begins with. `words`: what a DrViT reads.
    """

    section: ModelSection
    num_classes: int
    weights: Mapping[str, Tensor] | None = None
    words: VisualWords | None = None

    def untrained(self, seed: int, *, auxiliary_norms: bool = False) -> Normalized:
        """A new model; with auxiliary normalisation layers where the method trains with them.

        Raises:
            UsageError: there is no such network, it does not take these options, or nothing of it can be frozen so.
            CheckpointError: the weights do not fit.
        """
        section = self.section
        torch.manual_seed(stream_seed(seed, 0))
        network = create_network(section.name, num_classes=self.num_classes, options=section.options, words=self.words)
        if self.weights is not None:
            own = {key: tensor.clone() for key, tensor in self.weights.items()}  # a network takes tensors over, and trains them
            begin_with(network, own, name=str(section.weights or f"timm's {section.name}"))
        if section.freeze is not None:
            FROZEN[section.freeze](network)
        model = Normalized(network, mean=section.mean, std=section.std)
        if auxiliary_norms:
            with_auxiliary_norms(model)
        return model


def open_model(section: ModelSection, parts: Parts, *, num_classes: int) -> Blueprint:
    """Read the weights and the discretizer that a model names, and see whether they fit.

    Raises:
        UsageError, CheckpointError: as `Blueprint.untrained`; or a file cannot be read.
    """
    words = None
    if section.discretizer is not None:
        discretizer = parts.discretizer(section.discretizer)
        words = VisualWords(discretizer, discretizer.codebook())
    weights = parts.weights(section.weights) if section.weights is not None else None
    if section.pretrained:
        mean, std = ([round(value, 4) for value in values] for values in (section.mean, section.std))
        warn(
            f"The model begins with timm's weights {section.name}; they are downloaded, unless they are here already. "
            f"Inside it images are normalised by mean {mean}, std {std}."
        )
        weights = pretrained_tensors(section.name, num_classes=num_classes, options=section.options)
    blueprint = Blueprint(section, num_classes, weights, words)
    if weights is not None or words is not None:
        _say_new_head(blueprint.untrained(seed=0).network, blueprint)
    return blueprint


def _say_new_head(network: nn.Module, blueprint: Blueprint) -> None:
    """That the last layer of a file of weights is not taken, as it is for other classes."""
    count = classes_of_head(network, blueprint.weights) if blueprint.weights is not None and blueprint.section.weights else None
    if count not in (None, blueprint.num_classes):
        warn(
            f"The last layer begins at random: that of {blueprint.section.weights} is for {count} classes, and the pictures "
            f"are of {blueprint.num_classes}."
        )


def check_model(section: ModelSection) -> None:
    """Build a model without memory for it: a ViT-H would fill gigabytes. What it reads from disk is not looked at.

    Raises:
        UsageError: there is no such network, or it does not take these options.
    """
    if not needs_words(section.name):
        with torch.device("meta"):
            Blueprint(section, num_classes=10).untrained(seed=0)
