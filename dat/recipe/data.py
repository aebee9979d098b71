"""The data of a recipe: which pictures are trained and tested on, and what is done to them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, field_validator

from dat.data.concatenated import Concatenated
from dat.data.draw import Draw, Positions
from dat.data.embedded import digits, in_memory
from dat.data.folders import ImageFolder, ImageSource, PictureFiles
from dat.data.hold_out import held_out, part_of, without_copies
from dat.data.pipeline import CenterCrop, CropFlip, ImageDataset, ImageNet, Transform
from dat.data.places import Placed, open_place
from dat.data.readable import without_unreadable
from dat.data.subset import spread
from dat.errors import DataError, UsageError
from dat.progress import warn
from dat.recipe.faults import member
from dat.recipe.oddities import enlarged, judged_by, leftovers
from dat.recipe.place import Place, further_places, one_or_named, share_or_place, training_place
from dat.recipe.strict import Strict

LARGEST = 8192
"""Side of a picture in pixels, beyond which one batch fills any memory."""


class NoAugment(Strict):
    """Training pictures as they are."""

    kind: Literal["none"] = "none"


class CropFlipAugment(Strict):
    """Pad, crop at random, flip: the usual augmentation of small pictures."""

    kind: Literal["crop-flip"] = "crop-flip"
    padding: int = 4
    fill: Literal["zeros", "reflect"] = "zeros"
    flip: bool = True


class ImageNetAugment(Strict):
    """Random resized crop, flip, colour; timm's words."""

    kind: Literal["imagenet"] = "imagenet"
    scale: tuple[float, float] = (0.08, 1.0)
    color_jitter: float = 0.4
    auto_augment: str | None = None
    interpolation: Literal["random", "bicubic", "bilinear"] = "random"
    erase: float = 0.0


Augment = Annotated[NoAugment | CropFlipAugment | ImageNetAugment, Field(discriminator="kind")]


Share = Annotated[float, Field(gt=0, lt=1)]


class DigitsData(Strict):
    """Scikit-learn's 1,797 handwritten digits, which come with that package. `validation` as of folders, but no folder."""

    source: Literal["digits"]
    size: int = Field(default=8, ge=1, le=LARGEST)
    validation: Share | None = None
    augment: Augment = NoAugment()


class OneOfSets(Strict):
    """One of several test sets. `classes: subset` allows a folder with some of the classes alone."""

    folder: Place
    classes: Literal["all", "subset"] = "all"


SET_NAME = re.compile(r"[\w.+-]+")
"""A name of a test set: it stands in names of suites and of files."""

_Places = dict[
    str,
    Annotated[
        Annotated[str, Tag(member("place"))] | Annotated[OneOfSets, Tag(member("section"))],
        Discriminator(lambda value: member("section" if isinstance(value, dict | OneOfSets) else "place")),
    ],
]
TestFolders = Annotated[
    Annotated[str, Tag(member("one"))] | Annotated[_Places, Tag(member("several"))],
    Discriminator(lambda value: member("several" if isinstance(value, dict) else "one")),
]
"""A folder, or several by their names."""


class FolderData(Strict):
    """Image folders with one subfolder per class, or any other place that `dat.data.places` opens.

    `size` None keeps the pictures at their own size.
    `validation` are pictures that a training is judged by while it goes on: a share of the training pictures of each class,
    which are then not trained on, nor are pictures of `extra_train` with their names; or a folder.
    `test` is a folder, or several by name: a folder each, or a section of `OneOfSets`.
    `allow_bad`: so many training pictures that cannot be read are left out, and named; every picture is then read once at the
    start, so that all epochs are of the same pictures.
    `train_per_class`, `test_per_class`: so many times as many pictures as there are classes. `draw` says which: at random, of
    each class its share of the folder and at least one, or the `first` of each class by name, as older versions did.
    `extra_train`: folders of the same classes whose pictures are trained on as well, e.g. distorted copies (DeepAugment).
    """

    source: Literal["folder"]
    train: Annotated[str, BeforeValidator(training_place)]
    extra_train: Annotated[list[Place], BeforeValidator(further_places)] = Field(default=[])
    test: Annotated[TestFolders, BeforeValidator(one_or_named)]
    size: int | None = Field(default=None, ge=1, le=LARGEST)
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    train_per_class: int | None = Field(default=None, ge=1)
    test_per_class: int | None = Field(default=None, ge=1)
    draw: Draw = "in-proportion"
    classes: int | None = None
    in_memory: bool = False
    allow_bad: int = Field(default=0, ge=0)
    augment: Augment = ImageNetAugment()
    validation: Annotated[
        Annotated[
            Annotated[Share, Tag(member("share"))] | Annotated[str, Tag(member("folder"))],
            Discriminator(lambda value: member("folder" if isinstance(value, str) else "share")),
        ]
        | None,
        BeforeValidator(share_or_place),
    ] = None

    @field_validator("test")
    @classmethod
    def _named(cls, test: str | Mapping[str, str | OneOfSets]) -> str | Mapping[str, str | OneOfSets]:
        names = [test] if isinstance(test, str) else [*test]
        if not names:
            raise ValueError("names no test set; write test: FOLDER, or test: {NAME: FOLDER, ...}")
        if odd := [name for name in names if names != [test] and not SET_NAME.fullmatch(name)]:
            raise ValueError(f"{odd[0]!r} is no name of a test set; use letters, digits and any of . + - _")
        return test


