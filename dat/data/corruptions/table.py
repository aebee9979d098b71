"""ImageNet-C, Tiny-ImageNet-C and CIFAR-10-C made on the fly: 15 corruptions in five severities, and the four extra ones.

Images made here are not the published sets: those drew their noise unseeded and (ImageNet-C) went through JPEG of quality
85. Mark results on them as generated; `corruption_protocol` says with what.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py, make_tinyimagenet_c.py and make_cifar_c.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dat.data.corruptions import blur, digital, noise, weather
from dat.data.corruptions import spatter as splash
from dat.data.corruptions.draws import Draws, streams_of
from dat.data.corruptions.severities import PARAMETER_SETS, Parameters, ParameterSet, check_parameter_set, parameter_set
from dat.errors import UsageError
from dat.types import Images, Indices

FrostTextures = Sequence[np.ndarray | Tensor]
Bytes = UInt8[Tensor, "batch 3 height width"]

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

VERSION = 2
"""Raised when the same request gives other images: another way to draw, another rounding. Stands in the protocol of results."""

PIECE = 2**18
LEAST_SIDE = 8
"""Smaller pictures are not corrupted."""

FIXED: dict[str, Callable[..., Tensor]] = {
    "defocus_blur": blur.defocus_blur,
    "zoom_blur": blur.zoom_blur,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
}
RANDOM: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "elastic_transform": digital.elastic_transform,
    "speckle_noise": noise.speckle_noise,
    "spatter": splash.spatter,
}


def corrupt(
    images: Images,
    name: str,
    severity: int,
    *,
    ids: Indices,
    seed: int = 0,
    frost_textures: FrostTextures | None = None,
    parameters: ParameterSet | None = None,
) -> Images:
    """One corruption of every image: values k/255, of the type and on the device of `images`.

    Any size from 8 pixels up. Without `parameters`, the shorter side says whose severities are meant: those of CIFAR-10-C
    (native 32) to 45 pixels, of Tiny-ImageNet-C (native 64) to 119, of ImageNet-C (native 224) above. Lengths stay in pixels
    except those of `elastic_transform`, which scale with the shorter side.
    `images` are rounded to 8 bits first, as the originals read files. The numbers drawn for an image depend on `seed`,
    its id, the name and the severity only, so an image is the same in any batch. The work is done where the images are
    (JPEG, and the drops of `spatter`, on the processor); another device draws the same numbers and may round
    single values to the next level. `frost_textures`: the six pictures of the original in order, uint8 RGB
    (height, width, 3); without them `frost` uses textures made here.

    Raises: UsageError for an unknown name, a severity outside 1 to 5, images that are not RGB floats in [0, 1] of at
    least 8 pixels a side, ids that do not match the images, a negative id or seed, textures of another form, or
    parameters of no such set.

    Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py, make_tinyimagenet_c.py, make_cifar_c.py.
    """
    check_request(name, severity, seed)
    _check_images(images, ids)
    textures = _textures(frost_textures) if frost_textures is not None else None
    height, width = images.shape[-2:]
    chosen = PARAMETER_SETS[_chosen(height, width, parameters)]
    apply = _bound(name, chosen[name][severity - 1], textures)
    key = (seed, (*CORRUPTIONS, *EXTRA_CORRUPTIONS).index(name), severity)
    streams = streams_of(key, ids.to(images.device))
    result = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    # On a processor what stays in its cache.
    values = PIECE * torch.get_num_threads() if images.device.type == "cpu" else 2**24
    size = max(1, values // (3 * height * width))
    for first in range(0, len(images), size):
        here = slice(first, first + size)
        levels = images[here].detach().float().mul(255).round_()
        result[here].copy_(apply(levels, Draws(streams[here]))).div_(255)
    return result


def corruption_protocol(
    height: int, width: int, frost_textures: FrostTextures | None, parameters: ParameterSet | None = None
) -> dict[str, str | int]:
    """What generated corruptions of this size are made with, for the protocol of a result."""
    return {
        "corruption_images": "generated",
        "corruption_version": VERSION,
        "corruption_parameters": _chosen(height, width, parameters),
        "frost_textures": "procedural" if frost_textures is None else "given",
    }


def _chosen(height: int, width: int, parameters: ParameterSet | None) -> ParameterSet:
    if parameters is None:
        return parameter_set(height, width)
    check_parameter_set(parameters)
    return parameters


def _bound(name: str, parameters: Parameters, textures: Sequence[Tensor] | None) -> Callable[[Images, Draws], Bytes]:
    """The corruption as a function of levels and random numbers."""
    if name in FIXED:
        return lambda levels, draws: blur.to_bytes(FIXED[name](levels, *parameters))
    function = partial(RANDOM[name], textures=textures) if name == "frost" else RANDOM[name]
    return lambda levels, draws: blur.to_bytes(function(levels, draws, *parameters))


def check_request(name: str, severity: int, seed: int) -> None:
    """Raises: UsageError: an unknown name, a severity outside 1 to 5, or a negative seed."""
    names = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        raise UsageError(f"There is no corruption {name!r}; did you mean {nearest!r}? There are: {', '.join(names)}.")
    if severity not in (1, 2, 3, 4, 5):
        raise UsageError(f"Severity is {severity!r}; write 1, 2, 3, 4 or 5.")
    if seed < 0:
        raise UsageError(f"The seed is {seed}; write 0 or a positive number.")


def _check_images(images: Tensor, ids: Tensor) -> None:
    if not images.is_floating_point():
        raise UsageError(f"Images are {images.dtype}; hand in floats in [0, 1], for example images / 255.")
    if images.ndim != 4 or images.shape[1] != 3:
        raise UsageError(f"Images have shape {tuple(images.shape)}; hand in RGB as (batch, 3, height, width).")
    if len(ids) != len(images):
        raise UsageError(f"There are {len(ids)} ids for {len(images)} images; hand in one id per image.")
    if ids.is_floating_point() or (len(ids) and int(ids.min()) < 0):
        raise UsageError("Ids must be whole numbers from 0 on; hand in, for example, each image's position in its set.")
    if min(images.shape[-2:]) < LEAST_SIDE:
        size = f"{images.shape[-2]}x{images.shape[-1]}"
        raise UsageError(f"Images are {size}; corruptions need at least {LEAST_SIDE} pixels a side.")
    low, high = (float(bound) for bound in images.aminmax()) if len(images) else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise UsageError(f"Images range from {low:g} to {high:g}; hand in values in [0, 1], before any normalisation.")


def _textures(frost_textures: FrostTextures) -> list[Tensor]:
    """The textures as uint8 `(3, rows, columns)`."""
    textures = [texture.cpu() if isinstance(texture, Tensor) else torch.tensor(texture) for texture in frost_textures]
    if not textures:
        raise UsageError("No frost texture was given; hand in at least one, or None for procedural ones.")
    for texture in textures:
        if texture.dtype != torch.uint8 or texture.ndim != 3 or texture.shape[2] != 3:
            shape = tuple(texture.shape)
            raise UsageError(f"A frost texture is {texture.dtype} {shape}; hand in uint8 RGB (height, width, 3).")
    return [texture.permute(2, 0, 1) for texture in textures]
