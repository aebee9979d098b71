"""The style of one image given to another: AdaIN in VGG features, or matched statistics that need no weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dat.errors import CheckpointError, UsageError
from dat.nn.weights import build_strictly, read_tensors
from dat.types import Images

Features = Float[Tensor, "batch channels _ _"]
PerChannel = Float[Tensor, "batch channels 1 1"]
Covariance = Float[Tensor, "batch 3 3"]
Pixels = Float[Tensor, "batch 3 count"]

# Layers in the order of their numbers in the public files: (c)onvolution, reflection (p)adding, (r)elu, (m)ax pool, (u)psample.
ENCODER = "c" + "pcr" * 2 + "m" + "pcr" * 2 + "m" + "pcr" * 4 + "m" + "pcr"
DECODER = "pcr" + "u" + "pcr" * 4 + "u" + "pcr" * 2 + "u" + "pcr" + "pc"
FLOOR = 1e-5
"""Variance, of a deviation below one grey level: less is noise, and is not amplified to the strength of the other image."""
LEAST_SIDE = 9
"""In pixels: smaller images would have features of a single position, which have no deviation."""


def adain(content: Features, style: Features) -> Features:
    """The content's features with the mean and the deviation that each channel has in the style's.

    Source: Huang & Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, eq. 8.
    """
    (mean, deviation), (style_mean, style_deviation) = mean_and_deviation(content), mean_and_deviation(style)
    return (content - mean) / deviation * style_deviation + style_mean


def mean_and_deviation(features: Features) -> tuple[PerChannel, PerChannel]:
    """Per image and channel; the variance is unbiased, and 1e-5 is added to it, as in the public code."""
    variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True)
    return mean, (variance + 1e-5).sqrt()


class AdaIN(nn.Module):
    """VGG-19 up to relu4_1 (the "normalised" one of AdaIN, which takes images in [0, 1]) and the decoder of its features.

    Frozen; the decoder's last map is not clamped, as in the original.
    Source: `LiYingwei/ShapeTextureDebiasedTraining:models/AdaIN.py`.
    """

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Images, style_images: Images, *, alpha: float = 0.5) -> Images:
        """The images in the style of others of the same size; `alpha` 0 keeps the content's features, 1 takes the style's.

        The decoder gives multiples of 8 pixels; what is beyond the images is cropped (the original hands it on).

        Raises:
            UsageError: a side has less than 9 pixels.
        """
        height, width = images.shape[-2:]
        if min(height, width) < LEAST_SIDE:
            raise UsageError(
                f"Images are {height} x {width} pixels; AdaIN needs {LEAST_SIDE} or more a side; write style: statistics."
            )
        content = self.encoder(images)
        mixed = torch.lerp(content, adain(content, self.encoder(style_images)), alpha)
        return self.decoder(mixed)[..., :height, :width]


@cache
def load_adain(vgg: Path, decoder: Path) -> AdaIN:
    """AdaIN from the public `vgg_normalised.pth` and `decoder.pth`, or files of the same keys; of any widths. Read once.

    Raises:
        CheckpointError: a file is missing or damaged, or holds another network.
    """
    encoder_tensors = {key: value for key, value in read_tensors(vgg)[0].items() if _number(key) < len(ENCODER)}
    return AdaIN(_build(ENCODER, encoder_tensors, str(vgg)), _build(DECODER, read_tensors(decoder)[0], str(decoder)))


def statistics_style(images: Images, style_images: Images, *, alpha: float = 0.5) -> Images:
    """The images with the colour statistics that other images of the same size have in each band of scale and direction.

    AdaIN without a network: instead of VGG's channels it takes the bands of an undecimated wavelet pyramid (`bands`), which
    add up to the image. In each band the three colours get the means and the 3 x 3 covariance of the style's band, by the
    linear map that moves the pixels least. So palette, contrast and the strength and direction of texture at each scale
    become the other image's; where edges are stays. `alpha` 0 keeps the images, 1 takes all of the style. Result in [0, 1].

    Source: ours, after Huang & Belongie, ICCV 2017 (statistics matched per channel, mixed by alpha), and Heeger & Bergen,
    SIGGRAPH 1995 (per band of an oriented pyramid, without learned features).
    """
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        content, style = images.float(), style_images.float()
        matched = torch.zeros_like(content)
        for ours, theirs in zip(bands(content), bands(style), strict=True):
            matched += match_colours(ours, theirs)
        return torch.lerp(content, matched, alpha).clamp(0, 1).to(images.dtype)


def bands(images: Images) -> Iterator[Images]:
    """Bands that add up to the images, finest first: per scale rows, columns and diagonals, and what is left, blurred.

    Each scale filters twice as wide as the one before, by the binomial (1, 4, 6, 4, 1) / 16 with holes, as long as it spans
    no more than a third of the shorter side. Source: Holschneider et al. (1989), the algorithme a trous.
    """
    step, rest = 1, images
    while step == 1 or 12 * step <= min(images.shape[-2:]):
        across, down = _blurred(rest, step, dim=3), _blurred(rest, step, dim=2)
        both = _blurred(across, step, dim=2)
        yield from (across - both, down - both, rest - across - down + both)
        step, rest = 2 * step, both
    yield rest


def match_colours(content: Images, style: Images) -> Images:
    """The content's pixels, moved by the least linear map that gives them the means and the covariance of the style's.

    Source: Olkin & Pukelsheim (1982): between Gaussians of covariances A and B it is `A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2`.
    """
    pixels, other = content.flatten(2), style.flatten(2)
    mean, other_mean = pixels.mean(dim=2, keepdim=True), other.mean(dim=2, keepdim=True)
    root, inverse_root = _roots(_covariance(pixels - mean))
    middle, _ = _roots(root @ _covariance(other - other_mean) @ root)
    linear = (inverse_root @ middle @ inverse_root).to(pixels.dtype)
    return (linear @ (pixels - mean) + other_mean).view_as(content)


def _covariance(centred: Pixels) -> Covariance:
    """In float64, as its products are taken roots of; the variance `FLOOR` is added in all directions."""
    exact = centred.double()
    return exact @ exact.mT / centred.shape[2] + FLOOR * torch.eye(3, dtype=exact.dtype, device=exact.device)


def _roots(covariance: Covariance) -> tuple[Covariance, Covariance]:
    """The square root and its inverse."""
    values, vectors = torch.linalg.eigh(covariance)
    roots = values.clamp(min=FLOOR**2 / 2).sqrt().unsqueeze(1)  # rounding only: no value of FLOOR^2 or more is below
    return vectors * roots @ vectors.mT, vectors / roots @ vectors.mT


def _blurred(images: Images, step: int, *, dim: int) -> Images:
    """Filtered along rows (3) or columns (2); the border is repeated."""
    padding = (2 * step, 2 * step, 0, 0) if dim == 3 else (0, 0, 2 * step, 2 * step)
    padded, side = F.pad(images, padding, mode="replicate"), images.shape[dim]
    parts = [padded.narrow(dim, number * step, side) * (weight / 16) for number, weight in enumerate((1, 4, 6, 4, 1))]
    return torch.stack(parts).sum(dim=0)


def _number(key: str) -> int:
    number = key.split(".")[0]
    return int(number) if number.isdigit() else -1  # kept, and refused by name where the network is built


def _build(plan: str, tensors: Mapping[str, Tensor], name: str) -> nn.Sequential:
    """The network of a plan; the widths of its convolutions are those of the tensors."""
    weights = {index: tensors.get(f"{index}.weight") for index, kind in enumerate(plan) if kind == "c"}
    for index, weight in weights.items():
        if weight is None or weight.ndim != 4:
            raise CheckpointError(
                f"{name} has no convolution {index}.weight; give AdaIN's vgg_normalised.pth as vgg, decoder.pth as decoder."
            )
    return build_strictly(lambda: nn.Sequential(*_layers(plan, weights)), tensors, name=name).requires_grad_(False)


def _layers(plan: str, weights: Mapping[int, Tensor | None]) -> Iterator[nn.Module]:
    for index, kind in enumerate(plan):
        weight = weights.get(index)
        if weight is not None:
            yield nn.Conv2d(weight.shape[1], weight.shape[0], (weight.shape[2], weight.shape[3]))
        else:
            yield OTHER_LAYERS[kind]()


OTHER_LAYERS = {
    "p": lambda: nn.ReflectionPad2d(1),
    "r": nn.ReLU,
    "m": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "u": lambda: nn.Upsample(scale_factor=2, mode="nearest"),
}
