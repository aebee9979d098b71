"""A run folder belongs to one process at a time and to one recipe."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from dat.errors import RunFolderError
from dat.results import RUN, write_text
from dat.types import Place

NOT_COUNTED = ("out", "title", "expect")
"""Settings that may change between two parts of a run."""
NAMED = 8
"""So many settings that differ are named."""


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
def claimed(
    folder: Path,
    *,
    recipe_hash: str,
    resume: bool,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Hold the folder for this process; a lock of a killed process falls by itself.

    `settings` are those of the recipe, to tell which ones differ from the run's; `inputs` what its keys name, by SHA-256.

    Raises:
        RunFolderError: another process works in it, it already holds a run and `resume` is off, its run has another recipe
            or began with other inputs, or it cannot be written.
    """
    with locked(folder, elsewhere="out=ANOTHER_FOLDER"):
        if holds_run(folder):
            _check_run(folder, recipe_hash, resume, settings or {})
            _check_inputs(folder, inputs or {})
        yield


@contextmanager
def locked(folder: Path, *, elsewhere: str) -> Iterator[None]:
    """Hold a folder, which is made if it is missing; a lock of a killed process falls by itself.

    `elsewhere`: what to write to take another folder.

    Raises:
        RunFolderError: another process works in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
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


def read_run(folder: Path) -> dict[str, Any]:
    """What `run.json` says of a run.

    Raises:
        RunFolderError: it cannot be read, or is not what a run writes.
    """
    try:
        run = json.loads((folder / RUN).read_text())
        if not isinstance(run, dict) or not isinstance(run.get("recipe_hash"), str):
            raise ValueError("it names no recipe")
        names = run.get("class_names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its class_names are no list of names")
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{folder / RUN} is damaged ({error}); write out=ANOTHER_FOLDER and train again.") from error
    return run


def holds_run(folder: Path) -> bool:
    """Whether a run was begun there."""
    return (folder / RUN).is_file()


def _check_run(folder: Path, recipe_hash: str, resume: bool, settings: Mapping[str, Any]) -> None:
    if not resume:
        raise RunFolderError(f"{folder} already holds a run; add --resume to continue it, or write out=ANOTHER_FOLDER.")
    began_with = read_run(folder)["recipe_hash"]
    if began_with != recipe_hash:
        said = _changes(_settings_of(folder), settings)
        what = f"with other settings ({said})" if said else f"of recipe {began_with}, not of {recipe_hash}"
        raise RunFolderError(
            f"{folder} holds a run {what}; resume it with the recipe it was started with ({folder / 'recipe.yaml'}), "
            "or write out=ANOTHER_FOLDER."
        )


def _check_inputs(folder: Path, inputs: Mapping[str, str]) -> None:
    """Runs of before inputs were noted are taken as they are."""
    before = read_run(folder).get("inputs") or {}
    if other := [key for key in inputs if before.get(key, inputs[key]) != inputs[key]]:
        named = " and ".join(other)
        raise RunFolderError(
            f"What {named} of the recipe {'name' if len(other) > 1 else 'names'} is not what the run in {folder} began with "
            "(files, pictures or their classes were changed since); put that back, or write out=ANOTHER_FOLDER and train anew."
        )


def _settings_of(folder: Path) -> Mapping[str, Any]:
    """Those of the run, as its recipe has them; none, where that cannot be read."""
    try:
        found = yaml.safe_load((folder / "recipe.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`training.epochs was 3, is 5`, with all keys that count; nothing, where one of both is not known."""
    old, new = _by_key(before), _by_key(now)
    if not (old and new):
        return ""
    odd = [key for key in {**old, **new} if old.get(key) != new.get(key) and key.split(".")[0] not in NOT_COUNTED]
    said = [f"{key} was {old.get(key, 'not there')}, is {new.get(key, 'not there')}" for key in odd]
    return "; ".join([*said[:NAMED], *[f"{len(said) - NAMED} more"] * (len(said) > NAMED)])


def _by_key(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Single values by `key.sub`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _by_key(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _myself() -> dict[str, object]:
    return {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / ".owner.json").read_text())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
