"""A small set of pictures with boxes, in COCO's format: three pictures, one without a thing, one crowd, one flat box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = {"a.png": (40, 30), "b.png": (30, 40), "c.png": (50, 20)}


def write_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.fromarray(numbers.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / name)


def coco_record() -> dict[str, Any]:
    """Ids begin at 0, and are in no order."""
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in zip((7, 0, 3), SIZES.items(), strict=True)
    ]
    categories = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}]
    annotations = [
        {"id": 0, "image_id": 7, "category_id": 5, "bbox": [4, 5, 10, 12], "area": 90.5, "iscrowd": 0},
        {"id": 4, "image_id": 3, "category_id": 2, "bbox": [1.5, 2, 20, 10]},
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [0, 0, 30, 20], "area": 600, "iscrowd": 1},
        {"id": 9, "image_id": 3, "category_id": 5, "bbox": [8, 8, 0, 5], "iscrowd": 0},
    ]
    return {"info": {}, "images": images, "categories": categories, "annotations": annotations}


def write_coco(folder: Path, record: Any = None) -> Path:
    """The file, with its pictures in `train` beside it."""
    write_pictures(folder / "train")
    file = folder / "instances_train.json"
    file.write_text(json.dumps(coco_record() if record is None else record))
    return file


YOLO_LABELS = {"a": "1 0.25 0.5 0.5 0.2\n\n0 0.95 0.9 0.2 0.2\n", "c": "1 0.1 0.2 0.5 0.2 0.5 0.8 0.1 0.8\n0 0.8 0.5 0 0.5\n"}
"""`b` has no file; one box of `a` reaches over an edge, one thing of `c` is an outline."""
YOLO_YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\nnc: 2\n"


def write_yolo(folder: Path, layout: str = "images/{}") -> Path:
    """The splits `train` and `val` with the same pictures; gives the `data.yaml`."""
    for split in ("train", "val"):
        pictures = folder / layout.format(split)
        write_pictures(pictures)
        labels = Path(*("labels" if part == "images" else part for part in pictures.relative_to(folder).parts))
        (folder / labels).mkdir(parents=True)
        for name, text in YOLO_LABELS.items():
            (folder / labels / f"{name}.txt").write_text(text)
    file = folder / "data.yaml"
    file.write_text(YOLO_YAML.replace("images/train", layout.format("train")).replace("images/val", layout.format("val")))
    return file
