from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.errors import UsageError
from dat.methods.augmix import AugMix, jensen_shannon_divergence
from dat.tasks.classification import Classification
from dat.types import Batch


class Recording(nn.Module):
    """Gives the mean colour as logits, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shown = nn.Parameter(torch.ones(())), []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        return 10 * self.scale * images.mean(dim=(2, 3))


def batch(count: int = 8) -> Batch:
    numbers = torch.Generator().manual_seed(0)
    return Batch(torch.rand(count, 3, 8, 8, generator=numbers), torch.arange(count) % 3, numbers)


@pytest.mark.shared
def test_loss_and_gradient_equal_the_source(golden: Callable[[str], Path]) -> None:
    stored = load_file(golden("augmix") / "jsd.safetensors")
    expected = json.loads((golden("augmix") / "config.json").read_text())["jsd"]
    logits, targets = stored["logits_all"].requires_grad_(), stored["targets"]

    class Fixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) == len(logits)
            return logits

    given = Batch(torch.rand(5, 3, 8, 8), targets, torch.Generator())
    (loss,) = AugMix()(Fixed(), given, Classification())
    loss.backward()
    assert loss.item() == pytest.approx(expected["total"], abs=1e-5)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, stored["grad_logits"], atol=1e-6, rtol=1e-5)


def test_divergence_equals_its_definition_and_survives_underflow() -> None:
    logits = 3 * torch.randn(3, 4, 6)
    shares = logits.double().softmax(dim=-1)
    middle = shares.mean(dim=0)
    expected = sum((share * (share / middle).log()).sum(dim=-1) for share in shares) / 3
    torch.testing.assert_close(jensen_shannon_divergence(logits).double(), torch.as_tensor(expected), atol=1e-5, rtol=1e-4)
    certain = torch.tensor([[[300.0, 0.0]], [[0.0, 300.0]], [[300.0, 0.0]]], requires_grad=True)
    divergence = jensen_shannon_divergence(certain)
    divergence.sum().backward()
    assert divergence.isfinite().all()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_three_views_in_one_pass_and_only_the_clean_one_is_classified() -> None:
    model, given = Recording(), batch()
    (loss,) = AugMix(severity=3.0)(model, given, Classification())
    (shown,) = model.shown
    clean, first, second = shown.chunk(3)
    assert torch.equal(clean, given.images)
    for one, other in [(clean, first), (clean, second), (first, second)]:
        assert ((one - other).abs().amax(dim=(1, 2, 3)) > 1e-4).all()
    logits = torch.stack([10 * view.mean(dim=(2, 3)) for view in (clean, first, second)])
    expected = F.cross_entropy(logits[0], given.targets) + 12 * jensen_shannon_divergence(logits).mean()
    torch.testing.assert_close(loss, expected)


def test_without_divergence_one_mixture_is_classified() -> None:
    model, given = Recording(), batch()
    (loss,) = AugMix(jsd_weight=0.0)(model, given, Classification())
    (shown,) = model.shown
    assert shown.shape == given.images.shape
    assert not torch.equal(shown, given.images)
    torch.testing.assert_close(loss, F.cross_entropy(10 * shown.mean(dim=(2, 3)), given.targets))


class OnlyLosses:
    def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return model(images).square().mean(dim=1)


def test_a_task_without_classes_is_refused_unless_nothing_is_compared() -> None:
    with pytest.raises(UsageError, match=r"OnlyLosses has not; write jsd_weight: 0"):
        next(AugMix()(Recording(), batch(), OnlyLosses()))
    assert next(AugMix(jsd_weight=0.0)(Recording(), batch(), OnlyLosses())).isfinite()


@pytest.mark.parametrize("settings", [{"jsd_weight": -1.0}, {"width": 0}, {"severity": 20.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        AugMix(**settings)  # pyright: ignore[reportArgumentType]  # a dictionary of both kinds of numbers
