"""Weather of ImageNet-C: snow, frost, fog. Images are float64 in [0, 1] on the CPU; results likewise, unclipped.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dat.data.corruptions_blur import clipped_zoom, magick_motion_blur, to_levels
from dat.data.corruptions_draws import Draws
from dat.types import Images

Levels = UInt8[Tensor, "batch 3 height width"]
Maps = Float[Tensor, "batch side side"]
Grey = Float[Tensor, "batch 1 height width"]
Texture = UInt8[Tensor, "3 _ _"]

DRAWN_TEXTURES = 5
"""The original lists six textures but draws a number below five, so the sixth is never seen: kept."""


def snow(
    images: Images,
    draws: Draws,
    mean: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    colour: float,
) -> Images:
    """Flakes (thresholded noise, enlarged, falling at -135 to -45 degrees) and their half turn, over a paler image."""
    flakes = clipped_zoom(mean + scale * draws.normal(1, *images.shape[2:]), zoom)
    levels = to_levels(flakes.masked_fill(flakes < threshold, 0.0))
    layer = magick_motion_blur(levels, draws.uniform(-135.0, -45.0), radius=radius, sigma=sigma) / 255.0
    pale = torch.maximum(images, _grey(images) * 1.5 + 0.5)
    return colour * images + (1 - colour) * pale + layer + layer.rot90(2, (2, 3))


def fog(images: Images, draws: Draws, strength: float, roughness: float) -> Images:
    """Adds a plasma fractal and rescales so that the brightest possible value stays what it was."""
    height, width = images.shape[-2:]
    brightest = images.amax((1, 2, 3), keepdim=True)
    # 256 for the native 224, 32 for 32: the next power of two, as the originals have it.
    side = 1 << (max(height, width) - 1).bit_length()
    plasma = plasma_fractal(draws, side, roughness)[:, None, :height, :width]
    return (images + strength * plasma) * brightest / (brightest + strength)


def plasma_fractal(draws: Draws, side: int, roughness: float) -> Maps:
    """Diamond-square height maps in [0, 1]; `side` is a power of two, edges wrap, `roughness` divides the noise per level.

    The noise is scaled by its amplitude twice, as in the original.
    """
    noise = draws.uniform(-1.0, 1.0, side, side)
    heights = torch.zeros_like(noise)
    amplitude, step = 100.0, side
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step].clone()
        pairs = corners + corners.roll(-1, 1)
        centres = (pairs + pairs.roll(-1, 2)) / 4 + amplitude**2 * noise[:, half::step, half::step]
        tops = (centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)) / 4
        sides = (centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)) / 4
        heights[:, half::step, half::step] = centres
        heights[:, ::step, half::step] = tops + amplitude**2 * noise[:, ::step, half::step]
        heights[:, half::step, ::step] = sides + amplitude**2 * noise[:, half::step, ::step]
        step, amplitude = half, amplitude / roughness
    heights = heights - heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True)


def frost(images: Images, draws: Draws, keep: float, ice: float, stride: int, *, textures: Sequence[Texture] | None) -> Levels:
    """`keep` times the image plus `ice` times a random crop of one of the textures; procedural ice where None."""
    height, width = images.shape[-2:]
    choices = (textures or procedural_textures())[:DRAWN_TEXTURES]
    crops = []
    for kind, down, across in draws.uniform(0.0, 1.0, 3).tolist():
        texture = _enlarged(choices[int(kind * len(choices))], height, width, stride)
        top = int(down * (texture.shape[1] - height))
        left = int(across * (texture.shape[2] - width))
        crops.append(texture[:, top : top + height, left : left + width])
    mixed = keep * (images * 255).round() + ice * torch.stack(crops)
    return mixed.clamp(0, 255).to(torch.uint8)


def _enlarged(texture: Texture, height: int, width: int, stride: int) -> Texture:
    """Every `stride`-th pixel of the texture (what OpenCV's bilinear reduction by five picks), larger than the image.

    Textures too small for the image, which stop the original, are enlarged bilinearly.
    """
    reduced = texture[:, stride // 2 :: stride, stride // 2 :: stride]
    factor = max((height + 1) / reduced.shape[1], (width + 1) / reduced.shape[2])
    if factor <= 1:
        return reduced
    size = (max(height + 1, round(reduced.shape[1] * factor)), max(width + 1, round(reduced.shape[2] * factor)))
    return F.interpolate(reduced[None].double(), size, mode="bilinear", align_corners=False)[0].round().to(torch.uint8)


@cache
def procedural_textures() -> tuple[Texture, ...]:
    """Five fixed ice textures of 512 pixels, dark to bright: bluish ground under pale veins and grains.

    Means and contrasts are chosen near those of the original five (on average 146, 167, 179 with a spread of 27).
    """
    draws = Draws([(kind,) for kind in range(DRAWN_TEXTURES)])
    ground, veins, grains = (plasma_fractal(draws, 512, roughness) for roughness in (1.9, 1.4, 1.1))
    ridges = (1 - (2 * veins - 1).abs()) ** 6
    brightness = torch.linspace(0.42, 0.82, DRAWN_TEXTURES, dtype=torch.float64)[:, None, None]
    value = (brightness + 0.25 * (ground - 0.5) + 0.2 * ridges + 0.5 * (grains - 0.5))[:, None]
    blue = torch.tensor([-0.1, 0.0, 0.05], dtype=torch.float64)[:, None, None]
    return tuple(to_levels(value + blue))


def _grey(images: Images) -> Grey:
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype)
    red, green, blue = images.split(1, 1)
    return weights[0] * red + weights[1] * green + weights[2] * blue
