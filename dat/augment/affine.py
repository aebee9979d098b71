"""Affine resampling of a batch of 8-bit images, one matrix each, in Pillow's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Pixels = UInt8[Tensor, "batch 3 height width"]
Matrices = Float[Tensor, "batch 6"]
PerImage = Float[Tensor, " batch"]

LARGEST_ANGLE = 30


def affine(pixels: Pixels, matrices: Matrices) -> Pixels:
    """Each image resampled by its matrix (from output to input positions), bilinear, black outside.

    In double precision and cut off, not rounded, to whole values, so that it equals Pillow's result.
    Source: `python-pillow/Pillow:src/libImaging/Geometry.c`, `Image.transform(size, AFFINE, matrix, BILINEAR)`.
    """
    height, width = pixels.shape[-2:]
    x, y = _source_positions(matrices, height, width)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    across, down = (x - 0.5 - left)[:, None], (y - 0.5 - top)[:, None]
    columns = [(left.long() + step).clamp(0, width - 1) for step in (0, 1)]
    rows = [(top.long() + step).clamp(0, height - 1) * width for step in (0, 1)]
    values = _along(pixels, [rows[0] + column for column in columns], across)
    if down.any():  # not in shears of rows and translations
        values = _between(values, _along(pixels, [rows[1] + column for column in columns], across), down)
    return (values * inside[:, None]).to(torch.uint8)


def shear(*, x: PerImage | float = 0.0, y: PerImage | float = 0.0) -> Matrices:
    """Matrices that shift rows by `x` per pixel downwards, or columns by `y` per pixel to the right."""
    return _matrices(1.0, x, 0.0, y, 1.0, 0.0)


def translation(*, x: PerImage | float = 0.0, y: PerImage | float = 0.0) -> Matrices:
    """Matrices that move the content by `x` pixels to the left and `y` upwards."""
    return _matrices(1.0, 0.0, x, 0.0, 1.0, y)


def rotation(degrees: PerImage, height: int, width: int) -> Matrices:
    """Matrices that turn the content counter-clockwise around the middle, by whole degrees from -30 to 30."""
    cosine, sine = _circle().to(degrees.device)[degrees.long() + LARGEST_ANGLE].unbind(dim=1)
    right, down = width / 2, height / 2
    x = (cosine * -right + sine * -down) + right
    y = (-sine * -right + cosine * -down) + down
    return _matrices(cosine, sine, x, -sine, cosine, y)


@cache
def _circle() -> Tensor:
    """Cosine and sine of each angle, rounded to 15 digits as `PIL.Image.rotate` does."""
    angles = [-math.radians(degrees % 360.0) for degrees in range(-LARGEST_ANGLE, LARGEST_ANGLE + 1)]
    return torch.tensor([[round(math.cos(angle), 15), round(math.sin(angle), 15)] for angle in angles], dtype=torch.float64)


def _matrices(*entries: Tensor | float) -> Tensor:
    """One row of six entries per image, of which some are the same number for all."""
    given = next(entry for entry in entries if isinstance(entry, Tensor))
    tensors = [entry if isinstance(entry, Tensor) else torch.full_like(given, entry) for entry in entries]
    return torch.stack(tensors, dim=1).double()


def _source_positions(matrices: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each output pixel's centre lies in the input: x and y, each (batch, height, width)."""
    x = torch.arange(width, device=matrices.device, dtype=torch.float64) + 0.5
    y = (torch.arange(height, device=matrices.device, dtype=torch.float64) + 0.5)[:, None]
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(dim=1)
    return a * x + b * y + c, d * x + e * y + f


def _along(pixels: Tensor, places: Sequence[Tensor], share: Tensor) -> Tensor:
    """Values between two neighbours of a row."""
    first = _at(pixels, places[0])
    return _between(first, _at(pixels, places[1]), share) if share.any() else first


def _at(pixels: Tensor, index: Tensor) -> Tensor:
    """The values at flat positions (batch, height, width), in double precision."""
    flat = index.flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
    return pixels.flatten(2).gather(2, flat).view(pixels.shape).double()


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return first + (second - first) * share
