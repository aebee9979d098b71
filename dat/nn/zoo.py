"""Classifiers by name: all of timm, and He's residual networks for small pictures, which timm does not have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from dat.errors import UsageError
from dat.types import Images

Features = Tensor


class SmallResNet(nn.Module):
    """Residual network of 6n + 2 layers for pictures of 8 to 64 pixels.

    Source: He et al., CVPR 2016, section 4.2, with parameter-free shortcuts (option A); `width` 16 is the paper's. The names
    of the parameters are those of `akamaster/pytorch_resnet_cifar10`, whose weights fit.
    """

    def __init__(self, *, num_classes: int, depth: int = 20, width: int = 16) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UsageError(f"small_resnet has depth {depth}; write 8, 14, 20, 32, 44, 56 or another 6n + 2.")
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, stride in enumerate((1, 2, 2), start=1):
            blocks = []
            for block in range((depth - 2) // 6):
                blocks.append(_Block(channels, width * 2 ** (stage - 1), stride if block == 0 else 1))
                channels = width * 2 ** (stage - 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, num_classes)
        self.apply(_he_initialise)

    def forward(self, images: Images) -> Tensor:
        """Logits `(batch, classes)`."""
        features = F.relu(self.bn1(self.conv1(images)))
        for stage in (1, 2, 3):
            features = self.get_submodule(f"layer{stage}")(features)
        return self.linear(features.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride, self.extra = stride, channels_out - channels_in

    def forward(self, features: Features) -> Features:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        shortcut = features[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)))


def _he_initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


NETWORKS = {"small_resnet": SmallResNet}


def create_network(name: str, *, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """A classifier with random weights (from torch's global stream), by name.

    Raises:
        UsageError: no network of that name, or it does not take these options.
    """
    if name not in NETWORKS and not timm.is_model(name):
        known = [*NETWORKS, *timm.list_models()]
        near = difflib.get_close_matches(name, known, n=3)
        raise UsageError(f"There is no model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    try:
        if name in NETWORKS:
            return NETWORKS[name](num_classes=num_classes, **options)
        return timm.create_model(name, num_classes=num_classes, **options)
    except (TypeError, AssertionError) as error:
        raise UsageError(f"Model {name!r} does not take the options {dict(options)}: {error}.") from error
