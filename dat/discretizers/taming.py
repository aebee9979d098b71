"""Checkpoints of taming-transformers and latent diffusion: their VQGAN, its configuration given or read off the tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dat.discretizers.vqgan import VQGAN, VQGANConfig
from dat.errors import CheckpointError
from dat.nn.weights import load_strictly

NOT_OF_THE_NETWORK = ("loss.", "model_ema.")

Tensors = Mapping[str, Tensor]


def build_taming(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of taming-transformers or latent diffusion, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a VQGAN.
    """
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


def _found(pattern: str, tensors: Tensors) -> set[str]:
    return {found[1] for key in tensors if (found := re.match(pattern, key))}
