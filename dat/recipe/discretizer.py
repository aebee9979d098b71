"""Discretizers of a recipe: to load, or to train; opened as a plan that holds all a training needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass as validated_dataclass

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.objective import Perceptual, VQGANObjective
from dat.engine.discretizer_loop import DiscretizerTraining, check_training
from dat.engine.steps import stream_seed
from dat.engine.trackers import Names
from dat.errors import UsageError
from dat.nn.imagenet_networks import ImageNetNetwork
from dat.recipe.data import Data, OneTestSet
from dat.recipe.fits import check_batches, check_patches, check_perceptual
from dat.recipe.header import Header, header_of, whole
from dat.recipe.parts import Parts, Precision
from dat.recipe.perceptual import FrechetSection, MultiscaleGradientSection, NoPerceptual, PerceptualSection, with_hashes
from dat.recipe.rehearsal import MADE_UP, SIDE, shorter, stride_of
from dat.recipe.strict import STRICT, Strict
from dat.recipe.training import DiscretizerTrainingSection
from dat.results import versions


@validated_dataclass(config=STRICT, frozen=True)
class NetworkSection(VQGANConfig):
    """`dat.discretizers.networks.vqgan.VQGANConfig`, read strictly."""


@validated_dataclass(config=STRICT, frozen=True)
class ObjectiveSection(VQGANObjective):
    """`dat.discretizers.objective.VQGANObjective`, read strictly."""


class DiscretizerSpec(Strict):
    """A discretizer to train: its network, its objective, its training.

    `init`: the weights to begin with, random ones by default; a file, a folder, or a name of `dat discretizer list`.
    """

    network: NetworkSection
    init: str | None = None
    objective: ObjectiveSection
    training: DiscretizerTrainingSection
    perceptual: Annotated[PerceptualSection, Field(discriminator="kind")]
    frechet: FrechetSection | None = None
    seed: int = 0


class DiscretizerSection(Strict):
    """The discretizer of the methods: `load` weights from a file, or `train` one first, on the same training pictures.

    `load` is a file, a folder, or a name of `dat discretizer list`. `precision` is that of its networks while methods use it;
    the search for the nearest code stays in float32. `compile` hands the networks to `torch.compile`.
    """

    load: str | None = None
    train: DiscretizerSpec | None = None
    precision: Precision = "fp32"
    compile: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> DiscretizerSection:
        if (self.load is None) == (self.train is None):
            raise ValueError("give either load (a file of weights) or train (a discretizer to train first)")
        return self

    def made_up(self) -> DiscretizerSection:
        """One for a rehearsal, of the same stride."""
        levels = len(self.train.network.ch_mult) if self.train is not None else 0
        return DiscretizerSection(load=f"{MADE_UP}{2 ** (levels - 1) if levels else stride_of(str(self.load))}")


@dataclass(frozen=True, eq=False)
class DiscretizerPlan:
    """A discretizer to train, with all that its training needs. `provenance` is kept with its weights."""

    config: VQGANConfig
    objective: VQGANObjective
    training: DiscretizerTraining
    seed: int
    perceptual: Perceptual | None = None
    perceptual_kind: str = "none"
    features: ImageNetNetwork | None = None
    init: tuple[str, Autoencoder] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> VQGAN:
        """A new network with the weights it begins with. What is drawn after it follows from the seed, too."""
        torch.manual_seed(stream_seed(self.seed, 0))
        vqgan = VQGAN(self.config)
        if self.init is not None:
            name, trained = self.init
            _take_weights(vqgan, trained, name)
        return vqgan


def open_plan(spec: DiscretizerSpec, parts: Parts, data: Data, *, recipe_hash: str) -> DiscretizerPlan:
    """Open what the training of a discretizer needs.

    Raises:
        CheckpointError: weights cannot be read.
        UsageError: those to begin with are of another network; the pictures are too few or too small.
    """
    check_batches(spec.training, data, where="the training of the discretizer")
    if spec.training.disc_layers and spec.objective.disc_factor:
        check_patches(spec.training.disc_layers, data, stride=2 ** (len(spec.network.ch_mult) - 1))
    init = (spec.init, parts.discretizer(spec.init).network) if spec.init is not None else None
    perceptual, features = parts.perceptual(spec.perceptual), parts.features(spec.frechet)
    check_perceptual(perceptual, data)
    provenance: dict[str, Any] = {
        "recipe_hash": recipe_hash,
        "data": data.fingerprint,
        "objective": dataclasses.asdict(spec.objective),
        "perceptual": with_hashes(spec.perceptual),
        "frechet": with_hashes(spec.frechet) if spec.frechet is not None else {"kind": "none"},
        "seed": spec.seed,
        "versions": versions(),
    }
    if spec.init is not None:
        provenance["init"] = parts.origin(spec.init)
    plan = replace(
        _plan(spec),
        perceptual=perceptual,
        perceptual_kind=spec.perceptual.kind,
        features=features,
        init=init,
        provenance=provenance,
    )
    check_training(plan.network(), plan.objective, plan.training)
    return plan


def _plan(spec: DiscretizerSpec) -> DiscretizerPlan:
    return DiscretizerPlan(spec.network, spec.objective, spec.training, spec.seed)


def check_spec(spec: DiscretizerSpec) -> None:
    """Refuse what a training of this network cannot do; no file is read.

    Raises:
        UsageError: which settings do not go together.
    """
    check_training(_plan(spec).network(), spec.objective, spec.training)


def _take_weights(vqgan: VQGAN, trained: Autoencoder, source: str) -> None:
    """Copy the weights of a trained discretizer.

    Raises:
        UsageError: it is another network; the settings that differ are named.
    """
    wanted = vqgan.config.to_dict()
    found = {"layout": trained.layout, **trained.config.to_dict()}
    odd = [f"{key} {found.get(key)} instead of {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if trained.layout != vqgan.layout or odd:
        differing = ", ".join(odd) or f"the layout {trained.layout}"
        raise UsageError(f"init is {source!r}, but it has {differing}; give the network the settings of its weights.")
    vqgan.load_state_dict(trained.state_dict())


@dataclass(frozen=True, eq=False)
class OpenedDiscretizer:
    """A recipe of a discretizer, opened."""

    header: Header
    data: Data
    plan: DiscretizerPlan


class DiscretizerRecipe(DiscretizerSpec):
    """Train a discretizer."""

    kind: Literal["discretizer"]
    title: str
    data: OneTestSet
    trackers: Names = None
    out: str = ""

    def check(self) -> None:
        """As `check_spec`."""
        check_spec(self)

    def open(self, parts: Parts) -> OpenedDiscretizer:
        """Open pictures and weights; as `open_plan`."""
        data = parts.data(self.data)
        header = header_of(self, data, "a VQGAN")
        return OpenedDiscretizer(header, data, open_plan(self, parts, data, recipe_hash=header.recipe_hash))

    def depends_on(self) -> dict[str, dict[str, Any]]:
        """As `whole`."""
        return whole(self)

    def rehearsal(self) -> DiscretizerRecipe:
        """The same with a small network, which begins with random weights, for two short steps."""
        narrow = {"ch": 32, "ch_mult": (1,) * len(self.network.ch_mult), "z_channels": 32}
        small = {**narrow, "n_embed": 16, "num_res_blocks": 1, "embed_dim": min(self.network.embed_dim, 32)}
        none, gradients = NoPerceptual(kind="none"), MultiscaleGradientSection()
        changes: dict[str, Any] = {
            "network": dataclasses.replace(self.network, **small),
            "init": None,
            "training": shorter(self.training),
            "perceptual": gradients if self.objective.perceptual_weight > 0 else none,
            "frechet": None,
            "data": self.data.model_copy(update={"size": max(SIDE, 2 ** len(self.network.ch_mult))}),
        }
        return self.model_copy(update=changes)
