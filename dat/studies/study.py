"""The few calls that every study answers, whatever its task, so that `commands/train.py` does not know which one it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from dat.results import Row


class Job(NamedTuple):
    """One training: a method by its label, or whatever else a study calls it, and a seed."""

    label: str
    seed: int

    def __str__(self) -> str:
        """As progress bars have it."""
        return f"{self.label}, seed {self.seed}"


MakeRow = Callable[[str, str, float, int, Job, dict[str, object]], Row]
"""Suite, metric, value, on how many, of which model, how."""


@runtime_checkable
class Study(Protocol):
    """What a recipe of one kind trains, measures and shows. Made of the opened recipe and the run; may be stopped anywhere."""

    def jobs(self) -> Sequence[Job]:
        """The trainings, in their order; what all of them need is made ready first."""
        ...

    def train(self, job: Job, title: str) -> Any:
        """What was trained: to its end, or read back if it is there already."""
        ...

    def rows(self, models: Mapping[Job, Any]) -> list[Row]:
        """Results; all processes work on them, the first one has all of them."""
        ...

    def pictures(self, models: Mapping[Job, Any]) -> None:
        """Write into the folder what its page shows beside the rows; on the first process alone."""
        ...

    def following(self) -> Path | None:
        """The file of a recipe that is to be carried out next, if there is one."""
        ...
