"""Blurs of ImageNet-C: Gaussian, defocus, glass, motion, zoom. Images and results are float64 in [0, 1] on the CPU.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py, and the library functions that it calls.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from scipy import ndimage
from torch import Tensor

from dat.data.corruptions_draws import Draws
from dat.types import Images, PerImage

Planes = Float[Tensor, "batch channels height width"]
Levels = UInt8[Tensor, "batch channels height width"]
Sources = Int[Tensor, "batch pixels"]
Offsets = Int[Tensor, "batch 2 height width"]
Places = Int[Tensor, "length"]
Weights = Float[Tensor, "length"]
Taps = tuple[Places, Places, Weights, Weights]


def to_levels(images: Planes) -> Levels:
    """`[0, 1]` to 0..255 by truncation, as `numpy.uint8` does in the original save step."""
    return images.clamp(0, 1).mul_(255).to(torch.uint8)


def gaussian_blur(images: Planes, sigma: float) -> Planes:
    """Gaussian filter cut at four sigma, edges repeated."""
    filtered = ndimage.gaussian_filter(images.numpy(), sigma, mode="nearest", truncate=4.0, axes=(2, 3))
    return torch.from_numpy(filtered)


def defocus_blur(images: Images, radius: float, alias_blur: float) -> Images:
    """Correlation with a softened disk, edges mirrored without repeating the border.

    Row by row of the disk, rows of the same weights added first: a quarter of the multiplications.
    """
    kernel = _disk(radius, alias_blur)
    reach, height = len(kernel) // 2, images.shape[2]
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (reach, reach), (0, 0)), mode="reflect")
    total = ndimage.correlate1d(images.numpy(), kernel[reach], mode="mirror")
    for offset in range(1, reach + 1):
        above, below = (padded[:, :, start : start + height] for start in (reach - offset, reach + offset))
        total += ndimage.correlate1d(above + below, kernel[reach + offset], mode="mirror")
    return torch.from_numpy(total)


def glass_blur(images: Images, draws: Draws, sigma: float, reach: int, iterations: int) -> Images:
    """Blur, replace pixels by neighbours at most `reach` away, blur again.

    The original means to swap two pixels, but swaps NumPy views: the second assignment reads what the first wrote.
    So a pixel is duplicated, never exchanged; kept, since the public sets were made that way.
    """
    height, width = images.shape[-2:]
    levels = to_levels(gaussian_blur(images, sigma)).flatten(2)
    for _ in range(iterations):
        offsets = draws.integers(-reach, reach, 2, height, width)
        sources = _shuffle_sources(offsets, reach)
        levels = levels.gather(2, sources[:, None].expand_as(levels))
    return gaussian_blur(levels.double().div(255).unflatten(2, (height, width)), sigma)


def motion_blur(images: Images, draws: Draws, radius: float, sigma: float) -> Levels:
    """Motion along an angle drawn from -45 to 45 degrees; already in levels, since ImageMagick rounds."""
    angles = draws.uniform(-45.0, 45.0)
    return magick_motion_blur((images * 255).round().to(torch.uint8), angles, radius=radius, sigma=sigma)


def magick_motion_blur(levels: Levels, angles: PerImage, *, radius: float, sigma: float) -> Levels:
    """Half a Gaussian (its peak at the pixel itself) laid along `angles` (degrees), whole-pixel steps, edges repeated.

    Source: ImageMagick's MotionBlurImage of a 16-bit build: `2 * ceil(radius) + 1` taps, the sum rounded to 16 bits
    and truncated to 8 (what the stored results of the original chain show).
    """
    height, width = levels.shape[-2:]
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    margin = len(steps) - 1
    padded = F.pad(levels.double(), (margin,) * 4, mode="replicate").numpy()
    blurred = np.empty(levels.shape)
    for index, angle in enumerate(np.deg2rad(angles.numpy())):
        rows = margin + np.ceil(steps * np.sin(angle) - 0.5).astype(int)
        columns = margin + np.ceil(steps * np.cos(angle) - 0.5).astype(int)
        places = zip(weights, rows.tolist(), columns.tolist(), strict=True)
        blurred[index] = sum(
            weight * padded[index, :, row : row + height, column : column + width] for weight, row, column in places
        )
    sixteen_bits = np.floor(blurred * 257 + 0.5)
    return torch.from_numpy(np.floor(sixteen_bits / 257).astype(np.uint8))


def zoom_blur(images: Images, stop: float, step: float) -> Images:
    """Mean of the image and its central zooms by 1, 1 + step, ... up to `stop` (accumulated in float32)."""
    factors = np.arange(1, stop, step)
    single = images.float()
    zoomed = (clipped_zoom(single.double(), float(factor)).float() for factor in factors)
    return (single + sum(zoomed, torch.zeros_like(single))) / (len(factors) + 1)


def clipped_zoom(images: Planes, factor: float) -> Planes:
    """Centre of the images, enlarged bilinearly by `factor` to the size of the images.

    Rows and columns are cropped each by their own length; the original crops squares, which is the same on squares.
    """
    rows, columns = (_zoom_taps(length, factor) for length in images.shape[-2:])
    tall = images.index_select(2, rows[0]) * rows[2][:, None] + images.index_select(2, rows[1]) * rows[3][:, None]
    return tall.index_select(3, columns[0]) * columns[2] + tall.index_select(3, columns[1]) * columns[3]


@cache
def _zoom_taps(length: int, factor: float) -> Taps:
    """The two input positions of each output position, and their weights, read off what SciPy does with unit vectors.

    SciPy's own rounding at the last position (which may fall outside and become 0) is thereby kept.
    """
    crop = math.ceil(length / factor)
    top = (length - crop) // 2
    matrix = np.asarray(ndimage.zoom(np.eye(crop), (factor, 1), order=1))
    trim = (len(matrix) - length) // 2
    matrix = torch.from_numpy(matrix[trim : trim + length].copy())
    first = (matrix != 0).int().argmax(1)
    second = (first + 1).clamp(max=crop - 1)
    places = torch.arange(length)
    return top + first, top + second, matrix[places, first], matrix[places, second] * (second != first)


@cache
def _disk(radius: float, alias_blur: float) -> np.ndarray:
    """Disk of sum 1, softened by 3x3 taps (5x5 above radius 8) whose border is mirrored inside the 17x17 field.

    Where the disk touches the field's border (radius 8 and more) mirroring adds mass, so the kernel brightens: kept.
    """
    extent = 8 if radius <= 8 else int(radius)
    taps = 3 if radius <= 8 else 5
    axis = np.arange(-extent, extent + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    bell = np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * alias_blur**2))
    bell = (bell / bell.sum()).astype(np.float32)  # OpenCV's precision: decides whether flat areas lose one level.
    softened = ndimage.correlate1d(ndimage.correlate1d(disk, bell, axis=0, mode="mirror"), bell, axis=1, mode="mirror")
    return _without_empty_border(softened.astype(np.float64))


def _without_empty_border(kernel: np.ndarray) -> np.ndarray:
    """The kernel less its outer rings of zeros, so that small images can be mirrored far enough."""
    while len(kernel) > 1 and not (kernel[0].any() or kernel[:, 0].any()):
        kernel = kernel[1:-1, 1:-1]
    return kernel


def _shuffle_sources(offsets: Offsets, reach: int) -> Sources:
    """For each pixel, the pixel of the input whose value it holds after one pass from the last pixel to the first.

    A pixel takes its neighbour's value, which is the neighbour's new one if the pass has been there. Instead of
    walking (the original does), chains of such references are followed all at once, doubling their length each time.
    """
    height, width = offsets.shape[-2:]
    count = height * width
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    visited = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    here = rows * width + columns
    neighbour = torch.where(visited, here + offsets[:, 1] * width + offsets[:, 0], here).flatten(1)
    is_new = visited.flatten()[neighbour] & (neighbour > here.flatten())
    # Numbers below `count` point at a pixel's new value, numbers from `count` on at an input value.
    reference = torch.where(is_new, neighbour, neighbour + count)
    while (reference < count).any():
        reference = torch.where(reference < count, reference.gather(1, reference % count), reference)
    return reference - count
