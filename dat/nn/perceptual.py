"""Perceptual distances: LPIPS in its original key layout, one in the features of any classifier, one that needs no weights.

Source: Zhang et al. (2018), The Unreasonable Effectiveness of Deep Features as a Perceptual Metric;
richzhang/PerceptualSimilarity:lpips/lpips.py, CompVis/taming-transformers:taming/modules/losses/lpips.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models

from dat.errors import UsageError
from dat.nn.imagenet_networks import ImageNetNetwork, enlarge, load_imagenet_network
from dat.nn.weights import build_strictly, load_strictly, read_tensors
from dat.types import Images, PerImage

Features = Float[Tensor, "batch _ _ _"]
ChannelMap = Float[Tensor, "batch 1 _ _"]


@dataclass(frozen=True)
class Backbone:
    """A torchvision network: its constructor, its weight file, after which layers features are taken, and their widths."""

    create: Callable[..., nn.Module]
    file_name: str
    stops: tuple[int, ...]
    widths: tuple[int, ...]


BACKBONES = {
    "vgg16": Backbone(models.vgg16, "vgg16-397923af.pth", (4, 9, 16, 23, 30), (64, 128, 256, 512, 512)),
    "alexnet": Backbone(models.alexnet, "alexnet-owt-7be5be79.pth", (2, 5, 8, 10, 12), (64, 192, 384, 256, 256)),
    "squeezenet1_1": Backbone(
        models.squeezenet1_1,
        "squeezenet1_1-b8a52dc0.pth",
        (2, 5, 8, 10, 11, 12, 13),
        (64, 128, 256, 384, 384, 512, 512),
    ),
}


class LPIPS(nn.Module):
    """Distance of two images in the features of a classifier, weighted per channel; images in [-1, 1].

    `features` are the layers of the classifier, `stops` the layers before which it is cut. Frozen; keys
    `scaling_layer.*`, `net.slice{1..}.{layer}.*`, `lin{0..}.model.1.weight`. `name`: what its values are called.
    """

    def __init__(
        self, features: Sequence[nn.Module], *, stops: Sequence[int], widths: Sequence[int], name: str = "lpips"
    ) -> None:
        super().__init__()
        self.name = name
        self.scaling_layer = _Scaling()
        self.net = nn.Module()
        for number, (start, stop) in enumerate(zip((0, *stops[:-1]), stops, strict=True), start=1):
            part = nn.Sequential()
            for layer in range(start, stop):
                part.add_module(str(layer), features[layer])
            self.net.add_module(f"slice{number}", part)
        for number, width in enumerate(widths):
            self.add_module(f"lin{number}", _Linear(width))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in evaluation mode: a distance has no dropout."""
        del mode
        return super().train(False)

    def forward(self, images: Images, references: Images) -> PerImage:
        """Distance per image, 0 for equal ones."""
        distance = images.new_zeros(len(images))
        ours, theirs = self.scaling_layer(images), self.scaling_layer(references)
        for number, part in enumerate(self.net.children()):
            ours, theirs = part(ours), part(theirs)
            difference = (_unit_length(ours) - _unit_length(theirs)).square()
            distance = distance + self.get_submodule(f"lin{number}")(difference).mean(dim=(1, 2, 3))
        return distance


def load_lpips(backbone: str, linear_layers: Path, *, cache: Path | None = None) -> LPIPS:
    """LPIPS from the weights of torchvision's `vgg16`, `alexnet` or `squeezenet1_1` and LPIPS's own linear layers.

    `cache` is the folder (or the file) of torchvision's weights; without it, the one torch downloads to. Downloads nothing.

    Raises:
        UsageError: the backbone is another one.
        CheckpointError: a file is missing (which), damaged, or does not fit.
    """
    if backbone not in BACKBONES:
        raise UsageError(f"LPIPS has no backbone {backbone!r}; take one of {', '.join(BACKBONES)}.")
    chosen = BACKBONES[backbone]
    file = backbone_file(backbone, cache)
    tensors = {key.removeprefix("features."): value for key, value in read_tensors(file)[0].items() if "features." in key}
    features = build_strictly(lambda: chosen.create(weights=None).get_submodule("features"), tensors, name=str(file))
    lpips = LPIPS(list(features.children()), stops=chosen.stops, widths=chosen.widths, name=f"lpips_{backbone}")
    linear = read_tensors(linear_layers)[0]
    for number in range(len(chosen.widths)):
        layer = f"lin{number}."
        own = {key.removeprefix(layer): value for key, value in linear.items() if key.startswith(layer)}
        load_strictly(lpips.get_submodule(f"lin{number}"), own, name=str(linear_layers))
    return lpips.requires_grad_(False)


