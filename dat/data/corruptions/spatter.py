"""Spatter of ImageNet-C: drops of water with light and shade, or mud.

Images are whole levels 0..255 in float32; results are levels, not yet clipped. The steps of OpenCV that the original
calls (Canny edges, distance transform, histogram equalisation) are rebuilt here on the processor; the distance is the
exact Euclidean one, OpenCV's 5x5 chamfer approximation differs from it by at most two per cent.
Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage
from torch import Tensor

from dat.data.corruptions.blur import gaussian_blur
from dat.data.corruptions.draws import Draws

Levels = Float[Tensor, "batch 3 height width"]
Layer = Float[Tensor, "batch 1 height width"]
GreyLevels = UInt8[np.ndarray, "height width"]
Edges = Bool[np.ndarray, "height width"]

WATER = (175, 238, 238)
MUD = (63, 42, 20)
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


def spatter(
    levels: Levels, draws: Draws, mean: float, scale: float, sigma: float, threshold: float, extent: float, muddy: int
) -> Levels:
    """Where blurred noise exceeds `threshold`: mud blurred by `extent`, or water of strength `extent`."""
    liquid = gaussian_blur(draws.normal(1, *levels.shape[2:]).mul_(scale).add_(mean), sigma)
    if muddy:
        cover = gaussian_blur((liquid > threshold).float(), extent)
        cover = cover * (cover >= 0.8)
        return levels * (1 - cover) + cover * _colour(MUD, levels.device)
    return levels + extent * _shaded_drops(liquid * (liquid >= threshold)) * _colour(WATER, levels.device)


def _colour(channels: tuple[int, int, int], device: torch.device) -> Tensor:
    return torch.tensor(channels, dtype=torch.float32, device=device)[:, None, None]


def _shaded_drops(liquid: Layer) -> Layer:
    """Depth of the liquid times a relief of the distance to its edges; the largest value of an image is 1."""
    depth = (liquid * 255).long().cpu().numpy().astype(np.uint8)[:, 0]  # Above 255 the original wraps around, too.
    shaded = np.stack([layer * _relief(layer) for layer in depth])
    drops = torch.from_numpy(shaded)[:, None].float().to(liquid.device)
    highest = drops.amax((1, 2, 3), keepdim=True)
    # Without any drop the original divides 0 by 0; nothing is added here.
    return drops / highest.where(highest > 0, 1)


def _relief(layer: GreyLevels) -> np.ndarray:
    """Float64 shading 0..255 of one layer: truncated distance to the nearest edge, equalised, lit from one corner."""
    edges = _canny_edges(layer, low=50, high=150)
    distance = ndimage.distance_transform_edt(~edges) if edges.any() else np.full(layer.shape, np.inf)
    near = _box_mean(np.minimum(np.asarray(distance), 20)).astype(np.uint8)
    lit = ndimage.correlate(_equalised(near).astype(np.int64), RELIEF, mode="mirror").clip(0, 255)
    return np.rint(_box_mean(lit.astype(np.float64)))


def _box_mean(values: np.ndarray) -> np.ndarray:
    # A plain sum, then the division: a running mean would turn 20 into 19.99, which truncation makes 19.
    return ndimage.correlate(values, np.ones((3, 3)), mode="mirror") / 9


def _equalised(levels: GreyLevels) -> GreyLevels:
    """Histogram equalisation: the lowest level that occurs becomes 0, the highest 255; a flat layer stays."""
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = int(counts.nonzero()[0][0])
    others = levels.size - counts[lowest]
    if others == 0:
        return levels
    table = np.rint((counts.cumsum() - counts[lowest]) * (255 / others)).clip(0, 255)
    return table.astype(np.uint8)[levels]


def _canny_edges(layer: GreyLevels, *, low: int, high: int) -> Edges:
    """Ridges of the gradient (sum of absolute derivatives) above `low` that touch one above `high`."""
    across, down = (ndimage.sobel(layer.astype(np.int64), axis=axis, mode="nearest") for axis in (1, 0))
    strength = abs(across) + abs(down)
    ridges = _is_ridge(strength, across, down) & (strength > low)
    strong = ridges & (strength > high)
    return np.asarray(ndimage.binary_propagation(strong, structure=np.ones((3, 3)), mask=ridges))


def _is_ridge(strength: np.ndarray, across: np.ndarray, down: np.ndarray) -> Edges:
    """Whether the gradient is largest along its own direction, of four; ties go to the first pixel on an axis."""
    height, width = strength.shape
    padded = np.pad(strength, 1)

    def neighbour(row: int, column: int) -> np.ndarray:
        return padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]

    level = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    upright = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    falling = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    rising = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    slope = np.tan(np.pi / 8)
    is_level = abs(down) < slope * abs(across)
    is_upright = abs(down) > abs(across) / slope
    diagonal = np.where((across ^ down) < 0, rising, falling)
    return np.where(is_level, level, np.where(is_upright, upright, diagonal))
