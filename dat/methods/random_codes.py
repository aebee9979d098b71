"""Random codes: visual words changed blindly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat.discretizers import codes
from dat.errors import UsageError
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Images, Task


@dataclass(frozen=True)
class RandomCodes:
    """Train on reconstructions in which a share of the codes is drawn at random: DAT without the adversary.

    With `neighbours` a code becomes one of so many nearest codes instead of any, all equally likely (ours).
    Source: Mao et al., NeurIPS 2022, Table 8, row "Random" (3.8 % of the codes, the rate that DAT modifies at alpha 0.1).
    Cost per step: one pass of the discretizer, one forward and backward pass. Needs of the model: nothing; with `neighbours`,
    of the discretizer: vectors.
    """

    discretizer: Discretizer
    rate: float = 0.038
    neighbours: int | None = None

    def __post_init__(self) -> None:
        check_sorts(self)
        if not 0 <= self.rate <= 1:
            raise UsageError(f"rate is {self.rate}, but it is a share of the codes; write a number from 0 to 1.")
        if self.neighbours is not None and self.neighbours < 1:
            raise UsageError(f"neighbours is {self.neighbours}; write 1 or more, or leave it out for all codes.")

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the decoded random codes."""
        yield task.losses(model, self.shown(batch), batch.targets).mean()

    def shown(self, batch: Batch) -> Images:
        """The images that it trains on."""
        words = self.discretizer.encode(batch.images)
        chance, choice = (batch.draw(torch.rand, *words.shape[1:]) for _ in range(2))
        if self.neighbours is None:
            words = codes.resample(words, self.discretizer.codebook_size, self.rate, chance, choice)
        else:
            near = codes.code_space(self.discretizer).neighbours(self.neighbours)
            words = codes.resample_nearby(words, near, self.rate, chance, choice)
        height, width = batch.images.shape[-2:]
        return self.discretizer.decode(words)[..., :height, :width]
