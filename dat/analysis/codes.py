"""Which visual words the adversary changes, in numbers and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat.attacks.discrete import discrete_adversary
from dat.attacks.gradient import evaluating
from dat.discretizers import codes
from dat.types import Codes, Discretizer, Images, Targets, Task


@dataclass(frozen=True)
class Change:
    """A batch before and after the adversary. `changed`: codes of `Q(x)` against codes of `Q(x + delta)`."""

    original: Images
    reconstruction: Images
    adversarial: Images
    changed: Tensor

    @property
    def rate(self) -> float:
        """Modified codes, in percent."""
        return 100 * float(self.changed.float().mean())


def discrete_change(
    model: nn.Module, task: Task, discretizer: Discretizer, images: Images, targets: Targets, *, alpha: float
) -> Change:
    """Attack a batch and compare the codes that `Q` gives for x and for x + delta (Table 8, "modified codes")."""
    asked = _Asked(discretizer)
    with evaluating(model) as attacked:
        adversarial = discrete_adversary(images, lambda shown: task.losses(attacked, shown, targets), asked, alpha=alpha)
    before, after = asked.codes
    return Change(
        images, discretizer.decode(before)[..., : images.shape[2], : images.shape[3]], adversarial, codes.changed(before, after)
    )


class _Asked:
    """A discretizer that remembers the codes of what it was shown."""

    def __init__(self, discretizer: Discretizer) -> None:
        self.discretizer = discretizer
        self.codebook_size, self.stride = discretizer.codebook_size, discretizer.stride
        self.codes: list[Codes] = []

    def encode(self, images: Images) -> Codes:
        self.codes.append(self.discretizer.encode(images))
        return self.codes[-1]

    def decode(self, codes: Codes) -> Images:
        return self.discretizer.decode(codes)

    def __call__(self, images: Images) -> Images:
        return self.decode(self.encode(images))[..., : images.shape[2], : images.shape[3]]


def mean_rate(changes: list[Change]) -> float:
    """Modified codes over several batches of equal grids, in percent."""
    return 100 * float(torch.cat([change.changed.flatten(1) for change in changes]).float().mean())
