"""The tokenizer of Emu3 as transformers has it: one made for video, which sees a picture as equal frames and gives the first.

Source: Wang et al. (2024), Emu3; huggingface/transformers:src/transformers/models/emu3/modeling_emu3.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import check_values, tokenizer_settings, tokenizer_words
from dat.discretizers.networks.pixel_statistics import check_statistics, normalised, restored
from dat.discretizers.networks.vqgan import GROUPS, Downsample, Features, Upsample, group_norm, silu
from dat.discretizers.quantizers.nearest import VectorQuantizer
from dat.errors import CheckpointError, UsageError
from dat.nn.weights import build_strictly
from dat.types import Images, Latents

KIND = "a tokenizer of Emu3"
MODEL_TYPE = "emu3_vqgan"

Tensors = Mapping[str, Tensor]
Frames = Float[Tensor, "batch _ _ _ _"]
"""Of channels, frames, rows and columns."""


@dataclass(frozen=True)
class Emu3Config:
    """Shape of the network, in the words of `Emu3VQVAEConfig`, and what preprocessor_config.json says of pixels.

    `attn_resolutions` are numbers of levels, the highest resolution's being 0; there the width is `hidden_size`.
    """

    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    codebook_size: int = 32768
    embed_dim: int = 4
    latent_channels: int = 4
    double_latent: bool = False
    in_channels: int = 3
    out_channels: int = 3
    temporal_downsample_factor: int = 4
    base_channels: int = 256
    channel_multiplier: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[Any, ...] = (3,)
    hidden_size: int = 1024
    num_attention_heads: int = 1

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        check_statistics(self.image_mean, self.image_std, {self.in_channels, self.out_channels})
        last = len(self.channel_multiplier) - 1
        wide = {self.widths[level] for level in {*self.attn_resolutions, last} if level in range(last + 1)}
        frames = self.temporal_downsample_factor
        if self.double_latent or frames & (frames - 1) or self.latent_channels != self.embed_dim or self.base_channels % GROUPS:
            raise UsageError(
                f"{KIND} has no double_latent, a temporal_downsample_factor that is a power of 2, latent_channels equal to "
                f"embed_dim and base_channels a multiple of {GROUPS}; got {self.to_dict()}."
            )
        if wide != {self.hidden_size} or self.hidden_size % self.num_attention_heads:
            raise UsageError(f"hidden_size is {self.hidden_size}; the levels with attention are {sorted(wide)} channels wide.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, highest resolution first."""
        return tuple(self.base_channels * factor for factor in self.channel_multiplier)

    @property
    def halvings(self) -> int:
        """How often the number of frames is halved."""
        return self.temporal_downsample_factor.bit_length() - 1

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Emu3Config:
        """From config.json of transformers.

        Raises:
            UsageError: as `tokenizer_settings`.
        """
        return tokenizer_settings(config, cls, KIND, model_type=MODEL_TYPE)

    def to_dict(self) -> dict[str, object]:
        """The public words, which `from_dict` takes and JSON holds."""
        return tokenizer_words(self, MODEL_TYPE)


