"""Random numbers of corruptions: one stream per image, so a result does not depend on the batch around it.

A number is a hash of its stream and its place in it, in whole numbers: the same on every device, and nothing is seeded.
Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), the mixing of SplitMix64.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

Hashes = Int[Tensor, "*shape"]
Streams = Int[Tensor, "batch"]
Quantiles = Float[Tensor, "65536"]

WEYL = -7046029254386353131
"""The golden ratio of 64 bits: multiples of it are spread evenly. As all constants here, an int64 that means its bits."""


class Draws:
    """Float32 random numbers `(batch, *shape)`; row `i` comes from stream `i`.

    Each call takes the next numbers of all streams, so the order of the calls matters.
    """

    def __init__(self, streams: Streams) -> None:
        self._streams, self._taken = streams[:, None], 0

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, drawn from 65,536 quantiles: the largest is 4.3."""
        places = self.bits(16, *shape)
        return _quantiles(places.device).index_select(0, places.flatten()).view_as(places)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers in `[low, high)`, in steps of 2**-24 of the range."""
        return self.bits(24, *shape).float().mul_(2.0**-24 * (high - low)).add_(low)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Int64 numbers in `[low, high)`."""
        return ((self.bits(24, *shape).long() * (high - low)) >> 24) + low

    def bits(self, count: int, *shape: int) -> Tensor:
        """Int32 numbers of `count` random bits, at most 31."""
        words = self._words(math.prod(shape), torch.uint16 if count <= 16 else torch.int32)
        return (words & ((1 << count) - 1)).view(-1, *shape)

    def _words(self, count: int, kind: torch.dtype) -> Tensor:
        """`(batch, count)` random words, as int32; several are cut from each hash."""
        hashes = -(-count * kind.itemsize // 8)
        words = mixed(_places(self._taken, hashes, self._streams.device) ^ self._streams)
        self._taken += hashes
        return words.view(kind)[:, :count].to(torch.int32)


def streams_of(key: tuple[int, ...], ids: Streams) -> Streams:
    """A stream for each id under a key."""
    state = torch.zeros_like(ids, dtype=torch.int64)
    for part in (*key, ids):
        state = mixed((state ^ part) + WEYL)
    return state


def mixed(values: Hashes) -> Hashes:
    """A hash of each int64: every bit of the result depends on every bit of the value."""
    values = (values ^ _shifted(values, 30)).mul_(-4658895280553007687)
    values.bitwise_xor_(_shifted(values, 27)).mul_(-7723592293110705685)
    return values.bitwise_xor_(_shifted(values, 31))


def _shifted(values: Hashes, shift: int) -> Hashes:
    """To the right, filled with zeros as of an unsigned number."""
    return (values >> shift).bitwise_and_((1 << (64 - shift)) - 1)


@lru_cache(maxsize=8)
def _places(first: int, count: int, device: torch.device) -> Hashes:
    """What the places of a stream add to it; hashed, so that no stream is another one shifted."""
    return mixed(torch.arange(first, first + count, device=device) * WEYL)


@cache
def _quantiles(device: torch.device) -> Quantiles:
    """The normal distribution in the middle of each of 65,536 equal shares."""
    shares = (torch.arange(65536, dtype=torch.float64) + 0.5) / 65536
    return torch.special.ndtri(shares).float().to(device)
