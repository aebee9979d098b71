"""AdvProp: the reference program's adversarial images, the step of one pass over both halves, and what is refused."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.attacks.gradient import input_gradient
from dat.errors import UsageError
from dat.methods.advprop import AdvProp, start_of
from dat.nn.norm import Normalized, TwoNorms, with_auxiliary_norms
from dat.tasks.classification import Classification
from dat.types import Batch, PerImage

Golden = Callable[[str], Path]
CLASSES = 10
TASK = Classification(num_classes=CLASSES)


@dataclass(frozen=True)
class Scripted(Batch):
    """A batch whose random numbers are given."""

    numbers: tuple[Tensor, ...] = ()
    once: float = 0.0

    def draw(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        assert sampler is torch.rand
        return next(numbers for numbers in self.numbers if numbers.shape[1:] == shape)

    def draw_once(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        assert sampler is torch.randn
        assert shape == ()
        return torch.tensor(self.once)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(8, CLASSES))


def two_norms() -> nn.Sequential:
    """A network with an auxiliary layer that differs from the main one in everything."""
    model = network()
    with_auxiliary_norms(model)
    auxiliary = layer_of(model).auxiliary
    for tensor in (*auxiliary.parameters(), *auxiliary.buffers()):
        tensor.data = 0.5 + torch.rand_like(tensor) if tensor.is_floating_point() else tensor
    return model.train()


def layer_of(model: nn.Sequential) -> TwoNorms:
    layer = model[1]
    assert isinstance(layer, TwoNorms)
    return layer


def batch(count: int = 6, *, once: float = 1.0) -> Scripted:
    numbers = torch.Generator().manual_seed(3)
    images, noise = (torch.rand(count, 3, 8, 8, generator=numbers) for _ in range(2))
    return Scripted(images, torch.arange(count), numbers=(torch.rand(count, generator=numbers), noise), once=once)


def shown(steps: Iterator[Tensor], model: nn.Module) -> list[Tensor]:
    """What the model is shown in a step, pass by pass."""
    seen: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    for loss in steps:
        loss.backward()
    hook.remove()
    return seen


@pytest.mark.shared
@pytest.mark.parametrize(
    "case", ["pgd1_eps1_clean", "pgd5_eps4_clean", "pgd1_eps1_noise", "pgd3_eps2_noise", "pgd2_eps3_untargeted_clean"]
)
def test_adversarial_images_equal_the_reference(golden: Golden, case: str) -> None:
    """Through layers in eval mode; the classes that the reference drew, the start that it decided on.

    Its noise may leave the range before the first gradient, ours not: pixels that the noise could take there are left out.
    """
    folder = golden("attacks")
    values, config = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())["configs"]
    settings: dict[str, Any] = config[f"advprop.{case}"]
    centred = network()
    centred.load_state_dict(load_file(folder / "classifier.safetensors"))
    model = with_auxiliary_norms(Normalized(centred, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))).train()
    labels, epsilon = values["y"], settings["epsilon"] / 255
    numbers = ((values["advprop.targets"] - labels) % CLASSES + 0.5) / CLASSES
    start = {"clean": 0.1, "noise": 0.3}[settings["start"]]
    given = Scripted((values["advprop.x_in"] + 1) / 2, labels, numbers=(numbers, values["advprop.noise_uniform01"]), once=start)
    method = AdvProp(
        epsilon=epsilon,
        step_size=max(settings["step_size"], settings["epsilon"] / settings["num_iter"]) / 255,
        steps=settings["num_iter"],
        targeted=settings["targeted"],
    )
    *_, clean, adversarial = shown(method(model, given, TASK), model)
    assert torch.equal(clean, given.images)
    inside = (given.images > epsilon) & (given.images < 1 - epsilon) | torch.tensor(settings["start"] == "clean")
    assert inside.float().mean() > 0.8
    wrong = ((2 * adversarial - 1 - values[f"advprop.{case}"]).abs() > 1e-5)[inside].float().mean().item()
    assert wrong <= 1e-3, f"{100 * wrong:.2f} % of the values differ"


class SplitNorm(nn.Module):
    """The reference's layer: the first half of what it is given through one layer, the second through another."""

    def __init__(self, layer: TwoNorms) -> None:
        super().__init__()
        self.main, self.auxiliary = layer.main, layer.auxiliary

    def forward(self, features: Tensor) -> Tensor:
        clean, adversarial = features.chunk(2)
        return torch.cat([self.main(clean), self.auxiliary(adversarial)])


