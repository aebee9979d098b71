"""Algorithm 1 against plain NumPy, against the golden data, and the laws any implementation of it obeys."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dat import attacks
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import UsageError

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
def test_the_five_lines_equal_plain_numpy(scale: attacks.GradientScale, alpha: float) -> None:
    images, weights, labels = linear_problem()
    perturbed, expected = numpy_algorithm1(images, weights, labels, alpha, scale)
    assert np.abs(perturbed * 4 % 1 - 0.5).min() > 1e-6  # no pixel so near a boundary that rounding decides
    ours = attacks.discrete_adversary(
        torch.tensor(images), linear_loss(weights, labels), GreyLevels(), alpha=alpha, gradient_scale=scale
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)
    assert not np.allclose(expected, np.rint(images * 4) / 4)


def test_alpha_zero_is_the_reconstruction() -> None:
    images, weights, labels = linear_problem()
    ours = attacks.discrete_adversary(torch.tensor(images), linear_loss(weights, labels), GreyLevels(), alpha=0.0)
    assert torch.equal(ours, GreyLevels()(torch.tensor(images)))


@pytest.mark.parametrize("scale", ["l2", "linf", "raw"])
def test_an_image_is_attacked_the_same_in_any_batch(scale: attacks.GradientScale) -> None:
    images, weights, labels = linear_problem()
    whole = attacks.discrete_adversary(
        torch.tensor(images), linear_loss(weights, labels), GreyLevels(), alpha=0.5, gradient_scale=scale
    )
    for index in range(6):
        one = slice(index, index + 1)
        alone = attacks.discrete_adversary(
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
    attack = inspect.unwrap(attacks.discrete_adversary)  # users have no shape checks at every call, as these tests do
    with pytest.raises(UsageError, match=says) as caught:
        attack(images, lambda x: x.sum((1, 2, 3)), GreyLevels(), alpha=alpha)
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_a_mean_is_refused() -> None:
    with pytest.raises(UsageError, match="one loss per image"):
        attacks.input_gradient(torch.rand(2, 3, 4, 4), lambda x: x.mean())


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
def test_golden_algorithm1_in_float64(golden: Golden, case: str, alpha: float, scale: attacks.GradientScale) -> None:
    values = load_file(golden("dat_algorithm1_float64") / "io.safetensors")
    results = json.loads((golden("dat_algorithm1_float64") / "config.json").read_text())["results"][case]
    network, discretizer = golden_classifier(golden).double(), golden_discretizer(golden, torch.float64)
    discretizer.check_range = False  # the golden data were made without clamping x + delta
    loss_fn = soft_loss(network, values["y"])
    assert torch.equal(discretizer.encode(values["x"]), values["codes_x"])
    torch.testing.assert_close(discretizer(values["x"]), values["x_hat"], atol=1e-9, rtol=0)
    torch.testing.assert_close(attacks.input_gradient(values["x_hat"], loss_fn), values["grad_sum"], atol=1e-9, rtol=0)

    adversarial = attacks.discrete_adversary(values["x"], loss_fn, discretizer, alpha=alpha, gradient_scale=scale, clamp=False)
    expected = discretizer.decode(values[f"{case}.codes_x_pert"])
    torch.testing.assert_close(adversarial, values.get(f"{case}.x_adv", expected), atol=1e-9, rtol=0)
    torch.testing.assert_close(adversarial, expected, atol=1e-9, rtol=0)
    loss = loss_fn(adversarial).mean()
    assert loss.item() == pytest.approx(results["loss_adv_mean"], rel=1e-9)
    for name, gradient in parameter_gradients(network, loss).items():
        torch.testing.assert_close(gradient, values[f"{case}.grad_adv_loss.{name}"], atol=1e-9, rtol=0)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["eps0.1", "eps1", "eps3", "rs_eps0.1", "eps2_steps3"])
def test_golden_official_step(golden: Golden, case: str) -> None:
    """The official script's step: PGD in an L2 ball around Q(x), then Q, and the losses of both branches."""
    values = load_file(golden("dat_step") / "io.safetensors")
    settings = json.loads((golden("dat_step") / "config.json").read_text())["results"][case]
    network, discretizer = golden_classifier(golden), golden_discretizer(golden, torch.float32)
    loss_fn = soft_loss(network, values["y"])
    reconstruction = discretizer(values["x"])
    start = None
    if settings["random_start_prob"]:
        noise = values["random_start_noise"]
        start = attacks.random_start(reconstruction, noise, epsilon=settings["eps"], norm="l2")
    perturbed = attacks.pgd(
        reconstruction,
        loss_fn,
        epsilon=settings["eps"],
        step_size=settings["attack_lr"],
        steps=settings["attack_steps"],
        norm="l2",
        start=start,
    )
    torch.testing.assert_close(perturbed, values[f"{case}.x_pert"], atol=1e-4, rtol=0)
    assert torch.equal(discretizer.encode(perturbed), values[f"{case}.codes_x_pert"])
    adversarial = discretizer(perturbed)
    torch.testing.assert_close(adversarial, values.get(f"{case}.x_adv", adversarial), atol=1e-4, rtol=0)
    total = loss_fn(values["x"]).mean() + loss_fn(adversarial).mean()
    assert total.item() == pytest.approx(settings["loss_total"], rel=1e-5)
    for name, gradient in parameter_gradients(network, total).items():
        expected = values[f"{case}.grad_total_loss.{name}"]
        torch.testing.assert_close(gradient, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
