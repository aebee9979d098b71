"""Test pictures for the page of detectors: as they are, reconstructed and attacked, with what trained models find in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dat.analysis.codes import discrete_change
from dat.boxes import Boxes, Found
from dat.data.annotated import AnnotatedPictures
from dat.data.boxed import BoxedDataset, Letterbox, cut, wanted
from dat.discretizers.frozen import FrozenDiscretizer
from dat.evaluation.suites import FGSM
from dat.report.tables import BASELINE
from dat.results import write_arrays
from dat.studies import measured, words
from dat.studies.study import Job
from dat.tasks.detection import Detection
from dat.types import Images, Place

PICTURES = 3
LEAST_SCORE = 0.5
"""Boxes of a lower score are not shown."""

Arrays = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scene:
    """Test pictures in their frame, what is asked of detectors, and where."""

    source: AnnotatedPictures
    frame: Letterbox
    task: Detection
    place: Place


@dataclass(frozen=True)
class Words:
    """An adversary of visual words: `Q`, in float32, and the L2 length of the step."""

    discretizer: FrozenDiscretizer
    alpha: float

    def views(self, model: nn.Module, task: Detection, images: Images, boxes: Boxes) -> dict[str, Images]:
        """The pictures, Q(x) and Q(x + delta)."""
        change = discrete_change(model, task, self.discretizer, images, boxes, alpha=self.alpha)
        return {"clean": change.original, "reconstruction": change.reconstruction, "adversarial": change.adversarial}

    @property
    def facts(self) -> dict[str, object]:
        """What the page says of it."""
        return {"alpha": self.alpha}


@dataclass(frozen=True)
class Pixels:
    """Where there are no words: the attack on pixels that the recipe measures, if it does."""

    attack: FGSM | None

    def views(self, model: nn.Module, task: Detection, images: Images, boxes: Boxes) -> dict[str, Images]:
        """The pictures, and after the attack."""
        if self.attack is None:
            return {"clean": images}
        positions = torch.arange(len(images))
        attacked = self.attack.images(images, positions, lambda shown: task.climbed_losses(model, shown, boxes))
        return {"clean": images, "fgsm": attacked}

    @property
    def facts(self) -> dict[str, object]:
        """What the page says of it."""
        return {} if self.attack is None else {"fgsm_epsilon_255": round(255 * self.attack.epsilon, 4)}


def two_models(jobs: Sequence[Job], contestants: words.Contestants) -> list[Job]:
    """The model whose pictures other comparisons show, beside one of standard training, or else the first of all.

    Where these are one, the first of another method is beside it; of a single method, there is one.
    """
    attacked = words.attacked(jobs, contestants)
    plain = next((job for job in jobs if job == Job(BASELINE, attacked.seed)), jobs[0])
    others = [job for job in jobs if job.label != attacked.label]
    return list(dict.fromkeys([plain, attacked, *others]))[:2]


def spread(source: AnnotatedPictures, *, count: int = PICTURES) -> list[int]:
    """Places of so many pictures with a thing in them, at equal distances among those."""
    filled = [place for place, things in enumerate(source.things) if wanted(things).any()]
    chosen = np.linspace(0, len(filled) - 1, min(count, len(filled))).round().astype(int)
    return [filled[place] for place in chosen]


def write(path: Path, models: Mapping[Job, nn.Module], scene: Scene, adversary: Words | Pixels) -> None:
    """Write the pictures in their frame, by model and view, with what is in them and what each model finds there.

    Corners are in pixels of the frame. What is attacked, is attacked against the model that is shown it.

    Raises:
        DataError: a picture cannot be read.
    """
    source, place = scene.source, scene.place
    images, boxes, _ = BoxedDataset(source, scene.frame, seed=0).__getitems__([(0, number) for number in range(len(source))])
    images, boxes = images.to(place.device), boxes.to(place.device)
    networks = [model.eval().to(place.device) for model in models.values()]
    views = [adversary.views(network, scene.task, images, boxes) for network in networks]
    shown = [(network, seen) for network, of_model in zip(networks, views, strict=True) for seen in of_model.values()]
    write_arrays(
        path,
        shown=np.stack([[measured.as_bytes(seen) for seen in of_model.values()] for of_model in views]),
        methods=np.array([job.label for job in models]),
        seeds=np.array([job.seed for job in models]),
        views=np.array(list(views[0])),
        names=np.array(source.names),
        classes=np.array(source.classes),
        least_score=np.array(LEAST_SCORE),
        **_things(source, scene.frame),
        **_flat([_found(network, seen, scene) for network, seen in shown], len(views[0]), len(source)),
    )


def _things(source: AnnotatedPictures, frame: Letterbox) -> Arrays:
    """What is in the pictures, cut at their edges; boxes without area are not shown."""
    parts: list[tuple[np.ndarray, ...]] = []
    for number, (things, size) in enumerate(zip(source.things, source.sizes, strict=True)):
        corners = cut(things.corners, size) * frame.factors(size)
        seen = wanted(things) | things.crowd
        parts.append((corners[seen], things.labels[seen], things.crowd[seen], np.full(int(seen.sum()), number)))
    names = ("thing_corners", "thing_labels", "thing_crowd", "thing_picture")
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts, strict=True), strict=True)}


@torch.inference_mode()
def _found(model: nn.Module, images: Images, scene: Scene) -> list[Found]:
    """In each picture, what has the score to be shown; cut at the edges of the picture in its frame."""
    frame, found = scene.frame, list[Found]()
    for one, size in zip(cast(list[Found], model(images)), scene.source.sizes, strict=True):
        sure = one.scores >= LEAST_SCORE
        corners = frame.back(one.corners[sure], size) * torch.from_numpy(frame.factors(size))
        found.append(Found(corners.float(), one.scores[sure].float().cpu(), one.labels[sure].cpu()))
    return found


def _flat(found: Sequence[Sequence[Found]], views: int, pictures: int) -> Arrays:
    """All that was found in one list each, with the numbers of its model, its view and its picture."""
    in_order = [one for of_view in found for one in of_view]
    counts = torch.tensor([len(one.scores) for one in in_order])
    numbers = np.indices((len(found) // views, views, pictures)).reshape(3, -1).T
    joined: list[Tensor] = [torch.cat(list(parts)) for parts in zip(*in_order, strict=True)]
    names = ("found_corners", "found_scores", "found_labels")
    arrays = {name: part.numpy() for name, part in zip(names, joined, strict=True)}
    return {**arrays, "found_in": numbers.repeat(counts.numpy(), axis=0)}
