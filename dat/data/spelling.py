"""Names of classes that differ in nothing but their spelling."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def spelling(name: str) -> str:
    """What all spellings of a name share: `Golden_Retriever` and `golden retriever `. One character is a name of its own."""
    plain = " ".join(unicodedata.normalize("NFKC", name).replace("_", " ").replace("-", " ").split()) or name
    return plain if len(plain) < 2 else plain.casefold()


def spelt_twice(names: Iterable[str], others: Iterable[str] = ()) -> tuple[str, str] | None:
    """The first two that are one name spelt in two ways: of `names`, or one of these and one of `others`."""
    known: dict[str, str] = {spelling(name): name for name in others}
    for name in names:
        if (other := known.setdefault(spelling(name), name)) != name:
            return other, name
    return None
