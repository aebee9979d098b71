"""Pictures of a recipe that trains without classes: any folder to train on, class folders to judge by."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dat.data.draw import Draw
from dat.data.embedded import digits, in_memory
from dat.data.folders import ImageSource
from dat.data.pipeline import CenterCrop, ImageDataset, ImageNet, Transform
from dat.data.places import Placed, open_pictures, open_place
from dat.data.readable import refuse_damaged
from dat.data.views import TwoViews
from dat.errors import DataError, UsageError
from dat.progress import warn
from dat.recipe.data import LARGEST, CropFlipAugment, ImageNetAugment, NoAugment, augmentation, is_main, refuse_sizes
from dat.recipe.oddities import leftovers, repeated
from dat.recipe.place import Place
from dat.recipe.strict import Strict


class SimCLRAugment(Strict):
    """Random resized crop, flip, colour jitter, loss of colour, blur: SimCLR's, of half its strength as for small pictures.

    `color_jitter`: brightness, contrast, saturation, hue; `jitter`, `grey` and `blur` are probabilities. Source: Chen et al.,
    ICML 2020, appendix A.
    """

    kind: Literal["simclr"] = "simclr"
    scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    color_jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter: float = 0.8
    grey: float = 0.2
    blur: float = 0.0
    interpolation: Literal["random", "bicubic", "bilinear"] = "bicubic"


AnyAugment = Annotated[NoAugment | CropFlipAugment | ImageNetAugment | SimCLRAugment, Field(discriminator="kind")]


class DigitPictures(Strict):
    """Scikit-learn's handwritten digits; the classes of those to train on are looked at only to judge."""

    source: Literal["digits"]
    size: int = Field(default=8, ge=1, le=LARGEST)
    augment: AnyAugment = CropFlipAugment(padding=1, flip=False)


class FolderPictures(Strict):
    """Folders of pictures, or other places. `train`: with or without class folders, and no class is looked at.

    `labelled`: class folders, whose pictures are the bank that features are judged by; by default those of `train`. `test`:
    class folders of the same classes. `size` None keeps the pictures at their own size. `test_per_class`,
    `labelled_per_class`, `draw`: fewer of them, as in recipes of classification.
    """

    source: Literal["folder"]
    train: Place
    labelled: Place | None = None
    test: Place
    size: int | None = Field(default=None, ge=1, le=LARGEST)
    crop_pct: float = Field(default=0.875, gt=0, le=1)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    labelled_per_class: int | None = Field(default=None, ge=1)
    test_per_class: int | None = Field(default=None, ge=1)
    draw: Draw = "in-proportion"
    in_memory: bool = False
    augment: AnyAugment = ImageNetAugment(color_jitter=0.0, scale=(0.2, 1.0))


PicturesSection = Annotated[DigitPictures | FolderPictures, Field(discriminator="source")]

OF_TRAINING = {"source", "train", "size", "crop_pct", "interpolation", "augment"}
"""Keys that training pictures depend on."""
OF_JUDGING = {"source", "labelled", "test", "labelled_per_class", "test_per_class", "draw", "size", "crop_pct", "interpolation"}
"""Keys that what is measured depends on, beside the training."""


