"""Which pictures of a set stand for all of them, where fewer are looked at.

Knows names and classes, no files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

Draw = Literal["in-proportion", "first"]
"""How pictures are chosen; `first`, of each class by name, is how older versions did."""
Labels = Int64[np.ndarray, " pictures"]
Positions = Int64[np.ndarray, " chosen"]


def drawn(names: Sequence[str], targets: Labels, per_class: int, draw: Draw = "in-proportion", *, seed: int = 0) -> Positions:
    """Positions of `per_class` times as many pictures as there are classes, in order; of all pictures, if there are no more.

    `in-proportion`: of each class as many as its share of the set, rounded so that they add up (Webster's method), but at least
    one; which ones is drawn at random. A picture's chance is a function of (seed, name without suffix): neither the order of
    the list nor a copy in another format changes the draw, and a smaller draw is a part of a larger one.
    `first`: the first `per_class` of each class in the order of the list, so that large classes count for less.
    """
    if draw == "first":
        return np.flatnonzero(_places(targets, np.arange(len(names)))[0] < per_class)
    order = drawn_order(names, seed=seed)
    ranks, sizes = _places(targets, order)
    turns = np.where(ranks == 0, 0.0, (ranks + 0.5) / sizes)
    count = min(per_class * len(np.unique(targets)), len(names))
    return np.sort(order[np.argsort(turns[order], kind="stable")][:count])


def drawn_order(names: Sequence[str], *, seed: int = 0) -> Positions:
    """Positions in the order of their chances, which are a function of (seed, name without suffix)."""
    chances = np.array([_chance(name, seed) for name in names], dtype=np.uint64)
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    return by_name[np.argsort(chances[by_name], kind="stable")]


def _places(targets: Labels, order: Labels) -> tuple[Labels, Labels]:
    """Of each picture, how many of its class come before it in `order`, and how many there are."""
    by_class = order[np.argsort(targets[order], kind="stable")]
    sizes = np.bincount(targets)
    firsts = np.cumsum(sizes) - sizes
    ranks = np.empty_like(targets)
    ranks[by_class] = np.arange(len(targets)) - firsts[targets[by_class]]
    return ranks, sizes[targets]


def _chance(name: str, seed: int) -> int:
    stem = os.path.splitext(name)[0]
    digest = hashlib.sha256(f"{seed}\0{stem}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")
