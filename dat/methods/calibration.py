"""Steps whose length is found: for a method that names the share of the codes that it shall change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from dat.attacks.discrete import check_sought
from dat.attacks.rate import Length, Rate, Reached, Step, exactly_encoding, gain_of, length_for
from dat.errors import UsageError
from dat.types import Batch, Discretizer, Method, Task


@runtime_checkable
class Calibrated(Protocol):
    """A method with a discretizer and a step of which the length may be sought: the loop does so before each epoch."""

    @property
    def discretizer(self) -> Discretizer:
        """Whose codes the step changes."""
        ...

    @property
    def sought(self) -> Rate | None:
        """What the length shall lead to; None where it is given."""
        ...

    def settled(self, length: float) -> Method:
        """The same method with this length."""
        ...

    def step(self, model: nn.Module, batch: Batch, task: Task) -> Step:
        """The step that it takes on a batch, of any length; what is random in it is drawn from the batch."""
        ...


def reached(
    method: Calibrated, model: nn.Module, batches: Sequence[Batch], task: Task, *, start: float | None = None
) -> Reached:
    """The length at which the step of a method changes the share of codes that it seeks, on these batches, in float32.

    Raises:
        UsageError: it seeks none, or no length leads there.
    """
    if method.sought is None:
        raise UsageError("This method has a length; give it a dat.Rate instead, e.g. dat.DAT(discretizer, dat.Rate(0.1)).")
    steps = [method.step(model, batch, task) for batch in batches]
    exact = exactly_encoding(method.discretizer)
    length, rate = length_for(method.sought.rate, steps, exact, start=start)
    return Reached(length, rate, gain_of(length, steps, exact))


def calibrated(method: Calibrated, model: nn.Module, batches: Sequence[Batch], task: Task) -> Method:
    """The method with the length at which its step changes, on these batches, the share of the codes that it seeks.

    `dat.train` does so before each epoch; a loop of one's own asks for it when it likes. torch's global stream stays as it is.

    Raises:
        UsageError: it seeks none, or no length leads there.
    """
    devices = sorted({batch.images.device.index for batch in batches if batch.images.is_cuda})
    with torch.random.fork_rng(devices=devices):
        return method.settled(reached(method, model, batches, task).alpha)


def check_length(
    length: Length,
    *,
    gradient_scale: str = "l2",
    step_size: float | None = None,
    direction: str = "gradient",
    name: str = "alpha",
) -> float:
    """The length itself; of one that is sought 0, once its settings were found to have a meaning.

    Raises:
        UsageError: they have none.
    """
    if not isinstance(length, Rate):
        return length
    if direction == "none":
        raise UsageError(f"direction is 'none', which changes no code, but {name} is sought by a rate; write {name}: 0.")
    check_sought(length.rate, gradient_scale=gradient_scale, step_size=step_size, name=name)
    return 0.0


def given(length: Length, name: str = "alpha") -> float:
    """A length that is known.

    Raises:
        UsageError: it is still sought.
    """
    if isinstance(length, Rate):
        raise UsageError(
            f"{name} is sought by a rate of {length.rate:g}, and not found yet; in a loop of your own begin each epoch with "
            "method = dat.calibrated(sought, model, batches, task)."
        )
    return length
