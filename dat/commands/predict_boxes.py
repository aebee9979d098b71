"""What a trained detector finds in any pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from dat.boxes import Found
from dat.commands.predict import images_of, pictures_in, read_as
from dat.commands.trained import TrainedDetector, load_run
from dat.engine.processes import on_cpu
from dat.errors import UsageError
from dat.progress import Bar

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


def detections(
    run: TrainedDetector,
    paths: Sequence[Path],
    *,
    score: float = SCORE,
    batch_size: int = 8,
    device: torch.device | None = None,
) -> Iterator[list[Detected]]:
    """What the detector finds in each picture with at least this score, a batch at a time, in their order.

    Raises:
        UsageError: a batch_size below 1, or a score that is none.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; write 1 or more.")
    if not 0 <= score <= 1:
        raise UsageError(f"score is {score}; write a number from 0, which shows every box, to 1.")
    model, device = run.model.to(device or "cpu"), device or torch.device("cpu")
    for first in range(0, len(paths), batch_size):
        read = [read_as(_beside_size(run), path) for path in paths[first : first + batch_size]]
        whole = [seen for _, seen in read if not isinstance(seen, str)]
        found = iter(_found(model, [pixels for pixels, _ in whole], device) if whole else ())
        yield [
            Detected(str(path), [], seen) if isinstance(seen, str) else _detected(run, path, next(found), seen[1], score)
            for path, seen in read
        ]


def _beside_size(run: TrainedDetector) -> Any:
    """The picture in its frame, and how large it was."""
    return lambda picture: (run.frame(picture), picture.size)


def _found(model: torch.nn.Module, shown: Sequence[Image.Image], device: torch.device) -> list[Found]:
    with torch.inference_mode():
        return cast(list[Found], model(images_of(shown).to(device)))


def _detected(run: TrainedDetector, path: Path, found: Found, size: tuple[int, int], score: float) -> Detected:
    order = [place for place in found.scores.argsort(descending=True).tolist() if float(found.scores[place]) >= score]
    corners = run.frame.back(found.corners, size).tolist()
    things = [Thing(run.classes[int(found.labels[one])], float(found.scores[one]), tuple(corners[one])) for one in order]
    return Detected(str(path), things)


def shown(model: Path, pictures: Sequence[str], *, score: float, batch_size: int, cpu: bool) -> list[Detected]:
    """What the detector of a run finds in pictures, with progress on stderr.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    run, paths = cast(TrainedDetector, load_run(model)), pictures_in(pictures)
    device = torch.device("cpu") if on_cpu(cpu) else torch.accelerator.current_accelerator()
    found: list[Detected] = []
    with Bar("predict", len(paths)) as bar:
        for batch in detections(run, paths, score=score, batch_size=batch_size, device=device):
            found += batch
            bar.add(run.label, len(batch))
    return found


def as_table(found: Sequence[Detected]) -> str:
    """A line for each box: the picture, what is in it, how surely, and its corners; one for a picture without any."""
    rows = [("picture", "label", "score", "box"), *(row for one in found for row in _rows(one))]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _rows(one: Detected) -> list[tuple[str, str, str, str]]:
    if not one.things:
        return [(one.path, "-", "-", "nothing" if one.fault is None else f"cannot be read: {one.fault}")]
    return [
        (one.path, thing.label, f"{thing.score:.2f}", " ".join(f"{value:.0f}" for value in thing.box)) for thing in one.things
    ]
