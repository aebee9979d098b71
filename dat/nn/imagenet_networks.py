"""Small ImageNet classifiers as frozen networks of features: images in [0, 1], their preprocessing inside.

A file of plain tensors is torchvision's, or Tiny Darknet's; a compressed one (`.npz`: weights as codes of a codebook, or as
scaled integers) is the conversion of a Caffe or a TensorFlow network, which expects other colours and pads otherwise.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models

from dat.errors import CheckpointError, UsageError
from dat.nn.weights import fitted, load_strictly, read_weights
from dat.types import Images

Maps = Float[Tensor, "batch _ _ _"]
Padded = Float[Tensor, "batch _ _ _"]
Enlarged = Float[Tensor, "batch 3 rows columns"]
Embedding = Float[Tensor, "batch channels"]
Logits = Float[Tensor, "batch classes"]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Convention:
    """What the weights of a file expect: `(images - mean) / std`, all in RGB and [0, 1]; the order of their colours; padding.

    `pads_at_the_end`: as TensorFlow's "same", where a stride of 2 meets an even side.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    is_bgr: bool = False
    pads_at_the_end: bool = False


TORCHVISION = Convention((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = Convention((123 / 255, 117 / 255, 104 / 255), (1 / 255, 1 / 255, 1 / 255), is_bgr=True)
TENSORFLOW = Convention((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), pads_at_the_end=True)
DARKNET = Convention((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Architecture:
    """How a network is made for plain and for compressed weights, and where its features are taken.

    `stops`: features are those after so many layers of the trunk, the last ones of each resolution; `side`: in pixels, the
    side of the images it was trained for; `border`: how many pixels are reflected around images for their features, where
    the first convolution pads nothing and would not see the last row and column of an even side.
    """

    create: Callable[[], nn.Module]
    stops: tuple[int, ...]
    side: int
    plain: Convention
    border: int = 0
    create_compressed: Callable[[], nn.Module] | None = None
    compressed: Convention | None = None


class ChannelBias(nn.Module):
    """What is left of a normalisation whose scale was folded into the convolution before it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Maps) -> Maps:
        """One number added per channel."""
        return maps + self.bias.view(1, -1, 1, 1)


def tiny_darknet() -> nn.Sequential:
    """Tiny Darknet, 0.6 million of its weights in the trunk of 49 layers; the rest classifies. Source: pjreddie/darknet."""
    plan = (16, "M", 32, "M", -16, 128, -16, 128, "M", -32, 256, -32, 256, "M", -64, 512, -64, 512, -128)
    layers, width = [], 3
    for entry in plan:  # A negative width is that of a 1 x 1 convolution.
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        kernel = 3 if entry > 0 else 1
        convolution = nn.Conv2d(width, abs(entry), kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(abs(entry), eps=1e-3), nn.LeakyReLU(0.1)]
        width = abs(entry)
    return nn.Sequential(*layers, nn.Conv2d(width, 1000, 1))


NETWORKS = {
    "squeezenet1_0": Architecture(
        models.squeezenet1_0,
        stops=(2, 6, 11, 13),
        side=227,
        plain=TORCHVISION,
        border=3,
        create_compressed=models.squeezenet1_0,
        compressed=CAFFE,
    ),
    "mobilenet_v2": Architecture(
        models.mobilenet_v2,
        stops=(2, 4, 7, 14, 18),
        side=224,
        plain=TORCHVISION,
        create_compressed=lambda: models.mobilenet_v2(norm_layer=ChannelBias),
        compressed=TENSORFLOW,
    ),
    "tiny_darknet": Architecture(tiny_darknet, stops=(3, 7, 20, 33, 46), side=224, plain=DARKNET),
}


class ImageNetNetwork(nn.Module):
    """A classifier of 1000 classes, frozen and in evaluation mode: features, an embedding, or logits of images in [0, 1].

    `trunk` are the layers up to the last convolution before pooling and classification, which is the `head`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        trunk: Sequence[nn.Module],
        head: nn.Module,
        *,
        stops: Sequence[int],
        convention: Convention,
        border: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.stops, self.border = name, tuple(stops), border
        self.register_buffer("mean", torch.tensor(convention.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(convention.std).view(1, 3, 1, 1))
        self.trunk, self.head = nn.Sequential(*trunk), head
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # missing in torch's stub

    def train(self, mode: bool = True) -> ImageNetNetwork:
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    def features(self, images: Images) -> list[Maps]:
        """Feature maps after each of the `stops`, of falling resolution; images larger than the border."""
        framed = F.pad(images, (self.border,) * 4, mode="reflect") if self.border else images
        maps, hidden = [], self._normalised(framed)
        for number, layer in enumerate(self.trunk[: self.stops[-1]], start=1):
            hidden = layer(hidden)
            if number in self.stops:
                maps.append(hidden)
        return maps

    def embed(self, images: Images) -> Embedding:
        """Mean over positions of the last maps of the trunk."""
        return self.trunk(self._normalised(images)).mean(dim=(2, 3))

    def forward(self, images: Images) -> Logits:
        """Scores of the 1000 classes, in the order of ImageNet's index."""
        return self.head(self.trunk(self._normalised(images)))

    def _normalised(self, images: Images) -> Images:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def load_imagenet_network(name: str, path: Path) -> ImageNetNetwork:
    """One of `NETWORKS` with the weights of a file: torchvision's own, Tiny Darknet's, or a compressed `.npz`.

    Weights for BGR are turned over, and normalisations folded into the convolutions before them.

    Raises:
        UsageError: there is no network of this name.
        CheckpointError: the file is missing or damaged, or does not hold this network.
    """
    if name not in NETWORKS:
        raise UsageError(f"There is no ImageNet network {name!r}; take one of {', '.join(NETWORKS)}.")
    architecture, path = NETWORKS[name], Path(path)
    is_compressed = path.suffix == ".npz"
    create = architecture.create_compressed if is_compressed else architecture.create
    convention = architecture.compressed if is_compressed else architecture.plain
    if create is None or convention is None:
        raise CheckpointError(f"{path} is a compressed file, and of {name} there is none; give its .safetensors.")
    network = _with_weights(create, _read_compressed(path) if is_compressed else read_weights(path)[0], str(path))
    trunk, head = _split(network)
    if convention.is_bgr:
        first = next(trunk.parameters())
        first.data = first.data.flip(1)
    if convention.pads_at_the_end:
        _pad_at_the_end(trunk)
    return ImageNetNetwork(name, list(trunk), head, stops=architecture.stops, convention=convention, border=architecture.border)


def enlarge(images: Images, least_side: int) -> Enlarged:
    """Images of at least `least_side` pixels a side, bilinearly; larger ones as they are."""
    scale = least_side / min(images.shape[-2:])
    if scale <= 1:
        return images
    return F.interpolate(images, [round(scale * side) for side in images.shape[-2:]], mode="bilinear", align_corners=False)


class _PadAtTheEnd(nn.Module):
    """Padding of a 3 x 3 convolution of stride 2 by TensorFlow's rule: in front only where the side is odd."""

    def forward(self, maps: Maps) -> Padded:
        height, width = maps.shape[-2:]
        return F.pad(maps, (width % 2, 1, height % 2, 1))


def _with_weights(create: Callable[[], nn.Module], tensors: Mapping[str, Tensor], name: str) -> nn.Module:
    with torch.device("meta"):  # The weights come from the file, so none are drawn.
        network = create()
    load_strictly(network, fitted(network, tensors), name=name)
    network.requires_grad_(False).eval()
    _fold_normalisations(network)
    return network


def _split(network: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """Trunk and head of the three architectures."""
    if isinstance(network, models.SqueezeNet):
        return network.features, nn.Sequential(network.classifier, nn.Flatten())
    if isinstance(network, models.MobileNetV2):
        return network.features, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.classifier)
    layers = list(network.children())
    return nn.Sequential(*layers[:-1]), nn.Sequential(layers[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _fold_normalisations(network: nn.Module) -> None:
    sequences = [part for part in network.modules() if isinstance(part, nn.Sequential)]
    for sequence in sequences:
        for (place, convolution), (next_place, norm) in pairwise(list(sequence.named_children())):
            if not isinstance(convolution, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d | ChannelBias):
                continue
            if isinstance(norm, ChannelBias):
                convolution.bias = norm.bias
            else:
                setattr(sequence, place, fuse_conv_bn_eval(convolution, norm))
            setattr(sequence, next_place, nn.Identity())


def _pad_at_the_end(trunk: nn.Module) -> None:
    sequences = [part for part in trunk.modules() if isinstance(part, nn.Sequential)]
    for sequence in sequences:
        for place, layer in list(sequence.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2) and layer.kernel_size == (3, 3):
                layer.padding = (0, 0)
                setattr(sequence, place, nn.Sequential(_PadAtTheEnd(), layer))


def _read_compressed(path: Path) -> dict[str, Tensor]:
    """Tensors of an `.npz`: `K.codebook[K.codes]`, `K.q * K.scale` (a scale per output channel), or `K` as it is.

    Raises:
        CheckpointError: the file is missing, damaged, or holds Python objects.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no weight file at {path}; give the path of an .npz.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return {key: torch.from_numpy(value) for key, value in _decompressed(arrays).items()}
    except (ValueError, OSError, EOFError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged, or no compressed weights ({error}); get it again.") from error


def _decompressed(arrays: Arrays) -> dict[str, np.ndarray]:
    tensors = {}
    for key, value in arrays.items():
        name, _, form = key.rpartition(".")
        if form == "codes":
            tensors[name] = arrays[f"{name}.codebook"][value]
        elif form == "q":
            scale = arrays[f"{name}.scale"]
            tensors[name] = value.astype(np.float32) * scale.reshape(-1, *[1] * (value.ndim - 1))
        elif form not in ("codebook", "scale"):
            tensors[key] = value
    return tensors
