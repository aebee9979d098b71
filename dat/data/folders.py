"""Pictures on disk, one subfolder per class. Nothing is ever written into the data folder.

Knows no transforms. `ImageSource` is what the pipeline asks of any set of labelled pictures.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from dat.data.contents import contents
from dat.data.draw import Draw, Labels, drawn
from dat.data.images import decode, size_of
from dat.data.spelling import spelt_twice
from dat.errors import DataError, UsageError
from dat.progress import warn

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
"""torchvision's list and `.gif`. timm's three would leave out the others without a word."""


@runtime_checkable
class ImageSource(Protocol):
    """Labelled pictures, each read on demand."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a target is a position in them."""
        ...

    @property
    def targets(self) -> Labels:
        """Class of each picture."""
        ...

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits.

        Raises:
            DataError: it cannot be read.
        """
        ...

    def name(self, index: int) -> str:
        """What to call the picture in messages and result files."""
        ...

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """SHA-256 that changes with the set: with its pictures, their order and their classes.

        `most_bytes`: so much is read of files at most, spread over the set; of the others the sizes stand for the pictures.
        """
        ...


class PictureFiles:
    """Labelled picture files below `root`, by their names. A leaf finds them; here they are read, named and identified.

    `named_by_class`: their names say their classes, so a fingerprint need not. `class_order`: whence the order of the classes.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        targets: Labels,
        classes: tuple[str, ...],
        *,
        named_by_class: bool,
        class_order: str = "",
    ) -> None:
        self.root, self.targets, self.classes, self.class_order = root, targets, classes, class_order
        # 75 corrupted copies of a set have the same names: one text of each, not 75.
        self._names = [sys.intern(name) for name in names]
        self._named_by_class = named_by_class

    def __len__(self) -> int:
        """How many pictures."""
        return len(self._names)

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits.

        Raises:
            DataError: the file cannot be read (which, its size, and what to do).
        """
        return decode(self.root / self._names[index])

    def size(self, index: int) -> tuple[int, int]:
        """Width and height, as the head of the file has them.

        Raises:
            DataError: the file cannot be read.
        """
        return size_of(self.root / self._names[index])

    def name(self, index: int) -> str:
        """Path relative to the root, with forward slashes."""
        return self._names[index]

    def where(self, index: int) -> str:
        """The path of the picture, for messages."""
        return str(self.root / self._names[index])

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """SHA-256 over the relative names and contents of all pictures, and their classes where names do not say them.

        Reads every file once in its life, up to `most_bytes` together; see `dat.data.contents`.

        Raises:
            DataError: a file is gone, or a link leads nowhere.
        """
        digest = hashlib.sha256()
        held = contents(self.root, self._names, most_bytes=most_bytes)
        for name, content, target in zip(self._names, held, self.targets.tolist(), strict=True):
            category = "" if self._named_by_class else f"{self.classes[target]}\n"
            digest.update(os.fsencode(f"{name}\0{content}\0{category}"))
        return digest.hexdigest()


class ImageFolder(PictureFiles):
    """Pictures in class folders: `root/class/**/picture`.

    Classes are the subfolders in alphabetical order; in numerical order where every name is a number (unlike
    torchvision), so that class i of ImageNet-V2 (folders 0 ... 999) is folder i. Pictures are in the order of their names
    and may lie deeper than one folder. Names that begin with a dot and files of other kinds are left out. Links are
    followed. `per_class` keeps so many times the number of classes, chosen as `dat.data.draw.drawn` does. With `subset` there
    may be folders of some of the `classes` alone; targets are positions in `classes` all the same. `of`: which pictures have
    these classes, for messages.

    Raises:
        UsageError: `per_class` is below 1.
        DataError: no such folder, no class folders, a class without pictures, one spelt in two ways, or classes other than
            `classes` (those of a checkpoint, in its order).
    """

    def __init__(
        self,
        root: str | Path,
        *,
        classes: Sequence[str] | None = None,
        per_class: int | None = None,
        draw: Draw = "in-proportion",
        subset: bool = False,
        of: Literal["training", "labelled"] = "training",
    ) -> None:
        if per_class is not None and per_class < 1:
            raise UsageError(f"per_class is {per_class}; give 1 or more, or leave it out for all pictures.")
        root = Path(root)
        found = _class_folders(root)
        refuse_two_spellings(root, found)
        known = found if classes is None else tuple(classes)
        require_same_classes(root, found, known, subset=subset, of=of)
        files = {name: sorted(_files(root, name, above=frozenset())) for name in found}
        _say_left_out(root, [file for names in files.values() for file in names])
        pictures = [_pictures_of_class(root, name, files[name]) for name in found]
        labels = np.array([known.index(name) for name in found], dtype=np.int64)
        targets = np.repeat(labels, [len(names) for names in pictures])
        names = [name for names in pictures for name in names]
        if per_class is not None:
            chosen = drawn(names, targets, per_class, draw)
            names, targets = [names[position] for position in chosen.tolist()], targets[chosen]
        order = f"folders of {root}, {by_what(found)}"
        super().__init__(root, names, targets, known, named_by_class=True, class_order=order)


class PictureFolder(PictureFiles):
    """Pictures in a folder and in those below it, whatever they show: nobody asks for their classes, and they have one.

    Order, names, links and what is left out as for `ImageFolder`.

    Raises:
        DataError: no such folder, or no picture in it.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"Cannot open the data folder {root} (there is no such folder); check the path.")
        files = sorted(file.removeprefix("./") for file in _files(root, ".", above=frozenset()))
        _say_left_out(root, files)
        names = [file for file in files if file.lower().endswith(EXTENSIONS)]
        if not names:
            raise DataError(f"There are no pictures in {root} ({' '.join(EXTENSIONS)}); check the path.")
        super().__init__(root, names, np.zeros(len(names), dtype=np.int64), ("pictures",), named_by_class=True)


