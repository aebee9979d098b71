"""What a detector finds in picture files, whose things nobody knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import nn

from dat.boxes import Found
from dat.data.boxed import Letterbox
from dat.data.picture_files import as_batch, read_as
from dat.errors import UsageError
from dat.evaluation.labels import check_batch_size

SCORE = 0.5
"""Boxes with a lower score are not shown."""


@dataclass(frozen=True)
class Thing:
    """What a box is said to hold, how surely, and its corners `(left, top, right, bottom)` in pixels of the picture."""

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Detected:
    """What a detector finds in one picture, the surest first; or why the picture cannot be read."""

    path: str
    things: list[Thing]
    fault: str | None = None


@dataclass(frozen=True, eq=False)
class Finder:
    """A detector in eval mode on its device, the frame that pictures are brought into, and the names of its labels.

    Raises:
        UsageError: a score that is none.
    """

    model: nn.Module
    frame: Letterbox
    classes: tuple[str, ...]
    score: float = SCORE

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise UsageError(f"score is {self.score}; write a number from 0, which shows every box, to 1.")


def found_in(finder: Finder, paths: Sequence[Path], *, batch_size: int, device: torch.device) -> Iterator[list[Detected]]:
    """What the detector finds in each picture with at least its score, a batch at a time, in their order.

    Raises:
        UsageError: a batch_size below 1.
    """
    check_batch_size(batch_size)
    for first in range(0, len(paths), batch_size):
        read = [(path, read_as(lambda picture: picture, path)) for path in paths[first : first + batch_size]]
        whole = [finder.frame(picture) for _, picture in read if not isinstance(picture, str)]
        found = iter(found_by(finder.model, whole, device) if whole else ())
        yield [
            Detected(str(path), [], picture)
            if isinstance(picture, str)
            else Detected(str(path), _things(finder, next(found), picture.size))
            for path, picture in read
        ]


def found_by(model: nn.Module, framed: Sequence[Image.Image], device: torch.device) -> list[Found]:
    """All that it finds in pictures in their frame."""
    with torch.inference_mode():
        return cast(list[Found], model(as_batch(framed).to(device)))


def _things(finder: Finder, found: Found, size: tuple[int, int]) -> list[Thing]:
    """Those with the score, in pixels of a picture of this width and height."""
    order = [place for place in found.scores.argsort(descending=True).tolist() if float(found.scores[place]) >= finder.score]
    corners = finder.frame.back(found.corners, size).tolist()
    return [Thing(finder.classes[int(found.labels[one])], float(found.scores[one]), tuple(corners[one])) for one in order]
