"""What models say of every picture of a cell, each shown exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dat.data.pipeline import Examples, ImageDataset, evaluation_batches
from dat.data.readable import Readable, why_unreadable
from dat.errors import DataError, DivergenceError
from dat.evaluation.attacked import AttacksLogits
from dat.evaluation.cells import UNREADABLE, Cell, Labels, Predictions, is_unchanged
from dat.evaluation.suites import Suite
from dat.nn.outputs import logits_of
from dat.tasks.losses import margin
from dat.types import Images, Indices, Logits, PerImage, Place

Name = TypeVar("Name", bound=Hashable)

NAMED = 5
"""So many unreadable pictures are named in a message."""


class Shelf:
    """Batches of the set that was read last, kept as bytes while they fit: 75 corruptions read their pictures once.

    `strict`: a picture that cannot be read is an error at once; otherwise it is missing in its batch.
    """

    def __init__(
        self, *, batch_size: int, place: Place, workers: int = 0, strict: bool = False, limit_bytes: int = 2**31
    ) -> None:
        self.batch_size, self.place, self.workers = batch_size, place, workers
        self.strict, self.limit_bytes = strict, limit_bytes
        self._owner: ImageDataset | None = None
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def share(self, dataset: ImageDataset) -> range:
        """Positions of the pictures that this process shows."""
        return range(self.place.process, len(dataset), self.place.processes)

    def batches(self, dataset: ImageDataset) -> Iterator[Examples]:
        """Those of this process.

        Raises:
            DataError: a picture cannot be used, or a worker died.
        """
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
            else:
                self._batches.clear()
            yield images, targets, ids
        self._owner = dataset if kept else None

    def _read(self, dataset: ImageDataset) -> Iterator[Examples]:
        here = {"processes": self.place.processes, "process": self.place.process}
        pictures = dataset if self.strict else Readable(dataset)
        return evaluation_batches(pictures, self.batch_size, workers=self.workers, **here)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model in evaluation mode with the precision it is run in (`autocast`; None: its own); gives logits in float32.

    `sigmoid`: it was trained to say yes or no to each class.
    """

    model: nn.Module
    device: torch.device
    autocast: torch.dtype | None = None
    sigmoid: bool = False

    def __call__(self, images: Images) -> Logits:
        """One row of logits per image."""
        if self.autocast is None:
            return logits_of(self.model, images).float()
        with torch.autocast(self.device.type, self.autocast):
            return logits_of(self.model, images).float()


def predict(
    classifiers: Mapping[Name, Classifier], cell: Cell, shelf: Shelf, *, advance: Callable[[int], None]
) -> dict[Name, Predictions]:
    """What each model says of a cell; the same on every process. `advance` is told how many pictures were shown.

    Images of a change that does not depend on the model are made once for all models.

    Raises:
        DataError: pictures were left out that can be read, or shown twice: the set changed meanwhile; or as `Shelf.batches`.
        DivergenceError: outputs, or what is climbed in an attack, are NaN or infinite.
    """
    count = len(cell.dataset)
    said = {name: _nothing_said(cell) for name in classifiers}
    seen = np.zeros(count, np.int64)
    for images, targets, ids in shelf.batches(cell.dataset):
        seen[ids.numpy()] += 1
        if len(ids):
            for name, logits in _logits(classifiers, cell, images.to(shelf.place.device), targets, ids).items():
                _note(said[name], cell, logits, ids, sigmoid=classifiers[name].sigmoid)
        advance(len(ids))
    unreadable = _unreadable(cell.dataset, [position for position in shelf.share(cell.dataset) if not seen[position]])
    outputs = [values for predictions in said.values() for values in predictions.outputs.values()]
    sure = [predictions.confidence for predictions in said.values() if predictions.confidence is not None]
    add_up([seen, unreadable, *outputs, *sure], shelf.place)
    if faults := int((seen + unreadable != 1).sum()):
        raise DataError(f"{faults} pictures of {cell.name} were not shown exactly once; the set changed meanwhile.")
    for values in outputs:
        values[unreadable == 1] = UNREADABLE
    return said


