"""The tokenizers of LlamaGen, VQ-8 and VQ-16: network and key layout, so that public weights load strictly.

Source: Sun et al. (2024), Autoregressive Model Beats Diffusion;
FoundationVision/LlamaGen:tokenizer/tokenizer_image/vq_model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import check_values, count_of, reading_off, settings_from
from dat.discretizers.networks.vqgan import GROUPS, Attention, Downsample, Features, Residual, Upsample, group_norm, silu
from dat.discretizers.quantizers.table import create_quantizer
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Images, Latents

KIND = "a tokenizer of LlamaGen"
MODELS = {"VQ-8": [1, 2, 2, 4], "VQ-16": [1, 1, 2, 2, 4]}
"""Widths of the public models: `model` in a configuration stands for both `ch_mult`."""
OF_TRAINING = {"commit_loss_beta", "entropy_loss_ratio", "codebook_show_usage"}
NOT_OF_THE_NETWORK = ("quantize.codebook_used",)
"""A record of the codes that were used last in training."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class LlamaGenConfig:
    """Shape of the network, in the words of the public `ModelArgs`; `ch` and `num_res_blocks` are constants there.

    `ch_mult`: width of each level over `ch`, from the highest resolution on; the stride is 2 per level after the first.
    `codebook_l2_norm`: latents and codebook are compared, and decoded, as vectors of length 1.
    """

    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    codebook_l2_norm: bool = True
    encoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    z_channels: int = 256
    ch: int = 128
    num_res_blocks: int = 2
    dropout_p: float = 0.0

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        if self.ch % GROUPS or len(self.encoder_ch_mult) != len(self.decoder_ch_mult):
            raise UsageError(
                f"In {KIND} ch is a multiple of {GROUPS}, and there are as many levels down as up; got ch={self.ch}, "
                f"encoder_ch_mult={list(self.encoder_ch_mult)}, decoder_ch_mult={list(self.decoder_ch_mult)}."
            )

    @property
    def stride(self) -> int:
        """Pixels per code, along each side."""
        return 2 ** (len(self.encoder_ch_mult) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> LlamaGenConfig:
        """From the public words; `model` ("VQ-8", "VQ-16") gives the multipliers that are not written; training is skipped.

        Raises:
            UsageError: a key or the model is unknown, or a value is none.
        """
        words = {key: value for key, value in config.items() if key not in OF_TRAINING}
        if (model := words.pop("model", None)) is not None:
            if model not in MODELS:
                raise UsageError(f"There is no tokenizer {model!r} of LlamaGen; write one of {', '.join(MODELS)}.")
            words = {"encoder_ch_mult": MODELS[model], "decoder_ch_mult": MODELS[model], **words}
        return settings_from(words, cls, KIND)

    def to_dict(self) -> dict[str, object]:
        """The public words, which `from_dict` takes and JSON holds."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def build_llamagen(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> LlamaGen:
    """The tokenizer of a checkpoint of LlamaGen, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of LlamaGen.
    """
    weights = {key: value.float() for key, value in tensors.items() if key not in NOT_OF_THE_NETWORK}
    settings = infer_config(weights, name) if config is None else LlamaGenConfig.from_dict(config)
    return build_strictly(lambda: LlamaGen(settings), weights, name=name)


def infer_config(tensors: Tensors, name: str) -> LlamaGenConfig:
    """Shape of the network that has these tensors; `codebook_l2_norm`, which they cannot tell, as in all public ones.

    Raises:
        CheckpointError: a tensor that tells the shape is missing or of a shape that no such network has.
    """
    with reading_off(name, "tokenizer of LlamaGen"):
        ch = tensors["encoder.conv_in.weight"].shape[0]
        codebook_size, depth = tensors["quantize.embedding.weight"].shape[:2]
        return LlamaGenConfig(
            codebook_size=codebook_size,
            codebook_embed_dim=depth,
            encoder_ch_mult=tuple(width // ch for width in _widths(tensors, "encoder")),
            decoder_ch_mult=tuple(width // ch for width in reversed(_widths(tensors, "decoder"))),
            z_channels=tensors["encoder.conv_out.weight"].shape[0],
            ch=ch,
            num_res_blocks=count_of(r"encoder\.conv_blocks\.0\.res\.(\d+)\.", tensors),
        )


def _widths(tensors: Tensors, half: str) -> list[int]:
    levels = count_of(rf"{half}\.conv_blocks\.(\d+)\.", tensors)
    return [tensors[f"{half}.conv_blocks.{level}.res.0.conv1.weight"].shape[0] for level in range(levels)]


class LlamaGen(Autoencoder):
    """Encoder, codebook and decoder, for inference. Images are in [-1, 1] here; `FrozenDiscretizer` speaks [0, 1]."""

    layout = "llamagen"

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        self.config, self.codebook_size, self.stride = config, config.codebook_size, config.stride
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        quantizer = "cosine" if config.codebook_l2_norm else "vq"
        self.quantize = create_quantizer(quantizer, config.codebook_size, config.codebook_embed_dim)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_embed_dim, config.z_channels, 1)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, not yet of length 1, for images in [-1, 1] whose sides are multiples of the stride."""
        return self.quant_conv(self.encoder(images))

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(vectors))


