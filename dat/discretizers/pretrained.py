"""Trained discretizers on disk: our own files, and those of the public layouts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dat import results
from dat.discretizers import layouts
from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.frozen import FrozenDiscretizer
from dat.errors import CheckpointError, UsageError
from dat.nn.weights import read_tensors

FORMAT = "dat.discretizer"
FILE_NAME = "discretizer.safetensors"

Tensors = Mapping[str, Tensor]


def load_discretizer(
    source: str | Path, config: Mapping[str, Any] | None = None, *, dtype: torch.dtype | None = None
) -> FrozenDiscretizer:
    """The frozen discretizer of a file: ours (also its folder), or a checkpoint of taming-transformers or latent diffusion.

    `config` is the public configuration (`ddconfig`, `n_embed`, `embed_dim`); without it, it is read off the tensors.
    `dtype`: float64 for everything, bfloat16 or float16 for the networks but not the search. Runs no code of the file.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind, or its tensors are not those of the network.
        UsageError: `config` is none of a VQGAN, or `dtype` is none of the above.
    """
    path = Path(source) / FILE_NAME if Path(source).is_dir() else Path(source)
    if dtype not in (None, torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise UsageError(f"A discretizer does not run in {dtype}; give float32, float64, bfloat16 or float16.")
    tensors, metadata = read_tensors(path)
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


def read_extra(source: str | Path) -> dict[str, Any]:
    """The `extra` that was saved with a discretizer of our own format.

    Raises:
        CheckpointError: the file is missing, damaged or not of our own format.
    """
    path = Path(source) / FILE_NAME if Path(source).is_dir() else Path(source)
    tensors, metadata = read_tensors(path)
    if FORMAT not in metadata:
        raise CheckpointError(f"{path} was not written by save_discretizer, so it says nothing of how it was made.")
    return _own_header(path, tensors, metadata)["extra"]


def _own_header(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> dict[str, Any]:
    size = path.stat().st_size
    try:
        header = json.loads(metadata[FORMAT])
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
