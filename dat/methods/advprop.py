"""AdvProp: adversarial images through normalisation layers of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat.attacks.gradient import evaluating
from dat.attacks.pixels import pgd, random_start
from dat.errors import UsageError
from dat.methods.settings import check_sorts
from dat.nn.norm import through_auxiliary_norms
from dat.types import Batch, ClassifyingTask, ClassTargets, Images, Task, check_radius, climbed_losses


@dataclass(frozen=True)
class AdvProp:
    """Train on the images and on adversarial ones, which pass through auxiliary normalisation layers.

    Source: Xie et al., "Adversarial Examples Improve Image Recognition", CVPR 2020, algorithm 1; defaults and the choice of
    the start: `tingxueronghua/pytorch-classification-advprop:attacker.py`, `run.sh` (PGD-1, the ResNet-50 of the tables). The
    attack sees the auxiliary layers in eval mode and steps towards a random class each. (The version of `alibaba/easyrobust`
    means to, too, but its switch of layers does nothing in eval mode: it attacks the main ones.)

    A step starts from noise where one number from the standard normal distribution, drawn for the whole step, exceeds
    `noise_threshold`: 42 % of the steps at 0.2. The official option has the name of a probability of the clean start, which it
    is not; write 9 for never and -9 for always.

    Where we depart: the official code shows both halves in one pass. Images share nothing in a pass but the statistics of the
    batch, of which each half has its own, so two passes of half the memory give the same step. (With `auxiliary_norms` off
    the official halves are normalised together, ours each by itself.) Noise is kept in [0, 1] before the first gradient, not
    only after the first step. `step_size` is used as written; the official code makes it epsilon / steps at least.

    Cost per step: `steps` image gradients, two forward and backward passes. Needs of the model: normalisation layers
    (`auxiliary_norms`), logits (`targeted`).
    """

    epsilon: float = 1 / 255
    step_size: float = 1 / 255
    steps: int = 1
    targeted: bool = True
    noise_threshold: float = 0.2
    auxiliary_norms: bool = True

    def __post_init__(self) -> None:
        check_sorts(self)
        check_attack(self.noise_threshold, epsilon=self.epsilon, step_size=self.step_size, steps=self.steps)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield half of the mean loss of the clean images, then half of that of the adversarial ones."""
        adversarial = self._adversary(model, batch, task)
        yield 0.5 * task.losses(model, batch.images, batch.targets).mean()
        with route(model, auxiliary=self.auxiliary_norms):
            loss = 0.5 * task.losses(model, adversarial, batch.targets).mean()
        yield loss

    def _adversary(self, model: nn.Module, batch: Batch, task: Task) -> Images:
        aims = random_classes(batch, task) if self.targeted else batch.targets
        sign = -1 if self.targeted else 1
        with evaluating(model) as attacked, route(attacked, auxiliary=self.auxiliary_norms):
            return pgd(
                batch.images,
                lambda images: sign * climbed_losses(task, attacked, images, aims),
                epsilon=self.epsilon,
                step_size=self.step_size,
                steps=self.steps,
                start=start_of(batch, epsilon=self.epsilon, noise_threshold=self.noise_threshold),
            )


def start_of(batch: Batch, *, epsilon: float, noise_threshold: float) -> Images:
    """Where an attack starts: at the images, or, if the step's one normal number exceeds the threshold, at noise around them.

    Source: `tingxueronghua/pytorch-classification-advprop:attacker.py`, and the same in `meijieru/fast_advprop:attacker.py`.
    """
    if batch.draw_once(torch.randn) <= noise_threshold:
        return batch.images
    noise = batch.draw(torch.rand, *batch.images.shape[1:])
    return random_start(batch.images, noise, epsilon=epsilon, norm="linf")


def check_attack(noise_threshold: float, *, epsilon: float, step_size: float, steps: int = 1) -> None:
    """Refuse settings of an attack that cannot be.

    Raises:
        UsageError: a size is negative or above 1, or the threshold not finite.
    """
    check_radius("linf", epsilon=epsilon, step_size=step_size)
    if not steps >= 0:
        raise UsageError(f"steps is {steps}, but it cannot be negative; write 0 or more.")
    if not math.isfinite(noise_threshold):
        raise UsageError(f"noise_threshold is {noise_threshold}; write a number (0.2 in the official code).")


def route(model: nn.Module, *, auxiliary: bool) -> AbstractContextManager[None]:
    """The way of adversarial images: through the auxiliary normalisation layers, or through the only ones.

    Raises:
        UsageError: the model has no auxiliary ones.
    """
    return through_auxiliary_norms(model) if auxiliary else nullcontext()


def random_classes(batch: Batch, task: Task) -> ClassTargets:
    """A class for each image to aim at, drawn for the step.

    Raises:
        UsageError: the task knows no classes.
    """
    if not isinstance(task, ClassifyingTask):
        raise UsageError(f"targeted needs classes to aim at, which {type(task).__name__} has not; write targeted: false.")
    return task.random_classes(batch.targets, batch.draw(torch.rand))
