"""What an evaluation of a detector shows: its settings, read strictly, and the cells of each suite."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from dat.commands.detector_subject import Set, TestedDetector
from dat.commands.evaluation_plan import overridden, read_settings
from dat.data.annotated import AnnotatedPictures
from dat.data.boxed import Letterbox, unfindable
from dat.data.corruptions.frost import frost_textures
from dat.data.corruptions.severities import ParameterSet
from dat.data.corruptions.table import CORRUPTIONS
from dat.errors import DataError, UsageError, did_you_mean
from dat.evaluation.attacked import PGD
from dat.evaluation.detection_rows import Bootstrap, BoxedCell, protocol_of
from dat.evaluation.suites import FGSM, SEVERITIES, Clean, Corruption, Suite
from dat.progress import warn
from dat.recipe.boxes import Side
from dat.recipe.data import LARGEST
from dat.recipe.strict import Strict
from dat.results import SET
from dat.tasks.detection import Part

SUITES = ("clean", "fgsm", "pgd", "c", "coco-o")
SAME = {"c-generated": "c"}
"""What `dat eval` of classifiers calls corruptions that are made here; of detectors no others were published."""
PLACES = ("pictures", "coco_o", "frost")
DOMAINS = ("cartoon", "handmake", "painting", "sketch", "tattoo", "weather")
"""Of COCO-O. Source: `alibaba/easyrobust:benchmarks/coco_o/README.md` (049d73b), Mao et al., ICCV 2023."""
IN_DOMAIN = Path("annotations", "instances_val2017.json")
"""The pictures are in `val2017` beside `annotations`."""


class DetectionSettings(Strict):
    """How pictures are made and shown; what is None is as the detector was trained or published.

    `size`: height and width of the frame that pictures are fitted into; `short_side`: no larger than that. `pictures`: the
    folder of the pictures of a COCO file, `split`: the part of a YOLO set. `coco_o`: the folder with its six domains. Radii and
    steps are in units of 1/255; `climbed`: which losses an adversary raises. `severities`, `corruptions` and `c_pictures` (so
    many, spread over the set) make less of the corruptions, `c_parameters` names whose constants their severities are, `frost`
    is a folder with the six original textures. `draws` of pictures make an interval. `seed`: of all that is random.
    """

    size: tuple[Side, Side] | None = None
    short_side: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    pictures: str | None = None
    split: str | None = None
    coco_o: str | None = None
    fgsm_epsilon_255: float = Field(default=1.0, ge=0, le=255)
    pgd_epsilon_255: float = Field(default=1.0, gt=0, le=255)
    pgd_step_255: float = Field(default=0.5, gt=0, le=255)
    pgd_steps: int = Field(default=5, ge=1)
    pgd_restarts: int = Field(default=1, ge=1)
    climbed: Part | None = None
    corruptions: tuple[str, ...] = Field(default=CORRUPTIONS, min_length=1)
    severities: tuple[int, ...] = Field(default=SEVERITIES, min_length=1)
    c_pictures: int | None = Field(default=None, ge=1)
    c_parameters: ParameterSet | None = None
    frost: str | None = None
    draws: int = Field(default=1000, ge=0, le=100_000)
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=8, ge=1)
    workers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _each_cell_once(self) -> DetectionSettings:
        for name, values in (("corruptions", self.corruptions), ("severities", self.severities)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} are {', '.join(map(str, values))}; name each once")
        return self


def detection_settings(overrides: Sequence[str]) -> DetectionSettings:
    """Settings from `key=value` texts.

    Raises:
        UsageError: listing every fault.
    """
    return read_settings(DetectionSettings, overridden(overrides))


def without_places(settings: DetectionSettings) -> dict[str, object]:
    """Settings in which folders stand with their names, not with their places on this machine."""
    values: dict[str, object] = settings.model_dump(mode="json")
    return values | {key: Path(str(values[key])).name for key in PLACES if values[key] is not None}


@dataclass(frozen=True, eq=False)
class DetectionPlan:
    """What is known before the first picture is shown: which detector, on what, and how. Makes the cells of each suite."""

    tested: TestedDetector
    data: Path | None
    settings: DetectionSettings
    fingerprints: dict[int, str] = field(default_factory=dict)

    @cached_property
    def frame(self) -> Letterbox:
        """How pictures are brought to the detector."""
        chosen = self.settings
        own = self.tested.frame if chosen.size is None else Letterbox(*chosen.size)
        return own if chosen.short_side is None else replace(own, short_side=chosen.short_side)

    @property
    def climbed(self) -> Part:
        """Which losses an adversary raises."""
        return self.settings.climbed or self.tested.climbed

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(self.settings.draws, self.settings.seed)

    @cached_property
    def clean_set(self) -> Set:
        """Where the pictures are that attacks and corruptions begin with.

        Raises:
            UsageError: no pictures are named.
        """
        if self.data is not None:
            return Set(self.data, self.settings.pictures, self.settings.split)
        if self.tested.test is None:
            raise UsageError(f"No pictures are named; add --data FILE, a COCO file or a YOLO set, for {self.tested.name}.")
        return self.tested.test

    @cached_property
    def clean(self) -> AnnotatedPictures:
        """These pictures.

        Raises:
            DataError: they cannot be read, hold nothing to find, or other categories than the detector knows.
        """
        return _said(_with_things(self.tested.opened(self.clean_set), "pictures"))

    @cached_property
    def positions(self) -> list[int]:
        """Of the pictures that are corrupted, at even distances."""
        count, whole = self.settings.c_pictures, len(self.clean)
        return np.linspace(0, whole - 1, min(count or whole, whole)).round().astype(int).tolist()

    @cached_property
    def corrupted(self) -> AnnotatedPictures:
        """The pictures that are corrupted."""
        if len(self.positions) == len(self.clean):
            return self.clean
        return _with_things(self.clean.at(self.positions), "pictures that are corrupted (c_pictures)")

    def cells(self, suites: Sequence[str]) -> list[BoxedCell]:
        """What is evaluated, in order; the clean pictures beside the corruptions that are made of them.

        Raises:
            UsageError: there is no such suite, or a setting does not fit.
            DataError: pictures are missing.
        """
        named = list(dict.fromkeys(SAME.get(suite, suite) for suite in suites))
        for suite in named:
            if suite not in SUITES:
                near = difflib.get_close_matches(suite, SUITES, n=1)
                known = ", ".join(SUITES)
                raise UsageError(f"There is no suite {suite!r} of detectors; {did_you_mean(near)}write some of {known}.")
        if "c" in named and "clean" not in named:
            named.insert(0, "clean")
        return [cell for suite in named for cell in self._cells_of(suite)]

    def _cells_of(self, suite: str) -> list[BoxedCell]:
        chosen = self.settings
        match suite:
            case "c":
                textures = frost_textures(chosen.frost) if chosen.frost is not None else None
                changes = [
                    Corruption(name, severity, chosen.seed, textures, chosen.c_parameters)
                    for name in chosen.corruptions
                    for severity in chosen.severities
                ]
                return [BoxedCell(change.name, self.corrupted, change) for change in changes]
            case "coco-o":
                return [BoxedCell(f"coco-o/{name}", self._domain(name), Clean()) for name in DOMAINS]
            case _:
                return [BoxedCell(suite, self.clean, self._change(suite))]

    def _change(self, suite: str) -> Suite:
        chosen = self.settings
        if suite == "fgsm":
            return FGSM(chosen.fgsm_epsilon_255 / 255)
        if suite == "pgd":
            radius, step = chosen.pgd_epsilon_255 / 255, chosen.pgd_step_255 / 255
            return PGD(radius, step, chosen.pgd_steps, restarts=chosen.pgd_restarts, seed=chosen.seed)
        return Clean()

    def _domain(self, name: str) -> AnnotatedPictures:
        """Raises: DataError: it is not there."""
        folder = Path(self.settings.coco_o) if self.settings.coco_o is not None else self.data
        if folder is None or not folder.is_dir():
            raise UsageError(
                f"COCO-O is a folder with one of each domain ({', '.join(DOMAINS)}); write coco_o=FOLDER, or --data FOLDER."
            )
        if not (folder / name / IN_DOMAIN).is_file():
            raise DataError(f"There is no {folder / name / IN_DOMAIN}; unpack COCO-O there, each domain as {name}/{IN_DOMAIN}.")
        return _said(_with_things(self.tested.opened(Set(folder / name / IN_DOMAIN)), "pictures"))

    def protocol(self, cell: BoxedCell) -> dict[str, object]:
        """How a cell is made and shown, under `data` which pictures, under `set` what these are called."""
        return {
            SET: self.set_name(cell),
            "data": self.fingerprint(cell.pictures),
            **protocol_of(cell, self.frame, self.climbed),
        }

    def set_name(self, cell: BoxedCell) -> str:
        """What the pictures of a cell are called in rows."""
        return "coco-o" if cell.name.startswith("coco-o/") else self.clean_set.name

    def fingerprint(self, pictures: AnnotatedPictures) -> str:
        """Of pictures; the disk is asked once for all cells that show them."""
        if id(pictures) not in self.fingerprints:
            self.fingerprints[id(pictures)] = pictures.fingerprint()[:12]
        return self.fingerprints[id(pictures)]


def _said(pictures: AnnotatedPictures) -> AnnotatedPictures:
    """With a note, where no detector can find all that is in them."""
    if said := unfindable(pictures):
        warn(said)
    return pictures


def _with_things(pictures: AnnotatedPictures, what: str) -> AnnotatedPictures:
    """Raises: DataError: there is nothing to find in them, so that average precision is no number."""
    if all(things.crowd.all() for things in pictures.things):
        raise DataError(f"{pictures.file}: in the {len(pictures)} {what} there is nothing to find but crowds; take more.")
    return pictures
