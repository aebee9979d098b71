"""What an evaluation shows: its settings, read strictly, and the cells of each suite."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from accelerate import PartialState
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from dat.commands.subject import Tested
from dat.data.address import set_name
from dat.data.corruptions.frost import frost_textures
from dat.data.corruptions.severities import ParameterSet
from dat.data.corruptions.table import CORRUPTIONS, EXTRA_CORRUPTIONS
from dat.data.folders import ImageSource
from dat.data.pipeline import CenterCrop, CropMode, ImageDataset, Interpolation
from dat.data.subset import spread
from dat.data.testsets import layouts
from dat.data.testsets.class_maps import NOTHING
from dat.errors import DataError, UsageError, did_you_mean
from dat.evaluation.attacked import PGD, AutoAttack
from dat.evaluation.cells import Cell, View, all_classes
from dat.evaluation.stylized import Paintings, Stylized
from dat.evaluation.suites import FGSM, SEVERITIES, Clean, Corruption, Suite, clean_beside
from dat.recipe import file
from dat.recipe.begun import leftovers_of_beginnings
from dat.recipe.data import LARGEST, trained_pictures
from dat.recipe.faults import sentence
from dat.recipe.oddities import leftovers
from dat.recipe.strict import Strict
from dat.results import SET

Kind = TypeVar("Kind", bound=Strict)

FROM_CLEAN = ("clean", "fgsm", "pgd", "autoattack", "c-generated", "stylized-generated")
"""Suites made from the clean pictures; all others are sets of their own."""
MASKED = ("a", "r")
"""Sets of 200 of ImageNet's classes, whose accuracy is that among these."""
RESIZED_BY_EASYROBUST = ("c", "stylized")
IMAGENET_CLASSES = 1000


