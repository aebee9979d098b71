"""COCO's twelve numbers of detections, by its own scorer, and how far they would move with other pictures.

pycocotools scores; here its input is made so that its traps are out of the way (ids from 1 on, an empty list, NaN), and what it
matched is kept per picture, so that average precision can be computed again for pictures drawn with replacement.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dat.boxes import Found
from dat.data.annotated import AnnotatedPictures
from dat.errors import DivergenceError, UsageError

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
"""COCO's twelve numbers, in its order."""
THRESHOLDS, RECALLS = np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101)
"""COCO's: overlaps from which a box is right, and recalls at which precision is read."""
CELLS = 4_000_000
"""So many numbers of draws by detections are held at once."""
NONE_TO_FIND = -1.0
"""What the scorer says where there is no thing of a class or a size."""

Weights = Float64[np.ndarray, " pictures"]
ScoresOf = Float64[np.ndarray, " count"]
PicturesOf = Int64[np.ndarray, " count"]
MatchesOf = Bool[np.ndarray, "thresholds count"]
Draws = Float64[np.ndarray, "draws pictures"]
DrawnValues = Float64[np.ndarray, " draws"]
AtThresholds = Float64[np.ndarray, "thresholds draws"]
Grid = Float64[np.ndarray, "count draws"]
ThingsOf = Float64[np.ndarray, " pictures"]


@dataclass(frozen=True, eq=False)
class Matches:
    """Of one class: each detection's score, its picture, whether it is right and whether it counts at each overlap, in falling
    order of the scores; and how many things there are in each picture.
    """

    scores: ScoresOf
    pictures: PicturesOf
    right: MatchesOf
    counts: MatchesOf
    things: ThingsOf

    def average_precision(self, weights: Draws) -> AtThresholds:
        """At each overlap, in percent, for each draw, which counts each picture so often; NaN where nothing is to find.

        As COCO's scorer: the mean over 101 recalls of the best precision from that recall on, which is that at a right box.
        """
        of_pictures = np.ascontiguousarray(weights.T)
        things = self.things @ of_pictures
        counted = of_pictures[self.pictures]
        precision = np.empty((len(THRESHOLDS), len(weights)))
        found, counts = np.cumsum(counted * self.counts[0][:, None], axis=0), self.counts[0]
        for row, (right, now) in enumerate(zip(self.right, self.counts, strict=True)):
            if (now != counts).any():
                found, counts = np.cumsum(counted * now[:, None], axis=0), now
            places = np.flatnonzero(right & now)
            precision[row] = _averaged(np.cumsum(counted[places], axis=0), found[places], things)
        return np.where(things > 0, 100 * precision, np.nan)


