"""Noise of ImageNet-C: Gaussian, shot, impulse, speckle. Images are whole levels 0..255 in float32; results not yet clipped.

Source: hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from scipy import special
from torch import Tensor

from dat.data.corruptions.draws import Draws

Levels = Float[Tensor, "batch 3 height width"]
Bytes = Integer[Tensor, "batch 3 height width"]
Chances = Float[np.ndarray, "rows outcomes"]
AliasTable = Int[Tensor, "entries"]


def gaussian_noise(levels: Levels, draws: Draws, scale: float) -> Levels:
    """`x + scale * n`, with n standard normal."""
    return draws.normal(*levels.shape[1:]).mul_(255 * scale).add_(levels)


def speckle_noise(levels: Levels, draws: Draws, scale: float) -> Levels:
    """`x + scale * x * n`, with n standard normal."""
    return draws.normal(*levels.shape[1:]).mul_(scale).add_(1).mul_(levels)


def impulse_noise(levels: Levels, draws: Draws, amount: float) -> Bytes:
    """A share `amount` of all values (each channel by itself) becomes 0 or 1, equally often."""
    chance = draws.bits(16, *levels.shape[1:])
    kept, white = chance >= round(2**16 * amount), chance < round(2**15 * amount)
    # Where true, all eight bits of a byte are set.
    return levels.to(torch.uint8) & kept.view(torch.uint8).neg_() | white.view(torch.uint8).neg_()


def shot_noise(levels: Levels, draws: Draws, photons: float) -> Bytes:
    """Poisson counts of `photons` expected at full intensity, over `photons`.

    Each of the 256 levels has a known distribution over the 256 levels that may come of it; Walker's alias method
    draws from it in one look: 8 bits choose an entry, 15 more one of its two outcomes.
    """
    chance = draws.bits(23, *levels.shape[1:])
    places = levels.int().mul_(256).add_(chance & 255)
    entries = _shot_table(photons, levels.device).index_select(0, places.flatten()).view_as(chance)
    is_second = (chance >> 8) >= (entries >> 16)
    return (entries >> is_second.int().mul_(8)) & 255


@cache
def _shot_table(photons: float, device: torch.device) -> AliasTable:
    """For each level 256 entries: 15 bits the share of the first outcome, 8 bits the second outcome, 8 bits the first."""
    counts = np.arange(int(photons + 12 * photons**0.5 + 40))
    expected = np.arange(256)[:, None] / 255 * photons
    chances = np.exp(special.xlogy(counts, expected) - expected - special.gammaln(counts + 1))
    outcomes = (np.clip(counts / photons, 0, 1) * 255).astype(np.uint8)
    by_level = np.stack([np.bincount(outcomes, row, minlength=256) for row in chances])
    return torch.from_numpy(_alias_table(by_level).astype(np.int32)).flatten().to(device)


def _alias_table(chances: Chances) -> np.ndarray:
    """Each of 256 equal shares goes to one outcome up to a limit, then to another; the poorest is filled by the richest.

    Source: Walker, "An efficient method for generating discrete random variables with general distributions" (1977).
    """
    left = 256 * chances / chances.sum(1, keepdims=True)
    rows = np.arange(len(left))
    table = np.zeros(left.shape, np.int64)
    open_ = np.ones(left.shape, bool)
    for _ in range(left.shape[1]):
        poorest = np.where(open_, left, np.inf).argmin(1)
        richest = np.where(open_, left, -np.inf).argmax(1)
        share = np.rint(left[rows, poorest] * 2**15).clip(0, 2**15 - 1).astype(np.int64)
        table[rows, poorest] = share << 16 | richest << 8 | poorest
        left[rows, richest] -= 1 - left[rows, poorest]
        open_[rows, poorest] = False
    return table
