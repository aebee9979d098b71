"""A training that is judged while it goes on: which weights it ends with, and when; and that it is not disturbed by that."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import KilledInCall, assert_same_state, final_state
from torch import nn

from dat.engine import checkpoint
from dat.engine.checkpoint import State
from dat.engine.loop import train
from dat.engine.validation import Judge, in_float32, weights_of
from dat.errors import DivergenceError
from dat.methods import METHODS
from dat.tasks.classification import Classification

RICH: dict[str, Any] = {"mixup": 0.4, "ema_decay": 0.8, "accumulate": 2, "optimizer": "adamw", "lr": 0.01}


class Scripted:
    """Says what it was told to, one number an epoch by how often it was called before; keeps what it was shown."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values, self.shown = [*values], list[Mapping[str, torch.Tensor]]()

    def __call__(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        torch.rand(3)  # a measurement may draw
        self.shown.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"validation_accuracy": self.values[len(self.shown) - 1], "more": 0.0}


def trained(folder: Path, validate: Any, method: Any = None, *, dropout: float = 0.0, **changes: Any) -> nn.Module:
    return train(
        tiny.network(dropout=dropout),
        method or METHODS["standard"](),
        Classification(num_classes=tiny.CLASSES),
        tiny.pictures(),
        tiny.settings(epochs=4, **changes),
        seed=0,
        folder=folder,
        num_classes=tiny.CLASSES,
        cpu=True,
        validate=validate,
    )


def assert_same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


@pytest.mark.parametrize("changes", [{}, RICH], ids=["weights", "average"])
def test_the_best_weights_are_the_result_or_the_last_ones(changes: dict[str, Any], tmp_path: Path) -> None:
    script = Scripted([10.0, 30.0, 30.0, 20.0])
    best = trained(tmp_path / "best", script, keep="best", **changes)
    assert_same(best.state_dict(), script.shown[1])  # the first of two equal ones
    assert_same(weights_of(final_state(tmp_path / "best").tensors), script.shown[1])
    again = trained(tmp_path / "best", Scripted([]), KilledInCall(METHODS["standard"](), 0), keep="best", **changes)
    assert_same(again.state_dict(), script.shown[1])
    script = Scripted([10.0, 30.0, 30.0, 20.0])
    last = trained(tmp_path / "last", script, **changes)
    assert_same(last.state_dict(), script.shown[3])
    assert "best" not in final_state(tmp_path / "last").tensors


def test_validation_changes_no_bit_of_the_training(tmp_path: Path) -> None:
    trained(tmp_path / "plain", None, dropout=0.3, **RICH)
    trained(tmp_path / "judged", Scripted([1.0, 2.0, 3.0, 1.0]), dropout=0.3, keep="best", **RICH)
    plain, judged = final_state(tmp_path / "plain"), final_state(tmp_path / "judged")
    parts = {name: part for name, part in judged.tensors.items() if name != "best"}
    assert judged.numbers["judged"] == {"highest": 3.0, "best_epoch": 2, "epoch": 3}
    assert_same_state(State(parts, {name: value for name, value in judged.numbers.items() if name != "judged"}), plain)


def test_the_log_has_it_once_an_epoch(tmp_path: Path) -> None:
    trained(tmp_path, Scripted([10.0, 30.0, 25.0, 20.0]), log_every=1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["validation_accuracy"]) for line in lines if "validation_accuracy" in line] == [
        (5, 10.0),
        (10, 30.0),
        (15, 25.0),
        (20, 20.0),
    ]


def test_the_progress_line_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("dat.progress.SECONDS_BETWEEN_LINES", 0.0)
    trained(tmp_path, Scripted([10.0, 30.0, 25.0, 20.0]), log_every=1)
    notes = [line for line in capsys.readouterr().err.splitlines() if "loss" in line]
    said = [
        "10.0" if "validation accuracy 10.0  " in note else "30.0" if "accuracy 30.0" in note else "" for note in notes[:12]
    ]
    assert said == [""] * 4 + ["10.0"] * 5 + ["30.0"] * 3


