"""How strong an alpha is depends on the size of the pictures: what a recipe of another size should be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from dat.recipe.header import Recipe
from dat.recipe.methods import alpha_of

SIDE_POWER = 0.6
"""An alpha in L2 that grows as this power of the side changes as many codes. Measured: benchmarks/alpha_by_size.py."""


def note_on_alpha(stated: Mapping[str, Any], recipe: Recipe, overrides: Sequence[str]) -> str | None:
    """What to say where overrides change `data.size` of a recipe's values, and leave its alphas as they were.

    Sizes that are not written down are not known here, and alphas in other units than L2 are not spoken of.
    """
    before, after = _size_of(stated.get("data")), getattr(getattr(recipe, "data", None), "size", None)
    if before is None or after is None or before == after:
        return None
    given, methods = {text.partition("=")[0] for text in overrides}, getattr(recipe, "methods", {})
    alphas = {label: _length(section) for label, section in methods.items() if not _is_given(label, given)}
    scale = (after / before) ** SIDE_POWER
    better = [f"methods.{label}.alpha={alpha * scale:.2g}" for label, alpha in alphas.items() if alpha]
    if not better:
        return None
    return (
        f"data.size is {after} and was {before} in the recipe, but alpha is what it was there, and changes "
        f"{'fewer' if after > before else 'more'} of the codes; for about as many write {' '.join(better)} (docs/method.md)."
    )


def _size_of(data: object) -> int | None:
    size = data.get("size") if isinstance(data, Mapping) else None
    return size if isinstance(size, int) and size > 0 else None


def _length(section: BaseModel) -> float | None:
    return alpha_of(section) if getattr(section, "gradient_scale", "l2") == "l2" else None


def _is_given(label: str, keys: set[str]) -> bool:
    return not keys.isdisjoint({"methods", f"methods.{label}", f"methods.{label}.alpha"})
