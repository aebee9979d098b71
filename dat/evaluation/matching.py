"""Which boxes found in one picture are right, and which things were missed: COCO's matching at one overlap. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

CornersOf = Float[np.ndarray, "count 4"]
ScoresOf = Float[np.ndarray, " count"]
LabelsOf = Int[np.ndarray, " count"]
FlagsOf = Bool[np.ndarray, " count"]
ThingsOf = Bool[np.ndarray, " things"]
Overlaps = Float[np.ndarray, "found things"]


@dataclass(frozen=True, eq=False)
class InPicture:
    """What is in a picture: corners x0, y0, x1, y1, classes, and which are crowds."""

    corners: CornersOf
    labels: LabelsOf
    crowd: FlagsOf


@dataclass(frozen=True, eq=False)
class Matching:
    """Of each box found, whether it is `right`, or `aside`: within a crowd, neither right nor a false alarm.

    Of each thing, whether it was `missed`; a crowd never is.
    """

    right: FlagsOf
    aside: FlagsOf
    missed: ThingsOf


def matched(corners: CornersOf, scores: ScoresOf, labels: LabelsOf, things: InPicture, *, overlap: float = 0.5) -> Matching:
    """By falling score, each box takes the thing of its class that it overlaps most and that no box before it has taken.

    Source: COCO's scorer, pycocotools, `COCOeval.evaluateImg`; of overlaps that are equal it takes the last.
    """
    shares = np.where(labels[:, None] == things.labels, overlaps(corners, things), 0.0)
    free = ~things.crowd
    right, aside = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    for box in np.argsort(-scores, kind="stable").tolist():
        open_to = np.where(free, shares[box], 0.0)
        largest = float(open_to.max(initial=0.0))
        if largest >= overlap:
            right[box] = True
            free[np.flatnonzero(open_to == largest)[-1]] = False
        else:
            aside[box] = bool((shares[box][things.crowd] >= overlap).any())
    return Matching(right, aside, free)


def overlaps(corners: CornersOf, things: InPicture) -> Overlaps:
    """Intersection over union of each box with each thing; over the area of the box where the thing is a crowd."""
    boxes, others = corners[:, None].astype(float), things.corners[None].astype(float)
    shared = _area(np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:]))
    alone, theirs = (_area(part[..., :2], part[..., 2:]) for part in (boxes, others))
    whole = np.where(things.crowd, alone, alone + theirs - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def _area(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.clip(lower - upper, 0, None).prod(axis=-1)
