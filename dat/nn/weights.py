"""Tensors of a weight file, and nothing else of it: no code of a file is ever run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.errors import CheckpointError
from dat.nn.torch_files import read_torch_file

Network = TypeVar("Network", bound=nn.Module)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and text metadata of a safetensors or torch file, whatever its suffix.

    Of a torch file only the dictionary of tensors is read, which may lie under `state_dict` or the like, or that of a
    pickled module; whatever else it holds is passed over, neither imported nor called. It has no metadata.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or holds no dictionary of tensors.
    """
    _check_there(path)
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    return _read_safetensors(path) if is_safetensors else (_read_torch(path), {})


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal, as manifests and download pages give it.

    Raises:
        CheckpointError: there is no such file.
    """
    _check_there(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Make the tensors the weights of a network (also of one on the meta device), all of them and no others.

    Raises:
        CheckpointError: names are missing or left over, or shapes differ; the message names the first ones.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in tensors.items()}
    faults = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "of another shape": [
            f"{key} {given[key]} instead of {wanted[key]}" for key in wanted if given.get(key, wanted[key]) != wanted[key]
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in faults.items() if keys)
        raise CheckpointError(f"The tensors of {name} are not those of this network: {listed}.")
    network.load_state_dict(dict(tensors), assign=True)


def build_strictly(create: Callable[[], Network], tensors: Mapping[str, Tensor], *, name: str) -> Network:
    """The network that `create` makes, with these tensors as its weights; none are drawn or held before.

    Raises:
        CheckpointError: see `load_strictly`.
    """
    with torch.device("meta"):
        network = create()
    load_strictly(network, tensors, name=name)
    return network


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"There is no weight file at {path}; give the path of a .safetensors or torch file.")


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(_damaged(path, error)) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        return read_torch_file(path)
    except CheckpointError:
        raise
    except Exception as error:  # Damage shows in any way: EOFError, BadZipFile, KeyError, MemoryError, ...
        raise CheckpointError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} ({path.stat().st_size} bytes) is damaged, cut short or no weight file ({reason[:200]}); get it again."
