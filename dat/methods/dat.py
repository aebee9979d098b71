"""Discrete adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dat.attacks.discrete import check_discrete_steps, discrete_adversary
from dat.attacks.gradient import GradientScale, evaluating
from dat.methods.controls import Direction, check_direction, stepped
from dat.types import Batch, Discretizer, Images, Task, climbed_losses


@dataclass(frozen=True)
class DAT:
    """Train on images whose visual words were changed by an adversary: Algorithm 1.

    Source: Mao et al., "Enhance the Visual Representation via Discrete Adversarial Training", NeurIPS 2022. The paper does
    not say in which mode the model is attacked: here in eval mode, so that an image's perturbation depends on no other image.
    `steps` above 1 and `step_size` (alpha where it is not given) are ours: the later steps see which words have changed.
    `direction` "random" or "none" is a control without the adversary (ours): a random delta of the same length, or Q(x).
    Cost per step: `steps` image gradients, `steps` + 1 passes of the discretizer, one forward and backward pass; of a control
    no gradient and one pass of the discretizer. Needs of the model: nothing.
    """

    discretizer: Discretizer
    alpha: float = 0.1
    gradient_scale: GradientScale = "l2"
    steps: int = 1
    step_size: float | None = None
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        check_discrete_steps(alpha=self.alpha, gradient_scale=self.gradient_scale, steps=self.steps, step_size=self.step_size)
        check_direction(self.direction, gradient_scale=self.gradient_scale, steps=self.steps)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the discrete adversarial images."""
        shown = self._adversarial(model, batch, task) if self.direction == "gradient" else self._control(batch)
        yield task.losses(model, shown, batch.targets).mean()

    def _adversarial(self, model: nn.Module, batch: Batch, task: Task) -> Images:
        with evaluating(model) as attacked:
            return discrete_adversary(
                batch.images,
                lambda images: climbed_losses(task, attacked, images, batch.targets),
                self.discretizer,
                alpha=self.alpha,
                gradient_scale=self.gradient_scale,
                steps=self.steps,
                step_size=self.step_size,
            )

    def _control(self, batch: Batch) -> Images:
        length = self.alpha if self.step_size is None else self.step_size
        norm = "linf" if self.gradient_scale == "linf" else "l2"
        return self.discretizer(stepped(batch.images, batch, self.direction, length=length, norm=norm))