LOOKED_AT = 2000
"""So many pictures of a folder, at even distances, are asked for their size."""

TO_TEST = {"test", "test_per_class"}
TO_TRAIN = {"train", "extra_train", "train_per_class", "allow_bad", "augment", "validation"}
"""Keys of test and of training pictures alone."""

DataSection = Annotated[DigitsData | FolderData, Field(discriminator="source")]


def _one_test_set(section: DigitsData | FolderData) -> DigitsData | FolderData:
    if isinstance(section, FolderData) and not isinstance(section.test, str):
        raise ValueError("test names several sets, which only recipes of classification measure; write test: FOLDER")
    if section.validation is not None:
        raise ValueError("validation is of recipes of classification alone; leave it out")
    return section


OneTestSet = Annotated[DataSection, AfterValidator(_one_test_set)]
"""For what is measured on a single test set, and not judged while it is trained."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Training and test pictures of one recipe.

    `further` are the test sets after the first, which is called `test_name` where there are several. `notes` say what is odd,
    `class_order` whence the order of the classes.
    """

    train: ImageDataset
    test: ImageDataset
    classes: tuple[str, ...]
    size: tuple[int, int]
    fingerprint: str
    test_name: str = ""
    further: Mapping[str, ImageDataset] = dataclasses.field(default_factory=dict)
    validation: ImageDataset | None = None
    notes: tuple[str, ...] = ()
    class_order: str = ""

    def facts(self, source: str) -> dict[str, Any]:
        """What `run.json` says of them."""
        return {
            "name": source,
            "train_images": len(self.train),
            "test_images": len(self.test),
            "classes": len(self.classes),
            **({"class_order": self.class_order} if self.class_order else {}),
            "image_size": list(self.size),
            **({"test_sets": {name: len(test) for name, test in self.test_sets.items()}} if self.further else {}),
            **({"validation_images": len(self.validation)} if self.validation is not None else {}),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    @property
    def test_sets(self) -> dict[str, ImageDataset]:
        """All of them by name, the first first."""
        return {self.test_name: self.test, **self.further}

    def seeded(self, seed: int) -> Data:
        """The same pictures, augmented by the random numbers of another seed."""
        return dataclasses.replace(self, train=ImageDataset(self.train.source, self.train.transform, seed=seed))


def trained_on(section: DigitsData | FolderData) -> dict[str, Any]:
    """The settings that training pictures depend on."""
    return section.model_dump(mode="json", exclude=TO_TEST)


def tested_on(section: DigitsData | FolderData) -> dict[str, Any]:
    """The settings that test pictures depend on."""
    return section.model_dump(mode="json", exclude=TO_TRAIN)


def build_data(section: DigitsData | FolderData, *, seed: int) -> Data:
    """Open the data of a recipe; nothing is written into their folder.

    Raises:
        DataError: a folder is missing, a class is empty, training and test classes differ, or their number is not `classes`;
            the folder of validation has test pictures.
    """
    train, judged, class_order = _train_sources(section)
    tests = build_tests(section, classes=train.classes)
    test, notes = tests.first, notes_of(section, tests, train, judged)
    for note in notes:
        warn(note)
    return Data(
        ImageDataset(train, augmentation(section.augment, view_of(section)), seed=seed),
        test,
        train.classes,
        size=tests.size,
        fingerprint=test.source.fingerprint()[:12],
        test_name=next(iter(tests.sets)),
        further={name: dataset for name, dataset in tests.sets.items() if dataset is not test},
        validation=ImageDataset(judged, view_of(section), seed=0) if judged is not None else None,
        notes=notes,
        class_order=class_order,
    )


class Tests(NamedTuple):
    """Test sets by name (the only one has none), with the height and width of their pictures."""

    sets: dict[str, ImageDataset]
    size: tuple[int, int]

    @property
    def first(self) -> ImageDataset:
        """The one that is also attacked and corrupted."""
        return next(iter(self.sets.values()))


def build_tests(section: DigitsData | FolderData, *, classes: tuple[str, ...]) -> Tests:
    """The test pictures of a recipe; `classes` are those of the training pictures.

    Raises:
        DataError: a folder is missing, a class is empty, it has other classes, or pictures of another size than the first.
    """
    view = view_of(section)
    if isinstance(section, DigitsData):
        sources: dict[str, ImageSource] = {"": digits("test", size=section.size)}
    else:
        sources = {name: _test_source(section, place, classes) for name, place in named_folders(section).items()}
    sizes = {name: (view.size, view.size) if view.size is not None else source.read(0).size for name, source in sources.items()}
    (first, (width, height)), *others = sizes.items()
    if odd := [name for name, size in others if size != (width, height)]:
        met = f"{odd[0]} has pictures of {sizes[odd[0]][0]}x{sizes[odd[0]][1]}"
        raise DataError(f"The test set {met}, {first} of {width}x{height}; set data.size, so that they are of one size.")
    return Tests({name: ImageDataset(source, view, seed=0) for name, source in sources.items()}, (height, width))


def named_folders(section: FolderData) -> dict[str, OneOfSets]:
    """The test sets by name; the only one has none."""
    places = {"": section.test} if isinstance(section.test, str) else section.test
    return {name: OneOfSets(folder=place) if isinstance(place, str) else place for name, place in places.items()}


def _test_source(section: FolderData, place: OneOfSets, classes: tuple[str, ...]) -> ImageSource:
    chosen: Any = {"per_class": section.test_per_class, "draw": section.draw, "subset": place.classes == "subset"}
    folder = open_place(place.folder, classes=classes, **chosen)
    _one_size(section, folder)
    return in_memory(folder) if section.in_memory else folder


def notes_of(
    section: DigitsData | FolderData, tests: Tests, train: ImageSource | None = None, judged: ImageSource | None = None
) -> tuple[str, ...]:
    """What is odd about the pictures of folders; `train` are those of training, else looked for where the recipe says.

    `judged`: those of validation.

    Raises:
        DataError: the folder of validation has test pictures.
    """
    if isinstance(section, DigitsData):
        return ()
    sources = {name: dataset.source for name, dataset in tests.sets.items()}
    train = trained_pictures(section) if train is None else train
    found = [*enlarged(view_of(section), {**({} if train is None else {"training": train}), **sources})]
    if train is not None and judged is not None:
        found[:0] = judged_by(judged, train, sources, may_be=not isinstance(section.validation, str))
    return (*(leftovers(train, sources) if train is not None else ()), *found)


def trained_pictures(section: DigitsData | FolderData) -> ImageSource | None:
    """The pictures that a recipe trains on, of the folders that are still there, as these are now; None where there are none.

    What `train_per_class` leaves out and `validation` holds out is not among them. Pictures of digits are in no file.
    """
    if isinstance(section, DigitsData):
        return None
    found: dict[str, Placed] = {}
    for place in (section.train, *section.extra_train):
        with suppress(DataError, UsageError):  # who only evaluates need not have them
            found[place] = _training_folder(section, place, classes=next(iter(found.values())).classes if found else None)
    parts: list[ImageSource] = [*found.values()]
    if isinstance(section.validation, float) and section.train in found:
        with suppress(DataError):
            parts = _without([*found.values()], held_out(found[section.train], section.validation))
    return Concatenated(parts) if parts else None


def _train_sources(section: DigitsData | FolderData) -> tuple[ImageSource, ImageSource | None, str]:
    """Pictures to train on, those to judge a training by, where the recipe says which, and whence the order of classes."""
    if isinstance(section, DigitsData):
        whole = digits("train", size=section.size)
        if section.validation is None:
            return whole, None, ""
        chosen = held_out(whole, section.validation)
        return part_of(whole, np.setdiff1d(np.arange(len(whole)), chosen)), part_of(whole, chosen), ""
    train, *extra = _train_folders(section)
    return *_train_and_judged(section, train, extra), train.class_order


def _train_and_judged(section: FolderData, train: Placed, extra: Sequence[Placed]) -> tuple[ImageSource, ImageSource | None]:
    if section.validation is None:
        return _joined(section, [train, *extra]), None
    if isinstance(section.validation, str):
        judged = open_place(section.validation, classes=train.classes)
        _one_size(section, train, judged)
        return _joined(section, [train, *extra]), _joined(section, [judged])
    chosen = held_out(train, section.validation)
    return _joined(section, _without([train, *extra], chosen)), _joined(section, [part_of(train, chosen)])


def _without(folders: Sequence[Placed], chosen: Positions) -> list[ImageSource]:
    """All but the pictures of the first folder at these positions, and their copies in the others."""
    names = [folders[0].name(index) for index in chosen.tolist()]
    return [without_copies(folder, names) for folder in folders]


def _training_folder(section: FolderData, folder: str, *, classes: tuple[str, ...] | None = None) -> Placed:
    return open_place(folder, classes=classes, per_class=section.train_per_class, draw=section.draw)


def _train_folders(section: FolderData) -> list[Placed]:
    train = _training_folder(section, section.train)
    if section.classes not in (None, len(train.classes)):
        named = "class folders" if isinstance(train, ImageFolder) else "classes"
        raise DataError(
            f"data.classes is {section.classes}, but {section.train} has {len(train.classes)} {named}; correct one."
        )
    extra = [_training_folder(section, folder, classes=train.classes) for folder in section.extra_train]
    _one_size(section, train, *extra)
    return [train, *extra]


def _joined(section: FolderData, parts: Sequence[ImageSource]) -> ImageSource:
    """As one set, without the pictures that cannot be read where these may be left out, and in memory where they shall."""
    whole = Concatenated(parts) if len(parts) > 1 else parts[0]
    if section.allow_bad:
        whole = without_unreadable(whole, allowed=section.allow_bad, shown=is_main())
    return in_memory(whole) if section.in_memory else whole


def is_main() -> bool:
    """Whether this process, of one or several, is the one that speaks."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not there or torch.distributed.get_rank() == 0


def _one_size(section: FolderData, *folders: Placed) -> None:
    if section.size is None and not section.in_memory:  # what is held in memory is looked at there, every picture
        refuse_sizes(*folders, allow_bad=section.allow_bad > 0)


def refuse_sizes(*folders: Placed | PictureFiles, allow_bad: bool = False) -> None:
    """Refuse pictures of several sizes where they are shown at their own; at most `LOOKED_AT` of a folder are opened.

    Raises:
        DataError: two that differ, and what to write; unless `allow_bad`, one cannot be read.
    """
    looked_at = [(folder, int(index)) for folder in folders for index in spread(folder, LOOKED_AT).positions]
    sizes: dict[tuple[int, int], str] = {}
    for folder, index in looked_at:
        with suppress(DataError) if allow_bad else nullcontext():
            sizes.setdefault(folder.size(index), folder.where(index))
    if len(sizes) > 1:
        met = " but ".join(f"{name} is {width}x{height}" for (width, height), name in [*sizes.items()][:2])
        raise DataError(f"{met}; set data.size, so that they fit one batch.")


def view_of(section: DigitsData | FolderData) -> CenterCrop:
    """How the test pictures of a recipe are brought to the model."""
    if isinstance(section, DigitsData):
        return CenterCrop()
    return CenterCrop(section.size, section.crop_pct, section.interpolation)


def augmentation(section: NoAugment | CropFlipAugment | ImageNetAugment, view: CenterCrop) -> Transform:
    """What is done to training pictures, which are seen like the test pictures first.

    Raises:
        UsageError: settings that the augmentation refuses, or crops without a size.
    """
    if isinstance(section, CropFlipAugment):
        return CropFlip(section.padding, section.fill, section.flip, view)
    if isinstance(section, ImageNetAugment):
        if view.size is None:
            raise UsageError(
                "data.augment.kind imagenet needs data.size, the side of the crops in pixels; write e.g. size: 224."
            )
        settings = section.model_dump(exclude={"kind"})
        return ImageNet(view.size, **settings)
    return view
