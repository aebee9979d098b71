"""Detectors to evaluate, by name: of a run, or of torchvision; what each can find, and how pictures are brought to it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from dat.commands.trained import is_detector, load_run
from dat.data.annotated import AnnotatedPictures
from dat.data.annotations import open_annotated
from dat.data.boxed import Letterbox
from dat.errors import DataError, UsageError
from dat.nn.detector_zoo import Published, published_detector
from dat.nn.detectors import Detector
from dat.nn.norm import Normalized
from dat.nn.weights import split_key
from dat.recipe.header import recipe_hash
from dat.tasks.detection import Part

TORCHVISION = "torchvision:"
NO_CLASSES = ("__background__", "N/A")
DIVISOR = 32
"""The frame of a detector with a pyramid: its sides are made multiples of this, as torchvision pads."""


@dataclass(frozen=True, eq=False)
class Set:
    """A set of pictures with boxes by its place: a COCO file and the folder of its pictures, or a split of a YOLO set."""

    place: Path
    pictures: str | None = None
    split: str | None = None

    @property
    def name(self) -> str:
        """What it is called in results: `bccd/instances_test`."""
        place = self.place.resolve()
        above = place.parent.parent if place.parent.name == "annotations" else place.parent
        return "/".join(filter(None, (above.name, place.stem, self.split)))


@dataclass(frozen=True, eq=False)
class TestedDetector:
    """A detector that takes images in [0, 1], and what is known of it.

    `classes` are the names of its labels; a set must hold all of them, where `finds_all`, or may hold some. `frame` is how
    pictures are brought to it, `climbed` what an adversary raises, `test` what its own recipe tests it on.
    """

    __test__ = False  # pytest looks for this name

    name: str
    model: Normalized
    classes: tuple[str, ...]
    frame: Letterbox
    finds_all: bool
    climbed: Part = "all"
    test: Set | None = None
    seed: int | None = None
    recipe_hash: str = ""

    def opened(self, found: Set) -> AnnotatedPictures:
        """The pictures of a set.

        Raises:
            DataError: they cannot be read, or have categories that the detector does not know.
        """
        wanted = self.classes if self.finds_all else None
        source = open_annotated(found.place, pictures=found.pictures, split=found.split, classes=wanted)
        if unknown := [name for name in source.classes if name not in self.classes]:
            near = difflib.get_close_matches(unknown[0], self.classes, n=1)
            meant = f"call it {near[0]!r}, if that is meant" if near else "take a set of those, or a detector trained on yours"
            raise DataError(
                f"{source.file} has {len(unknown)} of {len(source.classes)} categories that {self.name} does not know, first "
                f"{unknown[0]!r}; it finds {', '.join(self.classes[:3])}, ... ({len(self.classes)}): {meant}."
            )
        return source

    def finding(self, classes: Sequence[str]) -> nn.Module:
        """The model, asked for these of its classes, in this order."""
        if tuple(classes) == self.classes:
            return self.model
        detector = cast(Detector, self.model.network).of([self.classes.index(name) for name in classes])
        return (
            Normalized(detector, mean=_numbers(self.model.mean), std=_numbers(self.model.std)).to(self.model.mean.device).eval()
        )


def _numbers(tensor: Any) -> list[float]:
    return tensor.flatten().tolist()


def is_of_boxes(target: str) -> bool:
    """Whether a detector is named: one of torchvision, or a model of a run of detection."""
    return target.startswith(TORCHVISION) or is_detector(target)


def open_detector(target: str, *, weights: Path | None = None, name: str | None = None) -> TestedDetector:
    """A detector by `torchvision:NAME`, or by the folder or checkpoint of a run.

    `weights` of one of torchvision replace the published ones, which are downloaded. `name`: what to call it in results.

    Raises:
        UsageError: there is no such detector, or it has its own weights.
        CheckpointError: weights cannot be got or read, or do not fit.
    """
    if target.startswith(TORCHVISION):
        found = _of_torchvision(target, weights)
    elif weights is not None:
        raise UsageError(f"{target} has its own weights; leave out --weights, or name a detector as {TORCHVISION}NAME.")
    else:
        found = _of_run(target)
    return found if name is None else replace(found, name=name)


def _of_torchvision(target: str, weights: Path | None) -> TestedDetector:
    published = published_detector(target.removeprefix(TORCHVISION), weights)
    shown: Any = published.network.transform
    frame, mean, std = _frame_of(shown), shown.image_mean, shown.image_std
    positions = [place for place, name in enumerate(published.names) if name not in NO_CLASSES]
    return TestedDetector(
        name=target + f"@{split_key(weights)[0].name}" if weights is not None else target,
        model=Normalized(Detector(published.network, theirs=positions), mean=mean, std=std).eval(),
        classes=_named(published),
        frame=frame,
        finds_all=False,
    )


def _named(published: Published) -> tuple[str, ...]:
    return tuple(name for name in published.names if name not in NO_CLASSES)


def _frame_of(transform: Any) -> Letterbox:
    """As torchvision resizes: SSD's squash, others fit the shorter side, and the longer one at most, into a square."""
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return Letterbox(height, width, squash=True)
    side = -(-transform.max_size // DIVISOR) * DIVISOR
    return Letterbox(side, side, short_side=transform.min_size[-1])


def _of_run(target: str) -> TestedDetector:
    found: Any = load_run(target)
    data = found.recipe.data
    return TestedDetector(
        name=found.label,
        model=found.model,
        classes=found.classes,
        frame=found.frame,
        finds_all=True,
        climbed=found.recipe.climbed,
        test=Set(Path(data.test), data.test_pictures, data.test_split),
        seed=found.seed,
        recipe_hash=recipe_hash(found.recipe),
    )
