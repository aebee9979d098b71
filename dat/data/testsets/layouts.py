"""From a folder of test sets to pictures with labels that a model's outputs can be held against.

A class is found by its name (its wnid), or by its number where folders are numbers; never by its place in the alphabet, unless
the model and the set have the same number of classes that no name can tell apart. Knows no model and no metric.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from dat.data.address import address_of
from dat.data.embedded import ArraySource
from dat.data.folders import EXTENSIONS, ImageFolder, ImageSource, Labels
from dat.data.places import open_place
from dat.data.subset import Subset
from dat.data.testsets.class_maps import (
    NOTHING,
    Classes,
    Groups,
    OfClasses,
    columns_of,
    groups_of,
    imagenet_columns,
    numbers_of,
    objectnet_mapping,
    outputs_of,
    superclasses,
    wnids,
)
from dat.data.testsets.listed import from_lines, from_table
from dat.data.testsets.table import BENCHMARKS, V2, Benchmark, Outputs
from dat.errors import DataError, UsageError

SEVERITIES = (1, 2, 3, 4, 5)
GROUP_FOLDERS = (".", "noise", "blur", "weather", "digital")
"""ImageNet-C comes in four archives; who unpacks them as they are has their names above those of the corruptions."""
RED_BORDER = 2
"""ObjectNet's terms speak of 1 pixel; evaluations cut off 2. Source: mlfoundations/model-soups:datasets/objectnet.py."""


@dataclass(frozen=True, eq=False)
class Part:
    """What gives one accuracy: pictures, what each output of the model stands for, and what is right for each class.

    `name` as in result rows; `place` is the folder, or the file, of the pictures. `groups` and `labels` hold outputs of the
    model (one stands for all of its group), or `NOTHING`.
    """

    name: str
    place: Path
    opened: Callable[[], ImageSource]
    groups: Groups
    labels: OfClasses

    @property
    def source(self) -> ImageSource:
        """The pictures. Every time it is asked for, the disk is: 75 lists of 50,000 names need not be held at once."""
        return self.opened()


@dataclass(frozen=True, eq=False)
class WithoutBorder:
    """The pictures of `source` with `border` pixels cut off on each side."""

    source: ImageSource
    border: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole pictures."""
        return self.source.classes

    @property
    def targets(self) -> Labels:
        """Those of the whole pictures."""
        return self.source.targets

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.source)

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits, without its border.

        Raises:
            DataError: it cannot be read, or is nothing but border.
        """
        picture = self.source.read(index)
        width, height = picture.size
        if min(width, height) <= 2 * self.border:
            raise DataError(f"{self.name(index)} is {width}x{height}, only border; fetch it again.")
        return picture.crop((self.border, self.border, width - self.border, height - self.border))

    def name(self, index: int) -> str:
        """As the source names it."""
        return self.source.name(index)

    def fingerprint(self, *, most_bytes: int | None = None) -> str:
        """That of the source, and what was cut off."""
        found = f"{self.source.fingerprint(most_bytes=most_bytes)}/border {self.border}"
        return hashlib.sha256(found.encode()).hexdigest()


def parts(name: str, root: str | Path, classes: Classes = 1000) -> list[Part]:
    """The parts of the set called `name` that lie in `root`, which may be the set itself.

    Of sets with many parts (corruptions, variants) those that are there; which are missing is not said here.
    `classes`: of the model. A count of 1000 means ImageNet's, in the order of their wnids.

    Raises:
        UsageError: no such set, or the model has other classes than the set asks for.
        DataError: the set is not there (where it was looked for, how to get it), or is not what it should be.
    """
    benchmark = benchmark_of(name)
    places = locate(name, root)
    found = _LAYOUTS[benchmark.layout](name, places, classes)
    if not found:
        raise DataError(missing(name, root))
    return found


def benchmark_of(name: str) -> Benchmark:
    """What is known of the set called `name`.

    Raises:
        UsageError: it is not one of the table.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"There is no test set {name!r}; those with files are {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def missing(name: str, root: str | Path) -> str:
    """The sentence for a set that is not there: where it was looked for, and how to get it."""
    benchmark = benchmark_of(name)
    names = [folder for folder in benchmark.folders if folder]
    names = [variant[0] for variant in V2.values()] if benchmark.layout == "variants" else names
    return f"There is no {benchmark.title} in {root} (looked for {', '.join(names)}). To get it: {' '.join(benchmark.steps)}"


def locate(name: str, root: str | Path) -> list[Path]:
    """Folders in which the set called `name` may lie, the likeliest first: named ones below `root`, then `root` itself.

    `root` itself only if it is called so, if its layout can be taken for no other, or for `clean`.

    Raises:
        DataError: `root` is not a folder.
    """
    root, benchmark = Path(root), benchmark_of(name)
    if name == "clean" and address_of(root).kind != "folder":
        return [root]
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; name the one that holds the test sets.")
    named = [place for folder in benchmark.folders for place in _below(root, folder)]
    called = _plain(root.resolve().name) in {_plain(folder) for folder in benchmark.folders if folder}
    itself = name == "clean" or benchmark.recognised or called
    return list(dict.fromkeys([*named, root] if itself else named))


def class_folders(place: Path) -> tuple[str, ...]:
    """Visible subfolders, in the order in which `ImageFolder` has them."""
    names = sorted(entry.name for entry in _entries(place) if entry.is_dir())
    return tuple(sorted(names, key=int)) if numbers_of(names) else tuple(names)


def _entries(place: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"Cannot open the folder {place} ({error.strerror}); check its permissions.") from error


def _below(root: Path, folder: str) -> Iterable[Path]:
    """Subfolders of `root` at the path `folder`, whatever their case; `root` itself for the empty path."""
    places = [root]
    for step in filter(None, folder.split("/")):
        entries = [(place, entry) for place in places for entry in _entries(place)]
        places = sorted(place / entry.name for place, entry in entries if entry.is_dir() and _plain(entry.name) == _plain(step))
    return places


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _labelled(name: str, places: Sequence[Path], classes: Classes) -> list[Part]:
    """The first of the places that holds labelled pictures."""
    benchmark = BENCHMARKS[name]
    if name != "clean":
        imagenet_columns(classes)
    for place in places:
        if (part := _labelled_part(name, place, classes, benchmark.outputs)) is not None:
            return [part]
    return []


def _labelled_part(name: str, place: Path, classes: Classes, outputs: Outputs) -> Part | None:
    """Pictures with a table, in class folders, or with a list; None where the place is none of these."""
    count = classes if isinstance(classes, int) else len(classes)
    groups = np.arange(count) if outputs == "all" else groups_of(outputs, classes)
    opened, names = _opened(place, classes)
    if opened is None:
        return None
    labels = outputs_of(names, classes, place)
    if (groups[labels] == NOTHING).any():
        odd = next(named for named, label in zip(names, labels, strict=True) if groups[label] == NOTHING)
        raise DataError(
            f"{place} has the class {odd}, which is not one of {benchmark_of(name.split('/')[0]).title}'s; take it away."
        )
    return Part(name, place, opened, groups, labels)


def _opened(place: Path, classes: Classes) -> tuple[Callable[[], ImageSource] | None, tuple[str, ...]]:
    """How the labelled pictures of a place are opened, and the names of their classes."""
    if address_of(place).kind != "folder":
        return partial(open_place, place, classes=(names := open_place(place).classes)), names
    listed_classes = _listed_classes(classes)
    if (place / "labels.csv").is_file():
        return partial(from_table, place / "labels.csv", listed_classes), listed_classes
    if names := _labelled_folders(place):
        return partial(ImageFolder, place, classes=names), names
    if not any(entry.name.lower().endswith(EXTENSIONS) for entry in _entries(place)):
        return None, ()
    lists = [folder / "val.txt" for folder in (place, place.parent) if (folder / "val.txt").is_file()]
    if not lists:
        expected = "class folders, or val.txt with lines `name index`, or labels.csv, are expected"
        raise DataError(f"The pictures in {place} have no classes; {expected}.")
    return partial(from_lines, place, lists[0], listed_classes), listed_classes


def _labelled_folders(place: Path) -> tuple[str, ...]:
    """Class folders; none where a folder is called as a test set is: then the place holds sets, not classes."""
    names = class_folders(place)
    sets = {_plain(folder.split("/")[0]) for benchmark in BENCHMARKS.values() for folder in benchmark.folders}
    sets |= {_plain(folder) for variant in V2.values() for folder in variant}
    return () if {_plain(name) for name in names} & sets else names


def _listed_classes(classes: Classes) -> tuple[str, ...]:
    """What the indices of a list stand for: wnids in their order for ImageNet, the model's classes otherwise."""
    if isinstance(classes, int):
        return wnids() if classes == len(wnids()) else tuple(map(str, range(classes)))
    return wnids() if set(classes) == set(wnids()) else tuple(classes)


