"""What a detector finds in every picture of a set, each shown exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dat.boxes import Boxes, Found
from dat.data.annotated import AnnotatedPictures, Things
from dat.data.boxed import BoxedDataset, Letterbox
from dat.data.pipeline import evaluation_batches
from dat.errors import DataError
from dat.evaluation.suites import Corruption, Suite
from dat.tasks.detection import Detection
from dat.types import Images, PerImage, Place


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Annotated pictures after a corruption of the pictures as they are in their files, before they are resized."""

    source: AnnotatedPictures
    corruption: Corruption

    @property
    def things(self) -> Sequence[Things]:
        """What is in each, which no corruption moves."""
        return self.source.things

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.source)

    def name(self, index: int) -> str:
        """As the picture is called."""
        return self.source.name(index)

    def read(self, index: int) -> Image.Image:
        """The corrupted picture: a function of the seed and its place in the set."""
        pixels = torch.from_numpy(np.asarray(self.source.read(index)).copy()).permute(2, 0, 1)[None].float() / 255
        changed = self.corruption.images(pixels, torch.tensor([index]), None)
        return Image.fromarray(changed[0].mul(255).round().byte().permute(1, 2, 0).numpy())


def detect(
    model: nn.Module,
    source: AnnotatedPictures,
    frame: Letterbox,
    change: Suite,
    *,
    task: Detection,
    place: Place,
    batch_size: int,
    workers: int = 0,
    advance: Callable[[int], None],
) -> list[Found]:
    """What a model, in eval mode, finds in each picture, in its own pixels and float32 on the CPU; the same on every process.

    A corruption is done to the picture as it is, an attack to what the model is shown, padding included; it climbs what
    `task` says. `advance` is told how many pictures were shown.

    Raises:
        DataError: a picture cannot be read, or the set changed meanwhile.
        DivergenceError: what an attack climbs is NaN or infinite.
    """
    shown = Corrupted(source, change) if isinstance(change, Corruption) else source
    dataset = BoxedDataset(shown, frame, seed=0)
    here: dict[int, Found] = {}
    batches = evaluation_batches(dataset, batch_size, processes=place.processes, process=place.process, workers=workers)
    for images, boxes, positions in batches:
        found = _found(model, images.to(place.device), boxes.to(place.device), positions, change, task)
        for position, one in zip(positions.tolist(), found, strict=True):
            here[position] = _in_picture(one, frame, source.sizes[position])
        advance(len(positions))
    return _of_all(here, len(source), place)


def _found(model: nn.Module, images: Images, boxes: Boxes, ids: Tensor, change: Suite, task: Detection) -> list[Found]:
    def losses(candidates: Images) -> PerImage:
        return task.climbed_losses(model, candidates, boxes)

    attacked = change.images(images, ids, losses) if change.depends_on_model else images
    with torch.inference_mode():
        return cast(list[Found], model(attacked))


def _in_picture(found: Found, frame: Letterbox, size: tuple[int, int]) -> Found:
    return Found(frame.back(found.corners, size).float(), found.scores.float().cpu(), found.labels.cpu())


def _of_all(here: dict[int, Found], count: int, place: Place) -> list[Found]:
    """In the order of the set, whoever showed them."""
    parts: list[dict[int, Found]] = [here]
    if place.processes > 1:
        gathered: list[dict[int, Found] | None] = [None] * place.processes
        torch.distributed.all_gather_object(gathered, here)
        parts = [part for part in gathered if part is not None]
    found = {position: one for part in parts for position, one in part.items()}
    if sum(map(len, parts)) != count or sorted(found) != list(range(count)):
        raise DataError(
            f"{count} pictures were to be shown once each, and {sum(map(len, parts))} were; the set changed meanwhile."
        )
    return [found[position] for position in range(count)]
