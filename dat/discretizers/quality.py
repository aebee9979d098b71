"""How good reconstructions are: pixels, structure, features, and the use of the codebook, summed over batches."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dat.discretizers.codes import Counts, check_in_codebook, usage_of
from dat.errors import UsageError
from dat.nn.imagenet_networks import ImageNetNetwork, enlarge
from dat.types import Codes, Images, PerImage

Embeddings = Float[Tensor, "count width"]
Reconstructions = Float[Tensor, "batch 3 rows columns"]
Mean = Float[np.ndarray, " width"]
Covariance = Float[np.ndarray, "width width"]
Window = Float[Tensor, "side side"]

COLLAPSED_BELOW = 0.1
"""A codebook of which less than this fraction is used has collapsed: it costs what all its codes do, and gives little."""

SMALLEST_FOR_SSIM = 6
"""Pixels a side. The window of 11 reflects 5 pixels around the image."""


@runtime_checkable
class NamedDistance(Protocol):
    """A perceptual distance: images in [-1, 1] and references to one number per image."""

    @property
    def name(self) -> str:
        """What its mean is called."""
        ...

    def __call__(self, images: Images, references: Images) -> PerImage:
        """0 for equal images."""
        ...


def is_collapsed(codes_used: float) -> bool:
    """Whether so small a fraction of the codes occurs that an alarm is due."""
    return codes_used < COLLAPSED_BELOW


def psnr_db(mean_squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of images in [0, 1]; at most 120, so that JSON can hold it."""
    return -10 * math.log10(max(mean_squared_error, 1e-12))


def structural_similarity(images: Images, references: Images) -> PerImage:
    """SSIM of images in [0, 1] of at least 6 pixels a side: Gaussian window of 11, sigma 1.5, mean over channels and positions.

    In float64: where a picture is bright and flat, float32 is 1e-3 off. The image is reflected at its border, as torchmetrics
    does, where the paper has only whole windows. The window is a product of two lines, each a matrix here: the same numbers
    in a twentieth of the time of torchmetrics' convolution in float64, and without the gigabytes that it takes.
    Source: Wang et al. (2004), Image Quality Assessment.
    """
    one, other = images.double(), references.double()
    rows, columns = (_window(side).to(one.device) for side in one.shape[-2:])

    def seen(maps: Tensor) -> Tensor:
        return rows @ maps @ columns.T

    mean, of_other = seen(one), seen(other)
    squares, product = mean.square() + of_other.square(), mean * of_other
    spread, shared = seen(one.square() + other.square()) - squares, seen(one * other) - product
    alike = (2 * product + 0.01**2) * (2 * shared + 0.03**2) / ((squares + 0.01**2) * (spread + 0.03**2))
    return alike.mean(dim=(1, 2, 3))


def _window(side: int) -> Window:
    """Each row holds the Gaussian weights of the places around one; places beyond the border are those reflected at it."""
    offsets = torch.arange(-5, 6)
    weights = torch.exp(-offsets.double().square() / (2 * 1.5**2))
    places = (torch.arange(side)[:, None] + offsets).abs()
    reflected = torch.where(places < side, places, 2 * (side - 1) - places)
    return torch.zeros(side, side, dtype=torch.float64).scatter_add_(
        1, reflected, (weights / weights.sum()).expand(side, -1).contiguous()
    )


