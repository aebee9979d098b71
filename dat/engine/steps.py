"""The part that every training loop shares: order of the data, randomness, log, checkpoints, stop and resume.

What is learned in a step is behind `Learner`. Every random number of a run is a function of (seed, epoch, step, process), never
of what was drawn before: a resumed run equals one that was left alone, to the bit, without saving the state of any generator.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dat.data.pipeline import Fetched, TrainingOrder, training_batches
from dat.engine import checkpoint
from dat.engine.trackers import curves
from dat.errors import DatError, DivergenceError, RunFolderError
from dat.progress import Bar, speed_text, warn
from dat.results import from_json
from dat.types import Batch, Place

JUDGED = "validation_"
"""With this the names of what is measured on pictures of validation begin; the progress line says the first."""


class InterruptedRunError(DatError):
    """A signal stopped the run after a step; everything up to it is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@runtime_checkable
class Learner(Protocol):
    """What a loop trains: one optimizer step at a time, its whole state in tensors and numbers."""

    def step(self, batches: Sequence[Batch], step: int) -> Mapping[str, Tensor]:
        """One optimizer step on the micro-batches of this process; gives what belongs in the log (0-dim tensors)."""
        ...

    def state(self) -> checkpoint.State:
        """All that the next step depends on."""
        ...

    def load(self, state: checkpoint.State) -> None:
        """Become what `state` was taken from."""
        ...

    def epoch_end(self, epoch: int) -> Mapping[str, float | str]:
        """Measurements for the log, after each epoch."""
        ...


Leading = Callable[[int, int], list[Batch]]
"""Of an epoch so many of the first pictures, as training sees them, in whole batches of so many: the same on every process."""


@runtime_checkable
class PreparedLearner(Learner, Protocol):
    """One that looks at some pictures before each epoch."""

    def epoch_begin(self, epoch: int, leading: Leading) -> bool:
        """Whether it did. What it finds belongs to its state: an epoch that is resumed in its middle does not begin again."""
        ...


@runtime_checkable
class JudgedLearner(Learner, Protocol):
    """One that knows how good it is after each epoch; what it says is the same on every process."""

    def is_over(self) -> bool:
        """Whether to stop after this epoch; asked after `epoch_end`, and of a state that was read."""
        ...

    def is_best(self) -> bool:
        """Whether the epoch that ended is one whose weights are to be kept, whatever happens to those that follow."""
        ...


@dataclass(frozen=True)
class Pace:
    """How long a run is, and how often it logs and saves."""

    epochs: int
    seed: int
    workers: int = 0
    log_every: int = 20
    save_minutes: float = 10.0


def stream_seed(*path: int) -> int:
    """A seed for the random stream named by these numbers, e.g. (seed, purpose, step)."""
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> 1)


def run_steps(
    learner: Learner, dataset: Fetched, order: TrainingOrder, *, pace: Pace, place: Place, folder: Path, title: str
) -> None:
    """Train to the end of the last epoch, or until the learner says that it is over, from the newest whole checkpoint in
    `folder` if there is one.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM came; the step was finished and saved.
        DivergenceError: a loss, or a weight that would be saved, is not finite; the last checkpoint is from before.
        CheckpointError: a state cannot be written, or none of those on disk is whole.
    """
    total = pace.epochs * order.steps_per_epoch
    done = _resume(learner, folder)
    saver = _Saver(learner, folder / "checkpoints", place, pace.save_minutes, total)
    with (
        curves(folder, done=done) as track,
        _signals() as caught,
        Bar(title, total, done=done, shown=place.is_main) as bar,
    ):
        log = _Log(folder / "log.jsonl", done, place, track)
        while done < total and not _is_over(learner):
            epoch = done // order.steps_per_epoch
            if isinstance(learner, PreparedLearner) and done % order.steps_per_epoch == 0:
                _begin(learner, log, epoch, partial(_leading, dataset, order, epoch, pace, place), pace, place)
            for batches in _steps_of_epoch(dataset, order, epoch, done % order.steps_per_epoch, pace, place):
                torch.manual_seed(stream_seed(pace.seed, 1, done, place.process))
                log.add(learner.step(batches, done), images=order.batch_size)
                done += 1
                at_end = done % order.steps_per_epoch == 0
                signal_number = _stop_requested(caught, place)
                saves = done == total or signal_number or saver.is_due()
                if at_end or saves or done % pace.log_every == 0:  # a state is saved only after its losses were seen finite
                    bar.advance(done, log.write(done, epoch, partial(learner.epoch_end, epoch) if at_end else dict))
                    if saves or (at_end and _must_be_saved(learner)):
                        saver.save(done)
                    log.begin()
                if signal_number:
                    raise _interrupted(done, total, signal_number)
        if signal_number := _stop_requested(caught, place):  # it came while the last step was saved
            raise _interrupted(done, total, signal_number)
    if done < total:
        warn(f"{title}: ended after step {done} of {total}, as validation did not rise any more.")


