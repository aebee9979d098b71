"""Which boxes are right, and which things are missed: as COCO's own scorer says, picture by picture."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dat.evaluation.matching import InPicture, matched


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, InPicture]:
    """Things of three classes, some of them crowds, and boxes near them or anywhere; equal scores and equal things, too."""
    numbers = np.random.default_rng(seed)
    upper = numbers.integers(0, 60, (9, 2)).astype(float)
    things = np.concatenate([upper, upper + numbers.integers(8, 40, (9, 2))], axis=1)
    kinds = numbers.integers(0, 3, 9)
    things[6:], kinds[6:] = things[:3], kinds[:3]
    near = things[numbers.integers(0, 9, 24)] + numbers.integers(-5, 6, (24, 4))
    labels = numbers.integers(0, 3, 24)
    scores = numbers.integers(1, 9, 24) / 10
    return near, scores, labels, InPicture(things, kinds, numbers.random(9) < 0.25)


def scored(
    corners: np.ndarray, scores: np.ndarray, labels: np.ndarray, things: InPicture
) -> tuple[set[int], set[int], set[int]]:
    """Right and aside of what was found, and the missed things, by COCO's scorer."""

    def xywh(box: np.ndarray) -> list[float]:
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    truth: Any = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1}],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(3)],
    }
    truth.dataset["annotations"] = [
        {"id": place + 1, "image_id": 1, "category_id": int(label) + 1, "bbox": xywh(box), "area": 100.0, "iscrowd": int(crowd)}
        for place, (box, label, crowd) in enumerate(zip(things.corners, things.labels, things.crowd, strict=True))
    ]
    rows = [
        {"image_id": 1, "category_id": int(label) + 1, "bbox": xywh(box), "score": float(score)}
        for box, score, label in zip(corners, scores, labels, strict=True)
    ]
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        scorer = COCOeval(truth, truth.loadRes(rows), "bbox")
        scorer.params.iouThrs = np.array([0.5])
        scorer.params.areaRng = [[0, 1e10]]
        scorer.evaluate()
    right, aside, missed = set[int](), set[int](), set[int]()
    for found in filter(None, scorer.evalImgs):
        said = zip(found["dtIds"], found["dtMatches"][0], found["dtIgnore"][0], strict=True)
        for number, match, ignored in said:
            if match and ignored:
                aside.add(number - 1)
            elif match:
                right.add(number - 1)
        kept = zip(found["gtIds"], found["gtMatches"][0], found["gtIgnore"], strict=True)
        missed |= {number - 1 for number, match, ignored in kept if not match and not ignored}
    return right, aside, missed


@pytest.mark.parametrize("seed", range(20))
def test_boxes_are_matched_as_by_cocos_scorer(seed: int) -> None:
    found = matched(*drawn(seed))
    said = tuple(set(np.flatnonzero(flags).tolist()) for flags in (found.right, found.aside, found.missed))
    assert said == scored(*drawn(seed))


def test_a_second_box_on_a_thing_is_a_false_alarm_and_another_class_none() -> None:
    thing = InPicture(np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]]), np.array([0, 1]), np.array([False, False]))
    corners = np.array([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10]])
    found = matched(corners, np.array([0.6, 0.9, 0.8]), np.array([0, 0, 0]), thing)
    assert found.right.tolist() == [False, True, False]
    assert found.missed.tolist() == [False, True]
    assert not found.aside.any()


def test_nothing_found_and_nothing_to_find() -> None:
    empty = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
    nothing = InPicture(empty[0], empty[2], np.zeros(0, bool))
    assert len(matched(*empty, nothing).right) == 0
    assert matched(*empty, InPicture(np.ones((1, 4)), np.zeros(1, int), np.zeros(1, bool))).missed.all()
    assert not matched(np.ones((1, 4)), np.ones(1), np.zeros(1, int), nothing).right.any()
