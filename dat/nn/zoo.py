"""Classifiers by name: all of timm, and what it lacks: He's residual networks for small pictures, and DrViT."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import timm
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dat.errors import CheckpointError, UsageError
from dat.nn import drvit
from dat.nn.contrastive import backbone_of
from dat.nn.drvit import VisualWords
from dat.nn.mae import positions_resampled, take_mae
from dat.nn.weights import fitted, load_strictly, refuse_other_patches
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
        self.linear = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        self.apply(_he_initialise)

    def forward(self, images: Images) -> Tensor:
        """Logits `(batch, classes)`; of no classes the features."""
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
        return F.relu(out + self._shortcut(features))

    def _shortcut(self, features: Features) -> Features:
        """Every `stride`-th pixel, then channels of zeros; slices would do, but their gradients lose the memory format."""
        if self.stride == 1 and self.extra == 0:
            return features
        pixels = F.avg_pool2d(features, 1, self.stride)
        return F.pad(pixels, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


def _he_initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)


HEADS = ("fc", "head", "classifier", "linear")
"""What most networks call their last layer."""
NETWORKS = {"small_resnet": SmallResNet}
LOADING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Words of timm that fetch and read files; settings of a network do not."""


def create_network(name: str, *, num_classes: int, options: Mapping[str, Any], words: VisualWords | None = None) -> nn.Module:
    """A classifier with random weights (from torch's global stream), by name; `words` are what a DrViT reads.

    Raises:
        UsageError: no network of that name, it does not take these options, or words are missing or for a network without.
    """
    _check_name(name, words)
    refuse_loading(name, options)
    try:
        if words is not None:
            return drvit.drvit(name, words, num_classes=num_classes, options=options)
        if name in NETWORKS:
            return NETWORKS[name](num_classes=num_classes, **options)
        return timm.create_model(name, num_classes=num_classes, **options)
    except (TypeError, AssertionError) as error:
        raise UsageError(f"Model {name!r} does not take the options {dict(options)}: {error}.") from error


def refuse_loading(name: str, options: Mapping[str, Any]) -> None:
    """Raises: UsageError: an option would fetch or read weights, which the options of a recipe must not."""
    if odd := [key for key in options if key in LOADING]:
        raise UsageError(f"The option {odd[0]} of {name} fetches or reads weights; write model.pretrained or model.weights.")


def begin_with(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Give an untrained network the weights of a file, which become its own; in place. A head for other classes stays as it is.

    Learned positions of a vision transformer of timm are resampled to its grid of patches, as timm does; one that pools by the
    mean takes the weights of a masked autoencoder as well (`dat.nn.mae.take_mae`), and every network those of its backbone that
    was pre-trained by contrast (`dat.nn.contrastive`).

    Raises:
        CheckpointError: they are those of another network; `name` is the file's.
    """
    given = fitted(network, backbone_of(fitted(network, tensors)))
    refuse_other_patches(network, given, name=name)
    if "fc_norm.weight" in (own := network.state_dict()):
        take_mae(network, given, name=name)
        return
    given = _on_its_grid(network, given, name)
    kept = {key: own[key] for key in head_keys(network)}
    kept = {key: tensor for key, tensor in kept.items() if key not in given or given[key].shape != tensor.shape}
    kept |= {key: own[key] for key in own if key.endswith("num_batches_tracked")}  # absent from older files
    try:
        load_strictly(network, {**given, **kept}, name=name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Write model.name and model.options of their own network, or name other weights."
        ) from error


def _on_its_grid(network: nn.Module, tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    positions, own = tensors.get("pos_embed"), network.state_dict().get("pos_embed")
    if not isinstance(network, VisionTransformer) or positions is None or own is None or positions.shape == own.shape:
        return tensors
    return {**tensors, "pos_embed": positions_resampled(positions, network, name)}


def classes_of_head(network: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """For how many classes the last layer in a file of weights is; None where it has none that is known."""
    given, keys = fitted(network, tensors), head_keys(network)
    return len(given[keys[0]]) if keys and keys[0] in given else None


def head_keys(network: nn.Module) -> list[str]:
    """The parameters of the last layer, from which logits come; none, where the network does not say which it is."""
    own = network.state_dict()
    last = [name for name in HEADS if f"{name}.weight" in own]
    if not last and callable(find := getattr(network, "get_classifier", None)):
        found = find()
        last = [name for name, part in network.named_modules() if name and part is found and isinstance(part, nn.Module)]
    return [f"{name}.{part}" for name in last for part in ("weight", "bias") if f"{name}.{part}" in own]


def needs_words(name: str) -> bool:
    """Whether the network of that name reads images through a discretizer."""
    return name in drvit.SIZES


def _check_name(name: str, words: VisualWords | None) -> None:
    if name not in NETWORKS and not needs_words(name) and not timm.is_model(name):
        known = [*NETWORKS, *drvit.SIZES, *timm.list_models()]
        near = difflib.get_close_matches(name, known, n=3)
        raise UsageError(f"There is no model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    if needs_words(name) and words is None:
        raise UsageError(f"Model {name!r} reads images through a discretizer, and none is given; name one for the model.")
    if words is not None and not needs_words(name):
        raise UsageError(f"Model {name!r} takes no discretizer; leave it out, or take one of {', '.join(drvit.SIZES)}.")
