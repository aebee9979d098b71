import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from dat.discretizers.quality import (
    Moments,
    ReconstructionQuality,
    frechet_distance,
    is_collapsed,
    structural_similarity,
)
from dat.errors import UsageError
from dat.nn.imagenet_networks import TORCHVISION, ImageNetNetwork

SIZE = 16


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """Images, their reconstructions and codes of a codebook of 16, of which four never occur."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((24, 3, SIZE, SIZE), generator=generator)
    noise = 0.1 * torch.randn(images.shape, generator=generator)
    return images, (images + noise).clamp(0, 1), torch.randint(2, 14, (24, 4, 4), generator=generator)


class PixelDistance:
    """Mean squared difference, by a name."""

    name = "pixel_distance"

    def __call__(self, images: Tensor, references: Tensor) -> Tensor:
        return (images - references).square().mean(dim=(1, 2, 3))


@pytest.fixture
def network() -> ImageNetNetwork:
    torch.manual_seed(0)
    trunk = [nn.Conv2d(3, 5, 3, 2), nn.ReLU()]
    return ImageNetNetwork("toy", trunk, nn.Identity(), stops=(2,), convention=TORCHVISION)


def ssim_by_numpy(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. (2004), eq. 13, of one channel, at every position of the image reflected by 5 pixels."""
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    one, other = (np.pad(channel, 5, mode="reflect") for channel in (one, other))
    values = []
    for row in range(one.shape[0] - 10):
        for column in range(one.shape[1] - 10):
            x, y = (channel[row : row + 11, column : column + 11] for channel in (one, other))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            variance_x, variance_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
            covariance = (window * (x - mean_x) * (y - mean_y)).sum()
            similar = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
            values.append(similar / ((mean_x**2 + mean_y**2 + 1e-4) * (variance_x + variance_y + 9e-4)))
    return float(np.mean(values))


def test_similarity_is_the_formula(pictures: tuple[Tensor, Tensor, Tensor]) -> None:
    images, reconstructions = (batch[:2].double() for batch in pictures[:2])
    found = structural_similarity(images, reconstructions).tolist()
    for number in range(2):
        channels = zip(images[number].numpy(), reconstructions[number].numpy(), strict=True)
        assert found[number] == pytest.approx(np.mean([ssim_by_numpy(*pair) for pair in channels]), rel=1e-9)


@pytest.mark.parametrize("size", [(6, 6), (7, 40), (64, 33)])
def test_similarity_is_that_of_torchmetrics(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bright = torch.stack([images[0], 0.99 + images[1] / 100])
    other = (bright + 0.05 * images.flip(0)).clamp(0, 1)
    expected = structural_similarity_index_measure(bright, other, sigma=1.5, data_range=1.0, reduction="none")
    assert torch.allclose(structural_similarity(bright, other), torch.as_tensor(expected), rtol=0, atol=1e-12)


def test_measures_are_numpys(pictures: tuple[Tensor, Tensor, Tensor]) -> None:
    images, reconstructions, codes = pictures
    quality = ReconstructionQuality(16, perceptual=PixelDistance())
    quality.update(*pictures)
    measures = quality.compute()
    error = np.mean((images.double().numpy() - reconstructions.double().numpy()) ** 2)
    counts = np.bincount(codes.numpy().ravel(), minlength=16)
    shares = counts[counts > 0] / counts.sum()
    assert measures == pytest.approx(
        {
            "psnr_db": -10 * math.log10(error),
            "ssim": float(structural_similarity(images, reconstructions).mean()),
            "codes_used": 12 / 16,
            "perplexity": np.exp(-(shares * np.log(shares)).sum()),
            "dead_codes": 4,
            "pixel_distance": 4 * error,
        },
        rel=1e-6,
    )


def test_any_split_into_batches_gives_the_same(pictures: tuple[Tensor, Tensor, Tensor], network: ImageNetNetwork) -> None:
    found = []
    for size in (24, 7, 1):
        quality = ReconstructionQuality(16, perceptual=PixelDistance(), features=network)
        for batch in zip(*(part.split(size) for part in pictures), strict=True):
            quality.update(*batch)
        found.append(quality.compute())
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


def test_frechet_distance_is_scipys() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(200, 6)), 0.5 + generator.normal(size=(200, 6)) @ generator.normal(size=(6, 6))
    moments = [Moments(), Moments()]
    for rows, sums in zip((one, other), moments, strict=True):
        for part in torch.from_numpy(rows).split(64):
            sums.update(part)
    root = np.asarray(scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(other.T)))
    expected = np.square(one.mean(axis=0) - other.mean(axis=0)).sum()
    expected += np.trace(np.cov(one.T) + np.cov(other.T) - 2 * np.real(root))
    assert frechet_distance(moments[0].compute(), moments[1].compute()) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(moments[0].compute(), moments[0].compute()) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_fewer_images_than_features_is_a_number() -> None:
    moments = Moments()
    moments.update(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    shifted = moments.compute()[0] + 1, moments.compute()[1]
    # Roots of eigenvalues that are 0 but for rounding.
    assert frechet_distance(moments.compute(), shifted) == pytest.approx(32, abs=1e-4)


def test_features_are_compared_under_the_networks_name(
    pictures: tuple[Tensor, Tensor, Tensor], network: ImageNetNetwork
) -> None:
    images, reconstructions, codes = pictures
    quality = ReconstructionQuality(16, features=network, least_side=32)
    quality.update(images, reconstructions, codes)
    features = []
    for batch in (images, reconstructions):
        large = nn.functional.interpolate(batch, (32, 32), mode="bilinear")
        features.append(network.embed(large).double().numpy())
    expected = frechet_distance(*((rows.mean(axis=0), np.cov(rows.T)) for rows in features))
    assert quality.compute()["frechet_toy"] == pytest.approx(expected, rel=1e-5)


def test_perfect_reconstructions(network: ImageNetNetwork) -> None:
    images = torch.rand(4, 3, SIZE, SIZE)
    quality = ReconstructionQuality(2, perceptual=PixelDistance(), features=network)
    quality.update(images, images, torch.zeros(4, 2, 2, dtype=torch.int64))
    measures = quality.compute()
    assert measures["frechet_toy"] == pytest.approx(0, abs=1e-6)
    assert (measures["psnr_db"], measures["pixel_distance"], measures["perplexity"]) == (120, 0, 1)
    assert measures["ssim"] == pytest.approx(1)


def test_images_too_small_for_similarity_have_none() -> None:
    for side, has_ssim in ((5, False), (6, True)):
        quality = ReconstructionQuality(2)
        quality.update(torch.rand(1, 3, side, side), torch.rand(1, 3, side, side), torch.tensor([[[0, 1]]]))
        assert ("ssim" in quality.compute()) == has_ssim


def test_collapse_is_below_a_tenth() -> None:
    assert is_collapsed(0.0999)
    assert not is_collapsed(0.1)


def test_mistakes_are_named(network: ImageNetNetwork) -> None:
    images, codes = torch.rand(1, 3, 8, 8), torch.tensor([[[0, 3]]])
    quality = ReconstructionQuality(3, features=network)
    with pytest.raises(UsageError, match="no reconstruction"):
        quality.compute()
    with pytest.raises(UsageError, match=r"\(1, 3, 8, 8\), their reconstructions \(1, 3, 8, 7\)"):
        quality.update(images, images[..., :7], codes)
    with pytest.raises(UsageError, match=r"from 0 to 3; this codebook holds 0 to 2"):
        quality.update(images, images, codes)
    quality.update(images, images, codes.clamp(max=2))
    with pytest.raises(UsageError, match="covariance of 1 images"):
        quality.compute()
