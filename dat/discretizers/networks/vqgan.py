"""The VQGAN of taming-transformers and latent diffusion: network and key layout, so that public weights load strictly.

Source: Esser et al. (2021), Taming Transformers; CompVis/taming-transformers:taming/modules/diffusionmodules/model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import check_values
from dat.discretizers.quantizers.nearest import Quantized, TrainableQuantizer
from dat.discretizers.quantizers.table import check_quantizer, create_quantizer
from dat.errors import UsageError
from dat.types import Images, Latents

Features = Float[Tensor, "batch _ _ _"]

KIND = "a VQGAN"
GROUPS, EPSILON = 32, 1e-6
SEQUENCES = ("ch_mult", "attn_resolutions", "levels")
TOP_LEVEL = ("n_embed", "embed_dim")
OF_QUANTIZER = {"quantizer": "vq", "levels": ()}
"""Keys of ours that no public configuration has, and their values there."""
# Keys of public configurations that concern training or logging, not the network.
OF_TRAINING = {
    *("beta", "legacy", "sane_index_shape", "lossconfig", "monitor", "ckpt_path", "ignore_keys", "image_key"),
    *("colorize_nlabels", "batch_resize_range", "scheduler_config", "lr_g_factor", "use_ema"),
}


@dataclass(frozen=True)
class VQGANConfig:
    """Shape of the network, in the words of the public configuration files.

    `ch_mult`: width of each level over `ch`, the stride is 2 per level after the first. `attn_resolutions`: attention
    goes where `resolution` halved per level is listed, whatever the size of the images. `attn_type` "none": nowhere,
    not even in the middle. `quantizer` is one of `dat.discretizers.quantizers.table.NAMES`; `levels` are those of "fsq".
    """

    n_embed: int = 1024
    embed_dim: int = 256
    z_channels: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    resolution: int = 256
    attn_resolutions: tuple[int, ...] = (16,)
    attn_type: str = "vanilla"
    in_channels: int = 3
    out_ch: int = 3
    dropout: float = 0.0
    quantizer: str = "vq"
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.attn_type not in ("vanilla", "none"):
            raise UsageError(f"attn_type is {self.attn_type!r}; a VQGAN has 'vanilla' attention or 'none'.")
        check_values(self, {key: value for key, value in vars(self).items() if value != ()}, KIND)
        if not self.ch_mult or self.ch % GROUPS:
            raise UsageError(
                f"A VQGAN needs ch a multiple of {GROUPS} (its group norms) and one ch_mult per level; "
                f"got ch={self.ch}, ch_mult={list(self.ch_mult)}."
            )
        check_quantizer(self.quantizer, self.n_embed, self.embed_dim, self.levels)

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, highest resolution first."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    def has_attention(self, level: int) -> bool:
        """Whether the blocks of a level are followed by attention."""
        return self.attn_type == "vanilla" and self.resolution // 2**level in self.attn_resolutions

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VQGANConfig:
        """From the dictionary of a public configuration: `ddconfig`, `n_embed`, `embed_dim`; training keys are skipped.

        Raises:
            UsageError: a key is unknown or missing, or asks for a network that is not a VQGAN (`double_z`, `remap`).
        """
        inner = config.get("ddconfig")
        if not isinstance(inner, Mapping):
            raise UsageError(f"A VQGAN configuration needs 'ddconfig', 'n_embed' and 'embed_dim'; got {sorted(config)}.")
        outer = {key: value for key, value in config.items() if key not in OF_TRAINING and key != "ddconfig"}
        if inner.get("double_z") or outer.pop("remap", None) is not None:
            raise UsageError("double_z=True (a KL autoencoder) and remap are no VQGAN; take a configuration without.")
        values: dict[str, Any] = {key: value for key, value in (*outer.items(), *inner.items()) if key != "double_z"}
        known = {entry.name for entry in fields(cls)}
        if faults := [key for key in values if key not in known] + [key for key in TOP_LEVEL if key not in outer]:
            raise UsageError(f"Unknown or missing keys in the VQGAN configuration: {', '.join(sorted(faults))}.")
        values |= {key: tuple(values[key]) for key in SEQUENCES if isinstance(values.get(key), list | tuple)}
        return cls(**values)

    def to_dict(self) -> dict[str, object]:
        """The public form, which `from_dict` takes and JSON holds."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values = {key: list(value) if key in SEQUENCES else value for key, value in values.items()}
        outer = {key: values.pop(key) for key in TOP_LEVEL}
        own = {key: values.pop(key) for key in OF_QUANTIZER}
        outer |= {key: value for key, value in own.items() if getattr(self, key) != OF_QUANTIZER[key]}
        return {"ddconfig": {"double_z": False, **values}, **outer}


