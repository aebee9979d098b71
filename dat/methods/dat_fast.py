"""Discrete adversarial training of a share of each batch: what an epoch of it costs is close to plain training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dat.attacks.discrete import check_discrete_steps
from dat.attacks.gradient import NORMS, Norm, choose, evaluating, input_gradient, into_range
from dat.attacks.rate import Length, Rate, Step, longest_step
from dat.errors import UsageError
from dat.methods.calibration import check_length, given
from dat.methods.controls import Direction, check_direction, stepping
from dat.types import Batch, Discretizer, Images, LossFn, PerImage, Task, climbed_losses


@dataclass(frozen=True)
class DATFast:
    """Train on most images as they are and on the rest as discrete adversarial ones, all in one pass.

    Ours. Three savings on Algorithm 1: only `adversarial_share` of the images pay for an adversary; its gradient is taken at x,
    for which that at `Q(x)` stands in the paper, so that `Q` runs once; and the clean images that `dat-official` and `dat-free`
    show in a pass of their own are the other images of the same batch. The first images of a micro-batch are the adversarial
    ones (the order of an epoch is drawn), attacked in eval mode.
    `direction` "random" or "none" is a control without the adversary: a random delta of the same length, or Q(x).
    `alpha` may be a `Rate`, as of `DAT`.
    Cost per step: one forward and backward pass, and for `adversarial_share` of the images one image gradient (none of a
    control) and one pass of the discretizer. Needs of the model: nothing.
    """

    discretizer: Discretizer
    alpha: Length = 0.1
    adversarial_share: float = 0.3
    gradient_scale: Norm = "l2"
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        alpha = check_length(self.alpha, gradient_scale=self.gradient_scale, direction=self.direction)
        check_discrete_steps(alpha=alpha, gradient_scale=self.gradient_scale, steps=1, step_size=None)
        choose(NORMS, "gradient_scale", self.gradient_scale)
        check_direction(self.direction)
        if not 0 < self.adversarial_share <= 1:
            raise UsageError(
                f"adversarial_share is {self.adversarial_share}, but it is the part of the images that an adversary changes; "
                "write more than 0 and at most 1, e.g. 0.3."
            )

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of all images, of which the first are adversarial.

        Raises:
            UsageError: the share of so few images is none.
        """
        few = self._adversarial_count(len(batch.images))
        first = replace(batch, images=batch.images[:few], targets=batch.targets[:few])
        adversarial = self.discretizer(self._perturbed(model, first, task)(given(self.alpha)))
        shown = torch.cat([adversarial, batch.images[few:]])
        yield task.losses(model, shown, batch.targets).mean()

    def _perturbed(self, model: nn.Module, batch: Batch, task: Task) -> Callable[[float], Images]:
        """`x + delta` for each length; a gradient is taken once, at x."""
        scaled, _ = NORMS[self.gradient_scale]
        if self.direction != "gradient":
            return stepping(batch.images, batch, self.direction, norm=self.gradient_scale)
        uphill = scaled(input_gradient(batch.images, self._losses(model, batch, task)))
        return lambda length: into_range(batch.images + length * uphill)

    def _losses(self, model: nn.Module, batch: Batch, task: Task) -> LossFn:
        """What the adversary raises, of the model as it evaluates."""

        def losses(images: Images) -> PerImage:
            with evaluating(model) as attacked:
                return climbed_losses(task, attacked, images, batch.targets)

        return losses

    def _adversarial_count(self, count: int) -> int:
        few = round(self.adversarial_share * count)
        if few == 0:
            raise UsageError(
                f"adversarial_share is {self.adversarial_share}, which makes none of the {count} images of a micro-batch "
                "adversarial; choose a larger training.batch_size per process and micro-batch, or a larger share."
            )
        return few

    @property
    def sought(self) -> Rate | None:
        """The rate that decides alpha, if one does."""
        return self.alpha if isinstance(self.alpha, Rate) else None

    def settled(self, length: float) -> DATFast:
        """The same with this alpha."""
        return replace(self, alpha=length)

    def step(self, model: nn.Module, batch: Batch, task: Task) -> Step:
        """From x to x + delta of each length; of all images, any of which may be one of the adversarial."""
        after, losses = self._perturbed(model, batch, task), self._losses(model, batch, task)
        return Step(batch.images, after, losses, longest_step(batch.images, self.gradient_scale))
