"""The tokenizer of VAR: a VQGAN with codes on ten scales, so that public weights load strictly.

Source: Tian et al. (2024), Visual Autoregressive Modeling; FoundationVision/VAR:models/{vqvae,basic_vae,quant}.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.configuration import check_values, count_of, reading_off, settings_from
from dat.discretizers.networks.taming import NOMINAL_RESOLUTION
from dat.discretizers.networks.vqgan import Decoder, Encoder, VQGANConfig
from dat.discretizers.quantizers.multi_scale import MultiScaleQuantizer
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Images, Latents

KIND = "a tokenizer of VAR"
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Of the public weights, for pictures of 256 pixels; its generator of 512 pixels has others with the same weights."""
WITHOUT_EFFECT = {"beta", "test_mode", "default_qresi_counts"}
FIXED = {"using_znorm": False, "quant_resi": 0.5}
"""Words of which the public weights have one value, and no other is built here."""
COUNTS = "quantize.ema_vocab_hit_SV"
SMOOTHING, OURS = "quantize.quant_resi.qresi_ls.", "quantize.smooth."

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class VARConfig:
    """Shape of the network, in the words of its authors; `ch_mult` and `num_res_blocks` are constants there.

    `v_patch_nums`: codes along each side, of each scale; the last tells the only size of picture. `share_quant_resi`: how
    many convolutions smooth the scales. `quant_conv_ks`: kernel of the convolutions around the codes.
    """

    vocab_size: int = 4096
    z_channels: int = 32
    ch: int = 160
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    dropout: float = 0.0
    quant_conv_ks: int = 3
    share_quant_resi: int = 4
    v_patch_nums: tuple[int, ...] = SIDES

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        if self.share_quant_resi < 2 or self.quant_conv_ks % 2 == 0 or list(self.v_patch_nums) != sorted({*self.v_patch_nums}):
            raise UsageError(
                f"In {KIND} share_quant_resi is at least 2, quant_conv_ks odd, and v_patch_nums grow; got "
                f"{self.share_quant_resi}, {self.quant_conv_ks} and {list(self.v_patch_nums)}."
            )

    def as_vqgan(self) -> VQGANConfig:
        """Encoder and decoder in the words of taming-transformers; attention is at the lowest resolution only."""
        return VQGANConfig(
            n_embed=self.vocab_size,
            embed_dim=self.z_channels,
            z_channels=self.z_channels,
            ch=self.ch,
            ch_mult=self.ch_mult,
            num_res_blocks=self.num_res_blocks,
            resolution=NOMINAL_RESOLUTION,
            attn_resolutions=(NOMINAL_RESOLUTION // 2 ** (len(self.ch_mult) - 1),),
            dropout=self.dropout,
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VARConfig:
        """From a dictionary with any of the arguments of VAR's `VQVAE`; those without effect are skipped.

        Raises:
            UsageError: a word is unknown, a value is none, or asks for another quantizer.
        """
        if others := {key: config[key] for key, value in FIXED.items() if config.get(key, value) != value}:
            raise UsageError(f"This is no configuration of {KIND} that is public: {others}; its weights have {FIXED}.")
        return settings_from({key: value for key, value in config.items() if key not in {*WITHOUT_EFFECT, *FIXED}}, cls, KIND)

    def to_dict(self) -> dict[str, object]:
        """What `from_dict` takes and JSON holds."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def build_var(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VAR:
    """The tokenizer of a checkpoint of VAR, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of VAR's tokenizer.
    """
    weights = _network_weights(tensors)
    settings = infer_config(weights, name) if config is None else VARConfig.from_dict(config)
    return build_strictly(lambda: VAR(settings), weights, name=name)


def infer_config(tensors: Tensors, name: str) -> VARConfig:
    """Shape of the network that has these tensors; `v_patch_nums`, which they do not tell, are those of 256 pixels.

    Raises:
        CheckpointError: a tensor that tells the shape is missing or of a shape that no such network has.
    """
    with reading_off(name, "tokenizer of VAR"):
        levels = count_of(r"encoder\.down\.(\d+)\.", tensors)
        widths = [len(tensors[f"encoder.down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        vocabulary, depth = tensors["quantize.embedding.weight"].shape
        ch = len(tensors["encoder.conv_in.weight"])
        return VARConfig(
            vocab_size=vocabulary,
            z_channels=depth,
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=count_of(r"encoder\.down\.0\.block\.(\d+)\.", tensors),
            quant_conv_ks=tensors["quant_conv.weight"].shape[-1],
            share_quant_resi=count_of(r"quantize\.smooth\.(\d+)\.", tensors),
        )


def _network_weights(tensors: Tensors) -> dict[str, Tensor]:
    """Under our names: query, key and value of attention are one tensor there, and how often codes were used is not kept."""
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if ".qkv." in key:
            parts = zip("qkv", value.float().chunk(3), strict=False)
            weights |= {key.replace(".qkv.", f".{letter}."): part.clone() for letter, part in parts}
        elif key != COUNTS:
            weights[key.replace(SMOOTHING, OURS)] = value.float()
    return weights


class VAR(Autoencoder):
    """Encoder, codes of several scales and decoder; images are in [-1, 1] here. `FrozenDiscretizer` speaks [0, 1]."""

    layout = "var"

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        shape, depth, kernel = config.as_vqgan(), config.z_channels, config.quant_conv_ks
        self.config, self.codebook_size, self.stride = config, config.vocab_size, shape.stride
        self.image_size = shape.stride * config.v_patch_nums[-1]
        self.tokens = sum(side**2 for side in config.v_patch_nums)
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
        self.quantize = MultiScaleQuantizer(config.vocab_size, depth, config.v_patch_nums, config.share_quant_resi)
        self.quant_conv = nn.Conv2d(depth, depth, kernel, padding=kernel // 2)
        self.post_quant_conv = nn.Conv2d(depth, depth, kernel, padding=kernel // 2)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [-1, 1] of `image_size`."""
        return self.quant_conv(self.encoder(images))

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(vectors))
