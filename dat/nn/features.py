"""What a pre-trained network knows of an image: its features, and the model that gives them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from dat.nn.norm import Normalized

Pixels = Float[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch depth"]


@runtime_checkable
class Encoder(Protocol):
    """A network that was pre-trained without classes."""

    def features(self, pixels: Pixels) -> Features:
        """Of normalised images, what is used afterwards."""
        ...


class OnlyFeatures(nn.Module):
    """An encoder whose answer is its features."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Pixels) -> Features:
        """Features of normalised images, in float32."""
        assert isinstance(self.encoder, Encoder)
        return self.encoder.features(pixels).float()


def encoder_of(model: Normalized) -> Normalized:
    """The model of which only the features are asked, of images in [0, 1]; it shares its weights, and is in eval mode."""
    return Normalized(OnlyFeatures(model.network), mean=model.mean.flatten().tolist(), std=model.std.flatten().tolist()).eval()
