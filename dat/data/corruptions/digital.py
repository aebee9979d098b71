"""Digital corruptions of ImageNet-C: brightness, contrast, elastic, pixelate, JPEG, saturate.

Images are whole levels 0..255 in float32; results are levels, not yet clipped, or bytes where the original rounds.
Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor

from dat.data.corruptions.draws import Draws

Levels = Float[Tensor, "batch 3 height width"]
FineLevels = Float64[Tensor, "batch 3 height width"]
Bytes = UInt8[Tensor, "batch 3 height width"]
Channel = Float[Tensor, "batch 1 height width"]
Picture = UInt8[np.ndarray, "height width 3"]
Corners = Float[Tensor, "batch 3 2"]
Field = Float[Tensor, "batch height width"]
Fields = Float[Tensor, "batch 2 height width"]
Whole = Int[Tensor, "batch 3 _ _"]
Taps = Int[Tensor, "taps length"]


def brightness(levels: Levels, shift: float) -> FineLevels:
    """The value of HSV raised by `shift`."""
    value, saturation, distance = _hue_free(levels)
    return _from_hue_free((value + shift).clamp(0, 1), saturation, distance)


def saturate(levels: Levels, factor: float, shift: float) -> FineLevels:
    """The saturation of HSV times `factor` plus `shift`; grey turns red, as hue 0 does in the original."""
    value, saturation, distance = _hue_free(levels)
    return _from_hue_free(value, (saturation * factor + shift).clamp(0, 1), distance)


def contrast(levels: Levels, factor: float) -> Levels:
    """Distance to the mean colour of each image times `factor`."""
    # Sums of whole levels are exact in any order, those of a row in float32.
    means = (levels.sum(3, keepdim=True).double().mean(2, keepdim=True) / levels.shape[3]).float()
    return (levels - means).mul_(factor).add_(means)


def pixelate(levels: Levels, factor: float) -> Bytes:
    """Box-filtered down by `factor` and up again, which repeats pixels; rounded as Pillow rounds.

    Source: python-pillow/Pillow:src/libImaging/Resample.c.
    """
    height, width = levels.shape[-2:]
    rows, columns = int(height * factor), int(width * factor)
    # Columns first, as Pillow does, but turned round: whole rows are picked several times as fast as single pixels.
    narrow = _reduced(levels.mT.int().contiguous(), columns)
    small = _reduced(narrow.mT.contiguous(), rows).to(torch.uint8)
    wide = small.mT.contiguous().index_select(2, _repeats(width, columns, levels.device)).mT.contiguous()
    return wide.index_select(2, _repeats(height, rows, levels.device))


def jpeg_compression(levels: Levels, quality: int) -> Bytes:
    """Through JPEG of a quality from 1 to 95."""
    pictures = levels.to(torch.uint8).contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_through_jpeg(picture, quality) for picture in pictures])
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(levels.device)


def elastic_transform(levels: Levels, draws: Draws, strength: float, smoothness: float, shift: float) -> Levels:
    """A random affine map, then a smooth random displacement of each pixel; lengths in shares of the shorter side.

    The originals give lengths in pixels of the native size (224: with 244 written for 224, kept). Non-square images:
    the three points of the affine map are (column, row), which the original confuses; the same on squares.
    """
    height, width = levels.shape[-2:]
    side = min(height, width)
    corners = draws.uniform(-shift * side, shift * side, 3, 2)
    noise = draws.uniform(-1.0, 1.0, 2, height, width)
    moved = _sample(levels, *_affine_positions(corners, height, width), repeat_edge=False)
    across, down = _smooth(noise, smoothness * side).mul_(strength * side).unbind(1)
    rows, columns = _grid(height, width, levels.device)
    return _sample(moved, rows + down, columns + across, repeat_edge=True)


def _hue_free(levels: Levels) -> tuple[Tensor, Tensor, FineLevels]:
    """Value, saturation, and each channel's distance from the value in units of the colour's spread, all in [0, 1].

    Says the same as HSV without computing the hue; a channel may differ from the original's rounding by one level.
    In float64, since a shift by whole levels leaves values where truncation decides.
    """
    images = levels.double().div_(255)
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - low
    saturation = torch.where(spread > 0, spread / value, 0.0)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=images.dtype, device=images.device)[:, None, None]
    return value, saturation, torch.where(spread > 0, (value - images) / spread, red)


def _from_hue_free(value: Tensor, saturation: Tensor, distance: FineLevels) -> FineLevels:
    """HSV to RGB: the hue is where each channel lies between the value and `value * (1 - saturation)`."""
    return (value * (1 - saturation * distance)).mul_(255)


def _reduced(levels: Whole, rows: int) -> Whole:
    """The mean of the rows whose centres fall into each of `rows` boxes, rounded."""
    places, weights = _box_taps(levels.shape[2], rows, levels.device)
    total = torch.full((), 2**21, dtype=torch.int32, device=levels.device)
    for place, weight in zip(places, weights, strict=True):
        total = levels.index_select(2, place).mul_(weight[:, None]).add_(total)
    return total >> 22


@lru_cache(maxsize=64)
def _box_taps(length: int, boxes: int, device: torch.device) -> tuple[Taps, Taps]:
    """Positions that fall into each box, and their weights in units of 2**-22 (0 where a box has fewer)."""
    weights = _box_matrix(length, boxes)
    taps = int((weights > 0).sum(1).max())
    places = (-weights).argsort(1, kind="stable")[:, :taps].T.copy()
    units = np.floor(np.take_along_axis(weights.T, places, 0) * 2**22 + 0.5).astype(np.int32)
    return torch.from_numpy(places).to(device), torch.from_numpy(units).to(device)


@lru_cache(maxsize=64)
def _repeats(length: int, boxes: int, device: torch.device) -> Tensor:
    """For each position of the enlarged side the box that it shows."""
    return torch.from_numpy(_box_matrix(boxes, length).argmax(1)).to(device)


def _box_matrix(length: int, resized: int) -> np.ndarray:
    """Weight of each position in each position of the resized side: what Pillow makes of unit vectors."""
    units = Image.fromarray(np.eye(length, dtype=np.float32))
    return np.asarray(units.resize((resized, length), Image.Resampling.BOX)).T


def _through_jpeg(picture: Picture, quality: int) -> Picture:
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@lru_cache(maxsize=64)
def _smoothing_matrix(length: int, sigma: float, device: torch.device) -> Tensor:
    """SciPy's Gaussian filter of one axis as a matrix (cut at three sigma, which may exceed the image)."""
    matrix = ndimage.gaussian_filter1d(np.eye(length), sigma, axis=0, mode="reflect", truncate=3.0)
    return torch.from_numpy(matrix).float().to(device)