def build_emu3(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> Emu3:
    """The tokenizer of a folder of transformers, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; or there is no configuration.
        UsageError: `config` is none of a tokenizer of Emu3.
    """
    if config is None:
        raise CheckpointError(
            f"{name} does not tell its network; give config.json of Emu3's tokenizer, with image_mean and image_std."
        )
    settings = Emu3Config.from_dict(config)
    weights = {key: value if key.endswith("num_batches_tracked") else value.float() for key, value in tensors.items()}
    return build_strictly(lambda: Emu3(settings), weights, name=name)


class Emu3(Autoencoder):
    """Encoder, codebook and decoder; images are in [0, 1]. A picture is `temporal_downsample_factor` equal frames."""

    layout = "emu3"
    pixel_range = (0.0, 1.0)

    def __init__(self, config: Emu3Config) -> None:
        super().__init__()
        self.config, self.codebook_size = config, config.codebook_size
        self.mean, self.std = config.image_mean, config.image_std
        self.stride = 2 ** (len(config.channel_multiplier) - 1)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = VectorQuantizer(config.codebook_size, config.embed_dim)
        self.quant_conv = CausalConv(config.latent_channels, config.embed_dim, (3, 1, 1))
        self.post_quant_conv = CausalConv(config.embed_dim, config.latent_channels, (3, 1, 1))

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [0, 1] whose sides are multiples of the stride."""
        return self.quant_conv(self.encoder(normalised(images, self.mean, self.std)))[:, :, 0]

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [0, 1], not clamped."""
        frames = vectors[:, :, None]
        return restored(self.decoder(self.post_quant_conv(frames), frames), self.mean, self.std)


class CausalConv(nn.Module):
    """A convolution over frames, too, that looks two frames back: zeros stand before the first."""

    def __init__(self, before: int, width: int, kernel: tuple[int, int, int], stride: int = 1) -> None:
        super().__init__()
        self.sides = kernel[1] // 2
        self.conv = nn.Conv3d(before, width, kernel, stride=(stride, 1, 1))

    def forward(self, frames: Frames) -> Frames:
        """As many frames, over `stride`."""
        return self.conv(F.pad(frames, (*[self.sides] * 4, 2, 0)))


class Halved(nn.Module):
    """Half the frames by a convolution over four."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = CausalConv(width, width, (4, 3, 3), stride=2)

    def forward(self, frames: Frames) -> Frames:
        """Half as many frames."""
        return self.conv(frames)


class Grown(nn.Module):
    """Twice the frames by repetition, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = CausalConv(width, width, (3, 3, 3))

    def forward(self, frames: Frames) -> Frames:
        """Twice as many frames."""
        return self.conv(frames.repeat_interleave(2, dim=2))


class FrameResidual(nn.Module):
    """Batch norm, SiLU and causal convolution, twice, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm3d(width), nn.BatchNorm3d(width)
        self.conv1, self.conv2 = (CausalConv(width, width, (3, 3, 3)) for _ in range(2))

    def forward(self, frames: Frames) -> Frames:
        """Frames of the same shape."""
        return frames + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(frames))))))


class SpatialNorm(nn.Module):
    """A group norm whose scale and shift at each place are linear in the vector of the code there."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.norm_layer = group_norm(width)
        self.conv_y, self.conv_b = nn.Conv2d(codes, width, 1), nn.Conv2d(codes, width, 1)

    def forward(self, features: Features, vectors: Features) -> Features:
        """Features of the same shape."""
        vectors = F.interpolate(vectors, size=features.shape[-2:], mode="nearest")
        return self.norm_layer(features) * self.conv_y(vectors) + self.conv_b(vectors)


class Residual(nn.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut; the norms know the codes where `codes` is their depth."""

    def __init__(self, before: int, width: int, codes: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(before, codes), _norm(width, codes)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, features: Features, *vectors: Features) -> Features:
        """Features at the new width."""
        hidden = self.conv1(silu(self.norm1(features, *vectors)))
        return self.conv2(silu(self.norm2(hidden, *vectors))) + self.nin_shortcut(features)


class Attention(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, features: Features) -> Features:
        """Features of the same shape; nothing is added to them."""
        tokens = features.flatten(2).mT
        parts = (
            part(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return self.out_proj(attended).mT.unflatten(2, features.shape[2:])


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where the configuration says so."""

    def __init__(self, config: Emu3Config, level: int, before: int, blocks: int, codes: int | None, step: nn.Module) -> None:
        super().__init__()
        width, attentive = config.widths[level], level in config.attn_resolutions
        self.block = nn.ModuleList(Residual(before if block == 0 else width, width, codes) for block in range(blocks))
        count = blocks if attentive else 0
        self.attn = nn.ModuleList(Attention(width, config.num_attention_heads) for _ in range(count))
        self.attn_norms = nn.ModuleList(_norm(width, codes) for _ in range(count))
        self.downsample = step if codes is None else nn.Identity()
        self.upsample = nn.Identity() if codes is None else step

    def forward(self, features: Features, *vectors: Features) -> Features:
        """Features at this level's width and the next level's resolution."""
        for number, block in enumerate(self.block):
            features = block(features, *vectors)
            if len(self.attn):
                features = features + self.attn[number](self.attn_norms[number](features, *vectors))
        return self.upsample(self.downsample(features))


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them."""

    def __init__(self, config: Emu3Config, codes: int | None) -> None:
        super().__init__()
        width = config.widths[-1]
        self.block_1, self.block_2 = (Residual(width, width, codes) for _ in range(2))
        self.attn_1 = Attention(width, config.num_attention_heads)
        self.attn_norm = _norm(width, codes)

    def forward(self, features: Features, *vectors: Features) -> Features:
        """Features of the same shape."""
        features = self.block_1(features, *vectors)
        features = features + self.attn_1(self.attn_norm(features, *vectors))
        return self.block_2(features, *vectors)


class Encoder(nn.Module):
    """Images to one frame of latents at 1 / stride of their size."""

    def __init__(self, config: Emu3Config) -> None:
        super().__init__()
        widths, depth, self.frames = config.widths, config.latent_channels, config.temporal_downsample_factor
        steps = [*(Downsample(width) for width in widths[:-1]), nn.Identity()]
        befores = (config.base_channels, *widths[:-1])
        levels = [
            Level(config, number, before, config.num_res_blocks, None, step)
            for number, (before, step) in enumerate(zip(befores, steps, strict=True))
        ]
        self.conv_in = nn.Conv2d(config.in_channels, config.base_channels, 3, padding=1)
        self.down_block = nn.ModuleDict({"down": nn.ModuleList(levels)})
        self.middle_block = Middle(config, None)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], depth, 3, padding=1)
        self.time_conv = nn.ModuleList(Halved(depth) for _ in range(config.halvings))
        self.time_res_stack = nn.ModuleList(FrameResidual(depth) for _ in range(config.num_res_blocks))

    def forward(self, images: Features) -> Frames:
        """Latents of one frame; all frames of a picture are equal, so that one goes through the network."""
        features = self.conv_in(images)
        for level in self.down_block["down"].children():
            features = level(features)
        features = self.conv_out(silu(self.norm_out(self.middle_block(features))))
        frames = features[:, :, None].expand(-1, -1, self.frames, -1, -1)
        for conv in self.time_conv:
            frames = F.silu(conv(frames))
        for block in self.time_res_stack:
            frames = block(frames)
        return frames


class Decoder(nn.Module):
    """Latents and vectors of codes, of one frame, to images `stride` times as large: the first of the frames that follow."""

    def __init__(self, config: Emu3Config) -> None:
        super().__init__()
        widths, depth = config.widths, config.latent_channels
        self.time_res_stack = nn.ModuleList(FrameResidual(depth) for _ in range(config.num_res_blocks))
        self.time_conv = nn.ModuleList(Grown(depth) for _ in range(config.halvings))
        self.conv_in = nn.Conv2d(depth, widths[-1], 3, padding=1)
        self.middle_block = Middle(config, config.embed_dim)
        steps = [nn.Identity(), *(Upsample(width) for width in widths[1:])]
        befores = (*widths[1:], widths[-1])
        levels = [
            Level(config, number, before, config.num_res_blocks + 1, config.embed_dim, step)
            for number, (before, step) in enumerate(zip(befores, steps, strict=True))
        ]
        self.up_block = nn.ModuleDict({"up": nn.ModuleList(levels)})
        self.norm_out = SpatialNorm(config.embed_dim, widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, latents: Frames, vectors: Frames) -> Features:
        """Images, normalised and not clamped."""
        latents, vectors = self._first_frame(latents), self._first_frame(vectors)
        features = self.middle_block(self.conv_in(latents), vectors)
        for level in reversed(list(self.up_block["up"].children())):
            features = level(features, vectors)
        return self.conv_out(silu(self.norm_out(features, vectors)))

    def _first_frame(self, frames: Frames) -> Features:
        for block in self.time_res_stack:
            frames = block(frames)
        for conv in self.time_conv:
            frames = F.silu(conv(frames))
        return frames[:, :, 0]


def _norm(width: int, codes: int | None) -> nn.Module:
    return group_norm(width) if codes is None else SpatialNorm(codes, width)
