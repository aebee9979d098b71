"""torchvision's detectors with one loss per image, and labels from 0 on whatever the network's own convention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from dat.boxes import Boxes, Found
from dat.errors import UsageError
from dat.types import Images, PerImage

Features = dict[str, Tensor]
Target = dict[str, Tensor]
Losses = Mapping[str, Tensor]

BACKGROUND_FIRST = (FasterRCNN, SSD)
"""Whose class 0 is the background."""
OF_CLASSES = ("classification", "loss_classifier", "loss_objectness", "loss_vfl")
"""How torchvision's and transformers' names of the losses begin that say what there is; the others say where."""
NUMBERS = 2**24
"""So many different values has a uniform float32."""
BEYOND = 1.0
"""So far, in pixels, a box may reach over the edges of its image."""


class DetectionLosses(NamedTuple):
    """Of each image alone: how wrong the classes are (objectness, too), and how wrong the places."""

    classification: PerImage
    boxes: PerImage


class Detector(nn.Module):
    """A torchvision detector that takes a batch of normalised images of one size, and says its losses image by image.

    Its own resizing and normalising are taken out: who calls it has done both. `theirs` are the network's labels of our
    classes 0, 1, ...; what it finds with another label is left out. By default all of its classes but the background.

    The loss of an image is what the network's own formula gives for that image alone, one pass of the backbone for all.
    What Faster R-CNN draws (which anchors and proposals count) comes from the image's number in `Boxes.numbers`; torch's global
    streams are left as they were. The losses exist in eval mode, too.

    Raises:
        UsageError: another kind of network; of the losses, as `check_things`.
    """

    theirs: Tensor

    def __init__(self, network: nn.Module, *, theirs: Sequence[int] | None = None) -> None:
        super().__init__()
        self._losses = _family(network)
        self.network = network
        network.transform = _AsTheyAre()
        first = int(isinstance(network, BACKGROUND_FIRST))
        labels = range(first, classes_of(network)) if theirs is None else theirs
        self.register_buffer("theirs", torch.tensor([*labels]), persistent=False)

    def forward(self, images: Images, boxes: Boxes | None = None) -> list[Found] | DetectionLosses:
        """What is found in each image; or, given what there is, the losses."""
        if boxes is None:
            return [in_our_labels(*found, self.theirs) for found in self._found(images)]
        check_things(boxes, images, len(self.theirs))
        features = self.network.get_submodule("backbone")(images)
        features = {"0": features} if isinstance(features, Tensor) else features
        sizes = [cast(tuple[int, int], tuple(images.shape[-2:]))] * len(images)
        targets = [self._target(boxes, row) for row in range(len(images))]
        draws = [round(number * NUMBERS) for number in boxes.drawn_numbers().tolist()]
        losses = self._losses(cast(Any, self.network), ImageList(images, sizes), features, targets, draws)
        return in_two_parts(losses)

    def of(self, classes: Sequence[int]) -> Detector:
        """The same network, asked for some of its classes only, which are 0, 1, ... now."""
        return Detector(self.network, theirs=self.theirs[torch.tensor([*classes], device=self.theirs.device)].tolist())

    def _target(self, boxes: Boxes, row: int) -> Target:
        corners, labels = boxes.of_image(row)
        return {"boxes": corners, "labels": self.theirs[labels]}

    def _found(self, images: Images) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The network's own answer, which it gives in eval mode only."""
        with _answering(self.network):
            return [(found["boxes"], found["scores"], found["labels"]) for found in self.network(images)]


def check_things(boxes: Any, images: Images, classes: int) -> None:
    """Refuse targets of which networks make silent nonsense: a label -1 is their last class, a box without area NaN or none.

    Raises:
        UsageError: no `Boxes` of these images, labels beyond the classes, or boxes without area or beyond the images.
    """
    if not isinstance(boxes, Boxes) or len(boxes) != len(images):
        given = f"those of {len(boxes)} images" if isinstance(boxes, Boxes) else f"a {type(boxes).__name__}"
        raise UsageError(f"The boxes of {len(images)} images are {given}; give dat.Boxes.padded(corners, labels) of all.")
    odd_labels = boxes.valid & ((boxes.labels < 0) | (boxes.labels >= classes))
    if odd_labels.any():
        label = int(boxes.labels[odd_labels][0])
        raise UsageError(f"A thing has the label {label}, but this detector has {classes} classes, from 0 to {classes - 1}.")
    height, width = images.shape[-2:]
    first, last = boxes.corners[..., :2], boxes.corners[..., 2:]
    within = (first > -BEYOND) & (first < last) & (last < last.new_tensor([width, height]) + BEYOND)
    if (odd := boxes.valid & ~within.all(dim=-1)).any():
        row, corners = int(odd.nonzero()[0, 0]), [round(value, 2) for value in boxes.corners[odd][0].tolist()]
        expected = f"x0 < x1 and y0 < y1 in pixels of the images, which are {width} x {height}"
        raise UsageError(f"Image {row} of the batch has a box {corners}; give x0, y0, x1, y1 with {expected}.")


