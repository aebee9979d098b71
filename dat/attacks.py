"""Inner maximisation: pure functions of images and a loss of images.

An attack sees a `LossFn` and nothing else: no model, no labels. It writes no parameter gradient (the derivative is with
respect to the images only), leaves every buffer of every module as it was, and gives the random streams back where it
found them. Whether dropout is on and which statistics normalise, the caller decides: train mode, or `evaluating(model)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dat.errors import UsageError
from dat.types import Discretizer, Images, LossFn, check_images

GradientScale = Literal["l2", "linf", "raw"]
Norm = Literal["l2", "linf"]

# In float16 the gradient of one pixel may underflow. A power of two, so that nothing changes in any other format.
LOSS_FACTOR = 2.0**8

Choice = TypeVar("Choice")


def discrete_adversary(
    images: Images,
    loss_fn: LossFn,
    discretizer: Discretizer,
    *,
    alpha: float,
    gradient_scale: GradientScale = "l2",
    clamp: bool = True,
) -> Images:
    """Discrete adversarial images `Q(x + delta)`: Algorithm 1, lines 3 to 5.

    Costs one forward and one backward pass of the model (image gradient only) and two passes of the discretizer.

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

    Raises:
        UsageError: alpha is negative, images are not float or not in [0, 1], or `loss_fn` does not give one loss per
            image.

    Source: Mao et al., NeurIPS 2022, Algorithm 1; differences to the official code: docs/method.md.
    """
    if not alpha >= 0:
        raise UsageError(f"alpha is {alpha}, but a step has no negative length; write alpha >= 0 (the paper uses 0.1).")
    check_images(images)
    scaled = _choose(GRADIENT_SCALES, "gradient_scale", gradient_scale)

    reconstruction = discretizer(images)  # line 3:  x_hat = Q(x)
    delta = alpha * scaled(input_gradient(reconstruction, loss_fn))  # line 4:  straight-through: d x_hat / d x ~ 1
    perturbed = images + delta
    return discretizer(perturbed.clamp(0, 1) if clamp else perturbed)  # line 5:  x_adv = Q(x + delta)


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


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


GRADIENT_SCALES: dict[str, Callable[[Tensor], Tensor]] = {"l2": unit_l2, "linf": torch.sign, "raw": _unchanged}
NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "l2": (unit_l2, _project_l2),
    "linf": (torch.sign, _project_linf),
}


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
