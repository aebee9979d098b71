"""COCO's annotation files, read strictly: every fault in one sentence with the file and the id that it is about."""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from dat.data.annotated import AnnotatedPictures, Examined, Things, in_order_of, is_outside, refuse
from dat.errors import DataError
from dat.results import from_json

Record = Mapping[str, Any]
Tables = Mapping[str, list[Record]]

EXACT = 2**53
"""Whole numbers up to here are exact in floating point."""
LARGEST_AREA = 1e10
"""COCO's scorer leaves out, without a word, things of more pixels."""
TRIED = 20
"""So many pictures are looked for in each place."""


class Kind(NamedTuple):
    """What a value must be: in words, and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    """JSON's true is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < EXACT


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_text(value: object) -> bool:
    """JSON can hold halves of characters, which no file system and no terminal takes."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_inner_path(value: Any) -> bool:
    return _is_text(value) and not PurePosixPath(value).is_absolute() and ".." not in PurePosixPath(value).parts


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


ID = Kind("a whole number", _is_id)
TEXT = Kind("text", _is_text)
PATH = Kind("a path below the folder of the pictures", _is_inner_path)
SIDE = Kind("a whole number of pixels, 1 or more", lambda value: _is_id(value) and _is_number(value) and value >= 1)
BOX = Kind("four finite numbers [x, y, width, height] in pixels", _is_box)
AREA = Kind("a number of pixels, 0 or more, or no area at all", lambda value: _is_number(value) and value >= 0)
FLAG = Kind("0 or 1", lambda value: isinstance(value, int | float) and value in (0, 1))

TABLES: dict[str, dict[str, Kind]] = {
    "images": {"id": ID, "file_name": PATH, "width": SIDE, "height": SIDE},
    "categories": {"id": ID, "name": TEXT},
    "annotations": {"id": ID, "image_id": ID, "category_id": ID, "bbox": BOX, "area": AREA, "iscrowd": FLAG},
}
"""What each list of the file holds."""
MAY_MISS = ("area", "iscrowd")


def read_coco(
    file: str | Path, *, pictures: str | Path | None = None, classes: Sequence[str] | None = None
) -> AnnotatedPictures:
    """Pictures and boxes of a file `instances_*.json`.

    `pictures`: the folder that `file_name` begins in; without, the usual places beside the file are looked at.
    `classes`: those of the training, whose order labels have; without, the order of the category ids.
    Without `area`, that of the box is taken; without `iscrowd`, 0.

    Raises:
        DataError: the first fault that `examine_coco` finds; pictures that are not there; as `examine_coco`.
    """
    path = Path(file)
    tables, faults = _sifted(path)
    refuse(path, faults)
    found = _built(path, tables, pictures, classes)
    if gone := [name for name in found.names if not os.path.isfile(found.root / name)]:
        several = f"{len(gone)} of {len(found)} pictures of {path} are not in {found.root}"
        raise DataError(f"{several}, first {gone[0]}; put them there.")
    return found


def examine_coco(file: str | Path, *, pictures: str | Path | None = None, classes: Sequence[str] | None = None) -> Examined:
    """As `read_coco`, of what is right in the file, and a sentence for each entry that is not. Pictures are not opened.

    Raises:
        DataError: it is no such file; no picture is found; its categories are not `classes`.
    """
    path = Path(file)
    tables, faults = _sifted(path)
    return Examined(_built(path, tables, pictures, classes), faults, _notes(path, tables))


def _built(path: Path, tables: Tables, pictures: str | Path | None, classes: Sequence[str] | None) -> AnnotatedPictures:
    categories = {entry["id"]: entry["name"] for entry in tables["categories"]}
    labels = in_order_of(categories, classes, path)
    images = tables["images"]
    names = [entry["file_name"] for entry in images]
    of_image: dict[int, list[Record]] = {entry["id"]: [] for entry in images}
    for entry in tables["annotations"]:
        of_image[entry["image_id"]].append(entry)
    ordered = sorted(labels, key=labels.__getitem__)
    return AnnotatedPictures(
        file=path,
        root=_root(path, names, pictures),
        names=names,
        sizes=[(entry["width"], entry["height"]) for entry in images],
        things=[_things(entries, labels) for entries in of_image.values()],
        classes=tuple(categories[key] for key in ordered),
        image_ids=[entry["id"] for entry in images],
        category_ids=ordered,
    )


def _parsed(path: Path) -> Record:
    try:
        record = from_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); write the path of an annotation file.") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}); export it again.") from error
    if not isinstance(record, dict):
        raise DataError(f"{path} holds a {type(record).__name__}, not an object with images, annotations and categories.")
    for table in TABLES:
        if not isinstance(record.get(table), list):
            expected = "write one, as COCO's format has it (images, annotations, categories)"
            raise DataError(f"{path}: it has no list {table!r}; {expected}.")
    return record


def _sifted(path: Path) -> tuple[Tables, list[str]]:
    """The entries of each list that are right, and a sentence for each of the others, in the order in which they are met.

    Raises:
        DataError: no JSON, no object, or one without the three lists.
    """
    record = _parsed(path)
    faults = [fault for table, columns in TABLES.items() for fault in _odd_values(table, columns, record[table])]
    kept = {table: [row for row in record[table] if not _odd(row, columns)] for table, columns in TABLES.items()}
    for table, key in (
        ("images", "id"),
        ("categories", "id"),
        ("annotations", "id"),
        ("images", "file_name"),
        ("categories", "name"),
    ):
        faults += _twice(table, key, kept[table])
        kept[table] = list({_same(row[key]): row for row in reversed(kept[table])}.values())[::-1]
    images, categories = ({entry["id"]: entry for entry in kept[table]} for table in ("images", "categories"))
    said = [(entry, _annotation_fault(entry, images, categories)) for entry in kept["annotations"]]
    faults += [fault for _, fault in said if fault]
    if not record["annotations"]:
        faults.append("it has no boxes at all (annotations is empty); add some, for nothing can be learned from it.")
    return kept | {"annotations": [entry for entry, fault in said if not fault]}, faults


def _odd(row: object, columns: Mapping[str, Kind]) -> list[str]:
    """Names of the values that are missing or wrong."""
    given = row if isinstance(row, dict) else {}
    present = [key for key in columns if key in given or key not in MAY_MISS]
    return [key for key in present if key not in given or not columns[key].holds(given[key])]


def _odd_values(table: str, columns: Mapping[str, Kind], rows: Sequence[Any]) -> Iterator[str]:
    for number, row in enumerate(rows):
        for key in _odd(row, columns)[:1]:
            given = row if isinstance(row, dict) else {}
            what = _short(given[key]) if key in given else "missing"
            yield f"{table}[{number}] (id {_short(given.get('id'))}): {key} is {what}; expected {columns[key].expected}."


def _short(value: object) -> str:
    """However large or deep it is."""
    words = reprlib.Repr()
    words.maxstring = 100
    return words.repr(value)


def _same(value: int | str) -> int | str:
    """Two spellings of a path are one."""
    return str(PurePosixPath(value)) if isinstance(value, str) else value


def _twice(table: str, key: str, rows: Sequence[Record]) -> Iterator[str]:
    """Entries of equal ids, files or names, each with the first of its kind."""
    seen: dict[int | str, Record] = {}
    for row in rows:
        if (first := seen.setdefault(_same(row[key]), row)) is row:
            continue
        both = f"{table} {first['id']} and {row['id']}"
        yield {
            "id": f"two {table} have the id {row['id']}; give each its own.",
            "file_name": f"{both} are one file, {row[key]}; make one entry of them, and give it the annotations of both.",
            "name": f"{both} are both called {row[key]!r}; give each its own name.",
        }[key]


def _annotation_fault(entry: Record, images: Mapping[int, Record], categories: Mapping[int, Record]) -> str:
    said, (left, top, width, height) = f"annotation {entry['id']}", entry["bbox"]
    if entry["image_id"] not in images:
        return f"{said} is of image {entry['image_id']}, which is not among the images; add it, or remove the annotation."
    if entry["category_id"] not in categories:
        return f"{said} is of category {entry['category_id']}, which is not among the categories; add it, or correct the id."
    if width < 0 or height < 0:
        return f"{said} has a box of {width:g} x {height:g} pixels; write [x, y, width, height], not two corners."
    size = (images[entry["image_id"]]["width"], images[entry["image_id"]]["height"])
    if is_outside((left, top, left + width, top + height), size):
        return f"{said} has a box outside its picture of {size[0]} x {size[1]} pixels, {entry['bbox']}; correct or remove it."
    if (area := entry.get("area", width * height)) > LARGEST_AREA:
        return f"{said} has an area of {area:g} pixels, and COCO's scorer counts none above {LARGEST_AREA:g}; correct it."
    return ""


def _notes(path: Path, tables: Tables) -> list[str]:
    if not any(entry["id"] == 0 for entry in tables["annotations"]):
        return []
    said = "an annotation has the id 0, so to pycocotools its thing is never found"
    return [f"{path}: {said}: number them from 1 on if it is to read the file; here it counts as any other."]


def _things(entries: Sequence[Record], labels: Mapping[int, int]) -> Things:
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    areas = [entry.get("area", math.prod(entry["bbox"][2:])) for entry in entries]
    return Things(
        corners=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        labels=np.array([labels[entry["category_id"]] for entry in entries], dtype=np.int64),
        areas=np.array(areas, dtype=np.float64),
        crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], dtype=bool),
        ids=tuple(entry["id"] for entry in entries),
    )


def _root(file: Path, names: Sequence[str], pictures: str | Path | None) -> Path:
    """Of the places, that in which most of the first pictures are."""
    if not names:
        raise DataError(f"{file} lists no pictures that could be used; export it again.")
    places = [Path(pictures)] if pictures is not None else _usual_places(file)
    there = [sum(os.path.isfile(place / name) for name in names[:TRIED]) for place in places]
    if not any(there):
        looked = ", ".join(map(str, places))
        how = "pictures: FOLDER; dat data check: --root FOLDER"
        raise DataError(f"{names[0]} of {file} is not in {looked}; name the folder of the pictures ({how}).")
    return places[there.index(max(there))]


def _usual_places(file: Path) -> list[Path]:
    """Beside the file, in a folder called as it is (`instances_train.json`: `train`), and in those of COCO and Roboflow."""
    split = file.stem.removeprefix("instances_")
    above = [file.parent, file.parent.parent] if file.parent.name == "annotations" else [file.parent]
    return [place / name for place in above for name in (split, "", "images", f"images/{split}")]
