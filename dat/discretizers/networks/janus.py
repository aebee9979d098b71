"""The tokenizer of Janus as the library transformers has it: a VQGAN whose codes become vectors of length 1 for the decoder.

Source: Wu et al. (2024), Janus; huggingface/transformers:src/transformers/models/janus/modeling_janus.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from dat.discretizers.configuration import check_values, tokenizer_settings, tokenizer_words
from dat.discretizers.networks.pixel_statistics import check_statistics, normalised, restored
from dat.discretizers.networks.taming import NOMINAL_RESOLUTION
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.quantizers.nearest import TrainableQuantizer, VectorQuantizer
from dat.errors import CheckpointError, UsageError
from dat.nn.weights import build_strictly
from dat.types import Codes, Images, Latents

KIND = "a tokenizer of Janus"
MODEL_TYPE = "janus_vqgan"

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class JanusConfig:
    """Shape of the network, in the words of `JanusVQVAEConfig`, and what preprocessor_config.json says of pixels.

    The network sees `(x - image_mean) / image_std` of images in [0, 1], a number for each channel.
    """

    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    embed_dim: int = 8
    num_embeddings: int = 16384
    double_latent: bool = False
    latent_channels: int = 256
    in_channels: int = 3
    base_channels: int = 128
    channel_multiplier: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    dropout: float = 0.0
    out_channels: int = 3

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        check_statistics(self.image_mean, self.image_std, {self.in_channels, self.out_channels})
        if self.double_latent:
            raise UsageError(f"double_latent=True is no {KIND.removeprefix('a ')}; take a configuration without.")

    def as_vqgan(self) -> VQGANConfig:
        """The network in the words of taming-transformers; attention is at the lowest resolution only."""
        return VQGANConfig(
            n_embed=self.num_embeddings,
            embed_dim=self.embed_dim,
            z_channels=self.latent_channels,
            ch=self.base_channels,
            ch_mult=self.channel_multiplier,
            num_res_blocks=self.num_res_blocks,
            resolution=NOMINAL_RESOLUTION,
            attn_resolutions=(NOMINAL_RESOLUTION // 2 ** (len(self.channel_multiplier) - 1),),
            in_channels=self.in_channels,
            out_ch=self.out_channels,
            dropout=float(self.dropout),
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> JanusConfig:
        """From config.json of transformers.

        Raises:
            UsageError: as `tokenizer_settings`.
        """
        return tokenizer_settings(config, cls, KIND, model_type=MODEL_TYPE)

    def to_dict(self) -> dict[str, object]:
        """The public words, which `from_dict` takes and JSON holds."""
        return tokenizer_words(self, MODEL_TYPE)


class UnitOnTheWayBack(VectorQuantizer):
    """The nearest code of the codebook as it lies, which the decoder then sees at length 1, as transformers has it."""

    def decode(self, codes: Codes) -> Latents:
        """Codebook row at each position, at length 1."""
        return F.normalize(self.embedding(codes), dim=-1).permute(0, 3, 1, 2)


class Janus(VQGAN):
    """Encoder, codebook and decoder; images are in [0, 1]. Codes are a grid of any size, not a row that is a square."""

    layout = "janus"
    pixel_range = (0.0, 1.0)

    def __init__(self, config: JanusConfig) -> None:
        shape = config.as_vqgan()
        super().__init__(shape)
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride, reportAttributeAccessIssue]
        self.mean, self.std = config.image_mean, config.image_std
        self.quantize: TrainableQuantizer = UnitOnTheWayBack(shape.n_embed, shape.embed_dim)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [0, 1] whose sides are multiples of the stride."""
        return super().latents(normalised(images, self.mean, self.std))

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [0, 1], not clamped."""
        return restored(super().decode_vectors(vectors), self.mean, self.std)


def build_janus(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> Janus:
    """The tokenizer of a folder of transformers, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; or there is no configuration.
        UsageError: `config` is none of a tokenizer of Janus.
    """
    if config is None:
        raise CheckpointError(
            f"{name} does not tell its network; give config.json of Janus's tokenizer, with image_mean and image_std."
        )
    settings = JanusConfig.from_dict(config)
    weights = {key: value.float() for key, value in tensors.items()}
    last = len(settings.channel_multiplier) - 1
    is_ours = not last or f"decoder.up.{last}.upsample.conv.weight" in weights
    return build_strictly(
        lambda: Janus(settings), weights, name=name, renamed=lambda key: key if is_ours else _renumbered(key, last)
    )


def _renumbered(key: str, last: int) -> str:
    """Transformers numbers the levels of the decoder from the lowest resolution on, taming from the highest."""
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up.{last - int(found[1])}.", key)
