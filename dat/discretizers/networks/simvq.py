"""SimVQ: a codebook that is one linear layer of fixed vectors, between the convolutions of Open-MAGVIT2 without their norms.

Source: Zhu et al. (2024), Addressing Representation Collapse in Vector Quantized Models with One Linear Layer;
youngsheen/SimVQ:taming/modules/vqvae/quantize.py, taming/modules/diffusionmodules/improved_model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import count_of, reading_off, settings_from
from dat.discretizers.networks import seed_voken
from dat.discretizers.networks.magvit2 import DecoderLevel, Encoder, MAGVIT2Config, Residual
from dat.discretizers.networks.vqgan import Features, group_norm, silu
from dat.discretizers.quantizers.nearest import VectorQuantizer
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Images, Latents

KIND = "a SimVQ"
CODEBOOK, LINEAR = "quantize.embedding.weight", "quantize.embedding_proj."
OF_TRAINING = seed_voken.OF_TRAINING | {"accumulate_steps"}
OF_QUANTIZERS_TRAINING = {"beta", "legacy", "sane_index_shape", "remap", "unknown_index"}

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class SimVQConfig:
    """Number of codes, and the shape of the convolutions, whose `z_channels` are the length of a code."""

    n_e: int
    shape: MAGVIT2Config

    def __post_init__(self) -> None:
        if type(self.n_e) is not int or self.n_e < 1:
            raise UsageError(f"In {KIND} n_e, the number of codes, is a whole number from 1 on; got {self.n_e!r}.")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> SimVQConfig:
        """From the dictionary of a public configuration: `ddconfig` and `quantconfig`; training keys are skipped.

        Raises:
            UsageError: a key is unknown or missing, or sizes contradict each other.
        """
        words = {key: value for key, value in config.items() if key not in OF_TRAINING}
        inner, quantizer = words.pop("ddconfig", None), words.pop("quantconfig", None)
        params = quantizer.get("params") if isinstance(quantizer, Mapping) else None
        if words or not isinstance(inner, Mapping) or not isinstance(params, Mapping):
            raise UsageError(f"A configuration of SimVQ has 'ddconfig' and 'quantconfig' with 'params'; got {sorted(config)}.")
        shape = settings_from({key: value for key, value in inner.items() if key != "double_z" or value}, MAGVIT2Config, KIND)
        kept = {key: value for key, value in params.items() if key not in OF_QUANTIZERS_TRAINING or (key == "remap" and value)}
        if kept.keys() != {"n_e", "e_dim"} or kept["e_dim"] != shape.z_channels:
            raise UsageError(
                f"The quantizer of {KIND} has n_e codes of e_dim={shape.z_channels} channels (z_channels); got {kept}."
            )
        return cls(kept["n_e"], shape)

    def to_dict(self) -> dict[str, object]:
        """The public form, which `from_dict` takes and JSON holds."""
        inner = {"double_z": False, **asdict(self.shape), "ch_mult": list(self.shape.ch_mult)}
        return {"ddconfig": inner, "quantconfig": {"params": {"n_e": self.n_e, "e_dim": self.shape.z_channels}}}


def build_simvq(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> SimVQ:
    """The network of a checkpoint of SimVQ, in float32: of the running means of its weights, unless `use_ema` is false.

    Its codebook is computed once, so a converted file holds that and no linear layer.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a SimVQ.
    """
    weights = network_weights(tensors, name, averaged=(config or {}).get("use_ema", True))
    settings = infer_config(weights, name) if config is None else SimVQConfig.from_dict(config)
    return build_strictly(lambda: SimVQ(settings), _projected(weights, name), name=name)


def network_weights(tensors: Tensors, name: str, *, averaged: bool) -> dict[str, Tensor]:
    """As `seed_voken.network_weights`; the vectors that were never trained have no running means.

    Raises:
        CheckpointError: there are means, but not of every trained weight.
    """
    fixed = {key: value.float() for key, value in tensors.items() if key == CODEBOOK}
    trained = {key: value for key, value in tensors.items() if key != CODEBOOK}
    return {**seed_voken.network_weights(trained, name, averaged=averaged), **fixed}


def infer_config(tensors: Tensors, name: str) -> SimVQConfig:
    """Shape of the network that has these tensors; the resolution of its training, which they cannot tell, is called 128.

    Raises:
        CheckpointError: a tensor that tells the shape is missing or of a shape that no such network has.
    """
    with reading_off(name, "SimVQ"):
        levels = count_of(r"encoder\.down\.(\d+)\.", tensors)
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        ch, in_channels = tensors["encoder.conv_in.weight"].shape[:2]
        shape = MAGVIT2Config(
            z_channels=len(tensors["encoder.conv_out.weight"]),
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=count_of(r"encoder\.mid_block\.(\d+)\.", tensors),
            in_channels=in_channels,
            out_ch=len(tensors["decoder.conv_out.weight"]),
        )
        return SimVQConfig(len(tensors[CODEBOOK]), shape)


def _projected(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """With the codebook that the linear layer makes of the fixed vectors in their place."""
    if not any(key.startswith(LINEAR) for key in weights):
        return dict(weights)
    with reading_off(name, "SimVQ"):
        fixed, matrix, bias = (weights[key] for key in (CODEBOOK, f"{LINEAR}weight", f"{LINEAR}bias"))
        if matrix.shape != (fixed.shape[1],) * 2 or bias.shape != fixed.shape[1:]:
            raise ValueError("the linear layer is not square")
        rest = {key: value for key, value in weights.items() if not key.startswith(LINEAR)}
        return {**rest, CODEBOOK: F.linear(fixed, matrix, bias)}


class SimVQ(Autoencoder):
    """Encoder, codebook and decoder; images are in [-1, 1] here. `FrozenDiscretizer` speaks [0, 1]."""

    layout = "simvq"

    def __init__(self, config: SimVQConfig) -> None:
        super().__init__()
        self.config, self.codebook_size, self.stride = config, config.n_e, config.shape.stride
        self.encoder = Encoder(config.shape)
        self.decoder = Decoder(config.shape)
        self.quantize = VectorQuantizer(config.n_e, config.shape.z_channels)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [-1, 1] whose sides are multiples of the stride."""
        return self.encoder(images)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [-1, 1], not clamped."""
        return self.decoder(vectors)


class Decoder(nn.Module):
    """Vectors of codes to images `stride` times as large."""

    def __init__(self, config: MAGVIT2Config) -> None:
        super().__init__()
        widths, blocks = config.widths, config.num_res_blocks
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid_block = nn.Sequential(*(Residual(widths[-1], widths[-1]) for _ in range(blocks)))
        self.up = nn.ModuleList(
            DecoderLevel(before, width, blocks, upsample=level > 0)
            for level, (before, width) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, vectors: Features) -> Features:
        """Images around [-1, 1], not clamped."""
        features = self.mid_block(self.conv_in(vectors))
        for level in reversed(self.up):
            features = level(features)
        return self.conv_out(silu(self.norm_out(features)))
