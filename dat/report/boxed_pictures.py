"""The pictures on the page of detectors: boxes that are right, things that were missed, and false alarms.

Boxes are drawn over the picture by the page, so lines stay thin and words readable at any width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from dat.errors import DataError
from dat.evaluation.matching import InPicture, Matching, matched
from dat.report.figures import png_address, read_arrays
from dat.report.tables import DASH, method_title

OVERLAP = 0.5
WIDEST = 384
"""Longest side of a picture on the page, in pixels; larger ones are made smaller, for the page holds every one."""
SHAPES = {
    "shown": (6, "models, views, pictures, height, width, 3"),
    "methods": (1, "models"),
    "seeds": (1, "models"),
    "views": (1, "views"),
    "names": (1, "pictures"),
    "classes": (1, "classes"),
    "least_score": (0, ""),
    "thing_corners": (2, "things, 4"),
    "thing_labels": (1, "things"),
    "thing_crowd": (1, "things"),
    "thing_picture": (1, "things"),
    "found_corners": (2, "boxes, 4"),
    "found_scores": (1, "boxes"),
    "found_labels": (1, "boxes"),
    "found_in": (2, "boxes, 3"),
}
"""Arrays of the file: how many axes each has, and what they are."""

TITLES = {
    "clean": "As it is, x",
    "reconstruction": "Reconstruction, Q(x)",
    "adversarial": "Adversarial, Q(x + \N{GREEK SMALL LETTER DELTA})",
    "fgsm": "After FGSM",
}

Kind = Literal["right", "missed", "alarm", "aside"]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the frame, and what is said of it; a right one is `right`, a crowd or a box in it `aside`."""

    kind: Kind
    left: float
    top: float
    width: float
    height: float
    label: str
    score: float | None = None

    @property
    def words(self) -> str:
        """`cell 0.97`, or the class of what was missed."""
        return self.label if self.score is None else f"{self.label} {self.score:.2f}"


@dataclass(frozen=True)
class View:
    """A picture as a data address, with its boxes, and what is said of them below."""

    title: str
    address: str
    boxes: tuple[Box, ...]
    things: int

    @property
    def words(self) -> dict[str, str]:
        """How many were found, and each kind of box by class, with scores; only what there is."""
        right, missed, alarms = (self._of(kind) for kind in ("right", "missed", "alarm"))
        said = {f"{len(right)} of {self.things} found": listed(right), "Missed": listed(missed), "False alarms": listed(alarms)}
        return {name: text for place, (name, text) in enumerate(said.items()) if text or not place}

    @property
    def alt(self) -> str:
        """What the picture shows, for those who do not see it."""
        return "; ".join([self.title, *(f"{name}: {text}" if text else name for name, text in self.words.items())])

    def _of(self, kind: Kind) -> list[Box]:
        return [box for box in self.boxes if box.kind == kind]


@dataclass(frozen=True)
class ModelViews:
    """What one model finds in the views of one picture."""

    method: str
    title: str
    views: tuple[View, ...]


@dataclass(frozen=True)
class BoxedPicture:
    """A test picture, what is in it, and how each model sees it."""

    name: str
    things: str
    models: tuple[ModelViews, ...]


@dataclass(frozen=True)
class BoxedPictures:
    """All pictures of a run, of one height and width; boxes of a lower score than `least_score` were left out."""

    pictures: tuple[BoxedPicture, ...]
    height: int
    width: int
    least_score: float
    adversary: str = ""
    overlap: float = OVERLAP

    @property
    def has_crowds(self) -> bool:
        """Whether a box is drawn that does not count."""
        views = [view for picture in self.pictures for model in picture.models for view in model.views]
        return any(box.kind == "aside" for view in views for box in view.boxes)


def read_boxed_pictures(path: Path, *, adversary: str = "") -> BoxedPictures:
    """Pictures of a run; `adversary` says what changed them.

    Raises:
        DataError: the file is missing or damaged, or an array is missing or of another shape than the others say.
    """
    if not path.is_file():
        raise DataError(f"The run holds no {path.name}.")
    arrays = read_arrays(path)
    _check(arrays, path.name)
    height, width = arrays["shown"].shape[3:5]
    pictures = tuple(_picture(arrays, number) for number in range(len(arrays["names"])))
    return BoxedPictures(pictures, height, width, float(arrays["least_score"]), adversary)


