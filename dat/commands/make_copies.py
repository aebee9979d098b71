"""Copies of a set of pictures, corrupted or stylised, as class folders that any program reads.

A copy shows what the evaluator makes on the fly for the same seed, as positions in the set are the ids of both. It knows
what it was made with (`made.json`), can be interrupted, and never holds half a picture.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor

from dat.data.corruptions.frost import frost_textures, textures_sha256
from dat.data.corruptions.table import CORRUPTIONS, corrupt, corruption_protocol
from dat.data.folders import ImageSource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.places import open_place
from dat.data.tabled import TabledPictures
from dat.data.testsets.layouts import wnids
from dat.data.testsets.listed import NAME_COLUMNS, from_table, names_of_classes
from dat.engine.processes import joined
from dat.errors import DataError, DatError, UsageError
from dat.evaluation.stylized import Paintings, Stylized
from dat.evaluation.suites import SEVERITIES
from dat.progress import Bar
from dat.results import from_json, versions, write_bytes
from dat.types import Images, Indices, Place

Change = Callable[[Images, Indices], Images]
Changes = Mapping[str, Change]
"""The folder of a cell below the copy (`fog/3`), and what is done to its pictures."""
Settings = dict[str, object]
Form = Literal["png", "jpeg"]
Positions = Int64[np.ndarray, " batch"]
Levels = UInt8[np.ndarray, "height width 3"]
Wanted = Bool[np.ndarray, "cells batch"]

MADE = "made.json"
LEAST_SIDE = 32
"""In pixels, for a copy: what CIFAR-10-C has. The functions themselves go down to 8."""
BATCH = 16
WRITERS = 4
"""Threads that write files: a disk is waited for, and pictures are compressed side by side."""
JPEG_QUALITY = 85
"""Of the published ImageNet-C (hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py)."""


@dataclass(frozen=True)
class Cells:
    """Which corruptions at which severities, and what they are drawn with; no `frost` folder: procedural textures."""

    corruptions: Sequence[str] = CORRUPTIONS
    severities: Sequence[int] = SEVERITIES
    seed: int = 0
    frost: Path | None = None


def make_corruptions(source: ImageSource, out: Path, *, cells: Cells, view: CenterCrop, form: Form = "png") -> Path:
    """Write `out/<corruption>/<severity>/<class>/<name>.png`, the layout of ImageNet-C; the path of `made.json`.

    What is there is kept, so a second call continues, and cells can be added to a finished copy. A view of size None keeps
    each picture's own size; the parameters then follow each picture's shorter side.

    Raises:
        UsageError: an unknown corruption or severity, or as `make`.
        DataError: a frost texture is missing, or as `make`.
    """
    textures = frost_textures(cells.frost) if cells.frost else None
    changes = {
        f"{name}/{severity}": _corruption(name, severity, cells.seed, textures)
        for name in cells.corruptions
        for severity in cells.severities
    }
    protocol: Settings = {"copy": "corruptions", "seed": cells.seed}
    if view.size is None:
        protocol |= {**corruption_protocol(224, 224, textures), "corruption_parameters": "by the size of each picture"}
    else:
        protocol |= corruption_protocol(view.size, view.size, textures)
    if textures:
        protocol["frost_textures"] = f"sha256 {textures_sha256(textures)}"
    return make(source, out, changes, protocol, view=view, form=form)


def make_stylized(source: ImageSource, out: Path, *, style: Stylized, view: CenterCrop, form: Form = "png") -> Path:
    """Write `out/<class>/<name>.png`, each picture in the style of another; the path of `made.json`.

    Raises: as `make`; CheckpointError for files of AdaIN that are not its.
    """
    side = view.size or 0
    protocol = {"copy": "stylized", **style.protocol(side, side)}
    return make(source, out, {".": lambda images, ids: style.images(images, ids, None)}, protocol, view=view, form=form)


def make(source: ImageSource, out: Path, changes: Changes, protocol: Settings, *, view: CenterCrop, form: Form) -> Path:
    """Write every picture of the source under every change below `out`, and `made.json`, which says with what.

    Pictures that are there are kept; each is written whole or not at all. No picture is left out or replaced. Several
    processes share the pictures, a batch each in turn; the first writes `made.json`.

    Raises:
        UsageError: a size below 32, `out` inside of the source's folder, filled with something else, or made with other
            settings.
        DataError: a picture cannot be read or is smaller than 32 pixels, two would get the same name, or the disk refuses to
            be written.
    """
    if view.size is not None and view.size < LEAST_SIDE:
        raise UsageError(
            f"A size of {view.size} is too small for a copy; write {LEAST_SIDE} or more, or none for each its own."
        )
    _refuse_inside(source, out)
    names = picture_names(source, form)
    settings = {**protocol, **_described(source, view, form)}
    state = joined(cpu=True)
    place = Place(torch.device("cpu"), state.process_index, state.num_processes)
    with _together():
        complete, had_a_part = _earlier(out, settings)
    with _together():  # and all have looked before the first one writes
        if place.is_main:
            _write_made(out, settings, complete, had_a_part)
    _Copy(ImageDataset(source, view, seed=0), out, names, changes, form).write(place)
    with _together():
        if place.is_main:
            _write_made(out, settings, {*complete, *changes}, had_a_part)
    return out / MADE


def picture_names(source: ImageSource, form: Form) -> list[str]:
    """Where each picture goes in its cell: `<class>/<name>.<form>`; two that differ in their endings only keep these.

    Raises:
        DataError: two pictures would get the same name, or a name leads out of the copy.
    """
    placed = [_placed(source.name(index), source.classes[target]) for index, target in enumerate(source.targets.tolist())]
    stems = [str(path.with_suffix("")) for path in placed]
    times = Counter(stems)
    names = [f"{stem if times[stem] == 1 else path}.{form}" for stem, path in zip(stems, placed, strict=True)]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} pictures would be written as {name}; give the pictures of a class different names.")
    return names


def _placed(name: str, category: str) -> PurePosixPath:
    """Below the folder of the class; a name that does not begin with it loses its own folders."""
    inside = name if name.startswith(f"{category}/") else f"{category}/{PurePosixPath(name).name}"
    path = PurePosixPath(inside)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"The picture {name!r} of class {category!r} would be written outside of the copy; rename it.")
    return path


def _corruption(name: str, severity: int, seed: int, textures: list[Tensor] | None) -> Change:
    used = textures if name == "frost" else None
    corrupt(torch.zeros(0, 3, LEAST_SIDE, LEAST_SIDE), name, severity, ids=torch.arange(0), seed=seed)  # only its checks
    return lambda images, ids: corrupt(images, name, severity, ids=ids, seed=seed, frost_textures=used)


def _described(source: ImageSource, view: CenterCrop, form: Form) -> Settings:
    """What a copy depends on besides its changes."""
    sizes = {"size": None} if view.size is None else {"size": view.size, "resize": view.short_side}
    quality = {"jpeg_quality": JPEG_QUALITY} if form == "jpeg" else {}
    interpolation = {"interpolation": view.interpolation} if view.size is not None else {}
    squashed = {"crop_mode": view.crop_mode} if view.size is not None and view.crop_mode != "center" else {}
    pictures = {"source_sha256": source.fingerprint(), "source_pictures": len(source)}
    return {**pictures, **sizes, **interpolation, **squashed, "format": form, **quality}


def _refuse_inside(source: ImageSource, out: Path) -> None:
    root = None if isinstance(source, TabledPictures) else getattr(source, "root", None)  # a table names its pictures
    if root is not None and out.resolve().is_relative_to(Path(root).resolve()):
        raise UsageError(f"The copy {out} would lie inside of its source {root}, and be read with it; name another folder.")


def _earlier(out: Path, settings: Settings) -> tuple[list[str], list[dict[str, str]]]:
    """The cells of a folder that are complete, and the versions that have a part in it, this one among them.

    Raises:
        UsageError: the folder is something else, or was made with other settings.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return [], [versions()]
    try:
        made = from_json((out / MADE).read_text())
        earlier, complete, had_a_part = dict(made["settings"]), list(made["complete"]), list(made["versions"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out} holds something that is no copy ({MADE} is missing or damaged); name a new folder.") from error
    for key in (*settings, *earlier):
        if earlier.get(key) != settings.get(key):
            said = f"{key} {earlier.get(key)!r}, now it is {settings.get(key)!r}"
            raise UsageError(f"The copy in {out} was made with {said}; write the same, or name a new folder.")
    return complete, had_a_part if versions() in had_a_part else [*had_a_part, versions()]


def _write_made(out: Path, settings: Settings, complete: Iterable[str], had_a_part: Sequence[dict[str, str]]) -> None:
    content = {"settings": settings, "complete": sorted(complete), "versions": list(had_a_part)}
    _save(out / MADE, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


@dataclass(frozen=True, eq=False)
class _Copy:
    """What is written: each picture of `dataset` under each of `changes`, by the name that it gets in every cell."""

    dataset: ImageDataset
    out: Path
    names: Sequence[str]
    changes: Changes
    form: Form

    def write(self, place: Place) -> None:
        """This process's share of what is missing. A fault of one process ends all after the batch at hand."""
        batches = _share(len(self.names), self._step, place)
        missing = [self._missing(batch) for batch in batches]
        total = len(self.changes) * sum(map(len, batches))
        done = total - sum(int(wanted.sum()) for wanted in missing)
        with Bar("make", total, done=done, shown=place.is_main) as bar, ThreadPoolExecutor(WRITERS) as writers:
            for batch, wanted in zip(batches, missing, strict=True):
                with _together():
                    for cell, count in self._write_batch(batch, wanted, writers):
                        done += count
                        bar.advance(done, cell)

    @property
    def _step(self) -> int:
        """Pictures of one size make batches; where each keeps its own, it comes alone."""
        view = self.dataset.transform
        return BATCH if isinstance(view, CenterCrop) and view.size is not None else 1

    def _missing(self, batch: Positions) -> Wanted:
        absent = [[not (self.out / cell / self.names[int(index)]).is_file() for index in batch] for cell in self.changes]
        return np.array(absent, dtype=bool).reshape(len(self.changes), len(batch))

    def _write_batch(self, batch: Positions, wanted: Wanted, writers: Executor) -> Iterator[tuple[str, int]]:
        """Each cell with the number of pictures that were written there; each picture is read once for all cells."""
        needed = wanted.any(axis=0)
        positions, wanted = batch[needed], wanted[:, needed]
        if not len(positions):
            return
        images = _images(self.dataset, positions)
        for (cell, change), rows in zip(self.changes.items(), wanted, strict=True):
            if rows.any():
                changed = change(images[torch.from_numpy(rows)], torch.from_numpy(positions[rows]))
                paths = [self.out / cell / self.names[int(position)] for position in positions[rows]]
                _write(changed, paths, self.form, writers)
                yield cell, int(rows.sum())


def _share(count: int, step: int, place: Place) -> list[Positions]:
    """Positions of the pictures of a process, as many batches on each; the last ones may be smaller, or empty."""
    starts = range(0, count, step * place.processes)
    begins = (start + step * place.process for start in starts)
    return [np.arange(min(begin, count), min(begin + step, count), dtype=np.int64) for begin in begins]


@contextmanager
def _together() -> Iterator[None]:
    """What one process cannot do ends all of them, with the same sentence; every process must come here.

    Raises:
        DatError: the first process's that met one.
    """
    fault: DatError | None = None
    try:
        yield
    except DatError as error:
        fault = error
    for met in gather_object([fault]):
        if met is not None:
            raise met


def _images(dataset: ImageDataset, positions: Positions) -> Images:
    images, _, _ = dataset.__getitems__([(0, position) for position in positions.tolist()])
    height, width = images.shape[2:]
    if min(height, width) < LEAST_SIDE:
        name = dataset.source.name(int(positions[0]))
        raise DataError(f"{name} is {width}x{height} pixels; a copy needs {LEAST_SIDE} or more a side: give a size.")
    return images


def _write(images: Images, paths: Sequence[Path], form: Form, writers: Executor) -> None:
    """Files of pictures, several at once."""
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for _ in writers.map(partial(_save_picture, form), paths, levels):
        pass


def _save_picture(form: Form, path: Path, levels: Levels) -> None:
    _save(path, encoded(levels, form))


def _save(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        DataError: the disk is full, or refuses to be written.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        advice = "make room or allow it, and run the command again: what is written stays"
        raise DataError(f"{path} cannot be written ({error.strerror or error}); {advice}.") from error


def encoded(levels: Levels, form: Form) -> bytes:
    """The bytes of a picture's file."""
    buffer = io.BytesIO()
    picture = Image.fromarray(levels)
    if form == "png":
        picture.save(buffer, "PNG", compress_level=1)  # three times as fast as the default, files a tenth larger
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def cells_of(corruptions: str | None, severities: str, *, seed: int, frost: Path | None) -> Cells:
    """From lists with commas, as one writes them on a command line; None: the 15 of ImageNet-C.

    Raises:
        UsageError: a severity is not a whole number.
    """
    names = CORRUPTIONS if corruptions is None else tuple(name.strip() for name in corruptions.split(","))
    numbers = [number.strip() for number in severities.split(",")]
    if wrong := [number for number in numbers if not number.isdecimal()]:
        raise UsageError(f"A severity is {wrong[0]!r}; write whole numbers from 1 to 5 with commas between, as 1,3,5.")
    return Cells(names, tuple(map(int, numbers)), seed, frost)


def view_of(size: str, crop_pct: float) -> CenterCrop:
    """The view of a side in pixels, or of `none`.

    Raises:
        UsageError: another word, or a share outside (0, 1].
    """
    if size != "none" and not size.isdecimal():
        raise UsageError(f"The size is {size!r}; write a side in pixels, as 224, or none for each picture its own.")
    return CenterCrop(None if size == "none" else int(size), crop_pct)


def form_of(word: str) -> Form:
    """The format of that name.

    Raises:
        UsageError: there is none.
    """
    if word not in ("png", "jpeg"):
        raise UsageError(f"The format is {word!r}; write png or jpeg.")
    return "png" if word == "png" else "jpeg"


def style_of(source: ImageSource, styles: Path | None, adain: str | None, *, alpha: float, seed: int) -> Stylized:
    """Stylised pictures of a source, from the words of a command line; `adain` names two files with a comma between.

    Raises:
        UsageError: not two files, or as `Stylized`.
        DataError: there are no pictures in `styles`.
    """
    files = [Path(name) for name in adain.split(",")] if adain is not None else []
    if len(files) not in (0, 2):
        raise UsageError(f"AdaIN is {adain!r}; write the file of its VGG, a comma, and the file of its decoder.")
    network = (files[0], files[1]) if files else None
    return Stylized(source, Paintings(styles) if styles else None, network, alpha, seed)


def source_of(place: Path) -> ImageSource:
    """The labelled pictures of a place: as the `labels.csv` of a folder says, by wnid or name of class, or as `open_place`.

    Raises:
        DataError, UsageError: as `open_place` and `from_table`, or a table without names of classes.
    """
    table = place / "labels.csv"
    if not table.is_file():
        return open_place(place)
    names = names_of_classes(table)
    if not names:
        raise DataError(f"{table} names no class ({' or '.join(NAME_COLUMNS)}), and the folders of a copy do; add a column.")
    return from_table(table, wnids() if names <= set(wnids()) else sorted(names))
