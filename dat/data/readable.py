"""What to do with pictures that cannot be read, where one of them must not stop hours of work: leave them out, and say so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch

from dat.data.embedded import ArraySource
from dat.data.folders import ImageSource
from dat.data.pipeline import Examples, ImageDataset, Key
from dat.data.subset import Subset
from dat.errors import DataError
from dat.progress import Bar

NAMED = 10
"""So many damaged pictures are named where none may be."""


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


def without_unreadable(source: ImageSource, *, allowed: int, shown: bool = True) -> ImageSource:
    """The pictures that can be read; reads each once. Those left out are named on stderr where `shown`.

    Raises:
        DataError: more than `allowed` cannot be read; all of them are named.
    """
    bad = _damaged(source, shown=shown)
    lines = "".join(f"\n  {sentence}" for sentence in bad.values())
    if len(bad) > allowed or len(bad) == len(source):
        raise DataError(
            f"{len(bad)} of {len(source)} training pictures cannot be read, data.allow_bad is {allowed}; mend them, or write "
            f"data.allow_bad={len(bad)}:{lines}"
        )
    if bad and shown:
        print(f"{len(bad)} of {len(source)} training pictures are left out:{lines}", file=sys.stderr)
    return Subset(source, np.array([index for index in range(len(source)) if index not in bad])) if bad else source


def refuse_damaged(source: ImageSource, *, of: str, shown: bool = True) -> None:
    """Read each picture once, before hours of work that end with it. `of`: what they are called, "test" or "labelled".

    Raises:
        DataError: some cannot be read; the first of them are named.
    """
    if bad := [*_damaged(source, shown=shown).values()]:
        lines = "".join(f"\n  {sentence}" for sentence in bad[:NAMED]) + "\n  ..." * (len(bad) > NAMED)
        raise DataError(f"{len(bad)} of {len(source)} {of} pictures cannot be read:{lines}")


def _damaged(source: ImageSource, *, shown: bool) -> dict[int, str]:
    """Of each picture that cannot be read why, by position."""
    bad: dict[int, str] = {}
    with Bar("look for damaged pictures", len(source), shown=shown) as bar:
        for index in range(len(source)):
            try:
                source.read(index)
            except DataError as error:
                bad[index] = str(error)
            bar.add(f"{len(bad)} damaged", 1)
    return bad


def why_unreadable(dataset: ImageDataset, position: int) -> str | None:
    """The sentence that says why a picture cannot be read; None where it can."""
    try:
        dataset.source.read(position)
    except DataError as error:
        return str(error)
    return None
