"""A run folder belongs to one process at a time."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dat.errors import RunFolderError
from dat.results import RUN, from_json, write_text
from dat.types import Place


@dataclass
class Run:
    """A run at work: its folder, where its processes stand, whether it is kept off the GPU, and what is known of it so far."""

    folder: Path
    place: Place
    cpu: bool
    facts: dict[str, Any]

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a part to those it took before it was resumed."""
        start, seconds = time.monotonic(), self.facts["seconds"]
        try:
            yield
        finally:
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - start, 1)
            self.write()

    def write(self) -> None:
        """Write the facts into `run.json`."""
        if self.place.is_main:
            write_text(self.folder / RUN, json.dumps(self.facts, indent=1))


@contextmanager
def claimed(folder: Path, *, resume: bool) -> Iterator[None]:
    """Hold the folder of a run for this process; a lock of a killed process falls by itself.

    Raises:
        RunFolderError: another process works in it, it already holds a run and `resume` is off, or it cannot be written.
    """
    with locked(folder, elsewhere="out=ANOTHER_FOLDER"):
        if holds_run(folder) and not resume:
            raise RunFolderError(f"{folder} already holds a run; add --resume to continue it, or write out=ANOTHER_FOLDER.")
        yield


@contextmanager
def locked(folder: Path, *, elsewhere: str) -> Iterator[None]:
    """Hold a folder, which is made if it is missing; a lock of a killed process falls by itself.

    `elsewhere`: what to write to take another folder.

    Raises:
        RunFolderError: another process works in it, or it cannot be written.
    """
    make(folder, elsewhere=elsewhere)
    try:
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise RunFolderError(f"{folder} is in use by {_owner(folder)}; wait for it, or write {elsewhere}.") from None
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written ({error.strerror}); write {elsewhere}.") from error
    try:
        write_text(folder / ".owner.json", json.dumps(_myself()))
        yield
    finally:
        lock.release()


def make(folder: Path, *, elsewhere: str) -> None:
    """Make a folder where it is missing.

    Raises:
        RunFolderError: it cannot be made; with `elsewhere`, what to write to take another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written ({error.strerror}); write {elsewhere}.") from error


def read_run(folder: Path, *, elsewhere: str = "out=ANOTHER_FOLDER") -> dict[str, Any]:
    """What `run.json` says of a run. `elsewhere`: what to write to take another folder.

    Raises:
        RunFolderError: it cannot be read, or is not what a run writes.
    """
    try:
        run = from_json((folder / RUN).read_text())
        if not isinstance(run, dict) or not isinstance(run.get("recipe_hash"), str):
            raise ValueError("it names no recipe")
        names = run.get("class_names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its class_names are no list of names")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / RUN} is damaged ({error}); write {elsewhere} and train again.") from error
    return run


def holds_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / RUN).is_file()


def _myself() -> dict[str, object]:
    return {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _owner(folder: Path) -> str:
    try:
        owner = from_json((folder / ".owner.json").read_text())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
