"""YOLO's sets of pictures with boxes: a `data.yaml` and a text file of labels per picture, read strictly.

Ultralytics' loader leaves out what it cannot read with a line in a log; here it is an error with its file and line.
Source: docs.ultralytics.com/datasets/detect, and `img2label_paths` and `verify_image_label` of ultralytics 8.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from dat.data.annotated import AnnotatedPictures, Examined, Things, in_order_of, is_outside, refuse
from dat.data.folders import EXTENSIONS
from dat.data.images import head_of
from dat.errors import DataError
from dat.progress import warn

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What the folders of each split are called."""
WHOLE = "all"
"""The split of a set that has none: `images` and `labels` hold the pictures themselves."""
BESIDE = 0.01
"""So far labels may be outside of [0, 1], by rounding, as Ultralytics allows."""
NO_LABELS = ("classes.txt",)
"""Text files that tools write among the labels."""

Numbers = tuple[float, float, float, float]
Tried = tuple[Path, ...]


@dataclass(frozen=True)
class YoloSet:
    """Where a set is: `file` is what messages name; of each split the folders, or lists (`.txt`), of its pictures.

    Each of these as the places to look for it, for Roboflow writes `../train/images` and means `train/images`.
    """

    file: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Tried, ...]]

    def places(self, split: str) -> list[Path]:
        """The folders and lists of a split.

        Raises:
            DataError: there is no such split, or one of them is not there.
        """
        if split not in self.splits:
            raise DataError(f"{self.file} has no split {split!r}; it has {', '.join(self.splits)}.")
        found = [next((place for place in tried if os.path.exists(place)), None) for tried in self.splits[split]]
        for tried, place in zip(self.splits[split], found, strict=True):
            if place is None:
                places = " and no ".join(map(str, tried))
                raise DataError(f"{self.file}: of its split {split} there is no {places}; correct the path, or put it there.")
        return [place for place in found if place is not None]


class Picture(NamedTuple):
    """A picture and where its labels are, if it has any."""

    file: Path
    labels: Path


class Label(NamedTuple):
    """A line: the class from 0 on, x0, y0, x1, y1 in pixels, and whether it was an outline."""

    category: int
    corners: Numbers
    outline: bool


@dataclass
class _Found:
    """What is gathered of a split."""

    pictures: list[Path] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    boxes: list[list[Label]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    outlines: int = 0
    without_file: int = 0


def read_yolo(source: str | Path, *, split: str, classes: Sequence[str] | None = None) -> AnnotatedPictures:
    """Pictures and boxes of a split (`train`, `val`, `test`, or `all` of a set without splits) of a `data.yaml` or a folder.

    A folder without `data.yaml` names its classes in `classes.txt`. `classes`: those of the training, whose order labels have.
    Outlines (more than five numbers) become the boxes around them; a picture without a file of labels has no things. Both
    are counted on stderr. Of each picture only the head of its file is read.

    Raises:
        DataError: the first fault that `examine_yolo` finds; as `examine_yolo`.
    """
    found, faults, notes = examine_yolo(source, split=split, classes=classes)
    refuse(found.file, faults)
    for note in notes:
        warn(note)
    return found


def examine_yolo(source: str | Path, *, split: str, classes: Sequence[str] | None = None) -> Examined:
    """As `read_yolo`, of what is right, and a sentence for each picture and line of labels that is not.

    Raises:
        DataError: there is no such set or split; it has no pictures; its classes are not `classes`.
    """
    opened = open_yolo(source)
    places = opened.places(split)
    order = in_order_of(dict(enumerate(opened.classes, start=1)), classes, opened.file)
    found = _Found()
    for place in places:
        pictures, faults = _pictures_of(place)
        found.faults += faults
        for picture in pictures:
            _add(found, picture, len(opened.classes))
    if found.pictures and not any(found.boxes) and not found.faults:
        found.faults.append(f"its split {split} has no boxes at all; add some, for nothing can be learned from it.")
    return Examined(_built(found, opened, split, order), found.faults, list(_notes(found, opened, split)))


def _built(found: _Found, opened: YoloSet, split: str, order: Mapping[int, int]) -> AnnotatedPictures:
    if not found.pictures:
        said = found.faults[0] if found.faults else f"its split {split} has no pictures; add some."
        raise DataError(f"{opened.file}: {said}")
    root = Path(os.path.commonpath([picture.parent for picture in found.pictures]))
    firsts = np.cumsum([1, *map(len, found.boxes)]).tolist()
    ordered = sorted(order, key=order.__getitem__)
    return AnnotatedPictures(
        file=opened.file,
        root=root,
        names=[picture.relative_to(root).as_posix() for picture in found.pictures],
        sizes=found.sizes,
        things=[_things(boxes, order, first) for boxes, first in zip(found.boxes, firsts, strict=False)],
        classes=tuple(opened.classes[key - 1] for key in ordered),
        image_ids=range(1, len(found.pictures) + 1),
        category_ids=ordered,
    )


def _notes(found: _Found, opened: YoloSet, split: str) -> Iterator[str]:
    of = f"of {opened.file}, {split},"
    if found.without_file:
        yield f"{found.without_file} of {len(found.pictures)} pictures {of} have no file of labels: pictures without things."
    if found.outlines:
        total = sum(map(len, found.boxes))
        yield f"{found.outlines} of {total} labels {of} are outlines (more than 5 numbers): the boxes around them are taken."


def _things(boxes: Sequence[Label], order: Mapping[int, int], first_id: int) -> Things:
    corners = np.array([label.corners for label in boxes], dtype=np.float64).reshape(-1, 4)
    return Things(
        corners=corners,
        labels=np.array([order[label.category + 1] for label in boxes], dtype=np.int64),
        areas=(corners[:, 2:] - corners[:, :2]).prod(axis=1),
        crowd=np.zeros(len(boxes), dtype=bool),
        ids=tuple(range(first_id, first_id + len(boxes))),
    )


# Where everything is.


def is_yolo(folder: Path) -> bool:
    """Whether a folder looks like such a set: a `data.yaml`, or pictures and labels in folders of these names."""
    return _description_in(folder) is not None or bool(_split_folders(folder))


def open_yolo(source: str | Path) -> YoloSet:
    """What a `data.yaml`, or a folder with one or with `classes.txt`, says of classes and splits.

    Raises:
        DataError: it cannot be read, or says neither.
    """
    path = Path(source)
    file = _description_in(path) if path.is_dir() else path
    if file is not None:
        return _described(file)
    splits = _split_folders(path)
    if not splits:
        raise DataError(
            f"{path} has no data.yaml, and no folders images/train and labels/train or train/images and train/labels."
        )
    try:
        lines = (path / "classes.txt").read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} does not say what its classes are called; write a data.yaml with names: [...].") from error
    return YoloSet(path, tuple(line.strip() for line in lines if line.strip()), splits)


