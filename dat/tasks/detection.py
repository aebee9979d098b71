"""Object detection: what is where, with torchvision's losses, image by image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn

from dat.boxes import Boxes
from dat.nn.detectors import DetectionLosses
from dat.types import Batch, Images, PerImage

Part = Literal["all", "classification", "boxes", "worse"]


@dataclass(frozen=True)
class Detection:
    """The loss of each image alone: how wrong the classes are and how wrong the places, added.

    `climbed` names what an adversary climbs: `all`, `classification`, `boxes`, or of each image the `worse` of the two: the one
    that is larger. After Det-AdvProp (Chen et al., CVPR 2021), which attacks both and keeps the image whose total is larger.
    What is minimised is always all.
    """

    climbed: Part = "all"

    def losses(self, model: nn.Module, images: Images, targets: Boxes) -> PerImage:
        """One loss per image, in float32. The model is a `Detector`, or gives `DetectionLosses` for images and boxes as it."""
        return _total(_parts(model, images, targets))

    def climbed_losses(self, model: nn.Module, images: Images, targets: Boxes) -> PerImage:
        """What an adversary raises."""
        return CLIMBED[self.climbed](_parts(model, images, targets))

    def drawn(self, batch: Batch[Boxes]) -> Batch[Boxes]:
        """The batch with the numbers from which a detector samples, so that attack and training see the same."""
        return replace(batch, targets=batch.targets.with_numbers(batch.draw(torch.rand)))


def _parts(model: nn.Module, images: Images, targets: Boxes) -> DetectionLosses:
    return cast(DetectionLosses, model(images, targets))


def _total(parts: DetectionLosses) -> PerImage:
    return parts.classification + parts.boxes


CLIMBED = {
    "all": _total,
    "classification": lambda parts: parts.classification,
    "boxes": lambda parts: parts.boxes,
    "worse": lambda parts: torch.maximum(parts.classification, parts.boxes),
}
