"""Recipes of runs from before fewer pictures were drawn in proportion to their classes: they took the first of each class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KEYS = {"data": "draw", "evaluation": "c_draw"}
"""Which key of a section says how its `..._per_class` pictures are chosen."""


def with_old_draw(values: dict[str, Any]) -> dict[str, Any]:
    """The values that a run stored, which are all of them: where the key is missing, there was only one way."""
    for name, section in _drawing(values):
        section.setdefault(KEYS[name], "first")
    return values


def without_old_draw(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as they were before there was the key, if they say the same; where all pictures are taken, none is drawn."""
    drawing = dict(_drawing(settings))
    for name, key in KEYS.items():
        if name in settings and (name not in drawing or drawing[name][key] == "first"):
            settings[name].pop(key, None)
    return settings


def _drawing(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sections that ask for fewer pictures than there are."""
    for name in KEYS:
        section = values.get(name)
        if isinstance(section, dict) and any(key.endswith("_per_class") and section[key] is not None for key in section):
            yield name, section
