"""Which codes a step modifies, and what that does to the loss: against plain arithmetic, and with adversaries that are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ttest_1samp
from torch import Tensor, nn

import dat
from dat.analysis import codes
from dat.analysis.codes import SHOWN, Effect, discrete_change, effect, joined, random_change
from dat.attacks.gradient import input_gradient, unit_l2
from dat.discretizers.pretrained import load_discretizer
from dat.evaluation.intervals import chance_above
from dat.evaluation.selftest import adversary_alarm
from dat.results import mean_interval
from dat.tasks.classification import Classification

TASK = Classification()


class GreyLevels:
    """Each pixel becomes the nearest of nine equidistant values."""

    stride, codebook_size = 1, 729

    def __call__(self, images: Tensor) -> Tensor:
        return (images * 8).round() / 8

    def encode(self, images: Tensor) -> Tensor:
        digits = (images * 8).round().long()
        return digits[:, 0] * 81 + digits[:, 1] * 9 + digits[:, 2]

    def decode(self, codes: Tensor) -> Tensor:
        return torch.stack([codes // 81, codes // 9 % 9, codes % 9], dim=1) / 8


def problem(seed: int = 0, count: int = 200) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear classifier that is often right, images, their labels, and noise."""
    numbers = torch.Generator().manual_seed(seed)
    images, noise = torch.rand(count, 3, 6, 6, generator=numbers), torch.randn(count, 3, 6, 6, generator=numbers)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 10))
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=numbers)
    said = model(images).argmax(dim=1)
    labels = torch.where(torch.rand(count, generator=numbers) < 0.7, said, (said + 1) % 10)
    return model, images, labels, noise


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def test_what_is_compared_are_the_codes_of_x_and_of_x_plus_delta() -> None:
    model, images, labels, _ = problem()
    change, grey = discrete_change(model, TASK, GreyLevels(), images, labels, alpha=0.7), GreyLevels()
    delta = 0.7 * unit_l2(input_gradient(grey(images), lambda shown: TASK.losses(model, shown, labels)))
    stepped = (images + delta).clamp(0, 1)
    expected = ((images * 8).round() != (stepped * 8).round()).any(dim=1)
    assert torch.equal(change.changed, expected)
    assert torch.equal(change.rates, 100 * expected.flatten(1).float().mean(dim=1))
    assert change.rate == pytest.approx(100 * expected.float().mean().item())
    assert 1 < change.rate < 90
    assert torch.equal(change.reconstruction, grey(images))
    assert torch.equal(change.adversarial, grey(stepped))


def test_without_a_step_no_code_is_modified_though_what_was_decoded_has_others() -> None:
    """A discretizer seldom gives the codes back of what it decoded: these would be counted as the adversary's."""
    model, labels, discretizer = problem(count=8)[0], torch.arange(8) % 10, load_discretizer("cifar-f2-1024-fast")
    images = F.interpolate(torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1)), size=6, mode="bilinear")
    change = dat.discrete_change(model, TASK, discretizer, images, labels, alpha=0.0)
    assert change.rate == 0
    again = dat.modified_code_rate(discretizer.encode(images), discretizer.encode(change.adversarial))
    assert again.mean() > 0.05


def test_a_random_step_is_the_noise_at_the_same_length() -> None:
    _, images, _, noise = problem()
    images = 0.3 + 0.4 * images
    change = random_change(GreyLevels(), images, noise, alpha=0.7)
    stepped = images + 0.7 * noise / noise.flatten(1).norm(dim=1)[:, None, None, None]
    assert torch.equal(change.changed, ((images * 8).round() != (stepped * 8).round()).any(dim=1))
    assert torch.equal(change.adversarial, GreyLevels()(stepped))
    assert not random_change(GreyLevels(), images, noise, alpha=0.0).changed.any()


def test_losses_and_accuracies_are_those_of_what_is_shown() -> None:
    model, images, labels, noise = problem()
    found = effect(model.train(), TASK, GreyLevels(), images, labels, noise, alpha=0.7)
    assert model.training
    attacked = discrete_change(model, TASK, GreyLevels(), images, labels, alpha=0.7)
    blind = random_change(GreyLevels(), images, noise, alpha=0.7)
    shown = [GreyLevels()(images), attacked.adversarial, blind.adversarial]
    assert SHOWN == ("reconstruction", "adversarial", "random")
    assert found.right is not None
    for losses, right, pictures in zip(found.losses, found.right, shown, strict=True):
        torch.testing.assert_close(losses, cross_entropy(model, pictures, labels).double(), atol=1e-6, rtol=1e-5)
        assert torch.equal(right, (model(pictures).argmax(dim=1) == labels).double())
    torch.testing.assert_close(found.above_random, found.losses[1] - found.losses[2])
    assert torch.equal(found.modified, attacked.rates)
    assert torch.equal(found.modified_at_random, blind.rates)


