"""Mean and spread of each channel of pixels, as image processors of transformers write them."""

from __future__ import annotations

import torch
from torch import Tensor

from dat.errors import UsageError
from dat.types import Images

Statistics = tuple[float, ...]


def check_statistics(mean: Statistics, std: Statistics, channels: set[int]) -> None:
    """Refuse what is not one number a channel.

    Raises:
        UsageError: both, and how many channels there are.
    """
    are_numbers = all(type(value) in (int, float) for value in (*mean, *std))
    if {len(mean), len(std)} != channels or not are_numbers or min(std) <= 0:
        raise UsageError(
            f"image_mean and image_std are a number for each of {' or '.join(map(str, sorted(channels)))} channels, the latter "
            f"above 0; got {list(mean)} and {list(std)}."
        )


def normalised(images: Images, mean: Statistics, std: Statistics) -> Images:
    """`(x - mean) / std`."""
    return (images - _by_channel(mean, images)) / _by_channel(std, images)


def restored(images: Images, mean: Statistics, std: Statistics) -> Images:
    """`x * std + mean`."""
    return images * _by_channel(std, images) + _by_channel(mean, images)


def _by_channel(values: Statistics, images: Images) -> Tensor:
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, 1, 1)
