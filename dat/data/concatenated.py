"""Several labelled sets as one."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from PIL import Image

from dat.data.folders import ImageSource, Labels
from dat.errors import DataError


@dataclass(frozen=True, eq=False)
class Concatenated:
    """The pictures of all `sources`, one after another; all have the same classes.

    Raises:
        DataError: a source has other classes than the first one.
    """

    sources: Sequence[ImageSource]

    def __post_init__(self) -> None:
        for source in self.sources[1:]:
            if source.classes != self.classes:
                odd = sorted(set(source.classes) ^ set(self.classes))[:3]
                raise DataError(
                    f"Training sets that are joined differ in their classes, e.g. {', '.join(odd)}; give each the same."
                )

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of every source."""
        return self.sources[0].classes

    @property
    def targets(self) -> Labels:
        """Of all pictures."""
        return self._targets

    def __len__(self) -> int:
        """How many pictures, over all sources."""
        return sum(map(len, self.sources))

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits."""
        source, position = self._place(index)
        return source.read(position)

    def name(self, index: int) -> str:
        """As its source names it."""
        source, position = self._place(index)
        return source.name(position)

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """SHA-256 over those of the sources; `most_bytes` are read of each."""
        found = "/".join(source.fingerprint(most_bytes=most_bytes) for source in self.sources)
        return hashlib.sha256(found.encode()).hexdigest()

    @cached_property
    def _targets(self) -> Labels:
        return np.concatenate([source.targets for source in self.sources])

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(map(len, self.sources))]

    def _place(self, index: int) -> tuple[ImageSource, int]:
        number = bisect_right(self._starts, index) - 1
        return self.sources[number], index - self._starts[number]