class Squares:
    """A task without classes, whose adversary climbs another loss than the one that is minimised."""

    def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return -self.climbed_losses(model, images, targets)

    def climbed_losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return (model(images).mean(dim=1) - targets).square()


def test_of_a_task_without_classes_the_loss_is_what_its_adversary_climbs() -> None:
    model, images, labels, noise = problem(count=40)
    found = effect(model, Squares(), GreyLevels(), images, labels.float(), noise, alpha=0.7)
    attacked = discrete_change(model, Squares(), GreyLevels(), images, labels.float(), alpha=0.7)
    expected = (model(attacked.adversarial).mean(dim=1) - labels).square().detach().double()
    torch.testing.assert_close(found.losses[1], expected, atol=1e-6, rtol=1e-5)
    assert found.right is None
    assert joined([found, found]).right is None
    assert adversary_alarm(found.above_random, found.modified) is None


def test_batches_are_joined_in_their_order() -> None:
    model, images, labels, noise = problem()
    whole = effect(model, TASK, GreyLevels(), images, labels, noise, alpha=0.7)
    parts = [
        effect(model, TASK, GreyLevels(), images[part], labels[part], noise[part], alpha=0.7)
        for part in (slice(0, 70), slice(70, 200))
    ]
    for name in ("modified", "modified_at_random", "losses", "right"):
        torch.testing.assert_close(getattr(joined(parts), name), getattr(whole, name))


# ---- the self-test of an adversary


def planted(direction: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch, seed: int) -> Effect:
    """The effect of an adversary whose gradient was replaced; `direction` is given the gradient and noise."""
    model, images, labels, noise = problem(seed)
    other = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed + 1000))
    original: Any = codes.discrete_adversary

    def adversary(images: Tensor, loss_fn: Any, discretizer: Any, *, alpha: float) -> Tensor:
        first = discretizer(images)
        return discretizer((images + alpha * unit_l2(direction(input_gradient(first, loss_fn), other))).clamp(0, 1))

    with monkeypatch.context() as patch:
        patch.setattr(codes, "discrete_adversary", adversary)
        found = effect(model, TASK, GreyLevels(), images, labels, noise, alpha=0.7)
    assert codes.discrete_adversary is original
    return found


SEEDS = range(8)


def test_the_chance_is_that_of_a_paired_t_test() -> None:
    differences = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.3
    for values in (differences, -differences):
        expected = ttest_1samp(values.numpy(), 0.0, alternative="greater")
        chance = chance_above(*mean_interval(values.tolist()), len(values))
        assert chance == pytest.approx(float(cast(Any, expected).pvalue))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_adversary_raises_no_alarm_and_its_opposite_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At equal shares of modified codes, which therefore tell nothing."""
    good = planted(lambda gradient, _: gradient, monkeypatch, seed)
    bad = planted(lambda gradient, _: -gradient, monkeypatch, seed)
    assert adversary_alarm(good.above_random, good.modified) is None
    alarm = adversary_alarm(bad.above_random, bad.modified)
    assert alarm is not None
    assert (alarm.name, alarm.stops) == ("adversary-backwards", True)
    assert "lowers the loss by" in alarm.sentence
    assert float(good.modified.mean()) == pytest.approx(float(bad.modified.mean()), rel=0.1)
    assert float(good.modified.mean()) == pytest.approx(float(good.modified_at_random.mean()), rel=0.1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_direction_is_no_adversary(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planted(lambda _, noise: noise, monkeypatch, seed)
    alarm = adversary_alarm(found.above_random, found.modified)
    assert alarm is not None
    assert (alarm.name, alarm.stops) == ("adversary-unproven", False)
    assert "take more pictures or a longer step" in alarm.sentence


@pytest.mark.parametrize("count", [1, 3])
def test_of_few_pictures_or_none_that_change_nothing_is_claimed(count: int) -> None:
    still = torch.zeros(count, dtype=torch.float64)
    alarm = adversary_alarm(still, still)
    assert alarm is not None
    assert (alarm.name, alarm.stops) == ("adversary-unproven", False)
    assert adversary_alarm(still + 0.1, still) is not None  # that all rise alike may be one picture many times


def test_soft_targets_have_an_effect_too() -> None:
    model, images, labels, noise = problem(count=20)
    soft = F.one_hot(labels, 10).float()
    hard = effect(model, TASK, GreyLevels(), images, labels, noise, alpha=0.7)
    again = effect(model, replace(TASK), GreyLevels(), images, soft, noise, alpha=0.7)
    torch.testing.assert_close(again.losses, hard.losses)
    assert again.right is not None
    assert hard.right is not None
    assert torch.equal(again.right, hard.right)
