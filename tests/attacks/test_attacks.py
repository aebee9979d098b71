"""Pixel attacks against the golden data of five reference programs, and what no attack may touch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.attacks.discrete import discrete_adversary
from dat.attacks.gradient import Norm, evaluating, input_gradient, unit_l2
from dat.attacks.pixels import fgsm, pgd, random_start
from dat.attacks.pyramid import pyramid
from dat.errors import DivergenceError, UsageError

Golden = Callable[[str], Path]
LossFn = Callable[[Tensor], Tensor]


@pytest.fixture
def problem(golden: Golden) -> tuple[dict[str, Tensor], dict[str, Any], nn.Module]:
    folder = golden("attacks")
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    network.load_state_dict(load_file(folder / "classifier.safetensors"))
    return load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())["configs"], network.eval()


def assert_nearly_all_equal(ours: Tensor, expected: Tensor) -> None:
    """A sign of a gradient of about 0 may flip: 0.1 % of the values may differ."""
    wrong = ((ours - expected).abs() > 1e-5).float().mean().item()
    assert wrong <= 1e-3, f"{100 * wrong:.2f} % of the values differ"


def ascent(network: nn.Module, targets: Tensor, *, targeted: bool = False, smoothing: float = 0.0) -> LossFn:
    sign = -1 if targeted else 1
    return lambda x: sign * F.cross_entropy(network(x), targets, reduction="none", label_smoothing=smoothing)


EASYROBUST = [
    *("linf_4_255_s3", "linf_8_255_s5_nobest", "l2_0.5_s4", "l2_0.5_s4_nobest", "linf_targeted", "linf_smooth"),
    *("l2_mixup", "linf_random_start", "l2_random_start"),
]


@pytest.mark.shared
@pytest.mark.parametrize("case", EASYROBUST)
def test_pgd_equals_easyrobust(problem: tuple[dict[str, Tensor], dict[str, Any], nn.Module], case: str) -> None:
    values, configs, network = problem
    config = configs[f"easyrobust.{case}"]
    norm: Norm = "linf" if config["attack_type"] == "Linf" else "l2"
    targets = values["y_soft"] if config.get("targets") == "y_soft" else values["y"]
    smoothing = 0.1 if config.get("attack_criterion") == "smooth" else 0.0
    start = None
    if "start" in config:
        noise = values["noise_uniform01" if norm == "linf" else "noise_normal"]
        start = random_start(values["x"], noise, epsilon=config["eps"], norm=norm)
    ours = pgd(
        values["x"],
        ascent(network, targets, targeted=config.get("targeted", False), smoothing=smoothing),
        epsilon=config["eps"],
        step_size=config["attack_lr"],
        steps=config["attack_steps"],
        norm=norm,
        start=start,
        keep_best=config["use_best"],
    )
    assert_nearly_all_equal(ours, values[f"easyrobust.{case}"])


@pytest.mark.shared
@pytest.mark.parametrize("case", ["linf_8_255_s4", "linf_8_255_s4_nobest", "l2_0.4_s3", "linf_targeted_s3"])
def test_pgd_equals_madry(problem: tuple[dict[str, Tensor], dict[str, Any], nn.Module], case: str) -> None:
    values, configs, network = problem
    config = configs[f"madry.{case}"]
    mean, std = (torch.tensor(config["normalise"][name]).view(3, 1, 1) for name in ("mean", "std"))
    # Their normalisation clamps to [0, 1] first, which takes the gradient from pixels that are exactly 0 or 1.
    normalised = nn.Sequential(nn.Hardtanh(0, 1), _Affine(mean, std), network).eval()
    ours = pgd(
        values["x"],
        ascent(normalised, values["y"], targeted=config.get("targeted", False)),
        epsilon=config["eps"],
        step_size=config["step_size"],
        steps=config["iterations"],
        norm="linf" if config["constraint"] == "inf" else "l2",
        keep_best=config["use_best"],
    )
    assert_nearly_all_equal(ours, values[f"madry.{case}"])


class _Affine(nn.Module):
    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


@pytest.mark.shared
@pytest.mark.parametrize("numerator", [1, 8])
def test_fgsm_equals_torchattacks(problem: tuple[dict[str, Tensor], dict[str, Any], nn.Module], numerator: int) -> None:
    values, _, network = problem
    ours = fgsm(values["x"], ascent(network, values["y"]), epsilon=numerator / 255)
    assert_nearly_all_equal(ours, values[f"torchattacks.fgsm_{numerator}_255"])


@pytest.mark.shared
@pytest.mark.parametrize(
    "case", ["pgd1_eps1_clean", "pgd5_eps4_clean", "pgd1_eps1_noise", "pgd3_eps2_noise", "pgd2_eps3_untargeted_clean"]
)
def test_pgd_equals_advprop(problem: tuple[dict[str, Tensor], dict[str, Any], nn.Module], case: str) -> None:
    """AdvProp works in [-1, 1] with steps of 2/255; in [0, 1] that is 1/255. Its start may leave that range."""
    values, configs, network = problem
    config = configs[f"advprop.{case}"]
    centred = nn.Sequential(_Affine(torch.tensor(0.5), torch.tensor(0.5)), network).eval()
    images, epsilon = (values["advprop.x_in"] + 1) / 2, config["epsilon"] / 255
    start = None
    if config["start"] == "noise":
        start = images + epsilon * (2 * values["advprop.noise_uniform01"] - 1)
    targets = values["advprop.targets" if config["targeted"] else "y"]
    ours = pgd(
        images,
        ascent(centred, targets, targeted=config["targeted"]),
        epsilon=epsilon,
        step_size=max(config["step_size"], config["epsilon"] / config["num_iter"]) / 255,
        steps=config["num_iter"],
        start=start,
    )
    assert_nearly_all_equal(2 * ours - 1, values[f"advprop.{case}"])


# ---- laws


def network_with_everything() -> nn.Module:
    """Statistics that move, dropout that draws, parameters that could get a gradient."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).train()


