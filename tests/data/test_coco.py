"""COCO's files are read as pycocotools would have them, and each fault is one sentence that says where it is."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dat.data import boxed
from dat.data.annotated import AnnotatedPictures
from dat.data.coco import examine_coco, read_coco
from dat.errors import DataError
from tests.data.made_up_boxes import coco_record, write_coco

Change = Callable[[dict[str, Any]], Any]


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    found = read_coco(write_coco(tmp_path))
    assert (found.root, len(found)) == (tmp_path / "train", 3)
    assert [*found.names] == ["a.png", "b.png", "c.png"]
    assert [*found.sizes] == [(40, 30), (30, 40), (50, 20)]
    assert ([*found.image_ids], [*found.category_ids], found.classes) == ([7, 0, 3], [2, 5], ("cat", "dog"))
    first, second, third = found.things
    assert first.corners.tolist() == [[4, 5, 14, 17], [0, 0, 30, 20]]
    assert (first.labels.tolist(), first.areas.tolist(), first.crowd.tolist()) == ([1, 0], [90.5, 600], [False, True])
    assert first.ids == (0, 1)
    assert (len(second), second.corners.shape) == (0, (0, 4))
    assert (third.ids, third.areas.tolist(), third.crowd.tolist()) == ((4, 9), [200, 0], [False, False])
    assert found.faults() == []
    assert [found.read(index).size for index in range(3)] == [*found.sizes]


def test_labels_are_in_the_order_of_the_training(tmp_path: Path) -> None:
    found = read_coco(write_coco(tmp_path), classes=["dog", "cat"])
    assert (found.classes, [*found.category_ids]) == (("dog", "cat"), [5, 2])
    assert found.things[0].labels.tolist() == [0, 1]


@pytest.mark.parametrize("place", ["train", "", "images", "images/train", "pictures"])
def test_pictures_are_found_beside_the_file(tmp_path: Path, place: str) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "train").rename(tmp_path / "moved" / "there")
    target = tmp_path / place
    for path in (tmp_path / "moved" / "there").iterdir():
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    assert read_coco(file, pictures=target if place == "pictures" else None).root == target


def test_pictures_are_found_as_coco_has_them_above_annotations(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "annotations").mkdir()
    assert read_coco(file.rename(tmp_path / "annotations" / file.name)).root == tmp_path / "train"


def set_to(table: str, number: int, **values: Any) -> Change:
    return lambda record: record[table][number].update(values)


def without(table: str, number: int, key: str) -> Change:
    return lambda record: record[table][number].pop(key)


FAULTS: dict[str, tuple[Change, str]] = {
    "no images": (lambda record: record.pop("images"), "it has no list 'images'; write one"),
    "images of another kind": (lambda record: record.update(images={}), "it has no list 'images'; write one"),
    "an image that is none": (
        lambda record: record["images"].append(3),
        r"images\[3\] \(id None\): id is missing; expected a whole",
    ),
    "an id of text": (set_to("images", 1, id="x"), r"images\[1\] \(id 'x'\): id is 'x'; expected a whole number"),
    "an id of truth": (set_to("images", 1, id=True), r"images\[1\] \(id True\): id is True; expected a whole number"),
    "a huge id": (set_to("annotations", 0, id=2**70), r"annotations\[0\] .*: id is 1180591\d+; expected a whole number"),
    "no width": (without("images", 0, "width"), r"images\[0\] \(id 7\): width is missing; expected .* pixels, 1 or more"),
    "width 0": (
        set_to("images", 0, width=0),
        r"images\[0\] \(id 7\): width is 0; expected a whole number of pixels, 1 or more",
    ),
    "height below 0": (set_to("images", 0, height=-30), r"height is -30; expected a whole number of pixels"),
    "width of a fraction": (set_to("images", 0, width=40.5), r"width is 40\.5; expected a whole number"),
    "no file name": (
        set_to("images", 2, file_name=""),
        r"images\[2\] \(id 3\): file_name is ''; expected a path below the folder",
    ),
    "an absolute file name": (
        set_to("images", 2, file_name="/etc/c.png"),
        r"file_name is '/etc/c\.png'; expected a path below",
    ),
    "a file name that leaves": (set_to("images", 2, file_name="x/../../c.png"), r"file_name is .*; expected a path below"),
    "half a character": (set_to("categories", 0, name="\ud800"), r"categories\[0\] \(id 5\): name is '\\ud800'; expected text"),
    "two images of one id": (set_to("images", 1, id=7), "two images have the id 7; give each its own"),
    "two categories of one id": (set_to("categories", 1, id=5), "two categories have the id 5; give each its own"),
    "two annotations of one id": (set_to("annotations", 1, id=0), "two annotations have the id 0; give each its own"),
    "two categories of one name": (
        set_to("categories", 1, name="dog"),
        "categories 5 and 2 are both called 'dog'; give each its own",
    ),
    "a picture twice": (
        set_to("images", 1, file_name="./a.png"),
        r"images 7 and 0 are one file, \./a\.png; make one entry of them, and give",
    ),
    "an unlisted picture": (set_to("annotations", 1, image_id=8), "annotation 4 is of image 8, which is not among the images"),
    "an unknown category": (set_to("annotations", 1, category_id=1), "annotation 4 is of category 1, which is not among"),
    "no box": (without("annotations", 1, "bbox"), r"annotations\[1\] \(id 4\): bbox is missing; expected four finite numbers"),
    "three numbers": (
        set_to("annotations", 1, bbox=[1, 2, 3]),
        r"annotations\[1\] \(id 4\): bbox is \[1, 2, 3\]; expected four",
    ),
    "a box of NaN": (
        set_to("annotations", 1, bbox=[1, math.nan, 3, 4]),
        r"\(id 4\): bbox is \[1, nan, 3, 4\]; expected four finite",
    ),
    "an infinite box": (
        set_to("annotations", 1, bbox=[1, 2, math.inf, 4]),
        r"\(id 4\): bbox is \[1, 2, inf, 4\]; expected four",
    ),
    "a box beyond doubles": (set_to("annotations", 1, bbox=[1, 2, 10**400, 4]), r"\(id 4\): bbox is .*; expected four finite"),
    "corners": (
        set_to("annotations", 1, bbox=[20, 10, -5, 3]),
        r"annotation 4 has a box of -5 x 3 pixels; write \[x, y, width",
    ),
    "a box outside": (
        set_to("annotations", 1, bbox=[50, 2, 5, 5]),
        r"annotation 4 has a box outside its picture of 50 x 20 pixels, \[50, 2, 5, 5\]; correct or remove it",
    ),
    "a box that ends where the picture begins": (
        set_to("annotations", 1, bbox=[3, -5, 5, 5]),
        "annotation 4 has a box outside",
    ),
    "an area of nothing": (
        set_to("annotations", 1, area=None),
        r"\(id 4\): area is None; expected a number of pixels, 0 or more",
    ),
    "an area below 0": (set_to("annotations", 1, area=-1), r"\(id 4\): area is -1; expected a number of pixels, 0 or more"),
    "an area that the scorer leaves out": (
        set_to("annotations", 1, area=2e10),
        "annotation 4 has an area of 2e[+]10 pixels, and COCO's scorer counts none above 1e[+]10; correct it",
    ),
    "a box of such an area": (set_to("annotations", 1, bbox=[-1e6, -1e6, 2e6, 2e6]), "has an area of 4e[+]12 pixels"),
    "a crowd in words": (set_to("annotations", 1, iscrowd="0"), r"\(id 4\): iscrowd is '0'; expected 0 or 1"),
    "no annotations": (
        lambda record: record["annotations"].clear(),
        r"it has no boxes at all \(annotations is empty\); add some",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_each_fault_is_one_sentence_with_its_place(tmp_path: Path, what: str) -> None:
    change, said = FAULTS[what]
    record = coco_record()
    change(record)
    file = write_coco(tmp_path, record)
    with pytest.raises(DataError, match=rf"^{file}: .*{said}") as caught:
        read_coco(file)
    assert "\n" not in str(caught.value)


def test_all_faults_are_found_and_the_rest_is_kept(tmp_path: Path) -> None:
    record = coco_record()
    record["images"][1]["width"] = 0
    record["annotations"][1]["bbox"] = [60, 0, 1, 1]
    record["annotations"].append({"id": 9, "image_id": 7, "category_id": 2, "bbox": [1, 1, 2, 2]})
    file = write_coco(tmp_path, record)
    found, faults, _ = examine_coco(file)
    assert [fault.split(" ")[0] for fault in faults] == ["images[1]", "two", "annotation"]
    assert ([*found.names], sum(map(len, found.things))) == (["a.png", "c.png"], 3)
    with pytest.raises(DataError, match=rf"There are 2 more faults; dat data check {file} lists them\.$"):
        read_coco(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", r"is no JSON \(Expecting property name"),
        (b"\xff\xfe\x00", r"is no JSON \('utf-8' codec"),
        (b"[" * 100_000, r"is no JSON \("),
        (b"[]", "holds a list, not an object with images, annotations and categories"),
    ],
    ids=["broken", "no text", "too deep", "a list"],
)
def test_what_is_no_such_file_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_coco(file)
    with pytest.raises(DataError, match=r"y\.json cannot be read \(No such file or directory\); write the path"):
        read_coco(tmp_path / "y.json")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read_coco(file)) == 3


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "train" / "a.png").unlink()
    with pytest.raises(
        DataError, match=rf"1 of 3 pictures of {file} are not in {tmp_path}/train, first a\.png; put them there"
    ):
        read_coco(file)
    with pytest.raises(DataError, match=rf"a\.png of {file} is not in {tmp_path}/none; name the folder of the pictures"):
        read_coco(file, pictures=tmp_path / "none")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat"], "has dog, which training has not; its categories must be those of the training: cat"),
        (["cat", "dog", "eel"], r"lacks eel; its categories .*: cat, dog, eel\."),
        (["cat", "eel"], "has dog, which training has not and lacks eel"),
        (["dog", *"stuvw"], r"has cat, .* and lacks s, t, u, \.\.\.; .*: dog, s, t, \.\.\.\."),
    ],
)
def test_other_categories_than_those_of_the_training_are_refused(tmp_path: Path, classes: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_coco(write_coco(tmp_path), classes=classes)


def test_a_picture_of_another_size_is_refused_when_it_is_read(tmp_path: Path) -> None:
    found = read_coco(write_coco(tmp_path))
    Image.new("RGB", (80, 60)).save(tmp_path / "train" / "a.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "train" / "b.png")
    (tmp_path / "train" / "c.png").write_bytes(b"no picture")
    said = rf"a\.png has 80 x 60 pixels, but {found.file} says 40 x 30, so .*; scale the boxes, or put back the picture"
    with pytest.raises(DataError, match=said):
        found.read(0)
    first, second, third = found.faults()
    assert first.startswith("a.png has 80 x 60 pixels")
    assert "b.png has 40 x 30 pixels" in second
    assert "write the picture upright" in second
    assert "not an image" in third


def test_boxes_beyond_the_edges_are_legal_and_counted(tmp_path: Path) -> None:
    record = coco_record()
    record["annotations"][0]["bbox"] = [-2.5, 5, 50, 12]
    record["annotations"][1]["bbox"] = [1.5, 2, 48.5 + 1e-9, 10]
    found = read_coco(write_coco(tmp_path, record))
    assert found.things[0].corners[0].tolist() == [-2.5, 5, 47.5, 17]
    assert boxed.counted(found) == boxed.Counts(boxes=4, crowds=1, flat=1, cut=1)
    assert boxed.left_out(found) == (
        f"Of 4 boxes in {found.file}, 1 crowds and 1 boxes without area are left out of the training, "
        "and 1 are cut at the edges of their pictures."
    )


def test_what_no_detector_can_find_is_said(tmp_path: Path) -> None:
    found = read_coco(write_coco(tmp_path))
    assert boxed.unfindable(found).startswith(
        f"Of 4 boxes in {found.file}, 1 without area count as things that no detector can"
    )
    assert boxed.unfindable(found.at([0, 1])) == ""


def test_an_id_that_pycocotools_cannot_match_is_noted(tmp_path: Path) -> None:
    (note,) = examine_coco(write_coco(tmp_path / "a")).notes
    assert "an annotation has the id 0, so to pycocotools its thing is never found" in note
    record = coco_record()
    record["annotations"][0]["id"] = 2
    assert examine_coco(write_coco(tmp_path / "b", record)).notes == []


def test_a_set_in_which_every_box_is_a_target_says_nothing(tmp_path: Path) -> None:
    record = coco_record()
    del record["annotations"][2:]
    assert boxed.left_out(read_coco(write_coco(tmp_path, record))) == ""


def test_the_fingerprint_changes_with_pictures_boxes_and_classes(tmp_path: Path) -> None:
    first = read_coco(write_coco(tmp_path / "a")).fingerprint()
    assert read_coco(write_coco(tmp_path / "b")).fingerprint() == first
    others = [first]
    changes = [
        set_to("annotations", 0, bbox=[4, 5, 10, 13]),
        set_to("annotations", 0, category_id=2),
        set_to("annotations", 0, iscrowd=1),
        set_to("annotations", 0, area=7),
        set_to("categories", 0, name="eel"),
    ]
    for number, change in enumerate(changes):
        record = coco_record()
        change(record)
        others.append(read_coco(write_coco(tmp_path / str(number), record)).fingerprint())
    file = write_coco(tmp_path / "pictures")
    Image.new("RGB", (40, 30)).save(tmp_path / "pictures" / "train" / "a.png")
    others.append(read_coco(file).fingerprint())
    assert len(set(others)) == len(others) == 7


# --- anything at all

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    2**31,
    2**53,
    2**63,
    10**400,
    0.5,
    -0.0,
    1e308,
    math.nan,
    math.inf,
    "",
    "x",
    "0",
    "/a.png",
    "../../a.png",
    "a.png",
    "\x00",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[]],
    [1, 2, 3, 4],
    {"id": 1},
    [{"id": 7}],
    [None] * 4,
    [1e308] * 4,
]


def mutated(record: Any, numbers: random.Random) -> Any:
    """With one value somewhere taken out, replaced or put in twice."""
    record = copy.deepcopy(record)
    part: Any = {"": record}
    key: Any = ""
    while isinstance(part[key], dict | list) and part[key] and (key == "" or numbers.random() < 0.85):
        part = part[key]
        key = numbers.choice([*part] if isinstance(part, dict) else range(len(part)))
    match numbers.choice(["replace", "replace", "replace", "delete", "double", "wrap"]):
        case "replace":
            part[key] = copy.deepcopy(numbers.choice(VALUES))
        case "delete":
            del part[key]
        case "double" if isinstance(part, list):
            part.append(copy.deepcopy(part[key]))
        case _:
            part[key] = [part[key]]
    return record


def test_whatever_is_in_the_file_it_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    numbers, seen, file = random.Random(0), {"read": 0, "refused": 0}, write_coco(tmp_path)
    for _ in range(300):
        record = coco_record()
        for _ in range(numbers.choice([1, 1, 1, 2, 5])):
            record = mutated(record, numbers) if record else record
        file.write_text(json.dumps(record))
        for read in (read_coco, lambda path: examine_coco(path).pictures):
            said = sentence_of(read, file)
            seen["refused" if said else "read"] += 1
            assert said.encode().count(b"\n") == 0
            assert len(said) < 1000
    assert seen["read"] > 100
    assert seen["refused"] > 200


def sentence_of(read: Callable[[Path], AnnotatedPictures], file: Path) -> str:
    """Why it is refused; empty where it is read and sound."""
    try:
        require_sound(read(file))
    except DataError as error:
        return str(error)
    return ""


def require_sound(found: AnnotatedPictures) -> None:
    """What everything that uses a set relies on."""
    assert len({*found.image_ids}) == len(found.names) == len(found.sizes) == len(found.things) > 0
    assert len({*found.category_ids}) == len({*found.classes}) == len(found.classes)
    for things, size in zip(found.things, found.sizes, strict=True):
        assert len(things.corners) == len(things.labels) == len(things.areas) == len(things.crowd) == len(things.ids)
        assert np.isfinite(things.corners).all()
        assert np.isfinite(things.areas).all()
        assert (things.corners[:, 2:] >= things.corners[:, :2]).all()
        assert ((things.labels >= 0) & (things.labels < len(found.classes))).all()
        cut = boxed.cut(things.corners, size)[boxed.wanted(things)]
        assert (cut[:, 2:] > cut[:, :2]).all()
    json.dumps([*found.image_ids, *found.category_ids], allow_nan=False)
    found.fingerprint()
    found.faults()
    boxed.left_out(found)
