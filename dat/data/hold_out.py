"""A part of the training pictures that is not trained on, to judge a training by while it goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from dat.data.draw import Positions, drawn_order
from dat.data.embedded import ArraySource
from dat.data.folders import ImageSource
from dat.data.subset import Subset
from dat.errors import DataError


def held_out(source: ImageSource, share: float, *, seed: int = 0) -> Positions:
    """Positions of `share` of each class, rounded, at least one picture; at random, a function of (seed, name without suffix).

    Raises:
        DataError: a class has one picture, so that none is left to train on.
    """
    order = drawn_order([source.name(index) for index in range(len(source))], seed=seed)
    found: list[np.ndarray] = []
    for label, name in enumerate(source.classes):
        of_class = order[source.targets[order] == label]
        if len(of_class) == 1:
            raise DataError(
                f"Class {name} has one training picture, {source.name(int(of_class[0]))}, too few to hold one out for "
                "validation; add pictures, or name a folder: data.validation=FOLDER."
            )
        found.append(of_class[: min(max(1, round(share * len(of_class))), len(of_class) - 1)])
    return np.sort(np.concatenate(found))


def without_copies(source: ImageSource, names: Sequence[str]) -> ImageSource:
    """The pictures but for those called as one of `names` is, whatever their suffix: their distorted copies, too."""
    stems = {os.path.splitext(name)[0] for name in names}
    kept = [index for index in range(len(source)) if os.path.splitext(source.name(index))[0] not in stems]
    return part_of(source, np.array(kept, dtype=np.int64))


def part_of(source: ImageSource, positions: Positions) -> ImageSource:
    """The pictures at these positions; of a set in memory, in memory."""
    if not isinstance(source, ArraySource):
        return Subset(source, positions)
    names = [source.name(index) for index in positions.tolist()]
    return ArraySource(source.images[positions], source.targets[positions], source.classes, names)
