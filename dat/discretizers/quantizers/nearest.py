"""Nearest code of each latent vector, exact at any size, and the codebook that is trained with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dat.discretizers.autoencoder import Quantizer
from dat.errors import DivergenceError, UsageError
from dat.types import Codes, Indices, Latents, Vectors, exporting

Codebook = Float[Tensor, "codes depth"]
AnyCodes = Int[Tensor, "..."]
Scalar = Float[Tensor, ""]
PerVector = Float[Tensor, " count"]
Certain = Bool[Tensor, " count"]

# Scores of one chunk on a CPU stay within its cache: fresh pages cost three times the arithmetic (measured).
CPU_SCORES = 2**20
MOST_CODES = 2**14
# Largest relative error of one rounded input. Tensor cores may cut TF32 and bf16 inputs instead of rounding them.
# The last three are what torch before 2.9 calls them.
INPUT_ROUNDING = {
    "none": 0.0,
    "ieee": 0.0,
    "tf32": 2.0**-10,
    "bf16": 2.0**-7,
    "highest": 0.0,
    "high": 2.0**-10,
    "medium": 2.0**-7,
}
COARSEST = max(INPUT_ROUNDING.values())


@dataclass(frozen=True)
class Quantized:
    """Latents after quantisation: `vectors` pass the gradient straight through, the losses are unweighted means.

    `entropy_loss` is low where each position is sure of its code and all codes are used (of "gumbel": it is the divergence
    of a position's codes from the uniform ones). A quantizer that has no such term leaves it None.
    """

    vectors: Latents
    codes: Codes
    codebook_loss: Scalar
    commitment_loss: Scalar
    entropy_loss: Scalar | None = None


def nearest_code(vectors: Vectors, codebook: Codebook, *, budget: int = 64 * 2**20) -> Indices:
    """Index of the codebook row with the smallest squared Euclidean distance to each vector; ties to the lowest index.

    Equal to the float64 search at every setting of the matmul precision: float32 scores decide where their rounding
    cannot, float64 scores where float32 could not, and `sum((z - e)^2)` in float64 what is left (ties, mostly).
    Takes at most `budget` bytes beside its inputs and result (no less than some hundred bytes per unit of depth),
    is not differentiable, and ignores the autocast of the caller. While `torch.export` looks on, all scores are taken at once,
    in float64: what the data decide is in no graph.

    Raises:
        UsageError: the depths differ, or the codebook is empty.
        DivergenceError: a vector or a code is NaN or infinite.
    """
    if not len(codebook) or vectors.shape[1] != codebook.shape[1]:
        raise UsageError(
            f"Vectors of shape {tuple(vectors.shape)} cannot be looked up in a codebook of shape "
            f"{tuple(codebook.shape)}; both need the same depth, and the codebook at least one code."
        )
    if exporting():
        return _by_all_scores(vectors, codebook)
    codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    rows, columns = _chunk_sizes(vectors, codebook, budget)
    with torch.no_grad(), torch.autocast(vectors.device.type, enabled=False):
        for start in range(0, len(vectors), rows):
            codes[start : start + rows] = _nearest(vectors[start : start + rows], codebook, columns)
    return codes


def vq_loss(codebook_loss: Scalar, commitment_loss: Scalar, *, beta: float = 0.25, legacy: bool = True) -> Scalar:
    """The two terms with `beta` on one of them: on the codebook term if `legacy`, else on the commitment term.

    All published models were trained with the legacy placement, a known mistake that is kept for their sake.
    Van den Oord et al. (2017), eq. 3, weigh the commitment; the DAT paper weighs both terms by 1 (`beta=1`).
    Source: CompVis/taming-transformers:taming/modules/vqvae/quantize.py.
    """
    return beta * codebook_loss + commitment_loss if legacy else codebook_loss + beta * commitment_loss


def random_vectors(vectors: Vectors, count: int, generator: torch.Generator | None = None) -> Codebook:
    """`count` different rows in random order; if there are too few, repeats with noise of 1 % of the spread.

    Exact repeats would be ties, and of tied codes only the first is ever used.
    """
    device = generator.device if generator is not None else vectors.device
    order = torch.randperm(len(vectors), generator=generator, device=device).to(vectors.device)
    chosen = vectors.detach()[order.repeat(-(-count // len(vectors)))[:count]].clone()
    if (repeated := count - len(vectors)) > 0:
        noise = torch.randn((repeated, vectors.shape[1]), generator=generator, device=device).to(vectors)
        chosen[-repeated:] += 0.01 * vectors.detach().std(dim=0, correction=0) * noise
    return chosen


def as_vectors(latents: Latents) -> Vectors:
    """One row per position, image by image and row by row."""
    return latents.permute(0, 2, 3, 1).flatten(0, 2)


def as_grid(indices: Indices, latents: Latents) -> Codes:
    """What was found for each row of `as_vectors(latents)`, at its position."""
    return indices.view(latents.shape[0], *latents.shape[2:])  # len() would make a constant of it for torch.export


def check_finite(*tensors: Tensor) -> None:
    """Refuse latents or codebooks that are no numbers; one pass over them, and none while `torch.export` looks on.

    Raises:
        DivergenceError: a value is NaN or infinite.
    """
    if exporting():
        return
    if not all(math.isfinite(extreme) for tensor in tensors if tensor.numel() for extreme in tensor.detach().aminmax()):
        raise DivergenceError(
            "Latents or codebook hold NaN or infinite values; the discretizer has diverged or its weights are damaged."
        )


class TrainableQuantizer(Quantizer):
    """Interface: a quantizer with losses. Calling it quantises in float32 or better, whatever the network's dtype.

    Those that are a `CodebookQuantizer` have codes that can be initialised and revived; the others have no vectors of
    which an encoder output could be one.
    """

    def forward(self, latents: Latents) -> Quantized:
        """Latents after quantisation, in their own dtype and outside the autocast of the caller.

        Raises:
            DivergenceError: a latent or a code is NaN or infinite.
        """
        with torch.autocast(latents.device.type, enabled=False):
            quantized = self.quantized(latents.to(torch.promote_types(latents.dtype, torch.float32)))
            return replace(quantized, vectors=quantized.vectors.to(latents.dtype))

    def quantized(self, latents: Latents) -> Quantized:
        """The same for latents in float32 or float64."""
        raise NotImplementedError


class CodebookQuantizer(TrainableQuantizer):
    """Interface: a quantizer whose codes are vectors like the latents, the rows of `embedding`."""

    embedding: nn.Embedding

    @torch.no_grad()
    def initialise(self, latents: Latents, generator: torch.Generator | None = None) -> None:
        """Set every code to a random encoder output, so that training starts with codes in use."""
        weight = self.embedding.weight
        weight.copy_(random_vectors(as_vectors(latents), len(weight), generator))

    @torch.no_grad()
    def revive(self, latents: Latents, codes: AnyCodes, generator: torch.Generator | None = None) -> int:
        """Set the codes that do not occur in `codes` to random encoder outputs; returns how many they were.

        `codes` may cover more than `latents` (an epoch and its last batch). Their optimizer's moments are the caller's.
        Source: the restarts of Dhariwal et al. (2020), Jukebox, 3.1.
        """
        dead = torch.ones(len(self.embedding.weight), dtype=torch.bool, device=codes.device)
        dead[codes.flatten()] = False
        count = int(dead.sum())
        self.embedding.weight[dead] = random_vectors(as_vectors(latents), count, generator).to(self.embedding.weight)
        return count


class VectorQuantizer(CodebookQuantizer):
    """A codebook learned by gradient. Source: van den Oord et al. (2017); key layout of taming-transformers."""

    def __init__(self, codebook_size: int, depth: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.embedding = nn.Embedding(codebook_size, depth)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    def quantized(self, latents: Latents) -> Quantized:
        """Each latent replaced by its nearest code."""
        codes = self.encode(latents)
        nearest = self.decode(codes).to(latents.dtype)
        return Quantized(
            vectors=latents + (nearest - latents).detach(),
            codes=codes,
            codebook_loss=(nearest - latents.detach()).square().mean(),
            commitment_loss=(nearest.detach() - latents).square().mean(),
        )

    def encode(self, latents: Latents) -> Codes:
        """Code of the nearest codebook row at each position."""
        return as_grid(nearest_code(as_vectors(latents), self.embedding.weight), latents)

    def decode(self, codes: Codes) -> Latents:
        """Codebook row at each position."""
        return self.embedding(codes).permute(0, 3, 1, 2)


def _chunk_sizes(vectors: Vectors, codebook: Codebook, budget: int) -> tuple[int, int]:
    """How many vectors meet how many codes at once.

    Half of `budget` for the scores (8 bytes each), a quarter each for copies of vectors and codes (at most four of 8 bytes).
    """
    copies = 32 * vectors.shape[1] + 128
    columns = max(1, min(len(codebook), MOST_CODES, budget // 4 // copies))
    scores = budget // 2 // 8 if vectors.is_cuda else min(budget // 2 // 8, CPU_SCORES)
    return max(1, min(scores // columns, budget // 4 // copies)), columns


def _nearest(vectors: Vectors, codebook: Codebook, columns: int) -> Indices:
    first = torch.promote_types(torch.promote_types(vectors.dtype, codebook.dtype), torch.float32)
    codes, certain = _by_scores(vectors.to(first), codebook, columns)
    doubtful = (~certain).nonzero().squeeze(1)
    if len(doubtful) and first != torch.float64:
        codes[doubtful], certain = _by_scores(vectors[doubtful].double(), codebook, columns)
        doubtful = doubtful[~certain]
    if len(doubtful):
        codes[doubtful] = _by_distances(vectors[doubtful], codebook, columns)
    return codes


def _by_all_scores(vectors: Vectors, codebook: Codebook) -> Indices:
    """Codes by the largest `2 z.e - |e|^2` in float64; of scores that are equal there the lowest."""
    rows = codebook.double()
    return (2 * vectors.double() @ rows.T - rows.square().sum(dim=1)).argmax(dim=1)


def _by_scores(vectors: Vectors, codebook: Codebook, columns: int) -> tuple[Indices, Certain]:
    """Codes by the largest `2 z.e - |e|^2`, and whether rounding cannot have chosen them."""
    best = torch.full_like(vectors[:, 0], -torch.inf)
    runner_up, codes = best.clone(), torch.zeros_like(best, dtype=torch.int64)
    longest = torch.zeros((), dtype=torch.float64, device=vectors.device)
    for start, part in _parts(codebook, columns, vectors.dtype):
        value, second, index = _two_best(vectors, part)
        runner_up = torch.maximum(torch.minimum(best, value), torch.maximum(runner_up, second))
        codes = torch.where(value > best, index + start, codes)
        best = torch.maximum(best, value)
        longest = torch.maximum(longest, torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).amax())
    # False also where the gap or the bound is NaN or infinite.
    return codes, best.double() - runner_up.double() > 2 * _score_error(vectors, longest)


def _two_best(vectors: Vectors, codebook: Codebook) -> tuple[PerVector, PerVector, Indices]:
    """Largest and second largest score of each vector, and the code of the largest."""
    scores = torch.addmm(codebook.square().sum(dim=1).neg(), vectors, codebook.T, alpha=2)
    best, index = scores.max(dim=1)
    return best, scores.scatter_(1, index[:, None], -torch.inf).amax(dim=1), index


def _score_error(vectors: Vectors, longest: Scalar) -> PerVector:
    """Most by which rounding can have moved a score of each row; infinite where a score may have overflowed.

    Inputs are rounded once, sums of `depth` terms at each addition (perhaps cut: two roundoffs), in any order. The last
    term is the rounding of the float64 distances that define the answer. Source: Higham (2002), section 3.1.
    """
    limits, depth = torch.finfo(vectors.dtype), vectors.shape[1]
    length = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    rounding = 3 * _input_rounding(vectors.dtype) + (depth + 8) * limits.eps
    underflow = 4 * depth * limits.tiny * (1 + length + longest)
    error = rounding * longest * (2 * length + longest) + underflow
    error = error + (depth + 8) * 2.0**-52 * (length + longest).square()
    return torch.where((length + longest).square() < limits.max / 4, error, torch.inf)


def _input_rounding(dtype: torch.dtype) -> float:
    """Relative error of an input of a matrix product at the least precise setting in force."""
    if dtype == torch.float64:
        return 0.0
    return max(INPUT_ROUNDING.get(setting, COARSEST) for setting in _precisions())


def _precisions() -> Sequence[str]:
    """Of float32 products, everywhere they may be set; torch before 2.9 has one place."""
    backends: Any = torch.backends  # whose stubs lack these
    if not hasattr(backends, "fp32_precision"):
        return (torch.get_float32_matmul_precision(),)  # fails later on, once a backend was set by itself
    return (backends.fp32_precision, backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision)


def _by_distances(vectors: Vectors, codebook: Codebook, columns: int) -> Indices:
    """Codes by `sum((z - e)^2)` in float64: the definition.

    Raises:
        DivergenceError: a vector or a code is NaN or infinite. Checked only here, as such rows are never certain.
    """
    check_finite(vectors, codebook)
    vectors = vectors.double()
    best = torch.full_like(vectors[:, 0], torch.inf)
    codes = torch.zeros_like(best, dtype=torch.int64)
    for start, part in _parts(codebook, max(1, columns // vectors.shape[1]), torch.float64):
        value, index = (vectors[:, None] - part).square_().sum(dim=2).min(dim=1)
        codes = torch.where(value < best, index + start, codes)
        best = torch.minimum(best, value)
    return codes


def _parts(codebook: Codebook, columns: int, dtype: torch.dtype) -> Iterator[tuple[int, Codebook]]:
    for start in range(0, len(codebook), columns):
        yield start, codebook[start : start + columns].to(dtype)