def backbone_file(backbone: str, cache: str | Path | None) -> Path:
    """The file of torchvision's weights that `load_lpips` reads."""
    folder = Path(cache) if cache is not None else Path(torch.hub.get_dir()) / "checkpoints"
    return folder if folder.is_file() else folder / BACKBONES[backbone].file_name


class FeatureDistance(nn.Module):
    """Distance of two images in the unit-length features of a classifier, no channel weighted; images in [-1, 1]. Frozen.

    The uncalibrated variant of Zhang et al. (2018), eq. 1 with all weights 1: squared difference summed over channels, mean
    over positions, sum over layers. LPIPS's published linear layers belong to the channels of VGG16, AlexNet and
    SqueezeNet 1.1; those of other networks, SqueezeNet 1.0 among them (96 channels in its first layer), mean other things.
    Its values are no LPIPS and compare only within one network and one `least_side`.

    `least_side`: smaller images are enlarged to so many pixels a side, bilinearly. Enlarging 32 to 64 pixels costs 4 times as
    much, weighs noise higher, and orders JPEG qualities slightly better (measured on CIFAR-10); not the default, for its cost.
    Under autocast the network runs in lower precision, the lengths and differences in float32.
    """

    def __init__(self, network: ImageNetNetwork, *, least_side: int = 32) -> None:
        super().__init__()
        self.name = f"{network.name}_distance"
        self.network, self.least_side = network, least_side
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    def forward(self, images: Images, references: Images) -> PerImage:
        """Distance per image, 0 for equal ones and at most 4 per layer."""
        ours, theirs = self._features(images), self._features(references)
        per_layer = [
            (_unit_length(a.float()) - _unit_length(b.float())).square().sum(dim=1).mean(dim=(1, 2))
            for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(per_layer).sum(dim=0)

    def _features(self, images: Images) -> list[Features]:
        return self.network.features((enlarge(images, self.least_side) + 1) / 2)


def load_feature_distance(network: str, path: Path, *, least_side: int = 32) -> FeatureDistance:
    """`FeatureDistance` on a network of `dat.nn.imagenet_networks`, of the weights of a file.

    Raises:
        UsageError: there is no network of this name.
        CheckpointError: the file is missing or damaged, or does not hold this network.
    """
    return FeatureDistance(load_imagenet_network(network, path), least_side=least_side)


def multiscale_gradient_distance(images: Images, references: Images, *, levels: int = 4) -> PerImage:
    """Mean absolute difference of image gradients, averaged over a pyramid of halved images; no weights needed.

    Sensitive to edges and texture and blind to a constant shift of colour, so use it beside a pixel loss. It is no LPIPS: its
    values cannot be compared with LPIPS. Levels of less than 4 pixels a side are left out. Images of at least 2 pixels
    a side; the unit is that of the images.

    Source: ours, after the gradient difference loss of Mathieu et al. (2016), over scales.
    """
    difference = images - references
    distances = []
    for _ in range(levels):
        along_rows, along_columns = difference.diff(dim=-1).abs(), difference.diff(dim=-2).abs()
        distances.append(along_rows.mean(dim=(1, 2, 3)) + along_columns.mean(dim=(1, 2, 3)))
        if min(difference.shape[-2:]) < 8:
            break
        difference = F.avg_pool2d(difference, 2)
    return torch.stack(distances).mean(dim=0)


class _Scaling(nn.Module):
    """From [-1, 1] to the normalisation of the classifiers."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, images: Images) -> Images:
        return (images - self.shift) / self.scale


class _Linear(nn.Module):
    """Weighted sum over channels. Index 1 of `model` is part of the key; index 0 was a dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, difference: Features) -> ChannelMap:
        return self.model(difference)


def _unit_length(features: Features) -> Features:
    # The small number stands outside the norm, as in the original; where all channels are 0, so is the gradient.
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-10)
