"""The adversaries that figures compare, on the same pictures: in pixels, in visual words, blind, and none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from dat.analysis.codes import discrete_change
from dat.methods.at import AT
from dat.methods.random_codes import RandomCodes
from dat.types import Batch, Discretizer, Images, Task

PIXEL, DISCRETE, RANDOM, RECONSTRUCTION = "pixel", "discrete", "random-codes", "reconstruction"
ADVERSARIES = (PIXEL, DISCRETE, RANDOM, RECONSTRUCTION)
"""PGD in a ball of pixels (AT); Q(x + delta) (DAT); as many codes drawn blindly; Q(x), which no adversary has touched."""


@dataclass(frozen=True, eq=False)
class Shown:
    """What each adversary makes of a batch, and the share of the codes, in percent, that the discrete one changed."""

    images: Mapping[str, Images]
    modified: float


def adversarial(model: nn.Module, batch: Batch, task: Task, discretizer: Discretizer, *, alpha: float, at: AT) -> Shown:
    """The pictures of a batch after each of `ADVERSARIES`; the discrete one attacks the model in eval mode, `at` as it says.

    The random codes are drawn from the batch's stream, at the rate at which the discrete adversary changed codes of this
    batch. Give a discretizer in float32 (`FrozenDiscretizer.exact`): bfloat16 changes more codes than a step of 0.1.
    """
    changed = discrete_change(model, task, discretizer, batch.images, batch.targets, alpha=alpha)
    blind = RandomCodes(discretizer, changed.rate / 100).shown(batch)
    found = (at.shown(model, batch, task), changed.adversarial, blind, changed.reconstruction)
    return Shown(dict(zip(ADVERSARIES, found, strict=True)), changed.rate)
