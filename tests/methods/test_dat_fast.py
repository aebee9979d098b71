"""DAT of a share of each batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dat.attacks.gradient import Norm, input_gradient, unit_l2
from dat.errors import UsageError
from dat.methods.dat import DAT
from dat.methods.dat_fast import DATFast
from dat.tasks.classification import Classification
from dat.types import Batch, Method

torch.set_num_threads(1)  # the tensors are tiny

SCALES = pytest.mark.parametrize("scale", ["l2", "linf"])
TASK = Classification()


class Darker:
    """A discretizer that halves every pixel, and keeps what it was given."""

    codebook_size = stride = 1

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.given.append(images)
        return images / 2

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError


class Seen(nn.Module):
    """A network that keeps what it trains on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5))
        self.trained_on: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.trained_on.append(images.detach())
        return self.inner(images)


def batch() -> Batch:
    numbers = torch.Generator().manual_seed(1)
    return Batch(torch.rand(10, 3, 8, 8, generator=numbers) * 0.9 + 0.05, torch.arange(10) % 5)


def run(method: Method, model: nn.Module) -> list[float]:
    torch.manual_seed(2)
    losses = []
    for loss in method(model, batch(), TASK):
        loss.backward()
        losses.append(loss.item())
    return losses


@SCALES
def test_the_first_images_become_adversaries_those_after_them_stay_and_the_last_are_left_out(scale: Norm) -> None:
    model, given, discretizer = Seen(), batch(), Darker()
    (loss,) = run(DATFast(discretizer, alpha=0.3, adversarial_share=0.4, clean_share=0.3, gradient_scale=scale), model)
    few = given.images[:4]
    gradient = input_gradient(few / 2, lambda shown: TASK.losses(model.eval(), shown, given.targets[:4]))
    step = unit_l2(gradient) if scale == "l2" else gradient.sign()
    perturbed = (few + 0.3 * step).clamp(0, 1)
    (seen,) = model.trained_on
    torch.testing.assert_close(discretizer.given[-1], perturbed, atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[:4], perturbed / 2, atol=1e-6, rtol=0)
    assert torch.equal(seen[4:], given.images[4:7])
    torch.manual_seed(2)  # the masks of the step
    assert loss == pytest.approx(TASK.losses(model.train(), seen, given.targets[:7]).mean().item())


def test_of_all_images_it_is_dat() -> None:
    whole = run(DATFast(Darker(), alpha=0.3, adversarial_share=1.0, clean_share=0.0), fast := Seen())
    paper = run(DAT(Darker(), alpha=0.3), exact := Seen())
    assert whole == pytest.approx(paper, rel=1e-6)
    for parameter, other in zip(fast.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


def test_the_adversary_leaves_no_gradient_and_the_model_in_train_mode() -> None:
    model, first = Seen(), []
    for loss in DATFast(Darker(), alpha=0.3)(model, batch(), TASK):
        first = [parameter.grad for parameter in model.parameters()]
        loss.backward()
    assert set(first) == {None}
    assert all(module.training for module in model.modules())


def test_a_step_whose_length_is_open_is_of_all_images() -> None:
    given = batch()
    step = DATFast(Darker(), alpha=0.3, adversarial_share=0.1).step(Seen(), given, TASK)
    assert torch.equal(step.images, given.images)
    moved = (step.after(0.05) - given.images).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((10,), 0.05), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"adversarial_share": 0.0},
            "adversarial_share is 0.0 .* write an adversarial_share above 0, and both together at most",
        ),
        ({"adversarial_share": 0.8}, "adversarial_share is 0.8 and clean_share 0.3"),
        ({"clean_share": -0.1}, "clean_share -0.1"),
        ({"adversarial_share": float("nan")}, "adversarial_share is nan"),
        ({"clean_share": float("nan")}, "clean_share nan"),
        ({"alpha": -0.1}, "alpha is -0.1"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        DATFast(Darker(), **settings)


def test_a_share_of_no_image_is_refused() -> None:
    with pytest.raises(UsageError, match=r"adversarial_share is 0\.04, which makes none of the 10 images of a micro-batch"):
        run(DATFast(Darker(), adversarial_share=0.04), Seen())


def test_random_numbers_of_a_control_are_those_of_its_rows() -> None:
    """The second process draws for the whole step, and keeps its own."""
    given, shown = batch(), []
    for part in (given, replace(given, images=given.images[5:], targets=given.targets[5:], first=5, total=10)):
        discretizer = Darker()
        drawn = replace(part, generator=torch.Generator().manual_seed(3))
        list(DATFast(discretizer, alpha=0.1, adversarial_share=1.0, clean_share=0.0, direction="random")(Seen(), drawn, TASK))
        shown.append(discretizer.given[0])
    assert torch.equal(shown[0][5:], shown[1])
