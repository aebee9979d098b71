"""Discrete adversarial training with the gradient that training gives for free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dat.attacks.discrete import check_discrete_steps
from dat.attacks.gradient import NORMS, Norm, input_gradient, into_range, unwrapped
from dat.attacks.rate import Length, Rate, Step, longest_step
from dat.errors import UsageError
from dat.methods.calibration import check_length, given
from dat.methods.controls import Direction, check_direction, stepped, stepping
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Images, PerImage, Task


@dataclass(frozen=True)
class DATFree:
    """Train on the images, and on `Q(x + delta)`, where delta follows the gradient of the first loss: no attack pass.

    Ours. Algorithm 1 takes the gradient at `Q(x)` and uses it at x, because the two are nearly the same; where a clean
    branch is trained as well, its backward pass has the gradient at x already. The model is in train mode for it: dropout is
    on, and batch statistics link an image's delta to the other images. Both losses have weight 1, as in `dat-official`.
    `direction` "random" or "none" is a control without the adversary: a random delta of the same length, or Q(x).
    `alpha` may be a `Rate`, as of `DAT`; its length is sought with a gradient of its own, taken as training takes it.
    Cost per step: one pass of the discretizer, two forward and backward passes, the first down to the images (not that of
    a control). Needs of the model: nothing.
    """

    discretizer: Discretizer
    alpha: Length = 0.1
    gradient_scale: Norm = "l2"
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        check_sorts(self)
        alpha = check_length(self.alpha, gradient_scale=self.gradient_scale, direction=self.direction)
        check_discrete_steps(alpha=alpha, gradient_scale=self.gradient_scale, steps=1, step_size=None)
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
            perturbed = into_range(batch.images + given(self.alpha) * self._uphill(images.grad))
        else:
            perturbed = stepped(batch.images, batch, self.direction, length=given(self.alpha), norm=self.gradient_scale)
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

    @property
    def sought(self) -> Rate | None:
        """The rate that decides alpha, if one does."""
        return self.alpha if isinstance(self.alpha, Rate) else None

    def settled(self, length: float) -> DATFree:
        """The same with this alpha."""
        return replace(self, alpha=length)

    def step(self, model: nn.Module, batch: Batch, task: Task) -> Step:
        """From x to x + delta of each length."""
        images = batch.images

        def losses(shown: Images) -> PerImage:
            return task.losses(unwrapped(model), shown, batch.targets)

        if self.direction == "gradient":
            uphill = self._uphill(input_gradient(images, losses))
            return Step(images, lambda length: into_range(images + length * uphill), losses, self._longest(images))
        return Step(images, stepping(images, batch, self.direction, norm=self.gradient_scale), losses, self._longest(images))

    def _longest(self, images: Images) -> float:
        return longest_step(images, self.gradient_scale)