def _smooth(fields: Fields, sigma: float) -> Fields:
    """Gaussian filter of the last two axes, edges repeated and mirrored; sigma 0 changes nothing."""
    if sigma == 0:
        return fields
    rows, columns = (_smoothing_matrix(length, sigma, fields.device) for length in fields.shape[2:])
    return rows @ fields @ columns.T


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel, to be broadcast."""
    return torch.arange(height, device=device)[:, None], torch.arange(width, device=device)


def _affine_positions(shifts: Corners, height: int, width: int) -> tuple[Field, Field]:
    """Row and column of the input for each pixel, under the affine map that moves three fixed points by `shifts`.

    The points are the corners lower right, upper right and upper left of a central square.
    """
    half = min(height, width) // 3
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=shifts.device)
    fixed = torch.tensor([width // 2, height // 2], device=shifts.device) + half * signs
    lower, upper, left = (fixed + shifts).unbind(1)
    (down_x, down_y), (across_x, across_y) = ((edge.T[..., None, None]) for edge in (lower - upper, upper - left))
    area = down_x * across_y - across_x * down_y
    scale = torch.where(area == 0, 0.0, 2 * half / area)  # Three points on a line: OpenCV shows one pixel.
    rows, columns = _grid(height, width, shifts.device)
    y, x = rows - upper[:, 1, None, None], columns - upper[:, 0, None, None]
    return fixed[1, 1] + scale * (across_y * x - across_x * y), fixed[1, 0] + scale * (down_x * y - down_y * x)


def _sample(levels: Levels, rows: Field, columns: Field, *, repeat_edge: bool) -> Levels:
    """Bilinear interpolation at fractional positions; outside, images are mirrored, with the edge once or twice."""
    sides = zip((columns, rows), (levels.shape[3], levels.shape[2]), strict=True)
    # The range of `grid_sample`: -1 to 1 are the centres of the outer pixels, or (edge repeated) their outer borders.
    shares = [(2 * place + 1) / length - 1 if repeat_edge else 2 * place / (length - 1) - 1 for place, length in sides]
    return F.grid_sample(levels, torch.stack(shares, -1), padding_mode="reflection", align_corners=not repeat_edge)