@dataclasses.dataclass(frozen=True, eq=False)
class UnlabelledData:
    """Pictures to train on, one view or two of each, a bank of labelled ones, and those that are tested.

    `notes` say what is odd about them.
    """

    train: ImageDataset | TwoViews
    bank: ImageDataset
    test: ImageDataset
    size: tuple[int, int]
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the bank and the test pictures."""
        return self.bank.source.classes

    @property
    def fingerprint(self) -> str:
        """Of the test pictures and the bank."""
        return fingerprint_of(self.test, self.bank)

    def facts(self, source: str) -> dict[str, Any]:
        """What `run.json` says of them."""
        return {
            "name": source,
            "train_images": len(self.train),
            "bank_images": len(self.bank),
            "test_images": len(self.test),
            "classes": len(self.classes),
            "image_size": list(self.size),
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    def seeded(self, seed: int) -> UnlabelledData:
        """The same pictures, augmented by the random numbers of another seed."""
        again = type(self.train)(self.train.source, self.train.transform, seed=seed)
        return dataclasses.replace(self, train=again)


def fingerprint_of(test: ImageDataset, bank: ImageDataset) -> str:
    """Of the pictures that are judged, and of those by which they are."""
    parts = "".join(part.source.fingerprint() for part in (test, bank))
    return hashlib.sha256(parts.encode()).hexdigest()[:12]


def build_unlabelled(section: DigitPictures | FolderPictures, *, views: int) -> UnlabelledData:
    """Open the pictures of a recipe; nothing is written into their folders. `views`: 1 or 2 of each training picture.

    Raises:
        DataError: a folder is missing or empty; those to judge by have no class folders, or other classes, or cannot be read.
        UsageError: settings that the augmentation refuses.
    """
    train, bank, test = _digits(section) if isinstance(section, DigitPictures) else _folders(section)
    view = view_of(section)
    kind = TwoViews if views == 2 else ImageDataset
    notes = (*repeated(bank, {"": test}),) or (*leftovers(train, {"": test}),)
    for note in notes:
        warn(note)
    return UnlabelledData(
        kind(train, augmented(section.augment, view), seed=0),
        ImageDataset(bank, view, seed=0),
        ImageDataset(test, view, seed=0),
        size_of(test, view),
        notes,
    )


def build_judged(
    section: DigitPictures | FolderPictures, folders: Mapping[str, str]
) -> tuple[ImageDataset, dict[str, ImageDataset]]:
    """The bank, and the test pictures by name: of `folders`, or without any those of the recipe, which have none.

    The training pictures need not be there, unless they are the bank.

    Raises:
        DataError: as `build_unlabelled`.
    """
    view = view_of(section)
    sources: dict[str, ImageSource] = {}
    if isinstance(section, DigitPictures):
        _, bank, sources[""] = _digits(section)
    else:
        bank, folders = _held(section, _bank(section)), folders or {"": section.test}
    sources = {name: _held(section, _tested(section, place, bank.classes)) for name, place in folders.items()} or sources
    for note in repeated(bank, sources):
        warn(note)
    return ImageDataset(bank, view, seed=0), {name: ImageDataset(source, view, seed=0) for name, source in sources.items()}


def size_of(test: ImageSource, view: CenterCrop) -> tuple[int, int]:
    """Height and width of an image that a network is shown."""
    width, height = (view.size, view.size) if view.size is not None else test.read(0).size
    return height, width


def _digits(section: DigitPictures) -> tuple[ImageSource, ImageSource, ImageSource]:
    train = digits("train", size=section.size)
    return train, train, digits("test", size=section.size)


def _folders(section: FolderPictures) -> tuple[ImageSource, ImageSource, ImageSource]:
    train = open_pictures(section.train)
    bank = _bank(section)
    test = _tested(section, section.test, bank.classes)
    if section.size is None:
        refuse_sizes(train)
        refuse_sizes(bank, test)
    if not section.in_memory:  # those to train on are met in the first epoch, these after the last
        for source, of in ((bank, "labelled"), (test, "test")):
            refuse_damaged(source, of=of, shown=is_main())
        return train, bank, test
    is_same = section.labelled in (None, section.train) and [*map(bank.name, range(len(bank)))] == [
        *map(train.name, range(len(train)))
    ]
    held = in_memory(bank)
    return held if is_same else in_memory(train), held, in_memory(test)


def _bank(section: FolderPictures) -> Placed:
    try:
        bank = open_place(section.labelled or section.train, per_class=section.labelled_per_class, draw=section.draw)
    except DataError as error:
        if section.labelled is not None:
            raise
        raise DataError(
            f"{error} They are needed to judge what was learned, not to train; write data.labelled=FOLDER with class folders."
        ) from error
    if len(bank.classes) < 2:
        place, name = section.labelled or section.train, ", ".join(bank.classes)
        raise DataError(f"{place} has one class, {name}, which is always right; add a folder of another.")
    return _of_one_size(section, bank)


def _held(section: DigitPictures | FolderPictures, source: ImageSource) -> ImageSource:
    return in_memory(source) if isinstance(section, FolderPictures) and section.in_memory else source


def _tested(section: DigitPictures | FolderPictures, place: str, classes: tuple[str, ...]) -> Placed:
    chosen: Any = {} if isinstance(section, DigitPictures) else {"per_class": section.test_per_class, "draw": section.draw}
    return _of_one_size(section, open_place(place, classes=classes, of="labelled", **chosen))


def _of_one_size(section: DigitPictures | FolderPictures, folder: Placed) -> Placed:
    """Refuse pictures of several sizes, where they are shown at their own."""
    if section.size is None:
        refuse_sizes(folder)
    return folder


def view_of(section: DigitPictures | FolderPictures) -> CenterCrop:
    """How pictures that are judged, and those of the bank, are brought to the model."""
    if isinstance(section, DigitPictures):
        return CenterCrop(section.size, crop_pct=1.0)
    return CenterCrop(section.size, section.crop_pct, section.interpolation)


def augmented(section: NoAugment | CropFlipAugment | ImageNetAugment | SimCLRAugment, view: CenterCrop) -> Transform:
    """What is done to training pictures.

    Raises:
        UsageError: settings that the augmentation refuses, or crops without a size.
    """
    if not isinstance(section, SimCLRAugment):
        return augmentation(section, view)
    if view.size is None:
        raise UsageError("data.augment.kind simclr needs data.size, the side of the crops in pixels; write e.g. size: 32.")
    return ImageNet(view.size, **section.model_dump(exclude={"kind"}))
