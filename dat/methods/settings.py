"""What every method asks of its settings before it asks what they mean."""

from __future__ import annotations

from dataclasses import fields
from numbers import Integral, Real

from dat.attacks.rate import Rate
from dat.errors import UsageError
from dat.types import check_discretizer

SOUGHT = "a number, or dat.Rate(0.1) for the length that changes a tenth of the codes"
SORTS: dict[str, tuple[tuple[type, ...], str]] = {
    "float": ((Real,), "a number"),
    "float | None": ((Real, type(None)), "a number, or None"),
    "int": ((Integral,), "a whole number"),
    "int | None": ((Integral, type(None)), "a whole number, or None"),
    "Length": ((Real, Rate), SOUGHT),
}
"""By the annotation of a setting what may stand there, and what that is in words."""


def check_sorts(method: object) -> None:
    """Refuse settings of another sort than their annotations: text for a number, a name for a discretizer.

    Args:
        method: a dataclass, which calls this in its `__post_init__`.

    Raises:
        UsageError: with the setting and its value.
    """
    for entry in fields(method):  # pyright: ignore[reportArgumentType]  # a dataclass, which has no type of its own
        value = getattr(method, entry.name)
        if entry.type == "Discretizer":
            check_discretizer(value)
        sorts, words = SORTS.get(str(entry.type), ((object,), ""))
        if not isinstance(value, sorts) or (isinstance(value, bool) and words):
            raise UsageError(f"{entry.name} is {value!r}; write {words}.")
