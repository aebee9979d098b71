"""The two halves of a frozen discretizer as plain networks, which can be written down as graphs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer, check_image_size, pad_to_multiple
from dat.types import Codes, Images


class Encode(nn.Module):
    """Images in [0, 1] to codes: `FrozenDiscretizer.encode` without its checks."""

    def __init__(self, discretizer: FrozenDiscretizer) -> None:
        super().__init__()
        self.network = discretizer.network

    def forward(self, images: Images) -> Codes:
        """Codes of each patch; the grid is the image size over the stride, rounded up."""
        low, high = self.network.pixel_range
        latents = self.network.latents(pad_to_multiple((high - low) * images + low, self.network.stride))
        return self.network.quantize.encode(latents)


class Decode(nn.Module):
    """Codes to images in [0, 1] of one size: after `Encode` it gives `Q(x)`.

    Raises:
        UsageError: the network takes images of another size only.
    """

    def __init__(self, discretizer: FrozenDiscretizer, size: tuple[int, int]) -> None:
        super().__init__()
        check_image_size(size, discretizer.network)
        self.network, self.size = discretizer.network, size

    def forward(self, codes: Codes) -> Images:
        """Images of the height and width of `size`, cropped as `Q` crops where the stride does not divide it."""
        low, high = self.network.pixel_range
        raw: Tensor = self.network.decode_vectors(self.network.quantize.decode(codes))
        return ((torch.clamp(raw, low, high) - low) / (high - low))[..., : self.size[0], : self.size[1]]
