"""Checkpoints with the keys of taming-transformers: its VQGANs, latent diffusion's and IBQ's.

Their configuration is given or read off the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from dat.discretizers.configuration import count_of, reading_off
from dat.discretizers.networks import seed_voken
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.errors import CheckpointError
from dat.nn.weights import build_strictly

NOT_OF_THE_NETWORK = ("loss.", "model_ema.")
"""Latent diffusion encodes with the raw weights, also where the file has their running means."""
OF_GUMBELS_TRAINING = {"kl_weight", "temp", "temperature_scheduler_config"}
# `l2_normalize` and `cosine_similarity` reach no line of IBQ's quantizer.
OF_IBQS_TRAINING = seed_voken.OF_TRAINING | {"l2_normalize", "cosine_similarity", "use_entropy_loss"}

NOMINAL_RESOLUTION = 256
"""Said of networks whose configuration is read off; their attention is placed relative to it."""

Tensors = Mapping[str, Tensor]


def build_taming(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of taming-transformers or latent diffusion, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a VQGAN.
    """
    weights = _network_weights(tensors)
    settings = infer_config(weights, name) if config is None else VQGANConfig.from_dict(config)
    return build_strictly(lambda: VQGAN(settings), weights, name=name)


def build_gumbel(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of taming's Gumbel quantizer, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a VQGAN.
    """
    weights = _network_weights(tensors)
    settings = _config_of(weights, config, name, quantizer="gumbel", skip=OF_GUMBELS_TRAINING)
    return build_strictly(lambda: VQGAN(settings), weights, name=name)


def build_ibq(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a checkpoint of IBQ, in float32: of the running means of its weights, unless `use_ema` is false.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of an IBQ.
    """
    weights = seed_voken.network_weights(tensors, name, averaged=(config or {}).get("use_ema", True))
    settings = _config_of(weights, config, name, quantizer="ibq", skip=OF_IBQS_TRAINING)
    return build_strictly(lambda: VQGAN(settings), weights, name=name)


def refuse_undecided(tensors: Tensors, name: str) -> None:
    """Refuse, where there is no configuration, what may be an IBQ: it has the keys of a VQGAN, but finds its codes otherwise.

    Every public IBQ has four residual blocks per level, and no public VQGAN of taming or latent diffusion has.

    Raises:
        CheckpointError: the network has four blocks per level.
    """
    if count_of(r"encoder\.down\.0\.block\.(\d+)\.", tensors) == 4:
        raise CheckpointError(
            f"{name} has the keys of a VQGAN and the four residual blocks per level of an IBQ, which cannot be told apart by "
            'their tensors; say which it is: config={"layout": "ibq"} or config={"layout": "vqgan"}.'
        )


def infer_config(tensors: Tensors, name: str, *, quantizer: str = "vq") -> VQGANConfig:
    """Shape of the network that has these tensors; the nominal resolution, which they cannot tell, is called 256.

    Raises:
        CheckpointError: a tensor that tells the shape is missing or of a shape that no such network has, or they belong to
            a KL autoencoder.
    """
    with reading_off(name, "VQGAN of a known layout"):
        levels = count_of(r"encoder\.down\.(\d+)\.", tensors)
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        codebook = tensors["quantize.embed.weight" if quantizer == "gumbel" else "quantize.embedding.weight"]
        ch, in_channels = tensors["encoder.conv_in.weight"].shape[:2]
        encoded, decoded = len(tensors["encoder.conv_out.weight"]), tensors["decoder.conv_in.weight"].shape[1]
        if encoded != decoded:
            raise CheckpointError(f"{name} holds an autoencoder that encodes to {encoded} and decodes from {decoded} channels.")
        with_attention = [level for level in range(levels) if f"encoder.down.{level}.attn.0.q.weight" in tensors]
        return VQGANConfig(
            n_embed=codebook.shape[0],
            embed_dim=codebook.shape[1],
            z_channels=encoded,
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=count_of(r"encoder\.down\.0\.block\.(\d+)\.", tensors),
            resolution=NOMINAL_RESOLUTION,
            attn_resolutions=tuple(NOMINAL_RESOLUTION // 2**level for level in with_attention),
            attn_type="vanilla" if "encoder.mid.attn_1.q.weight" in tensors else "none",
            in_channels=in_channels,
            out_ch=len(tensors["decoder.conv_out.weight"]),
            quantizer=quantizer,
        )


def _network_weights(tensors: Tensors) -> dict[str, Tensor]:
    return {key: value.float() for key, value in tensors.items() if not key.startswith(NOT_OF_THE_NETWORK)}


def _config_of(weights: Tensors, config: Mapping[str, Any] | None, name: str, *, quantizer: str, skip: set[str]) -> VQGANConfig:
    if config is None:
        return infer_config(weights, name, quantizer=quantizer)
    of_network = {key: value for key, value in config.items() if key not in skip}
    return replace(VQGANConfig.from_dict(of_network), quantizer=quantizer)