def in_our_labels(corners: Tensor, scores: Tensor, labels: Tensor, theirs: Tensor) -> Found:
    """What a network found, without what it calls by none of the labels `theirs`, which are those of our classes 0, 1, ..."""
    same = labels[:, None] == theirs
    known = same.any(dim=1)
    return Found(corners[known].float(), scores[known].float(), same[known].int().argmax(dim=1))


def classes_of(network: nn.Module) -> int:
    """How many classes a network tells apart, with the background where it has one."""
    if isinstance(network, FasterRCNN):
        return cast(Any, network.roi_heads.box_predictor).cls_score.out_features
    head = cast(Any, network).head.classification_head
    if isinstance(network, SSD):
        return head.num_columns
    return head.num_classes


Family = Callable[[Any, ImageList, Features, list[Target], Sequence[int]], Iterator[Losses]]


def _family(network: nn.Module) -> Family:
    for kind, losses in FAMILIES.items():
        if type(network) is kind:
            return losses
    names = ", ".join(kind.__name__ for kind in FAMILIES)
    raise UsageError(f"{type(network).__name__} is no detector of boxes that is known here; give one of torchvision's {names}.")


def _retinanet(
    network: RetinaNet, shown: ImageList, features: Features, targets: list[Target], _: Sequence[int]
) -> Iterator[Losses]:
    levels = list(features.values())
    outputs, anchors = network.head(levels), network.anchor_generator(shown, levels)
    for row, target in enumerate(targets):
        yield network.compute_loss([target], _of_row(outputs, row), anchors[row : row + 1])


def _fcos(network: FCOS, shown: ImageList, features: Features, targets: list[Target], _: Sequence[int]) -> Iterator[Losses]:
    levels = list(features.values())
    outputs, anchors = network.head(levels), network.anchor_generator(shown, levels)
    counts = [level.shape[2] * level.shape[3] for level in levels]
    for row, target in enumerate(targets):
        yield network.compute_loss([target], _of_row(outputs, row), anchors[row : row + 1], counts)


def _ssd(network: SSD, shown: ImageList, features: Features, targets: list[Target], _: Sequence[int]) -> Iterator[Losses]:
    levels = list(features.values())
    outputs, anchors = network.head(levels), network.anchor_generator(shown, levels)
    for row, target in enumerate(targets):
        matched = torch.full((len(anchors[row]),), -1, device=anchors[row].device)
        if len(target["boxes"]):
            matched = network.proposal_matcher(box_iou(target["boxes"], anchors[row]))
        yield network.compute_loss([target], _of_row(outputs, row), anchors[row : row + 1], [matched])


def _faster_rcnn(
    network: FasterRCNN, shown: ImageList, features: Features, targets: list[Target], draws: Sequence[int]
) -> Iterator[Losses]:
    with _training_alone(network.rpn, network.roi_heads):
        for row, (target, draw) in enumerate(zip(targets, draws, strict=True)):
            alone = ImageList(shown.tensors[row : row + 1], shown.image_sizes[row : row + 1])
            with _stream(shown.tensors.device, draw):
                own = _of_row(features, row)
                proposals, losses = network.rpn(alone, own, [target])
                yield losses | network.roi_heads(own, proposals, alone.image_sizes, [target])[1]


FAMILIES: dict[type[nn.Module], Family] = {RetinaNet: _retinanet, FCOS: _fcos, SSD: _ssd, FasterRCNN: _faster_rcnn}


class _AsTheyAre(nn.Module):
    """In place of torchvision's resizing and normalising."""

    def forward(self, images: Images, targets: Any = None) -> tuple[ImageList, Any]:
        """The batch, as networks want it."""
        return ImageList(images, [cast(tuple[int, int], tuple(images.shape[-2:]))] * len(images)), targets

    def postprocess(self, found: list[Target], *_: object) -> list[Target]:
        """Nothing was resized."""
        return found


def _of_row(tensors: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in tensors.items()}


def in_two_parts(of_images: Iterable[Losses]) -> DetectionLosses:
    """In float32, the losses that a network names for each image."""
    rows = []
    for losses in of_images:
        classes = [loss.float() for name, loss in losses.items() if name.startswith(OF_CLASSES)]
        places = [loss.float() for name, loss in losses.items() if not name.startswith(OF_CLASSES)]
        rows.append(torch.stack([torch.stack(classes).sum(), torch.stack(places).sum()]))
    return DetectionLosses(*torch.stack(rows).unbind(dim=1))


@contextmanager
def _training_alone(*modules: nn.Module) -> Iterator[None]:
    """These modules in train mode, what is inside them as it was: they give losses, and norms and dropout stay."""
    with in_mode(modules, training=True):
        yield


@contextmanager
def _answering(network: nn.Module) -> Iterator[None]:
    """The network asks itself and its two stages whether they train; their layers stay as they are."""
    stages = [getattr(network, name) for name in ("rpn", "roi_heads") if hasattr(network, name)]
    with in_mode([network, *stages], training=False):
        yield


@contextmanager
def in_mode(modules: Sequence[nn.Module], *, training: bool) -> Iterator[None]:
    """These modules alone in train or eval mode, what is inside them as it was."""
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = training
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.training = mode


@contextmanager
def _stream(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global streams begin anew, and go on afterwards where they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
