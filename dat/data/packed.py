"""Labelled pictures that lie within other files: in shards, or in the tables of a data set of Hugging Face.

Each is read on demand and at any place, so order, resume and share of each process are those of files. Decoded as files are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from dat.data.images import Encoded, decode, size_of
from dat.data.labelled import Chosen


@runtime_checkable
class Store(Protocol):
    """Pictures as files hold them, by their place in a list."""

    def name(self, position: int) -> str:
        """What to call it; no other set has such a name for another picture."""
        ...

    def bytes_of(self, position: int) -> int:
        """How many it takes."""
        ...

    def encoded(self, position: int) -> bytes:
        """What its file would hold.

        Raises:
            DataError: it is gone, or cut off.
        """
        ...


class PackedPictures:
    """The `kept` pictures of a store, as an `ImageSource`; `place` is what the store is called in messages."""

    def __init__(self, place: str, store: Store, kept: Chosen) -> None:
        self.place, self.store, self.positions = place, store, kept.positions
        self.targets, self.classes, self.class_order = kept.targets, kept.classes, kept.class_order
        self._hashes: dict[int, str] = {}

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.positions)

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits.

        Raises:
            DataError: it cannot be read (which, its size, and what to do).
        """
        return decode(self._encoded(index))

    def size(self, index: int) -> tuple[int, int]:
        """Width and height, as its head has them.

        Raises:
            DataError: it cannot be read.
        """
        return size_of(self._encoded(index))

    def name(self, index: int) -> str:
        """As the store names it."""
        return self.store.name(int(self.positions[index]))

    def where(self, index: int) -> str:
        """The store and the name in it, for messages."""
        return f"{self.place}: {self.name(index)}"

    def bytes_of(self, index: int) -> int:
        """How many its file would hold."""
        return self.store.bytes_of(int(self.positions[index]))

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """SHA-256 over the names, contents and classes of all pictures.

        Reads every picture, up to `most_bytes` together at even distances; of the others the sizes stand for them.

        Raises:
            DataError: a picture cannot be read.
        """
        digest = hashlib.sha256()
        indices = range(len(self))
        for index, held in zip(indices, self.contents(indices, most_bytes=most_bytes), strict=True):
            digest.update(f"{self.name(index)}\0{held}\0{self.classes[self.targets[index]]}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def contents(self, indices: Sequence[int], *, most_bytes: int | None = None) -> list[str]:
        """Of each of these pictures its size and the SHA-256 of what it holds, as `dat.data.contents.contents` has them.

        Raises:
            DataError: a picture cannot be read.
        """
        sizes = [self.bytes_of(index) for index in indices]
        total = sum(sizes)
        count = len(sizes) if most_bytes is None or total <= most_bytes else max(1, len(sizes) * most_bytes // total)
        read = set(np.unique(np.linspace(0, max(len(sizes) - 1, 0), count).round()).astype(int).tolist())
        return [
            f"{size} {self._hash(index) if place in read else 'not read'}"
            for place, (index, size) in enumerate(zip(indices, sizes, strict=True))
        ]

    def _encoded(self, index: int) -> Encoded:
        return Encoded(self.store.encoded(int(self.positions[index])), self.where(index))

    def _hash(self, index: int) -> str:
        if index not in self._hashes:
            self._hashes[index] = hashlib.sha256(self._encoded(index).held).hexdigest()
        return self._hashes[index]