class Encoder(nn.Module):
    """Images to `z_channels` features at 1 / stride of their size; attention at the lowest resolution only."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        widths = [config.ch * multiplier for multiplier in config.encoder_ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(3, config.ch, 3, padding=1)
        self.conv_blocks = nn.ModuleList(
            Level(before, width, config.num_res_blocks, config.dropout_p, attention=level == last, downsample=level < last)
            for level, (before, width) in enumerate(zip((config.ch, *widths), widths, strict=False))
        )
        self.mid = _middle(widths[-1], config.dropout_p)
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, images: Features) -> Features:
        """`z_channels` features per position."""
        features = self.conv_in(images)
        for part in (*self.conv_blocks, *self.mid):
            features = part(features)
        return self.conv_out(silu(self.norm_out(features)))


class Decoder(nn.Module):
    """`z_channels` features to images `stride` times as large; its levels are numbered from the lowest resolution on."""

    def __init__(self, config: LlamaGenConfig) -> None:
        super().__init__()
        widths = [config.ch * multiplier for multiplier in reversed(config.decoder_ch_mult)]
        blocks, last = config.num_res_blocks + 1, len(widths) - 1
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = _middle(widths[0], config.dropout_p)
        self.conv_blocks = nn.ModuleList(
            Level(before, width, blocks, config.dropout_p, attention=level == 0, upsample=level < last)
            for level, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, features: Features) -> Features:
        """Images around [-1, 1], not clamped."""
        features = self.conv_in(features)
        for part in (*self.mid, *self.conv_blocks):
            features = part(features)
        return self.conv_out(silu(self.norm_out(features)))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where there is any, and the step to the next one."""

    def __init__(
        self,
        before: int,
        width: int,
        blocks: int,
        dropout: float,
        *,
        attention: bool,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        inputs = (before, *[width] * (blocks - 1))
        self.res = nn.ModuleList(Residual(channels, width, dropout) for channels in inputs)
        self.attn = nn.ModuleList(Attention(width) if attention else nn.Identity() for _ in inputs)
        self.downsample = Downsample(width) if downsample else nn.Identity()
        self.upsample = Upsample(width) if upsample else nn.Identity()

    def forward(self, features: Features) -> Features:
        """Features at this level's width and the next level's resolution."""
        for block, attention in zip(self.res, self.attn, strict=True):
            features = attention(block(features))
        return self.upsample(self.downsample(features))


def _middle(width: int, dropout: float) -> nn.ModuleList:
    return nn.ModuleList([Residual(width, width, dropout), Attention(width), Residual(width, width, dropout)])
