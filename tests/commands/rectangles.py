"""Pictures of a white, a black and a red rectangle, and a detector that finds them by their colours, if they are normalised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from dat.boxes import Boxes, Found
from dat.nn.detectors import DetectionLosses

CLASSES = ("white", "black", "red")
COLOURS = ((255, 255, 255), (0, 0, 0), (255, 0, 0))
SIZE = (192, 128)


def write_rectangles(folder: Path, name: str, count: int, *, names: Sequence[str] = CLASSES) -> Path:
    """A COCO file, and its pictures in the folder `name` beside it; each holds one rectangle of each kind.

    Ids begin at 1, as pycocotools takes a match with 0 for none.
    """
    numbers = np.random.default_rng(len(name))
    (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        picture = Image.new("RGB", SIZE, (120, 120, 120))
        for category in numbers.permutation(len(names)).tolist():
            x, y = int(numbers.integers(4 + 60 * category, 14 + 60 * category)), int(numbers.integers(30, 80))
            ImageDraw.Draw(picture).rectangle((x, y, x + 43, y + 27), fill=COLOURS[category])
            box = {"image_id": index + 7, "category_id": 10 * category + 3, "bbox": [x, y, 44, 28], "area": 1232, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **box})
        picture.save(folder / name / f"{index}.png")
        images.append({"id": index + 7, "file_name": f"{index}.png", "width": SIZE[0], "height": SIZE[1]})
    categories = [{"id": 10 * place + 3, "name": label} for place, label in enumerate(names)]
    path = folder / f"instances_{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


class FindsColours(nn.Module):
    """Boxes around what is white, black and red in images of mean 0 and deviation 1; its loss is how grey they are."""

    def forward(self, images: Tensor, boxes: Boxes | None = None) -> list[Found] | DetectionLosses:
        if boxes is not None:
            greyness = -images.abs().flatten(1).mean(dim=1)
            return DetectionLosses(greyness, 0 * greyness)
        return [_found(image) for image in images]


def _found(image: Tensor) -> Found:
    bright, dark = image > 0.8, image < -0.8
    masks = (bright.all(dim=0), dark.all(dim=0), bright[0] & dark[1] & dark[2])
    corners, labels = [], []
    for label, mask in enumerate(masks):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        if len(rows):
            corners.append(torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]))
            labels.append(label)
    found = torch.stack(corners).float() if corners else torch.zeros(0, 4)
    return Found(found, torch.full((len(labels),), 0.9), torch.tensor(labels, dtype=torch.int64))
