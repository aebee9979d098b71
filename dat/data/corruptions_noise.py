"""Noise of ImageNet-C: Gaussian, shot, impulse, speckle. Images and results are float64 in [0, 1], not yet clipped.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from dat.data.corruptions_draws import Draws
from dat.types import Images


def gaussian_noise(images: Images, draws: Draws, scale: float) -> Images:
    """`x + scale * n`, with n standard normal."""
    return images + scale * draws.normal(*images.shape[1:])


def shot_noise(images: Images, draws: Draws, photons: float) -> Images:
    """Poisson counts of `photons` expected at full intensity, over `photons`."""
    return draws.poisson(images * photons) / photons


def impulse_noise(images: Images, draws: Draws, amount: float) -> Images:
    """A share `amount` of all values (each channel by itself) becomes 0 or 1, equally often."""
    chance = draws.uniform(0.0, 1.0, *images.shape[1:])
    salted = images.masked_fill(chance < amount / 2, 1.0)
    return salted.masked_fill((chance >= amount / 2) & (chance < amount), 0.0)


def speckle_noise(images: Images, draws: Draws, scale: float) -> Images:
    """`x + scale * x * n`, with n standard normal."""
    return images + scale * images * draws.normal(*images.shape[1:])
