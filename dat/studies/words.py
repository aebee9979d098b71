"""What an adversary of visual words does to trained models, whatever their task: rows of results; notes where it is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dat.analysis.codes import SHOWN, Effect, effect, joined
from dat.attacks.rate import Rate
from dat.data.pipeline import Fetched, evaluation_batches
from dat.discretizers.frozen import FrozenDiscretizer
from dat.errors import DataError
from dat.evaluation.selftest import adversary_alarm
from dat.progress import Bar
from dat.recipe.contest import Contestant
from dat.results import Row, from_json, mean_interval
from dat.studies.study import Job, MakeRow
from dat.types import Place, Task

PAPERS_ALPHA = 0.1

Contestants = Mapping[str, Contestant]


@dataclass(frozen=True, eq=False)
class Shown:
    """The pictures that models are shown, what is asked of them and where, and how its rows are made."""

    dataset: Fetched
    task: Task[Any]
    batch_size: int
    place: Place
    row: MakeRow
    protocol: Mapping[str, object]


def step_of(contestants: Contestants, folder: Path, seed: int) -> float:
    """One step for all models: that of the first method that takes one of an L2 length above 0, else the paper's 0.1.

    Of a length that was sought, what the training of this seed in the folder of the run ended with.
    """
    steps = ((label, contestant.alpha) for label, contestant in contestants.items() if contestant.alpha is not None)
    label, alpha = next(steps, ("", PAPERS_ALPHA))
    return alpha_sought(folder, Job(label, seed)) if isinstance(alpha, Rate) else alpha


def alpha_sought(folder: Path, job: Job) -> float:
    """The length of the step with which a training ended, for which it was sought.

    Raises:
        DataError: its log is missing or damaged.
    """
    path = folder / f"{job.label}-seed{job.seed}" / "log.jsonl"
    try:
        return float(from_json(path.read_text().splitlines()[-1])["alpha"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise DataError(
            f"{path} is damaged ({error}), so the alpha that was found is not known; put it back, or remove {path.parent} to "
            "train anew."
        ) from error


def attacked(jobs: Iterable[Job], contestants: Contestants) -> Job:
    """Whose pictures are shown: the first model of a method with an adversary of words, or the first of all."""
    jobs = list(jobs)
    return next((job for job in jobs if contestants[job.label].alpha is not None), jobs[0])


def modified_codes(
    shown: Shown, models: Mapping[Job, nn.Module], discretizer: FrozenDiscretizer, *, alpha: float
) -> tuple[list[Row], list[str]]:
    """What an adversary of this step does to each model: codes it modifies, loss and accuracy before and after; and alarms.

    Each picture beside a random step of the same length, with a discretizer in float32, whatever precision the methods used:
    in bfloat16 most modified codes are rounding. There is an accuracy where the task asks for classes.
    """
    exact, protocol = discretizer.exact(), {**shown.protocol, "alpha": alpha, "precision": "fp32"}
    rows, alarms = list[Row](), list[str]()
    with Bar("modified codes", len(models) * len(shown.dataset)) as bar:
        for job, model in models.items():
            found = _effect(shown, model, exact, alpha, partial(bar.add, job.label))
            rows += _rows_of(shown.row, job, found, protocol)
            alarm = adversary_alarm(found.above_random, found.modified)
            alarms += [f"{job}: {alarm.sentence}"] if alarm is not None else []
    return rows, alarms


def _effect(
    shown: Shown, model: nn.Module, discretizer: FrozenDiscretizer, alpha: float, advance: Callable[[int], None]
) -> Effect:
    found: list[Effect] = []
    for number, fetched in enumerate(evaluation_batches(shown.dataset, shown.batch_size)):
        images, targets = fetched[0].to(shown.place.device), fetched[1].to(shown.place.device)
        noise = _noise(images, first=number * shown.batch_size)
        found.append(effect(model, shown.task, discretizer, images, targets, noise, alpha=alpha))
        advance(len(images))
    return joined(found)


def _noise(images: Tensor, *, first: int) -> Tensor:
    """Of each picture by its place in the set: the same for every model, and in batches of any size."""
    drawn = (torch.Generator().manual_seed(first + place) for place in range(len(images)))
    return torch.stack([torch.randn(images.shape[1:], generator=generator) for generator in drawn]).to(images)


def _rows_of(row: MakeRow, job: Job, found: Effect, protocol: dict[str, object]) -> list[Row]:
    n = found.losses.shape[1]
    rows = [row(suite, metric, value, n, job, protocol) for suite, metric, value in _means(found)]
    mean, interval = mean_interval(found.above_random.tolist())
    return [*rows, replace(row("words/adversarial", "loss_above_random", mean, n, job, protocol), ci=interval)]


def _means(found: Effect) -> Iterator[tuple[str, str, float]]:
    """Suite, metric and value."""
    yield "codes", "modified_code_rate", float(found.modified.mean())
    yield "codes/random", "modified_code_rate", float(found.modified_at_random.mean())
    for place, shown in enumerate(SHOWN):
        yield f"words/{shown}", "loss", float(found.losses[place].mean())
        if found.right is not None:
            yield f"words/{shown}", "accuracy", 100 * float(found.right[place].mean())
