"""Files that get their place when all of them are whole."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from dat.errors import RunFolderError


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder in which files are written until they are whole; what a stopped call left in it before is removed.

    Raises:
        RunFolderError: it cannot be written.
    """
    stage, was_there = folder / f"{_UNFINISHED}{os.getpid()}", folder.exists()
    try:
        _remove_leftovers(folder)
        stage.mkdir(parents=True)
        yield stage
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written ({error.strerror or error}); write --out ANOTHER_FOLDER.") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not was_there and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


_UNFINISHED = f".unfinished-{platform.node()}-"
"""Before the number of the process that writes there."""


def _remove_leftovers(folder: Path) -> None:
    """What processes of this machine left that are no more."""
    for leftover in folder.glob(f"{_UNFINISHED}*"):
        number = leftover.name.removeprefix(_UNFINISHED)
        if number.isdigit() and (int(number) == os.getpid() or not psutil.pid_exists(int(number))):
            shutil.rmtree(leftover, ignore_errors=True)
