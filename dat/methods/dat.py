"""Discrete adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dat.attacks.discrete import check_discrete_steps, discrete_adversary
from dat.attacks.gradient import GradientScale, evaluating
from dat.types import Batch, Discretizer, Task


@dataclass(frozen=True)
class DAT:
    """Train on images whose visual words were changed by an adversary: Algorithm 1.

    Source: Mao et al., "Enhance the Visual Representation via Discrete Adversarial Training", NeurIPS 2022. The paper does
    not say in which mode the model is attacked: here in eval mode, so that an image's perturbation depends on no other image.
    `steps` above 1 and `step_size` (alpha where it is not given) are ours: the later steps see which words have changed.
    Cost per step: `steps` image gradients, `steps` + 1 passes of the discretizer, one forward and backward pass. Needs of the
    model: nothing.
    """

    discretizer: Discretizer
    alpha: float = 0.1
    gradient_scale: GradientScale = "l2"
    steps: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_discrete_steps(alpha=self.alpha, gradient_scale=self.gradient_scale, steps=self.steps, step_size=self.step_size)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the discrete adversarial images."""
        with evaluating(model) as attacked:
            adversarial = discrete_adversary(
                batch.images,
                lambda images: task.losses(attacked, images, batch.targets),
                self.discretizer,
                alpha=self.alpha,
                gradient_scale=self.gradient_scale,
                steps=self.steps,
                step_size=self.step_size,
            )
        yield task.losses(model, adversarial, batch.targets).mean()