class Settings(Strict):
    """How pictures are made and shown; what is None is as the model was published.

    `size`, `crop_pct`, `interpolation`, `crop_mode`: the test transform. `c_protocol`: published corruptions are cropped
    without resizing (`hendrycks`), or resized first as easyrobust's benchmark script does (`easyrobust`). Radii and steps are
    in units of 1/255. `severities`, `corruptions`, `c_pictures` (so many, spread evenly over the list by class and name; they
    are then shown as they are, too) make less of the corruptions that are generated, `c_parameters` names whose constants
    their severities are (None: by the size of the pictures); `extra_corruptions` adds the four that never count in an mCE.
    `masks`: clean accuracies on the classes of ImageNet-A and -R, which stand beside these suites anyway. `frost`: a folder
    with the six original textures.
    `styles`: a folder of paintings, `adain`: the files of VGG and decoder. `seed`: of all that is random.
    `classes`: `subset` allows clean pictures of some of the model's classes alone.
    """

    size: int | None = Field(default=None, ge=1, le=LARGEST)
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    interpolation: Interpolation | None = None
    crop_mode: CropMode | None = None
    c_protocol: Literal["hendrycks", "easyrobust"] = "hendrycks"
    fgsm_epsilon_255: float = Field(default=1.0, ge=0, le=255)
    pgd_epsilon_255: float = Field(default=1.0, gt=0, le=255)
    pgd_step_255: float = Field(default=0.5, gt=0, le=255)
    pgd_steps: int = Field(default=5, ge=1)
    pgd_restarts: int = Field(default=1, ge=1)
    autoattack_epsilon_255: float = Field(default=1.0, gt=0, le=255)
    corruptions: tuple[str, ...] = CORRUPTIONS
    extra_corruptions: bool = False
    severities: tuple[int, ...] = Field(default=SEVERITIES, min_length=1)
    c_pictures: int | None = Field(default=None, ge=1)
    c_parameters: ParameterSet | None = None
    masks: tuple[Literal["a", "r"], ...] = ()
    frost: str | None = None
    styles: str | None = None
    adain: tuple[str, str] | None = None
    seed: int = Field(default=0, ge=0)
    classes: Literal["all", "subset"] = "all"
    batch_size: int = Field(default=64, ge=1)
    workers: int = Field(default=0, ge=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @model_validator(mode="after")
    def _each_cell_once(self) -> Settings:
        if not self.corruptions and not self.extra_corruptions:
            raise ValueError("corruptions are none; name at least one, or write extra_corruptions=true")
        for name, values in (("corruptions", self.corruptions), ("severities", self.severities)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} are {', '.join(map(str, values))}; name each once")
        return self


def settings_of(overrides: Sequence[str]) -> Settings:
    """Settings from `key=value` texts.

    Raises:
        UsageError: listing every fault.
    """
    return parse_settings(overridden(overrides))


def overridden(overrides: Sequence[str]) -> dict[str, Any]:
    """Values by key, of `key=value` texts.

    Raises:
        UsageError: a text is of another form.
    """
    values: dict[str, Any] = {}
    for text in overrides:
        file.override(values, text)
    return values


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings by name, read strictly.

    Raises:
        UsageError: listing every fault.
    """
    return read_settings(Settings, values)


def read_settings(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Settings of a kind by name, read strictly.

    Raises:
        UsageError: listing every fault.
    """
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(json.dumps(dict(values)))
    except ValidationError as error:
        faults = [_fault(fault, values, adapter.json_schema()) for fault in error.errors()]
        raise UsageError("The evaluation has faults:" + "".join(f"\n  {fault}" for fault in faults)) from error
    except (TypeError, ValueError, RecursionError) as error:  # a date, or a list that holds itself
        raise UsageError(f"A setting is not text, number, list or mapping ({error}); write e.g. size=224.") from error


def _fault(fault: Any, values: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if fault["loc"] == ("data",):
        return "data: unknown key; write --data FOLDER for other pictures, or leave out --suites to change keys of a recipe."
    return sentence(fault, dict(values), schema)


@dataclass(frozen=True, eq=False)
class Protocol(Mapping[str, object]):
    """How a cell is `made`, and under `data` its pictures, which are read when somebody asks for that.

    So the pictures of 75 cells are not all read before the first cell is evaluated.
    """

    pictures: Callable[[], str]
    made: Mapping[str, object]

    def __getitem__(self, key: str) -> object:
        return self.pictures() if key == "data" else self.made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("data", *self.made))

    def __len__(self) -> int:
        return 1 + len(self.made)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is known before the first picture is read: whom to test, on what, and how. Makes the cells of each suite."""

    tested: Tested
    root: Path | None
    settings: Settings
    outputs: int
    called: str = ""
    fingerprints: dict[ImageSource, str] = field(default_factory=dict)

    @property
    def is_imagenet(self) -> bool:
        """Whether the outputs are ImageNet's 1000 classes in their usual order, as far as one can tell."""
        return self.tested.classes is None and self.outputs == IMAGENET_CLASSES

    @cached_property
    def view(self) -> CenterCrop:
        """How pictures are brought to the model; of another size as its own transform would."""
        shown = {"size", "crop_pct", "interpolation", "crop_mode"}
        given = self.settings.model_dump(include=shown, exclude_none=True)
        if not given.keys() & {"size", "crop_pct"}:
            return dataclasses.replace(self.tested.view, **given)
        return dataclasses.replace(self.tested.view, **given, resize=None)

    @cached_property
    def clean(self) -> tuple[ImageDataset, View]:
        """The pictures that attacks and corruptions begin with, and how they are counted.

        Raises:
            UsageError: there are none.
            DataError: they are missing, or have other classes than the model.
        """
        if self.root is None and self.tested.test is not None:
            source = self.tested.test.source
            return ImageDataset(source, self.view, seed=0), all_classes(self.outputs)
        (part,) = layouts.parts("clean", self._root, self._classes)
        source = part.source
        self._refuse_missing_classes(part.labels[source.targets])
        return ImageDataset(source, self.view, seed=0), View("accuracy", part.groups, part.labels)

    def leftovers(self, suites: Sequence[str]) -> list[str]:
        """What to say of the pictures that attacks and corruptions begin with, where some are training pictures of the model.

        Nothing, where the training pictures are not known, or no longer there.

        Raises:
            DataError: as `clean`.
        """
        known = self.tested.trained_on
        if set(suites).isdisjoint(FROM_CLEAN) or known is None:
            return []
        name = self.called or (set_name(self.root) if self.root is not None else "")
        trained, tests = trained_pictures(known), {name: self.clean[0].source}
        said = [] if trained is None else [*leftovers(trained, tests)]
        return [*said, *leftovers_of_beginnings(self.tested.begun_with, tests, trained)]

    def _refuse_missing_classes(self, labels: np.ndarray) -> None:
        """Fewer classes are an easier test; only of ImageNet's, subsets are known by their name."""
        known = self.tested.classes
        if known is None or len(known) == IMAGENET_CLASSES or self.settings.classes == "subset":
            return
        if missing := [name for output, name in enumerate(known) if output not in set(labels.tolist())]:
            named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise DataError(
                f"{self.root} has pictures of {len(known) - len(missing)} of the model's {len(known)} classes, none of "
                f"{named}; name a folder with pictures of each, or add classes=subset."
            )

    @property
    def _classes(self) -> layouts.Classes:
        return self.outputs if self.tested.classes is None else self.tested.classes

    @property
    def _root(self) -> Path:
        if self.root is None:
            raise UsageError("No pictures are named; add --data ROOT, the folder with the test sets.")
        return self.root

    def cells(self, suite: str, suites: Sequence[str]) -> list[Cell]:
        """What is evaluated for one suite; `suites` are all that were asked for.

        Raises:
            UsageError: there is no such suite, or the model is none of ImageNet.
            DataError: the pictures are missing.
        """
        if suite not in (*FROM_CLEAN, *layouts.BENCHMARKS):
            known = [*FROM_CLEAN, *(name for name in layouts.BENCHMARKS if name not in FROM_CLEAN)]
            near = difflib.get_close_matches(suite, known, n=1)
            raise UsageError(f"There is no suite {suite!r}; {did_you_mean(near)}write some of {', '.join(known)}.")
        if suite not in FROM_CLEAN:
            view = self._view_of(suite)
            return [self._of_part(part, suite, view) for part in layouts.parts(suite, self._root, self._classes)]
        dataset, view = self.clean
        if suite == "clean":
            return [self._cell("clean", dataset, Clean(), (view, *self._on_fewer_classes(suites)))]
        if suite == "c-generated":
            few = self._fewer(dataset)
            unchanged = [self._cell(clean_beside(suite), few, Clean(), (view,))] * (few is not dataset)
            return unchanged + [
                self._cell(f"c-generated/{change.corruption}/{change.severity}", few, change, (view,))
                for change in self._corruptions()
            ]
        return [self._cell(suite, dataset, self._change(suite, dataset), (view,))]

    def _change(self, suite: str, dataset: ImageDataset) -> Suite:
        chosen = self.settings
        match suite:
            case "fgsm":
                return FGSM(chosen.fgsm_epsilon_255 / 255)
            case "pgd":
                radius, step = chosen.pgd_epsilon_255 / 255, chosen.pgd_step_255 / 255
                return PGD(radius, step, chosen.pgd_steps, restarts=chosen.pgd_restarts, seed=chosen.seed)
            case "autoattack":
                return AutoAttack(chosen.autoattack_epsilon_255 / 255, seed=chosen.seed)
        gallery = Paintings(Path(chosen.styles)) if chosen.styles is not None else None
        files = (Path(chosen.adain[0]), Path(chosen.adain[1])) if chosen.adain is not None else None
        return Stylized(dataset.source, gallery, files, seed=chosen.seed)

    def _corruptions(self) -> list[Corruption]:
        chosen = self.settings
        names = [*chosen.corruptions, *(EXTRA_CORRUPTIONS if chosen.extra_corruptions else ())]
        textures = frost_textures(chosen.frost) if chosen.frost is not None else None
        return [
            Corruption(name, severity, chosen.seed, textures, chosen.c_parameters)
            for name in names
            for severity in chosen.severities
        ]

    def _fewer(self, dataset: ImageDataset) -> ImageDataset:
        count = self.settings.c_pictures
        if count is None or count >= len(dataset):
            return dataset
        return ImageDataset(spread(dataset.source, count), dataset.transform, seed=0)

    def _on_fewer_classes(self, suites: Sequence[str]) -> list[View]:
        """The clean pictures of the classes of ImageNet-A and -R alone, among these: what to compare those suites with."""
        _, view = self.clean
        masks = {name: layouts.groups_of(name, self._classes) for name in MASKED if name in (*suites, *self.settings.masks)}
        return [
            View(f"accuracy_{name}_classes", groups, np.where(np.isin(view.labels, groups), view.labels, NOTHING))
            for name, groups in masks.items()
        ]

    def _view_of(self, suite: str) -> CenterCrop:
        """How the pictures of a published set are brought to the model."""
        kind = layouts.benchmark_of(suite).view
        if kind == "native":
            return CenterCrop()
        if kind == "resize":
            return dataclasses.replace(self.view, resize=self.view.size)
        is_resized = kind == "resize-crop" or (self.settings.c_protocol == "easyrobust" and suite in RESIZED_BY_EASYROBUST)
        return self.view if is_resized else dataclasses.replace(self.view, resize=0)

    def _of_part(self, part: layouts.Part, suite: str, view: CenterCrop) -> Cell:
        views = [View("accuracy", part.groups, part.labels)]
        if suite in MASKED:
            views.append(View("accuracy_unmasked", np.arange(self.outputs), part.labels))
        return self._cell(part.name, ImageDataset(part.source, view, seed=0), Clean(), tuple(views))

    def _cell(self, name: str, dataset: ImageDataset, change: Suite, views: tuple[View, ...]) -> Cell:
        view = dataset.transform
        assert isinstance(view, CenterCrop)
        width, height = (view.size, view.size) if view.size is not None else dataset.source.read(0).size
        shown: dict[str, object] = {
            SET: self.called or (set_name(self.root) if self.root is not None else self.tested.test_name),
            "height": height,
            "width": width,
            "precision": self.settings.precision,
        }
        if self.settings.classes == "subset":
            shown["classes"] = f"{len(np.unique(dataset.source.targets))} of {self.outputs}"
        if view.size is not None:
            shown |= {"resize": view.short_side, "interpolation": view.interpolation if view.short_side else "none"}
        if view.size is not None and view.short_side and view.crop_mode != "center":
            shown["crop_mode"] = view.crop_mode
        if isinstance(change, AutoAttack):  # its random numbers belong to a batch
            shown |= {"batch_size": self.settings.batch_size, "processes": PartialState().num_processes}
        made = {**shown, **change.protocol(height, width)}
        return Cell(name, dataset, change, views, Protocol(partial(self._fingerprint, dataset), made))

    def _fingerprint(self, dataset: ImageDataset) -> str:
        """Of the pictures; the disk is asked once for all cells that show them."""
        source = dataset.source
        if source not in self.fingerprints:
            self.fingerprints[source] = source.fingerprint()[:12]
        return self.fingerprints[source]


def without_places(settings: Settings) -> dict[str, object]:
    """Settings in which files and folders stand with their names, not with their places on this machine."""
    values = settings.model_dump(mode="json")
    folders = {key: Path(values[key]).name for key in ("frost", "styles") if values[key] is not None}
    files = {"adain": [Path(name).name for name in values["adain"]]} if values["adain"] is not None else {}
    return {**values, **folders, **files}
