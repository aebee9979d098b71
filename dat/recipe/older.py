"""What settings of runs that older versions began meant: the first pictures of each class, and schedules as timm has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KEYS = {"data": "draw", "evaluation": "c_draw"}
"""Which key of a section says how its `..._per_class` pictures are chosen."""
SCHEDULES = {"step": "step (every 90 epochs)", "poly": "poly (of power 0.1)"}
"""Those whose steps are others now."""


def as_it_was_meant(part: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training that began with a schedule which means something else now, so that it is not gone on with."""
    training = part.get("training")
    if not isinstance(training, Mapping) or training.get("schedule") not in SCHEDULES:
        return dict(part)
    return {**part, "training": {**training, "schedule": SCHEDULES[str(training["schedule"])]}}


def without_untold_aim(method: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method as they were before pyramid-at had another aim than a class, if they say the same."""
    was_meant = method.get("method") == "pyramid-at" and method.get("targeted") is True
    return {key: value for key, value in method.items() if not (was_meant and key == "targeted")}


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


def drawing_as(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What to write, such as `data.draw=first`, for `now` to draw as `before` did; nothing, if it does."""
    old, new = dict(_drawing(before)), dict(_drawing(now))
    both = [(name, key) for name, key in KEYS.items() if name in old and name in new]
    return [f"{name}.{key}=first" for name, key in both if (old[name][key], new[name][key]) == ("first", "in-proportion")]


def _drawing(values: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Sections that ask for fewer pictures than there are."""
    for name in KEYS:
        section = values.get(name)
        if isinstance(section, dict) and any(key.endswith("_per_class") and section[key] is not None for key in section):
            yield name, section