def _is_over(learner: Learner) -> bool:
    return isinstance(learner, JudgedLearner) and learner.is_over()


def _must_be_saved(learner: Learner) -> bool:
    """At the end of an epoch."""
    return isinstance(learner, JudgedLearner) and (learner.is_over() or learner.is_best())


def _steps_of_epoch(
    dataset: Fetched, order: TrainingOrder, epoch: int, start: int, pace: Pace, place: Place
) -> Iterator[list[Batch]]:
    """Micro-batches of each optimizer step from `start` on, with the step's own generator."""
    micro: list[Batch] = []
    loader = training_batches(dataset, order, epoch=epoch, start_step=start, workers=pace.workers)
    step = epoch * order.steps_per_epoch + start
    for fetched in loader:
        images, targets, _ = (part.to(place.device, non_blocking=True) for part in fetched)
        generator = torch.Generator(place.device).manual_seed(stream_seed(pace.seed, 2, step))
        first, progress = order.first_row(len(micro)), step / (pace.epochs * order.steps_per_epoch)
        micro.append(Batch(images, targets, generator, first, order.batch_size, step, progress))
        if len(micro) == order.accumulate:
            yield micro
            micro, step = [], step + 1


def _begin(learner: PreparedLearner, log: _Log, epoch: int, leading: Leading, pace: Pace, place: Place) -> None:
    """Let it look at pictures, with random numbers of their own; the time of it is not that of the steps."""
    since = time.monotonic()
    with torch.random.fork_rng(devices=[place.device] if place.device.type == "cuda" else []):
        torch.manual_seed(stream_seed(pace.seed, 5, epoch))
        prepared = learner.epoch_begin(epoch, leading)
    log.begin()
    if prepared:
        log.aside["calibration_s"] = float(f"{time.monotonic() - since:.4g}")


