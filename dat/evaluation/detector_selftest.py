"""Before numbers: whether another reading of a detector's boxes, or another scale of its pictures, explains them far better.

Each fault is undone by hand on a few annotated pictures. If that raises the average precision clearly, the fault is there. A
detector that is merely bad raises no alarm; one that finds nothing is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from dat.boxes import Boxes, Found
from dat.data.annotated import AnnotatedPictures
from dat.data.boxed import BoxedDataset, Letterbox
from dat.errors import DivergenceError
from dat.evaluation.coco_scores import CocoScores, coco_scores
from dat.evaluation.detected import detect
from dat.evaluation.detection_rows import Bootstrap
from dat.evaluation.selftest import Alarm, first_scales, repairs, said_of_two, slope_of_two
from dat.evaluation.suites import Clean
from dat.nn.detectors import DetectionLosses
from dat.tasks.detection import Detection
from dat.types import Images, Place

PICTURES, SCREENED = 16, 4
"""So many pictures are looked at; of so many of them it is seen first whether another scale may help."""
LEAST, GAIN = 8.0, 5.0
"""In percent: an AP50 below the first makes no reading of any use, a gain below the second may be chance."""
CERTAIN = 0.99
"""In so large a share of draws of pictures must a reading be better."""
ADVICE = "give pictures in [0, 1] to a model that normalises them once, inside, as it was trained"
NOTHING = 1.0
"""In percent: with an AP50 below it a detector finds next to nothing."""
CHANCE = Bootstrap(count=400)

Reading = Callable[[Found, tuple[int, int]], Found]
"""What was found in a picture of this width and height, read in another way."""


def detector_selftest(
    model: nn.Module,
    pictures: AnnotatedPictures,
    frame: Letterbox,
    *,
    place: Place,
    batch_size: int,
    count: int = PICTURES,
) -> list[Alarm]:
    """What is wrong with a detector in eval mode, or with its pictures; the same on every process.

    Costs about 2.5 forward passes of `count` pictures. Nothing can be said of pictures without a thing.

    Raises:
        DataError: a picture cannot be read.
        DivergenceError: what is found in the pictures as they are is NaN or infinite.
    """
    holding = [place for place, things in enumerate(pictures.things) if not things.crowd.all()]
    if not holding:
        return []
    chosen = np.unique(np.linspace(0, len(holding) - 1, min(count, len(holding))).round().astype(int)).tolist()
    sample = pictures.at([holding[position] for position in chosen])
    return list(_Look(model, frame, place, batch_size).alarms(sample))


@dataclass(frozen=True, eq=False)
class _Look:
    """How a model is shown pictures."""

    model: nn.Module
    frame: Letterbox
    place: Place
    batch_size: int

    def alarms(self, sample: AnnotatedPictures) -> Iterator[Alarm]:
        found = self._found(sample)
        before, read = coco_scores(sample, found), None
        for name, said, reading, advice in _readings(sample, self.frame):
            again = coco_scores(sample, _read(found, sample, reading))
            if _is_clearly_better(again, before) and (read is None or _ap50(again) > _ap50(read[0])):
                read = again, reading, Alarm(name, f"{_compared(again, before)} if {said}; {advice}.")
        if read is not None:
            yield read[2]
        scores, reading = (before, _as_it_is) if read is None else read[:2]
        scaled = self._scale_alarm(sample, scores, reading)
        yield from [scaled] if scaled is not None else []
        if read is None and scaled is None and _ap50(before) < NOTHING:
            fact = f"AP50 is {_ap50(before):.1f} on {len(sample)} pictures: the detector finds next to nothing"
            advice = "its numbers will be near 0; if it is trained, see on what, and which classes it finds"
            yield Alarm("finds-nothing", f"{fact}; {advice}.", stops=False)

    def _scale_alarm(self, sample: AnnotatedPictures, before: CocoScores, reading: Reading) -> Alarm | None:
        """The best of the other scales; some pictures usually settle that one does not help."""
        few = sample.at(range(0, len(sample), max(1, len(sample) // SCREENED)))
        doubled = slope_of_two(first_scales(self.model, self._images(few)))
        if doubled is not None:
            return Alarm("normalised-twice", f"{said_of_two(doubled)}; {ADVICE}.")
        of_few, best = coco_scores(few, _read(self._found(few), few, reading)), None
        for name, said, repair in repairs():
            other = replace(self, model=_Repaired(self.model, repair))
            tried = other._scored(few, reading)
            if tried is None or _ap50(tried) <= _ap50(of_few) + GAIN:
                continue
            again = other._scored(sample, reading)
            if again is not None and _is_clearly_better(again, before) and (best is None or _ap50(again) > _ap50(best[0])):
                best = again, name, said
        if best is None:
            return None
        return Alarm(best[1], f"{_compared(best[0], before)} when {best[2]}; {ADVICE}.")

    def _scored(self, sample: AnnotatedPictures, reading: Reading) -> CocoScores | None:
        """None where the model gives no numbers: then it was not made for such pictures."""
        try:
            return coco_scores(sample, _read(self._found(sample), sample, reading))
        except DivergenceError:
            return None

    def _images(self, few: AnnotatedPictures) -> Images:
        images, *_ = BoxedDataset(few, self.frame, seed=0).__getitems__([(0, place) for place in range(min(2, len(few)))])
        return images.to(self.place.device)

    def _found(self, sample: AnnotatedPictures) -> list[Found]:
        return detect(
            self.model,
            sample,
            self.frame,
            Clean(),
            task=Detection(),
            place=self.place,
            batch_size=self.batch_size,
            advance=lambda _: None,
        )


class _Repaired(nn.Module):
    """A detector whose pictures are changed before it sees them."""

    def __init__(self, model: nn.Module, repair: Callable[[Images], Images]) -> None:
        super().__init__()
        self.model, self.repair = model, repair

    def forward(self, images: Images, boxes: Boxes | None = None) -> list[Found] | DetectionLosses:
        return self.model(self.repair(images)) if boxes is None else self.model(self.repair(images), boxes)


def _readings(sample: AnnotatedPictures, frame: Letterbox) -> Iterator[tuple[str, str, Reading, str]]:
    """The fault, how it is undone, in words and as a function, and what to do."""
    count = len(sample.classes)
    order = "bring the classes of the set and the labels of the model into the same order"
    by_name = sorted(range(count), key=sample.classes.__getitem__)
    orders = {
        "label k + 1 stands for class k": np.roll(np.arange(count), 1),
        "label k - 1 stands for class k": np.roll(np.arange(count), -1),
        "the labels are sorted by the names of the classes": np.array(by_name),
        "the classes are sorted by their names": np.argsort(by_name),
    }
    for place, (said, classes) in enumerate(orders.items()):
        if (classes != np.arange(count)).any():
            yield ("shifted-labels" if place < 2 else "class-order"), said, partial(_relabelled, classes), order
    advice = "give corners as x0, y0, x1, y1"
    yield "swapped-axes", "x and y of the boxes are exchanged", _exchanged, advice
    advice = "give corners in the pixels of the picture"
    yield "unscaled-boxes", "boxes are taken from the frame into the picture", partial(_out_of, frame), advice
    yield "unscaled-boxes", "boxes are taken from the picture into the frame", partial(_into, frame), advice
    yield "unscaled-boxes", "boxes are multiplied by width and height of the picture", _of_shares, advice


def _as_it_is(found: Found, size: tuple[int, int]) -> Found:
    return found


def _relabelled(classes: np.ndarray, found: Found, size: tuple[int, int]) -> Found:
    return found._replace(labels=torch.from_numpy(classes.astype(np.int64))[found.labels])


def _exchanged(found: Found, size: tuple[int, int]) -> Found:
    return found._replace(corners=found.corners[:, [1, 0, 3, 2]])


def _out_of(frame: Letterbox, found: Found, size: tuple[int, int]) -> Found:
    return found._replace(corners=found.corners / _factors(frame, size))


def _into(frame: Letterbox, found: Found, size: tuple[int, int]) -> Found:
    return found._replace(corners=found.corners * _factors(frame, size))


def _factors(frame: Letterbox, size: tuple[int, int]) -> Tensor:
    """Counted anew, as what brings boxes back may be what is wrong."""
    across, down = (inner / outer for inner, outer in zip(frame.inside(size), size, strict=True))
    return torch.tensor([across, down, across, down])


def _of_shares(found: Found, size: tuple[int, int]) -> Found:
    return found._replace(corners=found.corners * torch.tensor([*size, *size]))


def _read(found: Sequence[Found], sample: AnnotatedPictures, reading: Reading) -> list[Found]:
    return [reading(one, size) for one, size in zip(found, sample.sizes, strict=True)]


def _ap50(scores: CocoScores) -> float:
    return scores.numbers["ap50"]


def _is_clearly_better(scores: CocoScores, before: CocoScores) -> bool:
    """By far, and whichever of the pictures are drawn."""
    if _ap50(scores) < LEAST or _ap50(scores) - _ap50(before) < GAIN:
        return False
    weights = CHANCE.weights(scores.pictures)
    gains: Tensor = torch.from_numpy(scores.drawn(weights)["ap50"] - before.drawn(weights)["ap50"])
    return float((gains > 0).double().mean()) >= CERTAIN


def _compared(scores: CocoScores, before: CocoScores) -> str:
    return f"AP50 of {scores.pictures} pictures is {_ap50(scores):.0f}, not {_ap50(before):.0f},"
