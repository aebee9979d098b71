"""DAT with the gradient of its own clean branch."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dat.attacks.gradient import Norm, input_gradient, unit_l2
from dat.errors import UsageError
from dat.methods.dat import DAT
from dat.methods.dat_free import DATFree
from dat.tasks.classification import Classification
from dat.types import Batch, Method

torch.set_num_threads(1)  # the tensors are tiny

SCALES = pytest.mark.parametrize("scale", ["l2", "linf"])


class Identity:
    """A discretizer that changes nothing, and keeps what it was given."""

    codebook_size = stride = 1

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.given.append(images)
        return images

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).train()


def batch() -> Batch:
    numbers = torch.Generator().manual_seed(1)
    return Batch(torch.rand(6, 3, 8, 8, generator=numbers) * 0.9 + 0.05, torch.arange(6) % 5)


def run(method: Method, model: nn.Module, backward: Callable[[Tensor], None] = Tensor.backward) -> list[float]:
    losses = []
    for loss in method(model, batch(), Classification()):
        backward(loss)
        losses.append(loss.item())
    return losses


@SCALES
def test_delta_is_the_step_along_the_gradient_of_the_clean_loss(scale: Norm) -> None:
    model, given, discretizer = network(), batch(), Identity()
    gradient = input_gradient(given.images, lambda x: Classification().losses(model, x, given.targets))
    run(DATFree(discretizer, alpha=0.3, gradient_scale=scale), model)
    step = unit_l2(gradient) if scale == "l2" else gradient.sign()
    (perturbed,) = discretizer.given
    torch.testing.assert_close(perturbed, (given.images + 0.3 * step).clamp(0, 1), atol=1e-6, rtol=0)


@SCALES
def test_where_nothing_is_lost_in_discretizing_it_is_dat(scale: Norm) -> None:
    """x = Q(x): the gradient at one is the gradient at the other, but for what train mode changes (nothing here)."""
    free = run(DATFree(Identity(), alpha=0.3, gradient_scale=scale), network())
    paid = run(DAT(Identity(), alpha=0.3, gradient_scale=scale), network())
    assert free[1:] == pytest.approx(paid, rel=1e-6)
    assert free[1] > free[0]


@SCALES
@pytest.mark.parametrize("factor", [2.0**-60, 2.0**60])
def test_only_the_direction_counts(scale: Norm, factor: float) -> None:
    plain, scaled = Identity(), Identity()
    run(DATFree(plain, alpha=0.3, gradient_scale=scale), network())
    run(DATFree(scaled, alpha=0.3, gradient_scale=scale), network(), lambda loss: (loss * factor).backward())
    torch.testing.assert_close(scaled.given[0], plain.given[0], atol=1e-6, rtol=0)


@SCALES
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_gradient_that_overflowed_moves_nothing(scale: Norm, factor: float) -> None:
    discretizer = Identity()
    run(DATFree(discretizer, gradient_scale=scale), network(), lambda loss: (loss * factor).backward())
    assert torch.equal(discretizer.given[0], batch().images)


def test_a_loop_that_does_not_go_backward_in_between_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"call backward\(\) on each loss as it is yielded"):
        list(DATFree(Identity())(network(), batch(), Classification()))


@pytest.mark.parametrize(("settings", "says"), [({"alpha": -1.0}, "alpha is -1"), ({"gradient_scale": "raw"}, "is 'raw'")])
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], says: str) -> None:
    make = inspect.unwrap(DATFree.__init__)  # users have no type checks at every call, as these tests do
    with pytest.raises(UsageError, match=says):
        make(object.__new__(DATFree), Identity(), **settings)
