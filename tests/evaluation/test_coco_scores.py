"""COCO's numbers: against the scorer run on files as anyone would, and average precision from the matches."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dat.boxes import Found
from dat.data.annotated import AnnotatedPictures, Things
from dat.errors import DivergenceError, UsageError
from dat.evaluation.coco_scores import NAMES, coco_scores, found_in, results_json

CLASSES = ("cat", "dog", "bird")


def pictures(count: int = 12, *, crowds: bool = True, seed: int = 0) -> AnnotatedPictures:
    """Pictures that nobody opens, with things of all sizes, and the ids of a file that begins at 0 and leaves some out."""
    numbers = np.random.default_rng(seed)
    things = []
    for _ in range(count):
        many = int(numbers.integers(0, 7))
        low = numbers.random((many, 2)) * 200
        corners = np.concatenate([low, low + 4 + numbers.random((many, 2)) ** 2 * 150], axis=1)
        areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1) * (0.5 + numbers.random(many) / 2)
        crowd = (numbers.random(many) < 0.15) & crowds
        things.append(Things(corners, numbers.integers(0, 2, many), areas, crowd, tuple(range(many))))
    ids = [7 * number + 3 for number in range(count)][::-1]
    names = [f"{number}.jpg" for number in range(count)]
    sizes = [(400, 400)] * count
    return AnnotatedPictures(Path("made.json"), Path(), names, sizes, things, CLASSES, ids, [5, 1, 80])


def found_near(source: AnnotatedPictures, *, seed: int = 1, decimals: int = 2) -> list[Found]:
    """Most things, moved a little, some of another class, some made up; scores that tie."""
    numbers, found = np.random.default_rng(seed), []
    for things in source.things:
        kept = numbers.random(len(things)) < 0.8
        corners = things.corners[kept] + numbers.normal(0, 2, (kept.sum(), 4))
        labels = np.where(numbers.random(kept.sum()) < 0.85, things.labels[kept], numbers.integers(0, 3, kept.sum()))
        extra = numbers.random((5, 2)) * 250
        made = np.concatenate([extra, extra + 10 + numbers.random((5, 2)) * 60], axis=1)
        corners, labels = np.concatenate([corners, made]), np.concatenate([labels, numbers.integers(0, 3, 5)])
        scores = numbers.random(len(labels)).round(decimals)
        found.append(Found(torch.tensor(corners).float(), torch.tensor(scores).float(), torch.tensor(labels)))
    return found


def scored_from_files(source: AnnotatedPictures, found: list[Found], folder: Path) -> np.ndarray:
    """As anyone would: an annotation file, a file of results, pycocotools."""
    annotations: list[dict[str, Any]] = []
    for image_id, things in zip(source.image_ids, source.things, strict=True):
        for row in range(len(things)):
            x0, y0, x1, y1 = things.corners[row].tolist()
            known = {
                "image_id": image_id,
                "category_id": source.category_ids[things.labels[row]],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
            }
            more = {"area": float(things.areas[row]), "iscrowd": int(things.crowd[row])}
            annotations.append({"id": len(annotations) + 1, **known, **more})
    categories = [{"id": key, "name": name} for key, name in zip(source.category_ids, source.classes, strict=True)]
    images = [{"id": key, "file_name": "", "width": 400, "height": 400} for key in source.image_ids]
    (folder / "gt.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    (folder / "found.json").write_text(json.dumps(results_json(source, found)))
    with redirect_stdout(io.StringIO()):
        right = COCO(str(folder / "gt.json"))
        scorer = COCOeval(right, right.loadRes(str(folder / "found.json")), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer.stats


@pytest.mark.parametrize("seed", range(3))
def test_the_twelve_numbers_are_those_of_the_scorer_on_files(seed: int, tmp_path: Path) -> None:
    source = pictures(seed=seed)
    found = found_near(source, seed=seed + 10)
    numbers = coco_scores(source, found).numbers
    theirs = scored_from_files(source, found, tmp_path)
    assert list(numbers) == [name for name, value in zip(NAMES, theirs, strict=True) if value != -1]
    np.testing.assert_allclose([*numbers.values()], 100 * theirs[theirs != -1], atol=1e-9)
    assert 5 < numbers["ap"] < 90


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_from_the_matches_is_the_scorers(seed: int) -> None:
    source = pictures(seed=seed)
    scores = coco_scores(source, found_near(source, seed=seed + 10))
    assert scores.whole == pytest.approx(scores.numbers["ap"], abs=1e-9)


def test_a_picture_that_is_drawn_twice_counts_as_two() -> None:
    source = pictures(4, crowds=False, seed=3)
    found = found_near(source, decimals=9)
    twice = source.at([0, 0, 1, 3])
    weights = np.array([2.0, 1, 0, 1])
    expected = coco_scores(twice, [found[0], found[0], found[1], found[3]]).numbers["ap"]
    assert coco_scores(source, found).ap_of(weights) == pytest.approx(expected, abs=1e-9)


def test_classes_and_sizes_that_are_not_there_are_left_out_and_not_minus_one() -> None:
    source = pictures()
    scores = coco_scores(source, found_near(source))
    assert set(scores.by_class) == {"cat", "dog"}
    assert np.mean([*scores.by_class.values()]) == pytest.approx(scores.numbers["ap"])
    large = [Things(np.array([[0.0, 0, 200, 200]]), np.array([0]), np.array([4e4]), np.array([False]), (0,))]
    alone = AnnotatedPictures(Path("made.json"), Path(), ["0.jpg"], [(400, 400)], large, CLASSES, [0], [0, 1, 2])
    right = [Found(torch.tensor([[0.0, 0, 200, 200]]), torch.ones(1), torch.tensor([0]))]
    numbers = coco_scores(alone, right).numbers
    assert set(NAMES) - set(numbers) == {"ap_small", "ap_medium", "ar_small", "ar_medium"}
    assert numbers["ap"] == pytest.approx(100)


@pytest.mark.parametrize(("labels", "recall"), [([0, 1, 2], 100.0), ([1, 1, 1], 100 / 3)])
def test_recall_with_one_box_is_with_one_of_each_class(labels: list[int], recall: float) -> None:
    corners = np.array([[0.0, 0, 50, 50], [100, 0, 150, 50], [200, 0, 250, 50]])
    things = [Things(corners, np.array(labels), np.full(3, 2500.0), np.zeros(3, bool), (0, 1, 2))]
    source = AnnotatedPictures(Path("made.json"), Path(), ["0.jpg"], [(400, 400)], things, CLASSES, [0], [5, 1, 80])
    found = [Found(torch.tensor(corners).float(), torch.tensor([0.9, 0.8, 0.7]), torch.tensor(labels))]
    assert coco_scores(source, found).numbers["ar1"] == pytest.approx(recall)


def test_where_nothing_is_found_the_numbers_are_zero() -> None:
    nothing = Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    scores = coco_scores(pictures(), [nothing] * 12)
    assert set(scores.numbers.values()) == {0.0}
    assert scores.whole == 0


@pytest.mark.parametrize("broken", ["corners", "scores"])
def test_what_is_no_number_is_named(broken: str) -> None:
    source = pictures()
    found = found_near(source)
    getattr(found[2], broken)[0] = torch.nan
    with pytest.raises(DivergenceError, match=r"NaN or infinite boxes or scores for 2\.jpg"):
        coco_scores(source, found)


def test_each_picture_needs_its_detections() -> None:
    with pytest.raises(UsageError, match=r"detections of 11 pictures, and 12 pictures"):
        coco_scores(pictures(), found_near(pictures())[:11])


def test_draws_are_scored_together_as_each_alone_whatever_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures()
    scores = coco_scores(source, found_near(source))
    weights = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, size=9).astype(float)
    together = scores.drawn(weights)
    assert together["ap"] == pytest.approx([scores.ap_of(draw) for draw in weights], abs=1e-12)
    monkeypatch.setattr("dat.evaluation.coco_scores.CELLS", 1)
    np.testing.assert_array_equal(scores.drawn(weights)["ap50"], together["ap50"])
    ones = scores.drawn(np.ones((1, 12)))
    for name in ("ap", "ap50", "ap75"):
        assert ones[name][0] == pytest.approx(scores.numbers[name], abs=1e-9)
    assert ones["ap/cat"][0] == pytest.approx(scores.by_class["cat"], abs=1e-9)
    assert np.isnan(ones["ap/bird"][0])
    nothing = np.array([[float(not len(things)) for things in source.things]])
    assert np.isnan(scores.drawn(nothing)["ap"][0])


def test_results_that_are_written_and_read_are_the_same_to_the_bit() -> None:
    source = pictures()
    found = found_near(source, decimals=9)
    found[3] = Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    again = found_in(json.loads(json.dumps(results_json(source, found))), source)
    for one, other in zip(found, again, strict=True):
        assert all(torch.equal(part, back) for part, back in zip(one, other, strict=True))
    with pytest.raises(KeyError):
        found_in([{"image_id": 0, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 1}], source)
