"""`dat.codes`: the adversary beside steps and codes that know no loss, at an equal rate, against plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dat
from dat.analysis.codes import COMPARED, Modified
from dat.attacks.gradient import input_gradient, unit_l2
from dat.tasks.classification import Classification
from tests.analysis.test_effect import GreyLevels, cross_entropy, problem

TASK = Classification()


def swept(alpha: float, seed: int = 0) -> tuple[Modified, Tensor]:
    model, images, labels, _ = problem()
    numbers = torch.Generator().manual_seed(seed)
    found = dat.codes(images, lambda shown: TASK.losses(model, shown, labels), GreyLevels(), alpha=alpha, generator=numbers)
    return found, images


def test_rates_losses_and_distances_are_those_of_plain_calls() -> None:
    model, images, labels, _ = problem()
    found, _ = swept(0.7)
    change = dat.discrete_change(model, TASK, GreyLevels(), images, labels, alpha=0.7)
    assert list(found.images) == list(COMPARED)
    assert torch.equal(found.rates["discrete"], change.rates)
    assert torch.equal(found.images["discrete"], change.adversarial)
    assert torch.equal(found.images["reconstruction"], change.reconstruction)
    grey = GreyLevels()
    for name, shown in found.images.items():
        torch.testing.assert_close(found.losses[name], cross_entropy(model, shown, labels), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.l2[name], (shown - grey(images)).flatten(1).square().sum(dim=1).sqrt())
        assert not found.losses[name].requires_grad
        rate = 100 * dat.modified_code_rate(grey.encode(images), grey.encode(shown))
        torch.testing.assert_close(found.rates[name], rate)


def test_random_codes_are_as_many_in_every_picture_but_other_ones() -> None:
    found, images = swept(0.7)
    assert torch.equal(found.rates["random-codes"], found.rates["discrete"])
    assert found.rates["discrete"].std() > 0
    grey = GreyLevels()
    places = [grey.encode(found.images[name]) != grey.encode(images) for name in ("discrete", "random-codes")]
    assert not torch.equal(*places)
    share = float((places[0] & places[1]).sum() / places[0].sum())
    assert share == pytest.approx(float(found.rates["discrete"].mean()) / 100, abs=0.02), "places are independent"
    counts = places[1].float().mean(dim=0)
    assert float((counts - counts.mean()).abs().max()) < 0.15, "each place is as likely"


def test_the_adversary_is_more_than_its_rate() -> None:
    found, _ = swept(0.7)
    for blind in ("random-step", "reconstruction"):
        assert float((found.losses["discrete"] - found.losses[blind]).mean()) > 0.5


def test_without_a_step_all_ways_are_the_reconstruction() -> None:
    found, _ = swept(0.0)
    for name in COMPARED:
        assert torch.equal(found.images[name], found.images["reconstruction"])
        assert not found.rates[name].any()
        assert not found.l2[name].any()


def test_what_is_blind_follows_from_the_generator() -> None:
    first, again, other = (swept(0.7, seed)[0] for seed in (0, 0, 1))
    for name in ("random-step", "random-codes"):
        assert torch.equal(first.images[name], again.images[name])
        assert not torch.equal(first.images[name], other.images[name])
    assert torch.equal(first.images["discrete"], other.images["discrete"])


class Drifting(GreyLevels):
    """Decodes one level brighter, so that of what it decoded it gives other codes."""

    def __call__(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    def decode(self, codes: Tensor) -> Tensor:
        return (super().decode(codes) + 1 / 8).clamp(max=1)


def test_codes_are_compared_with_those_of_the_picture_and_not_of_its_reconstruction() -> None:
    model, images, labels, _ = problem()
    words = Drifting()
    assert (words.encode(words(images)) != words.encode(images)).all(dim=(1, 2)).float().mean() > 0.5

    def loss_fn(shown: Tensor) -> Tensor:
        return TASK.losses(model, shown, labels)

    still = dat.codes(images, loss_fn, words, alpha=0.0, generator=torch.Generator().manual_seed(0))
    assert not any(still.rates[name].any() or still.l2[name].any() for name in COMPARED)
    found = dat.codes(images, loss_fn, words, alpha=0.7, generator=torch.Generator().manual_seed(0))
    stepped = (images + 0.7 * unit_l2(input_gradient(words(images), loss_fn))).clamp(0, 1)
    expected = 100 * (words.encode(stepped) != words.encode(images)).flatten(1).float().mean(dim=1)
    assert torch.equal(found.rates["discrete"], expected)
    assert torch.equal(found.rates["random-codes"], expected)
    assert 0 < float(found.rates["random-step"].mean()) < 1.5 * float(expected.mean())
    drawn = words.encode((found.images["random-codes"] - 1 / 8).clamp(0, 1))
    few = (words.encode(images) != drawn) & ~(found.images["random-codes"] == 1).any(dim=1)
    assert float(few.float().mean()) < float(expected.mean()) / 100, "the others are those of the picture"
