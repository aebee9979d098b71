"""A step that is sought before each epoch: logged, kept with the state, the same after an interruption."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import assert_same_state, final_state
from torch import Tensor

from dat.attacks.rate import Rate
from dat.discretizers.codes import modified_code_rate
from dat.discretizers.frozen import FrozenDiscretizer
from dat.engine import loop, steps
from dat.engine.loop import SupervisedLearner
from dat.errors import UsageError
from dat.methods.dat import DAT
from dat.results import Row
from dat.studies import measured, words
from dat.studies.study import Job
from dat.types import Batch

RICH: dict[str, Any] = {"mixup": 0.4, "ema_decay": 0.8, "accumulate": 2, "log_every": 2}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def train(folder: Path, **changes: Any) -> None:
    tiny.trained(folder, tiny.sought(), model=tiny.network(dropout=0.3), **{**RICH, **changes})


def test_the_log_says_what_was_found_before_each_epoch(tmp_path: Path) -> None:
    train(tmp_path, epochs=3)
    found = lines(tmp_path)
    by_epoch = [{line["alpha"] for line in found if line["epoch"] == epoch} for epoch in range(3)]
    assert [len(alphas) for alphas in by_epoch] == [1, 1, 1]
    assert len(set.union(*by_epoch)) == 3  # the model is another, and so are the pictures
    assert all(line["rate"] == pytest.approx(0.2, rel=0.05) and math.isfinite(line["gain"]) for line in found)
    assert [line["step"] for line in found if "calibration_s" in line] == [2, 6, 12]  # the first line of each epoch
    assert final_state(tmp_path).numbers["calibration"] == {key: found[-1][key] for key in ("alpha", "rate", "gain")}


def test_methods_with_a_length_log_no_search(tmp_path: Path) -> None:
    tiny.trained(tmp_path, tiny.methods()["dat"])
    assert not {"alpha", "rate", "gain", "calibration_s"} & {*lines(tmp_path)[0]}
    assert "calibration" not in final_state(tmp_path).numbers


def test_training_takes_the_step_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted on what is trained on: the share of the codes of x and of x + delta that differ, over the first epoch."""
    rates: list[Tensor] = []
    method, call = tiny.sought(), DAT._adversarial

    def watched(self: DAT, model: Any, batch: Batch, task: Any) -> Tensor:
        exact = self.discretizer
        shown: list[Tensor] = []
        monkeypatch.setattr(type(exact), "forward", lambda own, images: shown.append(images) or forward(own, images))
        found = call(self, model, batch, task)
        rates.append(modified_code_rate(exact.encode(batch.images), exact.encode(shown[-1])))
        return found

    forward = FrozenDiscretizer.forward
    monkeypatch.setattr(DAT, "_adversarial", watched)
    tiny.trained(tmp_path, method, model=tiny.network(batch_norm=False), epochs=1, lr=0.0)
    assert len(torch.cat(rates)) == 40
    assert float(torch.cat(rates).mean()) == pytest.approx(lines(tmp_path)[0]["rate"], abs=1e-6)


@pytest.mark.parametrize("dies_before", [1, 4, 5, 7])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_before: int) -> None:
    """Within an epoch the step is kept; at its beginning it is sought again, from where the last one ended."""
    monkeypatch.setattr(steps._Saver, "is_due", lambda saver: True)
    train(tmp_path / "alone")
    step = SupervisedLearner.step

    def dying(self: SupervisedLearner, batches: Sequence[Batch], number: int) -> Mapping[str, Tensor]:
        if number == dies_before:
            raise tiny.Killed
        return step(self, batches, number)

    monkeypatch.setattr(SupervisedLearner, "step", dying)
    with pytest.raises(tiny.Killed):
        train(tmp_path / "killed")
    monkeypatch.setattr(SupervisedLearner, "step", step)
    train(tmp_path / "killed")
    assert_same_state(final_state(tmp_path / "killed"), final_state(tmp_path / "alone"))
    told = [[{**line, "images_per_s": 0, "calibration_s": 0} for line in lines(tmp_path / run)] for run in ("alone", "killed")]
    assert told[0] == told[1]


