"""Random numbers of corruptions: one stream per image, so a result does not depend on the batch around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Float64 random numbers `(batch, *shape)`; row `i` comes from the stream that `keys[i]` names.

    A key is a tuple of non-negative integers. Each call consumes the streams, so the order of the calls matters.
    """

    def __init__(self, keys: Sequence[tuple[int, ...]]) -> None:
        self._streams = [np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))) for key in keys]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return self._stack(lambda stream: stream.standard_normal(shape))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers in `[low, high)`."""
        return self._stack(lambda stream: stream.uniform(low, high, shape))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Int64 numbers in `[low, high)`."""
        return self._stack(lambda stream: stream.integers(low, high, shape))

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson counts of the shape of `rates`, as float64."""
        pairs = zip(self._streams, rates.numpy(), strict=True)
        return torch.from_numpy(np.stack([stream.poisson(rate) for stream, rate in pairs])).double()

    def _stack(self, draw: Callable[[np.random.Generator], np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack([draw(stream) for stream in self._streams]))
