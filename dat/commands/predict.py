"""What a trained model says of any pictures, and which codes an adversary would change in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dat.analysis.codes import Change, discrete_change
from dat.attacks.rate import Rate
from dat.commands.trained import TrainedModel, load_classifier
from dat.data.folders import EXTENSIONS
from dat.data.images import decode
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.engine.processes import on_cpu
from dat.errors import CheckpointError, DataError, UsageError
from dat.methods.calibration import reached
from dat.methods.dat import DAT
from dat.nn.outputs import logits_of
from dat.progress import Bar
from dat.recipe.contest import training_of
from dat.recipe.methods import alpha_of
from dat.report.figures import code_side, enlarged, mark_codes
from dat.results import write_bytes
from dat.tasks.classification import Classification
from dat.types import Batch, Images, Indices

RATE = 0.1
"""Share of the codes that an adversary changes, where the method of a run has no step of its own."""
GAP = 4
"""Pixels between the pictures of an explanation."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture: the likeliest class and the probability of each; or why it cannot be read."""

    path: str
    label: str | None
    probabilities: dict[str, float]
    fault: str | None = None

    @property
    def probability(self) -> float | None:
        """Of the likeliest class."""
        return None if self.label is None else self.probabilities[self.label]


def pictures_in(places: Sequence[str | Path]) -> list[Path]:
    """Files as they are named, and all pictures below the folders that are, in alphabetical order; hidden ones are left out.

    Raises:
        DataError: there is nothing of that name, or a folder holds no picture.
        UsageError: nothing is named.
    """
    if isinstance(places, str | Path) or not places:
        raise UsageError(f"Pictures are {places!r}; give a list of files and folders, e.g. ['photo.jpg', 'photos'].")
    return [path for place in places for path in _pictures_at(Path(place))]


def _pictures_at(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise DataError(f"There is no picture and no folder {place}; check the path.")
    below = sorted(Path(folder) / name for folder, _, names in os.walk(place) for name in names)
    found = [path for path in below if path.suffix.lower() in EXTENSIONS and not _is_hidden(path.relative_to(place))]
    if not found:
        raise DataError(f"{place} holds no picture ({' '.join(EXTENSIONS)}); name another folder, or the files.")
    return found


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def predictions(
    run: TrainedModel, paths: Sequence[Path], *, batch_size: int = 64, device: torch.device | None = None
) -> Iterator[list[Prediction]]:
    """What the model says of each picture, a batch at a time, in their order; brought to it as those it was tested on.

    Raises:
        UsageError: a batch_size below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; write 1 or more.")
    device = device or torch.device("cpu")
    model = run.model.to(device)
    for first in range(0, len(paths), batch_size):
        read = [read_as(run.view, path) for path in paths[first : first + batch_size]]
        found: list[Prediction] = []
        for _, group in groupby(read, key=lambda one: one[1] if isinstance(one[1], str) else one[1].size):
            found += _said(run, model, list(group), device)
        yield found


def read_as(view: Callable[[Image.Image], Any], path: Path) -> tuple[Path, Any]:
    """The picture as a model is shown it, or why there is none."""
    try:
        return path, view(decode(path))
    except DataError as error:
        return path, str(error)


def _said(
    run: TrainedModel, model: torch.nn.Module, read: Sequence[tuple[Path, Any]], device: torch.device
) -> list[Prediction]:
    """Of pictures of one size, or of some that cannot be read."""
    if isinstance(read[0][1], str):
        return [Prediction(str(path), None, {}, fault) for path, fault in read]
    with torch.inference_mode():
        logits = logits_of(model, images_of([picture for _, picture in read]).to(device)).float()
    each = logits.sigmoid() if training_of(run.recipe, run.label).sigmoid else logits.softmax(dim=1)
    return [
        Prediction(str(path), run.classes[int(row.argmax())], dict(zip(run.classes, row.tolist(), strict=True)))
        for (path, _), row in zip(read, each.cpu(), strict=True)
    ]


def images_of(pictures: Sequence[Image.Image]) -> Images:
    """Pictures of one size as a batch in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).float() / 255


