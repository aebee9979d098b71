"""Which method serves which task, and why not where it does not: one table, asked by recipes, tests and the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dat.methods import METHODS


class Setting(NamedTuple):
    """What a method is set to where an image has no class, and why."""

    key: str
    value: object
    reason: str


TASKS = ("classification", "detection", "masked reconstruction", "contrastive")
"""What a model learns. The first alone has one logit per class, which some methods need; nothing else tells them apart."""
AIMS = "aims at a class of each image, and here an image has none"
ONLY_CLASSES: Mapping[str, str] = {"debiased": AIMS}
"""Methods that serve no other task, and why."""
WITHOUT_CLASSES: Mapping[str, Setting] = {
    "advprop": Setting("targeted", False, AIMS),
    "pyramid-at": Setting("targeted", False, AIMS),
    "augmix": Setting("jsd_weight", 0.0, "compares classes of an image, and here an image has none"),
    "deepaugment-augmix-dat": Setting("jsd_weight", 0.0, "compares classes of an image, and here an image has none"),
}
"""Methods that serve other tasks with one setting."""


def why_not(method: str, settings: Mapping[str, object]) -> str:
    """Why a method with these settings does not serve tasks other than classification; empty where it does."""
    if reason := ONLY_CLASSES.get(method):
        return f"{method} {reason}; take another method"
    needed = WITHOUT_CLASSES.get(method)
    if needed is None or settings.get(needed.key) == needed.value:
        return ""
    return f"{needed.key} {needed.reason}; write {needed.key}: {_written(needed.value)}"


def serves(method: str, task: str) -> str:
    """A cell of the table: yes, yes with a setting, or no with the reason."""
    if task == TASKS[0]:
        return "yes"
    if reason := ONLY_CLASSES.get(method):
        return f"no: it {reason}"
    needed = WITHOUT_CLASSES.get(method)
    return f"`{needed.key}: {_written(needed.value)}`" if needed is not None else "yes"


def markdown() -> str:
    """The table as Markdown."""
    lines = [["Method", *TASKS], ["---"] * (1 + len(TASKS))]
    lines += [[f"`{method}`", *(serves(method, task) for task in TASKS)] for method in METHODS]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(value: object) -> str:
    """As a recipe has it."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
