"""Targets that are no class labels: a value of the task's own goes through every method, with its random numbers in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.engine.loop import Training, train
from dat.errors import UsageError
from dat.methods import METHODS
from dat.nn.norm import Normalized, with_auxiliary_norms
from dat.tasks.classification import Classification
from dat.types import Batch, ClassifyingTask, DrawingTask, Targets, Task, concatenated

torch.set_num_threads(1)

SETTINGS: dict[str, dict[str, Any]] = {
    "at": {"epsilon": 0.1, "step_size": 0.05, "steps": 2},
    "random-codes": {"rate": 0.5},
    "dat": {"alpha": 1.0},
    "dat-official": {},
    "dat-free": {"alpha": 1.0},
    "dat-fast": {"alpha": 1.0, "adversarial_share": 0.5},
    "dat-codes": {"rate": 0.5},
    "advprop": {"targeted": False},
    "pyramid-at": {"steps": 2, "cells": (4, 1), "scales": (20.0, 1.0), "targeted": False},
    "augmix": {"jsd_weight": 0.0},
}
OF_CLASSES = {
    "debiased": {},
    "pyramid-at": {"steps": 1},
    "augmix": {},
    "advprop": {"targeted": True},
    "deepaugment-augmix-dat": {},
}
"""Methods, with these settings, that aim at classes or compare predictions."""


@dataclass(frozen=True)
class Hidden:
    """Of each image what its colours were, and which of its pixels the loss does not count."""

    colours: Tensor
    noise: Tensor | None = None

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, rows: Any, /) -> Hidden:
        return Hidden(self.colours[rows], None if self.noise is None else self.noise[rows])

    def to(self, *args: Any, **kwargs: Any) -> Hidden:
        return Hidden(self.colours.to(*args, **kwargs), None if self.noise is None else self.noise.to(*args, **kwargs))

    @staticmethod
    def concatenated(parts: Sequence[Hidden]) -> Hidden:
        noise = [part.noise for part in parts if part.noise is not None]
        return Hidden(torch.cat([part.colours for part in parts]), torch.cat(noise) if noise else None)


class Colours:
    """A task without classes: say the mean colour of the pixels that are not hidden."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def drawn(self, batch: Batch) -> Batch:
        return replace(batch, targets=Hidden(batch.targets.colours, batch.draw(torch.rand, *batch.images.shape[-2:])))

    def losses(self, model: nn.Module, images: Tensor, targets: Hidden) -> Tensor:
        assert targets.noise is not None
        assert len(targets) == len(images)
        self.seen.append(targets.noise)
        said = model(images * (targets.noise > 0.5)[:, None])
        return F.mse_loss(said, targets.colours, reduction="none").mean(dim=1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).train()


@pytest.fixture(scope="module")
def discretizer() -> FrozenDiscretizer:
    torch.manual_seed(1)
    config = VQGANConfig(n_embed=16, embed_dim=4, z_channels=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
    return FrozenDiscretizer(VQGAN(config))


def batch(count: int = 6) -> Batch:
    numbers = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, 8, 8, generator=numbers)
    return Batch(images, Hidden(images.mean(dim=(2, 3))), numbers)


def built(name: str, discretizer: FrozenDiscretizer, settings: dict[str, Any]) -> Any:
    needs = "discretizer" in METHODS[name].__dataclass_fields__
    return METHODS[name](discretizer, **settings) if needs else METHODS[name](**settings)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in OF_CLASSES or name in SETTINGS])
def test_a_method_without_classes_takes_targets_of_any_form(name: str, discretizer: FrozenDiscretizer) -> None:
    task, method = Colours(), built(name, discretizer, SETTINGS.get(name, {}))
    model = network()
    if getattr(method, "auxiliary_norms", False):
        with_auxiliary_norms(model)
    given = task.drawn(batch())
    losses = []
    for loss in method(model, given, task):
        loss.backward()
        losses.append(loss.detach())
    assert losses
    assert all(torch.isfinite(loss) for loss in losses)
    rows = {tuple(row.flatten().tolist()) for row in given.targets.noise}
    seen = [tuple(row.flatten().tolist()) for noise in task.seen for row in noise]
    assert set(seen) <= rows, "the numbers of the step, and no others, in attack and training"


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_method_with_classes_says_so(name: str, discretizer: FrozenDiscretizer) -> None:
    method = built(name, discretizer, OF_CLASSES[name])
    task = Colours()
    model = with_auxiliary_norms(network())
    with pytest.raises(UsageError, match="class"):
        list(method(model, task.drawn(batch()), task))


def test_the_protocols_tell_tasks_apart() -> None:
    assert isinstance(Colours(), Task)
    assert isinstance(Colours(), DrawingTask)
    assert not isinstance(Colours(), ClassifyingTask)
    assert isinstance(Classification(), ClassifyingTask)
    assert not isinstance(Classification(), DrawingTask)
    assert isinstance(torch.arange(3), Targets)
    assert isinstance(Hidden(torch.rand(2, 3)), Targets)


def test_numbers_of_a_step_do_not_depend_on_how_it_is_divided() -> None:
    """Micro-batches draw their rows of the step's numbers, so accumulation and processes change nothing."""
    task, images = Colours(), torch.rand(6, 3, 8, 8)
    colours = images.mean(dim=(2, 3))

    def part(first: int, last: int) -> Hidden:
        numbers = torch.Generator().manual_seed(5)
        return task.drawn(Batch(images[first:last], Hidden(colours[first:last]), numbers, first=first, total=6)).targets

    whole, parts = part(0, 6), concatenated([part(0, 2), part(2, 6)])
    assert whole.noise is not None
    assert parts.noise is not None
    assert torch.equal(whole.noise, parts.noise)
    assert torch.equal(whole.colours, parts.colours)
    assert torch.equal(concatenated([torch.arange(2), torch.arange(3)]), torch.tensor([0, 1, 0, 1, 2]))


class Painted:
    """A data set whose targets are colours; fetched by the loop, by worker processes, too."""

    def __init__(self) -> None:
        self.images = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, Hidden, Tensor]:
        positions = torch.tensor([position for _, position in keys])
        images = self.images[positions]
        return images, Hidden(images.mean(dim=(2, 3))), positions


@pytest.mark.parametrize(("accumulate", "workers"), [(2, 0), (1, 1)])
def test_the_loop_trains_a_task_of_its_own(accumulate: int, workers: int, tmp_path: Path) -> None:
    """Divided or read by workers, a step is the same step: the loss of the log, and the weights at the end."""

    def trained(name: str, **changes: Any) -> tuple[nn.Module, list[dict[str, Any]]]:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
        model = Normalized(nn.Sequential(*layers), mean=(0.5,) * 3, std=(0.5,) * 3)
        settings = Training(epochs=2, batch_size=12, lr=0.1, log_every=1, **changes)
        method, where = METHODS["at"](epsilon=0.1, step_size=0.05, steps=1), {"folder": tmp_path / name, "cpu": True}
        model = train(model, method, Colours(), Painted(), settings, seed=0, num_classes=0, **where)
        return model, [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]

    whole, log = trained("whole")
    divided, log_divided = trained("divided", accumulate=accumulate, workers=workers)
    assert len(log) == 4
    assert [line["loss"] for line in log] == pytest.approx([line["loss"] for line in log_divided], abs=1e-6)
    for first, second in zip(whole.parameters(), divided.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
