"""Digital corruptions of ImageNet-C: brightness, contrast, elastic, pixelate, JPEG, saturate.

Images are float64 in [0, 1] on the CPU; results are float64, not yet clipped, or uint8 levels where Pillow makes them.
Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from torch import Tensor

from dat.data.corruptions_draws import Draws
from dat.types import Images

Levels = UInt8[Tensor, "batch 3 height width"]
Channel = Float[Tensor, "batch 1 height width"]
Corners = Float[Tensor, "batch 3 2"]
Field = Float[Tensor, "batch height width"]
Positions = Int[Tensor, "batch height width"]
Fold = Callable[[Tensor, int], Tensor]


def brightness(images: Images, shift: float) -> Images:
    """The value of HSV raised by `shift`."""
    value, saturation, distance = _hue_free(images)
    return _from_hue_free((value + shift).clamp(0, 1), saturation, distance)


def saturate(images: Images, factor: float, shift: float) -> Images:
    """The saturation of HSV times `factor` plus `shift`; grey turns red, as hue 0 does in the original."""
    value, saturation, distance = _hue_free(images)
    return _from_hue_free(value, (saturation * factor + shift).clamp(0, 1), distance)


def contrast(images: Images, factor: float) -> Images:
    """Distance to the mean colour of each image times `factor`."""
    # Sums of whole levels are exact in any order.
    means = (images * 255).round().sum((2, 3), keepdim=True) / (255 * images.shape[2] * images.shape[3])
    return (images - means) * factor + means


def pixelate(images: Images, factor: float) -> Levels:
    """Box-filtered down by `factor` and up again."""
    height, width = images.shape[-2:]
    small = (int(width * factor), int(height * factor))
    box = Image.Resampling.BOX
    return _by_pillow(images, lambda picture: picture.resize(small, box).resize((width, height), box))


def jpeg_compression(images: Images, quality: int) -> Levels:
    """Through JPEG of a quality from 1 to 95."""
    return _by_pillow(images, lambda picture: _through_jpeg(picture, quality))


def elastic_transform(images: Images, draws: Draws, strength: float, smoothness: float, shift: float) -> Images:
    """A random affine map, then a smooth random displacement of each pixel; lengths in shares of the shorter side.

    The originals give lengths in pixels of the native size (224: with 244 written for 224, kept). Non-square images:
    the three points of the affine map are (column, row), which the original confuses; the same on squares.
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    corners = draws.uniform(-shift * side, shift * side, 3, 2)
    noise = draws.uniform(-1.0, 1.0, 2, height, width)
    moved = _sample(images, *_affine_positions(corners, height, width), fold=_mirror)
    across, down = (strength * side * _smooth(noise[:, i], smoothness * side) for i in range(2))
    rows = torch.arange(height, dtype=torch.float64)[:, None] + down.float().double()
    columns = torch.arange(width, dtype=torch.float64) + across.float().double()
    return _sample(moved, rows, columns, fold=_repeat_mirror)


def _hue_free(images: Images) -> tuple[Channel, Channel, Images]:
    """Value, saturation, and each channel's distance from the value in units of the colour's spread.

    Says the same as HSV without computing the hue; a channel may differ from the original's rounding by one level.
    """
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - low
    saturation = torch.where(spread > 0, spread / value, 0.0)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=images.dtype)[:, None, None]
    return value, saturation, torch.where(spread > 0, (value - images) / spread, red)


def _from_hue_free(value: Channel, saturation: Channel, distance: Images) -> Images:
    """HSV to RGB: the hue is where each channel lies between the value and `value * (1 - saturation)`."""
    return value * (1 - saturation * distance)


def _by_pillow(images: Images, change: Callable[[Image.Image], Image.Image]) -> Levels:
    """Each image through `change` as an 8-bit picture."""
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in levels])
    return torch.from_numpy(changed).permute(0, 3, 1, 2)


def _through_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@cache
def _smoothing_matrix(length: int, sigma: float) -> Tensor:
    """SciPy's Gaussian filter of one axis as a matrix (cut at three sigma, which may exceed the image)."""
    return torch.from_numpy(ndimage.gaussian_filter1d(np.eye(length), sigma, axis=0, mode="reflect", truncate=3.0))


def _smooth(field: Field, sigma: float) -> Field:
    """Gaussian filter of the last two axes, edges repeated and mirrored; sigma 0 changes nothing."""
    if sigma == 0:
        return field
    return _smoothing_matrix(field.shape[1], sigma) @ field @ _smoothing_matrix(field.shape[2], sigma).T


def _affine_positions(shifts: Corners, height: int, width: int) -> tuple[Field, Field]:
    """Row and column of the input for each pixel, under the affine map that moves three fixed points by `shifts`.

    The points are the corners lower right, upper right and upper left of a central square.
    """
    half = min(height, width) // 3
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    fixed = torch.tensor([width // 2, height // 2], dtype=torch.float64) + half * signs
    lower, upper, left = (fixed + shifts).unbind(1)
    (down_x, down_y), (across_x, across_y) = ((edge.T[..., None, None]) for edge in (lower - upper, upper - left))
    area = down_x * across_y - across_x * down_y
    scale = torch.where(area == 0, 0.0, 2 * half / area)  # Three points on a line: OpenCV shows one pixel.
    x = torch.arange(width, dtype=torch.float64) - upper[:, 0, None, None]
    y = torch.arange(height, dtype=torch.float64)[:, None] - upper[:, 1, None, None]
    rows = fixed[1, 1] + scale * (across_y * x - across_x * y)
    return rows, fixed[1, 0] + scale * (down_x * y - down_y * x)


def _sample(images: Images, rows: Field, columns: Field, *, fold: Fold) -> Images:
    """Bilinear interpolation at fractional positions; `fold` brings whole positions outside back inside."""
    height, width = images.shape[-2:]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    upper, lower = fold(top.long(), height), fold(top.long() + 1, height)
    near, far = fold(left.long(), width), fold(left.long() + 1, width)
    above = _pick(images, upper, near) * (1 - right) + _pick(images, upper, far) * right
    below = _pick(images, lower, near) * (1 - right) + _pick(images, lower, far) * right
    return above * (1 - down) + below * down


def _pick(images: Images, rows: Positions, columns: Positions) -> Images:
    places = (rows * images.shape[3] + columns).flatten(1)[:, None].expand(-1, 3, -1)
    return images.flatten(2).gather(2, places).view_as(images)


def _mirror(places: Tensor, length: int) -> Tensor:
    """`d c b | a b c d | c b a`."""
    return (length - 1) - ((places % (2 * length - 2)) - (length - 1)).abs()


def _repeat_mirror(places: Tensor, length: int) -> Tensor:
    """`c b a | a b c d | d c b`."""
    wrapped = places % (2 * length)
    return torch.minimum(wrapped, 2 * length - 1 - wrapped)
