"""Trained models as figures look at them, whatever their task: each with pictures, and the adversaries of its run."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from dat.analysis.adversaries import DISCRETE, PIXEL, RANDOM, Shown, adversarial
from dat.commands.asked import Trained, asked
from dat.commands.trained import (
    BATCH,
    BOXED_BATCH,
    TrainedDetector,
    TrainedModel,
    TrainedNetwork,
    load_pretrained,
    load_run,
    models_of,
    pretraining_of,
    refuse_missing,
    refuse_unfinished,
    run_folder_of,
)
from dat.data.annotations import open_annotated
from dat.data.pipeline import CenterCrop
from dat.data.places import open_pictures
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.engine.processes import on_cpu
from dat.errors import CheckpointError, DataError, UsageError
from dat.evaluation.identity import checkpoint_hash
from dat.evaluation.labels import check_batch_size
from dat.methods.at import AT
from dat.progress import Bar
from dat.recipe.contest import contestant, training_of
from dat.recipe.header import recipe_hash
from dat.recipe.methods import alpha_of, build_method
from dat.recipe.unlabelled import build_judged
from dat.results import Row, from_json, versions, write_arrays
from dat.studies.words import step_of
from dat.types import Batch, Images, Task

Shapes = UInt8[np.ndarray, "pictures 3 height width"]
Arrays = dict[str, np.ndarray]

MEASURED = "measured"
"""Folder of what was measured on each model, so that a second call goes on."""


@dataclass(frozen=True)
class Options:
    """What is asked for; None where it was left out, which the run then decides.

    `pictures`: so many at most, drawn by a fixed seed. `epsilon_255`: radius of the ball of pixels, whose three steps are two
    thirds of it. `source`: the discretizer. `size`: the short side is resized to it, and the centre cut out.
    """

    data: Path | None = None
    pictures: int = 512
    batch_size: int | None = None
    alpha: float | None = None
    epsilon_255: float | None = None
    source: str | None = None
    size: int | None = None
    cpu: bool = False

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_batch_size(self.batch_size)
        if self.pictures < 2:
            raise UsageError(f"--pictures is {self.pictures}; an interval needs 2 or more.")
        if self.alpha is not None and not 0 <= self.alpha < float("inf"):
            raise UsageError(f"--alpha is {self.alpha}, the L2 length of a step; write 0 or more.")
        if self.epsilon_255 is not None and not 0 <= self.epsilon_255 <= 255:
            raise UsageError(f"--epsilon-255 is {self.epsilon_255}, a radius in steps of 8 bits; write 0 to 255.")


@runtime_checkable
class Source(Protocol):
    """Pictures, each read on demand."""

    def __len__(self) -> int:
        """How many."""
        ...

    def read(self, index: int, /) -> Any:
        """One, as RGB."""
        ...

    def name(self, index: int, /) -> str:
        """What to call it."""
        ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of one size as a model is shown them, in 8 bits."""

    pixels: Shapes

    def __len__(self) -> int:
        """How many."""
        return len(self.pixels)

    @cached_property
    def fingerprint(self) -> str:
        """Of all of them, in their order."""
        return hashlib.sha256(str(self.pixels.shape).encode() + self.pixels.tobytes()).hexdigest()[:12]

    def batch(self, first: int, size: int) -> Images:
        """Some of them, in [0, 1]."""
        return torch.from_numpy(self.pixels[first : first + size]).float() / 255


