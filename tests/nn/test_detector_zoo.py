"""Published weights of torchvision's detectors begin one for fewer classes: by name, where these are COCO's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from dat.nn.detector_zoo import COCO, begin_detector_with
from dat.nn.detectors import Detector
from tests.tasks import test_detection as tiny

OURS = ("person", "dog", "toothbrush")
LABELS = [COCO.index(name) for name in OURS]


def detector(family: str, classes: int, monkeypatch: pytest.MonkeyPatch, *, seed: int) -> Any:
    """Of so many labels in all."""
    torch.manual_seed(seed)
    monkeypatch.setattr(tiny, "CLASSES", classes - (family in ("faster_rcnn", "ssdlite")))
    return Detector(tiny.FAMILIES[family]()).network.eval()


def test_the_labels_are_those_of_the_published_weights() -> None:
    assert (len(COCO), COCO[1], COCO[90], COCO.count("N/A")) == (91, "person", "toothbrush", 10)
    for name in ("FasterRCNN_ResNet50_FPN_V2", "RetinaNet_ResNet50_FPN_V2", "SSDLite320_MobileNet_V3_Large"):
        assert getattr(torchvision.models.detection, f"{name}_Weights").COCO_V1.meta["categories"] == COCO


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("names", [OURS, ("person", "dog", "wug")])
def test_a_head_for_cocos_classes_begins_with_what_is_known_of_them(
    family: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    background = family in ("faster_rcnn", "ssdlite")
    published = detector(family, len(COCO), monkeypatch, seed=0)
    ours = detector(family, len(OURS) + background, monkeypatch, seed=1)
    before = said_by(family, ours, len(OURS) + background)
    given = {key: value.clone() for key, value in published.state_dict().items() if "num_batches" not in key}
    begin_detector_with(Detector(ours), given, name="published.pth", classes=names)
    after, expected = said_by(family, ours, len(OURS) + background), said_by(family, published, len(COCO))
    labels = [0] * background + LABELS
    for begun, fresh, known in zip(after, before, expected, strict=True):
        if names == OURS:
            torch.testing.assert_close(begun, known[..., labels, :])
        else:
            assert begun.shape == fresh.shape
            assert not torch.allclose(begun, known[..., labels, :])
    name = "backbone.first.0.weight" if family != "ssdlite" else "backbone.features.0.0.0.weight"
    assert torch.equal(ours.state_dict()[name], given[name])


def said_by(family: str, network: Any, classes: int) -> list[Tensor]:
    """Of fixed features, by anchor or box: classes `(..., classes, 1)`, and of Faster R-CNN places `(..., classes, 4)`."""
    with torch.no_grad():
        if family == "faster_rcnn":
            features = torch.rand(5, 1024, generator=torch.Generator().manual_seed(2))
            scores, places = network.roi_heads.box_predictor(features)
            return [scores[..., None], places.reshape(5, classes, 4)]
        shapes = [level.shape for level in network.backbone(torch.rand(1, 3, 64, 64)).values()]
        torch.manual_seed(2)
        return [network.head([torch.rand(shape) for shape in shapes])["cls_logits"][..., None]]
