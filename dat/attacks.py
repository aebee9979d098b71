"""Inner maximisation: pure functions of images and a loss of images.

An attack sees a `LossFn` and nothing else: no model, no labels. It writes no parameter gradient (the derivative is with
respect to the images only), leaves every buffer of every module as it was, and gives the random streams back where it
found them. Whether dropout is on and which statistics normalise, the caller decides: train mode, or `evaluating(model)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dat.errors import UsageError
from dat.types import Discretizer, Images, LossFn, check_images

GradientScale = Literal["l2", "linf", "raw"]
Norm = Literal["l2", "linf"]

# In float16 the gradient of one pixel may underflow. A power of two, so that nothing changes in any other format.
LOSS_FACTOR = 2.0**8

Choice = TypeVar("Choice")
Level = Float[Tensor, "batch 3 _ _"]


def discrete_adversary(
    images: Images,
    loss_fn: LossFn,
    discretizer: Discretizer,
    *,
    alpha: float,
    gradient_scale: GradientScale = "l2",
    clamp: bool = True,
    steps: int = 1,
    step_size: float | None = None,
) -> Images:
    """Discrete adversarial images `Q(x + delta)`: Algorithm 1, lines 3 to 5.

    Costs `steps` forward and backward passes of the model (image gradient only) and `steps` + 1 passes of the discretizer.

    Args:
        images: in [0, 1].
        loss_fn: images to one loss each, larger is worse for the model.
        discretizer: `Q`, frozen.
        alpha: length of the step; 0 gives `Q(x)`. Its unit follows `gradient_scale`: "l2" is the L2 length of delta per
            image, "linf" the size of every entry, "raw" the factor of the gradient as the paper writes it.
        gradient_scale: how the gradient becomes a direction. The paper writes "raw"; its published values of alpha
            (0.1, 0.2, 0.4) are lengths, which its official code takes in L2.
        clamp: whether `x + delta` is kept in [0, 1], the domain of the discretizer, as the official code does. The
            paper's formula does not say so; without it the discretizer must allow it (`check_range = False`).
        steps: how often line 4 is done; the paper does it once. Later steps start from `Q(x + delta)`, so that they see
            which words have changed, and keep delta in the ball of radius alpha around 0 ("raw" has none).
        step_size: length of one step where it is not alpha itself, of which it is at most the whole.

    Raises:
        UsageError: a setting that `check_discrete_steps` refuses, images that are not float or not in [0, 1], or a
            `loss_fn` that does not give one loss per image.

    Source: Mao et al., NeurIPS 2022, Algorithm 1; differences to the official code: docs/method.md. Several steps: ours.
    """
    check_discrete_steps(alpha=alpha, gradient_scale=gradient_scale, steps=steps, step_size=step_size)
    check_images(images)
    scaled, project = GRADIENT_SCALES[gradient_scale]
    length = alpha if step_size is None else step_size
    inside = _inside if clamp else _unchanged

    reconstruction = discretizer(images)  # line 3:  x_hat = Q(x)
    delta = length * scaled(input_gradient(reconstruction, loss_fn))  # line 4:  straight-through: d x_hat / d x ~ 1
    for _ in range(steps - 1):
        reconstruction = discretizer(inside(images + delta))
        delta = project(delta + length * scaled(input_gradient(reconstruction, loss_fn)), alpha)
    return discretizer(inside(images + delta))  # line 5:  x_adv = Q(x + delta)


def check_discrete_steps(*, alpha: float, gradient_scale: str, steps: int, step_size: float | None) -> None:
    """Refuse settings of `discrete_adversary` that have no meaning.

    Raises:
        UsageError: alpha or step_size is negative, a step longer than alpha, fewer steps than one, an unknown scale, or
            "raw" with more than the one step of length alpha that the paper writes.
    """
    _choose(GRADIENT_SCALES, "gradient_scale", gradient_scale)
    if not alpha >= 0:
        raise UsageError(f"alpha is {alpha}, but it is the length of a step; write 0 or more (the paper uses 0.1).")
    if not steps >= 1:
        raise UsageError(f"steps is {steps}, but Algorithm 1 takes at least one; write 1 or more, or alpha=0 for Q(x).")
    if step_size is not None and not 0 <= step_size <= alpha:
        raise UsageError(f"step_size is {step_size}, but delta never leaves the ball of radius alpha; write 0 to {alpha}.")
    if gradient_scale == "raw" and (steps > 1 or step_size is not None):
        raise UsageError(
            "gradient_scale is 'raw', whose alpha is a factor and no radius; "
            'write steps=1 without step_size, or gradient_scale "l2" or "linf".'
        )


def pgd(
    images: Images,
    loss_fn: LossFn,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: Norm = "linf",
    start: Images | None = None,
    keep_best: bool = False,
) -> Images:
    """Projected gradient ascent inside the ball of radius `epsilon` around the images, and inside [0, 1].

    Costs `steps` forward and backward passes, one more forward with `keep_best`.

    Args:
        images: centre of the ball, in [0, 1].
        loss_fn: what is increased; give the negative loss of another class for a targeted attack.
        epsilon: radius in pixel units of [0, 1] ("linf" per entry, "l2" per image).
        step_size: length of one step, in the same norm.
        steps: number of steps.
        norm: of the ball and of the steps.
        start: where to begin (`random_start`); the images themselves by default.
        keep_best: return, per image, the visited point of the highest loss instead of the last one.

    Source: Madry et al., ICLR 2018; `MadryLab/robustness:robustness/attack_steps.py`.
    """
    check_images(images)
    if min(epsilon, step_size) < 0 or steps < 0:
        raise UsageError(f"PGD needs epsilon, step_size and steps >= 0, not {epsilon}, {step_size} and {steps}.")
    direction, project = _choose(NORMS, "norm", norm)
    point = images if start is None else start
    best = _Best(images) if keep_best else None
    for _ in range(steps):
        gradient, losses = gradient_and_losses(point, loss_fn)
        if best is not None:
            best.offer(point, losses)
        point = (images + project(point + step_size * direction(gradient) - images, epsilon)).clamp(0, 1)
    if best is not None:
        best.offer(point, _losses_only(point, loss_fn))
        return best.images
    return point


def fgsm(images: Images, loss_fn: LossFn, *, epsilon: float) -> Images:
    """One signed step of size `epsilon`, no random start. Source: Goodfellow et al., ICLR 2015, section 4."""
    return pgd(images, loss_fn, epsilon=epsilon, step_size=epsilon, steps=1)


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

    Costs `steps` forward and backward passes. Starts at zero; all levels take their step together.

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
    images = images.detach()
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
    if not (epsilon >= 0 and step_size >= 0 and steps >= 0):
        raise UsageError(f"A pyramid needs epsilon, step_size and steps >= 0, not {epsilon}, {step_size} and {steps}.")
    if not cells or min(cells) < 1 or len(cells) != len(scales):
        raise UsageError(
            f"cells are {tuple(cells)} and scales {tuple(scales)}; write a cell of at least 1 pixel and a scale for each level."
        )


def random_start(images: Images, noise: Tensor, *, epsilon: float, norm: Norm) -> Images:
    """A start of PGD inside its ball.

    "linf" takes uniform noise in [0, 1) to [-epsilon, epsilon]; "l2" takes Gaussian noise to the sphere of radius
    epsilon (not to its inside), as the official DAT code does.
    """
    offset = epsilon * (2 * noise - 1) if norm == "linf" else epsilon * unit_l2(noise)
    return (images + offset).clamp(0, 1)


def input_gradient(images: Images, loss_fn: LossFn) -> Images:
    """Gradient of each image's own loss with respect to that image.

    The losses are summed, not averaged: the gradient of an image does not depend on the batch around it.
    """
    return gradient_and_losses(images, loss_fn)[0]


def gradient_and_losses(images: Images, loss_fn: LossFn) -> tuple[Tensor, Tensor]:
    """`input_gradient` and the losses it came from, detached."""
    with untouched_modules(), _forked_random_streams(images.device), torch.enable_grad():
        images = images.detach().requires_grad_()
        losses = _checked_losses(loss_fn(images), images)
        (gradient,) = torch.autograd.grad(losses.sum() * LOSS_FACTOR, images)
    return gradient / LOSS_FACTOR, losses.detach()


def unit_l2(tensor: Tensor) -> Tensor:
    """Each image's tensor divided by its L2 norm; a zero stays zero (1e-10 as in the official code)."""
    norms = torch.linalg.vector_norm(tensor, dim=(1, 2, 3), keepdim=True)
    return tensor / (norms + 1e-10)


