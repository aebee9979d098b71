from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy import stats
from torch import Tensor

from dat.augment import augmix
from dat.errors import UsageError

NAMES = list(augmix.OPERATIONS)
Golden = Callable[[str], Path]


def operated(name: str, picture: np.ndarray, level: float) -> np.ndarray:
    """One operation of ours on one picture (height, width, 3)."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    result = augmix.operate(pixels, torch.tensor([NAMES.index(name)]), torch.tensor([level], dtype=torch.float64))
    return result[0].permute(1, 2, 0).numpy()


def by_pillow(name: str, picture: np.ndarray, level: float) -> np.ndarray:
    """What the source does with Pillow, its size of images that of the picture."""
    image, (height, width) = Image.fromarray(picture), picture.shape[:2]

    def whole(most: float) -> int:
        return int(level * most / 10)

    def affine(*matrix: float) -> Image.Image:
        return image.transform((width, height), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)

    made = {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - abs(whole(4))),
        "rotate": lambda: image.rotate(whole(30), resample=Image.Resampling.BILINEAR),
        "solarize": lambda: ImageOps.solarize(image, 256 - abs(whole(256))),
        "shear_x": lambda: affine(1, level * 0.3 / 10, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, level * 0.3 / 10, 1, 0),
        "translate_x": lambda: affine(1, 0, whole(width / 3), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, whole(height / 3)),
    }
    return np.asarray(made[name]())


@pytest.mark.shared
def test_operations_equal_the_source(golden: Golden) -> None:
    arrays = np.load(golden("augmix") / "ops.npz")
    entries = json.loads((golden("augmix") / "config.json").read_text())["ops"]
    compared = 0
    for entry in entries:
        for image in ("image0", "image1"):
            if (key := f"{entry['key']}.{image}") in arrays:
                level = entry["sign"] * entry["sampled_level"]
                np.testing.assert_array_equal(operated(entry["op"], arrays[image], level), arrays[key], err_msg=key)
                compared += 1
    assert compared == 50
    assert {entry["op"] for entry in entries} == set(NAMES)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["mix_a", "mix_b"])
def test_mixtures_equal_the_source_once_normalised(name: str, golden: Golden) -> None:
    arrays, config = np.load(golden("augmix") / "ops.npz"), json.loads((golden("augmix") / "config.json").read_text())
    mixture, picture = config["mixtures"][name], arrays["image0"]
    chains = []
    for chain in mixture["chains"]:
        result = picture
        for step in chain:
            result = operated(step["op"], result, (step["level"] or 1.0) * (step["sign"] or 1))
        chains.append(torch.from_numpy(result.copy()).permute(2, 0, 1))
    image = torch.from_numpy(picture / 255.0).permute(2, 0, 1)[None]
    weights, share = torch.tensor([mixture["ws"]]).double(), torch.tensor([mixture["m"]]).double()
    ours = augmix.mixed(image, torch.stack(chains)[None], weights, share)[0].permute(1, 2, 0).numpy()
    normalised = (ours - config["mean"]) / config["std"]
    np.testing.assert_allclose(normalised, arrays[f"{name}.mixed_normalised"], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_operations_equal_pillow(name: str) -> None:
    """Levels over the whole range, odd sizes, smooth and flat and noisy pictures."""
    numbers = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(23) * 5, np.arange(31) * 4)[..., None] + np.array([0, 9, 20])
    noise = numbers.integers(0, 256, (23, 31, 3))
    dark = numbers.integers(30, 35, (64, 9, 3))
    flat = np.full((12, 12, 3), 77)
    for picture in (ramp, noise, dark, flat):
        for level in [0.1, 10.0 - 1e-6, *numbers.uniform(0.1, 10, 8)]:
            for sign in (1, -1):
                ours = operated(name, picture.astype(np.uint8), sign * level)
                theirs = by_pillow(name, picture.astype(np.uint8), sign * level)
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{sign * level}")


def test_every_range_of_values_is_stretched_as_by_pillow() -> None:
    """The quotients of all ranges, some of which round to just below a whole number."""
    for high in range(1, 256):
        picture = np.linspace(0, high, 256).round().astype(np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        np.testing.assert_array_equal(operated("autocontrast", picture, 1.0), by_pillow("autocontrast", picture, 1.0))


def test_operations_are_applied_row_by_row() -> None:
    pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    operations = torch.arange(20) % 10 - 1
    levels = torch.linspace(-10, 9.9, 20, dtype=torch.float64)
    together = augmix.operate(pixels, operations, levels)
    for row in range(20):
        alone = augmix.operate(pixels[row : row + 1], operations[row : row + 1], levels[row : row + 1])
        assert torch.equal(together[row], alone[0])
    assert torch.equal(together[operations == -1], pixels[operations == -1])


def test_a_chain_ends_at_its_depth() -> None:
    """Numbers that say solarize, level 10 of 10, three times: at threshold 0 each inverts everything."""
    pixels = torch.full((3, 3, 4, 4), 10, dtype=torch.uint8)
    which = (NAMES.index("solarize") + 0.5) / len(NAMES)
    numbers = torch.tensor([which, 1.0, 0.9] * 3).double().expand(3, -1)
    chained = augmix.chain(pixels, torch.tensor([1, 2, 3]), numbers, severity=10.0)
    assert chained[:, 0, 0, 0].tolist() == [245, 10, 245]


def numbers_for(count: int, width: int = 3, depth: int = -1) -> Tensor:
    return torch.rand(count, augmix.count_of_numbers(width, depth), generator=torch.Generator().manual_seed(1))


def test_augmix_is_a_plain_loop_over_images() -> None:
    """Against the definition, one image and one chain after the other; alpha 1 in closed form."""
    images, numbers = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(8)), numbers_for(12).double()
    ours = augmix.augmix(images, numbers, severity=5.0)
    for image, row, result in zip(images, numbers, ours, strict=True):
        gammas, share, lengths, rest = row[:3], row[3], row[4:7], row[7:].reshape(3, 3, 3)
        weights = -torch.log1p(-gammas) / -torch.log1p(-gammas).sum()
        picture = (image * 255).round().byte().permute(1, 2, 0).numpy()
        mixture = torch.zeros(3, 16, 16)
        for weight, length, steps in zip(weights, lengths, rest, strict=True):
            chained = picture
            for which, level, direction in steps[: 1 + int(3 * length)].tolist():
                name = NAMES[int(9 * which)]
                chained = by_pillow(name, chained, (0.1 + 4.9 * level) * (-1 if direction > 0.5 else 1))
            mixture += weight.float() * torch.from_numpy(chained.copy()).permute(2, 0, 1) / 255
        torch.testing.assert_close(result, (1 - share.float()) * image + share.float() * mixture, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (3, -1), (2, 4)])
def test_augmix_stays_in_range_and_leaves_its_input_alone(width: int, depth: int) -> None:
    images = torch.rand(6, 3, 9, 7)
    before = images.clone()
    mixed = augmix.augmix(images, numbers_for(6, width, depth), width=width, depth=depth, severity=3.0)
    assert torch.equal(images, before)
    assert mixed.shape == images.shape
    assert mixed.dtype == images.dtype
    assert 0 <= mixed.min() <= mixed.max() <= 1
    assert (mixed - images).abs().mean() > 0.01


@pytest.mark.parametrize("concentration", [0.3, 1.0, 4.0])
def test_weights_have_their_distributions(concentration: float) -> None:
    """Kolmogorov-Smirnov against SciPy's distributions; a component of a Dirichlet is Beta(alpha, 2 alpha)."""
    numbers = torch.rand(4000, 4, generator=torch.Generator().manual_seed(2))
    weights = augmix.dirichlet(numbers[:, :3], concentration)
    shares = augmix.beta(numbers[:, 3], concentration)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4000).double())
    expected = stats.beta(concentration, 2 * concentration).cdf
    assert all(stats.kstest(weights[:, chain].numpy(), expected).pvalue > 1e-3 for chain in range(3))
    assert stats.kstest(shares.numpy(), stats.beta(concentration, concentration).cdf).pvalue > 1e-3


def test_tiny_concentrations_and_zeros_give_numbers() -> None:
    weights = augmix.dirichlet(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.2, 0.9]]), 1e-3)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2).double())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "width is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"severity": 11.0}, "severity is 11"),
        ({"severity": 0.0}, "severity is 0"),
        ({"concentration": 0.0}, "concentration is 0"),
        ({"concentration": float("nan")}, "concentration is nan"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], words: str) -> None:
    good = {"width": 3, "depth": -1, "severity": 1.0, "concentration": 1.0}
    augmix.check_settings(**good)  # pyright: ignore[reportArgumentType]  # a dictionary of both kinds of numbers
    with pytest.raises(UsageError, match=words):
        augmix.check_settings(**(good | settings))  # pyright: ignore[reportArgumentType]  # as above