@dataclass(frozen=True, eq=False)
class Specimen:
    """A model of a run in eval mode, with the adversaries that its run knows, and pictures."""

    run: Trained
    name: str
    discretizer: FrozenDiscretizer
    alpha: float
    at: AT
    pictures: Pictures
    batch_size: int

    @property
    def shown(self) -> nn.Module:
        """What is shown pictures: the model, and of one that learned without classes its encoder."""
        return self.run.encoder if isinstance(self.run, TrainedNetwork) else self.run.model

    @property
    def own(self) -> str:
        """The adversary that it was trained with; empty if it was none of those that are compared."""
        section = self.run.recipe.methods[self.run.label]
        own = {"at": PIXEL, "random-codes": RANDOM}.get(dict(section)["method"], "")
        return DISCRETE if alpha_of(section) is not None else own

    @cached_property
    def checkpoint(self) -> str:
        """Hash of the weights."""
        return checkpoint_hash(self.run.model)

    @property
    def protocol(self) -> dict[str, object]:
        """How adversaries are made, and of which pictures."""
        at = self.at
        ball = {"norm": at.norm, "epsilon": at.epsilon, "step_size": at.step_size, "steps": at.steps}
        height, width = self.pictures.pixels.shape[2:]
        shown = {"data": self.pictures.fingerprint, "height": height, "width": width, "answers": "the model's own"}
        words = {"alpha": self.alpha, "codebook": self.discretizer.codebook_size, "stride": self.discretizer.stride}
        return {**shown, **words, "pixel": ball, "precision": "fp32"}

    def whole_batches(self) -> Iterator[tuple[Images, Shown]]:
        """Batches of one size, with what each adversary makes of them; what does not fill a batch is left out."""
        for number in range(len(self.pictures) // self.batch_size):
            yield self.attacked(number * self.batch_size, self.batch_size)

    def batch(self, first: int, size: int) -> tuple[Batch[Any], Task[Any]]:
        """Pictures from a place on with what the model says of them, and its task; what is drawn follows from the place."""
        of = asked(self.run, self.pictures.batch(first, size).to(_device_of(self.run.model)))
        return of.batch(first), of.task

    def attacked(self, first: int, size: int) -> tuple[Images, Shown]:
        """Pictures from a place on, and what each adversary makes of them."""
        batch, task = self.batch(first, size)
        return batch.images, adversarial(self.run.model, batch, task, self.discretizer, alpha=self.alpha, at=self.at)

    def row(self, suite: str, metric: str, value: float, n: int, **more: Any) -> Row:
        """A row of results; `more` are `ci` and further entries of the protocol."""
        ci = more.pop("ci", None)
        hashed, protocol = recipe_hash(self.run.recipe), {**self.protocol, **more}
        found = (suite, metric, value, n, ci, self.run.seed, self.run.label, hashed, protocol, versions())
        return Row(*found, checkpoint=self.checkpoint)


def open_specimens(places: Sequence[Path], options: Options) -> list[Specimen]:
    """The models of runs, by the folder of each or of a whole run.

    Raises:
        CheckpointError: a folder is none, a training was stopped, or a run has no discretizer.
        DataError: pictures cannot be read, or have several sizes.
        UsageError: an option that does not fit.
    """
    folders: dict[Path, Path] = {}
    for place in places:
        refuse_missing(place)
        folders |= {model.resolve(): model for model in models_of(place) if model.resolve() not in folders}
    known = Known()
    found = [_specimen(folder, options, known) for folder in folders.values()]
    return [replace(one, name=name) for one, name in zip(found, _names([*folders]), strict=True)]


def _names(models: Sequence[Path]) -> list[str]:
    """What models of runs are called: of several runs with so much of the path before as tells them apart."""
    runs = {model: run_folder_of(model) for model in models}
    several = {*runs.values()}
    depth = next(depth for depth in count(0) if len({_ending(run, depth) for run in several}) == len(several))
    return ["/".join((*_ending(run, depth), *model.relative_to(run).parts)) for model, run in runs.items()]


def _ending(path: Path, parts: int) -> tuple[str, ...]:
    return path.parts[len(path.parts) - parts :]


@dataclass(frozen=True)
class Known:
    """What several models share: pictures by where they come from and how they are shown, discretizers by their source."""

    pictures: dict[object, Pictures] = field(default_factory=dict)
    discretizers: dict[object, FrozenDiscretizer] = field(default_factory=dict)


def _specimen(folder: Path, options: Options, known: Known) -> Specimen:
    refuse_unfinished(folder)
    run = open_run(folder)
    device = torch.device("cpu") if on_cpu(options.cpu) else torch.accelerator.current_accelerator()
    run.model.to(device)
    view = view_of_run(run, options.size)
    key = (options.data or run_folder_of(folder), view)
    if key not in known.pictures:
        known.pictures[key] = _read(_source(run, options.data), view, options.pictures)
    source = source_of(run, folder, options.source)
    if source not in known.discretizers:
        known.discretizers[source] = load_discretizer(source).exact().to(device)
    default = BOXED_BATCH if isinstance(run, TrainedDetector) else BATCH
    return Specimen(
        run,
        f"{run.label}-seed{run.seed}",
        known.discretizers[source],
        _alpha(run, folder, options.alpha),
        _ball(run, options.epsilon_255),
        known.pictures[key],
        options.batch_size or default,
    )


def open_run(folder: Path) -> Trained:
    """A model of a run of any task. Raises: as `load_run`."""
    return load_pretrained(folder) if pretraining_of(folder) is not None else load_run(folder)


def view_of_run(run: Trained, size: int | None) -> Any:
    """How pictures are brought to the model. Raises: UsageError: the run says it already."""
    if isinstance(run, TrainedDetector):
        own, view = (run.frame.height, run.frame.width), run.frame
    else:
        own, view = run.view.size, run.view
    if size is None:
        return view
    if own is not None:
        raise UsageError(f"--size is {size}, but {run.label}-seed{run.seed} is shown pictures of {own}; leave it out.")
    return CenterCrop(size, crop_pct=1.0)


def _source(run: Trained, place: Path | None) -> Source:
    """The pictures of a place, or those that the run is tested on."""
    if place is not None:
        return open_pictures(place)
    data: Any = run.recipe.data
    if isinstance(run, TrainedModel):
        return run.test_pictures()[0].source
    if isinstance(run, TrainedDetector):
        return open_annotated(data.test, pictures=data.test_pictures, split=data.test_split, classes=run.classes)
    return next(iter(build_judged(data, {})[1].values())).source


def _read(source: Source, view: Any, most: int) -> Pictures:
    """So many, drawn by a fixed seed. Raises: DataError: one cannot be read, they have several sizes, or there is one."""
    if len(source) < 2:
        raise DataError(f"There is one picture, {source.name(0)}, and an interval needs 2 or more; name a folder of more.")
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0))[:most].tolist()
    found: list[np.ndarray] = []
    for place in order:
        found.append(np.asarray(view(source.read(place))).transpose(2, 0, 1))
        if found[-1].shape != found[0].shape:
            sizes = [
                f"{source.name(at)} is {one.shape[2]}x{one.shape[1]}" for at, one in ((order[0], found[0]), (place, found[-1]))
            ]
            raise DataError(f"{' but '.join(sizes)}, and a batch has one size; add --size, the side in pixels.")
    return Pictures(np.stack(found))


