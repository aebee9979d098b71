"""A backbone that does not train, and a momentum encoder, which has no gradient and yet is not frozen."""

import copy
from pathlib import Path

import tiny
import torch
from torch import Tensor, nn

from dat.data.views import TwoViews
from dat.engine.loop import train
from dat.methods import METHODS
from dat.nn.contrastive import MoCoNetwork, SimCLRNetwork
from dat.nn.norm import Normalized
from dat.tasks.contrastive import Contrastive, MomentumContrastive
from dat.types import Task


def test_what_is_frozen_stays_and_its_running_statistics_too(tmp_path: Path) -> None:
    model = tiny.network()
    for part in (model.network.get_submodule("0"), model.network.get_submodule("1")):
        part.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = tiny.trained(tmp_path, model=model, epochs=1).state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"network.5.weight", "network.5.bias"}


def backbone() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def by_contrast(folder: Path, network: nn.Module, task: Task, *, steps: int = 2) -> dict[str, Tensor]:
    pictures = tiny.pictures(8 * steps)
    views, model = TwoViews(pictures.source, pictures.transform, seed=0), Normalized(network, mean=(0.5,) * 3, std=(0.5,) * 3)
    settings, method = tiny.settings(epochs=1), METHODS["standard"]()
    return train(model, method, task, views, settings, seed=0, folder=folder, num_classes=4, cpu=True).state_dict()


def test_a_contrastive_task_keeps_what_is_frozen_as_well(tmp_path: Path) -> None:
    network = SimCLRNetwork(backbone(), depth=6, hidden=8, width=4)
    network.backbone.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    after = by_contrast(tmp_path, network, Contrastive())
    changed = {name for name in before if not torch.equal(before[name], after[f"network.{name}"])}
    assert {name.split(".")[0] for name in changed} == {"projector"}


def test_a_momentum_encoder_is_normalised_by_its_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MoCoNetwork(backbone(), depth=6, hidden=8, width=4)
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        del layer
        seen.append((inputs[0].transpose(0, 1).flatten(1), output.transpose(0, 1).flatten(1)))  # a row for each channel

    for layer in (network.momentum.get_submodule("0.1"), network.momentum.get_submodule("1.1")):
        layer.register_forward_hook(keep)
    after = by_contrast(tmp_path, network, MomentumContrastive())
    assert len(seen) == 2 * 2  # steps of eight pictures, both views together
    for inputs, output in seen[:2]:  # nothing was followed yet: weights of 1, offsets of 0
        centred = inputs - inputs.mean(dim=1, keepdim=True)
        expected = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for place, layer in enumerate(("0.1", "1.1")):
        first, second = (inputs.mean(dim=1) for inputs, _ in seen[place::2])
        found = after[f"network.momentum.{layer}.running_mean"]
        torch.testing.assert_close(found, 0.1 * second + 0.9 * 0.1 * first, rtol=1e-4, atol=1e-6)


def test_a_momentum_encoder_follows_after_each_step(tmp_path: Path) -> None:
    """Without momentum it is, after one step, what it follows; half way through a training it stays behind."""
    torch.manual_seed(0)
    start = MoCoNetwork(backbone(), depth=6, hidden=8, width=4)
    one, two = (
        by_contrast(tmp_path / str(steps), copy.deepcopy(start), MomentumContrastive(momentum=0.0), steps=steps)
        for steps in (1, 2)
    )
    pairs = {f"network.momentum.0.{name}": f"network.backbone.{name}" for name, _ in start.backbone.named_parameters()}
    pairs |= {f"network.momentum.1.{name}": f"network.projector.{name}" for name, _ in start.projector.named_parameters()}
    for follower, own in pairs.items():
        torch.testing.assert_close(one[follower], one[own], rtol=1e-6, atol=1e-7)
        assert not torch.equal(one[own], start.state_dict()[own.removeprefix("network.")])
        assert not torch.equal(two[follower], two[own])
