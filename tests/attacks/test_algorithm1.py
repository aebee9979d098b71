"""Algorithm 1 against plain NumPy, against the golden data, and the laws any implementation of it obeys."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.attacks.discrete import discrete_adversary
from dat.attacks.gradient import GradientScale, input_gradient, unit_l2
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import UsageError
from dat.methods.dat import DAT
from dat.tasks.classification import Classification
from dat.types import Batch, LossFn

Golden = Callable[[str], Path]


class GreyLevels:
    """A discretizer that NumPy can follow: each pixel becomes the nearest of `levels` equidistant values."""

    stride = 1

    def __init__(self, levels: int = 5) -> None:
        self.codebook_size = levels**3

    def __call__(self, images: Tensor) -> Tensor:
        return (images * 4).round() / 4

    def encode(self, images: Tensor) -> Tensor:
        digits = (images * 4).round().long()
        return digits[:, 0] * 25 + digits[:, 1] * 5 + digits[:, 2]

    def decode(self, codes: Tensor) -> Tensor:
        return torch.stack([codes // 25, codes // 5 % 5, codes % 5], dim=1) / 4


def linear_problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (6, 3, 4, 4) in [0, 1], weights (10, 48) and labels of a linear classifier."""
    rng = np.random.default_rng(seed)
    return rng.random((6, 3, 4, 4)), rng.normal(size=(10, 48)), rng.integers(0, 10, 6)


def linear_loss(weights: np.ndarray, labels: np.ndarray) -> Callable[[Tensor], Tensor]:
    matrix, targets = torch.tensor(weights), torch.tensor(labels)
    return lambda images: F.cross_entropy(images.flatten(1) @ matrix.T, targets, reduction="none")


def numpy_algorithm1(
    images: np.ndarray, weights: np.ndarray, labels: np.ndarray, alpha: float, scale: str
) -> tuple[np.ndarray, np.ndarray]:
    """The five lines in NumPy, with the gradient of the softmax written out; gives x + delta and Q(x + delta)."""
    reconstruction = np.rint(images * 4) / 4
    logits = reconstruction.reshape(6, -1) @ weights.T
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    gradient = ((probabilities - np.eye(10)[labels]) @ weights).reshape(images.shape)
    if scale == "l2":
        gradient = gradient / np.sqrt((gradient**2).sum((1, 2, 3), keepdims=True))
    elif scale == "linf":
        gradient = np.sign(gradient)
    perturbed = np.clip(images + alpha * gradient, 0, 1)
    return perturbed, np.rint(perturbed * 4) / 4


@pytest.mark.parametrize("scale", ["l2", "linf", "raw"])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 2.0])
def test_the_five_lines_equal_plain_numpy(scale: GradientScale, alpha: float) -> None:
    images, weights, labels = linear_problem()
    perturbed, expected = numpy_algorithm1(images, weights, labels, alpha, scale)
    assert np.abs(perturbed * 4 % 1 - 0.5).min() > 1e-6  # no pixel so near a boundary that rounding decides
    ours = discrete_adversary(
        torch.tensor(images), linear_loss(weights, labels), GreyLevels(), alpha=alpha, gradient_scale=scale
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)
    assert not np.allclose(expected, np.rint(images * 4) / 4)


def numpy_steps(
    images: np.ndarray, weights: np.ndarray, labels: np.ndarray, alpha: float, step: float, steps: int, scale: str
) -> np.ndarray:
    """Several times line 4: x + delta, delta moved from Q(x + delta) and kept in its ball."""
    delta = np.zeros_like(images)
    for _ in range(steps):
        reconstruction = np.rint(np.clip(images + delta, 0, 1) * 4) / 4
        logits = reconstruction.reshape(6, -1) @ weights.T
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        gradient = ((probabilities - np.eye(10)[labels]) @ weights).reshape(images.shape)
        if scale == "l2":
            delta = delta + step * gradient / np.sqrt((gradient**2).sum((1, 2, 3), keepdims=True))
            delta = delta * np.minimum(1, alpha / np.sqrt((delta**2).sum((1, 2, 3), keepdims=True)))
        else:
            delta = np.clip(delta + step * np.sign(gradient), -alpha, alpha)
    return np.clip(images + delta, 0, 1)


@pytest.mark.parametrize(("scale", "alpha", "step"), [("l2", 1.0, 0.6), ("l2", 2.0, None), ("linf", 0.2, 0.15)])
def test_several_steps_equal_plain_numpy(scale: GradientScale, alpha: float, step: float | None) -> None:
    images, weights, labels = linear_problem()
    perturbed = numpy_steps(images, weights, labels, alpha, alpha if step is None else step, 3, scale)
    assert np.abs(perturbed * 4 % 1 - 0.5).min() > 1e-6
    ours, once = (
        discrete_adversary(
            torch.tensor(images),
            linear_loss(weights, labels),
            GreyLevels(),
            alpha=alpha,
            gradient_scale=scale,
            steps=steps,
            step_size=step,
        )
        for steps in (3, 1)
    )
    np.testing.assert_allclose(ours.numpy(), np.rint(perturbed * 4) / 4, atol=1e-12)
    assert not torch.equal(ours, once)


def test_the_method_shows_what_its_steps_find() -> None:
    """And costs what its card says: one more pass of the discretizer than steps."""
    images, weights, labels = linear_problem()
    x, model, passes = torch.tensor(images).float(), nn.Sequential(nn.Flatten(), nn.Linear(48, 10)), []
    model[1].weight.data = torch.tensor(weights).float()
    model.register_forward_pre_hook(lambda _, shown: passes.append(shown[0].detach()))

    class Counting(GreyLevels):
        count = 0

        def __call__(self, images: Tensor) -> Tensor:
            self.count += 1
            return super().__call__(images)

    discretizer = Counting()
    list(DAT(discretizer, alpha=2.0, steps=3, step_size=0.9)(model, Batch(x, torch.tensor(labels)), Classification()))
    assert (len(passes), discretizer.count) == (4, 4)
    loss_fn = soft_loss(model, torch.tensor(labels))
    expected = discrete_adversary(x, loss_fn, GreyLevels(), alpha=2.0, steps=3, step_size=0.9)
    assert torch.equal(passes[3], expected)


@pytest.mark.parametrize("scale", ["l2", "linf", "raw"])
def test_one_step_is_the_three_lines_to_the_bit(scale: GradientScale) -> None:
    images, weights, labels = linear_problem()
    x, discretizer, loss_fn = torch.tensor(images).float(), GreyLevels(), linear_loss(weights.astype("float32"), labels)
    scaled, alpha = {"l2": unit_l2, "linf": torch.sign, "raw": lambda gradient: gradient}[scale], 0.7
    reconstruction = discretizer(x)
    expected = x + alpha * scaled(input_gradient(reconstruction, loss_fn))
    seen: list[Tensor] = []

    class Recording(GreyLevels):
        def __call__(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().__call__(images)

    discrete_adversary(x, loss_fn, Recording(), alpha=alpha, gradient_scale=scale, clamp=False)
    assert len(seen) == 2
    assert torch.equal(seen[1], expected)


def test_alpha_zero_is_the_reconstruction() -> None:
    images, weights, labels = linear_problem()
    ours = discrete_adversary(torch.tensor(images), linear_loss(weights, labels), GreyLevels(), alpha=0.0)
    assert torch.equal(ours, GreyLevels()(torch.tensor(images)))


@pytest.mark.parametrize("scale", ["l2", "linf", "raw"])
def test_an_image_is_attacked_the_same_in_any_batch(scale: GradientScale) -> None:
    images, weights, labels = linear_problem()
    whole = discrete_adversary(
        torch.tensor(images), linear_loss(weights, labels), GreyLevels(), alpha=0.5, gradient_scale=scale
    )
    for index in range(6):
        one = slice(index, index + 1)
        alone = discrete_adversary(
            torch.tensor(images[one]), linear_loss(weights, labels[one]), GreyLevels(), alpha=0.5, gradient_scale=scale
        )
        assert torch.equal(alone[0], whole[index])


@pytest.mark.parametrize(
    ("images", "alpha", "says"),
    [
        (torch.rand(2, 3, 4, 4), -0.1, "alpha is -0.1"),
        (torch.rand(2, 3, 4, 4), float("nan"), "alpha is nan"),
        (torch.rand(2, 3, 4, 4) * 255, 0.1, "must lie in \\[0, 1\\]"),
        (torch.rand(2, 3, 4, 4) - 0.5, 0.1, "must lie in \\[0, 1\\]"),
        (torch.full((2, 3, 4, 4), float("nan")), 0.1, "must lie in \\[0, 1\\]"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), 0.1, "float"),
        (torch.rand(3, 4, 4), 0.1, "shape"),
        (torch.rand(2, 1, 4, 4), 0.1, "shape"),
    ],
)
def test_bad_input_is_one_sentence(images: Tensor, alpha: float, says: str) -> None:
    attack = inspect.unwrap(discrete_adversary)  # users have no shape checks at every call, as these tests do
    with pytest.raises(UsageError, match=says) as caught:
        attack(images, lambda x: x.sum((1, 2, 3)), GreyLevels(), alpha=alpha)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"step_size": 0.2}, "step_size is 0.2"),
        ({"step_size": -0.1}, "step_size is -0.1"),
        ({"gradient_scale": "raw", "steps": 2}, "no radius"),
        ({"gradient_scale": "raw", "step_size": 0.1}, "no radius"),
        ({"gradient_scale": "l1"}, "gradient_scale is 'l1'"),
    ],
)
def test_steps_without_a_meaning_are_refused(settings: dict[str, Any], says: str) -> None:
    attack = inspect.unwrap(discrete_adversary)
    with pytest.raises(UsageError, match=says):
        attack(torch.rand(2, 3, 4, 4), lambda x: x.sum((1, 2, 3)), GreyLevels(), **{"alpha": 0.1, **settings})


