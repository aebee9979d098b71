"""Pictures with boxes on the page: what is right, missed or a false alarm, in lines, words and alt texts; damaged files."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dat.errors import DataError
from dat.report.boxed_pictures import TITLES, WIDEST, Box, BoxedPictures, listed, read_boxed_pictures
from dat.report.page import Report, html_page

THINGS = [[2, 2, 12, 12], [20, 4, 30, 14], [0, 0, 40, 24]]
"""A cell, a platelet, and a crowd of cells."""
FOUND = {
    (0, 0, 0): [([2, 2, 12, 11], 0.9, 0), ([20, 4, 30, 14], 0.8, 1)],
    (0, 1, 0): [([2, 2, 12, 11], 0.6, 0), ([3, 2, 12, 12], 0.7, 0), ([20, 4, 30, 14], 0.55, 0), ([33, 2, 39, 9], 0.5, 1)],
    (1, 0, 0): [],
    (1, 1, 0): [([2, 2, 12, 12], 0.9, 1)],
}
"""By model, view and picture: corners, score and label."""


def arrays(**changes: Any) -> dict[str, Any]:
    """Two models, two views and one picture."""
    boxes = [(where, *box) for where, of_view in FOUND.items() for box in of_view]
    numbers = np.random.default_rng(0)
    made: dict[str, Any] = {
        "shown": numbers.integers(0, 256, (2, 2, 1, 24, 40, 3), dtype=np.uint8),
        "methods": np.array(["standard", "dat"]),
        "seeds": np.array([0, 3]),
        "views": np.array(["clean", "adversarial"]),
        "names": np.array(["blood/1.jpg"]),
        "classes": np.array(["cell", "<platelet>"]),
        "least_score": np.array(0.5),
        "thing_corners": np.array(THINGS, float),
        "thing_labels": np.array([0, 1, 0]),
        "thing_crowd": np.array([False, False, True]),
        "thing_picture": np.array([0, 0, 0]),
        "found_corners": np.array([corners for _, corners, _, _ in boxes], np.float32),
        "found_scores": np.array([score for _, _, score, _ in boxes], np.float32),
        "found_labels": np.array([label for *_, label in boxes]),
        "found_in": np.array([where for where, *_ in boxes]),
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def written(folder: Path, **changes: Any) -> BoxedPictures:
    np.savez_compressed(folder / "pictures.npz", **arrays(**changes))
    return read_boxed_pictures(folder / "pictures.npz", adversary="a step")


def kinds(boxes: tuple[Box, ...]) -> list[tuple[str, str]]:
    return sorted((box.kind, box.words) for box in boxes)


def test_each_box_is_right_a_false_alarm_or_of_a_crowd_and_each_thing_found_or_missed(tmp_path: Path) -> None:
    (picture,) = written(tmp_path).pictures
    assert (picture.name, picture.things) == ("blood/1.jpg", "1 cell, 1 <platelet>")
    assert [model.title for model in picture.models] == ["Standard, seed 0", "DAT, seed 3"]
    (clean, attacked), (none, wrong) = (model.views for model in picture.models)
    crowd = ("aside", "cell")
    assert kinds(clean.boxes) == [crowd, ("right", "<platelet> 0.80"), ("right", "cell 0.90")]
    assert kinds(attacked.boxes) == [
        ("alarm", "<platelet> 0.50"),
        crowd,
        ("aside", "cell 0.55"),  # of another class than the platelet it lies on, and within the crowd of its own
        ("aside", "cell 0.60"),
        ("missed", "<platelet>"),
        ("right", "cell 0.70"),
    ]
    assert kinds(none.boxes) == [crowd, ("missed", "<platelet>"), ("missed", "cell")]
    assert kinds(wrong.boxes) == [("alarm", "<platelet> 0.90"), crowd, ("missed", "<platelet>"), ("missed", "cell")]
    assert (clean.boxes[-1].left, clean.boxes[-1].top, clean.boxes[-1].width, clean.boxes[-1].height) == (2, 2, 10, 9)
    assert clean.words == {"2 of 2 found": "<platelet> (0.80), cell (0.90)"}
    assert none.words == {"0 of 2 found": "", "Missed": "cell, <platelet>"}
    assert (
        attacked.alt
        == f"{TITLES['adversarial']}; 1 of 2 found: cell (0.70); Missed: <platelet>; False alarms: <platelet> (0.50)"
    )


AT = (0.0, 0.0, 1.0, 1.0)


def test_boxes_are_said_by_class_the_most_first_with_the_lowest_and_the_highest_score() -> None:
    boxes = [Box("right", *AT, label, score) for label, score in (("b", 0.5), ("a", 0.91), ("a", 0.62), ("a", 0.7))]
    assert listed(boxes) == "3 a (0.62\N{EN DASH}0.91), b (0.50)"
    assert listed([Box("missed", *AT, "a")] * 2) == "2 a"
    assert listed([Box("right", *AT, "a", 0.5)] * 2) == "2 a (0.50)"


def page_of(pictures: BoxedPictures) -> str:
    empty: dict[str, Any] = {"subtitle": "", "reading": ("So.",), "tables": {}, "plots": {}, "pictures": None, "provenance": {}}
    more: dict[str, Any] = {"protocols": {}, "recipe": "", "alarms": (), "left_out": ()}
    return html_page(Report(title="Cells", opening="So.", methods=("standard",), **empty, **more, boxed=pictures))


def test_the_page_draws_every_box_over_its_picture_and_tells_lines_apart_by_more_than_colour(tmp_path: Path) -> None:
    page = page_of(written(tmp_path))
    assert page.count("<img ") == page.count('<svg viewBox="0 0 40 24"') == 4
    for kind, count in {"right": 3, "missed": 5, "alarm": 2, "aside": 6}.items():
        assert page.count(f'<rect class="{kind}"') == count + (kind != "aside")  # one of each in the legend
    style = page[: page.index("</style>")]
    dashes = [line for line in style.splitlines() if "stroke-dasharray" in line]
    assert len({line.split("stroke-dasharray: ")[1].split(";")[0] for line in dashes}) == 2  # the third kind is solid
    assert "<title>&lt;platelet&gt; 0.80</title>" in page
    assert 'alt="blood/1.jpg, DAT, seed 3: As it is, x; 0 of 2 found; Missed: ' in page
    assert "a score of 0.5 or more" in page
    assert "a step" in page
    assert "Thin grey: crowds" in page
    assert "Thin grey" not in page_of(written(tmp_path, thing_crowd=np.array([False] * 3)))


def test_large_pictures_are_made_smaller_and_their_boxes_stay_in_place(tmp_path: Path) -> None:
    large = np.zeros((2, 2, 1, 30, 2 * WIDEST, 3), np.uint8)
    found = written(tmp_path, shown=large)
    assert (found.height, found.width) == (30, 2 * WIDEST)
    address = found.pictures[0].models[0].views[0].address
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert (picture.format, picture.size) == ("PNG", (WIDEST, 15))


DAMAGED: dict[str, dict[str, Any]] = {
    "holds no thing_crowd (things)": {"thing_crowd": None},
    "holds no least_score.": {"least_score": np.array([0.5])},
    "holds no shown (models, views": {"shown": np.zeros((2, 24, 40, 3), np.uint8)},
    "not as many as its models, views and names": {"names": np.array(["a", "b"])},
    "do not belong to its pictures": {"found_labels": np.array([0, 1, 0, 0, 0, 2, 1])},
    "do not belong to its pictures ": {"thing_picture": np.array([0, 0, 1])},
    "do not belong to its pictures and": {"found_scores": np.zeros(3)},
    "do not belong to its pictures and ": {"thing_corners": np.zeros((3, 5))},
    "words where there should be numbers": {"found_scores": np.array(["a"] * 7)},
}


@pytest.mark.parametrize("said", DAMAGED)
def test_a_damaged_file_is_refused_with_a_sentence(said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"(?s){said.replace('(', '[(]').replace(')', '[)]')}"):
        written(tmp_path, **DAMAGED[said])


def test_a_missing_file_and_one_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no pictures\.npz"):
        read_boxed_pictures(tmp_path / "pictures.npz")
    (tmp_path / "pictures.npz").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(DataError, match="is no file of arrays"):
        read_boxed_pictures(tmp_path / "pictures.npz")
