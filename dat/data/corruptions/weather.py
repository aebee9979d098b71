"""Weather of ImageNet-C: snow, frost, fog. Images are whole levels 0..255 in float32; results are levels, not yet clipped.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dat.data.corruptions.blur import clipped_zoom, magick_motion_blur, to_bytes
from dat.data.corruptions.draws import Draws, streams_of

Levels = Float[Tensor, "batch 3 height width"]
Maps = Float[Tensor, "batch side side"]
Grey = Float[Tensor, "batch 1 height width"]
Texture = UInt8[Tensor, "3 _ _"]

DRAWN_TEXTURES = 5
"""The original lists six textures but draws a number below five, so the sixth is never seen: kept."""


def snow(
    levels: Levels,
    draws: Draws,
    mean: float,
    scale: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    colour: float,
) -> Levels:
    """Flakes (thresholded noise, enlarged, falling at -135 to -45 degrees) and their half turn, over a paler image."""
    noise = draws.normal(1, *levels.shape[2:]).mul_(255 * scale).add_(255 * mean)
    flakes = clipped_zoom(noise, zoom)
    flakes *= flakes >= 255 * threshold
    angles = draws.uniform(-135.0, -45.0)
    layer = magick_motion_blur(to_bytes(flakes).float(), angles, radius=radius, sigma=sigma).float()
    pale = torch.maximum(levels, _grey(levels).mul_(1.5).add_(127.5))
    return pale.mul_(1 - colour).add_(levels, alpha=colour).add_(layer + layer.rot90(2, (2, 3)))


def fog(levels: Levels, draws: Draws, strength: float, roughness: float) -> Levels:
    """Adds a plasma fractal and rescales so that the brightest possible value stays what it was."""
    height, width = levels.shape[-2:]
    brightest = levels.amax((1, 2, 3), keepdim=True)
    # 256 for the native 224, 32 for 32: the next power of two, as the originals have it.
    side = 1 << (max(height, width) - 1).bit_length()
    plasma = plasma_fractal(draws, side, roughness)[:, None, :height, :width]
    return (levels + 255 * strength * plasma).mul_(brightest / (brightest + 255 * strength))


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


def frost(
    levels: Levels, draws: Draws, keep: float, ice: float, stride: float, *, textures: Sequence[Texture] | None
) -> Levels:
    """`keep` times the image plus `ice` times a random crop of one of the textures; procedural ice where None."""
    height, width = levels.shape[-2:]
    choices = (textures or procedural_textures())[:DRAWN_TEXTURES]
    crops = []
    for kind, down, across in draws.uniform(0.0, 1.0, 3).tolist():
        texture = _enlarged(choices[int(kind * len(choices))], height, width, stride)
        top = int(down * (texture.shape[1] - height))
        left = int(across * (texture.shape[2] - width))
        crops.append(texture[:, top : top + height, left : left + width])
    ground = torch.stack(crops).to(levels.device).float().mul_(ice)
    return ground.add_(levels, alpha=keep)


def _enlarged(texture: Texture, height: int, width: int, stride: float) -> Texture:
    """The texture reduced by `stride`, larger than the image.

    Textures too small for the image, which stop the original, are enlarged bilinearly.
    """
    reduced = _reduced(texture, stride)
    factor = max((height + 1) / reduced.shape[1], (width + 1) / reduced.shape[2])
    if factor <= 1:
        return reduced
    size = (max(height + 1, round(reduced.shape[1] * factor)), max(width + 1, round(reduced.shape[2] * factor)))
    return F.interpolate(reduced[None].double(), size, mode="bilinear", align_corners=False)[0].round().to(torch.uint8)


def _reduced(texture: Texture, stride: float) -> Texture:
    """OpenCV's bilinear reduction, which does not average: where the stride is whole and odd, every such pixel."""
    if stride % 2 == 1:
        start = int(stride) // 2
        return texture[:, start :: int(stride), start :: int(stride)]
    smaller = F.interpolate(texture[None].double(), scale_factor=1 / stride, mode="bilinear", align_corners=False)
    return smaller[0].round().to(torch.uint8)


@cache
def procedural_textures() -> tuple[Texture, ...]:
    """Five fixed ice textures of 512 pixels, dark to bright: bluish ground under pale veins and grains.

    Means and contrasts are chosen near those of the original five (on average 146, 167, 179 with a spread of 27).
    """
    draws = Draws(streams_of((), torch.arange(DRAWN_TEXTURES)))
    ground, veins, grains = (plasma_fractal(draws, 512, roughness) for roughness in (1.9, 1.4, 1.1))
    ridges = (1 - (2 * veins - 1).abs()) ** 6
    brightness = torch.linspace(0.42, 0.82, DRAWN_TEXTURES)[:, None, None]
    value = (brightness + 0.25 * (ground - 0.5) + 0.2 * ridges + 0.5 * (grains - 0.5))[:, None]
    blue = torch.tensor([-0.1, 0.0, 0.05])[:, None, None]
    return tuple(to_bytes(255 * (value + blue)))


def _grey(levels: Levels) -> Grey:
    red, green, blue = levels.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue
