"""Noise2Net: images seen through a random residual network, another one for each image.

Source: Hendrycks et al., "The Many Faces of Robustness" (DeepAugment), ICCV 2021;
`hendrycks/imagenet-r:DeepAugment/train_noise2net.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dat.types import Images

Features = Float[Tensor, "batch channels height width"]
Kernels = Float[Tensor, "batch _ _ _ _"]
Numbers = Float[Tensor, "batch count"]

BLOCKS, SCALES, HIDDEN = 4, 4, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Shape:
    """Side of the kernels and dilation of one hidden convolution, the same for every image."""

    kernel: int
    dilation: int


@dataclass(frozen=True)
class Block:
    """One Res2Net bottleneck: for each image its own kernels. `dilations` are those of the hidden convolutions."""

    squeeze: Kernels
    hidden: tuple[Kernels, ...]
    dilations: tuple[int, ...]
    expand: Kernels


def distorted(images: Images, numbers: Numbers, shapes: Sequence[Sequence[Shape]], *, epsilon: float) -> Images:
    """Images in [0, 1] after a random network each, in [0, 1].

    The source distorts images normalised by ImageNet's mean and deviation, and does not clamp; here the normalisation is
    undone and the result clamped, as images are in [0, 1] everywhere. Runs in float32 without gradients.

    Args:
        images: in [0, 1].
        numbers: uniform in [0, 1), `count_of_numbers(shapes)` per image: their kernels.
        shapes: of the hidden convolutions, block by block (`random_shapes`).
        epsilon: weight of what each block adds.
    """
    mean, std = (images.new_tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        seen = noise2net((images.float() - mean) / std, random_blocks(numbers.float(), shapes), epsilon=epsilon)
        return (seen * std + mean).clamp(0, 1).to(images.dtype)


def random_shapes(numbers: Sequence[float]) -> list[list[Shape]]:
    """Shapes by `2 x BLOCKS x (SCALES - 1)` uniform numbers: kernels of side 1 or 3, dilations of 1, 2 or 3."""
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    drawn = [Shape(1 if first < 0.5 else 3, 1 + int(3 * second)) for first, second in pairs]
    return [drawn[first : first + SCALES - 1] for first in range(0, len(drawn), SCALES - 1)]


def count_of_numbers(shapes: Sequence[Sequence[Shape]]) -> int:
    """How many numbers `distorted` needs per image."""
    return sum(sizes[0] * sizes[1] * sizes[2] ** 2 for block in shapes for sizes in _sizes(block))


def random_blocks(numbers: Numbers, shapes: Sequence[Sequence[Shape]]) -> list[Block]:
    """Kernels uniform within 1 / sqrt(inputs of a value), PyTorch's initial distribution, which the source draws anew.

    Its biases are left out: each comes before a norm that takes the mean away.
    """
    rest, blocks = numbers, []
    for block in shapes:
        sizes = _sizes(block)
        counts = [out * entering * side**2 for out, entering, side in sizes]
        *parts, rest = rest.split([*counts, rest.shape[1] - sum(counts)], dim=1)
        kernels = [
            (2 * part - 1).view(-1, out, entering, side, side) / (entering * side**2) ** 0.5
            for part, (out, entering, side) in zip(parts, sizes, strict=True)
        ]
        blocks.append(Block(kernels[0], tuple(kernels[1:-1]), tuple(shape.dilation for shape in block), kernels[-1]))
    return blocks


def noise2net(normalized: Features, blocks: Sequence[Block], *, epsilon: float) -> Features:
    """`x <- x + epsilon block(x)` for every block."""
    for block in blocks:
        normalized = normalized + epsilon * bottleneck(normalized, block)
    return normalized


def bottleneck(features: Features, block: Block) -> Features:
    """What one block adds: channels in groups, each convolved together with what came out of the group before.

    Every convolution is followed by a norm over the positions of each image and channel (the source's batch norm of a
    batch that is folded into channels). The last group passes as it is.
    """
    scales = F.relu(_normed(_convolved(features, block.squeeze))).chunk(len(block.hidden) + 1, dim=1)
    results: list[Tensor] = []
    for scale, kernels, dilation in zip(scales, block.hidden, block.dilations, strict=False):
        entering = results[-1] + scale if results else scale
        results.append(F.relu(_normed(_convolved(entering, kernels, dilation))))
    return _normed(_convolved(torch.cat([*results, scales[-1]], dim=1), block.expand))


def _sizes(block: Sequence[Shape]) -> list[tuple[int, int, int]]:
    """Outputs, inputs and side of the kernels of a block."""
    wide = HIDDEN * (len(block) + 1)
    return [(wide, 3, 1), *((HIDDEN, HIDDEN, shape.kernel) for shape in block), (3, wide, 1)]


def _convolved(features: Tensor, kernels: Tensor, dilation: int = 1) -> Tensor:
    """Each image convolved by its own kernels, at its own size."""
    if kernels.shape[-1] == 1:
        return torch.bmm(kernels.flatten(2), features.flatten(2)).unflatten(2, features.shape[2:])
    folded = F.conv2d(
        features.flatten(0, 1)[None],
        kernels.flatten(0, 1),
        padding=dilation * (kernels.shape[-1] // 2),
        dilation=dilation,
        groups=len(features),
    )
    return folded[0].unflatten(0, kernels.shape[:2])


def _normed(features: Tensor) -> Tensor:
    return F.group_norm(features, features.shape[1], eps=1e-5)  # one channel per group; faster than instance_norm
