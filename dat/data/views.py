"""Two views of each picture, augmented independently, for tasks that compare them.

As in `dat.data.pipeline`, every random number is a function of (seed, epoch, position of the picture), and of which view it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dat.data.folders import ImageSource
from dat.data.pipeline import Examples, ImageDataset, Key, Transform

SECOND = 3
"""First word of the seed of all second views."""


class TwoViews:
    """Pictures of a source under a transform, twice: the images, and as their targets the second views. Labels are not read.

    The first view is that of an `ImageDataset` of the same seed. A picture is read for each view.

    Raises:
        UsageError: a negative seed.
    """

    def __init__(self, source: ImageSource, transform: Transform, *, seed: int) -> None:
        self.source, self.transform, self.seed = source, transform, seed
        self._first = ImageDataset(source, transform, seed=seed)
        self._second = ImageDataset(source, transform, seed=_seed_of_second(seed))

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.source)

    def __getitems__(self, keys: Sequence[Key]) -> Examples:
        """First views and second views (float32 in [0, 1]), and positions of a whole batch.

        Raises:
            DataError: a picture cannot be read.
        """
        images, _, positions = self._first.__getitems__(keys)
        return images, self._second.__getitems__(keys)[0], positions


def _seed_of_second(seed: int) -> int:
    return int(np.random.SeedSequence((SECOND, seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