def source_of(run: Trained, folder: Path, source: str | None) -> str | Path:
    """Of the discretizer. Raises: CheckpointError: there is none."""
    section = run.recipe.discretizer
    if source is None and section is None:
        raise CheckpointError(f"{folder} was trained without a discretizer; add --with, a name of `dat discretizer list`.")
    own = section.load if section is not None else None
    return source or own or run_folder_of(folder) / "discretizer"


def _alpha(run: Trained, folder: Path, given: float | None) -> float:
    """The step of the first method of the run that has one, else the paper's 0.1: one for all models of a run."""
    if given is not None:
        return given
    known = {label: contestant(section, training_of(run.recipe, label)) for label, section in run.recipe.methods.items()}
    return step_of(known, run_folder_of(folder), run.seed)


def _ball(run: Trained, epsilon_255: float | None) -> AT:
    """That of the first AT of the run, else the default of AT."""
    if epsilon_255 is not None:
        return AT(epsilon=epsilon_255 / 255, step_size=2 / 3 * epsilon_255 / 255)
    own = [section for section in run.recipe.methods.values() if dict(section)["method"] == "at"]
    method = build_method(own[0], None) if own else AT()
    assert isinstance(method, AT)
    return method


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def measured_once(folder: Path, specimen: Specimen, verb: str, measure: Callable[[], Arrays], bar: Bar) -> Arrays:
    """What was measured on a model in this way and kept, or else is measured now and kept."""
    arrays = _kept(folder, specimen, verb)
    if arrays is not None:
        bar.skip(specimen.name, len(specimen.pictures))
        return arrays
    arrays = measure()
    _keep(folder, specimen, verb, arrays)
    return arrays


def _kept(folder: Path, specimen: Specimen, verb: str) -> Arrays | None:
    """None where nothing was, or the file is damaged."""
    try:
        with _place(folder, specimen, verb).open("rb") as opened, np.load(opened) as found:
            arrays = {name: found[name] for name in found.files}
            return arrays if from_json(str(arrays.pop("identity"))) == _identity(specimen) else None
    except (OSError, ValueError, EOFError, KeyError, AttributeError, BadZipFile, zlib.error):
        return None


def _keep(folder: Path, specimen: Specimen, verb: str, arrays: Arrays) -> None:
    identity = np.array(json.dumps(_identity(specimen)))
    write_arrays(_place(folder, specimen, verb), **arrays, identity=identity)


def _place(folder: Path, specimen: Specimen, verb: str) -> Path:
    return folder / MEASURED / f"{verb}-{specimen.run.label}-seed{specimen.run.seed}-{specimen.checkpoint[:8]}.npz"


def words_hash(discretizer: FrozenDiscretizer) -> str:
    """Hash of the weights of a discretizer, taken once: they are frozen."""
    if discretizer not in _HASHES:
        _HASHES[discretizer] = checkpoint_hash(discretizer)
    return _HASHES[discretizer]


_HASHES: WeakKeyDictionary[FrozenDiscretizer, str] = WeakKeyDictionary()


def _identity(specimen: Specimen) -> Any:
    """All that what is measured depends on."""
    whole = {"checkpoint": specimen.checkpoint, "batch_size": specimen.batch_size, "count": len(specimen.pictures)}
    words = words_hash(specimen.discretizer)
    return from_json(json.dumps({**whole, **specimen.protocol, "discretizer": words, "dat": versions()["dat"]}))
