"""What the weights that a model begins with were trained on, as far as it is known: runs of one's own say it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from dat.data.folders import ImageSource
from dat.data.places import open_pictures
from dat.errors import DataError, UsageError
from dat.nn.weights import split_key
from dat.recipe import file
from dat.recipe.data import DataSection, DigitsData, trained_pictures
from dat.recipe.oddities import begun_on
from dat.recipe.unlabelled import PicturesSection
from dat.results import RUN

ABOVE = 3
"""The recipe of a run lies at most so many folders above its weights: those of a checkpoint."""


class Beginning(NamedTuple):
    """Weights to begin with, the folders that they were trained on, and the pictures of those that are still there."""

    weights: str
    folders: str
    pictures: ImageSource | None


def beginnings(weights: str | None) -> Iterator[Beginning]:
    """Of a run of one's own, and of those behind it; of other weights nothing is known, and nothing is said."""
    seen: set[Path] = set()
    while weights is not None and (stored := _recipe_of(weights)) is not None and stored not in seen:
        seen.add(stored)
        values = _read(stored)
        if values.get("kind") in SECTIONS:
            with suppress(ValidationError):  # of another version
                section = TypeAdapter(SECTIONS[values["kind"]]).validate_json(json.dumps(values.get("data")))
                if not isinstance(section, DigitsData) and section.source != "digits":
                    yield Beginning(weights, str(section.train), _pictures(section))
        model = values.get("model")
        weights = model.get("weights") if isinstance(model, dict) else None


SECTIONS: dict[str, Any] = {"classification": DataSection, "selfsupervised": PicturesSection}
"""What the data of a run is, by its kind; of those whose weights a classifier or an encoder can begin with."""


def leftovers_of_beginnings(
    weights: str | None, tests: Mapping[str, ImageSource], train: ImageSource | None, *, unknown: bool = False
) -> Iterator[str]:
    """A sentence for each test set with pictures that the weights were trained on, but those that `train` has as well.

    `unknown`: also where that is not known, as the folders of a run's training are gone.

    Raises:
        DataError: a file cannot be read.
    """
    for begun in beginnings(weights):
        if begun.pictures is not None:
            yield from begun_on(begun.pictures, tests, weights=begun.weights, train=train)
        elif unknown:
            yield (
                f"Whether {begun.weights}, which the model begins with, was trained on test pictures is not known: its "
                f"training pictures, {begun.folders}, are not there."
            )


def _recipe_of(weights: str) -> Path | None:
    place = split_key(weights)[0].resolve()
    runs = (folder for folder in [place, *place.parents][: ABOVE + 1] if (folder / RUN).is_file())
    return next((stored for run in runs if (stored := run / "recipe.yaml").is_file()), None)


def _read(stored: Path) -> Mapping[str, Any]:
    try:
        return file.read(stored)
    except (UsageError, OSError):
        return {}


def _pictures(section: Any) -> ImageSource | None:
    if hasattr(section, "extra_train"):
        return trained_pictures(section)
    with suppress(DataError, UsageError):
        return open_pictures(section.train)
    return None
