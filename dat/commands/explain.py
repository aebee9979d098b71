"""Which visual words of any picture an adversary would change, as a picture: `dat predict --explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from dat.analysis.codes import Change, discrete_change
from dat.attacks.rate import Rate
from dat.boxes import Found
from dat.commands.asked import Asked, asked, sure
from dat.commands.discretize import distinct_names
from dat.commands.trained import TrainedDetector, TrainedModel, run_folder_of
from dat.data.images import decode
from dat.data.picture_files import as_batch
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import CheckpointError, UsageError
from dat.methods.calibration import reached
from dat.methods.dat import DAT
from dat.nn.outputs import logits_of
from dat.progress import Bar
from dat.recipe.contest import training_of
from dat.recipe.methods import alpha_of
from dat.report.figures import code_side, enlarged, mark_codes, scale_of
from dat.report.strips import beside, captioned, pixels_of, png, stacked
from dat.results import write_bytes
from dat.types import Batch, Images

RATE = 0.1
"""Share of the codes that an adversary changes, where the method of a run has no step of its own."""
MOST = 100
"""Pictures that one file shows; more would be too high to look at."""
FRAME = (255, 92, 0)
VIEWS = ("x", "Q(x)", "Q(x + \N{GREEK SMALL LETTER DELTA})", "codes changed")

Explained = TrainedModel | TrainedDetector


@dataclass(frozen=True, eq=False)
class Explainer:
    """A trained model, the discretizer of its run in float32, and the length of the step (None: that of its training)."""

    run: Explained
    discretizer: FrozenDiscretizer
    alpha: float | None


def explainer(run: Explained, folder: Path, *, alpha: float | None) -> Explainer:
    """On the device of the model.

    Raises:
        CheckpointError: the run in whose `folder` the model lies has no discretizer, or it is gone.
        UsageError: alpha is no length.
    """
    if alpha is not None and not 0 <= alpha < float("inf"):
        raise UsageError(f"--alpha is {alpha}, the L2 length of a step; write 0 or more.")
    section = run.recipe.discretizer
    if section is None:
        raise CheckpointError(f"{folder} was trained without a discretizer, so there are no codes to change; name another run.")
    discretizer = load_discretizer(section.load or run_folder_of(folder) / "discretizer")
    return Explainer(run, discretizer.exact().to(next(run.model.parameters()).device), alpha)


def check_place(out: Path, paths: Sequence[Path]) -> None:
    """Raises: UsageError: the explanation cannot be put there."""
    if out.suffix not in ("", ".png"):
        raise UsageError(f"--explain is {out}; write a file that ends in .png, or a folder.")
    if out.suffix and len(paths) > MOST:
        raise UsageError(f"--explain {out} would show {len(paths)} pictures, and {MOST} are the most; write a folder instead.")
    if any(out.resolve() == path.resolve() for path in paths):
        raise UsageError(f"--explain is {out}, which is one of the pictures; write another file.")


def explain(how: Explainer, paths: Sequence[Path], out: Path) -> list[Path]:
    """Write what an adversary would change: each picture, Q of it, Q of it with the step, and the codes that differ, marked.

    The step raises the loss of what the model says of the picture. It is as long as asked for, else as in the training of the
    method; of a method without a step, or with one that is sought, it changes 10 % of the codes. `out` is a PNG of all
    pictures, one below the other, or a folder of one for each, as `check_place` allows them.

    Raises:
        DataError: a picture cannot be read.
        UsageError: no step changes the codes so.
    """
    if out.suffix:
        write_bytes(out, png(stacked(list(_strips(how, paths)))))
        return [out]
    written = [out / f"{name}.png" for name in distinct_names(paths)]
    for file, strip in zip(written, _strips(how, paths), strict=True):
        write_bytes(file, png(strip))
    return written


def _strips(how: Explainer, paths: Sequence[Path]) -> Iterator[Image.Image]:
    with Bar("explain", len(paths)) as bar:
        for path in paths:
            yield _strip(how, path)
            bar.add(how.run.label, 1)


def _strip(how: Explainer, path: Path) -> Image.Image:
    """The four views of one picture beside each other, with what the model says of each."""
    of = _asked(how.run, path)
    change = discrete_change(how.run.model, of.task, how.discretizer, of.images, of.targets, alpha=_alpha(how, of))
    return _views(how, change)


def _asked(run: Explained, path: Path) -> Asked:
    shown = run.frame(decode(path)) if isinstance(run, TrainedDetector) else run.view(decode(path))
    return asked(run, as_batch([shown]).to(next(run.model.parameters()).device))


def _alpha(how: Explainer, of: Asked) -> float:
    length = how.alpha if how.alpha is not None else alpha_of(how.run.recipe.methods[how.run.label])
    if isinstance(length, float | int):
        return float(length)
    method = DAT(how.discretizer, length or Rate(RATE))
    return reached(method, how.run.model, [Batch(of.images, of.targets)], of.task).alpha


def _views(how: Explainer, change: Change) -> Image.Image:
    shown = (change.original, change.reconstruction, change.adversarial)
    views = [_told(how.run, images, title) for images, title in zip(shown, VIEWS, strict=False)]
    changed = change.changed[0].cpu().numpy()
    if changed.ndim == 2:  # others have no places in the picture
        pixels = pixels_of(change.adversarial)
        marked = mark_codes(enlarged(pixels), changed, side=code_side(pixels, changed, how.discretizer.stride))
        views.append(captioned(marked, f"{VIEWS[3]}: {changed.sum()} of {changed.size}"))
    return beside(views)


def _told(run: Explained, images: Images, title: str) -> Image.Image:
    """A view with what the model says of it: below, and of a detector also around what it found."""
    picture = enlarged(pixels_of(images))
    if isinstance(run, TrainedDetector):
        with torch.inference_mode():
            found = sure(run.model(images)[0])
        _frame(picture, found, scale_of(*images.shape[2:]))
        names = [run.classes[label] for label in found.labels.tolist()]
        return captioned(
            picture, f"{title}: {', '.join(f'{names.count(name)} {name}' for name in dict.fromkeys(names)) or '-'}"
        )
    with torch.no_grad():
        logits = logits_of(run.model, images).float()[0]
    shares = logits.sigmoid() if training_of(run.recipe, run.label).sigmoid else logits.softmax(dim=0)
    return captioned(picture, f"{title}: {run.classes[int(shares.argmax())]} {100 * float(shares.max()):.1f} %")


def _frame(picture: Image.Image, found: Found, scale: int) -> None:
    draw = ImageDraw.Draw(picture)
    for left, top, right, bottom in (scale * found.corners).tolist():
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=FRAME, width=2)
