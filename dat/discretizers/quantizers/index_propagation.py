"""Index propagation (IBQ): the code with the largest inner product, trained through the softmax over all codes."""

from __future__ import annotations

import torch
from torch import nn

from dat.discretizers.quantizers.entropy import Logits, PerCode, entropies
from dat.discretizers.quantizers.nearest import Codebook, CodebookQuantizer, Quantized, as_grid, as_vectors, check_finite
from dat.types import Codes, Indices, Latents, Vectors, exporting

MOST_SCORES = 2**22
"""Of one chunk, in float64: 32 MiB."""


def largest_product(vectors: Vectors, rows: Codebook, bias: PerCode | None = None) -> Indices:
    """Index of the row with the largest inner product (plus its bias) with each vector; ties to the lowest index.

    In float64, as matrix products in float32 may be rounded to TF32 or bf16 by settings of the user. Not differentiable.
    Takes the memory of the rows in float64 (of 2^18 with 256 channels: 512 MiB) and of one chunk beside its inputs.

    Raises:
        DivergenceError: a vector or a row is NaN or infinite.
    """
    check_finite(vectors, rows)
    with torch.no_grad():
        exact = rows.double().T
        shift = exact.new_zeros(()) if bias is None else bias.double()
        if exporting():  # how many chunks there are depends on the batch
            return torch.addmm(shift, vectors.double(), exact).argmax(dim=1)
        chunks = vectors.split(max(1, MOST_SCORES // len(rows)))
        return torch.cat([torch.addmm(shift, chunk.double(), exact).argmax(dim=1) for chunk in chunks])


def propagated(logits: Logits, rows: Codebook, codes: Codes) -> Latents:
    """The row of each code, whose gradient reaches the row and, as that of `softmax(logits) @ rows`, every logit.

    Equals the product of the rows and a one-hot vector with the gradient of the softmax.
    """
    soft = (logits.softmax(dim=1) @ rows.detach()).view(*codes.shape, rows.shape[1])
    return (rows[codes] + (soft - soft.detach())).permute(0, 3, 1, 2)


class IndexPropagationQuantizer(CodebookQuantizer):
    """A codebook of which every row receives gradients at every position; key layout of taming-transformers.

    Calling it holds the logits of all codes at all positions, a few times. The commitment loss has a second term, through
    the logits: with `vq_loss(..., beta=0.25, legacy=True)` the sum is the published one. `entropy_temperature` None: no
    entropy loss. Source: Shi et al. (2025), Scalable Image Tokenization with Index Backpropagation Quantization;
    TencentARC/SEED-Voken:src/IBQ/modules/vqvae/quantize.py.
    """

    def __init__(self, codebook_size: int, depth: int, *, entropy_temperature: float | None = 0.01) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.entropy_temperature = entropy_temperature
        self.embedding = nn.Embedding(codebook_size, depth)

    def quantized(self, latents: Latents) -> Quantized:
        """Each latent replaced by the code of the largest inner product."""
        rows, codes = self.embedding.weight.to(latents.dtype), self.encode(latents)
        logits, chosen = as_vectors(latents) @ rows.T, rows[codes].permute(0, 3, 1, 2)
        vectors, temperature = propagated(logits, rows, codes), self.entropy_temperature
        return Quantized(
            vectors=vectors,
            codes=codes,
            codebook_loss=(chosen - latents.detach()).square().mean(),
            commitment_loss=(chosen.detach() - latents).square().mean() + (vectors - latents).square().mean(),
            entropy_loss=None if temperature is None else entropies(logits / temperature).loss,
        )

    def encode(self, latents: Latents) -> Codes:
        """Code of the largest inner product at each position."""
        return as_grid(largest_product(as_vectors(latents), self.embedding.weight), latents)

    def decode(self, codes: Codes) -> Latents:
        """Codebook row at each position."""
        return self.embedding(codes).permute(0, 3, 1, 2)
