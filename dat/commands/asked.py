"""What a trained model is asked about pictures without labels, whatever its task: to go on saying what it says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from dat.boxes import Boxes, Found
from dat.commands.trained import TrainedDetector, TrainedModel, TrainedNetwork
from dat.engine.steps import stream_seed
from dat.evaluation.found_things import SCORE
from dat.nn.outputs import logits_of
from dat.recipe.contest import training_of
from dat.tasks.classification import Classification
from dat.tasks.detection import Detection
from dat.types import Batch, DrawingTask, Images, Task

Trained = TrainedModel | TrainedDetector | TrainedNetwork


@dataclass(frozen=True, eq=False)
class Asked:
    """Pictures that a model is shown, its task, and what counts as right: what the model itself says of them."""

    images: Images
    task: Task[Any]
    targets: Any

    def batch(self, place: int = 0) -> Batch[Any]:
        """As methods take it; what is drawn for it follows from the place of its first picture."""
        batch = Batch(self.images, self.targets, torch.Generator().manual_seed(stream_seed(0, place)))
        return self.task.drawn(batch) if isinstance(self.task, DrawingTask) else batch


def asked(run: Trained, images: Images) -> Asked:
    """Of images on the device of the model, which is in eval mode: the likeliest class, or the boxes of a score to be shown.

    A network that learned without classes has no answer: it is to find the picture in its mirror image, as the second view
    of contrastive tasks; a masked autoencoder takes no notice, as its targets are drawn (`DrawingTask`).
    """
    if isinstance(run, TrainedNetwork):
        return Asked(images, run.task, images.flip(-1))
    if isinstance(run, TrainedDetector):
        return Asked(images, Detection(run.recipe.climbed), _boxes_found(run, images))
    training = training_of(run.recipe, run.label)
    with torch.no_grad():
        said = logits_of(run.model, images).argmax(dim=1)
    return Asked(images, Classification(0.0, len(run.classes), training.sigmoid), said)


def _boxes_found(run: TrainedDetector, images: Images) -> Boxes:
    with torch.inference_mode():
        found = [sure(one) for one in run.model(images)]
    return Boxes.padded([one.corners for one in found], [one.labels for one in found])


def sure(found: Found) -> Found:
    """What has the score to be shown."""
    return Found(*(part[found.scores >= SCORE] for part in found))
