"""SimCLR's and MoCo v3's losses against plain loops, a momentum encoder that follows, and what cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from dat.attacks.gradient import input_gradient
from dat.errors import UsageError
from dat.methods.at import AT
from dat.nn.contrastive import MoCoNetwork, SimCLRNetwork
from dat.nn.features import encoder_of
from dat.nn.norm import Normalized
from dat.tasks.contrastive import Contrastive, MomentumContrastive
from dat.types import Batch, DrawingTask, FollowedTask, Task

COUNT = 4


def backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def simclr() -> Normalized:
    torch.manual_seed(0)
    return Normalized(SimCLRNetwork(backbone(), depth=6, hidden=8, width=5), mean=[0.5] * 3, std=[0.5] * 3).eval()


def moco() -> Normalized:
    torch.manual_seed(0)
    return Normalized(MoCoNetwork(backbone(), depth=6, hidden=8, width=5), mean=[0.5] * 3, std=[0.5] * 3).eval()


def views() -> tuple[Tensor, Tensor]:
    drawn = torch.rand(2, COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return drawn[0], drawn[1]


def cosine(first: list[float], second: list[float]) -> float:
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return dot / math.sqrt(sum(a * a for a in first)) / math.sqrt(sum(b * b for b in second))


def test_simclr_is_equation_one_view_by_view() -> None:
    model, (first, second), temperature = simclr(), views(), 0.3
    vectors = [model(torch.cat([first, second])).queries[row].tolist() for row in range(2 * COUNT)]
    expected = []
    for row in range(COUNT):
        terms = []
        for here, there in ((row, row + COUNT), (row + COUNT, row)):
            shares = [math.exp(cosine(vectors[here], vectors[k]) / temperature) for k in range(2 * COUNT) if k != here]
            terms.append(-math.log(math.exp(cosine(vectors[here], vectors[there]) / temperature) / sum(shares)))
        expected.append(sum(terms) / 2)
    found = Contrastive(temperature).losses(model, first, second)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert len(found.unique()) == COUNT


def test_moco_is_its_algorithm_row_by_row() -> None:
    model, (first, second), temperature = moco(), views(), 0.2
    with torch.no_grad():
        for parameter in cast(MoCoNetwork, model.network).momentum.parameters():
            parameter.add_(0.1)
    found = [model(view) for view in (first, second)]
    queries, keys = ([part.tolist() for part in parts] for parts in zip(*found, strict=True))
    expected = []
    for row in range(COUNT):
        total = 0.0
        for query, key in ((queries[0], keys[1]), (queries[1], keys[0])):
            scores = [math.exp(cosine(query[row], other) / temperature) for other in key]
            total += -math.log(scores[row] / sum(scores))
        expected.append(2 * temperature * total)
    losses = MomentumContrastive(temperature).losses(model, first, second)
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "task"), [(simclr(), Contrastive()), (moco(), MomentumContrastive())])
def test_the_adversary_raises_the_loss_by_changing_the_first_view(model: Normalized, task: Any) -> None:
    first, second = views()
    gradient = input_gradient(first, lambda shown: task.losses(model, shown, second))
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    before = task.losses(model, first, second).sum()
    moved = first + 1e-2 * gradient / gradient.norm()
    assert task.losses(model, moved, second).sum() > before
    batch = Batch(first, second)
    for loss in AT(epsilon=0.05, step_size=0.05, steps=1)(model, batch, task):
        assert loss > before / COUNT
        loss.backward()
    assert isinstance(task, Task)
    assert not isinstance(task, DrawingTask)


def test_the_momentum_encoder_follows_and_is_trained_by_nothing_else() -> None:
    model, task, (first, second) = moco(), MomentumContrastive(momentum=0.9), views()
    network = cast(MoCoNetwork, model.network)
    before = [parameter.clone() for parameter in network.momentum.parameters()]
    own = [*network.backbone.parameters(), *network.projector.parameters()]
    with torch.no_grad():
        for parameter in own:
            parameter.add_(1.0)
    task.losses(model, first, second).sum().backward()
    assert all(parameter.grad is None for parameter in network.momentum.parameters())
    assert all(parameter.grad is not None for parameter in [*own, *network.predictor.parameters()])
    task.follow(model, progress=0.0)
    for old, new in zip(before, network.momentum.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    task.follow(model, progress=0.5)  # the momentum is 0.95 by then
    for old, new in zip(before, network.momentum.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1 + 0.05 * 0.9)
    task.follow(model, progress=1.0)
    for old, new in zip(before, network.momentum.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1 + 0.05 * 0.9)
    projected = model(first.clone().requires_grad_())
    assert projected.queries.requires_grad
    assert not projected.keys.requires_grad
    assert isinstance(task, FollowedTask)
    assert not isinstance(Contrastive(), FollowedTask)
    assert {key.split(".")[0] for key in network.state_dict()} == {"backbone", "projector", "predictor", "momentum"}


def test_features_are_those_of_the_backbone() -> None:
    for model in (simclr(), moco()):
        first, _ = views()
        expected = cast(Any, model.network).backbone((first - 0.5) / 0.5)
        torch.testing.assert_close(encoder_of(model)(first), expected)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: Contrastive(0.0), r"temperature is 0\.0, and similarities are divided by it"),
        (lambda: Contrastive(-1.0), r"temperature is -1\.0"),
        (lambda: MomentumContrastive(float("nan")), "temperature is nan"),
        (lambda: MomentumContrastive(momentum=1.5), r"momentum is 1\.5; write a share"),
        (lambda: Contrastive().losses(simclr(), views()[0][:1], views()[1][:1]), "the batch has one; take a batch of 2"),
        (lambda: MomentumContrastive().losses(moco(), views()[0][:1], views()[1][:1]), "the batch has one"),
        (lambda: SimCLRNetwork(backbone(), depth=6, hidden=0), "hidden is 0; write the number of channels"),
        (lambda: MoCoNetwork(backbone(), depth=6, width=-1), "width is -1"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        act()
