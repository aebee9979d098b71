from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.augment.style import statistics_style
from dat.errors import UsageError
from dat.methods.debiased import Debiased
from dat.nn.norm import with_auxiliary_norms
from dat.recipe.methods import _method_section, build_method
from dat.tasks.classification import Classification
from dat.types import Batch

Golden = Callable[[str], Path]
TASK = Classification()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Ordered(Batch):
    """A batch whose permutation is given."""

    order: Tensor = field(default_factory=lambda: torch.tensor([]))

    def draw(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        assert (sampler, shape) == (torch.rand, ())
        return self.order.argsort().double() / len(self.order)


class Shown(nn.Module):
    """A classifier of any size of images, with given logits or its own; remembers what it was shown."""

    def __init__(self, logits: list[Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(4, 5)
        self.given, self.images = logits, []

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images.detach().clone())
        return self.head(self.body(images)) if self.given is None else self.given[len(self.images) - 1]


def batch(count: int = 4, *, side: int = 16, **settings: Any) -> Batch:
    numbers = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, side, side, generator=numbers)
    return Batch(images, torch.arange(count) % 5, numbers, **settings)


def method(**settings: Any) -> Debiased:
    return Debiased(auxiliary_norms=False, **settings)


@pytest.mark.shared
@pytest.mark.parametrize("soft", [False, True])
def test_losses_and_their_gradient_are_the_original_s(golden: Golden, soft: bool) -> None:
    tensors = load_file(golden("adain_debiased") / "io.safetensors")
    logits = tensors["logits"].clone().requires_grad_()
    labels = tensors["labels"]
    targets = nn.functional.one_hot(labels, logits.shape[1]).float() if soft else labels
    given = Ordered(tensors["x"], targets, order=tensors["permutation"])
    losses = list(method(multi_grid=False)(Shown(list(logits.split(len(labels)))), given, TASK))
    for loss in losses:
        loss.backward()
    halves = tensors["per_example_loss"].view(2, -1).mean(dim=1) / 2
    torch.testing.assert_close(torch.stack(losses).detach(), halves, atol=0, rtol=1e-5)
    torch.testing.assert_close(logits.grad, tensors["grad_logits_of_mean"], atol=1e-7, rtol=1e-4)


@pytest.mark.shared
def test_adain_shows_the_original_s_images_clamped(golden: Golden) -> None:
    folder = golden("adain_debiased")
    tensors, model = load_file(folder / "io.safetensors"), Shown()
    given = Ordered(tensors["x"], tensors["labels"], order=tensors["permutation"])
    files = {name: str(folder / f"{name}.safetensors") for name in ("vgg", "decoder")}
    list(method(style="adain", **files, mix=0.7, multi_grid=False)(model, given, TASK))
    torch.testing.assert_close(model.images[1], tensors["stylised_alpha0_7"].clamp(0, 1), atol=1e-4, rtol=0)


def test_the_style_is_that_of_another_image_of_the_batch() -> None:
    order, model = torch.tensor([2, 0, 3, 1]), Shown()
    given = Ordered(batch().images, batch().targets, order=order)
    list(method(multi_grid=False)(model, given, TASK))
    assert torch.equal(model.images[0], given.images)
    assert torch.equal(model.images[1], statistics_style(given.images, given.images[order], alpha=0.5))


def original_size(number: int, epoch: int) -> int:
    """Of 224 pixels, in 100 epochs with drops at 30, 60 and 90, by a plain reading of the facts."""
    first_half = epoch < 15 or 30 <= epoch < 45 or 60 <= epoch < 75 or 90 <= epoch < 95
    return {0: 224, 1: 158, 2: 112}[(number % 2 == 0) + first_half]


def test_the_size_schedule_is_the_original_s() -> None:
    steps = 7
    for epoch in range(100):
        for number in range(steps):
            progress = (epoch * steps + number) / (100 * steps)
            assert Debiased().size(224, step=number, progress=progress) == original_size(number, epoch), (epoch, number)


def test_the_least_size_is_a_share_of_the_side() -> None:
    assert Debiased(least_size=0.7).size(32, step=0, progress=0.0) == 22
    assert Debiased().size(1, step=0, progress=0.0) == 1
    assert Debiased(multi_grid=False).size(32, step=0, progress=0.0) == 32


def test_small_images_are_those_of_the_nearest_pixels() -> None:
    model, given = Shown(), batch(step=2, progress=0.1)
    list(method(mix=0.0)(model, given, TASK))
    assert torch.equal(model.images[0], given.images)
    assert torch.equal(model.images[1], given.images[..., ::2, ::2])
    list(method(mix=0.0)(model, batch(step=3, progress=0.1), TASK))
    assert model.images[3].shape[-2:] == (11, 11)


def test_a_model_of_one_size_is_told_what_to_write() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    with pytest.raises(UsageError, match=r"stylised images of 8 x 8 pixels .*multi_grid: false"):
        list(method()(model, batch(), TASK))
    assert len(list(method(multi_grid=False)(model, batch(), TASK))) == 2


def test_a_fault_of_the_model_s_own_is_not_renamed() -> None:
    class Failing(Shown):
        def forward(self, images: Tensor) -> Tensor:
            if self.images:
                raise torch.OutOfMemoryError("no room")
            return super().forward(images)

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        list(method()(Failing(), batch(), TASK))


def test_norms_that_are_asked_for_must_be_there() -> None:
    with pytest.raises(UsageError, match="with_auxiliary_norms"):
        list(Debiased()(Shown(), batch(), TASK))
    assert len(list(Debiased()(with_auxiliary_norms(Shown()), batch(), TASK))) == 2


def test_a_task_without_classes_is_refused() -> None:
    class OneLoss:
        def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            return model(images).mean(dim=1)

    with pytest.raises(UsageError, match="OneLoss"):
        list(method()(Shown(), batch(), OneLoss()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mix": 1.5}, "mix is 1.5"),
        ({"shape_weight": -0.1}, "shape_weight is -0.1"),
        ({"least_size": 2.0}, "least_size is 2.0"),
        ({"stages": ()}, "stages are"),
        ({"stages": (0.3, 0.6)}, "stages are"),
        ({"stages": (0.0, 0.6, 0.3)}, "stages are"),
        ({"stages": (0.0, 1.0)}, "stages are"),
        ({"style": "adain"}, "needs vgg"),
        ({"vgg": "vgg.pth"}, "only 'adain' has weights"),
        ({"style": "adain", "vgg": "absent.pth", "decoder": "absent.pth"}, "vgg is 'absent.pth', where there is no file"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Debiased(**settings)


def test_a_recipe_can_set_all_of_it() -> None:
    section = _method_section("debiased", Debiased)
    built = section.model_validate_json('{"method": "debiased", "stages": [0.0, 0.5], "mix": 0.3, "multi_grid": false}')
    assert build_method(built, None) == Debiased(stages=(0.0, 0.5), mix=0.3, multi_grid=False)