@pytest.mark.parametrize("attack", ["input_gradient", "pgd", "pgd_best", "fgsm", "pyramid"])
def test_attacks_touch_no_gradient_statistic_or_random_stream(attack: str) -> None:
    network, images, labels = network_with_everything(), torch.rand(6, 3, 8, 8), torch.arange(6) % 5
    loss_fn = ascent(network, labels)
    clean_loss = loss_fn(images).mean()  # its graph waits while the attack runs
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stream = torch.get_rng_state()
    run = {
        "input_gradient": lambda: input_gradient(images, loss_fn),
        "pgd": lambda: pgd(images, loss_fn, epsilon=0.1, step_size=0.05, steps=3),
        "pgd_best": lambda: pgd(images, loss_fn, epsilon=0.1, step_size=0.05, steps=3, keep_best=True),
        "fgsm": lambda: fgsm(images, loss_fn, epsilon=0.1),
        "pyramid": lambda: pyramid(images, loss_fn, epsilon=0.01, step_size=0.005, steps=3, cells=(4, 1), scales=(9.0, 1.0)),
    }[attack]
    result = run()
    assert not result.requires_grad
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(parameter.grad is None for parameter in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    clean_loss.backward()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_stays_in_its_ball_and_reaches_its_edge(norm: Norm) -> None:
    network = network_with_everything().eval()
    images = torch.rand(6, 3, 8, 8) * 0.4 + 0.3
    ours = pgd(images, ascent(network, torch.zeros(6, dtype=torch.long)), epsilon=0.1, step_size=0.07, steps=5, norm=norm)
    delta = (ours - images).flatten(1)
    sizes = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert sizes.max() <= 0.1 + 1e-6
    assert sizes.max() >= 0.1 - 1e-4


def test_keep_best_is_never_worse_than_any_visited_point() -> None:
    network = network_with_everything().eval()
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 5
    loss_fn = ascent(network, labels)
    best = pgd(images, loss_fn, epsilon=0.5, step_size=0.5, steps=4, keep_best=True)
    for steps in range(5):
        visited = pgd(images, loss_fn, epsilon=0.5, step_size=0.5, steps=steps)
        assert (loss_fn(best) >= loss_fn(visited) - 1e-6).all()


def test_evaluating_puts_every_mode_back() -> None:
    network = network_with_everything()
    network[1].eval()  # type: ignore[operator]
    with evaluating(network) as attacked:
        assert not any(part.training for part in attacked.modules())
    assert [part.training for part in network.modules()] == [True, True, False, True, True, True, True, True]


def test_half_precision_gradients_do_not_underflow() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)

    def loss_fn(x: Tensor) -> Tensor:
        return x.half().mul(2.0**-14).sum((1, 2, 3)).mul(2.0**-14)  # 2**-28 is below the smallest float16

    gradient = input_gradient(images, loss_fn)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 2.0**-28), rtol=1e-2, atol=0)


def test_a_pyramid_follows_the_sign_of_each_cell() -> None:
    """Of a linear loss, on sides that are no multiple of the cells: sums over cells, written out."""
    torch.manual_seed(0)
    images, weights = torch.rand(2, 3, 7, 10) * 0.2 + 0.4, torch.randn(3, 7, 10)
    ours = pyramid(
        images, lambda x: (x * weights).sum((1, 2, 3)), epsilon=1e-3, step_size=7e-4, steps=2, cells=(4, 2), scales=(20.0, 10.0)
    )
    expected = torch.zeros_like(weights)
    for cell, scale in ((4, 20), (2, 10)):
        for row in range(0, 7, cell):
            for column in range(0, 10, cell):
                part = (slice(None), slice(row, row + cell), slice(column, column + cell))
                expected[part] += scale * 1e-3 * weights[part].sum((1, 2), keepdim=True).sign()
    torch.testing.assert_close(ours - images, expected.expand_as(images), atol=1e-6, rtol=0)


def test_a_pyramid_cuts_after_every_level() -> None:
    """White stays white under the coarse level, so that the fine one darkens it from there; together they would cancel."""
    images, weights = torch.ones(1, 3, 4, 4), torch.ones(3, 4, 4)
    weights[:, 0, 0] = -1.0
    ours = pyramid(
        images, lambda x: (x * weights).sum((1, 2, 3)), epsilon=0.1, step_size=0.1, steps=2, cells=(4, 1), scales=(5.0, 5.0)
    )
    expected = torch.ones_like(images)
    expected[..., 0, 0] = 0.5
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"epsilon": -1.0}, "-1"),
        ({"epsilon": float("nan")}, "nan"),
        ({"steps": -1}, "-1"),
        ({"cells": (4, 0), "scales": (2.0, 1.0)}, r"\(4, 0\)"),
        ({"cells": (4, 1), "scales": (2.0,)}, "a scale for each level"),
        ({"cells": (), "scales": ()}, "a cell of at least 1 pixel"),
    ],
)
def test_a_pyramid_of_nonsense_is_refused(settings: dict[str, Any], says: str) -> None:
    good: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.1, "steps": 1}
    with pytest.raises(UsageError, match=says):
        pyramid(torch.rand(1, 3, 4, 4), lambda x: x.sum((1, 2, 3)), **{**good, **settings})


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "pyramid", "random_start"])
def test_a_radius_of_8_means_8_of_255(attack: str) -> None:
    settings: dict[str, Any] = {"epsilon": 8.0}
    if attack in ("pgd", "pyramid"):
        settings |= {"step_size": 0.1, "steps": 1}
    images = torch.rand(1, 3, 4, 4)
    call: Any = {"fgsm": fgsm, "pgd": pgd, "pyramid": pyramid, "random_start": random_start}[attack]
    second: Any = torch.rand(1, 3, 4, 4) if attack == "random_start" else lambda x: x.sum((1, 2, 3))
    settings |= {"norm": "linf"} if attack == "random_start" else {}
    with pytest.raises(UsageError, match=r"epsilon is 8, but pixels go from 0 to 1; write 8/255 as 0\.0314"):
        call(images, second, **settings)
    with pytest.raises(UsageError, match="epsilon is nan, but that is no number"):
        call(images, second, **{**settings, "epsilon": float("nan")})


def test_a_start_in_no_norm_is_refused() -> None:
    unchecked: Any = getattr(random_start, "__wrapped__", random_start)  # types are checked while tests run
    with pytest.raises(UsageError, match="norm is 'linff'; write one of 'l2', 'linf'"):
        unchecked(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), epsilon=0.1, norm="linff")
    random_start(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), epsilon=3.0, norm="l2")  # a length, not a value


@pytest.mark.parametrize(("name", "value"), [("epsilon", -1.0), ("step_size", -1.0), ("steps", -1)])
def test_negative_settings_are_refused(name: str, value: float) -> None:
    settings: dict[str, Any] = {"epsilon": 0.1, "step_size": 0.1, "steps": 1, name: value}
    with pytest.raises(UsageError, match="-1"):
        pgd(torch.rand(1, 3, 4, 4), lambda x: x.sum((1, 2, 3)), **settings)


# ---- what is no number, and what is nearly nothing


class Unchanged:
    """A discretizer in which nothing is lost."""

    codebook_size, stride = 1, 1

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "l2", "dat"])
@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_an_attack_on_what_is_no_number_names_the_images(attack: str, broken: str) -> None:
    """Its sign is 0, so the image would stay clean and count as robust."""
    images = torch.rand(4, 3, 8, 8)

    def loss_fn(shown: Tensor) -> Tensor:
        losses = shown.sum(dim=(1, 2, 3))
        if broken == "loss":
            return losses * torch.tensor([1.0, torch.nan, 1.0, torch.inf])
        return (losses - losses.detach()).sqrt()

    run: dict[str, Callable[[], Tensor]] = {
        "fgsm": lambda: fgsm(images, loss_fn, epsilon=0.1),
        "pgd": lambda: pgd(images, loss_fn, epsilon=0.1, step_size=0.1, steps=1, keep_best=True),
        "l2": lambda: pgd(images, loss_fn, epsilon=0.1, step_size=0.1, steps=1, norm="l2"),
        "dat": lambda: discrete_adversary(images, loss_fn, Unchanged(), alpha=0.1),
    }
    said = "loss of 2 of 4 .* positions 1, 3" if broken == "loss" else "gradient of 4 of 4 .* positions 0, 1, 2, 3"
    with pytest.raises(DivergenceError, match=said.replace(" .* ", r" images is NaN or infinite \(")):
        run[attack]()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_direction_of_a_gradient_has_length_one_in_any_precision_and_a_zero_stays_zero(dtype: torch.dtype) -> None:
    """1e-10 is 0 in float16, where nothing over nothing is no number."""
    direction = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = unit_l2((direction * torch.tensor([1.0, 1e-3, 0.0]).view(3, 1, 1, 1)).to(dtype))
    lengths = torch.linalg.vector_norm(found.double(), dim=(1, 2, 3))
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64), atol=5e-3, rtol=0)


