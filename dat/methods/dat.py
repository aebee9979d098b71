"""Discrete adversarial training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from dat.attacks.discrete import check_discrete_steps, discrete_adversary, discrete_steps
from dat.attacks.gradient import GradientScale, Norm, evaluating
from dat.attacks.rate import Length, Rate, Step, longest_step
from dat.methods.calibration import check_length, given
from dat.methods.controls import Direction, check_direction, stepped, stepping
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Images, PerImage, Task, climbed_losses


@dataclass(frozen=True)
class DAT:
    """Train on images whose visual words were changed by an adversary: Algorithm 1.

    Source: Mao et al., "Enhance the Visual Representation via Discrete Adversarial Training", NeurIPS 2022. The paper does
    not say in which mode the model is attacked: here in eval mode, so that an image's perturbation depends on no other image.
    `steps` above 1 and `step_size` (alpha where it is not given) are ours: the later steps see which words have changed.
    `direction` "random" or "none" is a control without the adversary (ours): a random delta of the same length, or Q(x).
    `alpha` may be a `Rate` (ours): the share of codes that the step changes, of which the length is sought before each epoch.
    Cost per step: `steps` image gradients, `steps` + 1 passes of the discretizer, one forward and backward pass; of a control
    no gradient and one pass of the discretizer. Needs of the model: nothing.
    """

    discretizer: Discretizer
    alpha: Length = 0.1
    gradient_scale: GradientScale = "l2"
    steps: int = 1
    step_size: float | None = None
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        check_sorts(self)
        alpha = check_length(self.alpha, gradient_scale=self.gradient_scale, step_size=self.step_size, direction=self.direction)
        check_discrete_steps(alpha=alpha, gradient_scale=self.gradient_scale, steps=self.steps, step_size=self.step_size)
        check_direction(self.direction, gradient_scale=self.gradient_scale, steps=self.steps)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the discrete adversarial images."""
        yield task.losses(model, self.shown(model, batch, task), batch.targets).mean()

    def shown(self, model: nn.Module, batch: Batch, task: Task) -> Images:
        """The images that it trains on."""
        return self._adversarial(model, batch, task) if self.direction == "gradient" else self._control(batch)

    def _adversarial(self, model: nn.Module, batch: Batch, task: Task) -> Images:
        with evaluating(model) as attacked:
            return discrete_adversary(
                batch.images,
                lambda images: climbed_losses(task, attacked, images, batch.targets),
                self.discretizer,
                alpha=given(self.alpha),
                gradient_scale=self.gradient_scale,
                steps=self.steps,
                step_size=self.step_size,
            )

    def _control(self, batch: Batch) -> Images:
        length = given(self.alpha) if self.step_size is None else self.step_size
        return self.discretizer(stepped(batch.images, batch, self.direction, length=length, norm=self._norm))

    @property
    def sought(self) -> Rate | None:
        """The rate that decides alpha, if one does."""
        return self.alpha if isinstance(self.alpha, Rate) else None

    def settled(self, length: float) -> DAT:
        """The same with this alpha."""
        return replace(self, alpha=length)

    def step(self, model: nn.Module, batch: Batch, task: Task) -> Step:
        """From x to x + delta of each length."""
        with evaluating(model) as attacked:

            def losses(images: Images) -> PerImage:
                return climbed_losses(task, attacked, images, batch.targets)

            if self.direction == "gradient":
                settings = {"gradient_scale": self.gradient_scale, "steps": self.steps}
                after = discrete_steps(batch.images, losses, self.discretizer, **settings)
            else:
                after = stepping(batch.images, batch, self.direction, norm=self._norm)
        longest = longest_step(batch.images, self.gradient_scale)
        return Step(batch.images, _evaluated(model, after), _evaluated(model, losses), longest)

    @property
    def _norm(self) -> Norm:
        return "linf" if self.gradient_scale == "linf" else "l2"


def _evaluated(model: nn.Module, function: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """The function as it is while the model evaluates."""

    def called(given: Any) -> Tensor:
        with evaluating(model):
            return function(given)

    return called
