"""Adversarial training in pixel space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat import attacks
from dat.errors import UsageError
from dat.types import Batch, Task


@dataclass(frozen=True)
class AT:
    """Train on the worst image found in an l_p ball of pixels.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; the attack runs in eval
    mode. Defaults: 4/255 with three steps of 8/3/255, as the adversarial training of `alibaba/easyrobust`.
    Cost per step: `steps` image gradients, then one forward and backward pass. Needs of the model: nothing.
    """

    epsilon: float = 4 / 255
    step_size: float = 8 / 3 / 255
    steps: int = 3
    norm: attacks.Norm = "linf"
    random_start: bool = False

    def __post_init__(self) -> None:
        for name in ("epsilon", "step_size", "steps"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} is {getattr(self, name)}, but it cannot be negative; write 0 or more.")

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the adversarial images."""
        with attacks.evaluating(model) as attacked:
            adversarial = attacks.pgd(
                batch.images,
                lambda images: task.losses(attacked, images, batch.targets),
                epsilon=self.epsilon,
                step_size=self.step_size,
                steps=self.steps,
                norm=self.norm,
                start=self._start(batch),
            )
        yield task.losses(model, adversarial, batch.targets).mean()

    def _start(self, batch: Batch) -> Tensor | None:
        if not self.random_start:
            return None
        noise = batch.draw(torch.rand if self.norm == "linf" else torch.randn, *batch.images.shape[1:])
        return attacks.random_start(batch.images, noise, epsilon=self.epsilon, norm=self.norm)