def _nothing_said(cell: Cell) -> Predictions:
    count = len(cell.dataset)
    outputs = {view.metric: np.zeros(count, np.int64) for view in cell.views}
    return Predictions(cell.dataset.source.targets, outputs, np.zeros(count) if is_unchanged(cell) else None)


def _note(said: Predictions, cell: Cell, logits: Logits, ids: Indices, *, sigmoid: bool) -> None:
    """Write what a model says of a batch into its place."""
    places = ids.numpy()
    for view in cell.views:
        said.outputs[view.metric][places] = view.outputs(logits)
    if said.confidence is not None:
        said.confidence[places] = cell.views[0].confidence(logits, sigmoid=sigmoid)


def _logits(
    classifiers: Mapping[Name, Classifier], cell: Cell, images: Images, targets: Indices, ids: Indices
) -> dict[Name, Logits]:
    """Logits of a batch after the change of its cell. An attack aims at what the first view counts as right."""
    right = torch.from_numpy(cell.views[0].labels)[targets].clamp(min=0).to(images.device)  # what counts for nothing: any
    shared = None if cell.change.depends_on_model else cell.change.images(images, ids, None)
    logits = {}
    for name, classifier in classifiers.items():
        shown = _against(classifier, cell.change, images, right, ids) if shared is None else shared
        with torch.inference_mode():
            logits[name] = classifier(shown)
        _refuse_no_numbers(logits[name], cell, ids)
    return logits


def _refuse_no_numbers(logits: Logits, cell: Cell, ids: Indices) -> None:
    """NaN would count as class 0. An output of minus infinity is one that is never said."""
    if (odd := ~logits.amax(dim=1).isfinite()).any():
        first = cell.dataset.source.name(int(ids[odd.cpu()][0]))
        raise DivergenceError(
            f"The model gives NaN or infinite outputs for {int(odd.sum())} of {len(odd)} pictures of {cell.name} in one batch, "
            f"{first} the first; check it for divisions by 0, roots and logarithms, or write precision=fp32."
        )


def _against(classifier: Classifier, change: Suite, images: Images, right: Indices, ids: Indices) -> Images:
    """What this model is shown; what is climbed rises with the cross-entropy, however the model was trained."""
    if isinstance(change, AttacksLogits):
        return change.images_against(classifier, images, right, ids)

    def losses(candidates: Images) -> PerImage:
        return margin(classifier(candidates), right)

    return change.images(images, ids, losses)


def add_up(arrays: Sequence[np.ndarray], place: Place) -> None:
    """Sum over processes, in place; each picture was shown by one of them."""
    if place.processes == 1:
        return
    for array in arrays:
        total = torch.from_numpy(array).to(place.device)
        torch.distributed.all_reduce(total)
        array[:] = total.cpu().numpy()


def _unreadable(dataset: ImageDataset, left_out: Sequence[int]) -> Labels:
    """For each picture of the set 1 if it was left out and cannot be read, 0 otherwise."""
    marks = np.zeros(len(dataset), np.int64)
    marks[[position for position in left_out if why_unreadable(dataset, position) is not None]] = 1
    return marks


def refuse_unreadable(cell: Cell, predictions: Predictions, *, allowed: int) -> None:
    """Raises: DataError: more pictures than allowed could not be read; the first ones are named, each with its fault."""
    if predictions.bad <= allowed:
        return
    positions = np.flatnonzero(next(iter(predictions.outputs.values())) == UNREADABLE)[:NAMED].tolist()
    named = [why_unreadable(cell.dataset, position) or cell.dataset.source.name(position) for position in positions]
    lines = "".join(f"\n  {line}" for line in named) + ("\n  ..." if predictions.bad > NAMED else "")
    raise DataError(
        f"{predictions.bad} of {len(predictions.targets)} pictures of {cell.name} cannot be read, {allowed} are allowed; what "
        f"was evaluated is kept: mend them in a copy of the set, or add --allow-bad {predictions.bad}:{lines}"
    )