def _description_in(folder: Path) -> Path | None:
    return next((folder / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (folder / name).is_file()), None)


def _split_folders(folder: Path) -> dict[str, tuple[Tried, ...]]:
    """Folders of pictures beside which, or above which, there is one of labels."""
    found: dict[str, tuple[Tried, ...]] = {}
    for split, names in SPLITS.items():
        pairs = [(f"images/{name}", f"labels/{name}") for name in names] + [
            (f"{name}/images", f"{name}/labels") for name in names
        ]
        there = [pictures for pictures, labels in pairs if (folder / pictures).is_dir() and (folder / labels).is_dir()]
        found |= {split: ((folder / there[0],),)} if there else {}
    if not found and (folder / "images").is_dir() and (folder / "labels").is_dir():
        found[WHOLE] = ((folder / "images",),)
    return found


def _described(file: Path) -> YoloSet:
    record = _parsed(file)
    if "kpt_shape" in record:
        raise DataError(f"{file} is of key points (kpt_shape), not of boxes; write labels of class, x, y, width and height.")
    base = file.parent / _text(file, "path", record.get("path") or "")
    splits: dict[str, tuple[Tried, ...]] = {}
    for split in SPLITS:
        said = record.get(split) or []
        places = said if isinstance(said, list) else [said]
        splits |= {split: tuple(_tried(base, _text(file, split, place)) for place in places)} if places else {}
    if not splits:
        raise DataError(f"{file} names no pictures; write train: and val: with folders of pictures.")
    return YoloSet(file, _classes(file, record), splits)


def _parsed(file: Path) -> Mapping[Any, Any]:
    try:
        record = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); write the path of a data.yaml.") from error
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{file} is no YAML ({said}); write it as Ultralytics has it.") from error
    if not isinstance(record, dict):
        raise DataError(f"{file} holds a {type(record).__name__}, not keys such as train, val and names.")
    return record


