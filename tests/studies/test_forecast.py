"""The time left of a comparison, from made-up logs, by arithmetic that fits on a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dat.engine.loop import Training
from dat.studies.forecast import Forecast
from dat.studies.study import Job

JOBS = [Job(label, seed) for seed in (0, 1) for label in ("standard", "dat")]
TRAININGS = {label: Training(epochs=2, batch_size=10, lr=0.1) for label in ("standard", "dat")}


def forecast(folder: Path, again_as: str | None = None) -> Forecast:
    return Forecast(folder, TRAININGS, JOBS, pictures=105, shown=1000, again_as=again_as)


def write_log(folder: Path, job: Job, *, step: int, speed: float) -> None:
    path = folder / f"{job.label}-seed{job.seed}" / "log.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"step": at, "images_per_s": speed}) + "\n" for at in (step // 2, step)))


def test_nothing_is_said_before_the_first_training(tmp_path: Path) -> None:
    assert forecast(tmp_path).seconds(JOBS) is None


def test_trainings_and_evaluation_count_at_the_speeds_that_were_met(tmp_path: Path) -> None:
    """A training is 2 x 10 steps of 10 pictures."""
    write_log(tmp_path, JOBS[0], step=20, speed=100.0)
    assert forecast(tmp_path).seconds(JOBS[2:]) == pytest.approx(200 / 100 + 200 / 100 + 1000 / 100)
    write_log(tmp_path, JOBS[1], step=20, speed=25.0)
    assert forecast(tmp_path).seconds(JOBS[2:]) == pytest.approx(200 / 100 + 200 / 25 + 1000 / 100)
    assert forecast(tmp_path).seconds((), evaluated=False) == 0
    assert forecast(tmp_path, "dat").seconds((), evaluated=False) == pytest.approx(4 * 200 / 25 + 1000 / 100)


def test_what_is_done_already_is_not_left(tmp_path: Path) -> None:
    """As after a resume: one finished, one at half its steps."""
    write_log(tmp_path, JOBS[0], step=20, speed=100.0)
    write_log(tmp_path, JOBS[1], step=10, speed=25.0)
    assert forecast(tmp_path).seconds(JOBS[:2]) == pytest.approx(100 / 25 + 1000 / 100)


def test_a_damaged_log_stops_nothing(tmp_path: Path) -> None:
    write_log(tmp_path, JOBS[0], step=20, speed=100.0)
    (tmp_path / "standard-seed0" / "log.jsonl").write_text('{"step": 1}\n{')
    assert forecast(tmp_path).seconds(JOBS) is None
