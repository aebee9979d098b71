"""Open-MAGVIT2: a network of convolutions around lookup-free quantisation; network and key layout of the public weights.

Source: Luo et al. (2024), Open-MAGVIT2; TencentARC/SEED-Voken:src/Open_MAGVIT2/modules/diffusionmodules/improved_model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import check_values, count_of, reading_off, settings_from
from dat.discretizers.networks import seed_voken
from dat.discretizers.networks.vqgan import EPSILON, GROUPS, Features, add, group_norm, silu
from dat.discretizers.quantizers.lookup_free import LookupFreeQuantizer
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Images, Latents

Tensors = Mapping[str, Tensor]

KIND = "an Open-MAGVIT2"


@dataclass(frozen=True)
class MAGVIT2Config:
    """Shape of the network, in the words of the public configuration files.

    `z_channels` are the bits of a code. `ch_mult`: width of each level over `ch`, the stride is 2 per level after the
    first. `resolution` is only that of training. Defaults: the network of 2^18 codes at stride 16.
    """

    z_channels: int = 18
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 4
    resolution: int = 128
    in_channels: int = 3
    out_ch: int = 3

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        if self.ch % GROUPS:
            raise UsageError(f"In {KIND} ch is a multiple of {GROUPS}, for its group norms; got ch={self.ch}.")

    @property
    def stride(self) -> int:
        """Pixels per code along each side."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, highest resolution first."""
        return tuple(self.ch * factor for factor in self.ch_mult)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> MAGVIT2Config:
        """From the dictionary of a public configuration: `ddconfig`, `n_embed`, `embed_dim`; training keys are skipped.

        Raises:
            UsageError: a key is unknown or missing, sizes contradict each other, or codes are factorised in two.
        """
        inner = config.get("ddconfig")
        if not isinstance(inner, Mapping):
            raise UsageError(f"An Open-MAGVIT2 configuration needs 'ddconfig', 'n_embed', 'embed_dim'; got {sorted(config)}.")
        outer = {key: value for key, value in config.items() if key not in seed_voken.OF_TRAINING and key != "ddconfig"}
        outer.pop("factorized_bits", None)
        if outer.pop("token_factorization", False):
            raise UsageError(
                "token_factorization=True writes each code as two, as its generators of images want it; "
                "leave it out: the network is the same, and each position has one code."
            )
        settings = settings_from({key: value for key, value in inner.items() if key != "double_z" or value}, cls, KIND)
        if outer != {"n_embed": 2**settings.z_channels, "embed_dim": settings.z_channels}:
            raise UsageError(
                f"With z_channels={settings.z_channels}, one bit each, an Open-MAGVIT2 has "
                f"n_embed={2**settings.z_channels} and embed_dim={settings.z_channels}; got {outer}."
            )
        return settings

    def to_dict(self) -> dict[str, object]:
        """The public form, which `from_dict` takes and JSON holds."""
        inner = {"double_z": False, **asdict(self), "ch_mult": list(self.ch_mult)}
        return {"ddconfig": inner, "n_embed": 2**self.z_channels, "embed_dim": self.z_channels}


def build_magvit2(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> MAGVIT2:
    """The network of a checkpoint of Open-MAGVIT2, in float32: of the running means of its weights, unless `use_ema` is false.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of an Open-MAGVIT2.
    """
    weights = seed_voken.network_weights(tensors, name, averaged=(config or {}).get("use_ema", True))
    settings = infer_config(weights, name) if config is None else MAGVIT2Config.from_dict(config)
    return build_strictly(lambda: MAGVIT2(settings), weights, name=name)


def infer_config(tensors: Tensors, name: str) -> MAGVIT2Config:
    """Shape of the network that has these tensors; the resolution of its training, which they cannot tell, is called 128.

    Raises:
        CheckpointError: a tensor that tells the shape is missing or of a shape that no such network has.
    """
    with reading_off(name, "Open-MAGVIT2"):
        levels = count_of(r"encoder\.down\.(\d+)\.", tensors)
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        ch, in_channels = tensors["encoder.conv_in.weight"].shape[:2]
        return MAGVIT2Config(
            z_channels=len(tensors["encoder.conv_out.weight"]),
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=count_of(r"encoder\.mid_block\.(\d+)\.", tensors),
            in_channels=in_channels,
            out_ch=len(tensors["decoder.conv_out.weight"]),
        )


class MAGVIT2(Autoencoder):
    """Encoder, sign bits and decoder; images are in [-1, 1] here. `FrozenDiscretizer` speaks [0, 1]."""

    layout = "lfq"

    def __init__(self, config: MAGVIT2Config) -> None:
        super().__init__()
        # Set once, so these types may be narrower than the interface's.
        self.config: MAGVIT2Config = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.codebook_size, self.stride = 2**config.z_channels, config.stride
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = LookupFreeQuantizer(config.z_channels)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [-1, 1] whose sides are multiples of the stride."""
        return self.encoder(images)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [-1, 1], not clamped.

        Raises:
            UsageError: there is only one position, so that no variance over positions exists.
        """
        if vectors.shape[2] * vectors.shape[3] < 2:
            raise UsageError(
                "Open-MAGVIT2 decodes by the variance of the codes over an image, which one code does not have; "
                f"give images of more than {self.stride} x {self.stride} pixels."
            )
        return self.decoder(vectors)


class Encoder(nn.Module):
    """Images to `z_channels` features at 1 / stride of their size."""

    def __init__(self, config: MAGVIT2Config) -> None:
        super().__init__()
        widths, blocks = config.widths, config.num_res_blocks
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            EncoderLevel(before, width, blocks, downsample=level < len(widths) - 1)
            for level, (before, width) in enumerate(zip((config.ch, *widths), widths, strict=False))
        )
        self.mid_block = nn.Sequential(*(Residual(widths[-1], widths[-1]) for _ in range(blocks)))
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 1)

    def forward(self, images: Features) -> Features:
        """`z_channels` features per position."""
        features = self.conv_in(images)
        for level in self.down:
            features = level(features)
        return self.conv_out(silu(self.norm_out(self.mid_block(features))))


