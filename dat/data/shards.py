"""Pictures in shards: plain tar files as webdataset writes them, `key.jpg` beside `key.cls`.

The heads of a shard are read once and its index is remembered, so that any picture is read at once: another order each epoch,
every picture once, on any number of processes and workers, and a resume to the picture, as of files.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from dat.data.address import Address
from dat.data.contents import JUST_NOW_NS, READERS, cache_file, stamp_of
from dat.data.folders import EXTENSIONS
from dat.data.labelled import Wanted, chosen, counted, refuse_unlabelled
from dat.data.packed import PackedPictures
from dat.errors import DataError
from dat.results import from_json, write_text

LABEL = "cls"
"""Suffix of the file that says the class, where nobody says otherwise."""
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
KEY = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
"""A name up to the first dot of its last part, and the rest: all files of one key are one example."""
MOST_LABEL_BYTES = 1024
GZIP = b"\x1f\x8b"
BLOCK = 2**16


class Sample(NamedTuple):
    """A picture in a shard: its name there, where it begins, its bytes, and its class."""

    name: str
    start: int
    size: int
    label: str


class Shards:
    """The pictures of several shards, one shard after another, as a store."""

    def __init__(self, shards: Sequence[Path], samples: Sequence[Sequence[Sample]]) -> None:
        self.shards = shards
        root = Path(os.path.commonpath([shard.parent.absolute() for shard in shards]))
        called = [shard.absolute().relative_to(root).as_posix() for shard in shards]
        self._names = [f"{name}/{sample.name}" for name, found in zip(called, samples, strict=True) for sample in found]
        self._starts = np.array([sample.start for found in samples for sample in found], dtype=np.int64)
        self._sizes = np.array([sample.size for found in samples for sample in found], dtype=np.int64)
        self._shard_of = np.repeat(np.arange(len(shards)), [len(found) for found in samples])

    def name(self, position: int) -> str:
        """The shard, and the name in it."""
        return self._names[position]

    def bytes_of(self, position: int) -> int:
        """How many the file in the shard holds."""
        return int(self._sizes[position])

    def encoded(self, position: int) -> bytes:
        """What the file in the shard holds.

        Raises:
            DataError: the shard is gone, or shorter than it was.
        """
        shard, size = self.shards[self._shard_of[position]], self.bytes_of(position)
        try:
            with shard.open("rb", buffering=0) as file:
                file.seek(int(self._starts[position]))
                held = file.read(size)
        except OSError as error:
            raise DataError(f"Cannot read the shard {shard} ({error.strerror}); restore it.") from error
        if len(held) < size:
            raise _cut_off(shard)
        return held


def open_shards(address: Address, wanted: Wanted) -> PackedPictures:
    """The pictures of all shards that a pattern names, in the order of their numbers or names.

    Raises:
        DataError: a shard is missing, compressed, cut off, or no tar file; a picture has no class; or as for `ImageFolder`.
    """
    shards, suffix = _expanded(address.path), address.options.get("label", LABEL)
    with ThreadPoolExecutor(READERS) as readers:
        samples = list(readers.map(lambda shard: _index(shard, suffix), shards))
    store = Shards(shards, samples)
    labels = [sample.label for found in samples for sample in found]
    names = [store.name(position) for position in range(len(labels))]
    refuse_unlabelled(address.path, names, labels, f"put a file KEY.{suffix} with the class beside each picture")
    kept = chosen(address.path, names, labels, wanted, said_by=f"files .{suffix} in {address.path}")
    return PackedPictures(address.path, store, kept)


def _expanded(pattern: str) -> list[Path]:
    """`train-{000..009}.tar`, or `train-*.tar`."""
    paths = list(_numbered(pattern))
    found = [file for path in paths for file in (sorted(glob(path)) if has_magic(path) else [path])]
    if missing := [path for path in found if not os.path.isfile(path)] or ([] if found else [pattern]):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(f"{len(missing)} of the shards {pattern} are not there ({shown}); fetch them, or correct the pattern.")
    return [Path(file) for file in dict.fromkeys(found)]


def _numbered(pattern: str) -> Iterator[str]:
    if (span := RANGE.search(pattern)) is None:
        yield pattern
        return
    first, last = span.groups()
    for number in range(int(first), int(last) + 1):
        yield from _numbered(f"{pattern[: span.start()]}{number:0{len(first)}}{pattern[span.end() :]}")


def _index(shard: Path, suffix: str) -> list[Sample]:
    """The pictures of a shard, remembered in the user's cache folder until the shard is another."""
    try:
        stamp = stamp_of(shard.stat())
        cache = cache_file("shards", shard)
        if (known := _remembered(cache, stamp, suffix)) is not None:
            return known
        found = _scanned(shard, suffix)
    except OSError as error:
        raise DataError(f"Cannot read the shard {shard} ({error.strerror or error}); restore it.") from error
    if cache is not None and time.time_ns() - max(stamp[1:3]) > JUST_NOW_NS:
        _remember(cache, {"stamp": stamp, "suffix": suffix, "samples": found})
    return found


