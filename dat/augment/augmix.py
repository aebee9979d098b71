"""AugMix: chains of simple operations, mixed with the image they come from.

Source: Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020;
`google-research/augmix:augmentations.py` and `imagenet.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, UInt8
from scipy import special
from torch import Tensor

from dat.augment import affine
from dat.errors import UsageError
from dat.types import Images

Pixels = UInt8[Tensor, "batch 3 height width"]
Levels = Float[Tensor, " batch"]
Choices = Int[Tensor, " batch"]
Tables = UInt8[Tensor, "batch 3 256"]
Numbers = Float[Tensor, "batch count"]
Weights = Float[Tensor, "batch chains"]
Chains = UInt8[Tensor, "batch chains 3 height width"]

LONGEST_CHAIN = 3
LOWEST_LEVEL, HIGHEST_LEVEL = 0.1, 10.0


def augmix(
    images: Images, numbers: Numbers, *, width: int = 3, depth: int = -1, severity: float = 1.0, concentration: float = 1.0
) -> Images:
    """Each image mixed with `width` chains of random operations on it, in [0, 1].

    The operations work on 8-bit values; the image itself takes part unrounded. The source mixes normalised tensors: the
    weights add up to 1, so normalising the mixture gives the same.

    Args:
        images: in [0, 1].
        numbers: uniform in [0, 1), `count_of_numbers(width, depth)` per image; they decide everything.
        width: number of chains.
        depth: operations per chain; -1 draws 1, 2 or 3 for each.
        severity: the level of an operation is uniform from 0.1 to this, of 10.
        concentration: of the Dirichlet weights of the chains and of the Beta share of their mixture (alpha in the paper).
    """
    steps = _steps(depth)
    weights, share, lengths, draws = numbers.double().split([width, 1, width, 3 * width * steps], dim=1)
    depths = (1 + (LONGEST_CHAIN * lengths).long()) if depth == -1 else torch.full_like(lengths, depth).long()
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).repeat_interleave(width, dim=0)
    chains = chain(pixels, depths.flatten(), draws.reshape(-1, 3 * steps), severity=severity)
    return mixed(
        images,
        chains.unflatten(0, (-1, width)),
        dirichlet(weights, concentration).to(images.dtype),
        beta(share.flatten(), concentration).to(images.dtype),
    )


def count_of_numbers(width: int, depth: int) -> int:
    """How many uniform numbers `augmix` needs per image."""
    return 2 * width + 1 + 3 * width * _steps(depth)


def check_settings(*, width: int, depth: int, severity: float, concentration: float) -> None:
    """Refuse settings that no AugMix has.

    Raises:
        UsageError: with the value, and the range it must be in.
    """
    if width < 1:
        raise UsageError(f"width is {width}, but AugMix mixes at least one chain; write 1 or more (the paper uses 3).")
    if depth != -1 and depth < 1:
        raise UsageError(f"depth is {depth}; write the number of operations per chain, or -1 for 1 to 3 at random.")
    if not LOWEST_LEVEL <= severity <= HIGHEST_LEVEL:
        raise UsageError(f"severity is {severity}; write a number from {LOWEST_LEVEL} to {HIGHEST_LEVEL:.0f}.")
    if not concentration > 0:
        raise UsageError(f"concentration is {concentration}, but it must be above 0 (the paper uses 1).")


def mixed(images: Images, chains: Chains, weights: Weights, share: Levels) -> Images:
    """`(1 - share) image + share sum_i weight_i chain_i`."""
    share = share[:, None, None, None]
    mixture = ((weights / 255)[:, :, None, None, None] * chains).sum(dim=1)
    return ((1 - share) * images + share * mixture).clamp(0, 1)


def chain(pixels: Pixels, depths: Choices, numbers: Numbers, *, severity: float) -> Pixels:
    """The first `depths` operations of each row's numbers, applied one after the other.

    Each takes three numbers: which operation, its level, its direction.
    """
    for step, part in enumerate(numbers.split(3, dim=1)):
        which, level, direction = part.unbind(dim=1)
        operations = torch.where(step < depths, (len(OPERATIONS) * which).long(), -1)
        levels = LOWEST_LEVEL + (severity - LOWEST_LEVEL) * level
        pixels = operate(pixels, operations, torch.where(direction > 0.5, -levels, levels))
    return pixels


def operate(pixels: Pixels, operations: Choices, levels: Levels) -> Pixels:
    """Each image after its operation, a place in `OPERATIONS` (-1: as it is), at its level.

    A level is from 0 to 10 in double precision; its sign is the direction, where an operation has one.
    """
    result = pixels.clone()
    for number, operation in enumerate(OPERATIONS.values()):
        rows = (operations == number).nonzero().flatten()
        if len(rows):
            result[rows] = operation(pixels[rows], levels[rows])
    return result


def autocontrast(pixels: Pixels, _: Levels) -> Pixels:
    """Each channel stretched to [0, 255]; a channel of one value is left alone."""
    low, high = (bound.double()[..., None] for bound in torch.aminmax(pixels.flatten(2), dim=2))
    # `255 / tensor` would multiply by a rounded reciprocal, which Pillow does not.
    scale = torch.full_like(high, 255.0) / (high - low).clamp(min=1)
    values = torch.arange(256, device=pixels.device)
    stretched = (values * scale - low * scale).trunc().clamp(0, 255)
    return _looked_up(pixels, torch.where(high > low, stretched, values).to(torch.uint8))


def equalize(pixels: Pixels, _: Levels) -> Pixels:
    """Each channel with as even a histogram as a table of values can give."""
    flat = pixels.flatten(2).long()
    histogram = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=flat.device)
    histogram.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = histogram.gather(2, flat.amax(dim=2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    below = histogram.cumsum(dim=2) - histogram
    spread = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    values = torch.arange(256, device=pixels.device)
    return _looked_up(pixels, torch.where(step > 0, spread, values).to(torch.uint8))


def posterize(pixels: Pixels, levels: Levels) -> Pixels:
    """The highest 4 bits of each value, fewer at higher levels."""
    kept = (256 - 2 ** (4 + _whole(levels.abs(), 4.0))).to(torch.uint8)
    return pixels & kept[:, None, None, None]


def solarize(pixels: Pixels, levels: Levels) -> Pixels:
    """Values from a threshold on inverted; the higher the level, the lower the threshold."""
    threshold = (256 - _whole(levels.abs(), 256.0))[:, None, None, None]
    return torch.where(pixels < threshold, pixels, 255 - pixels)


def rotate(pixels: Pixels, levels: Levels) -> Pixels:
    """Turned by up to 30 whole degrees."""
    return affine.affine(pixels, affine.rotation(_whole(levels, 30.0), *pixels.shape[-2:]))


def shear_x(pixels: Pixels, levels: Levels) -> Pixels:
    """Rows shifted by up to 0.3 pixels per row."""
    return affine.affine(pixels, affine.shear(x=levels * 0.3 / 10))


def shear_y(pixels: Pixels, levels: Levels) -> Pixels:
    """Columns shifted by up to 0.3 pixels per column."""
    return affine.affine(pixels, affine.shear(y=levels * 0.3 / 10))


def translate_x(pixels: Pixels, levels: Levels) -> Pixels:
    """Moved sideways by up to a third of the width, in whole pixels."""
    return affine.affine(pixels, affine.translation(x=_whole(levels, pixels.shape[3] / 3)))


def translate_y(pixels: Pixels, levels: Levels) -> Pixels:
    """Moved up or down by up to a third of the height, in whole pixels."""
    return affine.affine(pixels, affine.translation(y=_whole(levels, pixels.shape[2] / 3)))


OPERATIONS: dict[str, Callable[[Pixels, Levels], Pixels]] = {
    "autocontrast": autocontrast,
    "equalize": equalize,
    "posterize": posterize,
    "rotate": rotate,
    "solarize": solarize,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
"""None of them is a corruption of ImageNet-C. They equal the functions of Pillow that the source calls, to the bit."""


def dirichlet(numbers: Weights, concentration: float) -> Weights:
    """Weights that add up to 1, Dirichlet-distributed where the numbers are uniform: gamma variates over their sum."""
    gamma = special.gammaincinv(concentration, numbers.double().cpu().numpy())
    # Where all underflow (tiny concentrations) the weights are equal, not NaN.
    variates = torch.as_tensor(gamma, device=numbers.device).clamp(min=torch.finfo(torch.float64).tiny)
    return variates / variates.sum(dim=1, keepdim=True)


def beta(numbers: Levels, concentration: float) -> Levels:
    """Beta(concentration, concentration) where the numbers are uniform."""
    variates = special.betaincinv(concentration, concentration, numbers.double().cpu().numpy())
    return torch.as_tensor(variates, device=numbers.device)


def _steps(depth: int) -> int:
    return LONGEST_CHAIN if depth == -1 else depth


def _whole(levels: Tensor, most: float) -> Tensor:
    """The share of `most` that a level out of 10 stands for, cut off to a whole number as the source does."""
    return (levels * most / 10).trunc()


def _looked_up(pixels: Pixels, tables: Tables) -> Pixels:
    return tables.gather(2, pixels.flatten(2).long()).view(pixels.shape)
