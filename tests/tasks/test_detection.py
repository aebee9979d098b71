"""One loss per image from every family of detectors, the same in attack and training, and labels of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from dat.attacks.gradient import evaluating, input_gradient
from dat.boxes import Boxes
from dat.errors import UsageError
from dat.nn.detectors import DetectionLosses, Detector, check_things, classes_of
from dat.nn.norm import Normalized
from dat.tasks.detection import Detection
from dat.types import Batch, DrawingTask, Task, concatenated

CLASSES = 3
SIDE = 64


class Backbone(nn.Module):
    """Two levels of features, with a norm whose statistics link the images of a batch in train mode."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, stride=8, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.second = nn.Conv2d(32, 32, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        first = self.first(images)
        return {"0": first, "1": self.second(first)}


def anchors(*ratios: float) -> AnchorGenerator:
    return AnchorGenerator(((16,), (32,)), (ratios,) * 2)


def retinanet() -> RetinaNet:
    return RetinaNet(Backbone(), CLASSES, anchor_generator=anchors(0.5, 1.0, 2.0), score_thresh=0.0)


def fcos() -> FCOS:
    return FCOS(Backbone(), CLASSES, anchor_generator=anchors(1.0), score_thresh=0.0)


def faster_rcnn() -> FasterRCNN:
    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1"], 3, 2)
    few: dict[str, Any] = {"rpn_batch_size_per_image": 16, "box_batch_size_per_image": 8, "box_score_thresh": 0.0}
    return FasterRCNN(
        Backbone(),
        CLASSES + 1,
        rpn_anchor_generator=anchors(0.5, 1.0, 2.0),
        box_roi_pool=pool,
        rpn_post_nms_top_n_train=20,
        **few,
    )


def ssdlite() -> nn.Module:
    return torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, score_thresh=0.0
    )


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "retinanet": retinanet,
    "fcos": fcos,
    "faster_rcnn": faster_rcnn,
    "ssdlite": ssdlite,
}