def _class_folders(root: Path) -> tuple[str, ...]:
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"Cannot open the data folder {root} ({error.strerror}); check the path.") from error
    if not names:
        raise DataError(f"There are no class folders in {root}; one subfolder per class with its pictures is expected.")
    return in_order(names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes by the alphabet; by number where every one is a number."""
    listed = [*names]
    return tuple(sorted(listed, key=(lambda name: (int(name), name)) if _are_numbers(listed) else None))


def by_what(names: Sequence[str]) -> str:
    """By what `in_order` puts these names in order, in words."""
    return "by number" if _are_numbers(names) else "by the alphabet"


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.isascii() and name.isdigit() for name in names)


def _say_left_out(root: Path, files: Sequence[str]) -> None:
    """A set without some of its pictures, for want of a suffix that is known, is another set."""
    if others := [file for file in files if not file.lower().endswith(EXTENSIONS)]:
        kinds = ", ".join(sorted({Path(file).suffix or "none" for file in others})[:5])
        left = f"One file of {root} is left out" if len(others) == 1 else f"{len(others)} files of {root} are left out"
        warn(f"{left}, for a suffix ({kinds}) that is no picture's: {others[0]}{' and others' * (len(others) > 1)}.")


def _pictures_of_class(root: Path, name: str, files: Sequence[str]) -> list[str]:
    pictures = [file for file in files if file.lower().endswith(EXTENSIONS)]
    if not pictures:
        found = "nothing but files of other kinds" if files else "no files"
        advice = "add pictures or remove the folder"
        raise DataError(f"Class folder {root / name} holds {found} ({' '.join(EXTENSIONS)}); {advice}.")
    return pictures


def _files(root: Path, folder: str, *, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Visible files below `folder`, relative to `root`; a link back to a folder above is not entered again."""
    status = (root / folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    try:
        with os.scandir(root / folder) as entries:
            visible = [(f"{folder}/{entry.name}", entry.is_dir()) for entry in entries if entry.name[0] != "."]
    except OSError as error:
        raise DataError(f"Cannot open the folder {root / folder} ({error.strerror}); check its permissions.") from error
    for name, is_folder in visible:
        if is_folder:
            yield from _files(root, name, above=above | {here})
        else:
            yield name


def refuse_two_spellings(root: str | Path, found: tuple[str, ...]) -> None:
    """Refuse names of classes that differ in nothing but their spelling.

    Raises:
        DataError: two such names.
    """
    if twice := spelt_twice(found):
        advice = "put both into one folder" if Path(root).is_dir() else "write one of them"
        raise DataError(f"{root} has one class spelt in two ways, {twice[0]!r} and {twice[1]!r}; {advice}.")


def require_same_classes(
    root: str | Path, found: tuple[str, ...], expected: tuple[str, ...], *, subset: bool, of: Literal["training", "labelled"]
) -> None:
    """Refuse classes that are not those expected, in their order; with `subset` some of them will do.

    Raises:
        DataError: how they differ.
    """
    if found == expected or (subset and set(found) <= set(expected)):
        return
    if twice := spelt_twice(found, expected):
        advice = "give its folder that name" if Path(root).is_dir() else "write it so"
        among = "in training" if of == "training" else "among the labelled pictures"
        raise DataError(f"The class {twice[1]!r} of {root} is {twice[0]!r} {among}; {advice}.")
    differences = {"missing": sorted(set(expected) - set(found)), "extra": sorted(set(found) - set(expected))}
    said = ", ".join(f"{len(names)} {kind} ({_shortened(names)})" for kind, names in differences.items() if names)
    said = said or _first_difference(found, expected)
    is_part = set(found) < set(expected)
    advice = (
        "add them, or write classes: subset (behind dat eval: classes=subset) for a test set of some of the classes"
        if is_part and of == "training"
        else f"use {'folders' if Path(root).is_dir() else 'pictures'} with the same classes"
    )
    raise DataError(f"The classes of {root} are not those of the {of} pictures: {said}; {advice}.")


def _first_difference(found: tuple[str, ...], expected: tuple[str, ...]) -> str:
    index = next(index for index, (here, there) in enumerate(zip(found, expected, strict=False)) if here != there)
    return f"permuted: class {index} is {found[index]!r} in the folder and {expected[index]!r} in training"


def _shortened(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
