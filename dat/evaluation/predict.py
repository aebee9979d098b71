"""What a model says of every picture of a cell, each shown exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.data.pipeline import Examples, ImageDataset, evaluation_batches
from dat.data.readable import Readable, why_unreadable
from dat.errors import DataError
from dat.evaluation.attacked import AttacksLogits
from dat.evaluation.cells import UNREADABLE, Cell, Predictions
from dat.types import Images, Logits, PerImage, Place

NAMED = 5
"""So many unreadable pictures are named in a message."""


class Shelf:
    """Batches of the set that was read last, kept as bytes while they fit: 75 corruptions read their pictures once."""

    def __init__(self, *, batch_size: int, place: Place, workers: int = 0, limit_bytes: int = 2**31) -> None:
        self.batch_size, self.place, self.workers, self.limit_bytes = batch_size, place, workers, limit_bytes
        self._owner: ImageDataset | None = None
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def batches(self, dataset: ImageDataset) -> Iterator[Examples]:
        """Those of this process; pictures that cannot be read are missing."""
        if dataset is self._owner:
            yield from ((pixels.float().div_(255), targets, ids) for pixels, targets, ids in self._batches)
            return
        self._owner, self._batches = None, []
        kept, size = True, 0
        for images, targets, ids in self._read(dataset):
            size += images.numel()
            kept = kept and size <= self.limit_bytes
            if kept:
                self._batches.append(((images * 255).round().byte(), targets, ids))
            yield images, targets, ids
        self._owner, self._batches = (dataset, self._batches) if kept else (None, [])

    def _read(self, dataset: ImageDataset) -> Iterator[Examples]:
        here = {"processes": self.place.processes, "process": self.place.process}
        return evaluation_batches(Readable(dataset), self.batch_size, workers=self.workers, **here)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model in evaluation mode with the precision it is run in; gives logits in float32."""

    model: nn.Module
    device: torch.device
    autocast: torch.dtype | None = None

    def __call__(self, images: Images) -> Logits:
        """One row of logits per image."""
        context = torch.autocast(self.device.type, self.autocast) if self.autocast is not None else nullcontext()
        with context:
            return self.model(images).float()


def predict(classifier: Classifier, cell: Cell, shelf: Shelf, *, advance: Callable[[int], None]) -> Predictions:
    """What the model says of a cell; the same on every process. `advance` is told how many pictures were shown.

    Raises:
        DataError: pictures were left out that can be read, or shown twice: the set changed meanwhile.
    """
    count = len(cell.dataset)
    outputs = {view.metric: np.zeros(count, np.int64) for view in cell.views}
    seen = np.zeros(count, np.int64)
    for images, targets, ids in shelf.batches(cell.dataset):
        seen[ids.numpy()] += 1
        if len(ids):
            logits = _shown(classifier, cell, images, targets, ids)
            for view in cell.views:
                outputs[view.metric][ids.numpy()] = view.outputs(logits)
        advance(len(ids))
    add_up([seen, *outputs.values()], shelf.place)
    _check_seen(cell, seen)
    for values in outputs.values():
        values[seen == 0] = UNREADABLE
    return Predictions(cell.dataset.source.targets, outputs)


def _shown(classifier: Classifier, cell: Cell, images: Images, targets: Tensor, ids: Tensor) -> Logits:
    """Logits of a batch after the change of its cell. An attack aims at what the first view counts as right."""
    right = torch.from_numpy(cell.views[0].labels)[targets].clamp(min=0).to(classifier.device)  # what counts for nothing: any

    def losses(candidates: Images) -> PerImage:
        return F.cross_entropy(classifier(candidates), right, reduction="none")

    images = images.to(classifier.device)
    if isinstance(cell.change, AttacksLogits):
        shown = cell.change.images_against(classifier, images, right, ids)
    else:
        shown = cell.change.images(images, ids, losses)
    with torch.inference_mode():
        return classifier(shown)


def add_up(arrays: Sequence[np.ndarray], place: Place) -> None:
    """Sum over processes, in place; each picture was shown by one of them."""
    if place.processes == 1:
        return
    for array in arrays:
        total = torch.from_numpy(array).to(place.device)
        torch.distributed.all_reduce(total)
        array[:] = total.cpu().numpy()


def _check_seen(cell: Cell, seen: np.ndarray) -> None:
    left_out = [position for position in np.flatnonzero(seen == 0) if why_unreadable(cell.dataset, int(position)) is None]
    if left_out or (seen > 1).any():
        faults = len(left_out) + int((seen > 1).sum())
        raise DataError(f"{faults} pictures of {cell.name} were not shown exactly once; the set changed meanwhile.")


def refuse_unreadable(cell: Cell, predictions: Predictions, *, allowed: int) -> None:
    """Raises: DataError: more pictures than allowed could not be read; the first ones are named, each with its fault."""
    if predictions.bad <= allowed:
        return
    positions = np.flatnonzero(next(iter(predictions.outputs.values())) == UNREADABLE)
    named = [why_unreadable(cell.dataset, int(position)) or cell.dataset.source.name(int(position)) for position in positions]
    lines = "".join(f"\n  {line}" for line in named[:NAMED]) + ("\n  ..." if len(named) > NAMED else "")
    raise DataError(
        f"{predictions.bad} of {len(predictions.targets)} pictures of {cell.name} cannot be read, {allowed} are allowed; what "
        f"was evaluated is kept: mend them in a copy of the set, or add --allow-bad {predictions.bad}:{lines}"
    )
