"""Two views of each picture, augmented independently, for tasks that compare them.

As in `dat.data.pipeline`, every random number is a function of (seed, epoch, position of the picture), and of which view it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from dat.data.embedded import ArraySource
from dat.data.folders import ImageSource, Labels
from dat.data.pipeline import Examples, ImageDataset, ImageNet, Key, Transform

SECOND = 3
"""First word of the seed of all second views."""
HELD = 16
"""So many pictures, whole, wait for their second view."""


class TwoViews:
    """Pictures of a source under a transform, twice: the images, and as their targets the second views. Labels are not read.

    The first view is that of an `ImageDataset` of the same seed. A picture is read once for both.

    Raises:
        UsageError: a negative seed.
    """

    def __init__(self, source: ImageSource, transform: Transform, *, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self._held = None if isinstance(source, ArraySource) else _Held(source)
        self._views = [ImageDataset(self._held or source, transform, seed=word) for word in (seed, _seed_of_second(seed))]

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.source)

    def __getitems__(self, keys: Sequence[Key]) -> Examples:
        """First views and second views (float32 in [0, 1]), and positions of a whole batch.

        Raises:
            DataError: a picture cannot be read.
        """
        count = HELD if self._held is not None and isinstance(self.transform, ImageNet) else len(keys)
        parts = [self._fetched(keys[begin : begin + count]) for begin in range(0, len(keys), count)]
        images, views, positions = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return images, views, positions

    def _fetched(self, keys: Sequence[Key]) -> Examples:
        if self._held is not None:
            self._held.pictures.clear()
        (images, _, positions), (views, *_) = (dataset.__getitems__(keys) for dataset in self._views)
        return images, views, positions


class _Held:
    """A source that remembers what was read."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.pictures: dict[int, Image.Image] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def targets(self) -> Labels:
        return self.source.targets

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Image.Image:
        if index not in self.pictures:
            self.pictures[index] = self.source.read(index)
        return self.pictures[index]

    def name(self, index: int) -> str:
        return self.source.name(index)

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        return self.source.fingerprint(most_bytes=most_bytes)


def _seed_of_second(seed: int) -> int:
    return int(np.random.SeedSequence((SECOND, seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
