"""Labelled pictures held in memory, and a real set that needs no download.

Knows no transforms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dat.data.folders import ImageSource, Labels
from dat.errors import DataError, UsageError

Pixels = UInt8[np.ndarray, "count 3 height width"]
Grey = UInt8[np.ndarray, "count height width"]
Squares = UInt8[np.ndarray, "count size size"]

DIGITS_TEST = 450
DIGITS_WHITE = 16
FROM_DISK = "read them from disk (in a recipe data.in_memory=false)"


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pictures of one size in memory: `images` are RGB, 8 bits. `names` default to the positions; `files` is whence they come.

    Raises:
        DataError: as many targets as images are expected, each a position in `classes`.
    """

    images: Pixels
    targets: Labels
    classes: tuple[str, ...]
    names: Sequence[str] | None = None
    files: ImageSource | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.targets):
            raise DataError(f"There are {len(self.images)} images but {len(self.targets)} targets; give one for each.")
        if len(self.targets) and not (self.targets.min() >= 0 and self.targets.max() < len(self.classes)):
            span = f"from {self.targets.min()} to {self.targets.max()}"
            raise DataError(f"Targets go {span} but there are {len(self.classes)} classes; count targets from 0.")

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.images)

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits."""
        return Image.fromarray(np.ascontiguousarray(self.images[index].transpose(1, 2, 0)))

    def name(self, index: int) -> str:
        """The given name, or the position."""
        return self.names[index] if self.names is not None else str(index)

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """SHA-256 over the sizes, the pixels and the targets: no file is read, so all of them count."""
        del most_bytes
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images.tobytes())
        digest.update(self.targets.tobytes())
        return digest.hexdigest()


def digits(split: Literal["train", "test"], *, size: int = 8) -> ArraySource:
    """Handwritten digits: 1,347 real pictures to train on, 450 to test, in ten classes; 8x8, comes with scikit-learn.

    The split is stratified and always the same (`train_test_split` of scikit-learn, random state 0). Grey is repeated
    to RGB, the values k/16 become round(255 k / 16); a `size` other than 8 is resized (bicubic). `names` are the
    positions in the original 1,797.

    Raises:
        UsageError: another split, or a size below 1.

    Source: Alpaydin and Kaynak (1998), UCI repository, its test part, as `sklearn.datasets.load_digits` gives it.
    """
    if split not in ("train", "test"):
        raise UsageError(f"There is no split {split!r} of the digits; write 'train' or 'test'.")
    if size < 1:
        raise UsageError(f"A picture size of {size} is not possible; give 1 or more (8 is the original).")
    values, targets, places = _kept_digits()
    chosen = places[split]
    grey = np.rint(255 * values[chosen].reshape(-1, 8, 8) / DIGITS_WHITE).astype(np.uint8)
    images = np.repeat(_resized(grey, size)[:, None], 3, axis=1)
    names = tuple(f"digit-{position}" for position in chosen)
    return ArraySource(images, targets[chosen].astype(np.int64), tuple("0123456789"), names)


@cache
def _kept_digits() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Values, targets, and positions by split; read once, as scikit-learn takes a tenth of a second for its text file."""
    from sklearn.datasets import load_digits  # seconds to import, and few need it
    from sklearn.model_selection import train_test_split

    values, targets = map(np.asarray, load_digits(return_X_y=True))
    train, test = train_test_split(np.arange(len(targets)), test_size=DIGITS_TEST, stratify=targets, random_state=0)
    return values, targets, {"train": np.sort(train), "test": np.sort(test)}


def in_memory(source: ImageSource, *, limit_bytes: int = 2**31) -> ArraySource:
    """All pictures of `source`, which have one size, read and held as bytes. Each is verified on the way.

    Raises:
        DataError: a picture cannot be read, differs in size (which, and both sizes), or they need more than
            `limit_bytes` together.
    """
    if not len(source):
        raise DataError("There are no pictures to hold in memory; check the data set.")
    width, height = source.read(0).size
    needed = len(source) * 3 * height * width
    if needed > limit_bytes:
        sizes = f"{needed / 2**20:.0f} MiB, the limit is {limit_bytes / 2**20:.0f} MiB"
        raise DataError(f"{len(source)} pictures of {width}x{height} need {sizes}; {FROM_DISK}.")
    images = np.empty((len(source), 3, height, width), dtype=np.uint8)
    for index in range(len(source)):
        picture = source.read(index)
        if picture.size != (width, height):
            sizes = "{}x{} but {} is {}x{}".format(*picture.size, source.name(0), width, height)
            raise DataError(f"{source.name(index)} is {sizes}; only pictures of one size are held in memory; {FROM_DISK}.")
        images[index] = np.asarray(picture).transpose(2, 0, 1)
    names = [source.name(index) for index in range(len(source))]
    return ArraySource(images, source.targets, source.classes, names, files=source)


def _resized(grey: Grey, size: int) -> Squares:
    if grey.shape[1:] == (size, size):
        return grey
    pictures = (Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC) for picture in grey)
    return np.stack([np.asarray(picture) for picture in pictures])
