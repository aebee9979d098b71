"""The step of DAT's released program, against its own numbers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import UsageError
from dat.methods.dat_official import DATOfficial
from dat.tasks.classification import Classification
from dat.types import Batch

torch.set_num_threads(1)  # the tensors are tiny

Golden = Callable[[str], Path]


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


@dataclass(frozen=True)
class Stored(Batch):
    """A batch whose random start is known."""

    noise: Tensor | None = None

    def draw(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        assert sampler is torch.randn
        assert self.noise is not None
        assert shape == self.noise.shape[1:]
        return self.noise

    def draw_once(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        assert sampler is torch.rand
        return torch.tensor(0.5)


def classifier(golden: Golden) -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    network.load_state_dict(load_file(golden("dat_step") / "classifier.safetensors"))
    return network.train()


@pytest.fixture(scope="module")
def discretizer(golden: Golden) -> FrozenDiscretizer:
    config = json.loads((golden("ldm_vq_f8") / "config.json").read_text())["config"]
    return load_discretizer(golden("ldm_vq_f8") / "weights.safetensors", config)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["eps0.1", "eps1", "eps3", "rs_eps0.1", "eps2_steps3"])
def test_a_step_equals_the_released_program(golden: Golden, discretizer: FrozenDiscretizer, case: str) -> None:
    """Its attack leaves running statistics changed, ours does not: the stored classifier has none, so the numbers agree."""
    values = load_file(golden("dat_step") / "io.safetensors")
    settings = json.loads((golden("dat_step") / "config.json").read_text())["results"][case]
    network = classifier(golden)
    method = DATOfficial(
        discretizer,
        epsilon=settings["eps"],
        step_size=settings["attack_lr"],
        steps=settings["attack_steps"],
        random_start_probability=settings["random_start_prob"],
    )
    given, shown, losses = [], [], []
    hook = discretizer.register_forward_pre_hook(lambda _, images: given.append(images[0]))
    network.register_forward_pre_hook(lambda _, images: shown.append(images[0].detach()))
    for loss in method(network, Stored(values["x"], values["y"], noise=values["random_start_noise"]), Classification()):
        loss.backward()
        losses.append(loss.item())
    hook.remove()

    assert losses == pytest.approx([settings["loss_clean"], settings["loss_adv"]], rel=1e-5)
    base, perturbed = given
    assert torch.equal(base, values["x"])
    torch.testing.assert_close(perturbed, values[f"{case}.x_pert"], atol=1e-4, rtol=0)
    assert torch.equal(discretizer.encode(perturbed), values[f"{case}.codes_x_pert"])
    torch.testing.assert_close(shown[-1], values[f"{case}.x_adv"], atol=1e-4, rtol=0)
    for name, parameter in network.named_parameters():
        expected = values[f"{case}.grad_total_loss.{name}"]
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


def start_lengths(seed: int, rows: slice, *, probability: float) -> Tensor:
    """How far from `Q(x)` the images of a step begin, as a process sees them that has some rows of the step."""
    torch.manual_seed(0)
    model, discretizer = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)), Identity()
    images, targets = torch.rand(3, 3, 4, 4)[rows] * 0.4 + 0.3, torch.arange(3)[rows]
    method = DATOfficial(discretizer, steps=0, random_start_probability=probability)  # no step: x_pert is the start
    list(method(model, Batch(images, targets, torch.Generator().manual_seed(seed), rows.start, 3), Classification()))
    return (discretizer.given[1] - images).flatten(1).norm(dim=1)


def test_one_decision_per_step_starts_all_images_on_the_sphere() -> None:
    decisions = []
    for seed in range(20):
        whole, last = (start_lengths(seed, rows, probability=0.5) for rows in (slice(0, 3), slice(2, 3)))
        assert torch.equal(whole, torch.zeros(3)) or torch.allclose(whole, torch.full((3,), 0.1), atol=1e-5)
        torch.testing.assert_close(last, whole[2:])
        decisions.append(bool(whole[0]))
    assert 4 <= sum(decisions) <= 16
    assert not any(start_lengths(seed, slice(0, 3), probability=0.0).any() for seed in range(8))
    assert all(start_lengths(seed, slice(0, 3), probability=1.0).all() for seed in range(8))


@pytest.mark.parametrize(
    "settings", [{"epsilon": -1.0}, {"step_size": -1.0}, {"steps": -1}, {"random_start_probability": 1.5}], ids=str
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        DATOfficial(Identity(), **settings)
