"""Discrete adversarial training of a part of each batch, at about the price of plain training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dat.attacks.gradient import GradientScale
from dat.attacks.rate import Length, Rate, Step
from dat.errors import UsageError
from dat.methods.controls import Direction
from dat.methods.dat import DAT
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Task


@dataclass(frozen=True)
class DATFast:
    """Train on a part of each batch as discrete adversarial images and on another as it is, in one pass; leave out the rest.

    Ours. What makes a step dear is the adversary: a gradient and two passes of `Q` for every image that gets one. So only the
    first `adversarial_share` of the images get one (that of `DAT`), the `clean_share` after them is shown as it is, and the
    others wait for an epoch that brings them further to the front: the order of each is drawn. The loss is the mean over the
    images that are shown. What it keeps of the gain of `DAT`: docs/method.md.
    `alpha`, `gradient_scale`, `direction`: as of `DAT`. The split is made in each micro-batch: other sizes of these are another
    choice of images.
    Cost per step: one forward and backward pass of both shares; for the adversarial one `DAT`'s image gradient and two passes
    of the discretizer (of a control one pass and no gradient). Needs of the model: nothing.
    """

    discretizer: Discretizer
    alpha: Length = 0.1
    adversarial_share: float = 0.4
    clean_share: float = 0.3
    gradient_scale: GradientScale = "l2"
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        check_sorts(self)
        self._inner()
        if not (self.adversarial_share > 0 and self.clean_share >= 0 and self.adversarial_share + self.clean_share <= 1):
            raise UsageError(
                f"adversarial_share is {self.adversarial_share} and clean_share {self.clean_share}, but they are parts of one "
                "batch; write an adversarial_share above 0, and both together at most 1, e.g. 0.4 and 0.3."
            )

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the images that are shown: the first as adversaries, those after them as they are.

        Raises:
            UsageError: the adversarial share of so few images is none.
        """
        few, shown = self._counts(len(batch.images))
        first = replace(batch, images=batch.images[:few], targets=batch.targets[:few])
        adversarial = self._inner().shown(model, first, task)
        yield task.losses(model, torch.cat([adversarial, batch.images[few:shown]]), batch.targets[:shown]).mean()

    @property
    def sought(self) -> Rate | None:
        """The rate that decides alpha, if one does."""
        return self._inner().sought

    def settled(self, length: float) -> DATFast:
        """The same with this alpha."""
        return replace(self, alpha=length)

    def step(self, model: nn.Module, batch: Batch, task: Task) -> Step:
        """From x to x + delta of each length; of all images, any of which may become an adversary."""
        return self._inner().step(model, batch, task)

    def _inner(self) -> DAT:
        """What is done with the images that get an adversary."""
        return DAT(self.discretizer, self.alpha, gradient_scale=self.gradient_scale, direction=self.direction)

    def _counts(self, count: int) -> tuple[int, int]:
        """How many images of a micro-batch become adversaries, and how many are shown."""
        few = round(self.adversarial_share * count)
        if few == 0:
            raise UsageError(
                f"adversarial_share is {self.adversarial_share}, which makes none of the {count} images of a micro-batch "
                "adversarial; choose a larger training.batch_size per process and micro-batch, or a larger share."
            )
        return few, min(count, few + round(self.clean_share * count))
