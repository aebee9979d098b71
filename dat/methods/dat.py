"""Discrete adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dat import attacks
from dat.errors import UsageError
from dat.types import Batch, Discretizer, Task


@dataclass(frozen=True)
class DAT:
    """Train on images whose visual words were changed by an adversary: Algorithm 1.

    Source: Mao et al., "Enhance the Visual Representation via Discrete Adversarial Training", NeurIPS 2022. The paper does
    not say in which mode the model is attacked: here in eval mode, so that an image's perturbation depends on no other image.
    Cost per step: one image gradient, two passes of the discretizer, one forward and backward pass. Needs of the model:
    nothing.
    """

    discretizer: Discretizer
    alpha: float = 0.1
    gradient_scale: attacks.GradientScale = "l2"

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise UsageError(f"alpha is {self.alpha}, but it is the length of a step; write 0 or more (the paper uses 0.1).")

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the discrete adversarial images."""
        with attacks.evaluating(model) as attacked:
            adversarial = attacks.discrete_adversary(
                batch.images,
                lambda images: task.losses(attacked, images, batch.targets),
                self.discretizer,
                alpha=self.alpha,
                gradient_scale=self.gradient_scale,
            )
        yield task.losses(model, adversarial, batch.targets).mean()
