"""Adversarial training in pixel space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat.attacks.gradient import Norm, evaluating, unwrapped
from dat.attacks.pixels import pgd, random_start
from dat.errors import UsageError
from dat.methods.settings import check_sorts
from dat.types import Batch, Images, Task, check_radius, climbed_losses


@dataclass(frozen=True)
class AT:
    """Train on the worst image found in an l_p ball of pixels.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; the attack runs in eval
    mode (`eval_mode` false: in train mode, running statistics untouched). Defaults: 4/255 with three steps of 8/3/255, as the
    adversarial training of `alibaba/easyrobust`; that takes the worst point which an attack visits (its `use_best`), here, as
    in the paper, it is the last. `clean_weight` w gives `w L(x) + (1 - w) L(x_adv)`, so that the size of the loss, and with it
    the learning rate, keeps its meaning: Goodfellow et al., ICLR 2015, section 6 (w = 0.5).
    Cost per step: `steps` image gradients, then one forward and backward pass, two with a clean term. Needs of the model:
    nothing.
    """

    epsilon: float = 4 / 255
    step_size: float = 8 / 3 / 255
    steps: int = 3
    norm: Norm = "linf"
    random_start: bool = False
    clean_weight: float = 0.0
    eval_mode: bool = True

    def __post_init__(self) -> None:
        check_sorts(self)
        check_radius(self.norm, epsilon=self.epsilon, step_size=self.step_size)
        if not self.steps >= 0:
            raise UsageError(f"steps is {self.steps}, but it cannot be negative; write 0 or more.")
        if not 0 <= self.clean_weight < 1:
            raise UsageError(f"clean_weight is {self.clean_weight}; write 0 or more and less than 1, the rest is adversarial.")

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the weighted mean loss of the clean images, if it counts, then that of the adversarial ones."""
        if self.clean_weight > 0:
            yield self.clean_weight * task.losses(model, batch.images, batch.targets).mean()
        adversarial = self.shown(model, batch, task)
        yield (1 - self.clean_weight) * task.losses(model, adversarial, batch.targets).mean()

    def shown(self, model: nn.Module, batch: Batch, task: Task) -> Images:
        """The adversarial images."""
        with evaluating(model) if self.eval_mode else nullcontext(unwrapped(model)) as attacked:
            return pgd(
                batch.images,
                lambda images: climbed_losses(task, attacked, images, batch.targets),
                epsilon=self.epsilon,
                step_size=self.step_size,
                steps=self.steps,
                norm=self.norm,
                start=self._start(batch),
            )

    def _start(self, batch: Batch) -> Images | None:
        if not self.random_start:
            return None
        noise = batch.draw(torch.rand if self.norm == "linf" else torch.randn, *batch.images.shape[1:])
        return random_start(batch.images, noise, epsilon=self.epsilon, norm=self.norm)
