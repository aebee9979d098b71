"""What every method asks of its settings before it asks what they mean."""

from __future__ import annotations

from dataclasses import fields

from dat.attacks.rate import Rate
from dat.errors import UsageError
from dat.types import check_discretizer, check_number


def check_sorts(method: object) -> None:
    """Refuse settings of another sort than their annotations: text for a number, a name for a discretizer.

    Args:
        method: a dataclass, which calls this in its `__post_init__`.

    Raises:
        UsageError: with the setting and its value.
    """
    for entry in fields(method):  # pyright: ignore[reportArgumentType]  # a dataclass, which has no type of its own
        value, sort = getattr(method, entry.name), str(entry.type)
        if value is not None or not sort.endswith(" | None"):
            _check_sort(entry.name, value, sort.removesuffix(" | None"))


def _check_sort(name: str, value: object, sort: str) -> None:
    """By the text of an annotation; of others nothing is asked here."""
    match sort:
        case "Discretizer":
            check_discretizer(value)
        case "float" | "int":
            check_number(name, value, whole=sort == "int")
        case "Length" if not isinstance(value, Rate):
            check_number(name, value, more=", or dat.Rate(0.1) for the length that changes a tenth of the codes")
        case "bool" if not isinstance(value, bool):
            raise UsageError(f"{name} is {value!r}; write True or False.")
        case "tuple[int, ...]" | "tuple[float, ...]":
            if not isinstance(value, tuple | list):
                raise UsageError(f"{name} is {value!r}; write several numbers, e.g. (2, 1).")
            for number in value:
                check_number(name, number, whole="int" in sort)
        case _:
            pass
