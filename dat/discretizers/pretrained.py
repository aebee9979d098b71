"""Trained discretizers on disk: our own files, and those of the public layouts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dat import results
from dat.discretizers import layouts, library_folder, names
from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.dalle import DalleDVAE, encoder_in, other_half, read_both_halves
from dat.errors import CheckpointError, UsageError
from dat.nn.weights import file_sha256, read_tensors
from dat.results import from_json

FORMAT = "dat.discretizer"
FILE_NAME = "discretizer.safetensors"

Tensors = Mapping[str, Tensor]


def load_discretizer(
    source: str | Path, config: Mapping[str, Any] | None = None, *, dtype: torch.dtype | None = None
) -> FrozenDiscretizer:
    """The frozen discretizer of a file: ours (also its folder), or of a public layout; or of a name (`dat discretizer list`).

    Of a dVAE, either half or the folder of both; of diffusers and transformers, the folder with config.json.
    A path goes before a name. Nothing is downloaded; no code of a file runs.
    `config`: the settings of the network in the words of its authors, or `{"layout": ...}` (of `dat.discretizers.layouts`)
    where tensors do not tell it, or both; without settings, they are read off the tensors. A file of ours goes by its own.
    `dtype`: float64 for everything, bfloat16 or float16 for the networks but not the search.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, or its tensors are not those of the network.
        UsageError: `config` is none of this layout, or `dtype` is none of the above.
    """
    path, known = names.locate(source)
    path, config = _file_of(path), known if config is None else config
    config = library_folder.config_beside(path) if config is None else config
    if dtype not in (None, torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise UsageError(f"A discretizer does not run in {dtype}; give float32, float64, bfloat16 or float16.")
    tensors, metadata = read_both_halves(path)
    if FORMAT in metadata:
        config = _own_header(path, tensors, metadata)["config"]
    frozen = FrozenDiscretizer(layouts.build(tensors, config, str(path)), copy_network=False)
    if dtype == torch.float64:
        return frozen.double()
    return frozen if dtype in (None, torch.float32) else frozen.low_precision(dtype)


def save_discretizer(path: str | Path, network: Autoencoder, extra: Mapping[str, Any] | None = None) -> Path:
    """Write one safetensors file (into a folder: as `discretizer.safetensors`), atomically; returns its path.

    Its metadata hold the configuration, `extra` (anything JSON holds, say how it was trained) and a hash of it all.
    """
    path = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / FILE_NAME
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    header = {"config": {"layout": network.layout, **network.config.to_dict()}, "extra": dict(extra or {})}
    signed = {**header, "sha256": _digest(tensors, header)}
    # One entry of metadata: safetensors writes several in random order, and equal weights should make equal files.
    results.write_bytes(path, safetensors.torch.save(tensors, {FORMAT: json.dumps(signed, sort_keys=True)}))
    return path


def convert(source: str | Path, target: str | Path, config: Mapping[str, Any] | None = None) -> Path:
    """Write a discretizer as a file of our own format, once and for all; its codes and pictures stay the same to the bit.

    `read_extra` of the new file tells its layout, name, bytes and SHA-256 of what it was made of, and a public name's facts.

    Raises:
        CheckpointError: see `load_discretizer`.
        UsageError: see `load_discretizer`; or `target` is no .safetensors file and no folder, or is there already.
    """
    target, (path, known) = Path(target), names.locate(source)
    if target.suffix not in ("", ".safetensors"):
        raise UsageError(f"A discretizer is converted to safetensors, not to {target}; write {target.stem}.safetensors.")
    written = target if target.suffix else target / FILE_NAME
    if written.exists():
        raise UsageError(f"{written} is there already; delete it first, or write another name.")
    network = load_discretizer(path, known if config is None else config).network
    files = _read_from(_file_of(path), network.layout)
    made_of = [{"file": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in files]
    extra: dict[str, Any] = {"layout": network.layout, "source": made_of}
    if known and (row := names.PUBLIC.get(str(source))):
        extra |= {"name": row.name, "page": row.page, "licence": row.licence}
    with suppress(CheckpointError):  # only our own format tells how it was made
        extra = {**read_extra(path), **extra}
    return save_discretizer(written, network, extra)


def read_extra(source: str | Path) -> dict[str, Any]:
    """The `extra` that was saved with a discretizer of our own format; `source` as for `load_discretizer`.

    Raises:
        CheckpointError: the file is missing, damaged or not of our own format.
    """
    path = _file_of(names.locate(source)[0])
    tensors, metadata = read_tensors(path)
    if FORMAT not in metadata:
        raise CheckpointError(f"{path} was not written by save_discretizer, so it says nothing of how it was made.")
    return _own_header(path, tensors, metadata)["extra"]


def weight_file(source: str | Path) -> Path:
    """The file that `load_discretizer` reads for this source, of a dVAE the encoder's.

    Raises:
        CheckpointError: there is none, or `source` is no name.
    """
    return _file_of(names.locate(source)[0])


def weight_files(source: str | Path) -> list[Path]:
    """All files that `load_discretizer` reads for this source: one, both halves of a dVAE, or with a library's configuration.

    Raises:
        CheckpointError: as `weight_file`.
    """
    file = weight_file(source)
    if (other := other_half(file)) is not None:
        return sorted((file, other))
    return [file, *library_folder.files_beside(file)]


def _file_of(path: Path) -> Path:
    """Of a folder, our own file, or the encoder's of the two of a dVAE, or that of a library."""
    if not path.is_dir():
        return path
    own = path / FILE_NAME
    return own if own.is_file() else encoder_in(path) or library_folder.weights_in(path) or own


def _read_from(file: Path, layout: str) -> list[Path]:
    """The file itself, or both halves of a dVAE."""
    other = other_half(file) if layout == DalleDVAE.layout else None
    return [file] if other is None else sorted((file, other))


def _own_header(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> dict[str, Any]:
    size = path.stat().st_size
    try:
        header = from_json(metadata[FORMAT])
        if _digest(tensors, header) == header["sha256"]:
            return header
    except (ValueError, KeyError, TypeError):
        pass  # what cannot even be read was changed, too
    raise CheckpointError(f"{path} ({size} bytes) was changed after it was written: its hash differs; get it again.")


def _digest(tensors: Tensors, header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([header["config"], header["extra"]], sort_keys=True).encode())
    for key in sorted(tensors):
        value = tensors[key]
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
