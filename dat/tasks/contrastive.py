"""Contrastive learning: two views of one picture are found among those of others. The adversary raises the loss of one view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dat.errors import UsageError
from dat.nn.contrastive import Projected, gathered
from dat.tasks.losses import at_least_float32
from dat.types import Images, PerImage

Vectors = Float[Tensor, "batch width"]
AllVectors = Float[Tensor, "all width"]
Places = Int[Tensor, " batch"]


@dataclass(frozen=True)
class Contrastive:
    """SimCLR's loss of each image: both of its views are to find each other among all other views of the batch.

    The targets are the second views `(batch, 3, height, width)`; a method changes the first. The loss of an image depends on
    the others of its micro-batch, over all processes, which are its negatives: so does its gradient, and an adversary climbs
    the loss of the whole. Negatives of other processes come with their gradient, so two processes do what one does, up to
    batch statistics; those of other accumulated micro-batches are not seen.

    Source: Chen et al., ICML 2020, equation 1 (NT-Xent). Cost: one pass of both views.

    Raises:
        UsageError: a temperature that is not above 0.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def losses(self, model: nn.Module, images: Images, targets: Images) -> PerImage:
        """One loss per image, the mean of those of its two views, in float32 or better.

        Raises:
            UsageError: there is one image.
        """
        first, second = _halves(_projected(model, images, targets).queries)
        here, there = gathered(first), gathered(second)
        own = _places(len(first), len(here), first.device)
        losses = _found(first, second, here, there, own, self.temperature)
        return (losses + _found(second, first, there, here, own, self.temperature)) / 2


@dataclass(frozen=True)
class MomentumContrastive:
    """MoCo v3's loss of each image: each view, predicted, is to find the other's key among the keys of the batch.

    Keys are projections of the momentum encoder and have no gradient, for an adversary neither. Its momentum rises from
    `momentum` to 1 by half a cosine. Targets, negatives and processes as for `Contrastive`.

    Source: Chen, Xie and He, ICCV 2021, algorithm 1, with its factor of twice the temperature; `facebookresearch/moco-v3`.
    Both views of a step pass together, so share statistics of a batch, and are augmented alike.

    Raises:
        UsageError: a temperature that is not above 0, or a momentum outside [0, 1].
    """

    temperature: float = 0.2
    momentum: float = 0.99

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if not 0 <= self.momentum <= 1:
            raise UsageError(f"momentum is {self.momentum}; write a share, from 0 to 1 (MoCo v3 uses 0.99).")

    def losses(self, model: nn.Module, images: Images, targets: Images) -> PerImage:
        """One loss per image, the sum of those of its two views, in float32 or better.

        Raises:
            UsageError: there is one image.
        """
        projected = _projected(model, images, targets)
        queries, keys = (_halves(part) for part in projected)
        own = _places(len(queries[0]), len(gathered(keys[0])), images.device)
        losses = [
            F.cross_entropy(query @ gathered(key).T / self.temperature, own, reduction="none")
            for query, key in zip(queries, keys[::-1], strict=True)
        ]
        return 2 * self.temperature * (losses[0] + losses[1])

    def follow(self, model: nn.Module, *, progress: float) -> None:
        """The momentum encoder, after an optimizer step."""
        network: Any = cast(Any, model).network
        network.follow(1 - (1 - self.momentum) * 0.5 * (1 + math.cos(math.pi * progress)))


def check_temperature(temperature: float) -> None:
    """Refuse what similarities cannot be divided by.

    Raises:
        UsageError: naming the value.
    """
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature is {temperature}, and similarities are divided by it; write a number above 0.")


def _projected(model: nn.Module, images: Images, targets: Images) -> Projected:
    projected = model(torch.cat([images, targets.to(images.dtype)]))
    return Projected(*(F.normalize(at_least_float32(part), dim=1) for part in projected))


def _halves(vectors: Tensor) -> tuple[Tensor, Tensor]:
    first, second = vectors.chunk(2)
    return first, second


def _places(count: int, total: int, device: torch.device) -> Places:
    """Where the images of this process are among all.

    Raises:
        UsageError: there is one.
    """
    if total < 2:
        raise UsageError("A contrastive loss finds an image among others, and the batch has one; take a batch of 2 or more.")
    first = count * torch.distributed.get_rank() if total > count else 0
    return torch.arange(first, first + count, device=device)


def _found(
    views: Vectors, others: Vectors, all_of_these: AllVectors, all_of_others: AllVectors, own: Places, temperature: float
) -> PerImage:
    """For each view minus the logarithm of the share that its own other view has among all but itself."""
    rows = torch.arange(len(own), device=own.device)
    same = views @ all_of_these.T / temperature
    same = same.index_put((rows, own), same.new_tensor(-math.inf))
    logits = torch.cat([same, views @ all_of_others.T / temperature], dim=1)
    return logits.logsumexp(dim=1) - (views * others).sum(dim=1) / temperature
