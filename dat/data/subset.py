"""A part of a labelled set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dat.data.draw import Draw, drawn
from dat.data.folders import ImageSource, Labels


@dataclass(frozen=True, eq=False)
class Subset:
    """The pictures of `source` at `positions`, in that order."""

    source: ImageSource
    positions: Labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole set."""
        return self.source.classes

    @property
    def targets(self) -> Labels:
        """Of the chosen pictures."""
        return self.source.targets[self.positions]

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.positions)

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits."""
        return self.source.read(int(self.positions[index]))

    def name(self, index: int) -> str:
        """As the whole set names it."""
        return self.source.name(int(self.positions[index]))

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """SHA-256 over that of the whole set, and which were chosen."""
        digest = hashlib.sha256(self.source.fingerprint(most_bytes=most_bytes).encode())
        digest.update(self.positions.astype(np.int64).tobytes())
        return digest.hexdigest()


def first_per_class(source: ImageSource, count: int) -> Subset:
    """The first `count` pictures of each class."""
    positions = [np.flatnonzero(source.targets == label)[:count] for label in range(len(source.classes))]
    return Subset(source, np.sort(np.concatenate(positions)))


def fewer(source: ImageSource, per_class: int, draw: Draw = "in-proportion") -> ImageSource:
    """`per_class` times the number of classes, chosen as `dat.data.draw.drawn` does; the source itself, if it has no more."""
    names = [source.name(index) for index in range(len(source))]
    positions = drawn(names, source.targets, per_class, draw)
    return source if len(positions) == len(source) else Subset(source, positions)


def spread(source: ImageSource, count: int) -> Subset:
    """`count` pictures of the set at even distances, the first and the last among them; all of them if there are fewer."""
    chosen = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(np.int64)
    return Subset(source, chosen)
