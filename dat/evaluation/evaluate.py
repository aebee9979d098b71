"""Every image of a test set shown to every model exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from dat.data.pipeline import ImageDataset, evaluation_batches
from dat.errors import DataError
from dat.evaluation.predict import add_up
from dat.evaluation.suites import Suite
from dat.progress import Bar
from dat.types import Images, LossFn, Place, Task

Correct = Bool[np.ndarray, " images"]


@dataclass(frozen=True)
class Outcome:
    """Which images of a suite a model got right, in the order of the data set."""

    correct: Correct

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * float(self.correct.mean())


def evaluate(
    models: Mapping[str, nn.Module],
    task: Task,
    dataset: ImageDataset,
    suites: Sequence[Suite],
    *,
    place: Place,
    batch_size: int = 256,
    workers: int = 0,
    title: str = "evaluate",
) -> dict[tuple[str, str], Outcome]:
    """Outcome per (model, suite). Images that do not depend on the model are made once for all models.

    Models are put into eval mode on the device of `place`.

    Raises:
        DataError: a picture cannot be read; none is left out or replaced.
    """
    for model in models.values():
        model.eval().to(place.device)
    hits = {(model, suite.name): np.zeros(len(dataset), np.int64) for model in models for suite in suites}
    seen = np.zeros(len(dataset), np.int64)
    batches = evaluation_batches(dataset, batch_size, processes=place.processes, process=place.process, workers=workers)
    total = len(range(place.process, len(dataset), place.processes)) * len(suites)
    with Bar(title, total, shown=place.is_main) as bar:
        for fetched in batches:
            images, targets, ids = (tensor.to(place.device) for tensor in fetched)
            seen[fetched[2].numpy()] += 1
            for done, suite in enumerate(suites, start=1):
                for name, correct in _correct(models, task, suite, images, targets, ids).items():
                    hits[name, suite.name][fetched[2].numpy()] = correct.cpu().numpy()
                bar.advance((int(seen.sum()) - len(ids)) * len(suites) + done * len(ids), suite.name)
    add_up([seen, *hits.values()], place)
    if not (seen == 1).all():
        raise DataError(f"{int((seen != 1).sum())} images were not seen exactly once; the data set changed meanwhile.")
    return {key: Outcome(values.astype(bool)) for key, values in hits.items()}


def _correct(
    models: Mapping[str, nn.Module], task: Task, suite: Suite, images: Images, targets: Tensor, ids: Tensor
) -> dict[str, Tensor]:
    shared = None if suite.depends_on_model else suite.images(images, ids, None)
    results = {}
    for name, model in models.items():
        shown = shared if shared is not None else suite.images(images, ids, _loss_fn(task, model, targets))
        with torch.inference_mode():
            results[name] = model(shown).argmax(dim=1) == targets
    return results


def _loss_fn(task: Task, model: nn.Module, targets: Tensor) -> LossFn:
    return lambda images: task.losses(model, images, targets)
