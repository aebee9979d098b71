"""The quantizers that a VQGAN can have, by name."""

from __future__ import annotations

from collections.abc import Callable

from dat.discretizers.quantize import VectorQuantizer
from dat.errors import UsageError

TrainableQuantizer = VectorQuantizer

QUANTIZERS: dict[str, Callable[[int, int, tuple[int, ...]], TrainableQuantizer]] = {
    "vq": lambda size, depth, _: VectorQuantizer(size, depth),
}


def create_quantizer(name: str, codebook_size: int, depth: int, levels: tuple[int, ...] = ()) -> TrainableQuantizer:
    """An untrained quantizer of `codebook_size` codes over latents of `depth` channels; `levels` are those of "fsq".

    Raises:
        UsageError: there is no quantizer of that name, or it cannot have these sizes.
    """
    if name not in QUANTIZERS:
        raise UsageError(f"There is no quantizer {name!r}; take one of {', '.join(QUANTIZERS)}.")
    return QUANTIZERS[name](codebook_size, depth, levels)
