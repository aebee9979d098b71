"""Finite scalar quantisation (FSQ): each channel rounded to one of a few levels; the codebook is their grid."""

from __future__ import annotations

import math
from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Float
from torch import Tensor

from dat.discretizers.quantizers.nearest import Quantized, TrainableQuantizer, check_finite
from dat.errors import UsageError
from dat.types import Codes, Latents

PerChannel = Float[Tensor, " depth 1 1"]

MARGIN = 1e-3


class FiniteScalarQuantizer(TrainableQuantizer):
    """One channel per entry of `levels`, rounded to that many values; nothing is learned, and there are no losses.

    Channel 0 is the least significant digit of a code: `code = sum_i digit_i * levels_0 * ... * levels_(i-1)`, its digits
    counting from the lowest value on. The decoder sees `(digit - level // 2) / (level // 2)`, in [-1, 1] (an even level does
    not reach 1). Source: Mentzer et al. (2023), Finite Scalar Quantization, 3.1 and appendix A.1, the shift by the tangent
    included, by which a latent of 0 lies near a value, not between two.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if not levels or any(level < 2 for level in levels):
            raise UsageError(f"Finite scalar quantisation needs levels of at least 2; got levels={list(levels)}.")
        self.levels = levels
        self.codebook_size = math.prod(levels)

    def quantized(self, latents: Latents) -> Quantized:
        """Each channel rounded to its nearest value; the gradient passes through the bounds, not through the rounding."""
        check_finite(latents)
        bounded, half = self._bounded(latents), self._per_channel([level // 2 for level in self.levels], latents)
        rounded, zero = bounded.detach().round(), bounded.new_zeros(())
        return Quantized(
            vectors=(bounded + (rounded - bounded.detach())) / half,
            codes=self._codes(rounded + half),
            codebook_loss=zero,
            commitment_loss=zero,
        )

    def encode(self, latents: Latents) -> Codes:
        """Number of the grid point at each position."""
        check_finite(latents)
        half = self._per_channel([level // 2 for level in self.levels], latents)
        return self._codes(self._bounded(latents).round() + half)

    def decode(self, codes: Codes) -> Latents:
        """Grid point of each code."""
        digits = [codes // weight % level for weight, level in zip(self._weights, self.levels, strict=True)]
        values = [(digit - level // 2).float() / (level // 2) for digit, level in zip(digits, self.levels, strict=True)]
        return torch.stack(values, dim=1)

    @property
    def _weights(self) -> list[int]:
        return list(accumulate(self.levels[:-1], mul, initial=1))

    def _codes(self, digits: Latents) -> Codes:
        weights = torch.tensor(self._weights, device=digits.device).view(-1, 1, 1)
        return (digits.long() * weights).sum(dim=1)

    def _bounded(self, latents: Latents) -> Latents:
        """Latents squashed so that rounding gives exactly `levels` values."""
        halves = [(level - 1) * (1 - MARGIN) / 2 for level in self.levels]
        offsets = [0.0 if level % 2 else 0.5 for level in self.levels]
        shifts = [math.tan(offset / half) for offset, half in zip(offsets, halves, strict=True)]
        half, offset, shift = (self._per_channel(values, latents) for values in (halves, offsets, shifts))
        return (latents + shift).tanh() * half - offset

    def _per_channel(self, values: list[float] | list[int], latents: Latents) -> PerChannel:
        return torch.tensor(values, dtype=latents.dtype, device=latents.device).view(-1, 1, 1)
