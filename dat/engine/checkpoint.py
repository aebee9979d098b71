"""States on disk: safetensors files beside a JSON manifest with their hashes, written whole or not at all.

A checkpoint is a folder `step-00000120/` with one safetensors file per part (model, optimizer, ...) and `manifest.json`. It
is written under another name, flushed to disk and renamed: whatever happens, what was saved before stays. Only tensors and
JSON are read back; nothing in a file can run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dat.errors import CheckpointError
from dat.results import from_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class State:
    """What a run needs to continue: named groups of tensors, and numbers that fit into JSON."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]


def save(folder: Path, step: int, state: State) -> Path:
    """Write `folder/step-<step>` and keep only it and the one before.

    Later ones are dropped, too: a run writes an earlier step only where those were damaged and it began again before them.

    Raises:
        CheckpointError: the disk is full or refuses to be written; earlier checkpoints are untouched.
    """
    target = folder / f"step-{step:08d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        temporary.mkdir()
        _write_parts(temporary, state)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(_why_not_written(target, state, error)) from error
    earlier = [path for path in list_checkpoints(folder) if path.name < target.name]
    for other in {*list_checkpoints(folder)} - {target, *earlier[-1:]}:  # the one before, in case this one is damaged later
        shutil.rmtree(other)
    return target


def load(path: Path) -> State:
    """Read a checkpoint folder and verify every byte of it.

    Raises:
        CheckpointError: a file is missing, of another size, or of another hash than the manifest says.
    """
    try:
        manifest = from_json((path / MANIFEST).read_text())
        digest = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: its {MANIFEST} cannot be read ({error}).") from error
    if digest != _sha256_of_json(manifest):
        raise CheckpointError(f"{path / MANIFEST} is damaged: it does not have the SHA-256 it names; use an earlier one.")
    tensors = {}
    for name, expected in manifest["files"].items():
        file = path / f"{name}.safetensors"
        verify(file, size=expected["size"], sha256=expected["sha256"])
        tensors[name] = load_file(file)
    return State(tensors, manifest["numbers"])


def verify(file: Path, *, size: int, sha256: str) -> None:
    """Compare a file with what its manifest says.

    Raises:
        CheckpointError: naming the file, and the size or hash that was met and expected.
    """
    if not file.is_file():
        raise CheckpointError(f"{file} is missing, though its manifest lists it; restore it or use another checkpoint.")
    if (met := file.stat().st_size) != size:
        raise CheckpointError(f"{file} has {met} bytes instead of {size}: it was cut off; use an earlier checkpoint.")
    if (digest := _sha256(file)) != sha256:
        raise CheckpointError(
            f"{file} is damaged: its SHA-256 is {digest[:12]}..., its manifest says {sha256[:12]}...; use an earlier one."
        )


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def unfinished(state: State, name: Path) -> Iterator[str]:
    """A sentence where the training of a state has not come to its end; none where it has, or an older state does not say."""
    step, steps = (state.numbers.get(number, 0) for number in ("step", "steps"))
    if step < steps:
        yield f"{name} has come to step {step} of {steps}; its weights are of an unfinished training, which --resume completes."


def newest_valid(folder: Path) -> tuple[Path, State, list[str]] | None:
    """The newest checkpoint that is whole, and a sentence for each newer one that is not.

    Raises:
        CheckpointError: there are checkpoints, and none of them is whole.
    """
    damaged: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, load(path), damaged
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"No checkpoint in {folder} is whole; the newest: {damaged[0]}")
    return None


def _write_parts(folder: Path, state: State) -> None:
    files = {}
    for name, tensors in state.tensors.items():
        file = folder / f"{name}.safetensors"
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, file)
        _flush(file)
        files[name] = {"size": file.stat().st_size, "sha256": _sha256(file)}
    content = {"files": files, "numbers": state.numbers}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({**content, "sha256": _sha256_of_json(content)}, indent=1))
    _flush(manifest)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _why_not_written(target: Path, state: State, error: Exception) -> str:
    needed = sum(tensor.nbytes for part in state.tensors.values() for tensor in part.values())
    free = shutil.disk_usage(target.parent if target.parent.exists() else Path()).free
    codes = {getattr(error, "errno", None), *map(int, re.findall(r"os error (\d+)", str(error)))}  # safetensors only says it
    if codes & {errno.ENOSPC, errno.EDQUOT} or free < needed:
        why = f"the disk is full: {needed / 2**20:.1f} MiB needed, {free / 2**20:.1f} MiB free"
    else:
        why = str(error)
    return f"Checkpoint {target} could not be written ({why}); earlier checkpoints are intact, continue with --resume."
