"""What the files of a set hold: a SHA-256 of each, remembered in the user's cache folder, never beside the files.

A file is read again where its size, its times or its inode are others than they were. Nobody can set ctime back, so a file
that was replaced by one of equal size and mtime is seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dat.errors import DataError
from dat.progress import Bar
from dat.results import from_json, write_text

CACHE = "~/.cache"
"""Where hashes are remembered if XDG_CACHE_HOME does not say."""
READERS = 8
SHOWN_FROM_BYTES = 2**28
"""From here on reading takes seconds, and has a bar."""
JUST_NOW_NS = 2 * 10**9
"""A file that was written so short ago may be written again within one tick of its clock: its hash is not remembered."""

Known = dict[str, Any]
"""Of each file, by name: its stamp and its SHA-256."""


def contents(root: Path, names: Sequence[str], *, most_bytes: int | None = None) -> list[str]:
    """For each file below `root` its size and the SHA-256 of what it holds, as text.

    Of a set that is larger than `most_bytes`, only so many bytes are read, in files at even distances in the list; of all
    others the size alone stands for them. Files that are known from earlier calls are not read again.

    Raises:
        DataError: a file is gone, a link leads nowhere, or it cannot be read.
    """
    stamps = {name: _stamp(root / name) for name in names}
    remembered, chosen = _remembered(root), _chosen(names, stamps, most_bytes)
    unknown = [name for name in chosen if remembered.get(name, [])[:-1] != stamps[name]]
    read = _read(root, unknown, sum(stamps[name][0] for name in unknown))
    hashes = {name: remembered[name][-1] for name in chosen if name not in read} | {name: read[name][-1] for name in unknown}
    _remember(root, remembered, read)
    return [f"{stamps[name][0]} {hashes.get(name, 'not read')}" for name in names]


def _chosen(names: Sequence[str], stamps: Mapping[str, list[int]], most_bytes: int | None) -> list[str]:
    total = sum(stamps[name][0] for name in names)
    if most_bytes is None or total <= most_bytes:
        return list(dict.fromkeys(names))
    count = max(1, len(names) * most_bytes // total)
    positions = np.unique(np.linspace(0, len(names) - 1, count).round())
    return [names[int(position)] for position in positions]


def _read(root: Path, names: Sequence[str], total_bytes: int) -> Known:
    """Stamps and hashes, read by several threads: hashing leaves Python's lock alone."""
    shown = total_bytes >= SHOWN_FROM_BYTES and os.environ.get("RANK", "0") == "0"
    found: Known = {}
    with ThreadPoolExecutor(READERS) as readers, Bar(f"read {root}, once", len(names), shown=shown) as bar:
        for name, entry in zip(names, readers.map(_hashed, [root / name for name in names]), strict=True):
            found[name] = entry
            bar.advance(len(found), "")
    return found


def _stamp(path: Path) -> list[int]:
    try:
        return stamp_of(path.stat())
    except OSError as error:
        raise DataError(f"{path} is gone or a broken link; restore it or remove it.") from error


def stamp_of(status: os.stat_result) -> list[int]:
    """What changes with a file: its bytes, its times, and which file it is."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _hashed(path: Path) -> list[int | str]:
    """The stamp is that from before reading: who writes meanwhile changes it."""
    try:
        with path.open("rb") as file:
            stamp = stamp_of(os.fstat(file.fileno()))
            return [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); restore it or remove it.") from error


# The cache.


def cache_file(kind: str, root: Path) -> Path | None:
    """Where what is known of `root`, or of the files below it, is remembered; None where that would be below `root` itself."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    place = Path(chosen if os.path.isabs(chosen) else os.path.expanduser(CACHE)) / "dat" / kind
    whole = root.resolve()
    if place.resolve().is_relative_to(whole):
        return None
    return place / f"{hashlib.sha256(os.fsencode(whole)).hexdigest()[:32]}.json"


def _remembered(root: Path) -> Known:
    """What earlier calls read; nothing, where the cache is missing or damaged."""
    path = cache_file("contents", root)
    try:
        found = from_json(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 6}


def _remember(root: Path, before: Known, read: Known) -> None:
    """Add to the cache. One that cannot be written is no error: the files are read again next time."""
    path, now = cache_file("contents", root), time.time_ns()
    kept = {name: entry for name, entry in read.items() if now - max(entry[1:3]) > JUST_NOW_NS}
    if path is not None and kept:
        with suppress(OSError):
            write_text(path, json.dumps(before | kept))
