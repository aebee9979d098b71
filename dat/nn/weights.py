"""Tensors of a weight file, and nothing else of it: no code of a file is ever run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.errors import CheckpointError
from dat.nn.torch_files import AVERAGES, TOP, WRAPPERS, read_torch_file
from dat.progress import warn

Network = TypeVar("Network", bound=nn.Module)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and text metadata of a safetensors or torch file, whatever its suffix.

    Of a torch file only the dictionary of tensors is read, which may lie under `state_dict` or the like, or that of a
    pickled module; whatever else it holds is passed over, neither imported nor called. It has no metadata.

    Raises:
        CheckpointError: the file is missing, damaged, of another kind, or holds no dictionary of tensors.
    """
    _check_there(path)
    return _read_safetensors(path) if _is_safetensors(path) else (_read_torch(path, (*WRAPPERS, TOP))[1], {})


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file, and of no other.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
    """
    _check_there(path)
    if not _is_safetensors(path):
        raise CheckpointError(f"{path.name} ({path.stat().st_size} bytes) is no safetensors file, whatever its name says.")
    return _read_safetensors(path)[0]


def read_weights(source: str | Path) -> tuple[dict[str, Tensor], str]:
    """The weights of a classifier, of `FILE` or `FILE#KEY`, and which of the file they are: KEY, or the name of an average.

    Of a torch file with raw weights and their running average the average is taken, as by timm, and that is said. The
    second value is empty where there is nothing to tell.

    Raises:
        CheckpointError: as `read_tensors`; or there are no tensors under KEY.
    """
    path, key = split_key(source)
    _check_there(path)
    if _is_safetensors(path):
        if key:
            raise CheckpointError(f"{path} is a safetensors file, whose tensors lie at its top; leave out #{key}.")
        return _read_safetensors(path)[0], ""
    place, tensors = _read_torch(path, (key,) if key else (*AVERAGES, *WRAPPERS, TOP))
    if place in AVERAGES and not key:
        warn(f"{path} keeps an average of the weights, {place}, which is taken; write FILE#KEY for others, e.g. #state_dict.")
    return tensors, place if place in AVERAGES or key else ""


def split_key(source: str | Path) -> tuple[Path, str]:
    """File and key of `FILE#KEY`; the key is empty where none is named."""
    file, _, key = str(source).rpartition("#")
    return (Path(file), key) if file and key and not Path(source).exists() else (Path(source), "")


def fitted(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names and in the precision of a network, for `load_strictly`; what does not fit is left as it is.

    A prefix that all names share, as `module.` of parallel training, `_orig_mod.` of compiled networks and `network.` of our
    own checkpoints, is taken off, and so are auxiliary normalisation layers. Counts of batches, which old files lack and only
    training reads, begin at 0.
    """
    own = network.state_dict()
    main = {key.replace(".main.", "."): value for key, value in tensors.items() if ".auxiliary." not in key}
    is_ours = len(main) < len(tensors) and not any(".auxiliary." in key for key in own)
    named = {key: value for key, value in (main if is_ours else tensors).items() if key != "n_averaged"}
    given = _without_common_prefix(named, own)
    both = {key: value for key, value in given.items() if key in own and value.is_floating_point()}
    counts = {key: torch.tensor(0) for key in own if key.endswith("num_batches_tracked")}
    return {**counts, **given, **{key: value.to(own[key].dtype) for key, value in both.items()}}


def _without_common_prefix(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Also of several prefixes, one behind the other; a name that the network has itself stays."""
    while len(first := {key.split(".")[0] for key in tensors if "." in key}) == 1 and all("." in key for key in tensors):
        if any(key.split(".")[0] in first for key in own):
            break
        tensors = {key.split(".", 1)[1]: value for key, value in tensors.items()}
    return tensors


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal, as manifests and download pages give it.

    Raises:
        CheckpointError: there is no such file.
    """
    _check_there(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PATCHES = "patch_embed.proj.weight"
"""How the name of what makes tokens of patches ends, in every vision transformer."""


def refuse_other_patches(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Refuse weights of a vision transformer whose patches have another size than those of the network.

    Raises:
        CheckpointError: both sizes, and what to write; `name` is the file's.
    """
    for key, own in network.state_dict().items():
        given = tensors.get(key)
        if key.endswith(PATCHES) and given is not None and given.ndim == own.ndim and given.shape[2:] != own.shape[2:]:
            theirs, ours = ("x".join(map(str, dict.fromkeys(tensor.shape[2:]))) for tensor in (given, own))
            raise CheckpointError(
                f"The weights of {name} have patches of {theirs} pixels a side, and the recipe asks for {ours}; write "
                f"model.options.patch_size={theirs}, or name weights with patches of {ours}."
            )


def load_strictly(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str, renamed: Callable[[str], str] = str) -> None:
    """Make the tensors the weights of a network (also of one on the meta device), all of them and no others.

    `renamed` gives the name in `tensors` of a weight of the network; the same without it.

    Raises:
        CheckpointError: names are missing or left over, or shapes differ; the message names the first ones.
    """
    own = network.state_dict()
    wanted = {renamed(key): tuple(value.shape) for key, value in own.items()}
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
    network.load_state_dict({key: tensors[renamed(key)] for key in own}, assign=True)


def build_strictly(
    create: Callable[[], Network], tensors: Mapping[str, Tensor], *, name: str, renamed: Callable[[str], str] = str
) -> Network:
    """The network that `create` makes, with these tensors as its weights; none are drawn or held before.

    Raises:
        CheckpointError: see `load_strictly`.
    """
    with torch.device("meta"):
        network = create()
    load_strictly(network, tensors, name=name, renamed=renamed)
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


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_torch(path: Path, places: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    try:
        return read_torch_file(path, places)
    except CheckpointError:
        raise
    except Exception as error:  # Damage shows in any way: EOFError, BadZipFile, KeyError, MemoryError, ...
        raise CheckpointError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} ({path.stat().st_size} bytes) is damaged, cut short or no weight file ({reason[:200]}); get it again."