def shown(model: Path, pictures: Sequence[str], *, batch_size: int, cpu: bool) -> list[Prediction]:
    """What the model of a run says of pictures, with progress on stderr.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    run, paths = load_classifier(model), pictures_in(pictures)
    device = torch.device("cpu") if on_cpu(cpu) else torch.accelerator.current_accelerator()
    found: list[Prediction] = []
    with Bar("predict", len(paths)) as bar:
        for batch in predictions(run, paths, batch_size=batch_size, device=device):
            found += batch
            bar.add(run.label, len(batch))
    return found


def explained(model: Path, found: Sequence[Prediction], out: Path, *, alpha: float | None) -> list[Path]:
    """`explain` of the pictures that can be read.

    Raises:
        DataError: none can; or as `explain`.
    """
    paths = [Path(one.path) for one in found if one.label is not None]
    if not paths:
        raise DataError(f"None of the {len(found)} pictures can be read, so there is nothing to explain.")
    return explain(load_classifier(model), model, paths, out, alpha=alpha)


def as_table(found: Sequence[Prediction]) -> str:
    """A line each: the picture, its likeliest class and how likely it is, then the second."""
    rows = [("picture", "label", "probability", "next"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(one: Prediction) -> tuple[str, str, str, str]:
    if one.label is None:
        return one.path, "-", "-", f"cannot be read: {one.fault}"
    (label, most), *others = sorted(one.probabilities.items(), key=lambda pair: -pair[1])
    second = f"{others[0][0]} {100 * others[0][1]:.1f} %" if others else ""
    return one.path, label, f"{100 * most:.1f} %", second


def explain(run: TrainedModel, folder: Path, paths: Sequence[Path], out: Path, *, alpha: float | None = None) -> list[Path]:
    """Write what an adversary would change: each picture, Q of it, Q of it with the step, and the codes that differ, marked.

    The step raises the loss of what the model says of the picture. It is as long as `alpha`, else as in the training of the
    method; of a method without a step, or with one that is sought, it changes 10 % of the codes. `out` is a PNG of all
    pictures, one below the other, or a folder of one for each.

    Raises:
        CheckpointError: the run has no discretizer, or it is gone.
        DataError: a picture cannot be read.
        UsageError: `out` is another kind of file; no step changes the codes so.
    """
    if out.suffix not in ("", ".png"):
        raise UsageError(f"--explain is {out}; write a file that ends in .png, or a folder.")
    discretizer = _discretizer_of(run, folder).exact()
    strips = [_strip(run, discretizer, path, alpha) for path in paths]
    if out.suffix:
        write_bytes(out, _png(_stacked(strips)))
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    width = len(str(len(paths)))
    written = [out / f"{number:0{width}}-{path.stem}.png" for number, path in enumerate(paths, start=1)]
    for file, strip in zip(written, strips, strict=True):
        write_bytes(file, _png(strip))
    return written


def _discretizer_of(run: TrainedModel, folder: Path) -> FrozenDiscretizer:
    section = run.recipe.discretizer
    if section is None:
        raise CheckpointError(f"{folder} was trained without a discretizer, so there are no codes to change; name another run.")
    run_folder = (folder.resolve().parent.parent if folder.name.startswith("step-") else folder.resolve()).parent
    return load_discretizer(section.load or run_folder / "discretizer")


def _strip(run: TrainedModel, discretizer: FrozenDiscretizer, path: Path, alpha: float | None) -> Image.Image:
    """The four views of one picture beside each other."""
    images, model, task = images_of([run.view(decode(path))]), run.model.cpu(), Classification()
    with torch.no_grad():
        said: Indices = logits_of(model, images).argmax(dim=1)
    own = alpha_of(run.recipe.methods[run.label])
    length = alpha if alpha is not None else own
    if length is None or isinstance(length, Rate):
        rate = length or Rate(RATE)
        length = reached(DAT(discretizer, rate), model, [Batch(images, said)], task).alpha
    return _views(discrete_change(model, task, discretizer, images, said, alpha=length), discretizer.stride)


def _views(change: Change, stride: int) -> Image.Image:
    shown = [_bytes(part) for part in (change.original, change.reconstruction, change.adversarial)]
    changed = change.changed[0].cpu().numpy()
    views = [enlarged(picture) for picture in shown]
    if changed.ndim == 2:  # others have no places in the picture
        views.append(mark_codes(enlarged(shown[2]), changed, side=code_side(shown[2], changed, stride)))
    whole = Image.new("RGB", (sum(view.width + GAP for view in views) - GAP, views[0].height), "white")
    for number, view in enumerate(views):
        whole.paste(view, (number * (view.width + GAP), 0))
    return whole


def _bytes(images: Tensor) -> np.ndarray:
    return (images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _stacked(strips: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (max(one.width for one in strips), sum(one.height + GAP for one in strips) - GAP), "white")
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height + GAP
    return whole


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
