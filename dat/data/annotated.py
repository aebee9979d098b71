"""Pictures with boxes around the things in them, each read on demand, from COCO's files or YOLO's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from PIL import Image

from dat.data.contents import contents
from dat.data.images import decode, size_of
from dat.errors import DataError

CornersOf = Float64[np.ndarray, "count 4"]
LabelsOf = Int64[np.ndarray, " count"]
AreasOf = Float64[np.ndarray, " count"]
MaskOf = Bool[np.ndarray, " count"]

NAMED = 3
"""So many examples of a fault are named."""


@dataclass(frozen=True, eq=False)
class Things:
    """What is in one picture, in its own pixels: corners x0, y0, x1, y1; classes from 0 on; areas; and which are crowds.

    `ids` are those of the annotations, as their file has them or counted from 1.
    """

    corners: CornersOf
    labels: LabelsOf
    areas: AreasOf
    crowd: MaskOf
    ids: tuple[int, ...]

    def __len__(self) -> int:
        """How many."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class AnnotatedPictures:
    """Pictures below `root` by their names, their sizes (width, height), and what is in each.

    `image_ids` and `category_ids` are what results are written with, as COCO's format has them; a label is a position in
    `classes`. `file` is what messages name. A picture whose size is not the stated one is refused when it is read.
    """

    file: Path
    root: Path
    names: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    things: Sequence[Things]
    classes: tuple[str, ...]
    image_ids: Sequence[int]
    category_ids: Sequence[int]

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Path relative to the root."""
        return self.names[index]

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits.

        Raises:
            DataError: it cannot be read, or has another size than its boxes were drawn on.
        """
        picture = decode(self.root / self.names[index])
        if picture.size != self.sizes[index]:
            raise DataError(_wrong_size(self.file, self.names[index], self.sizes[index], picture.size))
        return picture

    def at(self, positions: Sequence[int]) -> AnnotatedPictures:
        """Some of the pictures, in this order."""
        names, sizes, things, ids = (
            [part[position] for position in positions] for part in (self.names, self.sizes, self.things, self.image_ids)
        )
        return replace(self, names=names, sizes=sizes, things=things, image_ids=ids)

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """SHA-256 over names and contents of the pictures, and over what is in them."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        held = contents(self.root, self.names, most_bytes=most_bytes)
        for name, content, things in zip(self.names, held, self.things, strict=True):
            digest.update(f"{name}\0{content}\n".encode())
            for values in (things.corners, things.labels, things.areas, things.crowd):
                digest.update(values.tobytes())
        return digest.hexdigest()

    def faults(self) -> list[str]:
        """One sentence for each picture that cannot be read or has another size; only heads of files are read."""
        found = []
        for name, size in zip(self.names, self.sizes, strict=True):
            try:
                if (real := size_of(self.root / name)) != size:
                    found.append(_wrong_size(self.file, name, size, real))
            except DataError as error:
                found.append(str(error))
        return found


class Examined(NamedTuple):
    """What of a set is as it should be, what is not, and what a reader of its numbers should know; a sentence each."""

    pictures: AnnotatedPictures
    faults: list[str]
    notes: list[str]


def refuse(file: Path, faults: Sequence[str]) -> None:
    """Of a set with faults.

    Raises:
        DataError: there are some; it says the first, and how the others are listed.
    """
    if faults:
        others = f" There are {len(faults) - 1} more faults; dat data check {file} lists them." if len(faults) > 1 else ""
        raise DataError(f"{file}: {faults[0]}{others}")


def is_outside(corners: Sequence[int | float], size: tuple[int, int]) -> bool:
    """Whether nothing of a box x0, y0, x1, y1 is in a picture of this width and height; a flat one may lie at an edge."""
    ends = zip(corners[:2], corners[2:], size, strict=True)
    return any(first >= side or first < 0 >= last for first, last, side in ends)


def in_order_of(found: Mapping[int, str], classes: Sequence[str] | None, file: Path) -> dict[int, int]:
    """The class of each category id: in the order of `classes`, or of the ids.

    Raises:
        DataError: two categories have one name, or their names are not those of `classes`.
    """
    names = [found[key] for key in sorted(found)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{file} has two categories called {twice[0]!r}; give each its own name.")
    wanted = names if classes is None else list(classes)
    if set(wanted) != set(names):
        more, fewer = sorted(set(names) - set(wanted)), sorted(set(wanted) - set(names))
        said = [f"has {_listed(more)}, which training has not"] * bool(more)
        said += [f"lacks {_listed(fewer)}"] * bool(fewer)
        raise DataError(f"{file} {' and '.join(said)}; its categories must be those of the training: {_listed(wanted)}.")
    return {key: wanted.index(name) for key, name in found.items()}


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *["..."] * (len(names) > NAMED)])


def _wrong_size(file: Path, name: str, stated: tuple[int, int], real: tuple[int, int]) -> str:
    sizes = f"{real[0]} x {real[1]} pixels, but {file} says {stated[0]} x {stated[1]}"
    advice = "write the picture upright (mogrify -auto-orient)" if real == stated[::-1] else "put back the picture"
    return f"{name} has {sizes}, so its boxes would be elsewhere; scale the boxes, or {advice}."