def _scanned(shard: Path, suffix: str) -> list[Sample]:
    """The examples of a shard, from its heads.

    Raises:
        DataError: it is compressed, cut off, or no tar file, or an example has several pictures or classes, or no picture.
    """
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    for name, start, size, label in _files(shard, suffix):
        if (parts := KEY.fullmatch(name)) is None:
            continue
        key, kind = parts.groups()
        if key in (labels if label is not None else pictures) and (label is not None or _is_picture(kind)):
            raise DataError(f"{shard} has two {'classes' if label is not None else 'pictures'} for {key}; keep one of them.")
        if label is not None:
            labels[key] = label
        elif _is_picture(kind):
            pictures[key] = (name, start, size)
    if bare := [key for key in labels if key not in pictures]:
        raise DataError(f"{shard} has {counted(bare)} with a class, but with no file of a known kind ({' '.join(EXTENSIONS)}).")
    return [Sample(*picture, labels.get(key, "")) for key, picture in pictures.items()]


def _is_picture(kind: str) -> bool:
    return f".{kind.lower()}" in EXTENSIONS


def _files(shard: Path, suffix: str) -> list[tuple[str, int, int, str | None]]:
    """Name, begin and bytes of each file in a shard, and what it holds where it is one of classes."""
    with shard.open("rb") as file:
        if file.read(2) == GZIP:
            raise DataError(
                f"The shard {shard} is compressed, so that no picture can be read alone; unpack it: gunzip {shard}."
            )
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                found = [(member.name, member.offset_data, member.size, _label(tar, member, suffix)) for member in _plain(tar)]
                file.seek(tar.offset)  # tarfile takes a damaged head for the end
        except tarfile.TarError as error:
            raise _cut_off(shard) from error
        if not _is_end(file):
            raise _cut_off(shard)
    return found


def _plain(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if not (member.isfile() or member.isdir()):
            raise DataError(f"{tar.name} holds the link {member.name}; put a copy of the file there.")
        if member.isfile():
            yield member


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> str | None:
    parts = KEY.fullmatch(member.name)
    if parts is None or parts[2] != suffix or (held := tar.extractfile(member)) is None:
        return None
    try:
        return held.read(MOST_LABEL_BYTES).decode().strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{member.name} in {tar.name} is no text; the name or number of a class is expected.") from error


def _is_end(file: BinaryIO) -> bool:
    """Whether zeros follow, which end a tar file, and nothing else."""
    blocks = list(iter(lambda: file.read(BLOCK), b""))
    return bool(blocks) and not any(block.strip(b"\0") for block in blocks)


def _cut_off(shard: Path) -> DataError:
    size = shard.stat().st_size
    return DataError(f"The shard {shard} ({size} bytes) is cut off, damaged or no tar file; fetch it again.")


# What is remembered.


def _remembered(cache: Path | None, stamp: list[int], suffix: str) -> list[Sample] | None:
    try:
        found = from_json(cache.read_text()) if cache is not None else None
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("stamp") != stamp or found.get("suffix") != suffix:
        return None
    return [Sample(*sample) for sample in found["samples"]]


def _remember(cache: Path, index: dict[str, Any]) -> None:
    """An index that cannot be written is no error: the shard is read again next time."""
    with suppress(OSError):
        write_text(cache, json.dumps(index))
