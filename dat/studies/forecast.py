"""How long a comparison may still take, by the speeds in the logs of its trainings; those of an earlier start count, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from dat.engine.loop import Training
from dat.results import from_json
from dat.studies.study import Job


@dataclass(frozen=True)
class Forecast:
    """Of trainings on `pictures` pictures in `folder`, then of so many `shown` images to evaluate.

    `again_as`: the method in whose time all are trained a second time, if they are.
    """

    folder: Path
    trainings: Mapping[str, Training]
    jobs: Sequence[Job]
    pictures: int
    shown: int
    again_as: str | None = None

    def seconds(self, left: Iterable[Job], *, evaluated: bool = True) -> float | None:
        """Of the trainings that are left and of the evaluation, if it is; None before the first training has a log.

        A method that has not been trained yet counts as the mean of the others; an image that is evaluated as one of the
        fastest method, which is too long for a clean one and too short for some corruptions.
        """
        logs = {job: _log(self.folder / f"{job.label}-seed{job.seed}" / "log.jsonl") for job in self.jobs}
        speeds = {
            label: _speed([line for job in self.jobs if job.label == label for line in logs[job]]) for label in self.trainings
        }
        known = [speed for speed in speeds.values() if speed is not None]
        if not known:
            return None
        per_image = {label: 1 / speed if speed else fmean(1 / other for other in known) for label, speed in speeds.items()}
        evaluating = self.shown / max(known)
        total = sum(self._images(job.label, logs[job]) * per_image[job.label] for job in left) + evaluated * evaluating
        if self.again_as is not None:
            total += len(self.jobs) * self._images(self.again_as, ()) * per_image[self.again_as] + evaluating
        return total

    def _images(self, label: str, log: Sequence[Mapping[str, Any]]) -> int:
        """So many are left to train on."""
        training = self.trainings[label]
        steps = training.epochs * (self.pictures // training.batch_size)
        return (steps - (log[-1]["step"] if log else 0)) * training.batch_size


def _log(path: Path) -> list[dict[str, Any]]:
    """Its lines; none where it is damaged: a forecast stops nothing."""
    try:
        lines = [from_json(line) for line in path.read_text().splitlines()]
        return [{"step": int(line["step"]), "images_per_s": float(line["images_per_s"])} for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _speed(log: Sequence[Mapping[str, Any]]) -> float | None:
    speeds = [line["images_per_s"] for line in log if line["images_per_s"] > 0]
    return median(speeds) if speeds else None
