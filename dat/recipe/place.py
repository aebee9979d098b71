"""Where a recipe's pictures are: each key a single place, as text, and what to write where something else stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

PERCENT = " %.,0123456789"
"""What is made of these alone is meant as a share, and names no folder."""
SEVERAL = "{NAME: FOLDER, ...}"
SECTION = {"folder", "classes"}
"""Keys of the section of one of several test sets."""


def one_place(value: Any, instead: str = "write one folder (or another place of pictures), e.g. photos/train") -> Any:
    """A text that may name a place. Raises: ValueError: with what to write `instead`."""
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError(f"is {_met(value)}; {instead}")


Place = Annotated[str, BeforeValidator(one_place)]


def training_place(value: Any) -> Any:
    """As `one_place`, where there is a key for further ones."""
    return one_place(value, "write one folder, train: FOLDER; others of the same classes are extra_train: [FOLDER, ...]")


def further_places(value: Any) -> Any:
    """A list. Raises: ValueError: it is none."""
    if isinstance(value, list | tuple):
        return value
    raise ValueError(f"is {_met(value)}; write a list, extra_train: [FOLDER, ...], or leave it out")


def share_or_place(value: Any) -> Any:
    """A share of the training pictures, a folder, or nothing. Raises: ValueError: it is neither."""
    is_share = isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1
    is_place = isinstance(value, str) and bool(value.strip(PERCENT))
    if value is None or is_share or is_place:
        return value
    raise ValueError(f"is {_met(value)}; write a share of the training pictures between 0 and 1, e.g. 0.1, or a folder")


def one_or_named(value: Any) -> Any:
    """A place, or several by name; what is wrong with one of these is said here, but for keys of its section.

    Raises:
        ValueError: it is neither, a section without a name, or something else stands for a place.
    """
    if not isinstance(value, Mapping):
        return one_place(value, f"write one folder, test: FOLDER, or several by name, test: {SEVERAL}")
    if SECTION & {*value}:
        raise ValueError(
            f"is {dict(value)!r}, but folder and classes belong to one of several sets, which has a name; write "
            "test: {NAME: {folder: FOLDER, classes: subset}}"
        )
    for name, place in value.items():
        is_text = isinstance(place, str) and bool(place.strip())
        if not is_text and (not place or not isinstance(place, Mapping | BaseModel)):
            raise ValueError(
                f"has {_met(place)} for {name}; write {name}: FOLDER, or {name}: {{folder: FOLDER, classes: subset}}"
            )
    return value


def _met(value: object) -> str:
    return "nothing" if value in (None, "") else repr(value)