def test_a_loss_that_is_a_mean_is_refused() -> None:
    with pytest.raises(UsageError, match="one loss per image"):
        input_gradient(torch.rand(2, 3, 4, 4), lambda x: x.mean())


# ---- golden data


def golden_classifier(golden: Golden) -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    network.load_state_dict(load_file(golden("dat_step") / "classifier.safetensors"))
    return network


def golden_discretizer(golden: Golden, dtype: torch.dtype) -> FrozenDiscretizer:
    config = json.loads((golden("ldm_vq_f8") / "config.json").read_text())["config"]
    return load_discretizer(golden("ldm_vq_f8") / "weights.safetensors", config, dtype=dtype)


def soft_loss(network: nn.Module, targets: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: F.cross_entropy(network(images), targets, reduction="none")


def parameter_gradients(network: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names = [name for name, _ in network.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(network.parameters())), strict=True))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("case", "alpha", "scale"),
    [
        ("l2_alpha0.1", 0.1, "l2"),
        ("l2_alpha0.4", 0.4, "l2"),
        ("l2_alpha2", 2.0, "l2"),
        ("raw_alpha0.1", 0.1, "raw"),
        ("raw_alphaBig", 22.0727668460902, "raw"),
        ("linf_alpha0.05", 0.05, "linf"),
    ],
)
def test_golden_algorithm1_in_float64(golden: Golden, case: str, alpha: float, scale: GradientScale) -> None:
    values = load_file(golden("dat_algorithm1_float64") / "io.safetensors")
    results = json.loads((golden("dat_algorithm1_float64") / "config.json").read_text())["results"][case]
    network, discretizer = golden_classifier(golden).double(), golden_discretizer(golden, torch.float64)
    discretizer.check_range = False  # the golden data were made without clamping x + delta
    loss_fn = soft_loss(network, values["y"])
    assert torch.equal(discretizer.encode(values["x"]), values["codes_x"])
    torch.testing.assert_close(discretizer(values["x"]), values["x_hat"], atol=1e-9, rtol=0)
    torch.testing.assert_close(input_gradient(values["x_hat"], loss_fn), values["grad_sum"], atol=1e-9, rtol=0)

    adversarial = discrete_adversary(values["x"], loss_fn, discretizer, alpha=alpha, gradient_scale=scale, clamp=False)
    expected = discretizer.decode(values[f"{case}.codes_x_pert"])
    torch.testing.assert_close(adversarial, values.get(f"{case}.x_adv", expected), atol=1e-9, rtol=0)
    torch.testing.assert_close(adversarial, expected, atol=1e-9, rtol=0)
    loss = loss_fn(adversarial).mean()
    assert loss.item() == pytest.approx(results["loss_adv_mean"], rel=1e-9)
    for name, gradient in parameter_gradients(network, loss).items():
        torch.testing.assert_close(gradient, values[f"{case}.grad_adv_loss.{name}"], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda images: images.detach().mean(dim=(1, 2, 3)),
        lambda images: torch.ones(len(images), requires_grad=True) * 2,
    ],
    ids=["detached", "of something else"],
)
def test_losses_that_do_not_follow_from_the_images_are_refused(loss_fn: LossFn) -> None:
    with pytest.raises(UsageError, match="no gradient at the images that it is given; use its argument"):
        discrete_adversary(torch.rand(2, 3, 4, 4), loss_fn, GreyLevels(), alpha=0.1)


def test_inference_mode_is_refused_and_no_grad_is_not() -> None:
    """Lightning validates in the one, and Trainer in the other."""
    images, quantizer = torch.rand(2, 3, 4, 4), GreyLevels()
    with torch.no_grad():
        adversarial = discrete_adversary(images, lambda x: x.square().sum(dim=(1, 2, 3)), quantizer, alpha=2.0)
    assert not torch.equal(adversarial, quantizer(images))
    with torch.inference_mode(), pytest.raises(UsageError, match=r"write torch.no_grad\(\) in its place, in Lightning"):
        discrete_adversary(images, lambda x: x.square().sum(dim=(1, 2, 3)), quantizer, alpha=0.1)