def _text(file: Path, key: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise DataError(f"{file}: {key} is {value!r}; write a folder of pictures.")
    return value


def _tried(base: Path, said: str) -> Tried:
    """As Ultralytics looks for it."""
    places = [said] + [said.removeprefix("../")] * said.startswith("../")
    return tuple(Path(os.path.abspath(base / place)) for place in places)


def _classes(file: Path, record: Mapping[Any, Any]) -> tuple[str, ...]:
    names = record.get("names")
    if isinstance(names, dict):
        if any(isinstance(key, bool) or not isinstance(key, int) for key in names) or set(names) != set(range(len(names))):
            raise DataError(f"{file}: names has the keys {[*names][:5]}; number the classes 0, 1, 2 and so on.")
        names = [names[key] for key in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names is {names!r}; write the names of the classes, [cat, dog].")
    if odd := [name for name in names if isinstance(name, bool) or not isinstance(name, str | int) or name == ""]:
        raise DataError(
            f"{file}: a class is called {odd[0]!r}; write a name, in quotation marks where YAML takes it for something else."
        )
    if "nc" in record and record["nc"] != len(names):
        raise DataError(f"{file}: nc is {record['nc']!r}, but there are {len(names)} names; correct one of them.")
    return tuple(map(str, names))


# Pictures and their labels.


def _pictures_of(place: Path) -> tuple[list[Picture], list[str]]:
    """Those of a folder or of a list, in the order of their names, and what is wrong with them."""
    listed = place.suffix == ".txt" and place.is_file()
    if not listed and not place.is_dir():
        raise DataError(f"{place} is neither a folder of pictures nor a list of them (.txt).")
    files = (
        _listed(place) if listed else sorted(path for path in place.rglob("*") if _is_visible_picture(path.relative_to(place)))
    )
    pictures = [Picture(file, _labels_folder(place, file, listed=listed) / f"{file.stem}.txt") for file in files]
    first: dict[Path, Path] = {}
    faults = []
    for file, labels in pictures:
        if (other := first.setdefault(labels, file)) is not file:
            faults.append(f"{other} and {file} have the same labels, {labels.name}; rename one of them.")
    return pictures, faults + ([] if listed else _strays(place, first))


def _listed(place: Path) -> list[Path]:
    """Lines that begin with `./` begin at the list."""
    try:
        lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{place} cannot be read as a list of pictures; write a path in each line.") from error
    return [Path(os.path.abspath(place.parent / line)) for line in lines if line]


def _is_visible_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _labels_folder(place: Path, file: Path, *, listed: bool) -> Path:
    """`labels` in place of the last `images` above a picture; beside the picture, where there is no such folder."""
    parts = (file.parent if listed else place).parts
    if "images" not in parts:
        return file.parent
    last = len(parts) - 1 - parts[::-1].index("images")
    folder = Path(*parts[:last], "labels", *parts[last + 1 :])
    if not folder.is_dir():
        return file.parent
    return folder if listed else folder / file.parent.relative_to(place)


def _strays(place: Path, known: Mapping[Path, Path]) -> list[str]:
    """Labels of pictures that are not there."""
    folder = _labels_folder(place, place / "x", listed=False)
    texts = sorted(path for path in folder.rglob("*.txt") if path.name not in NO_LABELS and path not in known)
    return [f"{path} has no picture in {place}; put the picture there, or remove the labels." for path in texts]


def _add(found: _Found, picture: Picture, classes: int) -> None:
    try:
        size, orientation = head_of(picture.file)
    except DataError as error:
        found.faults.append(str(error))
        return
    if orientation != 1:
        found.faults.append(
            f"{picture.file} is turned by who shows it (EXIF orientation {orientation}), and nobody knows which way its boxes "
            "were drawn; write it upright (mogrify -auto-orient) if they were drawn on it upright, or remove the tag."
        )
    found.without_file += not os.path.isfile(picture.labels)
    lines = enumerate(_lines(picture.labels, found.faults), start=1)
    said = {number: _label(line.split(), size, classes) for number, line in lines if line.split()}
    labels = [label for label in said.values() if isinstance(label, Label)]
    found.faults += [f"{picture.labels}:{number}: {fault}" for number, fault in said.items() if isinstance(fault, str)]
    found.outlines += sum(label.outline for label in labels)
    found.pictures.append(picture.file)
    found.sizes.append(size)
    found.boxes.append(labels)


def _lines(labels: Path, faults: list[str]) -> list[str]:
    try:
        return labels.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        faults.append(f"{labels} cannot be read as text ({error}); export it again.")
        return []


def _label(words: Sequence[str], size: tuple[int, int], classes: int) -> Label | str:
    """What a line says, or what is wrong with it."""
    try:
        category, *numbers = (float(word) for word in words)
    except ValueError:
        return f"{' '.join(words)[:80]!r} is not all numbers; write class, x, y, width and height."
    if category not in range(classes):
        return f"class {words[0]} is not among the {classes} classes; write 0 to {classes - 1}."
    outline = len(numbers) >= 6 and len(numbers) % 2 == 0
    if len(numbers) != 4 and not outline:
        return f"it has {len(words)} numbers; write class, x, y, width and height, or class and the points of an outline."
    if odd := [word for word, number in zip(words[1:], numbers, strict=True) if not -BESIDE <= number <= 1 + BESIDE]:
        return f"{odd[0]} is no share of the picture's width or height; write numbers from 0 to 1."
    corners = _around(numbers) if outline else _from_centre(*numbers)
    if corners[2] < corners[0] or corners[3] < corners[1]:
        return f"it has a box of {words[3]} x {words[4]}; write a width and a height of 0 or more."
    left, top, right, bottom = (share * side for share, side in zip(corners, size * 2, strict=True))
    if is_outside((left, top, right, bottom), size):
        return "it has a box outside its picture; correct or remove it."
    return Label(int(category), (left, top, right, bottom), outline)


def _around(points: Sequence[float]) -> Numbers:
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _from_centre(x: float, y: float, width: float, height: float) -> Numbers:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