def _variants(name: str, places: Sequence[Path], classes: Classes) -> list[Part]:
    """V2: each variant that is there. The place itself may be one."""
    imagenet_columns(classes)
    found = []
    for variant, folders in V2.items():
        inside = [below for place in places for folder in folders for below in _below(place, folder)]
        called = [place for place in places if _plain(place.resolve().name) in folders]
        part = next((_labelled_part(f"{name}/{variant}", place, classes, "all") for place in [*inside, *called]), None)
        found += [] if part is None else [part]
    return found


def _corrupted(name: str, places: Sequence[Path], classes: Classes) -> list[Part]:
    """The cells `corruption/severity/class` that are there, in the order of the table."""
    columns = imagenet_columns(classes)
    groups, found = np.arange(len(columns)), []
    for part, cell in _cells(name, places, "{}").items():
        names = class_folders(cell)
        labels = outputs_of(names, classes, cell)
        found.append(Part(part, cell, partial(ImageFolder, cell, classes=names), groups, labels))
    return found


def _cells(name: str, places: Sequence[Path], level: str) -> dict[str, Path]:
    """Folders of the cells in the first place that has any; `level` is how the folder of a severity is called.

    Cells of two places are not mixed: the second may be another set, or a copy made by hand.
    """
    for place in places:
        found = {}
        for corruption, severity in product(BENCHMARKS[name].parts, SEVERITIES):
            if (cell := _cell(place, f"{corruption}/{level.format(severity)}")) is not None:
                found[f"{name}/{corruption}/{severity}"] = cell
        if found:
            return found
    return {}


def _cell(place: Path, inside: str) -> Path | None:
    """The folder `inside` a place, or a group folder of it.

    Raises:
        DataError: it is there twice.
    """
    cells = [cell for group in GROUP_FOLDERS if (cell := place / group / inside).is_dir()]
    if len(cells) > 1:
        raise DataError(f"{inside} is twice in {place} ({cells[0]} and {cells[1]}); keep one of them.")
    return cells[0] if cells else None


def _objectnet(name: str, places: Sequence[Path], classes: Classes) -> list[Part]:
    """The pictures of the classes that the set's own mapping gives to outputs of ImageNet."""
    columns = imagenet_columns(classes)
    place = next((place for place in places if (place / "images").is_dir() and (place / "mappings").is_dir()), None)
    if place is None:
        return []
    mapped = objectnet_mapping(place / "mappings")
    folders = class_folders(place / "images")
    groups = np.arange(len(columns))
    labels = np.full(len(folders), NOTHING, dtype=np.int64)
    for position, folder in enumerate(folders):
        own = [columns[wnids()[index]] for index in mapped.get(folder, ())]
        labels[position] = groups[own] = min(own) if own else NOTHING
    if not (labels != NOTHING).any():
        raise DataError(f"No folder of {place / 'images'} has a class of ImageNet in {place / 'mappings'}; fetch both again.")
    return [Part(name, place, partial(_overlap, place / "images", folders, labels), groups, labels)]


