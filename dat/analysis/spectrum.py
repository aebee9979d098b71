"""What a perturbation looks like: its frequencies, its size in l_0, l_2 and l_inf, and the colours of a patch (Fig. 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dat.errors import UsageError
from dat.types import Images, PerImage, check_images

Differences = Float[Tensor, "batch 3 height width"]
Power = Float[Tensor, "batch height width"]
Radii = Float[Tensor, "height width"]
Curves = Float[Tensor, "batch rings"]
Counts = Int[Tensor, " batch"]

HALF_NYQUIST = 0.25
"""Cycles per pixel; the finest pattern of an axis, black and white in turns, has 0.5."""
PATCH = 7
"""So many patches fit beside each other into a picture: of 224 pixels one has 32, where colours are counted."""
SMALLEST_PATCH = 8


@dataclass(frozen=True)
class Spectrum:
    """Of each picture what its perturbation is, in float64 on the CPU.

    `above_half_nyquist`: percent of its energy beyond 0.25 cycles per pixel; white noise has `white`. `curve`: energy in rings
    of equal width around frequency 0, each bin against the mean of all bins, so that white noise is 1 everywhere. Both are NaN
    where nothing is perturbed. `l0`: percent of the pixels whose 8-bit colour changes; `l2`, `linf`: in units of [0, 1].
    `colours`: different 8-bit ones in the middle patch after it, `colours_before`: in that of the picture itself.
    """

    above_half_nyquist: PerImage
    curve: Curves
    l0: PerImage
    l2: PerImage
    linf: PerImage
    colours: Counts
    colours_before: Counts
    white: float


def spectrum(images: Images, perturbed: Tensor) -> Spectrum:
    """Frequencies, sizes and colours of what was done to each picture.

    Source: Mao et al., NeurIPS 2022, Figure 3. How its numbers are computed, the paper's slides do not say; these are ours.

    Raises:
        UsageError: the images are not in [0, 1], or differ in shape.
    """
    check_images(images)
    check_images(perturbed)
    if images.shape != perturbed.shape:
        raise UsageError(f"Images have shape {tuple(images.shape)}, perturbed ones {tuple(perturbed.shape)}; give pairs.")
    images, perturbed = images.detach().double().cpu(), perturbed.detach().double().cpu()
    delta, changed = perturbed - images, _levels(perturbed) != _levels(images)
    energy = power(delta)
    return Spectrum(
        100 * share_above(energy, HALF_NYQUIST),
        radial_curve(energy),
        100 * changed.any(dim=1).flatten(1).double().mean(dim=1),
        torch.linalg.vector_norm(delta, dim=(1, 2, 3)),
        delta.abs().amax(dim=(1, 2, 3)),
        colours(perturbed),
        colours(images),
        100 * white_share(energy.shape[1], energy.shape[2], HALF_NYQUIST),
    )


def power(pictures: Differences) -> Power:
    """Energy of each frequency, summed over the colours, in float64; frequency 0 is in the middle (`height // 2, width // 2`).

    All of it together is the sum of squares of the pixels (Parseval).
    """
    found = torch.fft.fft2(pictures.double(), norm="ortho").abs().square().sum(dim=1)
    return torch.fft.fftshift(found, dim=(1, 2))


def radii(height: int, width: int) -> Radii:
    """How far each frequency of `power` is from 0, in cycles per pixel: 0.5 at the ends of an axis, 0.71 in the corners."""
    down, right = (torch.fft.fftshift(torch.fft.fftfreq(side, dtype=torch.float64)) for side in (height, width))
    return torch.hypot(down[:, None], right[None, :])


def share_above(energy: Power, radius: float) -> PerImage:
    """Share of the energy at frequencies beyond a radius; NaN where there is none."""
    above = radii(*energy.shape[1:]) > radius
    return energy[:, above].sum(dim=1) / energy.sum(dim=(1, 2))


def white_share(height: int, width: int, radius: float) -> float:
    """The share that white noise has: that of the bins."""
    return float((radii(height, width) > radius).double().mean())


def radial_curve(energy: Power) -> Curves:
    """Mean energy of a bin in each ring over that of all bins: 1 everywhere for white noise; NaN where there is none.

    Ring k holds the frequencies of k - 1/2 to k + 1/2 waves along the shorter side (`ring_centres`).
    """
    ring = _ring(*energy.shape[1:]).flatten()
    counts = torch.bincount(ring)
    sums = energy.new_zeros(len(energy), len(counts)).index_add_(1, ring, energy.flatten(1))
    return sums / counts / energy.mean(dim=(1, 2))[:, None]


def ring_centres(height: int, width: int) -> Tensor:
    """Cycles per pixel in the middle of each ring of `radial_curve`."""
    return torch.arange(int(_ring(height, width).max()) + 1) / min(height, width)


def _ring(height: int, width: int) -> Tensor:
    return (radii(height, width) * min(height, width)).round().long()


def colours(images: Images) -> Counts:
    """How many different 8-bit colours the middle patch of each picture has, a seventh of its sides (at least 8 pixels)."""
    levels = _levels(patch_of(images)).flatten(2)
    packed = levels[:, 0] * 65536 + levels[:, 1] * 256 + levels[:, 2]
    return torch.tensor([len(one.unique()) for one in packed])


def patch_of(images: Images) -> Tensor:
    """The middle patch of each picture."""
    top, left, rows, columns = patch_place(*images.shape[2:])
    return images[..., top : top + rows, left : left + columns]


def patch_place(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the middle patch."""
    rows, columns = (min(side, max(SMALLEST_PATCH, side // PATCH)) for side in (height, width))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def _levels(images: Tensor) -> Tensor:
    """As a file of 8 bits has them."""
    return (255 * images.clamp(0, 1)).round().long()
