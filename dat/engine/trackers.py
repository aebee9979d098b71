"""Where the numbers of a run go beside its folder: TensorBoard, W&B, MLflow and Aim, through Accelerate's trackers.

No run depends on one: a tracker that is missing or fails is named once, and left out from there on. Every training is a run of
its own there, so that curves of methods lie over each other, and no step comes twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from dat.installed import is_installed
from dat.progress import warn

Name = Literal["tensorboard", "wandb", "mlflow", "aim"]
Names = tuple[Name, ...] | None
"""What a recipe asks for; None: TensorBoard, where its package is there."""
FOLDER = "tensorboard"
"""Inside the run, with a folder for each training; `tensorboard --logdir RUN` shows all."""
WHOLE = "training"
"""What the training of a run is called that is no folder of its own."""
Act = Callable[[str, Any], object]
_current: ContextVar[Trackers | None] = ContextVar("trackers", default=None)


@dataclass
class Trackers:
    """Those of one run, with its `folder` and its recipe as `text` and as single `values`; `lost` are those that failed."""

    names: Sequence[str]
    folder: Path
    text: str
    values: Mapping[str, Any]
    lost: set[str] = field(default_factory=set)

    @contextmanager
    def opened(self, part: str, *, done: int = 0) -> Iterator[Board]:
        """The trackers for one training, which has `done` steps already, or for the results; closed at the end."""
        board = Board(self)
        for name in self.names:
            board.begin(name, part, done)
        try:
            yield board
        finally:
            board.each(lambda _, tracker: tracker.finish())

    def tried(self, name: str, act: Callable[[], object]) -> None:
        """Let a tracker do something; what it raises is said, and the last that it hears of this run."""
        if name in self.lost:
            return
        try:
            act()
        except Exception as error:  # whatever a package of others may raise: a run of days is not ended by its diary
            self.lost.add(name)
            said = (str(error).strip().splitlines() or [""])[0]
            warn(
                f"Nothing more goes to {name}, which failed ({type(error).__name__}: {said}); the run goes on, and its folder "
                "has all numbers."
            )


@dataclass
class Board:
    """One training, or the results of a run, in every tracker that works."""

    trackers: Trackers
    open: dict[str, GeneralTracker] = field(default_factory=dict)

    def begin(self, name: str, part: str, done: int) -> None:
        """Open a tracker and give it the recipe."""

        def start() -> None:
            tracker = OPENERS[name](self.trackers.folder, part, done)
            tracker.start()
            self.open[name] = tracker
            if name == "tensorboard":  # whose own way to keep a configuration makes a run of it, and takes no lists
                tracker.log({"recipe": f"```yaml\n{self.trackers.text}```"}, step=done)
            else:
                tracker.store_init_configuration(flat(self.trackers.values))

        self.trackers.tried(name, start)

    def log(self, values: Mapping[str, object], step: int) -> None:
        """Numbers of any sort by name; what is none is left out."""
        if numbers := {name: number for name, value in values.items() if (number := as_number(value)) is not None}:
            self.each(lambda _, tracker: tracker.log(numbers, step=step))

    def each(self, act: Act) -> None:
        """Let every tracker that still works do something."""
        for name, tracker in self.open.items():
            self.trackers.tried(name, lambda name=name, tracker=tracker: act(name, tracker))


@contextmanager
def tracked(names: Names, folder: Path, text: str, values: Mapping[str, Any]) -> Iterator[Trackers]:
    """Trainings inside are shown by these trackers; one that was asked for by its name and is missing is said."""
    wanted: Sequence[str] = (FOLDER,) if names is None else names
    there = [name for name in wanted if is_installed(name)]
    for name in wanted if names is not None else ():
        if name not in there:
            warn(f"Nothing goes to {name}, whose package is not installed; write pip install {name}, or trackers: [].")
    found = Trackers(there, folder, text, values)
    token = _current.set(found)
    try:
        yield found
    finally:
        _current.reset(token)


@contextmanager
def curves(folder: Path, *, done: int) -> Iterator[Callable[[Mapping[str, object], int], None]]:
    """What takes the numbers of the training in a folder, with their steps; nothing comes of it outside `tracked`."""
    found = _current.get()
    if found is None:
        yield lambda values, step: None
        return
    part = folder.name if folder != found.folder else WHOLE
    with found.opened(part, done=done) as board:
        yield board.log


def as_number(value: object) -> int | float | None:
    """A number of Python's, of NumPy's and torch's too; None of what is none. Accelerate's trackers drop others silently."""
    if isinstance(value, np.generic | np.ndarray | torch.Tensor) and np.ndim(value) == 0:
        value = value.item()
    return value if isinstance(value, int | float) else None


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by `key.sub` as every tracker takes them: numbers and text as they are, others as JSON."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value if isinstance(value, str | int | float) else json.dumps(value, default=str)
    return found


def _tensorboard(folder: Path, part: str, done: int) -> GeneralTracker:
    """What an earlier training wrote there is removed, and hidden after the step that is gone on from."""
    if not done:
        shutil.rmtree(folder / FOLDER / part, ignore_errors=True)
    return tracking.TensorBoardTracker(part, folder / FOLDER, purge_step=done + 1 if done else None)


def _wandb(folder: Path, part: str, _: int) -> GeneralTracker:
    return tracking.WandBTracker(folder.name, name=part, dir=str(folder))


def _mlflow(folder: Path, part: str, _: int) -> GeneralTracker:
    return tracking.MLflowTracker(folder.name, run_name=part)


def _aim(folder: Path, part: str, _: int) -> GeneralTracker:
    return tracking.AimTracker(part, ".", experiment=folder.name)


OPENERS: dict[str, Callable[[Path, str, int], GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "aim": _aim,
}
"""By the name of the tracker, which is that of its package: of the folder of a run, a training in it, and its steps so far."""
