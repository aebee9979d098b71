"""A fast discretizer is trained after a slow one: one job, whose result is a file of weights, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dat.engine.distill import distill
from dat.engine.run_folder import Run
from dat.recipe.distillation import OpenedDistillation
from dat.results import Row
from dat.studies.discretizer import WEIGHTS
from dat.studies.study import Job


class DistillationStudy:
    """Train a student."""

    def __init__(self, opened: OpenedDistillation, run: Run) -> None:
        self.opened, self.run = opened, run

    def jobs(self) -> Sequence[Job]:
        """The one training."""
        return [Job("student", self.opened.seed)]

    def train(self, job: Job, title: str) -> Path:
        """The file of its weights; what was measured, seconds included, goes into `run.json`."""
        del title
        opened, run, path = self.opened, self.run, self.run.folder / WEIGHTS
        with run.timed("discretizer"):
            run.facts["distillation"] = distill(
                opened.student,
                opened.teacher.to(run.place.device),
                opened.training,
                opened.data.train,
                opened.data.test,
                perceptual=opened.perceptual,
                seed=job.seed,
                folder=run.folder,
                weights=path,
                provenance=opened.provenance,
                cpu=run.cpu,
            )
        return path

    def rows(self, models: Mapping[Job, Path]) -> list[Row]:
        """None: its agreement with the teacher is kept with its weights."""
        return []

    def pictures(self, models: Mapping[Job, Path]) -> None:
        """None: reconstructions are kept while it trains."""

    def following(self) -> None:
        """Nothing."""
