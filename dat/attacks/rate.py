"""The length of a step by what it does: which one changes a wanted share of the codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol, cast, runtime_checkable

from dat.attacks.gradient import losses_only
from dat.discretizers.codes import changed
from dat.errors import UsageError
from dat.types import Codes, Discretizer, Images, LossFn, check_number

CLOSE = 0.02
"""How far from the wanted share a search ends, as a part of it."""
TOLERATED = 0.1
"""How far from it a length may lead whose neighbours lead further."""
FIRST = 0.005
"""With which part of the longest step a search begins."""
FASTEST = 8.0
"""A search for the two lengths between which the wanted one lies multiplies by this at most."""
SAME = 1e-6
"""Lengths that differ by less than this part are one length."""


@dataclass(frozen=True)
class Rate:
    """In place of a length: the share of the codes that a step shall change, and on how many pictures its length is sought.

    Raises:
        UsageError: the rate is no share above 0 and below 1, or there are no pictures.
    """

    rate: float
    pictures: int = 256

    def __post_init__(self) -> None:
        check_rate(self.rate)
        check_number("pictures", self.pictures, whole=True)
        if self.pictures < 1:
            raise UsageError(f"pictures is {self.pictures}, but a length is sought on at least one; write e.g. 256.")


Length = float | Rate


def check_rate(rate: float, name: str = "rate") -> None:
    """Refuse a share that no length leads to.

    Raises:
        UsageError: it is not above 0 and below 1.
    """
    if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 < rate < 1:
        raise UsageError(
            f"{name} is {rate!r}, but it is the share of the codes that a step changes, and none changes all; write a number "
            "between 0 and 1, e.g. 0.1, or for no step alpha: 0."
        )


@dataclass(frozen=True)
class Step:
    """A step whose length is open: from `images`, whose codes are compared, to `after(length)`, at most `longest`."""

    images: Images
    after: Callable[[float], Images]
    loss_fn: LossFn
    longest: float


@dataclass(frozen=True)
class Reached:
    """A length that was found, the share of the codes it changes, and by how much the mean loss is higher after `Q` then."""

    alpha: float
    rate: float
    gain: float


@runtime_checkable
class HasExact(Protocol):
    """A discretizer that may compute in low precision, where rounding changes codes, too."""

    def exact(self) -> Discretizer:
        """The same in float32."""
        ...


def exactly_encoding(discretizer: Discretizer) -> Discretizer:
    """The discretizer in float32, where it says how."""
    return cast(Discretizer, discretizer.exact()) if isinstance(discretizer, HasExact) else discretizer


def longest_step(images: Images, gradient_scale: str) -> float:
    """From one corner of [0, 1] to the other: what a step of an image may be long in this norm."""
    return 1.0 if gradient_scale == "linf" else math.sqrt(images[0].numel())


def length_for(rate: float, steps: Sequence[Step], exact: Discretizer, *, start: float | None = None) -> tuple[float, float]:
    """The length at which the steps change a share `rate` of the codes, and the share it does change, within 2 % of it.

    Where the codes of so few pictures let no length come as near, the nearest one. The search begins at `start`. Costs one
    pass of the encoder of `exact`, and one for each length tried: five or six, two where `start` is nearly right.

    Raises:
        UsageError: the rate is none; less than one code; not reached by the longest step, or passed over by a tenth of itself.
    """
    check_rate(rate)
    before = [exact.encode(step.images) for step in steps]
    every, longest = sum(codes.numel() for codes in before), min(step.longest for step in steps)
    if rate * every < 1:
        raise UsageError(
            f"A rate of {rate:g} is less than one of the {every} codes of the pictures on which its step is sought; write "
            f"{1 / every:.2g} or more, or take more pictures."
        )
    return searched(
        lambda length: sum(map(_changed_by(length, exact), steps, before)) / every,
        rate,
        start=FIRST * longest if start is None else start,
        longest=longest,
        grain=1 / every,
    )


def _changed_by(length: float, exact: Discretizer) -> Callable[[Step, Codes], int]:
    return lambda step, codes: int(changed(codes, exact.encode(step.after(length))).sum())


def gain_of(length: float, steps: Sequence[Step], exact: Discretizer) -> float:
    """By how much the mean loss at `Q` of the images after a step is higher than at `Q` of the images."""
    pairs = [
        losses_only(exact(step.after(length)), step.loss_fn) - losses_only(exact(step.images), step.loss_fn) for step in steps
    ]
    return sum(float(of.double().sum()) for of in pairs) / sum(map(len, pairs))


def searched(
    share_of: Callable[[float], float], rate: float, *, start: float, longest: float, grain: float
) -> tuple[float, float]:
    """The length whose share is `rate`, and its share: secants of the logarithms, or halves, between one below and one above.

    `share_of` rises with the length, from 0, in steps of `grain`.

    Raises:
        UsageError: as `length_for`.
    """
    tried: dict[float, float] = {0.0: 0.0}
    length = min(start, longest)
    while True:
        tried[length] = share = share_of(length)
        if abs(share - rate) <= max(CLOSE * rate, grain / 2):
            return length, share
        if share < rate and length >= longest:
            raise UsageError(
                f"A rate of {rate:g} is out of reach: a step of alpha {length:.3g} changes {share:.2g} of the codes, and a "
                "longer one leads out of [0, 1]; write a lower rate, or take a discretizer of more codes or a smaller stride."
            )
        below = max((one for one in tried.items() if one[1] < rate), key=lambda one: one[0])
        above = min((one for one in tried.items() if one[1] >= rate and one[0] > below[0]), default=None)
        if above is not None and above[0] - below[0] <= SAME * max(above[0], SAME * longest):
            return _nearest(below, above, rate, grain)
        length = min(_between(below, above, rate, len(tried)), longest)


def _between(below: tuple[float, float], above: tuple[float, float] | None, rate: float, number: int) -> float:
    """The next length to try: on the line through both, kept off its ends; every third time the middle."""
    if above is None:
        return below[0] * (min(FASTEST, 1.5 * rate / below[1]) if below[1] else FASTEST)
    if not below[1]:
        return above[0] * min(0.5, max(1 / FASTEST, rate / above[1])) if not below[0] else math.sqrt(below[0] * above[0])
    part = 0.5 if number % 3 == 0 else math.log(rate / below[1]) / math.log(above[1] / below[1])
    return below[0] * (above[0] / below[0]) ** min(0.95, max(0.05, part))


def _nearest(below: tuple[float, float], above: tuple[float, float], rate: float, grain: float) -> tuple[float, float]:
    """The one of two neighbouring lengths that comes nearer, if it comes near."""
    length, share = min((above, below), key=lambda one: abs(one[1] - rate))
    if abs(share - rate) <= max(TOLERATED * rate, grain):
        return length, share
    raise UsageError(
        f"A rate of {rate:g} is passed over: just below alpha {above[0]:.3g} a step changes {below[1]:.2g} of the codes, and "
        f"there {above[1]:.2g}; write one of these, take more pictures, or a discretizer of more codes or a smaller stride."
    )
