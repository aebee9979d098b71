"""Pixel-space attacks: FGSM and PGD in an l_p ball."""

from __future__ import annotations

import torch
from torch import Tensor

from dat.attacks.gradient import NORMS, Norm, choose, exactly, gradient_and_losses, losses_only, unit_l2
from dat.errors import UsageError
from dat.types import Images, LossFn, check_images, check_number, check_radius


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

    Of images in half precision it gives float32: rounded to their dtype they would leave the ball, or stay where they were.
    `loss_fn` sees the images' own dtype. What [0, 1] cuts off an "l2" step is not made up for: `epsilon` is an upper bound.
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
    direction, project = choose(NORMS, "norm", norm)
    check_radius(norm, epsilon=epsilon, step_size=step_size)
    check_number("steps", steps, whole=True)
    if steps < 0:
        raise UsageError(f"PGD needs steps >= 0, not {steps}.")
    images, loss_fn = exactly(images, loss_fn)
    point = images if start is None else start.to(images.dtype)
    best = _Best(images) if keep_best else None
    for _ in range(steps):
        gradient, losses = gradient_and_losses(point, loss_fn)
        if best is not None:
            best.offer(point, losses)
        point = (images + project(point + step_size * direction(gradient) - images, epsilon)).clamp(0, 1)
    if best is not None:
        best.offer(point, losses_only(point, loss_fn))
        return best.images
    return point


def fgsm(images: Images, loss_fn: LossFn, *, epsilon: float) -> Images:
    """One signed step of size `epsilon`, no random start. Source: Goodfellow et al., ICLR 2015, section 4."""
    return pgd(images, loss_fn, epsilon=epsilon, step_size=epsilon, steps=1)


def random_start(images: Images, noise: Tensor, *, epsilon: float, norm: Norm) -> Images:
    """A start of PGD inside its ball.

    "linf" takes uniform noise in [0, 1) to [-epsilon, epsilon]; "l2" takes Gaussian noise to the sphere of radius
    epsilon (not to its inside), as the official DAT code does; less where [0, 1] cuts. In float32 or better.
    """
    choose(NORMS, "norm", norm)
    check_radius(norm, epsilon=epsilon)
    exact = torch.promote_types(images.dtype, torch.float32)
    images, noise = images.to(exact), noise.to(exact)
    offset = epsilon * (2 * noise - 1) if norm == "linf" else epsilon * unit_l2(noise)
    return (images + offset).clamp(0, 1)


class _Best:
    """Per image, the visited point of the highest loss."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.losses = torch.full((len(images),), -torch.inf, device=images.device)

    def offer(self, images: Tensor, losses: Tensor) -> None:
        better = losses > self.losses
        self.images[better], self.losses[better] = images[better], losses[better].to(self.losses.dtype)
