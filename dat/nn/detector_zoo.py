"""Detectors by name: torchvision's, its heads of FCOS and RetinaNet on any backbone of timm, and folders of transformers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from dat.errors import CheckpointError, UsageError
from dat.nn.detectors import BACKGROUND_FIRST, Detector
from dat.nn.transformers_detectors import PREFIX, TransformersDetector, from_folder
from dat.nn.weights import fitted, load_strictly, read_tensors
from dat.nn.zoo import refuse_loading
from dat.types import Images

AnyDetector = Detector | TransformersDetector
PUBLISHED = tuple(
    name
    for name in torchvision.models.list_models(torchvision.models.detection)
    if not name.startswith(("maskrcnn", "keypointrcnn"))
)
"""torchvision's detectors of boxes."""
COCO_OUTPUTS = 91
"""Of the published weights: COCO's ids, which leave gaps, with 0 for the background."""
WITHOUT_EPSILON = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Source: `overwrite_eps` in torchvision's faster_rcnn.py and retinanet.py."""
GROUPS = 32
"""The heads normalise in so many groups of channels."""
STRIDES = (8, 16, 32, 64, 128)
"""Of the levels of a pyramid."""


class Pyramid(nn.Module):
    """Features of a timm backbone at strides 8, 16 and 32, brought together at `width` channels, and two coarser levels.

    Source: Lin et al., "Feature Pyramid Networks", CVPR 2017; the two levels as in RetinaNet, from the coarsest output.
    """

    def __init__(self, backbone: str, *, width: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.body = _timm_features(backbone, options)
        found = list(self.body.feature_info.reduction())
        if found != [*STRIDES[:3]]:
            raise UsageError(f"Backbone {backbone!r} has features at strides {found}; take one with strides 8, 16 and 32.")
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), width, extra_blocks=LastLevelP6P7(width, width))
        self.out_channels = width

    def forward(self, images: Images) -> dict[str, Tensor]:
        """Five levels `(batch, width, rows, columns)`, the finest first."""
        return self.fpn({str(level): features for level, features in enumerate(self.body(images))})


def create_detector(
    name: str, *, num_classes: int, backbone: str | None = None, options: Mapping[str, Any] | None = None
) -> AnyDetector:
    """A detector of `num_classes` kinds of things with random weights (from torch's global stream).

    `name`: one of `PUBLISHED`; `fcos` or `retinanet`, on a `backbone` of timm; or `transformers:FOLDER`, whose `config.json`
    describes one. Options of the two: `width` of the pyramid (96), `convs` of FCOS's head (2), and torchvision's own, e.g.
    `score_thresh`; of timm under `backbone_options`; of the last those of the description.

    Raises:
        UsageError: no such name, or it does not take these options.
    """
    given = dict(options or {})
    build = partial(_on_timm, name, backbone) if name in HEADS else partial(_torchvision, name, backbone)
    try:
        if name.startswith(PREFIX):
            network = from_folder(name.removeprefix(PREFIX), num_classes=num_classes, options=given)
            return TransformersDetector(network)
        return Detector(build(num_classes, given))
    except UsageError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"Detector {name!r} does not take the options {given}: {error}.") from error


class Published(NamedTuple):
    """One of torchvision's detectors with weights for COCO, as it comes: it resizes and normalises itself.

    `names`: what each of its outputs stands for; `__background__` and `N/A` stand for nothing.
    """

    network: nn.Module
    names: tuple[str, ...]


def published_detector(name: str, weights: Path | None = None) -> Published:
    """A detector of torchvision with its published weights, which are downloaded where they are not yet, or with a file's.

    Raises:
        UsageError: torchvision has no such detector of boxes.
        CheckpointError: the weights cannot be got, cannot be read, or are those of another network.
    """
    network = _torchvision_as_published(name)
    published = cast(Any, torchvision.models.get_model_weights(name)).DEFAULT
    tensors = read_tensors(weights)[0] if weights is not None else _downloaded(name, published)
    load_strictly(network, fitted(network, tensors), name=str(weights or name))
    return Published(network.eval(), tuple(published.meta["categories"]))


def _torchvision_as_published(name: str) -> nn.Module:
    """With weights to come. Those of 2019 were trained with frozen norms that add no epsilon to the variance."""
    with torch.random.fork_rng(devices=[]):
        network = _torchvision(name, None, COCO_OUTPUTS - _background(name), {})
    for part in network.modules() if name in WITHOUT_EPSILON else ():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    return network


def _downloaded(name: str, published: WeightsEnum) -> Mapping[str, Tensor]:
    try:
        return published.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # a download fails in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"torchvision cannot get the weights of {name} ({reason}); add --weights FILE if you have them ({published.url})."
        ) from error


def begin_detector_with(network: AnyDetector, tensors: Mapping[str, Tensor], *, name: str, classes: Sequence[str] = ()) -> None:
    """Give an untrained detector the weights of a file; in place. What a layer for other classes would hold stays as it is.

    Where the file is torchvision's of COCO, and all of our `classes` are COCO's by name, that layer begins with their rows.

    Raises:
        CheckpointError: they are those of another network; `name` is the file's.
    """
    own = network.network.state_dict()
    given = fitted(network.network, tensors)
    layers = [key for key in own if any(part in key for part in OF_CLASSES)]
    others = {key: own[key] for key in layers if key in given and given[key].shape != own[key].shape}
    if others and (labels := _labels_of_coco(network.network, classes)):
        others |= _rows(others, given, labels)
    load_strictly(network.network, {**given, **others}, name=name)


