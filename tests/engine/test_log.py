"""What the log of a training says: means over the steps that gave a value, and the speed of the steps alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset, TrainingOrder
from dat.engine import checkpoint, steps
from dat.engine.steps import Pace, run_steps
from dat.progress import speed_text
from dat.types import Batch, Place

PICTURES, BATCH = 40, 4


class Clock:
    """Time passes only where somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


class Timed:
    """A step takes `step_s`, an evaluation and the saving of a state an hour each; `late` begins at step 3."""

    def __init__(self, clock: Clock, step_s: float) -> None:
        self.clock, self.step_s = clock, step_s

    def step(self, batches: Sequence[Batch], step: int) -> Mapping[str, Tensor]:
        """Its number is its loss."""
        self.clock.now += self.step_s
        late = {"late": torch.tensor(10.0 + step)} if step >= 3 else {}
        return {"loss": torch.tensor(float(step)), **late}

    def state(self) -> checkpoint.State:
        """Nothing, slowly."""
        self.clock.now += 3600
        return checkpoint.State({"model": {"weight": torch.zeros(1)}}, {})

    def load(self, state: checkpoint.State) -> None:
        """Nothing to load."""

    def epoch_end(self, epoch: int) -> Mapping[str, float | str]:
        """A slow evaluation."""
        self.clock.now += 3600
        return {"quality": 1.0}


def log_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *, step_s: float) -> list[dict[str, Any]]:
    """The log of two epochs of ten steps, a line every four steps, a state saved at every line."""
    clock = Clock()
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=clock.monotonic))
    source = ArraySource(np.zeros((PICTURES, 3, 2, 2), dtype=np.uint8), np.zeros(PICTURES, dtype=np.int64), ("one",))
    order, pace = TrainingOrder(PICTURES, batch_size=BATCH), Pace(epochs=2, seed=0, log_every=4, save_minutes=0.0)
    place = Place(torch.device("cpu"), 0, 1)
    dataset = ImageDataset(source, CenterCrop(), seed=0)
    run_steps(Timed(clock, step_s), dataset, order, pace=pace, place=place, folder=folder, title="timed")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_time_of_evaluations_and_of_saving_is_no_time_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(tmp_path, monkeypatch, step_s=0.5)
    assert [line["images_per_s"] for line in log] == [BATCH / 0.5] * len(log)
    assert [line["step"] for line in log if "quality" in line] == [10, 20]


def test_slow_steps_have_a_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {line["images_per_s"] for line in log_of(tmp_path / "slow", monkeypatch, step_s=300.0)} == {0.01333}
    assert {line["images_per_s"] for line in log_of(tmp_path / "fast", monkeypatch, step_s=0.003)} == {1333.0}
    assert [speed_text(speed) for speed in (0.01333, 6.78, 1333.3)] == ["0.0133 images/s", "6.78 images/s", "1,333 images/s"]


def test_a_term_that_begins_within_a_line_is_averaged_over_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the four steps of the first line only the last gave it; no state is due, which would end a line at every step."""
    monkeypatch.setattr(steps._Saver, "is_due", lambda saver: False)
    first, second, *_ = log_of(tmp_path, monkeypatch, step_s=1.0)
    assert (first["step"], first["loss"], first["late"]) == (4, 1.5, 13.0)
    assert (second["step"], second["loss"], second["late"]) == (8, 5.5, 15.5)
