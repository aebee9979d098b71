"""What is stored for the page of detectors: which pictures and models, and what these find, in pixels of the frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dat.boxes import Boxes, Found
from dat.data.annotated import AnnotatedPictures, Things
from dat.data.boxed import Letterbox
from dat.engine.loop import Training
from dat.evaluation.suites import FGSM
from dat.nn.detectors import DetectionLosses
from dat.recipe.contest import Contestant
from dat.report.boxed_pictures import read_boxed_pictures
from dat.studies.boxed_pictures import Pixels, Scene, spread, two_models, write
from dat.studies.study import Job
from dat.tasks.detection import Detection
from dat.types import Place

CPU = Place(torch.device("cpu"))


def things(*boxes: tuple[float, float, float, float], crowd: int | None = None) -> Things:
    flags = np.array([place == crowd for place in range(len(boxes))], bool)
    corners = np.array(boxes, float).reshape(-1, 4)
    return Things(corners, np.zeros(len(boxes), int), np.ones(len(boxes)), flags, tuple(range(len(boxes))))


def pictures(folder: Path, *contents: Things) -> AnnotatedPictures:
    """Grey ones, 80 x 40 pixels."""
    names = [f"{place}.png" for place in range(len(contents))]
    for name in names:
        Image.new("RGB", (80, 40), (100, 100, 100)).save(folder / name)
    count = len(contents)
    return AnnotatedPictures(folder / "x.json", folder, names, [(80, 40)] * count, contents, ("cell",), range(count), [1])


class Answers(nn.Module):
    """Finds the same in every picture: by its scores; the loss of an image is its mean."""

    def __init__(self, *boxes: tuple[list[float], float]) -> None:
        super().__init__()
        corners, scores = torch.tensor([corners for corners, _ in boxes]), torch.tensor([score for _, score in boxes])
        self.found = Found(corners, scores, torch.zeros(len(boxes), dtype=torch.long))

    def forward(self, images: Tensor, boxes: Boxes | None = None) -> Any:
        if boxes is None:
            return [self.found] * len(images)
        mean = images.flatten(1).mean(dim=1)
        return DetectionLosses(mean, mean)


def test_boxes_are_stored_in_the_frame_cut_at_the_edges_of_their_picture(tmp_path: Path) -> None:
    """The frame halves the pictures, which fill its upper half."""
    source = pictures(tmp_path, things((10, 10, 30, 30), (-4, 0, 90, 8), (5, 5, 5, 9)), things((0, 0, 20, 20), crowd=0))
    model = Answers(([5.0, 5, 15, 15], 0.9), ([30.0, 10, 60, 35], 0.5), ([0.0, 0, 4, 4], 0.49))
    path = tmp_path / "pictures.npz"
    write(path, {Job("standard", 2): model}, Scene(source, Letterbox(40, 40), Detection(), CPU), Pixels(None))
    with np.load(path) as file:
        assert file["shown"].shape == (1, 1, 2, 40, 40, 3)
        assert file["shown"][0, 0, 0, 10, 10].tolist() == [100, 100, 100]
        assert file["thing_corners"].tolist() == [[5, 5, 15, 15], [0, 0, 40, 4], [0, 0, 10, 10]]
        assert file["thing_crowd"].tolist() == [False, False, True]
        assert file["thing_picture"].tolist() == [0, 0, 1]
        assert file["found_corners"].tolist() == [[5, 5, 15, 15], [30, 10, 40, 20]] * 2
        assert file["found_in"].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]]
    first, second = read_boxed_pictures(path).pictures
    assert first.models[0].views[0].words == {"1 of 2 found": "cell (0.90)", "Missed": "cell", "False alarms": "cell (0.50)"}
    assert list(second.models[0].views[0].words) == ["0 of 0 found", "False alarms"]


def test_each_model_is_shown_what_was_attacked_against_it(tmp_path: Path) -> None:
    class Darker(Answers):
        def forward(self, images: Tensor, boxes: Boxes | None = None) -> Any:
            found = super().forward(images, boxes)
            return found if boxes is None else DetectionLosses(*(-part for part in found))

    box = ([5.0, 5, 15, 15], 0.9)
    models = {Job("standard", 0): Answers(box), Job("at", 0): Darker(box)}
    scene = Scene(pictures(tmp_path, things((10, 10, 30, 30))), Letterbox(20, 40), Detection("boxes"), CPU)
    write(tmp_path / "pictures.npz", models, scene, Pixels(FGSM(10 / 255)))
    with np.load(tmp_path / "pictures.npz") as file:
        assert file["views"].tolist() == ["clean", "fgsm"]
        assert file["shown"][:, :, 0, 5, 5, 0].tolist() == [[100, 110], [100, 90]]


def test_pictures_are_spread_over_those_with_something_in_them(tmp_path: Path) -> None:
    cell, nothing = things((0, 0, 9, 9)), things()
    source = pictures(tmp_path, nothing, cell, things((0, 0, 9, 9), crowd=0), cell, cell, things((0, 0, 0, 9)), cell, cell)
    assert spread(source) == [1, 4, 7]
    assert spread(source, count=9) == [1, 3, 4, 6, 7]
    assert spread(pictures(tmp_path, nothing)) == []


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (("standard", "at", "dat"), ["standard", "dat"]),
        (("at", "dat", "standard"), ["standard", "dat"]),
        (("at", "dat"), ["at", "dat"]),
        (("dat", "at"), ["dat", "at"]),
        (("at", "standard"), ["standard", "at"]),
        (("dat",), ["dat"]),
    ],
)
def test_the_model_with_an_adversary_of_words_is_shown_beside_standard_training(
    labels: tuple[str, ...], shown: list[str]
) -> None:
    made = {
        label: Contestant(
            lambda _: cast(Any, None), Training(epochs=1, batch_size=1, lr=1.0), 1.0 if label == "dat" else None, False
        )
        for label in labels
    }
    jobs = [Job(label, seed) for seed in (4, 5) for label in labels]
    found = two_models(jobs, made)
    assert [job.label for job in found] == shown
    assert {job.seed for job in found} == {4}
