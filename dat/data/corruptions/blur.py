"""Blurs of ImageNet-C: Gaussian, defocus, glass, motion, zoom. Images and results are levels in float32, of defocus in float64.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py, and the library functions that it calls.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from scipy import fft, ndimage
from torch import Tensor

from dat.data.corruptions.draws import Draws
from dat.types import PerImage

Planes = Float[Tensor, "batch channels height width"]
Bytes = UInt8[Tensor, "batch channels height width"]
Sources = Int[Tensor, "batch pixels"]
Offsets = Int[Tensor, "batch 2 height width"]
Places = Int[Tensor, "length"]
Weights = Float[Tensor, "length"]
Taps = tuple[Places, Places, Weights, Weights]

ROUNDING = 2e-4
"""What float32 may have lost of a level; without it, truncation would take a whole one from flat areas."""


def to_bytes(levels: Tensor) -> Bytes:
    """Clipped to 0..255 and truncated, as `numpy.uint8` does in the original save step; whole numbers as they are."""
    if not levels.is_floating_point():
        return levels.to(torch.uint8)
    lost = ROUNDING if levels.dtype == torch.float32 else 0.0
    return (levels + lost).clamp_(0, 255).to(torch.uint8)


def gaussian_blur(levels: Planes, sigma: float) -> Planes:
    """Gaussian filter cut at four sigma, edges repeated."""
    return _filtered(levels, _bell(sigma), mode="replicate")


def defocus_blur(levels: Planes, radius: float, alias_blur: float) -> Planes:
    """Correlation with a softened disk, edges mirrored without repeating the border.

    In float64: means of a few pixels are often whole levels less a millionth, which truncation makes one lower.
    """
    return _filtered(levels.double(), _disk(radius, alias_blur), mode="reflect")


def glass_blur(levels: Planes, draws: Draws, sigma: float, reach: int, iterations: int) -> Planes:
    """Blur, replace pixels by neighbours at most `reach` away, blur again.

    The original means to swap two pixels, but swaps NumPy views: the second assignment reads what the first wrote.
    So a pixel is duplicated, never exchanged; kept, since the public sets were made that way.
    """
    height, width = levels.shape[-2:]
    pixels = to_bytes(gaussian_blur(levels, sigma)).flatten(2)
    for _ in range(iterations):
        offsets = draws.integers(-reach, reach, 2, height, width)
        sources = _shuffle_sources(offsets, reach)
        pixels = pixels.gather(2, sources[:, None].expand_as(pixels))
    return gaussian_blur(pixels.float().unflatten(2, (height, width)), sigma)


def motion_blur(levels: Planes, draws: Draws, radius: float, sigma: float) -> Bytes:
    """Motion along an angle drawn from -45 to 45 degrees; already in bytes, since ImageMagick rounds."""
    return magick_motion_blur(levels, draws.uniform(-45.0, 45.0), radius=radius, sigma=sigma)


def magick_motion_blur(levels: Planes, angles: PerImage, *, radius: float, sigma: float) -> Bytes:
    """Half a Gaussian (its peak at the pixel itself) laid along `angles` (degrees), whole-pixel steps, edges repeated.

    Source: ImageMagick's MotionBlurImage of a 16-bit build: `2 * ceil(radius) + 1` taps, the sum rounded to 16 bits
    and truncated to 8 (what the stored results of the original chain show).
    """
    height, width = levels.shape[-2:]
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    margin = len(steps) - 1
    padded = F.pad(levels, (margin,) * 4, mode="replicate")
    blurred = torch.zeros_like(levels)
    for picture, total, angle in zip(padded, blurred, np.deg2rad(angles.cpu().numpy()), strict=True):
        rows = margin + np.ceil(steps * np.sin(angle) - 0.5).astype(int)
        columns = margin + np.ceil(steps * np.cos(angle) - 0.5).astype(int)
        for weight, row, column in zip(weights.tolist(), rows.tolist(), columns.tolist(), strict=True):
            total.add_(picture[:, row : row + height, column : column + width], alpha=weight)
    sixteen_bits = blurred.mul_(257).add_(0.5).floor_()
    return sixteen_bits.add_(0.5).div_(257).to(torch.uint8)  # the half keeps multiples of 257 from falling below


def zoom_blur(levels: Planes, stop: float, step: float) -> Planes:
    """Mean of the image and its central zooms by 1, 1 + step, ... up to `stop` (in float32, as the original)."""
    factors = np.arange(1, stop, step).tolist()
    total = levels.clone()
    for factor in factors:
        total += clipped_zoom(levels, factor)
    return total.div_(len(factors) + 1)


def clipped_zoom(levels: Planes, factor: float) -> Planes:
    """Centre of the images, enlarged bilinearly by `factor` to the size of the images.

    Rows and columns are cropped each by their own length; the original crops squares, which is the same on squares.
    """
    rows, columns = (_zoom_taps(length, factor, levels.device) for length in levels.shape[-2:])
    tall = levels.index_select(2, rows[0]).mul_(rows[2][:, None])
    tall += levels.index_select(2, rows[1]).mul_(rows[3][:, None])
    wide = tall.index_select(3, columns[0]).mul_(columns[2])
    return wide.add_(tall.index_select(3, columns[1]).mul_(columns[3]))


def _filtered(planes: Planes, kernel: np.ndarray, *, mode: str) -> Planes:
    """Correlation with a kernel that is symmetric in both directions, through the frequencies: its size costs nothing."""
    reach = len(kernel) // 2
    if reach == 0:
        return planes
    padded = F.pad(planes, (reach,) * 4, mode=mode)
    sides = [fft.next_fast_len(length, real=True) for length in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=sides)
    spectrum *= _spectrum(kernel.tobytes(), *sides, spectrum.dtype, planes.device)
    height, width = planes.shape[-2:]
    filtered = torch.fft.irfft2(spectrum, s=sides)[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    return filtered + 1e-9  # what frequencies lose in float64; in float32 it is nothing, see ROUNDING


@lru_cache(maxsize=32)
def _spectrum(kernel: bytes, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Frequencies of a square kernel, given as the bytes of its float64 numbers."""
    values = torch.frombuffer(bytearray(kernel), dtype=torch.float64)
    side = math.isqrt(len(values))
    return torch.fft.rfft2(values.view(side, side), s=(height, width)).to(device, dtype)


@cache
def _bell(sigma: float) -> np.ndarray:
    reach = int(4 * sigma + 0.5)
    axis = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.outer(axis, axis) / axis.sum() ** 2


@lru_cache(maxsize=1024)
def _zoom_taps(length: int, factor: float, device: torch.device) -> Taps:
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
    weights = matrix[places, first].float(), (matrix[places, second] * (second != first)).float()
    return (top + first).to(device), (top + second).to(device), weights[0].to(device), weights[1].to(device)


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
    here = torch.arange(count, device=offsets.device).view(height, width)
    rows, columns = here // width, here % width
    visited = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    neighbour = torch.where(visited, here + offsets[:, 1] * width + offsets[:, 0], here).flatten(1)
    is_new = visited.flatten()[neighbour] & (neighbour > here.flatten())
    # Numbers below `count` point at a pixel's new value, numbers from `count` on at an input value.
    reference = torch.where(is_new, neighbour, neighbour + count)
    while (reference < count).any():
        reference = torch.where(reference < count, reference.gather(1, reference % count), reference)
    return reference - count
