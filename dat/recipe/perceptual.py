"""Perceptual distances and feature networks of a recipe: sections, and what they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from dat.discretizers.objective import Perceptual
from dat.errors import CheckpointError
from dat.nn.imagenet_networks import ImageNetNetwork, load_imagenet_network
from dat.nn.perceptual import load_feature_distance, load_lpips, multiscale_gradient_distance
from dat.nn.weights import file_sha256
from dat.recipe.strict import Strict


class LPIPSSection(Strict):
    """LPIPS on a torchvision backbone that is on disk already; `linear_layers` is its published file of linear layers."""

    kind: Literal["lpips"]
    backbone: str
    linear_layers: str
    cache: str | None = None


class FeatureDistanceSection(Strict):
    """Distance in the features of a small ImageNet classifier whose file is on disk, without LPIPS's linear layers."""

    kind: Literal["features"]
    network: Literal["squeezenet1_0", "mobilenet_v2", "tiny_darknet"]
    weights: str
    least_side: int = Field(default=32, ge=0)


class MultiscaleGradientSection(Strict):
    """Differences of image gradients over a pyramid: needs no trained network."""

    kind: Literal["multiscale-gradient"] = "multiscale-gradient"


class NoPerceptual(Strict):
    """No perceptual term; `objective.perceptual_weight` is 0 then."""

    kind: Literal["none"]


PerceptualSection = LPIPSSection | FeatureDistanceSection | MultiscaleGradientSection | NoPerceptual


class FrechetSection(Strict):
    """The ImageNet classifier in whose features originals and reconstructions are compared as sets, for the log."""

    network: Literal["squeezenet1_0", "mobilenet_v2", "tiny_darknet"]
    weights: str


def build_perceptual(section: PerceptualSection) -> Perceptual | None:
    """The perceptual distance of a recipe.

    Raises:
        CheckpointError: its weights are not on disk.
    """
    try:
        if isinstance(section, LPIPSSection):
            cache = Path(section.cache) if section.cache is not None else None
            return load_lpips(section.backbone, Path(section.linear_layers), cache=cache)
        if isinstance(section, FeatureDistanceSection):
            return load_feature_distance(section.network, Path(section.weights), least_side=section.least_side)
    except CheckpointError as error:
        raise CheckpointError(f"{error} Without them, write perceptual: {{kind: multiscale-gradient}}.") from error
    return multiscale_gradient_distance if isinstance(section, MultiscaleGradientSection) else None


def build_frechet(section: FrechetSection | None) -> ImageNetNetwork | None:
    """The network whose features tell how far the reconstructions are from the originals, as sets.

    Raises:
        CheckpointError: its weights are not on disk.
    """
    return None if section is None else load_imagenet_network(section.network, Path(section.weights))


WEIGHT_FILES = ("weights", "linear_layers")
"""Keys that name a file of weights which a training uses."""


def with_hashes(section: BaseModel) -> dict[str, Any]:
    """Settings in which a file of weights stands with its name and hash, not with its place."""
    settings = section.model_dump()
    files = {key: Path(settings[key]) for key in WEIGHT_FILES if settings.get(key) is not None}
    return settings | {key: f"{path.name} sha256:{file_sha256(path)}" for key, path in files.items()}
