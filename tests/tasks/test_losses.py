"""Losses whose gradient does not saturate, against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dat.tasks.losses import binary_cross_entropy, cross_entropy, margin

torch.set_num_threads(1)
CLASSES = 7


def logits(scale: float, *, count: int = 40) -> Tensor:
    return scale * torch.randn(count, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def targets(kind: str, count: int = 40) -> Tensor:
    labels = torch.arange(count) % CLASSES
    numbers = torch.rand(count, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    forms = {
        "integer": labels,
        "one-hot": F.one_hot(labels, CLASSES).double(),
        "soft": numbers.softmax(dim=1),
        "unnormalised": numbers,
    }
    return forms[kind]


def gradient(loss: Tensor, given: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), given)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["integer", "one-hot", "soft", "unnormalised"])
def test_value_and_gradient_are_those_of_torch_in_float64(kind: str, smoothing: float) -> None:
    given, right = logits(3.0).requires_grad_(), targets(kind)
    ours = cross_entropy(given, right, smoothing=smoothing)
    theirs = F.cross_entropy(given, right, reduction="none", label_smoothing=smoothing if right.ndim == 1 else 0.0)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, given), gradient(theirs, given))
    if kind == "unnormalised":
        return
    ours = binary_cross_entropy(given, right, smoothing=smoothing)
    shares = right if right.ndim == 2 else F.one_hot(right, CLASSES) * (1 - smoothing) + smoothing / CLASSES
    theirs = F.binary_cross_entropy_with_logits(given, shares.double(), reduction="none").sum(dim=1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, given), gradient(theirs, given))


@pytest.mark.parametrize("sure", [5.0, 9.0, 20.0, 40.0])
@pytest.mark.parametrize("kind", ["integer", "one-hot"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_sure_model_has_a_gradient_in_float32(sure: float, kind: str, sigmoid: bool) -> None:
    """To five digits that of float64; torch's is 0, or wrong by far, from a margin of about 17 on; here it is twice as sure."""
    labels, right = targets("integer"), targets(kind)
    exact = logits(0.1) + sure * (2 * F.one_hot(labels, CLASSES) - 1)
    loss = binary_cross_entropy if sigmoid else cross_entropy
    found, known = (
        gradient(loss(given, right), given)
        for given in (exact.float().requires_grad_(), exact.float().double().requires_grad_())
    )
    assert (known.abs().amax(dim=1) > 0).all()
    torch.testing.assert_close(found.double(), known, rtol=1e-5, atol=0.0)


def test_the_margin_rises_with_the_cross_entropy_and_its_gradient_never_vanishes() -> None:
    labels = targets("integer")
    given = (logits(1.0) + 500 * F.one_hot(labels, CLASSES)).float().requires_grad_()
    found = margin(given, labels)
    torch.testing.assert_close(gradient(found, given).gather(1, labels[:, None])[:, 0], -torch.ones(40))
    small = logits(1.0)
    torch.testing.assert_close(F.softplus(margin(small, labels)), F.cross_entropy(small, labels, reduction="none"))


def test_lower_precision_is_computed_in_float32_and_higher_kept() -> None:
    labels = targets("integer")
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)):
        assert margin(logits(1.0).to(dtype), labels).dtype == expected
        assert cross_entropy(logits(1.0).to(dtype), labels, smoothing=0.1).dtype == expected


def test_outputs_that_are_never_said_do_not_count() -> None:
    """A masked class has minus infinity."""
    given = logits(1.0)
    given[:, -1] = -torch.inf
    labels = torch.arange(40) % (CLASSES - 1)
    torch.testing.assert_close(cross_entropy(given, labels), F.cross_entropy(given[:, :-1], labels, reduction="none"))