def test_patience_ends_a_training_and_it_stays_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Scripted([10.0, 30.0, 20.0, 40.0])
    trained(tmp_path, script, patience=1, keep="best")
    assert "train: ended after step 15 of 20, as validation did not rise any more." in capsys.readouterr().err
    state = final_state(tmp_path)
    assert (state.numbers["step"], len(script.shown)) == (15, 3)
    assert [*checkpoint.unfinished(state, tmp_path)] == []
    again = trained(tmp_path, Scripted([]), KilledInCall(METHODS["standard"](), 0), patience=1, keep="best")
    assert_same(again.state_dict(), script.shown[1])
    trained(tmp_path / "longer", longer := Scripted([10.0, 30.0, 20.0, 40.0]), patience=2)
    assert len(longer.shown) == 4


class Measuring:
    """A number that follows from the weights: what a resumed run measures again is the same."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        total = sum(float(tensor.double().abs().sum()) for tensor in model.state_dict().values())
        return {"validation_accuracy": 1000 * total % 100}


@pytest.mark.parametrize("last", [3, 12, 13, 21, 26])
def test_an_interrupted_run_ends_with_the_same_bits_and_the_same_best(last: int, tmp_path: Path) -> None:
    how: dict[str, Any] = {**RICH, "keep": "best", "dropout": 0.3}
    alone = trained(tmp_path / "alone", Measuring(), **how)
    with pytest.raises(tiny.Killed):
        trained(tmp_path / "killed", Measuring(), KilledInCall(METHODS["standard"](), last), **how)
    resumed = trained(tmp_path / "killed", Measuring(), **how)
    assert_same(alone.state_dict(), resumed.state_dict())
    assert_same_state(final_state(tmp_path / "killed"), final_state(tmp_path / "alone"))
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("alone", "killed")]
    values = [[json.loads(line).get("validation_accuracy") for line in log] for log in logs]
    assert values[0] == values[1]


def test_the_best_epoch_is_on_disk_before_the_next_step(tmp_path: Path) -> None:
    """Whatever becomes of the training: here it diverges."""
    calls = []

    def diverging(model: nn.Module, batch: Any, task: Any) -> Any:
        calls.append(1)
        for loss in METHODS["standard"]()(model, batch, task):
            yield loss * (float("nan") if len(calls) > 5 else 1.0)

    script = Scripted([50.0, 60.0])
    with pytest.raises(DivergenceError):
        trained(tmp_path, script, diverging, keep="best", log_every=1)
    (saved,) = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    assert_same(checkpoint.load(saved).tensors["best"], script.shown[0])


def test_validation_computes_in_float32_in_a_training_in_half_precision(tmp_path: Path) -> None:
    kinds: list[torch.dtype] = []

    def validate(model: nn.Module) -> dict[str, float]:
        part = next(part for part in model.modules() if isinstance(part, nn.Linear))
        hook = part.register_forward_hook(lambda _part, _given, gives: kinds.append(gives.dtype))
        model(torch.rand(1, 3, 8, 8))
        hook.remove()
        return {"validation_accuracy": 1.0}

    trained(tmp_path, validate, precision="bf16")
    assert kinds == [torch.float32] * 4


def test_a_model_is_as_it_was_after_validation() -> None:
    model = nn.Linear(2, 2)
    wrapped = model.forward = lambda input: input  # as torch calls it
    model.train()
    with in_float32(model) as shown:
        assert not shown.training
        assert shown.forward != wrapped
    assert model.training
    assert model.forward is wrapped


def test_without_validation_nothing_is_kept() -> None:
    judge = Judge(None, keeps=True, patience=1)
    assert judge.epoch_end(0, nn.Linear(2, 2)) == {}
    assert (judge.state(), judge.is_over(), judge.is_best()) == (({}, {}), False, False)