def test_two_passes_are_one_pass_over_both_halves() -> None:
    """Loss, gradients and running statistics of one forward pass over `cat[clean, adversarial]`, with the mean over 2 B."""
    model, twin, given = two_norms(), two_norms(), batch()
    losses = []
    seen = shown((losses.append(loss.detach()) or loss for loss in AdvProp(epsilon=0.1)(model, given, TASK)), model)
    twin[1] = SplitNorm(layer_of(twin))
    expected = F.cross_entropy(twin(torch.cat([given.images, seen[-1]])), given.targets.repeat(2))
    expected.backward()
    torch.testing.assert_close(torch.stack(losses).sum(), expected.detach())
    for (key, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda said, key=key: f"{key}: {said}")
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_the_attack_goes_through_its_own_layers(targeted: bool, auxiliary: bool) -> None:
    """Down the loss of the drawn class, or up that of the true one, in eval mode, of the layers that train on it."""
    model, given = two_norms(), batch(once=-1.0)
    method = AdvProp(epsilon=0.05, step_size=0.05, targeted=targeted, auxiliary_norms=auxiliary)
    adversarial = shown(method(model, given, TASK), model)[-1]
    victim, aims = two_norms().eval(), TASK.random_classes(given.targets, given.numbers[0]) if targeted else given.targets
    victim[1] = layer_of(victim).auxiliary if auxiliary else layer_of(victim).main
    gradient = input_gradient(given.images, lambda images: F.cross_entropy(victim(images), aims, reduction="none"))
    expected = (given.images + (-0.05 if targeted else 0.05) * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(adversarial, expected, atol=1e-6, rtol=0)
    assert (adversarial != given.images).float().mean() > 0.9


@pytest.mark.parametrize(("number", "threshold", "noisy"), [(0.19, 0.2, False), (0.21, 0.2, True), (2.9, 9.0, False)])
def test_one_normal_number_decides_on_the_start_of_all(number: float, threshold: float, noisy: bool) -> None:
    model, given = two_norms(), batch(once=number)
    start = shown(AdvProp(epsilon=0.1, noise_threshold=threshold)(model, given, TASK), model)[0]
    noise = (given.images + 0.1 * (2 * given.numbers[1] - 1)).clamp(0, 1)
    torch.testing.assert_close(start, noise if noisy else given.images, atol=1e-6, rtol=0)


def test_noise_is_where_42_percent_of_the_steps_start() -> None:
    """The share that the official threshold makes: 1 - Phi(0.2); within four deviations of 2000 steps."""
    numbers, share = torch.Generator().manual_seed(0), 0.5 * math.erfc(0.2 / 2**0.5)
    given = Batch(torch.full((1, 3, 1, 1), 0.5), torch.zeros(1, dtype=torch.long), numbers)
    noisy = sum(not torch.equal(start_of(given, epsilon=0.1, noise_threshold=0.2), given.images) for _ in range(2000))
    assert share == pytest.approx(0.42, abs=1e-3)
    assert abs(noisy / 2000 - share) < 4 * (share * (1 - share) / 2000) ** 0.5


class Distances:
    """A task without classes."""

    def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> PerImage:
        return model(images).square().mean(dim=1)


def test_aiming_needs_classes() -> None:
    with pytest.raises(UsageError, match="Distances has not; write targeted: false"):
        next(AdvProp()(two_norms(), batch(), Distances()))
    losses = list(AdvProp(targeted=False)(two_norms(), batch(), Distances()))
    assert len(losses) == 2


def test_a_model_without_auxiliary_norms_is_refused_or_trained_as_it_is() -> None:
    with pytest.raises(UsageError, match="no auxiliary"):
        next(AdvProp()(network(), batch(), TASK))
    model = two_norms()
    shown(AdvProp(auxiliary_norms=False)(model, batch(), TASK), model)
    assert all(parameter.grad is None for parameter in layer_of(model).auxiliary.parameters())


@pytest.mark.parametrize("settings", [{"epsilon": -0.1}, {"step_size": math.nan}, {"steps": -1}, {"noise_threshold": math.nan}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(UsageError, match=f"{name} is "):
        AdvProp(**settings)  # pyright: ignore[reportArgumentType]  # floats stand for all numbers here
