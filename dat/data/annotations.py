"""One door to pictures with boxes: COCO's file, or YOLO's folder or `data.yaml`; anything else is told what it is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dat.data.annotated import AnnotatedPictures, Examined
from dat.data.coco import examine_coco, read_coco
from dat.data.folders import EXTENSIONS
from dat.data.yolo import examine_yolo, is_yolo, open_yolo, read_yolo
from dat.errors import DataError, UsageError

EXPECTED = "a COCO file (.json), or a YOLO set (a data.yaml, or its folder)"
YAML = (".yaml", ".yml")


def open_annotated(
    source: str | Path,
    *,
    pictures: str | Path | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
) -> AnnotatedPictures:
    """Pictures with boxes, of a COCO file (`pictures`: where they are) or of a `split` of a YOLO set.

    `classes`: those of the training, whose order labels have.

    Raises:
        UsageError: `split` of a COCO file, or `pictures` of a YOLO set, or no `split` of one.
        DataError: it is neither; as `read_coco` and `read_yolo`.
    """
    path = Path(source)
    if not is_annotated(path):
        raise DataError(_neither(path))
    if _is_coco(path):
        if split is not None:
            raise UsageError(f"{path} is one COCO file, without a split {split!r}; name the file of that split.")
        return read_coco(path, pictures=pictures, classes=classes)
    if pictures is not None:
        raise UsageError(f"{path} says itself where its pictures are; leave out pictures, {pictures}.")
    if split is None:
        raise UsageError(f"{path} has several splits; say which: {', '.join(open_yolo(path).splits)}.")
    return read_yolo(path, split=split, classes=classes)


def examinations(source: str | Path, *, pictures: str | Path | None = None) -> dict[str, Callable[[], Examined]]:
    """What examines each split of a set that `is_annotated`, by its name.

    Raises:
        DataError: a YOLO set that says nothing of classes and splits.
    """
    path = Path(source)
    if _is_coco(path):
        return {path.stem: lambda: examine_coco(path, pictures=pictures)}
    return {split: lambda split=split: examine_yolo(path, split=split) for split in open_yolo(path).splits}


def is_annotated(source: str | Path) -> bool:
    """Whether it is one of the two, by its name and the folders in it."""
    path = Path(source)
    return _is_coco(path) or path.suffix.lower() in YAML or (path.is_dir() and is_yolo(path))


def _is_coco(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _neither(path: Path) -> str:
    """Of what is no set with boxes: what it is, and what was expected."""
    if not path.exists():
        return f"There is no {path}; name {EXPECTED}."
    if path.is_file():
        return f"{path} is no set with boxes that can be read; name {EXPECTED}."
    if files := sorted([*path.glob("*.json"), *path.glob("annotations/*.json")]):
        return f"{path} is a folder; if it is COCO's, name one of its files, e.g. {files[0]}."
    if next(path.rglob("*.xml"), None) is not None:
        return f"{path} holds XML files, as Pascal VOC; convert them to COCO's format, and name the file (.json)."
    if any(file.suffix.lower() in EXTENSIONS for file in path.rglob("*")):
        return f"{path} holds pictures, but nothing says what is where in them: it is no detection set; name {EXPECTED}."
    return f"{path} holds no set with boxes; name {EXPECTED}."
