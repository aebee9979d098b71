"""The quantizer of VAR: codes on grids of growing size, each for what those before it left over."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.discretizers.autoencoder import Quantizer
from dat.discretizers.quantizers.nearest import as_vectors, nearest_code
from dat.types import Codes, Latents, Vectors

SHARE = 0.5
"""Of the convolution in what smooths a scale; the rest is the scale as it is."""


class MultiScaleQuantizer(Quantizer):
    """Codes `(batch, tokens)` of all scales one behind the other, the coarsest first; the vectors are their sum at full size.

    One codebook for all scales; `smoothings` convolutions, each for the scales nearest to its place between first and last.
    Source: Tian et al. (2024), Visual Autoregressive Modeling, Algorithms 1 and 2; FoundationVision/VAR:models/quant.py.
    """

    def __init__(self, codebook_size: int, depth: int, sides: tuple[int, ...], smoothings: int) -> None:
        super().__init__()
        self.codebook_size, self.sides = codebook_size, sides
        self.embedding = nn.Embedding(codebook_size, depth)
        self.smooth = nn.ModuleList(nn.Conv2d(depth, depth, 3, padding=1) for _ in range(smoothings))
        self.chosen = [_nearest_place(scale / max(len(sides) - 1, 1), smoothings) for scale in range(len(sides))]

    def encode(self, latents: Latents) -> Codes:
        """The nearest codes of what is left over, averaged to each scale in turn."""
        rest, found = latents.float() if latents.dtype != torch.float64 else latents, []
        for scale, side in enumerate(self.sides):
            shrunk = rest if side == self.sides[-1] else F.interpolate(rest, size=(side, side), mode="area")
            codes = nearest_code(as_vectors(shrunk), self.embedding.weight).view(-1, side, side)
            rest = rest - self._part(scale, codes)
            found.append(codes.flatten(1))
        return torch.cat(found, dim=1)

    def decode(self, codes: Codes) -> Latents:
        """The sum of all scales, at the size of the last."""
        total: Tensor | None = None
        for scale, part in enumerate(codes.split([side**2 for side in self.sides], dim=1)):
            grown = self._part(scale, part.view(-1, self.sides[scale], self.sides[scale]))
            total = grown if total is None else total + grown
        assert total is not None
        return total

    def vectors_of_all(self, every: Codes) -> Vectors:
        """The codebook; what a code adds to a picture depends on its scale."""
        return self.embedding(every.flatten())

    def _part(self, scale: int, codes: Codes) -> Latents:
        """What the codes of one scale add, at full size."""
        vectors, side = self.embedding(codes).permute(0, 3, 1, 2), self.sides[-1]
        if scale < len(self.sides) - 1:
            vectors = F.interpolate(vectors, size=(side, side), mode="bicubic")
        vectors = vectors.contiguous()
        return vectors * (1 - SHARE) + self.smooth[self.chosen[scale]](vectors) * SHARE


def _nearest_place(at: float, count: int) -> int:
    """Which of `count` places, spread over [0, 1], is nearest. With four they lie further out, as there."""
    margin = 1 / (3 if count == 4 else 2) / count
    # numpy's rounding decides where two are equally near, as in the original.
    return int(np.abs(np.linspace(margin, 1 - margin, count) - at).argmin())
