"""What every discretizer is made of: a network with codes in its middle, and the quantizer that makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn

from dat.types import Codes, Images, Latents, Vectors


class Settings(Protocol):
    """The configuration of a network, in the words of its public form."""

    def to_dict(self) -> Mapping[str, Any]:
        """What JSON holds, and what the builder of the layout takes."""
        ...


class Quantizer(nn.Module):
    """Interface: latents to codes, and codes to the vectors that the decoder sees."""

    codebook_size: int

    def encode(self, latents: Latents) -> Codes:
        """Codes of latents, which are float32 or better; `(batch, rows, columns)`, or `(batch, tokens)` without a grid."""
        raise NotImplementedError

    def decode(self, codes: Codes) -> Latents:
        """The vector of each code, as a map of features; in the dtype of the quantizer's weights, float32 where it has none."""
        raise NotImplementedError

    def vectors_of_all(self, every: Codes) -> Vectors:
        """The vectors of all codes, given in the shape in which `decode` takes any number of them."""
        return self.decode(every)[0, :, 0].T


class Autoencoder(nn.Module):
    """Interface: a network that `FrozenDiscretizer` makes a discretizer of. A public layout is one such class.

    `layout` names the builder of `dat.discretizers.layouts` that restores it. `pixel_range`: where black and white lie
    in what the network sees and gives. `image_size`: the only side it takes, in pixels; None: any, padded to `stride`.
    `tokens`: how many codes a tokenizer without a grid writes; None: a grid of one code per `stride` x `stride` pixels.
    The quantizer stays in float32 where the rest is put into lower precision.
    """

    layout: str
    config: Settings
    codebook_size: int
    stride: int
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    image_size: int | None = None
    tokens: int | None = None
    encoder: nn.Module
    decoder: nn.Module
    quantize: Quantizer

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in `pixel_range` whose sides are multiples of the stride."""
        raise NotImplementedError

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around `pixel_range`, not clamped."""
        raise NotImplementedError