class Moments:
    """Mean and covariance of embeddings, summed in float64 over batches."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def update(self, embeddings: Embeddings) -> None:
        """Count these in, too."""
        exact = embeddings.double().cpu()
        self.count += len(exact)
        self._sum = self._sum + exact.sum(dim=0)
        self._products = self._products + exact.T @ exact

    def compute(self) -> tuple[Mean, Covariance]:
        """Mean and unbiased covariance.

        Raises:
            UsageError: there are fewer than two embeddings.
        """
        if self.count < 2:
            raise UsageError(f"A covariance of {self.count} images is undefined; give 2 or more.")
        mean = torch.as_tensor(self._sum) / self.count
        covariance = (torch.as_tensor(self._products) - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return mean.numpy(), covariance.numpy()


def frechet_distance(one: tuple[Mean, Covariance], other: tuple[Mean, Covariance]) -> float:
    """Squared Frechet distance of two normal distributions, each by its mean and covariance; not below 0.

    The trace of `sqrt(A B)` is the sum of the roots of the eigenvalues of `sqrt(A) B sqrt(A)`, which is symmetric: no
    complex roots of singular covariances. Source: Dowson and Landau (1982); Heusel et al. (2017), GANs trained by TTUR.
    """
    (mean, covariance), (other_mean, other_covariance) = one, other
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum()
    distance = np.square(mean - other_mean).sum() + np.trace(covariance) + np.trace(other_covariance) - 2 * shared
    return max(0.0, float(distance))


class ReconstructionQuality:
    """What is known of reconstructions, of as many batches as are given; the same for any split into batches.

    `psnr_db`: of the mean squared error over all pixels of all images, at most 120; `ssim`: mean over images (left out
    where one is smaller than 6 pixels a side); `codes_used`: fraction of the codes that occur; `dead_codes`: how many do
    not; `perplexity`: the effective number of codes. With `perceptual`, its mean over images under its own name.

    With `features`, `frechet_<network>`: the Frechet distance of its embeddings of images and of reconstructions, smaller
    ones enlarged to `least_side` pixels. It is no rFID, whose network is Inception at 299 pixels: compare it within one
    network, `least_side` and number of images only. With fewer images than the network has features (128 in tiny_darknet,
    512 in squeezenet1_0, 1280 in mobilenet_v2) the covariances are singular, and even with more the estimate is biased upwards.
    """

    def __init__(
        self,
        codebook_size: int,
        *,
        perceptual: NamedDistance | None = None,
        features: ImageNetNetwork | None = None,
        least_side: int = 64,
    ) -> None:
        self.perceptual, self.features, self.least_side = perceptual, features, least_side
        self.counts: Counts = torch.zeros(codebook_size, dtype=torch.int64)
        self.images, self.numbers, self.has_ssim = 0, 0, True
        self.squared_error = self.similarity = self.distance = 0.0
        self.originals, self.reconstructions = Moments(), Moments()

    @torch.no_grad()
    def update(self, images: Images, reconstructions: Reconstructions, codes: Codes) -> None:
        """Count in a batch: images and their reconstructions in [0, 1], of one size, and their codes.

        Raises:
            UsageError: the shapes differ, or a code is not in the codebook.
        """
        if images.shape != reconstructions.shape:
            raise UsageError(
                f"Images have shape {tuple(images.shape)}, their reconstructions {tuple(reconstructions.shape)}; "
                "crop the reconstructions to the images."
            )
        self._count_codes(codes)
        images, reconstructions = images.float(), reconstructions.float()
        self.images += len(images)
        self.numbers += images.numel()
        self.squared_error += float((images.double() - reconstructions.double()).square().sum())
        self.has_ssim = self.has_ssim and min(images.shape[-2:]) >= SMALLEST_FOR_SSIM
        if self.has_ssim:
            self.similarity += float(structural_similarity(images, reconstructions).sum())
        if self.perceptual is not None:
            self.distance += float(self.perceptual(2 * images - 1, 2 * reconstructions - 1).double().sum())
        if self.features is not None:
            self.originals.update(self.features.embed(enlarge(images, self.least_side)))
            self.reconstructions.update(self.features.embed(enlarge(reconstructions, self.least_side)))

    def compute(self) -> dict[str, float]:
        """The measures of all batches so far.

        Raises:
            UsageError: there was none, or a Frechet distance is asked of a single image.
        """
        if not self.images:
            raise UsageError("The quality of no reconstruction is undefined; update it with a batch first.")
        measures = {"psnr_db": psnr_db(self.squared_error / self.numbers)}
        if self.has_ssim:
            measures["ssim"] = self.similarity / self.images
        measures |= self._codebook_use()
        if self.perceptual is not None:
            measures[self.perceptual.name] = self.distance / self.images
        if self.features is not None:
            moments = self.originals.compute(), self.reconstructions.compute()
            measures[f"frechet_{self.features.name}"] = frechet_distance(*moments)
        return measures

    def _count_codes(self, codes: Codes) -> None:
        flat = codes.flatten().cpu()
        check_in_codebook(flat, len(self.counts))
        self.counts += torch.bincount(flat, minlength=len(self.counts))

    def _codebook_use(self) -> dict[str, float]:
        usage = usage_of(self.counts)
        return {"codes_used": usage.fraction, "perplexity": usage.perplexity, "dead_codes": float(len(usage.dead))}