def begin_backbone_with(network: AnyDetector, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Give the timm backbone of an untrained detector the weights of a classifier; in place. Its head is left out.

    Raises:
        UsageError: the detector has no backbone of timm.
        CheckpointError: weights of the backbone are missing or of another shape; `name` is the file's.
    """
    pyramid = getattr(network.network, "backbone", None)
    if not isinstance(pyramid, Pyramid):
        raise UsageError(f"{name} is for a backbone of timm, and this detector has its own; leave it out.")
    own = pyramid.body.state_dict()
    given = {key: tensor for key, tensor in fitted(pyramid.body, tensors).items() if key in own}
    load_strictly(pyramid.body, given, name=name)


OF_CLASSES = ("cls_logits", "cls_score", "bbox_pred", "classification_head", "class_embed", "enc_score_head")
"""Layers whose size depends on the number of classes; in torchvision's Faster R-CNN the boxes' do, too."""


COCO: Sequence[str] = torchvision.models.detection.FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
"""The labels of torchvision's published detectors: the background, 80 classes, and ten that no picture has."""


def _labels_of_coco(network: nn.Module, classes: Sequence[str]) -> list[int]:
    """COCO's labels of our classes, with that of the background where the network has one; none, unless all are COCO's."""
    if not classes or not set(classes) <= set(COCO):
        return []
    return [0] * isinstance(network, BACKGROUND_FIRST) + [COCO.index(name) for name in classes]


def _rows(own: Mapping[str, Tensor], given: Mapping[str, Tensor], labels: Sequence[int]) -> dict[str, Tensor]:
    """Of layers of all of COCO's labels, what belongs to `labels`. The boxes of Faster R-CNN lie four by four for each label,
    the classes of the others label by label for each anchor.
    """
    found = {}
    for key, tensor in own.items():
        many = len(tensor) // len(labels)
        if len(given[key]) != many * len(COCO):
            return {}
        apart = (len(COCO), many) if "bbox_pred" in key else (many, len(COCO))
        rows = given[key].unflatten(0, apart).index_select(apart.index(len(COCO)), torch.tensor(labels))
        found[key] = rows.flatten(0, 1)
    return found


def _torchvision(name: str, backbone: str | None, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, [*HEADS, *PUBLISHED], n=3) or [*HEADS, *PUBLISHED]
        raise UsageError(f"There is no detector {name!r}; did you mean {', '.join(near)}?")
    if backbone is not None:
        raise UsageError(f"{name} has its own backbone; leave out {backbone!r}, or write fcos or retinanet.")
    outputs = num_classes + _background(name)
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=outputs, **options)


def _background(name: str) -> int:
    """How many outputs stand for the background."""
    return int(name.startswith(("fasterrcnn", "ssd")))


def _on_timm(name: str, backbone: str | None, num_classes: int, options: dict[str, Any]) -> nn.Module:
    if backbone is None:
        raise UsageError(f"{name} needs a backbone of timm, e.g. resnet50; write backbone: NAME.")
    width = options.pop("width", 96)
    if width % GROUPS:
        raise UsageError(f"width is {width}, but the heads normalise in {GROUPS} groups of channels; write a multiple of them.")
    pyramid = Pyramid(backbone, width=width, options=options.pop("backbone_options", {}))
    return HEADS[name](pyramid, num_classes, options)


def _fcos(pyramid: Pyramid, num_classes: int, options: dict[str, Any]) -> nn.Module:
    head = FCOSHead(pyramid.out_channels, 1, num_classes, num_convs=options.pop("convs", 2))
    return FCOS(pyramid, num_classes, head=head, **{"score_thresh": 0.05, **options})


def _retinanet(pyramid: Pyramid, num_classes: int, options: dict[str, Any]) -> nn.Module:
    sizes = tuple((4 * stride, round(4 * stride * 2 ** (1 / 3)), round(4 * stride * 2 ** (2 / 3))) for stride in STRIDES)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    norm = partial(nn.GroupNorm, GROUPS)
    head = RetinaNetHead(pyramid.out_channels, anchors.num_anchors_per_location()[0], num_classes, norm_layer=norm)
    return RetinaNet(pyramid, num_classes, anchor_generator=anchors, head=head, **{"score_thresh": 0.05, **options})


HEADS = {"fcos": _fcos, "retinanet": _retinanet}


def _timm_features(backbone: str, options: Mapping[str, Any]) -> Any:
    if not timm.is_model(backbone):
        near: Sequence[str] = difflib.get_close_matches(backbone, timm.list_models(), n=3)
        raise UsageError(f"There is no backbone {backbone!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    refuse_loading(backbone, options)
    try:
        return timm.create_model(backbone, features_only=True, out_indices=(2, 3, 4), **options)
    except (RuntimeError, IndexError, AssertionError) as error:
        raise UsageError(f"Backbone {backbone!r} gives no features at strides 8, 16 and 32 ({error}); take another.") from error
