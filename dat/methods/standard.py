"""Standard training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dat.types import Batch, Task


@dataclass(frozen=True)
class Standard:
    """The loss of the images as they are.

    Cost per step: one forward and backward pass. Needs of the model: nothing.
    """

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the clean images."""
        yield task.losses(model, batch.images, batch.targets).mean()
