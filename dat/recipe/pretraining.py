"""What is trained without classes: the task by its kind, and the network that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dat.engine.steps import stream_seed
from dat.errors import DatError, UsageError
from dat.nn.contrastive import MoCoNetwork, SimCLRNetwork
from dat.nn.mae import SIZES, MaskedAutoencoder
from dat.nn.norm import Normalized, with_auxiliary_norms
from dat.nn.weights import fitted, load_strictly, refuse_other_patches
from dat.nn.zoo import create_network
from dat.recipe.parts import Parts
from dat.recipe.strict import Strict
from dat.tasks.contrastive import Contrastive, MomentumContrastive
from dat.tasks.masked import MaskedReconstruction, Target
from dat.types import Task

REFUSALS = (TypeError, AssertionError, ValueError, RuntimeError, IndexError, ArithmeticError)
"""What networks raise on options and sizes that they do not take."""


class EncoderSection(Strict):
    """What is pre-trained: `mae`, `mae_base`, `mae_large`, `mae_huge`, or for contrastive tasks a timm name or `small_resnet`.

    `options` are those of the network; of `mae` its patch_size, embed_dim, depth, num_heads, and decoder_embed_dim,
    decoder_depth, decoder_num_heads. `weights`: a file of the same pre-training to begin with, or `RUN/<method>-seed<k>`.
    """

    name: str
    options: dict[str, Any] = Field(default={})
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    weights: str | None = None

    @model_validator(mode="after")
    def _positive(self) -> EncoderSection:
        if low := [value for value in self.std if value <= 0]:
            raise ValueError(f"std is {[*self.std]}, and images are divided by it; write numbers above 0 instead of {low[0]}")
        return self


class MaskedTask(Strict):
    """A masked autoencoder: `mask_ratio` of the patches are hidden; `norm_pix` predicts them at zero mean and unit variance.

    `target`: the hidden pixels of the `clean` picture, or of the `adversarial` one.
    """

    kind: Literal["mae"]
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    norm_pix: bool = True
    target: Target = "clean"

    @property
    def views(self) -> int:
        """Of each picture."""
        return 1

    def network(self, section: EncoderSection, side: int | None) -> nn.Module:
        """For pictures of so many pixels a side; of four patches, where that is not known."""
        if section.name != "mae" and section.name not in SIZES:
            raise UsageError(f"model.name is {section.name!r}; for task mae write mae, {', '.join(SIZES)}.")
        options = {**SIZES.get(section.name, {}), **section.options}
        if side is None:
            side = 4 * int(options.get("patch_size", 16))
        return MaskedAutoencoder(img_size=side, mask_ratio=self.mask_ratio, norm_pix=self.norm_pix, **options)

    def task(self, network: nn.Module) -> Task:
        """With the patches of the network."""
        assert isinstance(network, MaskedAutoencoder)
        return MaskedReconstruction(network.patch_size, self.target)


class _ContrastiveTask(Strict):
    """`projection`: the channels of the hidden layer and of the output of projector and predictor."""

    temperature: float = Field(gt=0)
    projection: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (512, 128)

    @property
    def views(self) -> int:
        """Of each picture."""
        return 2


class SimCLRTask(_ContrastiveTask):
    """SimCLR."""

    kind: Literal["simclr"]
    temperature: float = Field(default=0.5, gt=0)

    def network(self, section: EncoderSection, side: int | None) -> nn.Module:
        """A backbone without a head, and a projector."""
        backbone, depth = _backbone(section, side)
        return SimCLRNetwork(backbone, depth=depth, hidden=self.projection[0], width=self.projection[1])

    def task(self, network: nn.Module) -> Task:
        """The loss."""
        del network
        return Contrastive(self.temperature)


class MoCoTask(_ContrastiveTask):
    """MoCo v3; `momentum` of its encoder at the start."""

    kind: Literal["moco-v3"]
    temperature: float = Field(default=0.2, gt=0)
    momentum: float = Field(default=0.99, ge=0, le=1)

    def network(self, section: EncoderSection, side: int | None) -> nn.Module:
        """A backbone without a head, projector, predictor, and what follows them."""
        backbone, depth = _backbone(section, side)
        return MoCoNetwork(backbone, depth=depth, hidden=self.projection[0], width=self.projection[1])

    def task(self, network: nn.Module) -> Task:
        """The loss."""
        del network
        return MomentumContrastive(self.temperature, self.momentum)


TaskSection = Annotated[MaskedTask | SimCLRTask | MoCoTask, Field(discriminator="kind")]

UNKNOWN_SIDE = 224
"""Of the pictures that a backbone is tried on where their size is not known."""


def _backbone(section: EncoderSection, side: int | None) -> tuple[nn.Module, int]:
    if section.name == "mae" or section.name in SIZES:
        raise UsageError(f"model.name is {section.name!r}, which task mae trains; here write a name of timm's or small_resnet.")
    backbone = create_network(section.name, num_classes=0, options=section.options)
    with torch.no_grad():
        found = backbone.eval()(torch.zeros(1, 3, side or UNKNOWN_SIDE, side or UNKNOWN_SIDE))
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise UsageError(f"model {section.name} gives no vector of features for an image; take another network of timm.")
    return backbone.train(), found.shape[1]


@dataclass(frozen=True, eq=False)
class PretrainingBlueprint:
    """A network as it is before its pre-training, as often as it is asked for: the same for every method of a seed."""

    section: EncoderSection
    task: MaskedTask | SimCLRTask | MoCoTask
    side: int | None
    weights: Mapping[str, Tensor] | None = None

    def untrained(self, seed: int, *, auxiliary_norms: bool = False) -> Normalized:
        """A new network; with auxiliary normalisation layers where the method trains with them.

        Raises:
            UsageError: there is no such network, or it does not take these options or this size.
            CheckpointError: the weights do not fit.
        """
        section = self.section
        torch.manual_seed(stream_seed(seed, 0))
        network = self._network()
        if self.weights is not None:
            own = {key: tensor.clone() for key, tensor in self.weights.items()}  # a network takes tensors over, and trains them
            given = fitted(network, own)
            refuse_other_patches(network, given, name=str(section.weights))
            load_strictly(network, given, name=str(section.weights))
        model = Normalized(network, mean=section.mean, std=section.std)
        if auxiliary_norms:
            with_auxiliary_norms(model)
        return model

    def _network(self) -> nn.Module:
        try:
            return self.task.network(self.section, self.side)
        except REFUSALS as error:
            if isinstance(error, DatError):
                raise
            said, size = " ".join(str(error).split()).rstrip("."), f" for {self.side} pixels" if self.side else ""
            raise UsageError(
                f"Model {self.section.name!r} cannot be made with {self.section.options}{size}: {said}."
            ) from error


def open_pretraining(
    section: EncoderSection, task: MaskedTask | SimCLRTask | MoCoTask, parts: Parts, *, size: tuple[int, int]
) -> PretrainingBlueprint:
    """Read the weights that a pre-training begins with, and see whether they fit.

    Raises:
        UsageError, CheckpointError: as `PretrainingBlueprint.untrained`; pictures that are not square; a file cannot be read.
    """
    if size[0] != size[1]:
        raise UsageError(f"The pictures are {size[1]} x {size[0]} pixels; write data.size, so that they are square.")
    weights = parts.weights(section.weights) if section.weights is not None else None
    blueprint = PretrainingBlueprint(section, task, size[0], weights)
    blueprint.untrained(seed=0)
    return blueprint