def test_a_rate_that_no_step_reaches_stops_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"A rate of 0\.99 is out of reach"):
        tiny.trained(tmp_path, tiny.sought(0.99))
    assert not (tmp_path / "log.jsonl").exists() or not lines(tmp_path)


def test_a_rate_that_is_lost_later_is_said_and_the_step_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[float | None] = []

    def once(*arguments: Any, start: float | None, **more: Any) -> Any:
        calls.append(start)
        if len(calls) > 1:
            raise UsageError("A rate of 0.2 is out of reach.")
        return reached(*arguments, start=start, **more)

    reached = loop.reached
    monkeypatch.setattr(loop, "reached", once)
    train(tmp_path)
    found = lines(tmp_path)
    assert calls == [None, found[0]["alpha"]]
    assert {line["alpha"] for line in found} == {found[0]["alpha"]}
    assert "Epoch 1 goes on with the step of the one before, alpha" in capsys.readouterr().err


def test_pictures_that_fill_no_batch_are_not_sought_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 21 pictures the five after two batches would be a batch of another size, and one that mixup cannot pair."""
    sizes: list[int] = []

    def counted(method: Any, model: Any, batches: Sequence[Batch], *arguments: Any, **more: Any) -> Any:
        sizes.extend(len(batch.images) for batch in batches)
        return reached(method, model, batches, *arguments, **more)

    reached = loop.reached
    monkeypatch.setattr(loop, "reached", counted)
    train(tmp_path, dataset=tiny.pictures(21), epochs=1)
    assert sizes == [8, 8]


def test_torchs_stream_is_that_of_the_step_with_and_without_a_search(tmp_path: Path) -> None:
    """Dropout draws what it draws without a search: with a rate of which the length is put by hand, all is the same."""
    train(tmp_path / "sought", epochs=1)
    method = replace(tiny.sought(), alpha=lines(tmp_path / "sought")[0]["alpha"])
    tiny.trained(tmp_path / "given", method, model=tiny.network(dropout=0.3), **RICH, epochs=1)
    for name, tensor in final_state(tmp_path / "given").tensors["model"].items():
        assert torch.equal(final_state(tmp_path / "sought").tensors["model"][name], tensor), name


def test_the_search_is_part_of_the_cost_of_a_step(tmp_path: Path) -> None:
    def row(suite: str, metric: str, value: float, n: int, job: Job, protocol: dict[str, object]) -> Row:
        return Row(suite, metric, value, n, None, job.seed, job.label, "", protocol)

    log = tmp_path / "dat-seed0" / "log.jsonl"
    log.parent.mkdir()
    log.write_text(
        '{"step": 5, "images_per_s": 4.0, "calibration_s": 3.0, "alpha": 0.7}\n'
        '{"step": 10, "images_per_s": 4.0, "calibration_s": 2.0, "alpha": 0.6}\n'
    )
    training = tiny.settings()
    (cost,) = measured.costs(row, {"dat": training}, [0], tmp_path)
    assert cost.value == pytest.approx(8 / 4 + 5 / 10)
    assert cost.protocol["of_which_calibration_s"] == pytest.approx(0.5)
    assert words.alpha_sought(tmp_path, Job("dat", 0)) == 0.6
    other = tmp_path / "standard-seed0" / "log.jsonl"
    other.parent.mkdir()
    other.write_text('{"step": 10, "images_per_s": 4.0}\n')
    trainings = {"standard": tiny.settings(epochs=8), "dat": tiny.settings(epochs=8)}
    assert measured.epochs_of_equal_time(trainings, [0], tmp_path, reference="dat") == {"standard": 10, "dat": 8}


def test_a_rate_is_a_rate() -> None:
    assert tiny.sought().sought == Rate(0.2, pictures=40)
