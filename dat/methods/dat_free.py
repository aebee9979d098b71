"""Discrete adversarial training with the gradient that training gives for free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat.attacks.discrete import check_discrete_steps
from dat.attacks.gradient import NORMS, Norm, into_range
from dat.errors import UsageError
from dat.methods.controls import Direction, check_direction, stepped
from dat.types import Batch, Discretizer, Images, Task


@dataclass(frozen=True)
class DATFree:
    """Train on the images, and on `Q(x + delta)`, where delta follows the gradient of the first loss: no attack pass.

    Ours. Algorithm 1 takes the gradient at `Q(x)` and uses it at x, because the two are nearly the same; where a clean
    branch is trained as well, its backward pass has the gradient at x already. The model is in train mode for it: dropout is
    on, and batch statistics link an image's delta to the other images. Both losses have weight 1, as in `dat-official`.
    `direction` "random" or "none" is a control without the adversary: a random delta of the same length, or Q(x).
    Cost per step: one pass of the discretizer, two forward and backward passes, the first down to the images (not that of
    a control). Needs of the model: nothing.
    """

    discretizer: Discretizer
    alpha: float = 0.1
    gradient_scale: Norm = "l2"
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        check_discrete_steps(alpha=self.alpha, gradient_scale=self.gradient_scale, steps=1, step_size=None)
        if self.gradient_scale not in NORMS:
            raise UsageError(
                f"gradient_scale is {self.gradient_scale!r}, but a loop may scale the gradient that is used; "
                'write "l2" or "linf", which take its direction.'
            )
        check_direction(self.direction)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the clean images, then that of the adversarial ones.

        Raises:
            UsageError: the first loss was not back-propagated before the second was asked for.
        """
        images = batch.images.detach().requires_grad_(self.direction == "gradient")
        yield task.losses(model, images, batch.targets).mean()
        if self.direction == "gradient":
            perturbed = into_range(batch.images + self.alpha * self._uphill(images.grad))
        else:
            perturbed = stepped(batch.images, batch, self.direction, length=self.alpha, norm=self.gradient_scale)
        yield task.losses(model, self.discretizer(perturbed), batch.targets).mean()

    def _uphill(self, gradient: Images | None) -> Images:
        """The scaled gradient, whatever positive factor the loop gave it: micro-batches, processes, loss scale."""
        if gradient is None:
            raise UsageError("dat-free needs the gradient of its first loss; call backward() on each loss as it is yielded.")
        # Float16 overflows while its loss scale is sought; the optimizer skips such a step, running statistics do not.
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        scaled, _ = NORMS[self.gradient_scale]
        return scaled(gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny))
