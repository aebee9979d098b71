"""Pictures that two sets share, by what their files hold: a model has seen such a test picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dat.data.concatenated import Concatenated
from dat.data.contents import contents
from dat.data.embedded import ArraySource
from dat.data.folders import ImageSource, PictureFiles
from dat.data.images import size_of
from dat.data.packed import PackedPictures
from dat.data.subset import Subset

MOST_BYTES = 4 * 2**30
"""So much is read of a set, at most, to compare it; of a larger one a sample of files is compared."""
UNREAD = "not read"


class File(NamedTuple):
    """A picture of a set: its folder, and its name there."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.root / self.name

    @property
    def bytes(self) -> int | None:
        """How many it holds; None where it is gone, which is told by who reads it."""
        return self.path.stat().st_size if self.path.is_file() else None

    def size(self) -> tuple[int, int]:
        """Width and height.

        Raises:
            DataError: it cannot be read.
        """
        return size_of(self.path)


class Packed(NamedTuple):
    """A picture of a set within other files, by its position."""

    source: PackedPictures
    position: int

    @property
    def name(self) -> str:
        """As its store names it."""
        return self.source.name(self.position)

    @property
    def path(self) -> str:
        """Where it is."""
        return self.source.where(self.position)

    @property
    def bytes(self) -> int:
        """How many its file would hold."""
        return self.source.bytes_of(self.position)

    def size(self) -> tuple[int, int]:
        """Width and height.

        Raises:
            DataError: it cannot be read.
        """
        return self.source.size(self.position)


Held = File | Packed


def files_of(source: ImageSource) -> list[Held]:
    """The files of the pictures, in their order; none of a set that comes from no files."""
    match source:
        case PackedPictures():
            return [Packed(source, index) for index in range(len(source))]
        case PictureFiles():
            return [File(source.root, source.name(index)) for index in range(len(source))]
        case Subset():
            whole = files_of(source.source)
            return [whole[position] for position in source.positions.tolist()] if whole else []
        case Concatenated():
            return [file for part in source.sources for file in files_of(part)]
        case ArraySource() if source.files is not None:
            return files_of(source.files)
    return []


def shared_pictures(train: ImageSource, test: ImageSource) -> list[tuple[Held, Held]]:
    """Pictures of `test` whose files hold what a file of `train` holds, each with that one. Files of other sizes are not read.

    Raises:
        DataError: a file is gone, or cannot be read.
    """
    ours, theirs = _by_size(files_of(train)), _by_size(files_of(test))
    both = ours.keys() & theirs.keys()
    known = {held: file for file, held in _held(file for size in both for file in ours[size])}
    tested = _held(file for size in both for file in theirs[size])
    return sorted(((file, known[held]) for file, held in tested if held in known), key=lambda pair: str(pair[0].path))


def _by_size(files: Iterable[Held]) -> dict[int, list[Held]]:
    found: dict[int, list[Held]] = {}
    for file in files:
        if (held := file.bytes) is not None:
            found.setdefault(held, []).append(file)
    return found


def _held(files: Iterable[Held]) -> list[tuple[Held, str]]:
    """Of each file that was read, what it holds."""
    by_root: dict[Path, list[str]] = {}
    by_source: dict[int, list[Packed]] = {}
    for file in files:
        if isinstance(file, Packed):
            by_source.setdefault(id(file.source), []).append(file)
        else:
            by_root.setdefault(file.root, []).append(file.name)
    found: list[tuple[Held, str]] = [
        (File(root, name), held)
        for root, names in by_root.items()
        for name, held in zip(names, contents(root, names, most_bytes=MOST_BYTES), strict=True)
    ]
    for packed in by_source.values():
        said = packed[0].source.contents([file.position for file in packed], most_bytes=MOST_BYTES)
        found += zip(packed, said, strict=True)
    return [(file, held) for file, held in found if not held.endswith(UNREAD)]