def _leading(
    dataset: Fetched, order: TrainingOrder, epoch: int, pace: Pace, place: Place, count: int, size: int
) -> list[Batch]:
    """Batches that do not depend on the number of processes, each with a stream of its own."""
    rows = order.permutation(epoch).tolist()[: max(min(count, order.length) // size, 1) * size]
    found = []
    for first in range(0, len(rows), size):
        keys = [(epoch, row) for row in rows[first : first + size]]
        images, targets, _ = (part.to(place.device) for part in dataset.__getitems__(keys))
        generator = torch.Generator(place.device).manual_seed(stream_seed(pace.seed, 6, epoch, first))
        found.append(Batch(images, targets, generator, step=epoch * order.steps_per_epoch, progress=epoch / pace.epochs))
    return found


def _interrupted(done: int, total: int, signal_number: int) -> InterruptedRunError:
    return InterruptedRunError(f"Stopped after step {done} of {total} and saved; continue with --resume.", signal_number)


def _resume(learner: Learner, folder: Path) -> int:
    found = checkpoint.newest_valid(folder / "checkpoints")
    if found is None:
        return 0
    path, state, damaged = found
    for sentence in damaged:
        print(f"{sentence} Continuing from {path.name}.", file=sys.stderr, flush=True)
    learner.load(state)
    return int(state.numbers["step"])


class _Saver:
    """Writes the learner's state now and then, and when told to, with the step and how many there are; in the main process."""

    def __init__(self, learner: Learner, folder: Path, place: Place, minutes: float, total: int) -> None:
        self.learner, self.folder, self.place, self.minutes, self.total = learner, folder, place, minutes, total
        self.saved_at = time.monotonic()

    def is_due(self) -> bool:
        return self.place.is_main and time.monotonic() - self.saved_at > 60 * self.minutes

    def save(self, step: int) -> None:
        if self.place.is_main:
            state = self.learner.state()
            _check_finite(state, step)
            steps = {"step": step, "steps": step if _is_over(self.learner) else self.total}
            checkpoint.save(self.folder, step, checkpoint.State(state.tensors, {**state.numbers, **steps}))
        self.saved_at = time.monotonic()


def _check_finite(state: checkpoint.State, step: int) -> None:
    """A finite loss may have had a gradient that is not; such weights would be saved over good ones."""
    for part, tensors in state.tensors.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise DivergenceError(
                    f"{name} of the {part} is not finite after step {step}; lower the learning rate or use precision: fp32 or "
                    "bf16. The last checkpoint is from before."
                )


class _Log:
    """`log.jsonl`: one line now and then, means since the last; lines from after the resumed step are dropped.

    A mean is over the steps that gave the value. `images_per_s` is of the steps alone, with the fetching of their pictures:
    what is measured after an epoch, and the saving of a state, take time of their own. `aside` goes into the next line.
    `track` takes each line, too, with its step.
    """

    def __init__(self, path: Path, done: int, place: Place, track: Callable[[Mapping[str, object], int], None]) -> None:
        self.path, self.place, self.track = path, place, track
        if place.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True) if path.is_file() else []
            whole = [(number, line) for number, line in enumerate(lines, start=1) if line.endswith("\n")]
            path.write_text("".join(line for number, line in whole if _step_of(line, f"Line {number} of {path}") <= done))
        self.aside: dict[str, float] = {}
        self.validated = ""
        self.begin()

    def begin(self) -> None:
        """The next steps are counted from here on."""
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.images, self.since = 0, time.monotonic()

    def add(self, values: Mapping[str, Tensor], *, images: int) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        self.counts.update(values.keys())
        self.images += images

    def write(self, step: int, epoch: int, more: Callable[[], Mapping[str, float | str]]) -> str:
        """Write the means of the steps since `begin`, and what `more` then measures; gives the note for the progress bar."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        speed = self.images / max(time.monotonic() - self.since, 1e-9)  # after the sums, for which the device had to finish
        if bad := [name for name, value in means.items() if not math.isfinite(value)]:
            raise DivergenceError(
                f"{bad[0]} became {means[bad[0]]} by step {step}; lower the learning rate or use precision: fp32 or bf16. "
                "The last checkpoint is from before."
            )
        measured = more()
        line = {"step": step, "epoch": epoch, **means, "images_per_s": float(f"{speed:.4g}"), **self.aside, **measured}
        if judged := [f"{name.replace('_', ' ')} {value:.1f}" for name, value in measured.items() if name.startswith(JUDGED)]:
            self.validated = f"{judged[0]}  "
        self.aside = {}
        if self.place.is_main:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        self.track({name: value for name, value in line.items() if name != "step"}, step)
        return f"loss {means['loss']:.3f}  {self.validated}{speed_text(speed)}"


def _step_of(line: str, where: str) -> int:
    """Raises: RunFolderError: it is no line of a log."""
    try:
        return int(from_json(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise RunFolderError(f"{where} is no line of a training log ({error}); remove that line, then resume again.") from error


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that came, as numbers; a second one of the same kind acts as if nobody listened."""
    caught: list[int] = []
    previous = {}

    def catch(number: int, _: object) -> None:
        caught.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop_requested(caught: list[int], place: Place) -> int:
    """The signal to act on, the same on all processes; 0 for none."""
    mine = caught[0] if caught else 0
    if place.processes == 1:
        return mine
    flag = torch.tensor(mine, device=place.device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return int(flag)
