"""What to do with pictures that cannot be read, where one of them must not stop hours of work: leave them out, and say so."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch

from dat.data.embedded import ArraySource
from dat.data.pipeline import Examples, ImageDataset, Key
from dat.errors import DataError


class Readable:
    """Pictures of `dataset`; those that cannot be read are missing in their batch, and no other takes their place.

    A batch knows the positions of its pictures, so who asked for more knows which are missing.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """How many pictures, readable or not."""
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[Key]) -> Examples:
        """Images, targets and positions of the readable pictures of a batch, which may be none.

        Raises:
            DataError: every picture can be read, but they do not fit one batch.
        """
        if isinstance(self.dataset.source, ArraySource):  # in memory: all of them can be read
            return self.dataset.__getitems__(keys)
        found: list[Examples] = []
        for key in keys:  # each is read once, whatever becomes of its neighbours
            with suppress(DataError):
                found.append(self.dataset.__getitems__([key]))
        if not found:
            return torch.zeros(0, 3, 1, 1), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        images, targets, positions = zip(*found, strict=True)
        if len({image.shape for image in images}) > 1:
            return self.dataset.__getitems__([(0, int(position)) for position in positions])  # which says what does not fit
        return torch.cat(images), torch.cat(targets), torch.cat(positions)


def why_unreadable(dataset: ImageDataset, position: int) -> str | None:
    """The sentence that says why a picture cannot be read; None where it can."""
    try:
        dataset.source.read(position)
    except DataError as error:
        return str(error)
    return None
