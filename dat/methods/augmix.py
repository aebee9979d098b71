"""AugMix with its consistency loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dat.augment import augmix
from dat.errors import UsageError
from dat.methods.settings import check_sorts
from dat.nn.outputs import logits_of
from dat.types import Batch, ClassifyingTask, Images, PerImage, Task

LogitsOfViews = Float[Tensor, "views batch classes"]


@dataclass(frozen=True)
class AugMix:
    """Train on the clean images, and for the same prediction on them and on two random mixtures of each.

    Source: Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty", ICLR 2020;
    `google-research/augmix:imagenet.py`. The three views are one batch, so batch norm sees all of them. `concentration` is
    the paper's alpha, a word that stands for DAT's step here. `jsd_weight` 0: one mixture of each image and the task's loss
    of it, as the source trains without its consistency loss (about a third of the cost).
    Cost per step: one forward and backward pass of three views of each image. Needs of the model: one logit per class.
    """

    width: int = 3
    depth: int = -1
    severity: float = 1.0
    concentration: float = 1.0
    jsd_weight: float = 12.0

    def __post_init__(self) -> None:
        check_sorts(self)
        augmix.check_settings(width=self.width, depth=self.depth, severity=self.severity, concentration=self.concentration)
        if not self.jsd_weight >= 0:
            raise UsageError(f"jsd_weight is {self.jsd_weight}, but it weighs a loss; write 0 or more (the paper uses 12).")

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the clean images plus the weighted divergence of the views; or the loss of one mixture.

        Raises:
            UsageError: the task gives no loss of logits, which the divergence needs.
        """
        if not self.jsd_weight:
            yield task.losses(model, self.mixed(batch), batch.targets).mean()
            return
        if not isinstance(task, ClassifyingTask):
            raise UsageError(
                f"AugMix compares predictions of classes, which {type(task).__name__} has not; write jsd_weight: 0."
            )
        views = torch.cat([batch.images, self.mixed(batch), self.mixed(batch)])
        logits = logits_of(model, views).float().unflatten(0, (3, -1))
        losses = task.losses_of_logits(logits[0], batch.targets) + self.jsd_weight * jensen_shannon_divergence(logits)
        yield losses.mean()

    def mixed(self, batch: Batch) -> Images:
        """A mixture of each image, by the next random numbers of the batch."""
        numbers = batch.draw(torch.rand, augmix.count_of_numbers(self.width, self.depth))
        with torch.no_grad():
            return augmix.augmix(
                batch.images,
                numbers,
                width=self.width,
                depth=self.depth,
                severity=self.severity,
                concentration=self.concentration,
            )


def jensen_shannon_divergence(logits: LogitsOfViews) -> PerImage:
    """Mean over the views of the divergence KL(view || mean of the views), in nats, in float32.

    The mean is kept above 1e-7 as in the source. Unlike there, the logarithm of a view is taken from its logits, so that
    neither the value nor the gradient is NaN where a probability underflows.
    """
    log_shares = logits.float().log_softmax(dim=-1)
    shares = log_shares.exp()
    mixture = shares.mean(dim=0).clamp(1e-7, 1).log()
    return (shares * (log_shares - mixture)).sum(dim=-1).mean(dim=0)