@contextmanager
def untouched_modules() -> Iterator[None]:
    """Put back the buffers (running statistics, ...) of every module that runs inside in train mode."""
    saved: list[tuple[Tensor, Tensor]] = []
    seen: set[int] = set()

    def remember(module: nn.Module, _: object) -> None:
        if not module.training or id(module) in seen:
            return
        seen.update(id(part) for part in module.modules())
        saved.extend((buffer, buffer.clone()) for buffer in module.buffers())

    hook = register_module_forward_pre_hook(remember)
    try:
        yield
    finally:
        hook.remove()
        for buffer, value in saved:
            # `.data`: a clean branch may still wait for its backward pass, and must not see a changed version.
            buffer.data.copy_(value)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model (without its data-parallel wrapper) in eval mode; every part's own mode is put back afterwards."""
    model = unwrapped(model)
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for part, training in modes:
            part.training = training


def unwrapped(model: nn.Module) -> nn.Module:
    """The module itself: an attack has no parameter gradients to synchronise."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _project_l2(delta: Tensor, epsilon: float) -> Tensor:
    return delta.renorm(p=2, dim=0, maxnorm=epsilon)


def _project_linf(delta: Tensor, epsilon: float) -> Tensor:
    return delta.clamp(-epsilon, epsilon)


def _unchanged(tensor: Tensor, _: float = torch.inf) -> Tensor:
    return tensor


def _inside(images: Tensor) -> Tensor:
    return images.clamp(0, 1)


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "l2": (unit_l2, _project_l2),
    "linf": (torch.sign, _project_linf),
}
GRADIENT_SCALES = {**NORMS, "raw": (_unchanged, _unchanged)}
"""How a gradient becomes a direction, and what keeps a sum of such steps in a ball."""


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


class _Best:
    """Per image, the visited point of the highest loss."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.losses = torch.full((len(images),), -torch.inf, device=images.device)

    def offer(self, images: Tensor, losses: Tensor) -> None:
        better = losses > self.losses
        self.images[better], self.losses[better] = images[better], losses[better].to(self.losses.dtype)


def _choose(table: dict[str, Choice], argument: str, name: str) -> Choice:
    if name not in table:
        raise UsageError(f"{argument} is {name!r}; write one of {', '.join(map(repr, table))}.")
    return table[name]


def _checked_losses(losses: Tensor, images: Tensor) -> Tensor:
    if losses.shape != images.shape[:1]:
        raise UsageError(
            f"loss_fn gave shape {tuple(losses.shape)} for {len(images)} images; "
            'return one loss per image, e.g. F.cross_entropy(..., reduction="none").'
        )
    return losses


def _losses_only(images: Tensor, loss_fn: LossFn) -> Tensor:
    with untouched_modules(), _forked_random_streams(images.device), torch.no_grad():
        return _checked_losses(loss_fn(images), images)


def _forked_random_streams(device: torch.device):
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