class EncoderLevel(nn.Module):
    """Residual blocks of one resolution, then half of it by a strided convolution."""

    def __init__(self, before: int, width: int, blocks: int, *, downsample: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(*(Residual(before if block == 0 else width, width) for block in range(blocks)))
        self.downsample = nn.Conv2d(width, width, 3, stride=2, padding=1) if downsample else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Features at this level's width and the next level's resolution."""
        return self.downsample(self.block(features))


class Decoder(nn.Module):
    """Sign bits to images `stride` times as large; the bits also scale and shift the features of each level."""

    def __init__(self, config: MAGVIT2Config) -> None:
        super().__init__()
        widths, blocks, bits = config.widths, config.num_res_blocks, config.z_channels
        befores = (*widths[1:], widths[-1])
        self.conv_in = nn.Conv2d(bits, widths[-1], 3, padding=1)
        self.mid_block = nn.Sequential(*(Residual(widths[-1], widths[-1]) for _ in range(blocks)))
        self.adaptive = nn.ModuleList(AdaptiveGroupNorm(bits, before) for before in befores)
        self.up = nn.ModuleList(
            DecoderLevel(before, width, blocks, upsample=level > 0)
            for level, (before, width) in enumerate(zip(befores, widths, strict=True))
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], config.out_ch, 3, padding=1)

    def forward(self, bits: Features) -> Features:
        """Images around [-1, 1], not clamped."""
        features = self.mid_block(self.conv_in(bits))
        for norm, level in zip(reversed(self.adaptive), reversed(self.up), strict=True):
            features = level(norm(features, bits))
        return self.conv_out(silu(self.norm_out(features)))


class DecoderLevel(nn.Module):
    """Residual blocks of one resolution, then twice of it."""

    def __init__(self, before: int, width: int, blocks: int, *, upsample: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(*(Residual(before if block == 0 else width, width) for block in range(blocks)))
        self.upsample = Upsample(width) if upsample else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Features at this level's width and the next level's resolution."""
        return self.upsample(self.block(features))


class Residual(nn.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut (1x1 where the width changes); convolutions without bias."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = group_norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(before, width, 1, bias=False) if before != width else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Features at the new width."""
        hidden = self.conv1(silu(self.norm1(features)))
        hidden = self.conv2(silu(self.norm2(hidden)))
        return add(hidden, self.nin_shortcut(features))


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are linear in the spread and the mean of the bits over the image."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.gamma = nn.Linear(bits, width)
        self.beta = nn.Linear(bits, width)

    def forward(self, features: Features, bits: Features) -> Features:
        """Features of the same shape; the variance is the unbiased one."""
        variance, mean = torch.var_mean(bits.float() if bits.dtype != torch.float64 else bits, dim=(2, 3))
        scale = self.gamma((variance + EPSILON).sqrt().to(bits.dtype))[:, :, None, None]
        shift = self.beta(mean.to(bits.dtype))[:, :, None, None]
        return scale * torch.group_norm(features, GROUPS, eps=EPSILON) + shift


class Upsample(nn.Module):
    """Twice the resolution: a convolution to four pixels, whose place is the slowest index of its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4 * width, 3, padding=1)

    def forward(self, features: Features) -> Features:
        """Features at twice the resolution."""
        # torch's pixel_shuffle wants the place to be the fastest index.
        by_place = self.conv1(features).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(by_place, 2)
