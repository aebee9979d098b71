"""Weights and pictures by a formula, so that numbers of a published code can be kept without its tensors."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def filled(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """A tensor of each name and shape, of the size that keeps features near 1."""
    tensors = {}
    for key, shape in shapes.items():
        steps = torch.arange(shape.numel(), dtype=torch.float64).square() * 0.7
        waves = torch.sin(steps + zlib.crc32(key.encode()) % 1000).view(shape)
        if "norm" in key and key.endswith("weight"):
            waves = 1 + 0.1 * waves
        elif "embedding.weight" not in key:
            waves = waves * (2 / (shape[1:].numel() if len(shape) > 1 else 100)) ** 0.5
        tensors[key] = waves.float()
    return tensors


def picture(height: int, width: int) -> Tensor:
    """One picture (1, 3, height, width) in [0, 1]."""
    rows, columns, channels = torch.meshgrid(torch.arange(height), torch.arange(width), torch.arange(3), indexing="ij")
    waves = torch.sin(0.9 * rows + 0.37 * columns * (channels + 1) + channels).double()
    return (0.5 + 0.5 * waves).float().permute(2, 0, 1)[None]
