"""YOLO's sets are read as Ultralytics lays them out, and what its loader would skip is a sentence with file and line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from dat.data import boxed
from dat.data.annotated import AnnotatedPictures
from dat.data.annotations import open_annotated
from dat.data.yolo import examine_yolo, read_yolo
from dat.errors import DataError, UsageError
from tests.data.made_up_boxes import SIZES, YOLO_LABELS, YOLO_YAML, write_coco, write_pictures, write_yolo
from tests.data.test_coco import require_sound, sentence_of


def require_the_made_up_set(found: AnnotatedPictures) -> None:
    assert [*found.names] == [*SIZES]
    assert [*found.sizes] == [*SIZES.values()]
    assert ([*found.image_ids], [*found.category_ids], found.classes) == ([1, 2, 3], [1, 2], ("cat", "dog"))
    first, second, third = found.things
    np.testing.assert_allclose(first.corners, [[0, 12, 20, 18], [34, 24, 42, 30]])
    assert (first.labels.tolist(), first.ids) == ([1, 0], (1, 2))
    assert len(second) == 0
    np.testing.assert_allclose(third.corners, [[5, 4, 25, 16], [40, 5, 40, 15]])
    np.testing.assert_allclose(third.areas, [240, 0])


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    return write_yolo(tmp_path)


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
@pytest.mark.parametrize("by", ["file", "folder", "classes"])
def test_the_usual_layouts_are_read(tmp_path: Path, layout: str, by: str) -> None:
    file = write_yolo(tmp_path, layout)
    if by == "classes":
        file.unlink()
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
    for split in ("train", "val"):
        require_the_made_up_set(read_yolo(file if by == "file" else tmp_path, split=split))


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("train: ../gone\nval: ../images/val\nnames: {0: cat, 1: dog}\n", "val"),  # Roboflow's dots
        ("path: images\ntrain: train\nnames: {1: dog, 0: cat}\n", "train"),
        ("train: [images/train]\nnames: [cat, dog]\ndownload: import os; os.remove('data.yaml')\n", "train"),
        ("train: list.txt\nnames: [cat, dog]\n", "train"),
        ("test: images/valid\nnames: [cat, dog]\n", "test"),
    ],
    ids=["dots", "path", "list of folders", "list of pictures", "test"],
)
def test_other_ways_to_write_the_file(yolo: Path, text: str, split: str) -> None:
    for kind in ("images", "labels"):
        shutil.copytree(yolo.parent / kind / "val", yolo.parent / kind / "valid")
    (yolo.parent / "list.txt").write_text("".join(f"./images/train/{name}\n" for name in SIZES))
    yolo.write_text(text)
    require_the_made_up_set(read_yolo(yolo, split=split))
    assert yolo.is_file()


def test_a_set_without_splits_and_labels_beside_the_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set" / "images")
    (tmp_path / "set" / "labels").mkdir()
    write_pictures(tmp_path / "darknet")
    for name, text in YOLO_LABELS.items():
        (tmp_path / "set" / "labels" / f"{name}.txt").write_text(text)
        (tmp_path / "darknet" / f"{name}.txt").write_text(text)
    for place in (tmp_path / "set", tmp_path / "set" / "labels", tmp_path / "darknet"):
        (place / "classes.txt").write_text("cat\ndog\n")
    require_the_made_up_set(read_yolo(tmp_path / "set", split="all"))
    (tmp_path / "data.yaml").write_text("train: darknet\nnames: [cat, dog]")
    require_the_made_up_set(read_yolo(tmp_path, split="train"))


def test_pictures_of_several_folders_are_one_set(yolo: Path) -> None:
    yolo.write_text(YOLO_YAML.replace("train: images/train", "train: [images/train, images/val]"))
    found = read_yolo(yolo, split="train")
    assert [*found.names] == [f"{split}/{name}" for split in ("train", "val") for name in SIZES]
    assert [number for things in found.things for number in things.ids] == [*range(1, 9)]
    assert [found.read(index).size for index in range(6)] == [*SIZES.values()] * 2


def test_labels_are_in_the_order_of_the_training(yolo: Path) -> None:
    found = read_yolo(yolo, split="train", classes=["dog", "cat"])
    assert (found.classes, [*found.category_ids], found.things[0].labels.tolist()) == (("dog", "cat"), [2, 1], [0, 1])
    with pytest.raises(DataError, match=r"data\.yaml has dog, which training has not and lacks eel"):
        read_yolo(yolo, split="train", classes=["eel", "cat"])


def test_what_is_taken_otherwise_is_counted(yolo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_yolo(yolo, split="train")
    said = capsys.readouterr().err
    assert f"Note: 1 of 3 pictures of {yolo}, train, have no file of labels: pictures without things." in said
    assert f"Note: 1 of 4 labels of {yolo}, train, are outlines (more than 5 numbers)" in said
    assert boxed.counted(found) == boxed.Counts(boxes=4, crowds=0, flat=1, cut=1)
    (yolo.parent / "labels/train/b.txt").write_text("\n")
    (yolo.parent / "labels/train/c.txt").write_text("0.0 0.5 0.5 1 1\n")
    read_yolo(yolo, split="train")
    assert capsys.readouterr().err == ""


LINES = {
    "words": ("0 0.5 x 0.1 0.1", "'0 0.5 x 0.1 0.1' is not all numbers; write class, x, y, width and height"),
    "a class too high": ("2 0.5 0.5 0.1 0.1", "class 2 is not among the 2 classes; write 0 to 1"),
    "a class below 0": ("-1 0.5 0.5 0.1 0.1", "class -1 is not among the 2 classes"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", r"class 0\.5 is not among the 2 classes"),
    "NaN for a class": ("nan 0.5 0.5 0.1 0.1", "class nan is not among"),
    "four numbers": ("0 0.5 0.5 0.1", "it has 4 numbers; write class, x, y, width and height, or class and the points"),
    "a score, too": ("0 0.5 0.5 0.1 0.1 0.9", "it has 6 numbers; write class"),
    "half a point": ("0 0.5 0.5 0.1 0.1 0.9 0.9 0.1", "it has 8 numbers; write class"),
    "pixels": ("0 320 240 64 48", "320 is no share of the picture's width or height; write numbers from 0 to 1"),
    "NaN": ("0 0.5 nan 0.1 0.1", "nan is no share of the picture's"),
    "infinity": ("0 0.5 0.5 inf 0.1", "inf is no share of the picture's"),
    "a width below 0": ("0 0.5 0.5 -0.005 0.1", r"it has a box of -0\.005 x 0\.1; write a width and a height of 0 or more"),
    "a box outside": ("0 1.005 0.5 0.001 0.1", "it has a box outside its picture; correct or remove it"),
}


@pytest.mark.parametrize("what", LINES)
def test_each_bad_line_is_a_sentence_with_file_and_number(yolo: Path, what: str) -> None:
    line, said = LINES[what]
    labels = yolo.parent / "labels/train/a.txt"
    labels.write_text(f"\n{YOLO_LABELS['a']}{line}\n")
    with pytest.raises(DataError, match=rf"^{yolo}: {labels}:5: {said}"):
        read_yolo(yolo, split="train")
    found, faults, _ = examine_yolo(yolo, split="train")
    assert (len(faults), len(found.things[0])) == (1, 2)
    require_the_made_up_set(found)


def turned(path: Path) -> None:
    picture = Image.open(path).convert("RGB")
    exif = picture.getexif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(path, exif=exif)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "labels without a picture": (
        lambda root: (root / "labels/train/d.txt").write_text("0 0.5 0.5 1 1"),
        r"labels/train/d\.txt has no picture in .*images/train; put the picture there, or remove the labels",
    ),
    "two pictures of one label": (
        lambda root: shutil.copy(root / "images/train/a.png", root / "images/train/a.jpg"),
        r"a\.jpg and .*a\.png have the same labels, a\.txt; rename one of them",
    ),
    "a damaged picture": (lambda root: (root / "images/train/a.png").write_bytes(b"x"), r"a\.png .*: not an image; fetch it"),
    "a turned picture": (lambda root: turned(root / "images/train/a.png"), r"a\.png is turned .*\(EXIF orientation 6\)"),
    "labels of bytes": (lambda root: (root / "labels/train/a.txt").write_bytes(b"\xff\x00"), r"a\.txt cannot be read as text"),
    "no boxes": (
        lambda root: [path.write_text("") for path in (root / "labels/train").iterdir()],
        "its split train has no boxes at all",
    ),
    "no pictures": (
        lambda root: [shutil.rmtree(root / kind / "train") or (root / kind / "train").mkdir() for kind in ("images", "labels")],
        "its split train has no pictures; add some",
    ),
    "no folder": (
        lambda root: shutil.rmtree(root / "images/train"),
        "of its split train there is no .*images/train; correct the path",
    ),
    "no yaml": (lambda root: (root / "data.yaml").write_text("a: ["), r"data\.yaml is no YAML \(while parsing"),
    "a list": (lambda root: (root / "data.yaml").write_text("[1]"), r"data\.yaml holds a list, not keys such as train"),
    "no names": (lambda root: (root / "data.yaml").write_text("train: images/train"), "names is None; write the names of the"),
    "names with a gap": (
        lambda root: (root / "data.yaml").write_text("train: images/train\nnames: {0: cat, 2: dog}"),
        r"names has the keys \[0, 2\]; number the classes 0, 1, 2",
    ),
    "Norway": (
        lambda root: (root / "data.yaml").write_text("train: images/train\nnames: [se, no]"),
        "a class is called False; write a name, in quotation marks",
    ),
    "two of one name": (
        lambda root: (root / "data.yaml").write_text("train: images/train\nnames: [cat, cat]"),
        "two categories called 'cat'",
    ),
    "another number of classes": (
        lambda root: (root / "data.yaml").write_text(YOLO_YAML.replace("nc: 2", "nc: 3")),
        "nc is 3, but there are 2 names",
    ),
    "key points": (
        lambda root: (root / "data.yaml").write_text(YOLO_YAML + "kpt_shape: [17, 3]"),
        r"is of key points \(kpt_shape\)",
    ),
    "a number for a folder": (
        lambda root: (root / "data.yaml").write_text("train: 3\nnames: [cat, dog]"),
        "train is 3; write a folder of pictures",
    ),
    "no splits": (
        lambda root: (root / "data.yaml").write_text("names: [cat, dog]"),
        "names no pictures; write train: and val:",
    ),
    "another split": (
        lambda root: (root / "data.yaml").write_text("val: images/val\nnames: [cat, dog]"),
        "has no split 'train'; it has val",
    ),
    "neither yaml nor classes": (
        lambda root: (root / "data.yaml").unlink(),
        "does not say what its classes are called; write a data.yaml",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_each_fault_of_the_files_is_one_sentence(yolo: Path, what: str) -> None:
    change, said = FILES[what]
    change(yolo.parent)
    with pytest.raises(DataError, match=said) as caught:
        read_yolo(yolo.parent, split="train")
    assert "\n" not in str(caught.value)


PIECES = [
    *"0123456789 .-\n:[]{},&*!|>'\"#%@\t",
    "nan",
    "inf",
    "1e999",
    "~",
    "train",
    "names",
    "path: ..",
    "\x00",
    "\xff",
    "0.5 " * 8,
]


def test_whatever_is_in_the_files_it_is_read_or_refused_in_a_sentence(yolo: Path) -> None:
    numbers, seen = random.Random(0), {"read": 0, "refused": 0}
    files = {yolo: yolo.read_text(), yolo.parent / "labels/train/a.txt": YOLO_LABELS["a"]}
    for _ in range(300):
        file = numbers.choice([*files])
        text = files[file]
        for _ in range(numbers.choice([1, 1, 1, 2])):
            first = numbers.randrange(len(text) + 1)
            text = text[:first] + numbers.choice(["", *PIECES]) + text[first + numbers.choice([0, 1, 8]) :]
        file.write_text(text, encoding="latin-1")
        said = sentence_of(lambda path: read_yolo(path, split="train"), yolo)
        require_short(said)
        seen["refused" if said else "read"] += 1
        file.write_text(files[file])
    assert seen["read"] > 30
    assert seen["refused"] > 100


def require_short(said: str) -> None:
    assert "\n" not in said
    assert len(said) < 1000


# --- the one door


def test_one_door_opens_both(tmp_path: Path) -> None:
    yolo, coco = write_yolo(tmp_path / "yolo"), write_coco(tmp_path / "coco")
    for source in (yolo, yolo.parent):
        require_the_made_up_set(open_annotated(source, split="val"))
    assert open_annotated(coco).classes == ("cat", "dog")
    assert open_annotated(coco, pictures=coco.parent / "train", classes=["dog", "cat"]).classes == ("dog", "cat")
    require_sound(open_annotated(coco))
    with pytest.raises(UsageError, match=r"is one COCO file, without a split 'val'; name the file of that split"):
        open_annotated(coco, split="val")
    with pytest.raises(UsageError, match=r"has several splits; say which: train, val"):
        open_annotated(yolo)
    with pytest.raises(UsageError, match=r"says itself where its pictures are; leave out pictures"):
        open_annotated(yolo, split="val", pictures=tmp_path)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            write_pictures,
            "holds pictures, but nothing says what is where in them: it is no detection set; name a",
        ),
        (lambda root: write_pictures(root / "cat"), "holds pictures, but nothing says .*: it is no detection set"),
        (
            write_coco,
            r"is a folder; if it is COCO's, name one of its files, e\.g\. .*/instances_train\.json",
        ),
        (lambda root: (root / "a.xml").write_text(""), "holds XML files, as Pascal VOC; convert them to COCO's format"),
        (
            lambda root: None,
            r"holds no set with boxes; name a COCO file \(.json\), or a YOLO set \(a data\.yaml, or its folder\)",
        ),
        (lambda root: root.rmdir(), "There is no .*; name a COCO file"),
        (lambda root: root.rmdir() or root.write_text(""), "is no set with boxes that can be read; name a COCO file"),
    ],
    ids=["pictures", "class folders", "COCO's folder", "VOC", "empty", "nothing", "another file"],
)
def test_what_is_neither_is_told_so(tmp_path: Path, made: Callable[[Path], object], said: str) -> None:
    (tmp_path / "x").mkdir()
    made(tmp_path / "x")
    with pytest.raises(DataError, match=said):
        open_annotated(tmp_path / "x")
