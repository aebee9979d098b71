"""The VQGAN of MaskGIT as ported to PyTorch: network and key layout, so that public weights load strictly.

Source: Chang et al. (2022), MaskGIT; bytedance/1d-tokenizer:modeling/modules/maskgit_vqgan.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import check_values, count_of, reading_off, settings_from
from dat.discretizers.networks.vqgan import GROUPS, Features, group_norm, silu
from dat.discretizers.quantizers.nearest import VectorQuantizer
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Images, Latents

KIND = "a VQGAN of MaskGIT"
DERIVED = ("num_resolutions", "embedding_dim", "quantized_embed_dim")
"""Public words that only repeat what others say."""
# Words that change nothing: of training, of the file's own format, and attention that the original never builds.
WITHOUT_EFFECT = {"commitment_cost", "attn_resolutions", "resample_with_conv", "_class_name", "_version"}

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class MaskGITConfig:
    """Shape of the network, in the words of its public constants; `resolution` is that of training and changes nothing.

    `channel_mult`: width of each level over `hidden_channels`; the stride is 2 per level after the first.
    """

    num_channels: int = 3
    hidden_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    num_embeddings: int = 1024
    resolution: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        if self.hidden_channels % GROUPS:
            raise UsageError(f"In {KIND} hidden_channels is a multiple of {GROUPS}; got {self.hidden_channels}.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the highest resolution on."""
        return tuple(self.hidden_channels * multiplier for multiplier in self.channel_mult)

    @property
    def stride(self) -> int:
        """Pixels per code, along each side."""
        return 2 ** (len(self.channel_mult) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> MaskGITConfig:
        """From the public words of 1d-tokenizer or open-muse; those without effect are skipped.

        Raises:
            UsageError: a key is unknown, a value is none, or a word that follows from others contradicts them.
        """
        words = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
        settings = settings_from({key: value for key, value in words.items() if key not in DERIVED}, cls, KIND)
        levels, depth = len(settings.channel_mult), settings.z_channels
        derived = zip(DERIVED, (levels, depth, depth), strict=True)
        if faults := [f"{key} is {words[key]!r}, not {true}" for key, true in derived if words.get(key, true) != true]:
            raise UsageError(f"This configuration of {KIND} contradicts itself: {'; '.join(faults)}.")
        return settings

    def to_dict(self) -> dict[str, object]:
        """The public words, which `from_dict` takes and JSON holds."""
        return {**asdict(self), "channel_mult": list(self.channel_mult)}


def build_maskgit(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> MaskGIT:
    """The VQGAN of a checkpoint in the layout of open-muse and 1d-tokenizer, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of MaskGIT's VQGAN.
    """
    weights = {key: value.float() for key, value in tensors.items()}  # Public files hold nothing beside the network.
    settings = infer_config(weights, name) if config is None else MaskGITConfig.from_dict(config)
    return build_strictly(lambda: MaskGIT(settings), weights, name=name)


def infer_config(tensors: Tensors, name: str) -> MaskGITConfig:
    """Shape of the network that has these tensors.

    Raises:
        CheckpointError: a tensor that tells the shape is missing or of a shape that no such network has.
    """
    with reading_off(name, "VQGAN of MaskGIT"):
        return infer_decoder(tensors, first=tensors["encoder.conv_in.weight"].shape[0])


def infer_decoder(tensors: Tensors, prefix: str = "", *, first: int | None = None) -> MaskGITConfig:
    """Shape of the decoder and codebook whose names begin with `prefix`, and of an encoder whose first layer is `first` wide.

    Raises:
        KeyError: a tensor that tells the shape is missing.
        UsageError: it is of a shape that no such network has.
    """
    decoder, codebook = f"{prefix}decoder", f"{prefix}quantize.embedding.weight"
    levels = count_of(rf"{decoder}\.up\.(\d+)\.", tensors)
    widths = [tensors[f"{decoder}.up.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    hidden = first or math.gcd(*widths)
    return MaskGITConfig(
        num_channels=tensors[f"{decoder}.conv_out.weight"].shape[0],
        hidden_channels=hidden,
        channel_mult=tuple(width // hidden for width in widths),
        num_res_blocks=count_of(rf"{decoder}\.up\.0\.block\.(\d+)\.", tensors),
        z_channels=tensors[f"{decoder}.conv_in.weight"].shape[1],
        num_embeddings=tensors[codebook].shape[0],
    )


class MaskGIT(Autoencoder):
    """Encoder, codebook and decoder, all convolutional; images are in [0, 1]."""

    layout = "maskgit"
    pixel_range = (0.0, 1.0)

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.config, self.codebook_size, self.stride = config, config.num_embeddings, config.stride
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config.num_embeddings, config.z_channels)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [0, 1] whose sides are multiples of the stride."""
        return self.encoder(images)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [0, 1], not clamped."""
        return self.decoder(vectors)


class Encoder(nn.Module):
    """Images to `z_channels` features at 1 / stride of their size."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.num_channels, config.hidden_channels, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level(config, before, width, downsample=level < len(widths) - 1)
            for level, (before, width) in enumerate(zip((config.hidden_channels, *widths), widths, strict=False))
        )
        self.mid = _residuals(config, widths[-1], widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 1)

    def forward(self, images: Features) -> Features:
        """`z_channels` features per position."""
        features = self.conv_in(images)
        for part in (*self.down, *self.mid):
            features = part(features)
        return self.conv_out(silu(self.norm_out(features)))


class Decoder(nn.Module):
    """`z_channels` features to images `stride` times as large."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = _residuals(config, widths[-1], widths[-1])
        self.up = nn.ModuleList(
            Level(config, before, width, upsample=level > 0)
            for level, (before, width) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.num_channels, 3, padding=1)

    def forward(self, features: Features) -> Features:
        """Images around [0, 1], not clamped."""
        features = self.conv_in(features)
        for part in (*self.mid, *reversed(self.up)):
            features = part(features)
        return self.conv_out(silu(self.norm_out(features)))


class Level(nn.Module):
    """Residual blocks of one resolution, then half of it by averaging, or twice by repetition and a convolution."""

    def __init__(
        self, config: MaskGITConfig, before: int, width: int, *, downsample: bool = False, upsample: bool = False
    ) -> None:
        super().__init__()
        self.block = _residuals(config, before, width)
        self.downsample = downsample
        self.upsample_conv = nn.Conv2d(width, width, 3, padding=1) if upsample else None

    def forward(self, features: Features) -> Features:
        """Features at this level's width and the next level's resolution."""
        for block in self.block:
            features = block(features)
        if self.upsample_conv is not None:
            return self.upsample_conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        return F.avg_pool2d(features, 2) if self.downsample else features


class Residual(nn.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut. No convolution has a bias.

    Where the width changes, the shortcut is a 1x1 convolution of the *result*, not of the input: the public weights were
    trained so. "SAME" padding, which the original names, is one pixel on each side as long as nothing strides.
    """

    def __init__(self, before: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.norm2 = group_norm(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(width, width, 1, bias=False) if before != width else None

    def forward(self, features: Features) -> Features:
        """Features at the new width."""
        hidden = self.conv1(silu(self.norm1(features)))
        hidden = self.conv2(self.dropout(silu(self.norm2(hidden))))
        return hidden + (features if self.nin_shortcut is None else self.nin_shortcut(hidden))


def _residuals(config: MaskGITConfig, before: int, width: int) -> nn.ModuleList:
    inputs = (before, *[width] * (config.num_res_blocks - 1))
    return nn.ModuleList(Residual(channels, width, config.dropout) for channels in inputs)
