"""Tensors of a weight file, and nothing else of it: no code of a file is ever run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.errors import CheckpointError


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and text metadata of a safetensors or torch file, whatever its suffix.

    Of a torch file only the dictionary of tensors is read, which may lie under `state_dict`; it has no metadata.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or holds objects that only code could restore.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no weight file at {path}; give the path of a .safetensors or torch file.")
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    return _read_safetensors(path) if is_safetensors else (_read_torch(path), {})


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
        if zipfile.is_zipfile(path) and (member := zipfile.ZipFile(path).testzip()):
            raise zipfile.BadZipFile(f"checksum of {member} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "Unsupported class" not in str(error):
            raise CheckpointError(_damaged(path, error)) from error
        raise CheckpointError(
            f"{path} holds Python objects beside its tensors, and restoring them could run code of the file; "
            "save its state_dict alone, best as .safetensors."
        ) from error
    except Exception as error:  # A damaged file makes torch fail in any way: EOFError, RuntimeError, KeyError, ...
        raise CheckpointError(_damaged(path, error)) from error
    tensors = content.get("state_dict", content) if isinstance(content, dict) else None
    if not (isinstance(tensors, dict) and tensors and all(isinstance(value, Tensor) for value in tensors.values())):
        raise CheckpointError(f"{path} holds no dictionary of tensors, neither at its top nor under 'state_dict'.")
    return {str(key): value for key, value in tensors.items()}


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} ({path.stat().st_size} bytes) is damaged, cut short or no weight file ({reason[:200]}); get it again."
