"""The multi-scale perturbation of Pyramid AT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dat.attacks.gradient import exactly, input_gradient
from dat.errors import UsageError
from dat.types import Images, LossFn, check_images, check_number, check_radius

Level = Float[Tensor, "batch 3 _ _"]


def pyramid(
    images: Images,
    loss_fn: LossFn,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    cells: Sequence[int] = (32, 16, 1),
    scales: Sequence[float] = (20.0, 10.0, 1.0),
) -> Images:
    """Signed gradient ascent on colour offsets of square cells, from coarse to fine.

    Costs `steps` forward and backward passes. Starts at zero; all levels take their step together. Of images in half precision
    it gives float32, in which offsets keep their bounds; `loss_fn` sees the images' own dtype.

    Args:
        images: in [0, 1].
        loss_fn: what is increased; give the negative loss of another class for a targeted attack.
        epsilon: bound of every offset before its level's scale, in pixel units of [0, 1].
        step_size: size of the step of every offset, in the same unit.
        steps: number of steps.
        cells: side of the cells of each level in pixels; at the lower and right border they are cut.
        scales: factor of each level's offsets, so that a coarse level moves a colour by up to `epsilon x scale`.

    Raises:
        UsageError: a negative setting, a cell of less than a pixel, or not one scale per level.

    Source: Herrmann et al., "Pyramid Adversarial Training Improves ViT Performance", CVPR 2022;
    `google-research/scenic:scenic/projects/adversarialtraining/attacks`, whose pixel values are in [-1, 1]: its 6/255 are
    3/255 here. Its clipping passes half of a gradient where a value lies exactly on a border; so does this one.
    """
    check_images(images)
    check_pyramid(epsilon=epsilon, step_size=step_size, steps=steps, cells=cells, scales=scales)
    images, loss_fn = exactly(images.detach(), loss_fn)
    levels = [images.new_zeros(*images.shape[:2], *(-(-side // cell) for side in images.shape[2:])) for cell in cells]
    for _ in range(steps):
        gradients = _level_gradients(images, levels, loss_fn, cells, scales)
        levels = [
            (level + step_size * gradient.sign()).clamp(-epsilon, epsilon)
            for level, gradient in zip(levels, gradients, strict=True)
        ]
    return _with_levels(images, levels, cells, scales)


def check_pyramid(*, epsilon: float, step_size: float, steps: int, cells: Sequence[int], scales: Sequence[float]) -> None:
    """Refuse settings of `pyramid` that have no meaning.

    Raises:
        UsageError: with the value.
    """
    check_radius("linf", epsilon=epsilon, step_size=step_size)
    check_number("steps", steps, whole=True)
    if not steps >= 0:
        raise UsageError(f"A pyramid needs steps >= 0, not {steps}.")
    if not cells or min(cells) < 1 or len(cells) != len(scales):
        raise UsageError(
            f"cells are {tuple(cells)} and scales {tuple(scales)}; write a cell of at least 1 pixel and a scale for each level."
        )


def _with_levels(images: Images, levels: Sequence[Level], cells: Sequence[int], scales: Sequence[float]) -> Images:
    """The images after each level in turn was added and cut to [0, 1]."""
    zero, one = images.new_zeros(()), images.new_ones(())
    height, width = images.shape[-2:]
    for level, cell, scale in zip(levels, cells, scales, strict=True):
        enlarged = level.repeat_interleave(cell, dim=-2).repeat_interleave(cell, dim=-1)[..., :height, :width]
        # Not `clamp`: releases of torch differ in what it passes on a border, where images have many pixels.
        images = torch.minimum(torch.maximum(images + scale * enlarged, zero), one)
    return images


def _level_gradients(
    images: Images, levels: Sequence[Level], loss_fn: LossFn, cells: Sequence[int], scales: Sequence[float]
) -> tuple[Level, ...]:
    """The gradient of the losses with respect to each level: the images' own, and the chain rule."""
    with torch.enable_grad():
        free = [level.detach().requires_grad_() for level in levels]
        perturbed = _with_levels(images, free, cells, scales)
    return torch.autograd.grad(perturbed, free, input_gradient(perturbed, loss_fn))
