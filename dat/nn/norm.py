"""Normalisation of the input, inside the model: everything outside sees images in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dat.types import Images


class Normalized(nn.Module):
    """A network that takes images in [0, 1] and shows its `network` images of zero mean and unit deviation.

    The network keeps its own parameter names under `network.`: optimizers that group parameters by name (layer decay, no
    weight decay) are given `.network`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Images) -> Tensor:
        """What the network gives for the normalised images."""
        return self.network((images - self.mean) / self.std)
