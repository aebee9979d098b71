"""The quantizers that a VQGAN can have, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dat.discretizers.quantizers.cosine import CosineQuantizer
from dat.discretizers.quantizers.finite_scalar import FiniteScalarQuantizer
from dat.discretizers.quantizers.gumbel import GumbelQuantizer
from dat.discretizers.quantizers.index_propagation import IndexPropagationQuantizer
from dat.discretizers.quantizers.lookup_free import LookupFreeQuantizer
from dat.discretizers.quantizers.nearest import TrainableQuantizer, VectorQuantizer
from dat.errors import UsageError


def _finite_scalar(codebook_size: int, depth: int, levels: tuple[int, ...]) -> FiniteScalarQuantizer:
    if not levels:
        raise UsageError("The quantizer 'fsq' needs levels, how many values each channel takes, such as levels=[8, 6, 5].")
    if (codebook_size, depth) != (math.prod(levels), len(levels)):
        raise UsageError(
            f"Levels {list(levels)} of finite scalar quantisation need n_embed={math.prod(levels)} (their product) and "
            f"embed_dim={len(levels)} (one channel each); got n_embed={codebook_size}, embed_dim={depth}."
        )
    return FiniteScalarQuantizer(levels)


def _lookup_free(codebook_size: int, depth: int) -> LookupFreeQuantizer:
    if codebook_size != 2**depth:
        raise UsageError(
            f"Lookup-free quantisation of embed_dim={depth} channels has n_embed={2**depth} codes, one bit per channel; "
            f"got n_embed={codebook_size}."
        )
    return LookupFreeQuantizer(depth)


QUANTIZERS: dict[str, Callable[[int, int], TrainableQuantizer]] = {
    "vq": VectorQuantizer,
    "cosine": CosineQuantizer,
    "lfq": _lookup_free,
    "gumbel": GumbelQuantizer,
    "ibq": IndexPropagationQuantizer,
}
"""Those made of a number of codes and of channels; "fsq" is made of its levels."""
NAMES = (*QUANTIZERS, "fsq")


def create_quantizer(name: str, codebook_size: int, depth: int, levels: tuple[int, ...] = ()) -> TrainableQuantizer:
    """An untrained quantizer of `codebook_size` codes over latents of `depth` channels; `levels` are those of "fsq".

    Raises:
        UsageError: there is no quantizer of that name, or it cannot have these sizes.
    """
    if name not in NAMES:
        raise UsageError(f"There is no quantizer {name!r}; take one of {', '.join(NAMES)}.")
    if name == "fsq":
        return _finite_scalar(codebook_size, depth, levels)
    if levels:
        raise UsageError(f"Only the quantizer 'fsq' has levels; leave out levels={list(levels)} or quantizer={name!r}.")
    return QUANTIZERS[name](codebook_size, depth)


def check_quantizer(name: str, codebook_size: int, depth: int, levels: tuple[int, ...] = ()) -> None:
    """Refuse what `create_quantizer` would, without memory for a codebook.

    Raises:
        UsageError: there is no quantizer of that name, or it cannot have these sizes.
    """
    with torch.device("meta"):
        create_quantizer(name, codebook_size, depth, levels)
