"""A discretizer is trained: one job, whose result is a file of weights, and a page of curves and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import PartialState

from dat.engine.discretizer_loop import train_discretizer
from dat.engine.run_folder import Run
from dat.recipe.data import Data
from dat.recipe.discretizer import DiscretizerPlan, OpenedDiscretizer
from dat.results import Row
from dat.studies.study import Job

WEIGHTS = "discretizer.safetensors"


class DiscretizerStudy:
    """Train a discretizer."""

    def __init__(self, opened: OpenedDiscretizer, run: Run) -> None:
        self.opened, self.run = opened, run

    def jobs(self) -> Sequence[Job]:
        """The one training."""
        return [Job("discretizer", self.opened.plan.seed)]

    def train(self, job: Job, title: str) -> Path:
        """The file of its weights."""
        del job, title  # it is called by what it minimises
        with self.run.timed("discretizer"):
            return trained(self.opened.plan, self.opened.data, self.run, self.run.folder)

    def rows(self, models: Mapping[Job, Path]) -> list[Row]:
        """None: its quality is kept with its weights."""
        return []

    def pictures(self, models: Mapping[Job, Path]) -> None:
        """None: reconstructions are kept while it trains."""

    def following(self) -> None:
        """Nothing."""


def trained(plan: DiscretizerPlan, data: Data, run: Run, folder: Path) -> Path:
    """The weights of a discretizer in `folder`: trained to its end, or found there."""
    path = folder / WEIGHTS
    is_trained = path.is_file()
    PartialState().wait_for_everyone()  # all processes have looked before one of them writes it
    if not is_trained:
        train_discretizer(
            plan.network(),
            plan.objective,
            plan.perceptual,
            plan.training,
            data.train,
            data.test,
            seed=plan.seed,
            folder=folder,
            weights=path,
            provenance=plan.provenance,
            features=plan.features,
            trained=plan.init is not None,
            title=f"train discretizer (perceptual: {plan.perceptual_kind})",
            cpu=run.cpu,
        )
    return path
