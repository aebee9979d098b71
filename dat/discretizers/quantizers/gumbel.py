"""The Gumbel quantizer of taming-transformers: a convolution scores the codes, and training draws among them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dat.discretizers.quantizers.index_propagation import largest_product, propagated
from dat.discretizers.quantizers.nearest import Quantized, TrainableQuantizer, as_grid, as_vectors, check_finite
from dat.types import Codes, Latents

Noise = Float[Tensor, "batch codes rows columns"]


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator | None = None, *, device: torch.device) -> Tensor:
    """Standard Gumbel numbers in float32, drawn where the generator is (None: torch's global stream of the device)."""
    place = device if generator is None else generator.device
    return -torch.empty(shape, device=place).exponential_(generator=generator).log().to(device)


class GumbelQuantizer(TrainableQuantizer):
    """Codes drawn from the softmax of their scores while training, the best score otherwise.

    taming draws in evaluation, too, save where it encodes; here evaluation repeats. `tau` is the temperature of the
    gradient (training lowers it); the forward pass is always one code. The entropy loss is the divergence from uniform
    codes, `sum_k q log(q K)`, which taming weighs by 5e-4 (ImageNet's f8 model by 1e-8); there is no other loss.
    No codebook to initialise: a code is used for its score, which is not nearness to its vector.
    Source: Jang et al. (2016); CompVis/taming-transformers:taming/modules/vqvae/quantize.py.
    """

    def __init__(self, codebook_size: int, depth: int, *, tau: float = 1.0) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.tau = tau
        self.proj = nn.Conv2d(depth, codebook_size, 1)
        self.embed = nn.Embedding(codebook_size, depth)

    def quantized(self, latents: Latents) -> Quantized:
        """Codes drawn with noise of torch's global stream in training mode, else the best ones."""
        if not self.training:
            return self.quantized_with(latents, None)
        shape = (len(latents), self.codebook_size, *latents.shape[2:])
        return self.quantized_with(latents, gumbel_noise(shape, device=latents.device))

    def quantized_with(self, latents: Latents, noise: Noise | None) -> Quantized:
        """The codes of the largest score plus `noise` (None: of the largest score), for latents in float32 or float64."""
        logits = as_vectors(self.proj(latents))
        check_finite(logits)
        noisy = logits if noise is None else logits + as_vectors(noise).to(logits)
        codes = self.encode(latents) if noise is None else as_grid(noisy.argmax(dim=1), latents)
        probabilities, zero = logits.softmax(dim=1), latents.new_zeros(())
        divergence = probabilities * (probabilities * self.codebook_size + 1e-10).log()
        return Quantized(
            vectors=propagated(noisy / self.tau, self.embed.weight.to(latents.dtype), codes),
            codes=codes,
            codebook_loss=zero,
            commitment_loss=zero,
            entropy_loss=divergence.sum(dim=1).mean(),
        )

    def encode(self, latents: Latents) -> Codes:
        """Code of the largest score at each position."""
        return as_grid(largest_product(as_vectors(latents), self.proj.weight.flatten(1), self.proj.bias), latents)

    def decode(self, codes: Codes) -> Latents:
        """Codebook row at each position."""
        return F.embedding(codes, self.embed.weight).permute(0, 3, 1, 2)