@pytest.mark.parametrize("size", [1e-30, 1e-38, 1e30])
def test_the_direction_of_a_gradient_has_length_one_however_small_or_large_it_is(size: float) -> None:
    """Squares of 1e-30 are 0 in float32, and those of 1e30 infinite."""
    direction = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found, expected = unit_l2(direction * size), unit_l2(direction)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.linalg.vector_norm(found, dim=(1, 2, 3)), torch.ones(2))


HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def half_problem(dtype: torch.dtype) -> tuple[Tensor, LossFn, list[torch.dtype]]:
    """Pictures away from black and white in half precision, a loss of them, and the dtypes that it will have seen."""
    generator, seen = torch.Generator().manual_seed(0), []
    images = (0.2 + 0.6 * torch.rand(4, 3, 16, 16, generator=generator)).to(dtype)
    weights = torch.randn(3, 16, 16, generator=generator)

    def loss_fn(shown: Tensor) -> Tensor:
        seen.append(shown.dtype)
        return (shown * weights.to(shown.dtype)).sum((1, 2, 3))

    return images, loss_fn, seen


@HALF
def test_attacks_on_images_in_half_precision_take_their_whole_step_and_stay_in_their_ball(dtype: torch.dtype) -> None:
    images, loss_fn, seen = half_problem(dtype)
    single = fgsm(images, loss_fn, epsilon=1 / 255) - images.float()
    torch.testing.assert_close(single.abs(), torch.full_like(single, 1 / 255), atol=1e-6, rtol=0)
    several = pgd(images, loss_fn, epsilon=0.1, step_size=0.02, steps=4, norm="l2", keep_best=True) - images.float()
    torch.testing.assert_close(torch.linalg.vector_norm(several, dim=(1, 2, 3)), torch.full((4,), 0.08), atol=1e-3, rtol=0)
    coarse = pyramid(images, loss_fn, epsilon=1 / 255, step_size=1 / 255, steps=1, cells=(4,), scales=(1.0,)) - images.float()
    torch.testing.assert_close(coarse.abs(), torch.full_like(coarse, 1 / 255), atol=1e-6, rtol=0)
    assert set(seen) == {dtype}


@HALF
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_of_images_in_half_precision_lies_in_the_ball(dtype: torch.dtype, norm: Norm) -> None:
    images, _, _ = half_problem(dtype)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    offset = random_start(images, noise, epsilon=1 / 255, norm=norm) - images.float()
    lengths = offset.abs().amax((1, 2, 3)) if norm == "linf" else torch.linalg.vector_norm(offset, dim=(1, 2, 3))
    torch.testing.assert_close(lengths, torch.full((4,), 1 / 255), atol=2e-5, rtol=0)


@HALF
def test_the_discrete_adversary_of_images_in_half_precision_takes_its_whole_step(dtype: torch.dtype) -> None:
    images, loss_fn, seen = half_problem(dtype)
    given: list[Tensor] = []

    class Recording(Unchanged):
        def __call__(self, images: Tensor) -> Tensor:
            given.append(images)
            return images

    adversarial = discrete_adversary(images, loss_fn, Recording(), alpha=0.1)
    length = torch.linalg.vector_norm(given[-1].double() - images.double(), dim=(1, 2, 3))
    torch.testing.assert_close(length, torch.full_like(length, 0.1), atol=1e-4, rtol=0)
    assert adversarial.dtype == dtype
    assert set(seen) == {dtype}


def test_what_the_range_cuts_off_a_step_is_not_made_up_for() -> None:
    """alpha and an l2 epsilon are upper bounds at black and white borders."""
    images = torch.zeros(1, 3, 8, 8)
    weights = torch.ones(3, 8, 8)
    weights[..., ::2] = -1  # half of the pixels are pushed below black
    given = pgd(images, lambda x: (x * weights).sum((1, 2, 3)), epsilon=0.1, step_size=0.1, steps=1, norm="l2")
    assert torch.linalg.vector_norm(given).item() == pytest.approx(0.1 / 2**0.5, rel=1e-4)
