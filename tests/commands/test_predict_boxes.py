"""What a detector of a run finds in any pictures: boxes in their own pixels."""

import json
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from rectangles import CLASSES, COLOURS, FindsColours
from torch import nn
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands import explain, predict
from dat.commands.predict import as_table
from dat.data.boxed import Letterbox
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import UsageError
from dat.evaluation import found_things
from dat.evaluation.found_things import Detected, Thing
from dat.nn.norm import Normalized
from dat.recipe import read
from dat.recipe.detection import DetectionRecipe
from dat.report import strips

BOXES = {"0": {"white": (16, 24, 64, 56), "red": (104, 40, 152, 96)}, "1": {"black": (8, 40, 88, 160)}, "3": {}}
SIZES = {"0": (192, 128), "1": (96, 192), "3": (64, 64)}


def finder() -> dat.TrainedDetector:
    """One that finds rectangles by their colours."""
    model = Normalized(FindsColours(), mean=[0.5] * 3, std=[0.5] * 3).eval()
    model.register_parameter("place", nn.Parameter(torch.zeros(1)))
    recipe = cast(DetectionRecipe, read.load("detection/small"))
    return dat.TrainedDetector(model, CLASSES, Letterbox(64, 96), recipe, "finder", 0)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of several shapes, and between them one that is none."""
    for name, boxes in BOXES.items():
        picture = Image.new("RGB", SIZES[name], (120, 120, 120))
        for label, (left, top, right, bottom) in boxes.items():
            colour = COLOURS[CLASSES.index(label)]
            ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=colour)
        picture.save(tmp_path / f"{name}.png")
    (tmp_path / "2.jpg").write_bytes(b"no picture")
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_boxes_are_in_pixels_of_each_picture(pictures: Path, batch_size: int) -> None:
    found = finder().predict([pictures], batch_size=batch_size)
    assert [Path(one.path).name for one in found] == ["0.png", "1.png", "2.jpg", "3.png"]
    for one in found:
        expected = BOXES.get(Path(one.path).stem, {})
        assert {thing.label for thing in one.things} == set(expected)
        for thing in one.things:
            assert thing.box == pytest.approx(expected[thing.label], abs=3)
            assert thing.score == pytest.approx(0.9)
    assert [one.fault is not None for one in found] == [False, False, True, False]


def test_boxes_below_the_score_are_left_out_and_the_surest_comes_first(pictures: Path) -> None:
    assert [len(one.things) for one in finder().predict([pictures / "0.png"], score=0.95)] == [0]
    run, shown = finder(), found_things.found_by

    def graded(*given: Any) -> Any:
        return [found._replace(scores=found.scores * found.scores.new_tensor([0.8, 1.0])) for found in shown(*given)]

    with patch.object(found_things, "found_by", graded):
        (found,) = run.predict([pictures / "0.png"])
        assert [thing.label for thing in found.things] == ["red", "white"]
        assert [thing.label for thing in run.predict([pictures / "0.png"], score=0.8)[0].things] == ["red"]
    with pytest.raises(UsageError, match=r"score is 50\.0; write a number from 0"):
        run.predict([pictures], score=50.0)
    with pytest.raises(UsageError, match=r"batch_size is 0; write a whole number, 1 or more"):
        run.predict([pictures], batch_size=0)


def test_the_command_prints_a_table_or_a_line_of_json_for_each_picture(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "load_run", lambda _: finder())
    printed = CliRunner().invoke(app, ["predict", "run", str(pictures), "--json", "--cpu"])
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [[thing["label"] for thing in line["things"]] for line in lines] == [["white", "red"], ["black"], [], []]
    assert printed.exit_code == 1
    assert "1 of 4 pictures cannot be read." in printed.stderr
    table = CliRunner().invoke(app, ["predict", "run", str(pictures), "--cpu"]).stdout.splitlines()
    assert table[0].split() == ["picture", "label", "score", "box"]
    assert [row.split()[1] for row in table[1:]] == ["white", "red", "black", "-", "-"]
    assert "cannot be read: " in table[4]
    assert table[5].endswith("nothing")
    with pytest.raises(UsageError, match="--top is 3, of the classes of a whole picture"):
        CliRunner().invoke(app, ["predict", "run", str(pictures), "--top", "3"], catch_exceptions=False, standalone_mode=False)


def test_an_explanation_draws_what_is_found_before_and_after(pictures: Path, tmp_path: Path) -> None:
    how = explain.Explainer(finder(), cifar_words(), alpha=3.0)
    (written,) = explain.explain(how, [pictures / "0.png"], tmp_path / "seen.png")
    shown, frame = np.asarray(Image.open(written)).astype(int), np.array(explain.FRAME)
    scale = 192 // 96
    first = shown[: 64 * scale, : 96 * scale]
    marked = (first == frame).all(axis=2)
    for left, top, right, bottom in BOXES[
        "0"
    ].values():  # of a picture of 192 x 128, brought to 96 x 64 and shown twice as large
        rim = [marked[top + 1, left:right], marked[bottom - 2, left:right], marked[top:bottom, left + 1]]
        assert all(side.mean() > 0.9 for side in rim)
    plain = np.asarray(finder().frame(Image.open(pictures / "0.png"))).repeat(scale, axis=0).repeat(scale, axis=1)
    assert (first[~marked] == plain[~marked]).all()
    assert shown.shape[1] == 4 * (96 * scale + strips.GAP) - strips.GAP


def cifar_words() -> FrozenDiscretizer:
    return load_discretizer("cifar-f2-1024-fast").exact()


def test_a_box_is_a_row() -> None:
    found = Detected("a.png", [Thing("cat", 0.876, (1.2, 2.0, 30.7, 40.0))])
    assert as_table([found]).splitlines()[1].split() == ["a.png", "cat", "0.88", "1", "2", "31", "40"]
