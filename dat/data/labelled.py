"""From the pictures that a list names, each with the name of its class, to those that are wanted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dat.data.draw import Draw, Labels, Positions, drawn
from dat.data.folders import by_what, in_order, refuse_two_spellings, require_same_classes
from dat.errors import DataError, UsageError


@dataclass(frozen=True)
class Wanted:
    """Which classes a set must have, and how many of its pictures are kept; the words of `ImageFolder`.

    Raises:
        UsageError: `per_class` is below 1.
    """

    classes: Sequence[str] | None = None
    per_class: int | None = None
    draw: Draw = "in-proportion"
    subset: bool = False
    of: Literal["training", "labelled"] = "training"

    def __post_init__(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise UsageError(f"per_class is {self.per_class}; give 1 or more, or leave it out for all pictures.")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Positions in the list, the class of each, the names of all classes, and whence their order."""

    positions: Positions
    targets: Labels
    classes: tuple[str, ...]
    class_order: str


def chosen(
    place: str, names: Sequence[str], labels: Sequence[str], wanted: Wanted, *, said_by: str, order: Sequence[str] = ()
) -> Chosen:
    """What is wanted of a list of pictures. `said_by`: what tells the classes, and with `order` their order, for messages.

    Raises:
        DataError: there are no pictures, a class of `order` has none, it is spelt in two ways, or it is none of those wanted.
    """
    found = _classes(place, labels, order, said_by)
    known = found if wanted.classes is None else tuple(wanted.classes)
    # A list says the class of each picture by name: in which order it would have put them is no matter.
    as_known = tuple(name for name in known if name in found) if set(found) <= set(known) else found
    require_same_classes(place, as_known, known, subset=wanted.subset, of=wanted.of)
    numbers = {name: position for position, name in enumerate(known)}
    targets = np.array([numbers[label] for label in labels], dtype=np.int64)
    positions = np.arange(len(labels))
    if wanted.per_class is not None:
        positions = drawn(names, targets, wanted.per_class, wanted.draw)
    return Chosen(positions, targets[positions], known, f"{said_by}, {'in its order' if order else by_what(found)}")


def _classes(place: str, labels: Sequence[str], order: Sequence[str], said_by: str) -> tuple[str, ...]:
    if not labels:
        raise DataError(f"There are no pictures in {place}; check what it names.")
    there = set(labels)
    if empty := [name for name in order if name not in there]:
        raise DataError(f"Class {empty[0]!r} of the {said_by} has no pictures; take it out, or add some.")
    found = tuple(order) or in_order(there)
    refuse_two_spellings(place, found)
    return found


def refuse_unlabelled(place: str, names: Sequence[str], labels: Sequence[str], advice: str) -> None:
    """Refuse pictures without a class, which is an empty text.

    Raises:
        DataError: how many, and the first three.
    """
    if bare := [name for name, label in zip(names, labels, strict=True) if not label]:
        raise DataError(f"{counted(bare)} of {place} without a class; {advice}.")


def counted(names: Sequence[str]) -> str:
    """`5 pictures (a, b, c, ...)`: how many, and the first three."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {'picture' if len(names) == 1 else 'pictures'} ({shown})"