class VQGAN(Autoencoder):
    """Encoder, codebook and decoder; trainable. Images are in [-1, 1] here; `FrozenDiscretizer` speaks [0, 1]."""

    layout = "vqgan"

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        # Set once, so these types may be narrower than the interface's.
        self.config: VQGANConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.codebook_size, self.stride = config.n_embed, config.stride
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        quantizer = create_quantizer(config.quantizer, config.n_embed, config.embed_dim, config.levels)
        self.quantize: TrainableQuantizer = quantizer  # pyright: ignore[reportIncompatibleVariableOverride]
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [-1, 1] whose sides are multiples of the stride."""
        return self.quant_conv(self.encoder(images))

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(vectors))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight by whose gradients taming balances its losses."""
        return self.decoder.get_parameter("conv_out.weight")

    def forward(self, images: Images) -> tuple[Images, Quantized]:
        """Reconstruction and codes of images in [-1, 1]; the gradient passes straight through the quantizer."""
        quantized = self.quantize(self.latents(images))
        return self.decode_vectors(quantized.vectors), quantized


class Encoder(nn.Module):
    """Images to `z_channels` features at 1 / stride of their size."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList(
            Level(config, level, before, blocks=config.num_res_blocks, downsample=level < len(widths) - 1)
            for level, before in enumerate((config.ch, *widths[:-1]))
        )
        self.mid = Middle(config, widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, images: Features) -> Features:
        """`z_channels` features per position."""
        features = self.conv_in(images)
        for level in self.down:
            features = level(features)
        return self.conv_out(silu(self.norm_out(self.mid(features))))


class Decoder(nn.Module):
    """`z_channels` features to images `stride` times as large; one block per level more than the encoder."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(config, widths[-1])
        self.up = nn.ModuleList(
            Level(config, level, before, blocks=config.num_res_blocks + 1, upsample=level > 0)
            for level, before in enumerate((*widths[1:], widths[-1]))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, features: Features) -> Features:
        """Images around [-1, 1], not clamped."""
        features = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            features = level(features)
        return self.conv_out(silu(self.norm_out(features)))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where the configuration says so."""

    def __init__(
        self, config: VQGANConfig, level: int, before: int, *, blocks: int, downsample: bool = False, upsample: bool = False
    ) -> None:
        super().__init__()
        width = config.widths[level]
        inputs = (before, *[width] * (blocks - 1))
        self.block = nn.ModuleList(Residual(channels, width, config.dropout) for channels in inputs)
        self.attn = nn.ModuleList(Attention(width) if config.has_attention(level) else nn.Identity() for _ in inputs)
        self.downsample = Downsample(width) if downsample else nn.Identity()
        self.upsample = Upsample(width) if upsample else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Features at this level's width and the next level's resolution."""
        for block, attention in zip(self.block, self.attn, strict=True):
            features = attention(block(features))
        return self.upsample(self.downsample(features))


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them."""

    def __init__(self, config: VQGANConfig, width: int) -> None:
        super().__init__()
        self.block_1 = Residual(width, width, config.dropout)
        self.attn_1 = Attention(width) if config.attn_type == "vanilla" else nn.Identity()
        self.block_2 = Residual(width, width, config.dropout)

    def forward(self, features: Features) -> Features:
        """Features of the same shape."""
        return self.block_2(self.attn_1(self.block_1(features)))


class Residual(nn.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut (1x1 where the width changes)."""

    def __init__(self, before: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = group_norm(width)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Features at the new width."""
        hidden = self.conv1(silu(self.norm1(features)))
        hidden = self.conv2(self.dropout(silu(self.norm2(hidden))))
        return add(hidden, self.nin_shortcut(features))


class Attention(nn.Module):
    """Self-attention over all positions with one head, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, features: Features) -> Features:
        """Features of the same shape."""
        normed = self.norm(features)
        query, key, value = (part(normed).flatten(2).mT.unsqueeze(1) for part in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(query, key, value)
        return add(self.proj_out(attended.squeeze(1).mT.unflatten(2, features.shape[2:])), features)


class Downsample(nn.Module):
    """Half the resolution by a strided convolution, padded on the right and below only, as the public weights expect."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, features: Features) -> Features:
        """Features at half the resolution."""
        return self.conv(F.pad(features, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution by repetition, then a convolution; without gradients both in one, at 4/9 of the work."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Features) -> Features:
        """Features at twice the resolution."""
        if torch.is_grad_enabled():
            return self.conv(F.interpolate(features, scale_factor=2.0, mode="nearest"))
        return F.conv_transpose2d(features, _with_repetition(self.conv.weight), self.conv.bias, stride=2, padding=1)


class _GroupNorm(nn.GroupNorm):
    """In float32 on a CPU where the low-precision kernel of torch 2.15 is slow: up to seven times, measured channels-last."""

    def forward(self, input: Features) -> Features:
        if input.dtype == self.weight.dtype == torch.float32 or input.device.type != "cpu":
            return self._normed(input, input.dtype)
        exact = torch.promote_types(input.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            if input.dtype == self.weight.dtype and self._is_quick(input):
                return self._normed(input, input.dtype)
            return self._normed(input, exact).to(input.dtype)

    def _normed(self, input: Features, dtype: torch.dtype) -> Features:
        # The function of torch.nn.functional refuses groups of a single value, as a picture of one code has them at width 32.
        scale, shift = (self.weight, self.bias) if dtype == input.dtype else (self.weight.to(dtype), self.bias.to(dtype))
        return torch.group_norm(input.to(dtype), self.num_groups, scale, shift, self.eps)

    def _is_quick(self, input: Features) -> bool:
        # That kernel has one way for large maps, and another, vectorised over the channels of a group, for small ones.
        large, wide = input.shape[2:].numel() >= 1024, self.num_channels >= 16 * self.num_groups
        return (large or wide) and not torch.is_grad_enabled()


def _with_repetition(weight: Tensor) -> Tensor:
    """Kernels 4x4 of the transposed convolution that equals repetition and then convolution by these kernels, 3x3.

    Repetition is itself a transposed convolution, by ones of 2x2, and the two kernels convolve to one.
    """
    weight = F.pad(weight.flip(2, 3), (1, 1, 1, 1))
    weight = weight[..., 1:] + weight[..., :-1]
    return (weight[..., 1:, :] + weight[..., :-1, :]).transpose(0, 1)


def group_norm(width: int) -> nn.GroupNorm:
    """The norm of all networks of this family: 32 groups, epsilon 1e-6."""
    return _GroupNorm(GROUPS, width, eps=EPSILON)


def silu(normed: Features) -> Features:
    """SiLU of the fresh output of a norm: in place where no backward pass will ask for it."""
    return F.silu(normed, inplace=not normed.requires_grad)


def add(fresh: Features, features: Features) -> Features:
    """Their sum; in place of `fresh`, the output of a convolution, where no backward pass will ask for it.

    Memory that was never touched costs more than the sum.
    """
    return fresh + features if torch.is_grad_enabled() else fresh.add_(features)
