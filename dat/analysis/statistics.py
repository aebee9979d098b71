"""How close the statistics of adversarial pictures are to those of clean ones, at each normalisation layer (Fig. 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dat.attacks.gradient import evaluating
from dat.errors import UsageError
from dat.nn.norm import NORMS
from dat.types import Images

PerChannel = Float[Tensor, " channels"]
Flags = Bool[Tensor, " channels"]
Features = Float[Tensor, "..."]

POSSIBLE = (-1.0, 1.0)
"""Correlations."""
FEWEST = 3
"""Channels: any two points lie on a line."""


@dataclass(frozen=True)
class ChannelStatistics:
    """What a layer is shown in one batch, channel by channel, in float64 on the CPU: over pictures and places.

    `variance` is the biased one, by which BatchNorm normalises. `constant`: all values of the channel are the same.
    """

    mean: PerChannel
    variance: PerChannel
    constant: Flags


@dataclass(frozen=True)
class Likeness:
    """Pearson correlations over the channels of a layer, of their means and of their variances; NaN where there is none.

    There is none of fewer than three channels, and of values that are all the same. `left_out` of the `channels` are constant
    in one of the two batches: they would be points that no adversary moves.
    """

    mean: float
    variance: float
    channels: int
    left_out: int


def statistics(model: nn.Module, clean: Images, adversarial: Images) -> dict[str, Likeness]:
    """For each normalisation layer that runs, how alike two batches are that a model in eval mode is shown.

    Of layers of any kind what is compared is what comes in: mean and variance of each channel over the batch. BatchNorm has
    them from its own inputs in training; for LayerNorm, GroupNorm and RMSNorm, which keep none, they are those that a
    BatchNorm in the same place would see. Costs two passes.

    Source: Mao et al., NeurIPS 2022, Figure 2. Which layers, batches and attacks it shows, the paper's slides do not say.

    Raises:
        UsageError: the model has no normalisation layer, or none that runs.
    """
    return likenesses(channel_statistics(model, clean), channel_statistics(model, adversarial))


def likenesses(clean: dict[str, ChannelStatistics], adversarial: dict[str, ChannelStatistics]) -> dict[str, Likeness]:
    """The same of statistics that are there already, by layer."""
    return {name: likeness(clean[name], adversarial[name]) for name in clean if name in adversarial}


def likeness(clean: ChannelStatistics, adversarial: ChannelStatistics) -> Likeness:
    """Of one layer."""
    kept = ~(clean.constant | adversarial.constant)
    return Likeness(
        pearson(clean.mean[kept], adversarial.mean[kept]),
        pearson(clean.variance[kept], adversarial.variance[kept]),
        len(kept),
        int((~kept).sum()),
    )


def pearson(first: PerChannel, second: PerChannel) -> float:
    """Correlation in float64; NaN of fewer than three pairs, or where either side is constant (its largest is its smallest).

    NumPy calls two constant vectors perfectly correlated where their mean is not exact (`np.corrcoef` of many 0.1: 1.0).
    """
    first, second = first.double(), second.double()
    if len(first) < FEWEST or _is_constant(first) or _is_constant(second):
        return math.nan
    first, second = (_unit(values - values.mean()) for values in (first, second))
    return float((first @ second).clamp(-1, 1))


def _is_constant(values: Tensor) -> bool:
    return bool(values.max() == values.min())


def _unit(values: Tensor) -> Tensor:
    """Divided by the largest first, so that no square under- or overflows."""
    scaled = values / values.abs().max()
    return scaled / torch.linalg.vector_norm(scaled)


def channel_statistics(model: nn.Module, images: Tensor) -> dict[str, ChannelStatistics]:
    """What each normalisation layer is shown, by its name in the model, which is in eval mode.

    Layers that do not run are missing; one that runs several times in a pass (in the head of a detector) counts once.

    Raises:
        UsageError: the model has no such layer, or none runs.
    """
    with evaluating(model) as shown, _noted(shown) as notes, torch.no_grad():
        shown(images)
    if not notes:
        raise UsageError(
            f"None of the normalisation layers of {type(model).__name__} runs on these images; give the part that has them."
        )
    return {name: _joined(parts) for name, parts in notes.items()}


@dataclass(frozen=True)
class _Part:
    """One pass through a layer: values per channel, their mean, variance, smallest and largest."""

    count: int
    mean: Tensor
    variance: Tensor
    low: Tensor
    high: Tensor


@contextmanager
def _noted(model: nn.Module) -> Iterator[dict[str, list[_Part]]]:
    """Note what normalisation layers are shown inside. Raises: UsageError: there are none."""
    layers = {name: layer for name, layer in model.named_modules() if is_norm(layer)}
    if not layers:
        raise UsageError(
            f"{type(model).__name__} has no normalisation layer (batch, layer, group, RMS), so there are no statistics to "
            "compare; take another model."
        )
    notes: dict[str, list[_Part]] = {}
    hooks = [layer.register_forward_pre_hook(partial(_note, notes, name)) for name, layer in layers.items()]
    try:
        yield notes
    finally:
        for hook in hooks:
            hook.remove()


def is_norm(layer: nn.Module) -> bool:
    """Whether a layer normalises; frozen batch norms of detectors, which are no subclass of any, do, too."""
    return isinstance(layer, (*NORMS, nn.RMSNorm)) or type(layer).__name__.endswith("FrozenBatchNorm2d")


def _note(notes: dict[str, list[_Part]], name: str, layer: nn.Module, given: tuple[Any, ...]) -> None:
    values = given[0].detach().double().movedim(channel_axis(layer, given[0]), 0).flatten(1)
    variance, mean = torch.var_mean(values, dim=1, correction=0)
    low, high = torch.aminmax(values, dim=1)
    part = _Part(values.shape[1], mean.cpu(), variance.cpu(), low.cpu(), high.cpu())
    notes.setdefault(name, []).append(part)


def channel_axis(layer: nn.Module, features: Features) -> int:
    """Where the channels of a layer's input are: behind the batch, and of layer and RMS norms where their weights begin.

    timm's and torchvision's `LayerNorm2d` have the weights of the former and the axis of the latter.
    """
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and "2d" not in type(layer).__name__:
        return features.ndim - len(layer.normalized_shape)
    return 1


def _joined(parts: Sequence[_Part]) -> ChannelStatistics:
    """Of several passes through one layer as one: their means weighted, the variance within and between them."""
    weights = torch.tensor([part.count for part in parts], dtype=torch.float64)[:, None] / sum(part.count for part in parts)
    means, variances = (torch.stack([getattr(part, name) for part in parts]) for name in ("mean", "variance"))
    mean = (weights * means).sum(dim=0)
    variance = (weights * (variances + (means - mean).square())).sum(dim=0)
    low = torch.stack([part.low for part in parts]).amin(dim=0)
    high = torch.stack([part.high for part in parts]).amax(dim=0)
    return ChannelStatistics(mean, variance, low == high)
