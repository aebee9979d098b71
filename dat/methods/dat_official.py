"""Discrete adversarial training as its released program does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dat.attacks.gradient import unwrapped
from dat.attacks.pixels import pgd, random_start
from dat.attacks.rate import Length, Rate, Step, longest_step
from dat.errors import UsageError
from dat.methods.calibration import check_length, given
from dat.methods.controls import Direction, check_direction, stepping
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Images, Task, check_radius, climbed_losses


@dataclass(frozen=True)
class DATOfficial:
    """Train on the images, and on their reconstructions after an L2 attack that a second reconstruction follows.

    The attack starts from `Q(x)`, or with `random_start_probability` (one decision for the whole step) on the sphere of
    radius epsilon around it, and stays in that ball; `x_adv = Q(Q(x) + delta)`. The two mean losses are added, not averaged.
    The model is attacked in train mode.

    Source: `alibaba/easyrobust:examples/imageclassification/imagenet/dat/main.py` and `easyrobust/attacks/pgd.py`. Equal but
    for this: the attack leaves no trace in running statistics, which there take in the attack's images and one unused pass
    more; in an attack with dropout all steps draw the masks that the adversarial pass draws again; the attack runs in the
    precision of the training, there always in float32; integer targets work.
    `epsilon` may be a `Rate` (ours), with `step_size` None, which is epsilon: the share of the codes of Q(x) that the attack
    changes, of which epsilon is sought before each epoch.
    `direction` "random" or "none" is a control without the adversary (ours): a random delta of length epsilon, or Q(Q(x)),
    which already has other codes than Q(x).
    Cost per step: `steps` image gradients (none of a control), two passes of the discretizer, two forward and backward
    passes. Needs of the model: nothing.
    """

    discretizer: Discretizer
    epsilon: Length = 0.1
    step_size: float | None = 0.1
    steps: int = 1
    random_start_probability: float = 0.8
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        check_sorts(self)
        epsilon = check_length(self.epsilon, step_size=self.step_size, direction=self.direction, name="epsilon")
        check_radius("l2", epsilon=epsilon, step_size=epsilon if self.step_size is None else self.step_size)
        if not self.steps >= 0:
            raise UsageError(f"steps is {self.steps}, but it cannot be negative; write 0 or more.")
        if not 0 <= self.random_start_probability <= 1:
            raise UsageError(f"random_start_probability is {self.random_start_probability}; write a number from 0 to 1.")
        check_direction(self.direction, steps=self.steps)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the clean images, then that of the adversarial ones."""
        yield task.losses(model, batch.images, batch.targets).mean()
        reconstruction = self.discretizer(batch.images)
        perturbed = self._attack(model, reconstruction, batch, task)(given(self.epsilon, "epsilon"))
        yield task.losses(model, self.discretizer(perturbed), batch.targets).mean()

    def _attack(self, model: nn.Module, reconstruction: Images, batch: Batch, task: Task) -> Callable[[float], Images]:
        """The images after an attack of each radius; what it draws is drawn once."""
        if self.direction != "gradient":
            return stepping(reconstruction, batch, self.direction)
        start, attacked = self._start(reconstruction, batch), unwrapped(model)
        return lambda epsilon: pgd(
            reconstruction,
            lambda images: climbed_losses(task, attacked, images, batch.targets),
            epsilon=epsilon,
            step_size=epsilon if self.step_size is None else self.step_size,
            steps=self.steps,
            norm="l2",
            start=start(epsilon),
        )

    def _start(self, reconstruction: Images, batch: Batch) -> Callable[[float], Images | None]:
        if batch.draw_once(torch.rand) >= self.random_start_probability:
            return lambda _: None
        noise = batch.draw(torch.randn, *reconstruction.shape[1:])
        return lambda epsilon: random_start(reconstruction, noise, epsilon=epsilon, norm="l2")

    @property
    def sought(self) -> Rate | None:
        """The rate that decides epsilon, if one does."""
        return self.epsilon if isinstance(self.epsilon, Rate) else None

    def settled(self, length: float) -> DATOfficial:
        """The same with this epsilon."""
        return replace(self, epsilon=length)

    def step(self, model: nn.Module, batch: Batch, task: Task) -> Step:
        """From Q(x), which is what is attacked here, to Q(x) + delta of each radius."""
        reconstruction = self.discretizer(batch.images)
        after = self._attack(model, reconstruction, batch, task)
        attacked = unwrapped(model)
        return Step(
            reconstruction,
            after,
            lambda images: climbed_losses(task, attacked, images, batch.targets),
            longest_step(reconstruction, "l2"),
        )
