"""What is said of a recipe, whatever its kind: what it is called, where it goes, and which settings those are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from dat.engine.trackers import Names
from dat.recipe.older import without_old_draw, without_untold_aim
from dat.recipe.parts import Parts

NOT_COUNTED = ("out", "title", "expect", "trackers")
"""Settings on which nothing depends that is trained or measured."""


@runtime_checkable
class Recipe(Protocol):
    """What recipes of all kinds have, and can do."""

    @property
    def kind(self) -> str:
        """`classification`, ..."""
        ...

    @property
    def title(self) -> str:
        """What the page is called."""
        ...

    @property
    def data(self) -> Any:
        """The section of what is trained and tested on; its `source` says of which sort."""
        ...

    @property
    def trackers(self) -> Names:
        """Where its numbers go beside that folder."""
        ...

    @property
    def out(self) -> str:
        """The folder of the run."""
        ...

    def check(self) -> None:
        """Refuse what can be refused without a file."""
        ...

    def open(self, parts: Parts) -> Opened:
        """Build all that it names, once, and refuse what does not fit."""
        ...

    def rehearsal(self) -> Recipe:
        """The same for networks shrunk to nothing and two short steps."""
        ...

    def depends_on(self) -> Mapping[str, Mapping[str, Any]]:
        """Of each folder inside the run ("." for the run itself), the settings that what is kept there follows from."""
        ...

    def model_dump(self, *, mode: str = ..., exclude: set[str] | None = ...) -> dict[str, Any]:
        """All settings."""
        ...


@runtime_checkable
class Sets(Protocol):
    """Training and test pictures, whatever is known of them."""

    @property
    def train(self) -> Any:
        """Its `source` has a `fingerprint(most_bytes=...)`."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the pictures, or of the things in them."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image that a network is shown."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the test pictures."""
        ...

    def facts(self, source: str) -> dict[str, Any]:
        """What `run.json` says of them."""
        ...


@dataclass(frozen=True)
class Header:
    """Of an opened recipe: its kind and title, the folder of the run, the hash and the text of all its settings.

    `about` is the network and its images in a few words. `facts` are what `run.json` says of its data, and of whatever else
    the kind adds.
    """

    kind: str
    title: str
    folder: Path
    recipe_hash: str
    text: str
    about: str
    facts: Mapping[str, Any]


@runtime_checkable
class Opened(Protocol):
    """A recipe of which everything is built; what else it holds, the study of its kind knows."""

    @property
    def header(self) -> Header:
        """What it is called, and where it goes."""
        ...

    @property
    def data(self) -> Sets:
        """What it trains and tests on."""
        ...


def header_of(recipe: Recipe, data: Sets, network: str, **facts: object) -> Header:
    """The header of a recipe whose data are open; `facts` of its kind come beside those of the data."""
    height, width = data.size
    return Header(
        recipe.kind,
        recipe.title,
        Path(recipe.out),
        recipe_hash(recipe),
        resolved(recipe),
        about=f"{network} on {width} x {height} pixels",
        facts={"data": data.facts(recipe.data.source), "class_names": data.classes, **facts},
    )


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def whole(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What the run of a single training depends on."""
    return {".": recipe.model_dump(mode="json", exclude={*NOT_COUNTED})}


LATER: tuple[tuple[str, str, object], ...] = (
    ("data", "allow_bad", 0),
    ("data", "validation", None),
    ("training", "keep", "last"),
    ("training", "patience", None),
    ("training", "backbone_lr_scale", None),
    ("model", "pretrained", False),
    ("model", "freeze", None),
    ("evaluation", "further_suites", ["clean"]),
)
"""Keys that came later, with what they are where nothing is said: runs of before there were these keys have the same hash."""


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hexadecimal digits over all settings but `NOT_COUNTED`: output folder, title, trackers, numbers of a paper."""
    settings = recipe.model_dump(mode="json", exclude={*NOT_COUNTED})
    for section, key, unsaid in LATER:
        own = settings.get(section) or {}
        if key in own and (own[key] is None or own[key] == unsaid):
            del own[key]
    for label, method in settings.get("methods", {}).items():
        settings["methods"][label] = without_untold_aim(method)
        if method.get("direction") == "gradient":
            del settings["methods"][label]["direction"]
    return hashlib.sha256(json.dumps(without_old_draw(settings), sort_keys=True).encode()).hexdigest()[:12]
