"""Lookup-free quantisation (LFQ): the signs of the channels are the code; there is no codebook to search."""

from __future__ import annotations

import torch

from dat.discretizers.quantizers.entropy import bit_entropies
from dat.discretizers.quantizers.nearest import Quantized, TrainableQuantizer, as_vectors, check_finite
from dat.types import Codes, Latents


class LookupFreeQuantizer(TrainableQuantizer):
    """Each channel becomes 1 or -1: `code = sum_i 2^i [z_i > 0]`, channel 0 being the least significant bit.

    The entropy loss, without which most codes stay unused, is that of `softmax(2 z.c / entropy_temperature)` over all
    codes `c`. It is computed exactly at any size, 2^18 codes included, without listing the codes: see `bit_entropies`.
    Source: Yu et al. (2024), Language Model Beats Diffusion;
    TencentARC/SEED-Voken:src/Open_MAGVIT2/modules/vqvae/lookup_free_quantize.py.
    """

    def __init__(self, bits: int, *, entropy_temperature: float = 0.01) -> None:
        super().__init__()
        self.bits = bits
        self.codebook_size = 2**bits
        self.entropy_temperature = entropy_temperature

    def quantized(self, latents: Latents) -> Quantized:
        """Signs of the channels; nothing is learned here, so the codebook loss is 0."""
        codes = self.encode(latents)
        signs = self.decode(codes).to(latents.dtype)
        return Quantized(
            vectors=latents + (signs - latents).detach(),
            codes=codes,
            codebook_loss=latents.new_zeros(()),
            commitment_loss=(signs - latents).square().mean(),
            # The logit of one bit is the difference of those of two codes that differ in it: 2 z_i - (-2 z_i).
            entropy_loss=bit_entropies(4 * as_vectors(latents) / self.entropy_temperature).loss,
        )

    def encode(self, latents: Latents) -> Codes:
        """The bits at each position as one number."""
        check_finite(latents)
        weights = 2 ** torch.arange(self.bits, device=latents.device)
        return ((latents > 0) * weights.view(-1, 1, 1)).sum(dim=1)

    def decode(self, codes: Codes) -> Latents:
        """1 where a bit is set, -1 elsewhere."""
        places = torch.arange(self.bits, device=codes.device).view(-1, 1, 1)
        bits = (codes[:, None] >> places) & 1
        return 2.0 * bits - 1.0
