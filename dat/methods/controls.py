"""What may stand in the place of an adversary, to see what is its doing and what the reconstruction's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from dat.attacks.gradient import NORMS, Norm, choose, into_range
from dat.errors import UsageError
from dat.types import Batch, Images

Direction = Literal["gradient", "random", "none"]
DIRECTIONS: dict[str, None] = dict.fromkeys(("gradient", "random", "none"))
"""Where delta points: up the loss, anywhere (drawn from the batch's stream, of the same length), or nowhere (it is 0)."""


def check_direction(direction: str, *, gradient_scale: str = "l2", steps: int = 1) -> None:
    """Refuse a control that has no adversary of its kind to stand for.

    Raises:
        UsageError: an unknown direction; a random one without a length; several steps in no direction of the loss.
    """
    choose(DIRECTIONS, "direction", direction)
    if direction == "random" and gradient_scale not in NORMS:
        raise UsageError(
            f"direction is 'random', but with gradient_scale {gradient_scale!r} delta is as long as the gradient; "
            'write gradient_scale "l2" or "linf".'
        )
    if direction != "gradient" and steps != 1:
        raise UsageError(f"direction is {direction!r}, which takes one step, but steps is {steps}; write steps=1.")


def stepped(images: Images, batch: Batch, direction: Direction, *, length: float, norm: Norm = "l2") -> Images:
    """The images after a step that knows no loss, cut to [0, 1]; for "none" as they are.

    `length` is in the norm: the L2 length of delta, or for "linf" the size of every entry, of a random sign.
    """
    return stepping(images, batch, direction, norm=norm)(length)


def stepping(images: Images, batch: Batch, direction: Direction, *, norm: Norm = "l2") -> Callable[[float], Images]:
    """The same for each length, in one direction that is drawn once."""
    if direction == "none":
        return lambda _: images
    scaled, _ = NORMS[norm]
    noise = scaled(batch.draw(torch.randn, *images.shape[1:]))
    return lambda length: into_range(images + (length * noise).to(images.dtype))