def _check(arrays: Arrays, name: str) -> None:
    """Refuse arrays that do not belong together.

    Raises:
        DataError: naming the first fault.
    """
    for key, (axes, meaning) in SHAPES.items():
        if key not in arrays or arrays[key].ndim != axes:
            raise DataError(f"{name} holds no {key}{f' ({meaning})' * bool(meaning)}.")
    if any(arrays[key].dtype.kind not in "biuf" for key in SHAPES if key not in ("methods", "views", "names", "classes")):
        raise DataError(f"{name} holds words where there should be numbers.")
    shape = [len(arrays[key]) for key in ("methods", "views", "names")]
    if list(arrays["shown"].shape) != [*shape, *arrays["shown"].shape[3:5], 3] or 0 in arrays["shown"].shape:
        raise DataError(f"The pictures in {name} are not as many as its models, views and names.")
    for group, limits in (("thing", {"picture": shape[2]}), ("found", {"in": shape})):
        lengths = {len(arrays[key]) for key in SHAPES if key.startswith(group)}
        inside = {**limits, "labels": len(arrays["classes"])}
        far = any(
            (arrays[f"{group}_{key}"] < 0).any() or (arrays[f"{group}_{key}"] >= most).any() for key, most in inside.items()
        )
        if len(lengths) > 1 or arrays[f"{group}_corners"].shape[1] != 4 or far:
            raise DataError(f"The boxes in {name} do not belong to its pictures and classes.")


def _picture(arrays: Arrays, number: int) -> BoxedPicture:
    here = arrays["thing_picture"] == number
    things = InPicture(*(arrays[f"thing_{name}"][here] for name in ("corners", "labels", "crowd")))
    classes = [str(name) for name in arrays["classes"]]
    models = [
        ModelViews(
            str(method),
            f"{method_title(str(method))}, seed {seed}",
            tuple(_view(arrays, (place, view, number), things, classes) for view in range(len(arrays["views"]))),
        )
        for place, (method, seed) in enumerate(zip(arrays["methods"], arrays["seeds"].tolist(), strict=True))
    ]
    counts = Counter(classes[label] for label in things.labels[~things.crowd].tolist())
    words = ", ".join(f"{count} {label}" for label, count in counts.items())
    return BoxedPicture(str(arrays["names"][number]), words, tuple(models))


def _view(arrays: Arrays, where: tuple[int, int, int], things: InPicture, classes: Sequence[str]) -> View:
    here = (arrays["found_in"] == where).all(axis=1)
    corners, scores, labels = (arrays[f"found_{name}"][here] for name in ("corners", "scores", "labels"))
    found = matched(corners, scores, labels, things, overlap=OVERLAP)
    boxes = [*_of_things(things, found, classes)]
    for place in np.argsort(scores, kind="stable").tolist():  # the surest last, so that it lies on top
        kind: Kind = "right" if found.right[place] else "aside" if found.aside[place] else "alarm"
        boxes.append(_box(kind, corners[place], classes[int(labels[place])], float(scores[place])))
    view = str(arrays["views"][where[1]])
    address = png_address(smaller(arrays["shown"][where]))
    return View(TITLES.get(view, view), address, tuple(boxes), int((~things.crowd).sum()))


def _of_things(things: InPicture, found: Matching, classes: Sequence[str]) -> Iterator[Box]:
    """Crowds, and what was missed."""
    for place in np.flatnonzero(things.crowd | found.missed).tolist():
        kind: Kind = "aside" if things.crowd[place] else "missed"
        yield _box(kind, things.corners[place], classes[int(things.labels[place])])


def _box(kind: Kind, corners: np.ndarray, label: str, score: float | None = None) -> Box:
    left, top, right, bottom = corners.astype(float).tolist()
    return Box(kind, left, top, right - left, bottom - top, label, score)


def listed(boxes: Iterable[Box]) -> str:
    """By class, the most first: `9 RBC (0.62-0.98), WBC (0.99)`."""
    by_class: dict[str, list[float | None]] = {}
    for box in boxes:
        by_class.setdefault(box.label, []).append(box.score)
    return ", ".join(_of_class(label, scores) for label, scores in sorted(by_class.items(), key=lambda pair: -len(pair[1])))


def _of_class(label: str, scores: Sequence[float | None]) -> str:
    known = sorted(f"{score:.2f}" for score in scores if score is not None)
    ends = f" ({DASH.join(dict.fromkeys((known[0], known[-1])))})" if known else ""
    return f"{f'{len(scores)} ' * (len(scores) > 1)}{label}{ends}"


def smaller(picture: np.ndarray) -> Image.Image:
    """A picture of at most `WIDEST` pixels a side."""
    image = Image.fromarray(picture.astype(np.uint8))
    image.thumbnail((WIDEST, WIDEST), Image.Resampling.BOX)
    return image
