"""`VQModel` of the library diffusers: the VQGAN of latent diffusion under other names.

Source: huggingface/diffusers:src/diffusers/models/autoencoders/vq_model.py, vae.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dat.discretizers.configuration import settings_from
from dat.discretizers.networks.taming import NOMINAL_RESOLUTION
from dat.discretizers.networks.vqgan import GROUPS, VQGAN, VQGANConfig
from dat.errors import CheckpointError, UsageError
from dat.nn.weights import build_strictly

KIND = "a VQModel of diffusers"
CLASS = "VQModel"
# They concern diffusion, or how the library is called: `encode` and `decode` give the same with any of them.
WITHOUT_EFFECT = {"sample_size", "scaling_factor", "lookup_from_codebook", "force_upcast"}
DOWN, ATTENTIVE_DOWN = "DownEncoderBlock2D", "AttnDownEncoderBlock2D"
UP, ATTENTIVE_UP = "UpDecoderBlock2D", "AttnUpDecoderBlock2D"
SAME_ACTIVATIONS = ("silu", "swish")

# Parts of the names of latent diffusion, and what the library calls them.
NAMES = (
    (r"\bdown\.(\d+)\.", r"down_blocks.\1."),
    (r"\bmid\.block_1\b", "mid_block.resnets.0"),
    (r"\bmid\.block_2\b", "mid_block.resnets.1"),
    (r"\bmid\.attn_1\b", "mid_block.attentions.0"),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.attn\.(\d+)\.", r".attentions.\1."),
    (r"(attentions\.\d+)\.norm\b", r"\1.group_norm"),
    (r"(attentions\.\d+)\.([qkv])\b", r"\1.to_\2"),
    (r"(attentions\.\d+)\.proj_out\b", r"\1.to_out.0"),
    (r"\bnin_shortcut\b", "conv_shortcut"),
    (r"\bdownsample\.", "downsamplers.0."),
    (r"\bupsample\.", "upsamplers.0."),
    (r"\bnorm_out\b", "conv_norm_out"),
)
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What files of 2022 call the parts of attention, which the library still reads."""

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class VQModelConfig:
    """`config.json` without what has no effect on codes and pictures; names and defaults are the library's."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = (DOWN,)
    up_block_types: tuple[str, ...] = (UP,)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 3
    num_vq_embeddings: int = 256
    norm_num_groups: int = GROUPS
    vq_embed_dim: int | None = None
    norm_type: str = "group"
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        faults = [*self._other_networks(), *self._other_levels()]
        if faults:
            raise UsageError(f"This VQModel of diffusers is no VQGAN of latent diffusion: {'; '.join(faults)}.")

    def _other_networks(self) -> list[str]:
        wanted = {"norm_type": ("group",), "act_fn": SAME_ACTIVATIONS, "norm_num_groups": (GROUPS,)}
        found = {key: getattr(self, key) for key in wanted}
        return [f"{key} is {value!r}, not {wanted[key][0]!r}" for key, value in found.items() if value not in wanted[key]]

    def _other_levels(self) -> list[str]:
        levels, widths = len(self.block_out_channels), self.block_out_channels
        if not len(self.down_block_types) == len(self.up_block_types) == levels:
            return ["down_block_types, up_block_types and block_out_channels are not of one length"]
        faults = []
        if unknown := {*self.down_block_types, *self.up_block_types} - {DOWN, ATTENTIVE_DOWN, UP, ATTENTIVE_UP}:
            faults.append(f"it has blocks {', '.join(sorted(unknown))}")
        up = [kind == ATTENTIVE_UP for kind in reversed(self.up_block_types)]
        if up != self.attention:
            faults.append("attention is at other levels of the decoder than of the encoder")
        if any(self.attention) and not self.mid_block_add_attention:
            faults.append("there is attention, but none in the middle")
        if any(width % widths[0] for width in widths):
            faults.append(f"block_out_channels {list(widths)} are no multiples of the first")
        return faults

    @property
    def attention(self) -> list[bool]:
        """Whether the blocks of each level are followed by attention, highest resolution first."""
        return [kind == ATTENTIVE_DOWN for kind in self.down_block_types]

    def as_vqgan(self) -> VQGANConfig:
        """The same network in the words of latent diffusion.

        Raises:
            UsageError: a width that 32 groups do not divide.
        """
        levels = [level for level, attentive in enumerate(self.attention) if attentive]
        return VQGANConfig(
            n_embed=self.num_vq_embeddings,
            embed_dim=self.vq_embed_dim or self.latent_channels,
            z_channels=self.latent_channels,
            ch=self.block_out_channels[0],
            ch_mult=tuple(width // self.block_out_channels[0] for width in self.block_out_channels),
            num_res_blocks=self.layers_per_block,
            resolution=NOMINAL_RESOLUTION,
            attn_resolutions=tuple(NOMINAL_RESOLUTION // 2**level for level in levels),
            attn_type="vanilla" if self.mid_block_add_attention else "none",
            in_channels=self.in_channels,
            out_ch=self.out_channels,
        )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VQModelConfig:
        """From `config.json` as the library writes it.

        Raises:
            UsageError: it is of another class, a key is unknown, a value is none, or it asks for a network that is no VQGAN.
        """
        if config.get("_class_name", CLASS) != CLASS:
            raise UsageError(f"config.json is of diffusers' {config['_class_name']}, which has no codebook; only {CLASS} does.")
        kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in WITHOUT_EFFECT}
        return settings_from(kept, cls, KIND)


def build_diffusers(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> VQGAN:
    """The VQGAN of a folder of diffusers, in float32; converted, it is one of latent diffusion.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; or there is no configuration.
        UsageError: `config` is none of a VQModel, or of one that is no VQGAN.
    """
    if config is None:
        raise CheckpointError(
            f"{name} has the keys of diffusers, whose tensors do not tell the network; put its config.json beside it, "
            "or give it: config={...}, --config config.json."
        )
    settings = VQModelConfig.from_dict(config).as_vqgan()
    weights = {_today(key): _as_convolution(key, value.float()) for key, value in tensors.items()}
    levels = len(settings.ch_mult)
    return build_strictly(lambda: VQGAN(settings), weights, name=name, renamed=lambda key: public_name(key, levels))


def public_name(key: str, levels: int) -> str:
    """What the library calls a weight of the VQGAN; it numbers the levels of the decoder from the lowest resolution on."""
    key = re.sub(r"\bup\.(\d+)\.", lambda found: f"up_blocks.{levels - 1 - int(found[1])}.", key)
    for pattern, replacement in NAMES:
        key = re.sub(pattern, replacement, key)
    return key


def _today(key: str) -> str:
    """The present name of a tensor of an old file."""
    return re.sub(
        r"(attentions\.\d+)\.(query|key|value|proj_attn)\b", lambda found: f"{found[1]}.{OLD_ATTENTION[found[2]]}", key
    )


def _as_convolution(key: str, value: Tensor) -> Tensor:
    """Attention's linear layers are 1x1 convolutions there."""
    is_matrix = ".attentions." in key and key.endswith(".weight") and value.ndim == 2
    return value[:, :, None, None] if is_matrix else value
