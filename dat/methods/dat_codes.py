"""Discrete adversarial training whose adversary chooses the codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dat.attacks import codes
from dat.attacks.gradient import evaluating
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Task, climbed_losses


@dataclass(frozen=True)
class DATCodes:
    """Train on images of which the adversary replaced a share of the visual words, each by a near one: no pixel step.

    DAT moves pixels and takes the words that follow; here the number of words that change is given, and their choice is
    the adversary's, by their first-order gain through the decoder. `rate` as DAT modifies at alpha 0.1, in whole codes.
    Source: ours, after Ebrahimi et al. (HotFlip), ACL 2018: see `dat.attacks.codes`. The model is attacked in eval mode.
    Cost per step: `steps` gradients through the decoder and the model, one encoding and one decoding more, then one forward
    and backward pass. Needs of the model: nothing; of the discretizer: vectors and a differentiable decoder.
    """

    discretizer: Discretizer
    rate: float = 0.038
    neighbours: int = 8
    steps: int = 1

    def __post_init__(self) -> None:
        check_sorts(self)
        codes.check_budget(self.rate, self.neighbours, self.steps)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the images of the adversarial codes."""
        with evaluating(model) as attacked:
            adversarial = codes.code_adversary(
                batch.images,
                lambda images: climbed_losses(task, attacked, images, batch.targets),
                self.discretizer,
                rate=self.rate,
                neighbours=self.neighbours,
                steps=self.steps,
            )
        yield task.losses(model, adversarial, batch.targets).mean()
