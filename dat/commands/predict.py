"""What a trained model says of any pictures: classes of a classifier, boxes of a detector, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dat.commands import explain
from dat.commands.trained import BATCH, BOXED_BATCH, TrainedDetector, TrainedModel, load_run
from dat.data.picture_files import find_pictures
from dat.discretizers.listing import in_columns
from dat.engine.processes import on_cpu
from dat.errors import DataError, UsageError
from dat.evaluation.found_things import SCORE, Detected
from dat.evaluation.labels import Prediction
from dat.progress import Bar

TOP = 5
"""So many classes are told of each picture."""

Said = Prediction | Detected


@dataclass(frozen=True)
class Options:
    """What is asked for; None where it was left out. `top` is of a classifier, `score` of a detector."""

    top: int | None = None
    score: float | None = None
    batch_size: int | None = None
    explain: Path | None = None
    alpha: float | None = None
    cpu: bool = False


def said(place: str, pictures: Sequence[str], options: Options) -> Iterator[Sequence[Said]]:
    """What a model of a run says of pictures; then, where that is asked for, its explanation is written.

    Progress goes to stderr.

    Raises:
        DatError: one of its kinds, each with a sentence; whatever can be checked, before the first picture is read.
    """
    if ":" in place and not Path(place).exists():
        raise UsageError(f"{place} is no model of a run; give RUN/<method>-seed<k>, e.g. runs/demo/dat-seed0.")
    run, paths = load_run(place), find_pictures(pictures)
    _refuse_idle(run, options)
    run.model.to(torch.device("cpu") if on_cpu(options.cpu) else torch.accelerator.current_accelerator())
    explainer = None
    if options.explain is not None:
        explain.check_place(options.explain, paths)
        explainer = explain.explainer(run, Path(place), alpha=options.alpha)
    whole: list[Path] = []
    with Bar("predict", len(paths)) as bar:
        for batch in _batches(run, paths, options):
            whole += [Path(one.path) for one in batch if one.fault is None]
            yield batch
            bar.add(run.label, len(batch))
    if explainer is not None and options.explain is not None:
        if not whole:
            raise DataError(f"None of the {len(paths)} pictures can be read, so there is nothing to explain.")
        explain.explain(explainer, whole, options.explain)


def _batches(run: TrainedModel | TrainedDetector, paths: Sequence[Path], options: Options) -> Iterator[Sequence[Said]]:
    if isinstance(run, TrainedDetector):
        score = SCORE if options.score is None else options.score
        return run.predictions(paths, score=score, batch_size=_or(options.batch_size, BOXED_BATCH))
    return run.predictions(paths, top=_or(options.top, TOP), batch_size=_or(options.batch_size, BATCH))


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _refuse_idle(run: TrainedModel | TrainedDetector, options: Options) -> None:
    """Raises: UsageError: an option would do nothing."""
    if isinstance(run, TrainedDetector) and options.top is not None:
        raise UsageError(f"--top is {options.top}, of the classes of a whole picture; this model gives boxes: leave it out.")
    if isinstance(run, TrainedModel) and options.score is not None:
        raise UsageError(f"--score is {options.score}, of the boxes of a detector; this model gives labels: leave it out.")
    if options.alpha is not None and options.explain is None:
        raise UsageError(f"--alpha is {options.alpha}, the length of the step that --explain shows; write --explain FILE.png.")


def as_table(found: Sequence[Said]) -> str:
    """A line for each picture with its likeliest classes, or for each box with its corners."""
    of_boxes = any(isinstance(one, Detected) for one in found)
    head = ("picture", "label", "score", "box") if of_boxes else ("picture", "label", "probability", "next")
    rows = [row for one in found for row in (_boxes(one) if isinstance(one, Detected) else [_classes(one)])]
    return in_columns([head, *rows])


def _classes(one: Prediction) -> tuple[str, str, str, str]:
    if one.label is None:
        return one.path, "-", "-", f"cannot be read: {one.fault}"
    (label, most), *others = one.probabilities.items()
    return one.path, label, f"{100 * most:.1f} %", ", ".join(f"{name} {100 * share:.1f} %" for name, share in others)


def _boxes(one: Detected) -> list[tuple[str, str, str, str]]:
    if not one.things:
        return [(one.path, "-", "-", "nothing" if one.fault is None else f"cannot be read: {one.fault}")]
    return [
        (one.path, thing.label, f"{thing.score:.2f}", " ".join(f"{value:.0f}" for value in thing.box)) for thing in one.things
    ]
