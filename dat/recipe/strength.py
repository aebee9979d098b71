"""How strong an alpha is depends on the size of the pictures: what a recipe of another size should be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from dat.recipe.header import Recipe
from dat.recipe.methods import alpha_key, takes_l2_step

STEP = "step_size"
SIDE_POWER = 0.6
"""An alpha in L2 that grows as this power of the side changes as many codes. Measured: benchmarks/alpha_by_size.py."""


def note_on_alpha(stated: Mapping[str, Any], recipe: Recipe, overrides: Sequence[str]) -> str | None:
    """What to say where overrides change `data.size` of a recipe's values, and leave its alphas as they were.

    Sizes that are not written down are not known here, and alphas in other units than L2 are not spoken of, nor those that a
    rate decides at any size.
    """
    before, after = _size_of(stated.get("data")), getattr(getattr(recipe, "data", None), "size", None)
    if before is None or after is None or before == after:
        return None
    given, methods = {text.partition("=")[0] for text in overrides}, getattr(recipe, "methods", {})
    lengths = {label: _lengths(section) for label, section in methods.items()}
    kept = {label: of for label, of in lengths.items() if of and not _is_given(label, of, given)}
    if not kept:
        return None
    scale = (after / before) ** SIDE_POWER
    better = " ".join(f"methods.{label}.{key}={of[key] * scale:.2g}" for label, of in kept.items() for key in of)
    names = dict.fromkeys(key for of in kept.values() for key in of if key != STEP)
    stays = "are what they were there, and change" if len(names) > 1 else "is what it was there, and changes"
    return (
        f"data.size is {after} and was {before} in the recipe, but {' and '.join(names)} {stays} "
        f"{'fewer' if after > before else 'more'} of the codes; for about as many write {better} (docs/method.md)."
    )


def _size_of(data: object) -> int | None:
    size = data.get("size") if isinstance(data, Mapping) else None
    return size if isinstance(size, int) and size > 0 else None


def _lengths(section: BaseModel) -> dict[str, float]:
    """The L2 lengths of a method by key: the radius of delta and, where it is set, one step; empty where delta is 0."""
    radius = alpha_key(section)
    found = {key: length for key in (radius, STEP) if isinstance(length := getattr(section, key, None), float) and length}
    return found if takes_l2_step(section) and radius in found else {}


def _is_given(label: str, lengths: Iterable[str], given: set[str]) -> bool:
    return not given.isdisjoint({"methods", f"methods.{label}", *(f"methods.{label}.{key}" for key in lengths)})
