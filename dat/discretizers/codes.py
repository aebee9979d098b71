"""What is done with codes: checking, comparing, replacing at random, and counting which are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dat.errors import UsageError
from dat.types import Codes, Discretizer, Images, Latents, PerImage

Changed = Bool[Tensor, "batch *grid"]
Numbers = Float[Tensor, "batch *grid"]
AnyCodes = Int[Tensor, "..."]
Neighbours = Int[Tensor, "codes neighbours"]
Counts = Int[Tensor, " codes"]


@runtime_checkable
class CodeSpace(Discretizer, Protocol):
    """A discretizer whose codes stand for vectors, between which there are distances and directions."""

    def vectors(self, codes: Codes) -> Latents:
        """The vector of each code, as the decoder sees it."""
        ...

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images in [0, 1], with a gradient to the vectors; of the vectors of codes, those of `decode` up to rounding."""
        ...

    def neighbours(self, count: int) -> Neighbours:
        """For each code the `count` others of the nearest vectors, the nearest first."""
        ...


def code_space(discretizer: Discretizer) -> CodeSpace:
    """The same discretizer, known to have vectors.

    Raises:
        UsageError: it has none.
    """
    if not isinstance(discretizer, CodeSpace):
        raise UsageError(
            f"A {type(discretizer).__name__} gives no vectors of its codes, so none is near another; "
            "take what dat.load_discretizer gives, or dat.FrozenDiscretizer(network)."
        )
    return discretizer


@dataclass(frozen=True)
class Usage:
    """How a codebook is used: `fraction` of codes that occur, `perplexity` (their effective number), `dead` codes."""

    fraction: float
    perplexity: float
    dead: tuple[int, ...]


def check_in_codebook(codes: AnyCodes, codebook_size: int) -> None:
    """Refuse codes that a codebook does not hold; one pass over them, of which there is at least one.

    Raises:
        UsageError: a code is below 0, or not below `codebook_size`.
    """
    lowest, highest = torch.stack(torch.aminmax(codes)).tolist()
    if lowest < 0 or highest >= codebook_size:
        raise UsageError(
            f"Codes reach from {lowest} to {highest}; this codebook holds 0 to {codebook_size - 1}; "
            "give the discretizer that wrote them."
        )


def changed(before: Codes, after: Codes) -> Changed:
    """Where the codes differ."""
    return before != after


def modified_code_rate(before: Codes, after: Codes) -> PerImage:
    """Fraction of positions whose code differs, per image.

    Of the codes of x and x + delta it is the paper's "Modified Codes" (Table 8), which `dat.discrete_change` gives. Of the
    codes of x and of a picture that was decoded it also counts what the discretizer does not give back: 8 to 36 % without
    a delta.
    """
    return changed(before, after).flatten(1).float().mean(dim=1)


def resample(codes: Codes, codebook_size: int, rate: float, chance: Numbers, choice: Numbers) -> Codes:
    """Each code replaced with probability `rate` by one of the other codes, all equally likely.

    `chance` (whether) and `choice` (by which) are uniform in [0, 1). As a code is never replaced by itself, the expected
    `modified_code_rate` is `rate`. Source: the "Random" row of the paper's Table 8, which has no reference program.

    Raises:
        UsageError: `rate` is outside [0, 1], or there is no other code.
    """
    _check_rate(rate)
    if codebook_size < 2:
        raise UsageError(f"A codebook of {codebook_size} has no other code; random codes need 2 or more.")
    # float64, as float32 numbers reach only 2**24 codes; clamped, as 1 - 2**-24 times the size may round up to it.
    shift = 1 + (choice.double() * (codebook_size - 1)).long().clamp_(max=codebook_size - 2)
    return torch.where(chance < rate, (codes + shift) % codebook_size, codes)


def resample_nearby(codes: Codes, neighbours: Neighbours, rate: float, chance: Numbers, choice: Numbers) -> Codes:
    """The same with one of its neighbours (`CodeSpace.neighbours`) in place of a code, all equally likely. Source: ours.

    Raises:
        UsageError: `rate` is outside [0, 1].
    """
    _check_rate(rate)
    count = neighbours.shape[1]
    which = (choice.double() * count).long().clamp_(max=count - 1)
    return torch.where(chance < rate, neighbours[codes, which], codes)


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise UsageError(f"The rate of random codes is {rate}; give a fraction between 0 and 1.")


def usage(codes: Codes, codebook_size: int) -> Usage:
    """Which codes occur how often.

    `perplexity` is `exp` of the entropy of the codes: `codebook_size` where all are equally frequent, 1 for a single one.
    """
    return usage_of(torch.bincount(codes.flatten(), minlength=codebook_size))


def usage_of(counts: Counts) -> Usage:
    """The same of how often each code of the codebook occurs."""
    shares = counts.double() / counts.sum()
    dead = (counts == 0).nonzero().flatten().tolist()
    return Usage(
        fraction=1 - len(dead) / len(counts),
        perplexity=torch.special.entr(shares).sum().exp().item(),
        dead=tuple(dead),
    )
