"""Pyramid adversarial training: its published program's numbers, and the matched dropout."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.errors import UsageError
from dat.methods.pyramid import PyramidAT
from dat.tasks.classification import Classification
from dat.types import Batch, Task

torch.set_num_threads(1)  # the tensors are tiny

Golden = Callable[[str], Path]


class Classifier(nn.Module):
    """The stored network: values of [-1, 1], convolution, tanh, means of blocks, one layer."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def forward(self, images: Tensor) -> Tensor:
        features = F.conv2d(2 * images - 1, self.values["w1"], self.values["b1"], padding=1).tanh()
        return F.adaptive_avg_pool2d(features, 4).flatten(1) @ self.values["w2"].T + self.values["b2"]


@dataclass(frozen=True)
class PerClassSigmoid:
    """The stored loss; the classes to aim at are the stored ones."""

    aims: Tensor

    def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return self.losses_of_logits(model(images), targets)

    def losses_of_logits(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)

    def random_classes(self, targets: Tensor, numbers: Tensor) -> Tensor:
        assert numbers.shape == targets.shape[:1]
        return F.one_hot(self.aims, targets.shape[1]).to(targets.dtype)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["pyramid", "pixel", "pyramid_bigstep"])
def test_a_step_equals_the_published_program(golden: Golden, case: str) -> None:
    """Many stored pixels lie on a border of [0, 1]: the gradient of the clipping is held, too."""
    values = load_file(golden("pyramid_at") / "io.safetensors")
    config = json.loads((golden("pyramid_at") / "config.json").read_text())["attacks"][case]
    method = PyramidAT(
        epsilon=config["epsilon"] / 2,
        step_size=config["lr"] / 2,
        steps=config["num_steps"],
        cells=tuple(28 // size for size in config["sizes"]),
        scales=tuple(map(float, config["scalars"])),
    )
    images, expected = ((values[name].permute(0, 3, 1, 2) + 1) / 2 for name in ("x_nhwc", f"{case}.adv_nhwc"))
    model, shown = Classifier(values), []
    model.register_forward_pre_hook(lambda _, images: shown.append(images[0]))
    losses = [
        loss.item() for loss in method(model, Batch(images, values["y_onehot"]), PerClassSigmoid(values[f"{case}.targets"]))
    ]
    assert losses == pytest.approx([config["loss_clean_label"][0], config["loss_clean_label"][-1]], rel=1e-5)
    wrong = ((shown[-1] - expected).abs() > 1e-5).float().mean().item()
    assert wrong <= 1e-3, f"{100 * wrong:.2f} % of the values differ"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5)).train()


def batch(seed: int | None = 1) -> Batch:
    numbers = torch.Generator().manual_seed(seed) if seed is not None else None
    return Batch(torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(7)), torch.arange(6) % 5, numbers)


def masks_of(method: PyramidAT, model: nn.Sequential, given: Batch) -> list[Tensor]:
    """What dropout left standing in each pass; between the passes somebody else draws from the same stream."""
    masks: list[Tensor] = []
    hook = model[2].register_forward_hook(lambda _, inputs, output: masks.append(output.detach() != 0))
    torch.manual_seed(3)
    for loss in method(model, given, Classification(num_classes=5)):
        loss.backward()
        torch.rand(5)
    hook.remove()
    return masks


@pytest.mark.parametrize("seed", [1, None])
def test_matched_passes_drop_out_the_same_units(seed: int | None) -> None:
    """Also in a loop of one's own, whose batch draws the classes to aim at from the stream that dropout draws from."""
    masks = masks_of(PyramidAT(steps=2, cells=(4, 1), scales=(20.0, 1.0)), network(), batch(seed))
    assert len(masks) == 4
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    unmatched = masks_of(PyramidAT(steps=2, cells=(4, 1), scales=(20.0, 1.0), matched=False), network(), batch(seed))
    assert not torch.equal(unmatched[-1], unmatched[0])


@pytest.mark.parametrize("matched", [True, False])
def test_the_random_stream_goes_on_where_the_training_left_it(matched: bool) -> None:
    """As if the other passes, which repeat its numbers, had not been; `torch.rand(7)` is somebody else's."""
    model = network()
    torch.manual_seed(3)
    for loss in PyramidAT(steps=2, matched=matched)(model, batch(), Classification(num_classes=5)):
        loss.backward()
        torch.rand(7)
    met = torch.rand(3)
    torch.manual_seed(3)
    for training_pass in range(2):
        if training_pass == 0 or not matched:
            model(batch().images)
        torch.rand(7)
    assert torch.equal(met, torch.rand(3))


def test_images_move_towards_the_classes_that_the_step_draws() -> None:
    """Within the reach of all levels together; another seed aims elsewhere."""
    model, shown = network().eval(), []
    model.register_forward_pre_hook(lambda _, images: shown.append(images[0].detach()))
    task, given = Classification(num_classes=5), batch()
    list(PyramidAT(cells=(4, 1), scales=(20.0, 1.0))(model, given, task))
    adversarial = shown[-1]
    aims = task.random_classes(given.targets, batch().draw(torch.rand))
    assert (task.losses(model, adversarial, aims) < task.losses(model, given.images, aims)).all()
    assert (adversarial - given.images).abs().max() <= 3 / 255 * 21 * (5 * 0.5 / 3) + 1e-6
    list(PyramidAT(cells=(4, 1), scales=(20.0, 1.0))(model, batch(2), task))
    assert not torch.equal(shown[-1], adversarial)


def test_a_task_without_classes_is_refused() -> None:
    class Counting:
        def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            return model(images).sum(dim=1)

    task = Counting()
    assert isinstance(task, Task)
    with pytest.raises(UsageError, match="which Counting has not; write targeted: false"):
        list(PyramidAT()(network(), batch(), task))


def test_without_a_class_to_aim_at_images_move_away_from_what_is_right() -> None:
    """By what an adversary climbs, where the task says that this is something else; no class is drawn."""

    @dataclass(frozen=True)
    class Twice(Classification):
        def climbed_losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            climbed.append(targets)
            return 2 * self.losses(model, images, targets)

    climbed: list[Tensor] = []
    shown: list[Tensor] = []
    model, task, given = network().eval(), Twice(num_classes=5), batch()
    model.register_forward_pre_hook(lambda _, images: shown.append(images[0].detach()))
    list(PyramidAT(cells=(4, 1), scales=(20.0, 1.0), steps=2, targeted=False)(model, given, task))
    assert (task.losses(model, shown[-1], given.targets) > task.losses(model, given.images, given.targets)).all()
    assert [targets.tolist() for targets in climbed] == [given.targets.tolist()] * 2
    assert torch.equal(given.draw(torch.rand), batch().draw(torch.rand))


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(UsageError, match="a scale for each level"):
        PyramidAT(cells=(4, 2, 1), scales=(20.0,))
