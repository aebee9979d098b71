"""What studies that compare methods do alike, whatever their task: which models there are, and how one is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.engine.loop import train
from dat.engine.run_folder import Run
from dat.engine.validation import Validate
from dat.nn.norm import without_auxiliary_norms
from dat.progress import followed_by
from dat.recipe.contest import Contestant
from dat.studies.forecast import Forecast
from dat.studies.study import Job
from dat.types import Task


@runtime_checkable
class OpenedContest(Protocol):
    """An opened recipe that compares methods: `model.untrained(seed)`, `data.seeded(seed).train`, and `data.classes`."""

    @property
    def contestants(self) -> Mapping[str, Contestant]:
        """Methods by label."""
        ...

    @property
    def seeds(self) -> tuple[int, ...]:
        """Each method is trained with every one."""
        ...

    @property
    def model(self) -> Any:
        """Of which untrained models are made."""
        ...

    @property
    def data(self) -> Any:
        """Pictures to train on."""
        ...


def jobs_of(opened: OpenedContest) -> Sequence[Job]:
    """Seed by seed all methods."""
    return [Job(label, seed) for seed in opened.seeds for label in opened.contestants]


def trained(
    opened: OpenedContest,
    run: Run,
    job: Job,
    *,
    task: Task[Any],
    discretizer: FrozenDiscretizer | None,
    forecast: Forecast,
    title: str,
    validate: Validate | None = None,
) -> nn.Module:
    """The trained model of one method and seed, without auxiliary norms; `forecast` says what follows it."""
    contestant, jobs = opened.contestants[job.label], jobs_of(opened)
    with run.timed("train"), followed_by(forecast.seconds(jobs[jobs.index(job) + 1 :])):
        model = train(
            opened.model.untrained(job.seed, auxiliary_norms=contestant.auxiliary_norms),
            contestant.method(discretizer),
            task,
            opened.data.seeded(job.seed).train,
            contestant.training,
            seed=job.seed,
            folder=run.folder / f"{job.label}-seed{job.seed}",
            title=title,
            num_classes=len(opened.data.classes),
            cpu=run.cpu,
            validate=validate,
        )
    return without_auxiliary_norms(model)
