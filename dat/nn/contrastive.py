"""Networks of contrastive learning: a backbone with a projector, alone (SimCLR) or followed by a copy of itself (MoCo v3)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dat.errors import UsageError

Pixels = Float[Tensor, "batch 3 height width"]
Projections = Float[Tensor, "batch width"]
Features = Float[Tensor, "batch depth"]
Vectors = Float[Tensor, "batch width"]
AllVectors = Float[Tensor, "all width"]

OWN = ("projector.", "predictor.", "momentum.")
"""Beginnings of the names of all weights that the backbone does not have."""


class Projected(NamedTuple):
    """Of each image a vector that asks, and one that answers; of SimCLR the same."""

    queries: Projections
    keys: Projections


class SimCLRNetwork(nn.Module):
    """A backbone, whose features `(batch, depth)` are projected by two layers.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, section 2.1.

    Raises:
        UsageError: a width below 1.
    """

    def __init__(self, backbone: nn.Module, *, depth: int, hidden: int = 512, width: int = 128) -> None:
        super().__init__()
        _check_widths(hidden=hidden, width=width)
        self.backbone = backbone
        self.projector = _layers(depth, hidden, width)

    def forward(self, pixels: Pixels) -> Projected:
        """The projections of normalised images."""
        found = through(self.projector, self.features(pixels))
        return Projected(found, found)

    def features(self, pixels: Pixels) -> Features:
        """What is used after the pre-training."""
        return self.backbone(pixels)


class MoCoNetwork(nn.Module):
    """A backbone with a projector and a predictor, and a momentum encoder: a copy of the first two that follows them.

    Source: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers" (MoCo v3), ICCV 2021,
    algorithm 1; `facebookresearch/moco-v3:moco/builder.py`. Where we depart: two layers of projector whatever the backbone, no
    normalisation after its last; a transformer's patch projection trains.

    Raises:
        UsageError: a width below 1.
    """

    def __init__(self, backbone: nn.Module, *, depth: int, hidden: int = 512, width: int = 128) -> None:
        super().__init__()
        _check_widths(hidden=hidden, width=width)
        self.backbone = backbone
        self.projector = _layers(depth, hidden, width)
        self.predictor = _layers(width, hidden, width)
        self.momentum = copy.deepcopy(nn.Sequential(self.backbone, self.projector)).requires_grad_(False)

    def forward(self, pixels: Pixels) -> Projected:
        """Predicted projections, and those of the momentum encoder, which have no gradient."""
        with torch.no_grad():
            backbone, projector = self.momentum
            keys = through(cast(nn.Sequential, projector), backbone(pixels))
        return Projected(through(self.predictor, through(self.projector, self.features(pixels))), keys)

    def features(self, pixels: Pixels) -> Features:
        """What is used after the pre-training."""
        return self.backbone(pixels)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the weights of the momentum encoder the share `1 - momentum` of the way to those it is a copy of."""
        own = [*self.backbone.parameters(), *self.projector.parameters()]
        for follower, parameter in zip(self.momentum.parameters(), own, strict=True):
            follower.lerp_(parameter, 1 - momentum)


def backbone_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the weights of a contrastive network those of its backbone, under its own names; others as they are."""
    is_one = any(key.startswith("projector.") for key in tensors) and any(key.startswith("backbone.") for key in tensors)
    if not is_one:
        return dict(tensors)
    return {key.removeprefix("backbone."): value for key, value in tensors.items() if not key.startswith(OWN)}


def through(layers: nn.Sequential, vectors: Features) -> Projections:
    """What a projector or predictor makes of vectors; in training its normalisation sees those of all processes.

    So several processes do what one does: statistics of a part would also tell which views are on one process.
    """
    linear, norm, *others = layers
    hidden = linear(vectors)
    if layers.training and len(everywhere := gathered(hidden)) > len(hidden):
        hidden = norm(everywhere).chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]
    else:
        hidden = norm(hidden)
    return nn.Sequential(*others)(hidden)


def gathered(vectors: Vectors) -> AllVectors:
    """The vectors of all processes, in their order; of one process its own. Their gradient goes back to whose they are."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not there or torch.distributed.get_world_size() == 1:
        return vectors
    return cast(Tensor, _Gathered.apply(vectors))


class _Gathered(torch.autograd.Function):
    """All processes gather, and all are asked for the gradient."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        parts = [torch.empty_like(vectors) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, vectors.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        total = grad_outputs[0].clone()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def _layers(depth: int, hidden: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(depth, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width, bias=False)
    )


def _check_widths(**widths: int) -> None:
    for name, value in widths.items():
        if value < 1:
            raise UsageError(f"{name} is {value}; write the number of channels, 1 or more.")