def _overlap(images: Path, folders: tuple[str, ...], labels: OfClasses) -> ImageSource:
    source = ImageFolder(images, classes=folders)
    return WithoutBorder(Subset(source, np.flatnonzero(labels[source.targets] != NOTHING)), RED_BORDER)


def _laion_c(name: str, places: Sequence[Path], classes: Classes) -> list[Part]:
    """Cells `corruption/intensity_level_n/superclass`; outputs of one superclass share a group, others are not looked at."""
    columns = imagenet_columns(classes)
    cells = _cells(name, places, "intensity_level_{}")
    if not cells:
        return []
    files = [place / "category_mapping.json" for place in places]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(f"There is no {files[0]}. {BENCHMARKS[name].steps[1]}")
    members = superclasses(file)
    groups = np.full(len(columns), NOTHING, dtype=np.int64)
    own = {superclass: [columns[wnid] for wnid in found] for superclass, found in members.items()}
    for outputs in own.values():
        groups[outputs] = min(outputs)
    found = []
    for part, cell in cells.items():
        names = class_folders(cell)
        if foreign := sorted(set(names) - set(own)):
            raise DataError(f"{cell} has the folder {foreign[0]}, which is no superclass of the mapping; take it away.")
        labels = np.array([min(own[folder]) for folder in names], dtype=np.int64)
        found.append(Part(part, cell, partial(ImageFolder, cell, classes=names), groups, labels))
    return found


def _arrays(name: str, places: Sequence[Path], classes: Classes) -> list[Part]:
    """One array per corruption, its severities in blocks of one size, and one array of labels."""
    benchmark = BENCHMARKS[name]
    own = benchmark.own_classes or ()
    columns = columns_of(own, classes, f"{benchmark.title}'s")
    groups, labels = np.arange(len(own)), np.array([columns[one] for one in own], dtype=np.int64)
    place = next((place for place in places if (place / "labels.npy").is_file()), None)
    there = [file for corruption in benchmark.parts if place and (file := place / f"{corruption}.npy").is_file()]
    return [
        Part(f"{name}/{file.stem}/{severity}", file, partial(_block, file, severity, own), groups, labels)
        for file, severity in product(there, SEVERITIES)
    ]


def _block(file: Path, severity: int, classes: tuple[str, ...]) -> ArraySource:
    """One severity of a corruption; the pixels stay on the disk until they are looked at.

    Raises:
        DataError: arrays of another shape, or not as many labels as pictures.
    """
    pixels, targets = _array(file, mapped=True), _array(file.with_name("labels.npy"))
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8 or not len(pixels) or len(pixels) % len(SEVERITIES):
        raise DataError(f"{file} is {pixels.dtype} {pixels.shape}; bytes of (5 x count, height, width, 3) are expected.")
    if targets.shape != pixels.shape[:1]:
        raise DataError(f"{file} has {len(pixels)} pictures and labels.npy {len(targets)} labels; fetch both again.")
    size = len(pixels) // len(SEVERITIES)
    block = slice((severity - 1) * size, severity * size)
    return ArraySource(pixels[block].transpose(0, 3, 1, 2), targets[block].astype(np.int64), classes)


def _array(file: Path, *, mapped: bool = False) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is no array of NumPy ({str(error).splitlines()[0]}); fetch it again.") from error


_LAYOUTS: dict[str, Callable[[str, Sequence[Path], Classes], list[Part]]] = {
    "labelled": _labelled,
    "variants": _variants,
    "corrupted": _corrupted,
    "objectnet": _objectnet,
    "laion-c": _laion_c,
    "arrays": _arrays,
}
