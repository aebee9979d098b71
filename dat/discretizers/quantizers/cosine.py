"""The quantizer of LlamaGen and TiTok: nearest code by the angle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.discretizers.quantizers.entropy import entropies
from dat.discretizers.quantizers.nearest import Codebook, CodebookQuantizer, Quantized, as_grid, as_vectors, nearest_code
from dat.types import Codes, Latents

SHORTEST = 1e-12
"""Below this length torch's `normalize` no longer gives length 1."""


class CosineQuantizer(CodebookQuantizer):
    """A codebook learned by gradient, compared and decoded at length 1; the weights themselves keep their lengths.

    The decoder sees unit vectors, and losses and gradients are those of the normalised latents. `entropy_temperature`:
    calling it also gives the entropy loss at this temperature, over all codes at each position (LlamaGen has 0.01 and weighs
    it by 0); None: it does not. Source: Yu et al. (2022), ViT-VQGAN, 3.2;
    FoundationVision/LlamaGen:tokenizer/tokenizer_image/vq_model.py.
    """

    def __init__(self, codebook_size: int, depth: int, *, entropy_temperature: float | None = None) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.entropy_temperature = entropy_temperature
        self.embedding = nn.Embedding(codebook_size, depth)
        nn.init.normal_(self.embedding.weight, std=depth**-0.5)

    @property
    def rows(self) -> Codebook:
        """The codebook at length 1."""
        return unit(self.embedding.weight, dim=1)

    def quantized(self, latents: Latents) -> Quantized:
        """Each latent, at length 1, replaced by the code at the smallest angle to it."""
        units, codes = unit(latents, dim=1), self.encode(latents)
        nearest, temperature = self.decode(codes).to(latents.dtype), self.entropy_temperature
        # Squared distances of unit vectors are 2 - 2 cos, of which softmax sees the cosine only.
        logits = None if temperature is None else 2 * as_vectors(units) @ self.rows.to(units.dtype).T / temperature
        return Quantized(
            vectors=units + (nearest - units).detach(),
            codes=codes,
            codebook_loss=(nearest - units.detach()).square().mean(),
            commitment_loss=(nearest.detach() - units).square().mean(),
            entropy_loss=None if logits is None else entropies(logits).loss,
        )

    def encode(self, latents: Latents) -> Codes:
        """Code at the smallest angle at each position."""
        return as_grid(nearest_code(as_vectors(F.normalize(latents, dim=1)), self.rows), latents)

    def decode(self, codes: Codes) -> Latents:
        """Codebook row at each position, at length 1."""
        return unit(self.embedding(codes), dim=-1).permute(0, 3, 1, 2)


def unit(vectors: Tensor, *, dim: int) -> Tensor:
    """Vectors at length 1; one shorter than 1e-12, which has no direction, passes its gradient as if it had length 1.

    torch's `normalize`, whose gradient is 1e12 there: one step would throw the encoder out of its range.
    """
    normalized = F.normalize(vectors, dim=dim)
    is_short = torch.linalg.vector_norm(vectors.detach(), dim=dim, keepdim=True) < SHORTEST
    return torch.where(is_short, vectors + (normalized - vectors).detach(), normalized)
