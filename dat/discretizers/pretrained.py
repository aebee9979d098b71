"""Trained discretizers on disk: our own files and the public layouts.

A layout is one file that makes a network of tensors, and one line of `LAYOUTS`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from dat import results
from dat.discretizers.frozen import FrozenVQGAN
from dat.discretizers.vqgan import VQGAN, VQGANConfig
from dat.errors import CheckpointError, UsageError
from dat.nn.weights import load_strictly, read_tensors

FORMAT = "dat.vqgan"
FILE_NAME = "discretizer.safetensors"
NOT_OF_THE_NETWORK = ("loss.", "model_ema.")

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A public key layout: the key that tells it, and the network made of its tensors and configuration (or None)."""

    telling_key: str
    build: Callable[[Tensors, Mapping[str, Any] | None, str], VQGAN]


def load_discretizer(
    source: str | Path, config: Mapping[str, Any] | None = None, *, dtype: torch.dtype | None = None
) -> FrozenVQGAN:
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
    frozen = FrozenVQGAN(_layout(path, tensors).build(tensors, config, str(path)), copy_network=False)
    if dtype == torch.float64:
        return frozen.double()
    return frozen if dtype in (None, torch.float32) else frozen.low_precision(dtype)


def save_discretizer(path: str | Path, vqgan: VQGAN, extra: Mapping[str, Any] | None = None) -> Path:
    """Write one safetensors file (into a folder: as `discretizer.safetensors`), atomically; returns its path.

    Its metadata hold the configuration, `extra` (anything JSON holds, say how it was trained) and a hash of it all.
    """
    path = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / FILE_NAME
    tensors = {key: value.detach().cpu().contiguous() for key, value in vqgan.state_dict().items()}
    header = {"config": vqgan.config.to_dict(), "extra": dict(extra or {})}
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


def build_taming(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of taming-transformers or latent diffusion, in float32."""
    weights = {key: value.float() for key, value in tensors.items() if not key.startswith(NOT_OF_THE_NETWORK)}
    settings = infer_config(weights, name) if config is None else VQGANConfig.from_dict(config)
    with torch.device("meta"):  # The weights come from the file, so none are drawn.
        vqgan = VQGAN(settings)
    load_strictly(vqgan, weights, name=name)
    return vqgan


def infer_config(tensors: Tensors, name: str) -> VQGANConfig:
    """Shape of the network that has these tensors; the nominal resolution, which they cannot tell, is called 256.

    Raises:
        CheckpointError: a tensor that tells the shape is missing, or they belong to a KL autoencoder.
    """
    levels = 1 + max((int(level) for level in _found(r"encoder\.down\.(\d+)\.", tensors)), default=-1)
    try:
        first, last = tensors["encoder.conv_in.weight"].shape, tensors["encoder.conv_out.weight"].shape
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        codebook, out = tensors["quantize.embedding.weight"].shape, tensors["decoder.conv_out.weight"].shape
        decoded = tensors["decoder.conv_in.weight"].shape[1]
    except KeyError as error:
        raise CheckpointError(f"{name} holds no VQGAN of a known layout: it lacks the tensor {error}.") from error
    if last[0] != decoded:
        raise CheckpointError(f"{name} holds an autoencoder that encodes to {last[0]} and decodes from {decoded} channels.")
    attention = sorted(int(level) for level in _found(r"encoder\.down\.(\d+)\.attn\.0\.q", tensors))
    return VQGANConfig(
        n_embed=codebook[0],
        embed_dim=codebook[1],
        z_channels=last[0],
        ch=first[0],
        ch_mult=tuple(width // first[0] for width in widths),
        num_res_blocks=len(_found(r"encoder\.down\.0\.block\.(\d+)\.", tensors)),
        resolution=256,
        attn_resolutions=tuple(256 // 2**level for level in attention),
        attn_type="vanilla" if "encoder.mid.attn_1.q.weight" in tensors else "none",
        in_channels=first[1],
        out_ch=out[0],
    )


LAYOUTS = (Layout("quantize.embedding.weight", build_taming),)


def _layout(path: Path, tensors: Tensors) -> Layout:
    for layout in LAYOUTS:
        if layout.telling_key in tensors:
            return layout
    known = ", ".join(layout.telling_key for layout in LAYOUTS)
    raise CheckpointError(f"{path} holds no discretizer of a known layout: none of its tensors is {known}.")


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


def _found(pattern: str, tensors: Tensors) -> set[str]:
    return {found[1] for key in tensors if (found := re.match(pattern, key))}