@dataclass(frozen=True, eq=False)
class CocoScores:
    """`numbers` by `NAMES`, in percent, and average precision `by_class`; what there is nothing of is left out of both.

    `matches` are those of each of `classes`.
    """

    numbers: Mapping[str, float]
    by_class: Mapping[str, float]
    classes: tuple[str, ...]
    matches: Sequence[Matches]
    pictures: int

    @cached_property
    def whole(self) -> float:
        """Average precision once more, from the matches: what `ap_of` gives for the pictures as they are."""
        return self.ap_of(np.ones(self.pictures))

    def ap_of(self, weights: Weights) -> float:
        """Average precision with each picture counted so often; the mean over overlaps and classes that have a thing."""
        return float(self.drawn(weights[None])["ap"][0])

    def drawn(self, weights: Draws) -> dict[str, DrawnValues]:
        """`ap`, `ap50`, `ap75` and `ap/<class>` for each draw of pictures; NaN where a draw holds no thing."""
        at_once = max(1, CELLS // max(1, *(len(match.scores) for match in self.matches)))
        parts = [weights[first : first + at_once] for first in range(0, len(weights), at_once)]
        of_classes = np.stack(
            [np.concatenate([match.average_precision(part) for part in parts], axis=1) for match in self.matches]
        )
        together = {"ap": _mean(of_classes).mean(axis=0), "ap50": _mean(of_classes[:, 0]), "ap75": _mean(of_classes[:, 5])}
        return together | {f"ap/{name}": values.mean(axis=0) for name, values in zip(self.classes, of_classes, strict=True)}


def coco_scores(source: AnnotatedPictures, found: Sequence[Found]) -> CocoScores:
    """Score what was found in each picture, in its own pixels.

    Raises:
        UsageError: not one `Found` per picture.
        DivergenceError: a corner or a score is NaN or infinite, which the scorer would accept.
    """
    if len(found) != len(source):
        raise UsageError(f"There are detections of {len(found)} pictures, and {len(source)} pictures; give one Found for each.")
    with redirect_stdout(io.StringIO()):
        right = _indexed(_ground_truth(source))
        scorer = COCOeval(right, _detected(right, found, source), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    numbers = {name: 100 * value for name, value in zip(NAMES, scorer.stats.tolist(), strict=True) if value != NONE_TO_FIND}
    precision = scorer.eval["precision"][:, :, :, 0, 2]
    by_class = {
        name: 100 * float(precision[..., label].mean())
        for label, name in enumerate(source.classes)
        if (precision[..., label] > NONE_TO_FIND).any()
    }
    return CocoScores(numbers, by_class, source.classes, _matches(scorer, _ids(source)), len(source))


def results_json(source: AnnotatedPictures, found: Sequence[Found]) -> list[dict[str, object]]:
    """What was found as COCO's results format has it, with the ids of the source's own file."""
    return _results(found, source.image_ids, source.category_ids)


def found_in(results: Sequence[Mapping[str, Any]], source: AnnotatedPictures) -> list[Found]:
    """What `results_json` was made of, to the bit.

    Raises:
        ValueError, KeyError, TypeError: they are no results, or of other pictures or categories.
    """
    labels = {key: label for label, key in enumerate(source.category_ids)}
    of_image: dict[int, list[tuple[list[float], float, int]]] = {key: [] for key in source.image_ids}
    for row in results:
        left, top, width, height = row["bbox"]
        corners = [left, top, left + width, top + height]
        of_image[row["image_id"]].append((corners, row["score"], labels[row["category_id"]]))
    return [_found_of(rows) for rows in of_image.values()]


def _found_of(rows: Sequence[tuple[list[float], float, int]]) -> Found:
    corners = torch.tensor([row[0] for row in rows], dtype=torch.float64).reshape(-1, 4).float()
    return Found(corners, torch.tensor([row[1] for row in rows]).float(), torch.tensor([row[2] for row in rows]).long())


def _results(found: Sequence[Found], image_ids: Sequence[int], category_ids: Sequence[int]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for image_id, one in zip(image_ids, found, strict=True):
        corners = one.corners.double()
        boxes = [*corners[:, :2].T.tolist(), *(corners[:, 2:] - corners[:, :2]).T.tolist()]
        for box, score, label in zip(zip(*boxes, strict=True), one.scores.tolist(), one.labels.tolist(), strict=True):
            rows.append({"image_id": image_id, "category_id": category_ids[label], "bbox": [*box], "score": score})
    return rows


def _ground_truth(source: AnnotatedPictures) -> dict[str, Any]:
    annotations: list[dict[str, object]] = []
    for image_id, things in zip(_ids(source), source.things, strict=True):
        sides = things.corners[:, 2:] - things.corners[:, :2]
        for corners, side, label, area, crowd in zip(
            things.corners.tolist(),
            sides.tolist(),
            things.labels.tolist(),
            things.areas.tolist(),
            things.crowd.tolist(),
            strict=True,
        ):
            box = [*corners[:2], *side]
            of_thing = {"image_id": image_id, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, **of_thing})
    images = [{"id": number} for number in range(1, len(source) + 1)]
    categories = [{"id": label, "name": name} for label, name in enumerate(source.classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


def _detected(right: Any, found: Sequence[Found], source: AnnotatedPictures) -> Any:
    """The scorer's own reader ends with an IndexError where nothing at all was found."""
    for index, one in enumerate(found):
        if not (one.corners.isfinite().all() and one.scores.isfinite().all()):
            raise DivergenceError(
                f"The model gives NaN or infinite boxes or scores for {source.name(index)}; check it for divisions by 0, and "
                "the precision it is run in."
            )
    rows = _results(found, _ids(source), range(1, len(source.classes) + 1))
    if rows:
        return right.loadRes(rows)
    return _indexed({**right.dataset, "annotations": []})


def _indexed(dataset: dict[str, Any]) -> Any:
    """As the scorer reads it from a file."""
    made: Any = COCO()
    made.dataset = dataset
    made.createIndex()
    return made


def _ids(source: AnnotatedPictures) -> list[int]:
    """From 1 on, in the order of the file's: among equal scores the scorer takes pictures in that order."""
    return (np.argsort(np.argsort(source.image_ids)) + 1).tolist()


def _matches(scorer: Any, ids: Sequence[int]) -> list[Matches]:
    """Per class, of boxes of any size, at most 100 a class and picture; the scorer keeps them class by class, size by size."""
    sizes, pictures = len(scorer.params.areaRng), len(ids)
    blocks = [scorer.evalImgs[number : number + pictures] for number in range(0, len(scorer.evalImgs), sizes * pictures)]
    return [_of_class(block, np.argsort(ids)) for block in blocks]


def _of_class(pictures: Sequence[Mapping[str, Any] | None], places: np.ndarray) -> Matches:
    """`places`: those of the pictures in the source."""
    things = np.zeros(len(pictures))
    there = [(place, one) for place, one in zip(places.tolist(), pictures, strict=True) if one is not None]
    for place, one in there:
        things[place] = float((np.asarray(one["gtIgnore"]) == 0).sum())
    scores = np.concatenate([np.zeros(0), *(np.asarray(one["dtScores"], dtype=float) for _, one in there)])
    of_picture = np.concatenate([np.zeros(0, int), *(np.full(len(one["dtScores"]), place) for place, one in there)])
    empty = np.zeros((len(THRESHOLDS), 0), bool)
    right = np.concatenate([empty, *(np.asarray(one["dtMatches"]) > 0 for _, one in there)], axis=1)
    ignored = np.concatenate([empty, *(np.asarray(one["dtIgnore"]) > 0 for _, one in there)], axis=1)
    order = np.argsort(-scores, kind="mergesort")
    return Matches(scores[order], of_picture[order].astype(np.int64), right[:, order], ~ignored[:, order], things)


def _averaged(right: Grid, found: Grid, things: DrawnValues) -> DrawnValues:
    """Mean precision where each recall is first reached, 0 where it never is; of each draw.

    Given at the right boxes alone, in falling order of their scores: how many are right so far, and how many were found.
    """
    precision = right / np.maximum(found, np.finfo(float).eps)
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    best = np.concatenate([best, np.zeros((1, len(things)))])
    reached = np.ascontiguousarray((right / np.maximum(things, np.finfo(float).eps)).T)
    places = np.stack([np.searchsorted(draw, RECALLS, side="left") for draw in reached])
    return best[places, np.arange(len(things))[:, None]].mean(axis=1)


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the classes that have a thing; of those without all values are NaN."""
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, values, 0.0).sum(axis=0) / np.maximum(count, 1), np.nan)
