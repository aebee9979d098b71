"""The discrete VAE of DALL-E: an encoder that scores the codes, and a decoder that looks them up; in two files.

Source: Ramesh et al. (2021), Zero-Shot Text-to-Image Generation; openai/DALL-E:dall_e/{encoder,decoder,utils}.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder, Quantizer
from dat.discretizers.configuration import check_values, count_of, reading_off, settings_from
from dat.errors import CheckpointError, DivergenceError, UsageError
from dat.nn.weights import build_strictly, read_tensors
from dat.types import Codes, Images, Latents, exporting

Features = Float[Tensor, "batch _ _ _"]
Tensors = Mapping[str, Tensor]

LOOKUP = "decoder.blocks.input."
"""Where the public decoder keeps the vectors of the codes, which are the quantizer's here."""
KIND = "a dVAE"
HALVES = ("encoder", "decoder")
TELLING = "blocks.input.w"
"""Key of both halves."""


@dataclass(frozen=True)
class DalleConfig:
    """Shape of the network, in the words of its authors; the defaults are theirs.

    `n_hid`: width of the highest resolution, which doubles with each further group; `n_init`: length of a code's vector.
    """

    n_hid: int = 256
    n_blk_per_group: int = 2
    vocab_size: int = 8192
    n_init: int = 128
    group_count: int = 4

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        if self.n_hid % 4:
            raise UsageError(f"n_hid is {self.n_hid}; a dVAE needs a multiple of 4, as its blocks narrow to a quarter.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each group, highest resolution first."""
        return tuple(self.n_hid * 2**group for group in range(self.group_count))

    @property
    def gain(self) -> float:
        """Factor of each block's branch."""
        return 1 / (self.group_count * self.n_blk_per_group) ** 2

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> DalleConfig:
        """From a dictionary with any of these settings.

        Raises:
            UsageError: a setting is unknown or no possible size.
        """
        return settings_from(config, cls, KIND)

    def to_dict(self) -> dict[str, object]:
        """What `from_dict` takes and JSON holds."""
        return asdict(self)


def build_dalle(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> DalleDVAE:
    """The dVAE of both halves' tensors under `encoder.` and `decoder.`, in float32.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: `config` is none of a dVAE.
    """
    settings = infer_config(tensors, name) if config is None else DalleConfig.from_dict(config)
    weights = {key.replace(LOOKUP, "quantize."): value.float() for key, value in tensors.items()}
    return build_strictly(lambda: DalleDVAE(settings), weights, name=name)


def infer_config(tensors: Tensors, name: str) -> DalleConfig:
    """Shape of the network that has these tensors.

    Raises:
        CheckpointError: a tensor that tells the shape is missing, or their shapes are those of no dVAE.
    """
    with reading_off(name, "dVAE"):
        return DalleConfig(
            n_hid=len(tensors["encoder.blocks.input.w"]),
            n_blk_per_group=count_of(r"encoder\.blocks\.group_1\.block_(\d+)\.", tensors),
            vocab_size=len(tensors["encoder.blocks.output.conv.w"]),
            n_init=len(tensors[f"{LOOKUP}w"]),
            group_count=count_of(r"encoder\.blocks\.group_(\d+)\.", tensors),
        )


def encoder_in(folder: Path) -> Path | None:
    """The encoder's file of a folder with one for the encoder and one for the decoder; None where there are not just two."""
    encoders, decoders = _named_after(folder, "encoder"), _named_after(folder, "decoder")
    return encoders[0] if len(encoders) == len(decoders) == 1 else None


def read_both_halves(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`read_tensors`; of one half of a dVAE, together with the other, which lies beside it.

    Their keys get `encoder.` and `decoder.` before them.

    Raises:
        CheckpointError: see `read_tensors`; or the other half is not there.
    """
    tensors, metadata = read_tensors(path)
    if TELLING not in tensors:
        return tensors, metadata
    other = other_half(path)
    if other is None or TELLING not in (others := read_tensors(other)[0]):
        raise CheckpointError(
            f"{path} holds one half of a dVAE; put the other beside it, as encoder{path.suffix} and decoder{path.suffix}."
        )
    own, wanted = _own_and_other(path)
    halves = {own: tensors, wanted: others}
    return {f"{half}.{key}": value for half in HALVES for key, value in halves[half].items()}, metadata


def other_half(path: Path) -> Path | None:
    """The file beside one half of a dVAE with the same name but for the word, or the only one with the other word in it."""
    own, wanted = _own_and_other(path)
    if own not in path.name.lower():
        return None
    other = path.with_name(path.name.replace(own, wanted))
    if own in path.name and other.is_file():
        return other
    beside = _named_after(path.parent, wanted)
    return beside[0] if len(beside) == 1 else None


def _own_and_other(path: Path) -> tuple[str, str]:
    encoder, decoder = HALVES
    return (encoder, decoder) if encoder in path.name.lower() else (decoder, encoder)


def _named_after(folder: Path, half: str) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file() and half in file.name.lower()]


class DalleDVAE(Autoencoder):
    """Encoder, vectors of the codes, and decoder.

    In float32 on every device; on a GPU, the original evaluates all but its outermost convolutions in float16.
    """

    layout = "dalle"
    pixel_range = (0.1, 0.9)  # the support of its logit-Laplace likelihood, with an epsilon of 0.1

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        # Set once, so these types may be narrower than the interface's.
        self.config: DalleConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.codebook_size, self.stride = config.vocab_size, 2 ** (config.group_count - 1)
        self.encoder = Encoder(config)
        self.quantize = BestScore(config.vocab_size, config.n_init)
        self.decoder = Decoder(config)

    def latents(self, images: Images) -> Latents:
        """The score of each code, for images in [0.1, 0.9] whose sides are multiples of the stride."""
        return self.encoder(images)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images in (0, 1), around [0.1, 0.9]: the locations of the likelihood, without the scales that follow them."""
        return self.decoder(vectors)[:, :3].sigmoid()


class BestScore(Quantizer):
    """The code of the largest score, ties to the lowest; its vector is what a 1x1 convolution makes of the code's one-hot."""

    def __init__(self, codebook_size: int, depth: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.w = nn.Parameter(torch.zeros(depth, codebook_size, 1, 1))
        self.b = nn.Parameter(torch.zeros(depth))

    def encode(self, latents: Latents) -> Codes:
        """Code of the largest of the scores at each position; they are not checked while `torch.export` looks on.

        Raises:
            DivergenceError: a score is NaN or infinite.
        """
        if not exporting() and not latents.isfinite().all():
            raise DivergenceError("The scores of the codes hold NaN or infinite values; the weights of the dVAE are damaged.")
        return latents.argmax(dim=1)

    def decode(self, codes: Codes) -> Latents:
        """Vector of each code."""
        return (F.embedding(codes, self.w.flatten(1).T) + self.b).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """Images to the scores of the codes, at half the resolution after each group but the last."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        groups = _groups(config, (config.n_hid, *config.widths), (3, 3, 3, 1), nn.MaxPool2d(2))
        output = _output(config.widths[-1], config.vocab_size)
        self.blocks = nn.Sequential(OrderedDict([("input", Convolution(3, config.n_hid, 7)), *groups, ("output", output)]))

    def forward(self, images: Features) -> Features:
        """One channel per code."""
        return self.blocks(images)


class Decoder(nn.Module):
    """Vectors of the codes to images: three channels of locations and three of scales, the inverse of a sigmoid before both."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        widths = (config.n_init, *config.widths[::-1])
        groups = _groups(config, widths, (1, 3, 3, 3), nn.Upsample(scale_factor=2, mode="nearest"))
        self.blocks = nn.Sequential(OrderedDict([*groups, ("output", _output(config.n_hid, 6))]))

    def forward(self, features: Features) -> Features:
        """Six channels, `stride` times as large."""
        return self.blocks(features)


def _groups(
    config: DalleConfig, widths: tuple[int, ...], kernels: tuple[int, ...], resize: nn.Module
) -> Iterator[tuple[str, nn.Module]]:
    """A group of blocks for each of `widths` after the first, which is that of the input; all but the last end in `resize`."""
    for group, (before, width) in enumerate(pairwise(widths)):
        inputs = (before, *[width] * (config.n_blk_per_group - 1))
        blocks = [Block(channels, width, kernels, config.gain) for channels in inputs]
        named: list[tuple[str, nn.Module]] = [(f"block_{number}", block) for number, block in enumerate(blocks, 1)]
        last = [] if group == config.group_count - 1 else [("resize", resize)]
        yield f"group_{group + 1}", nn.Sequential(OrderedDict([*named, *last]))


def _output(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict([("relu", nn.ReLU()), ("conv", Convolution(before, width, 1))]))


class Block(nn.Module):
    """Four convolutions at a quarter of the width, beside a shortcut (1x1 where the width changes)."""

    def __init__(self, before: int, width: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path = Convolution(before, width, 1) if before != width else nn.Identity()
        widths, path = (before, *[width // 4] * 3, width), OrderedDict[str, nn.Module]()
        for number, kernel in enumerate(kernels):
            path[f"relu_{number + 1}"] = nn.ReLU()
            path[f"conv_{number + 1}"] = Convolution(widths[number], widths[number + 1], kernel)
        self.res_path = nn.Sequential(path)

    def forward(self, features: Features) -> Features:
        """Features at the new width."""
        return self.id_path(features) + self.gain * self.res_path(features)


class Convolution(nn.Module):
    """A convolution that keeps the resolution, its parameters under their public names."""

    def __init__(self, before: int, width: int, kernel: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(width, before, kernel, kernel))
        self.b = nn.Parameter(torch.zeros(width))

    def forward(self, features: Features) -> Features:
        """Features of the new width."""
        return F.conv2d(features, self.w, self.b, padding=self.w.shape[-1] // 2)