def detector(family: str) -> Normalized:
    torch.manual_seed(0)
    return Normalized(Detector(FAMILIES[family]()), mean=[0.5] * 3, std=[0.5] * 3).eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def boxes() -> Boxes:
    """Of three images, the second without a thing."""
    found = Boxes.padded(
        [torch.tensor([[4.0, 4, 34, 40], [20, 24, 60, 60]]), torch.zeros(0, 4), torch.tensor([[10.0, 4, 42, 36]])],
        [torch.tensor([0, 2]), torch.zeros(0), torch.tensor([1])],
    )
    return found.with_numbers(torch.tensor([0.1, 0.5, 0.9]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_an_image_is_that_of_the_image_alone(family: str) -> None:
    model, task, shown, targets = detector(family), Detection(), images(), boxes()
    together = task.losses(model, shown, targets)
    alone = [task.losses(model, shown[row : row + 1], targets[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
    assert together.shape == (3,)
    assert len(together.unique()) == 3


@pytest.mark.parametrize("family", ["retinanet", "fcos", "faster_rcnn"])
def test_the_loss_of_one_image_is_what_torchvision_says(family: str) -> None:
    """Its own forward pass in train mode, with the norms in eval mode as in ours."""
    ours, theirs = detector(family), FAMILIES[family]()
    theirs.load_state_dict(cast(Detector, ours.network).network.state_dict())
    theirs.transform = GeneralizedRCNNTransform(SIDE, SIDE, [0.5] * 3, [0.5] * 3)
    theirs.train()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    shift, targets = int(family == "faster_rcnn"), boxes()
    for row in (0, 2):
        corners, labels = targets.of_image(row)
        torch.manual_seed(round(targets.drawn_numbers()[row].item() * 2**24))
        target = {"boxes": corners, "labels": labels + shift}
        state = torch.get_rng_state()
        theirs.transform(list(images()[row : row + 1]))  # it draws a size even where there is one
        torch.set_rng_state(state)
        cast(Any, theirs.transform).torch_choice = lambda sizes: sizes[0]
        expected = sum(theirs(list(images()[row : row + 1]), [target]).values())
        found = Detection().losses(ours, images()[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(found[0], cast(Tensor, expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_attack_and_training_see_the_same_and_the_global_stream_stays(family: str) -> None:
    model, task = detector(family), Detection()
    batch = task.drawn(Batch(images(), boxes(), torch.Generator().manual_seed(3)))
    before = torch.get_rng_state()
    first = task.losses(model, batch.images, batch.targets)
    gradient = input_gradient(batch.images, lambda shown: task.losses(model, shown, batch.targets))
    assert torch.equal(first, task.losses(model, batch.images, batch.targets))
    assert torch.equal(before, torch.get_rng_state())
    assert (gradient.flatten(1).norm(dim=1) > 0).tolist() == [True, family != "ssdlite", True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_two_stage_detector_draws_depends_on_the_numbers_of_the_step() -> None:
    model, task = detector("faster_rcnn"), Detection()
    others = boxes().with_numbers(torch.tensor([0.2, 0.5, 0.9]))
    first, second = (task.losses(model, images(), targets) for targets in (boxes(), others))
    assert (first == second).tolist() == [False, True, True]


@pytest.mark.parametrize("family", FAMILIES)
def test_training_mode_changes_the_norms_and_nothing_else(family: str) -> None:
    model, task = detector(family), Detection()
    parts = {name: part.training for name, part in model.named_modules()}
    task.losses(model, images(), boxes())
    model(images())
    assert {name: part.training for name, part in model.named_modules()} == parts
    model.train()
    with evaluating(model):
        losses = task.losses(model, images(), boxes())
    torch.testing.assert_close(losses, task.losses(detector(family), images(), boxes()))
    task.losses(model, images(), boxes()).sum().backward()
    assert all(part.training for part in model.modules())
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_ours_in_and_out(family: str) -> None:
    """A detector that is trained for a moment on our classes 0 and 2 finds them by these numbers."""
    model, task = detector(family), Detection()
    found = model(images())
    assert all(0 <= label < CLASSES for one in found for label in one.labels.tolist())
    assert {label for one in found for label in one.labels.tolist()} <= {0, 1, 2}
    network = cast(Detector, model.network)
    assert classes_of(network.network) == CLASSES + (family in ("faster_rcnn", "ssdlite"))
    assert network.theirs.tolist() == ([1, 2, 3] if family in ("faster_rcnn", "ssdlite") else [0, 1, 2])
    twisted = Normalized(Detector(network.network, theirs=network.theirs.tolist()[::-1]), mean=[0.5] * 3, std=[0.5] * 3).eval()
    for one, other in zip(model(images()), twisted(images()), strict=True):
        assert torch.equal(one.labels, 2 - other.labels)
    mirrored = Boxes(boxes().corners, torch.where(boxes().valid, 2 - boxes().labels, 0), boxes().valid, boxes().numbers)
    torch.testing.assert_close(task.losses(model, images(), boxes()), task.losses(twisted, images(), mirrored))


def test_what_an_adversary_climbs_has_a_name() -> None:
    model = detector("fcos")
    parts = cast(DetectionLosses, model(images(), boxes()))
    climbed = {
        part: Detection(cast(Any, part)).climbed_losses(model, images(), boxes())
        for part in ("all", "classification", "boxes", "worse")
    }
    assert torch.equal(climbed["all"], parts.classification + parts.boxes)
    assert torch.equal(climbed["classification"], parts.classification)
    assert torch.equal(climbed["boxes"], parts.boxes)
    assert torch.equal(climbed["worse"], torch.maximum(parts.classification, parts.boxes))
    for part in ("classification", "boxes", "worse"):
        assert torch.equal(Detection(cast(Any, part)).losses(model, images(), boxes()), climbed["all"])


def test_boxes_are_indexed_moved_and_joined_like_a_tensor() -> None:
    three = boxes()
    assert len(three) == 3
    assert three[1:].valid.sum(dim=1).tolist() == [0, 1]
    corners, labels = three[torch.tensor([2, 0])].of_image(1)
    assert (labels.tolist(), corners.shape) == ([0, 2], (2, 4))
    one = Boxes.padded([torch.tensor([[1.0, 2, 3, 4]])], [torch.tensor([1])])
    joined = concatenated([one, three])
    assert joined.valid.sum(dim=1).tolist() == [1, 2, 0, 1]
    torch.testing.assert_close(joined.drawn_numbers(), torch.tensor([0.0, 0.1, 0.5, 0.9]))
    assert three.to("cpu").of_image(0)[0].tolist() == three.of_image(0)[0].tolist()
    with pytest.raises(UsageError, match=r"shapes \[\(3, 2, 4\), \(3, 2\), \(2, 2\)\]"):
        Boxes(three.corners, three.labels, three.valid[:2])
    assert isinstance(Detection(), Task)
    assert isinstance(Detection(), DrawingTask)


def thing(*corners: float, label: float = 0) -> Boxes:
    return Boxes.padded([torch.zeros(0), torch.tensor([corners])], [torch.zeros(0), torch.tensor([label])])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "of an id from 1 on": (lambda: thing(1, 2, 30, 40, label=CLASSES), "label 3, but this detector has 3 classes, from 0 to 2"),
    "of -1, torch's last": (lambda: thing(1, 2, 30, 40, label=-1), "label -1, but this detector has 3 classes, from 0 to 2"),
    "width and height": (
        lambda: thing(30, 40, 10, 10),
        r"Image 1 of the batch has a box \[30.0, 40.0, 10.0, 10.0\]; give x0, y0",
    ),
    "flat": (lambda: thing(30, 40, 30, 50), r"box \[30.0, 40.0, 30.0, 50.0\].* x0 < x1"),
    "no number": (lambda: thing(30, float("nan"), 40, 50), r"box \[30.0, nan, 40.0, 50.0\]"),
    "of a larger picture": (lambda: thing(30, 40, 300, 400), "in pixels of the images, which are 64 x 64"),
    "of fewer images": (lambda: thing(1, 2, 30, 40)[:1], "The boxes of 2 images are those of 1 images; give dat.Boxes.padded"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("family", FAMILIES)
def test_targets_of_which_networks_make_nonsense_are_refused(family: str, case: str) -> None:
    given, said = REFUSED[case]
    with pytest.raises(UsageError, match=said):
        Detection().losses(detector(family), images(2), given())


def test_targets_as_torchvision_has_them_are_refused() -> None:
    with pytest.raises(UsageError, match="The boxes of 2 images are a list; give"):
        check_things([{"boxes": torch.zeros(0, 4)}] * 2, images(2), CLASSES)


def test_boxes_may_reach_a_little_over_the_edge() -> None:
    assert Detection().losses(detector("fcos"), images(2), thing(-0.9, 0, SIDE, SIDE + 0.9)).isfinite().all()


UNPAIRED: dict[str, tuple[list[Any], list[Any], str]] = {
    "more corners": ([torch.zeros(3, 4), torch.zeros(5, 4)], [torch.zeros(2), torch.zeros(5)], r"Image 0 has corners \(3, 4\)"),
    "the wrong way round": ([torch.zeros(4, 2)], [torch.zeros(2)], r"corners \(4, 2\) and labels \(2,\)"),
    "fewer images": ([torch.zeros(1, 4)] * 2, [torch.zeros(1)], "corners of 2 images and labels of 1"),
    "none": ([], [], "corners of 0 images"),
}


@pytest.mark.parametrize("case", UNPAIRED)
def test_no_box_is_lost_for_want_of_a_label(case: str) -> None:
    corners, labels, said = UNPAIRED[case]
    with pytest.raises(UsageError, match=said):
        Boxes.padded(corners, labels)


def test_boxes_have_four_corners() -> None:
    with pytest.raises(UsageError, match=r"expected \(batch, most, 4\)"):
        Boxes(torch.zeros(2, 3, 5), torch.zeros(2, 3).long(), torch.ones(2, 3).bool())


def test_a_single_image_is_a_batch_of_one() -> None:
    with pytest.raises(UsageError, match=r"expected \(batch, most, 4\)"):
        Boxes(torch.zeros(3, 4), torch.zeros(3).long(), torch.ones(3).bool())


def test_another_kind_of_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Linear is no detector of boxes .* RetinaNet, FCOS, SSD, FasterRCNN"):
        Detector(nn.Linear(2, 2))
