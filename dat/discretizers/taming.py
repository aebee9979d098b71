"""Checkpoints with the keys of taming-transformers: its VQGANs, latent diffusion's and IBQ's.

Their configuration is given or read off the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dat.discretizers import seed_voken
from dat.discretizers.vqgan import VQGAN, VQGANConfig
from dat.errors import CheckpointError
from dat.nn.weights import load_strictly

NOT_OF_THE_NETWORK = ("loss.", "model_ema.")
"""Latent diffusion encodes with the raw weights, also where the file has their running means."""
OF_GUMBELS_TRAINING = {"kl_weight", "temp", "temperature_scheduler_config"}
# `l2_normalize` and `cosine_similarity` reach no line of IBQ's quantizer.
OF_IBQS_TRAINING = seed_voken.OF_TRAINING | {"l2_normalize", "cosine_similarity", "use_entropy_loss"}

Tensors = Mapping[str, Tensor]


def build_taming(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of taming-transformers or latent diffusion, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a VQGAN.
    """
    weights = _network_weights(tensors)
    return _build(weights, infer_config(weights, name) if config is None else VQGANConfig.from_dict(config), name)


def build_gumbel(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of taming's Gumbel quantizer, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a VQGAN.
    """
    weights = _network_weights(tensors)
    return _build(weights, _config_of(weights, config, name, quantizer="gumbel", skip=OF_GUMBELS_TRAINING), name)


def build_ibq(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of IBQ, in float32: of the running means of its weights, unless `use_ema` is false.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of an IBQ.
    """
    weights = seed_voken.network_weights(tensors, name, averaged=(config or {}).get("use_ema", True))
    return _build(weights, _config_of(weights, config, name, quantizer="ibq", skip=OF_IBQS_TRAINING), name)


def refuse_undecided(tensors: Tensors, name: str) -> None:
    """Refuse, where there is no configuration, what may be an IBQ: it has the keys of a VQGAN, but finds its codes otherwise.

    Every public IBQ has four residual blocks per level, and no public VQGAN of taming or latent diffusion has.

    Raises:
        CheckpointError: the network has four blocks per level.
    """
    if len(_found(r"encoder\.down\.0\.block\.(\d+)\.", tensors)) == 4:
        raise CheckpointError(
            f"{name} has the keys of a VQGAN and the four residual blocks per level of an IBQ, which cannot be told apart by "
            'their tensors; say which it is: config={"layout": "ibq"} or config={"layout": "vqgan"}.'
        )


def infer_config(tensors: Tensors, name: str, *, quantizer: str = "vq") -> VQGANConfig:
    """Shape of the network that has these tensors; the nominal resolution, which they cannot tell, is called 256.

    Raises:
        CheckpointError: a tensor that tells the shape is missing, or they belong to a KL autoencoder.
    """
    levels = 1 + max((int(level) for level in _found(r"encoder\.down\.(\d+)\.", tensors)), default=-1)
    try:
        first, last = tensors["encoder.conv_in.weight"].shape, tensors["encoder.conv_out.weight"].shape
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        codebook = tensors["quantize.embed.weight" if quantizer == "gumbel" else "quantize.embedding.weight"].shape
        out = tensors["decoder.conv_out.weight"].shape
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
        quantizer=quantizer,
    )


def _network_weights(tensors: Tensors) -> dict[str, Tensor]:
    return {key: value.float() for key, value in tensors.items() if not key.startswith(NOT_OF_THE_NETWORK)}


def _config_of(weights: Tensors, config: Mapping[str, Any] | None, name: str, *, quantizer: str, skip: set[str]) -> VQGANConfig:
    if config is None:
        return infer_config(weights, name, quantizer=quantizer)
    of_network = {key: value for key, value in config.items() if key not in skip}
    return replace(VQGANConfig.from_dict(of_network), quantizer=quantizer)


def _build(weights: Tensors, config: VQGANConfig, name: str) -> VQGAN:
    with torch.device("meta"):  # The weights come from the file, so none are drawn.
        vqgan = VQGAN(config)
    load_strictly(vqgan, weights, name=name)
    return vqgan


def _found(pattern: str, tensors: Tensors) -> set[str]:
    return {found[1] for key in tensors if (found := re.match(pattern, key))}
