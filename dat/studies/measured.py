"""What is measured on trained classifiers: rows of results, and pictures for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dat.analysis.codes import discrete_change
from dat.data.pipeline import CenterCrop, ImageDataset, Transform, evaluation_batches
from dat.data.subset import Subset, fewer, first_per_class
from dat.discretizers.frozen import FrozenDiscretizer
from dat.engine import dependence
from dat.engine.loop import Training
from dat.errors import DataError
from dat.evaluation import cells, right
from dat.evaluation.cells import Cell, Correct, Predictions, all_classes
from dat.evaluation.metrics import accuracy_rows, class_rows
from dat.evaluation.mistakes import Answered
from dat.evaluation.predict import Classifier, Shelf, predict
from dat.evaluation.suites import Clean, Suite, clean_beside
from dat.progress import Bar
from dat.recipe.classification import Evaluation
from dat.results import SET, SOUGHT, Row, from_json, machine, of_set, versions, write_arrays
from dat.studies import words
from dat.studies.study import Job, MakeRow
from dat.tasks.classification import Classification
from dat.types import Place

PICTURES = 8
KEPT_BYTES = 2**33
"""What the test pictures may take in memory while they are corrupted; ImageNet's take 7.5 GB."""

Models = Mapping[Job, nn.Module]
"""Trained models."""
Trainings = Mapping[str, Training]
"""Of each method."""
Keep = Callable[[Cell, Predictions], None]
Answers = dict[Job, right.Kept]
"""Of each model: whether it was right, and what it said of pictures as they are."""


@dataclass(frozen=True)
class Subject:
    """What is measured, on which pictures, and where that happens; `name` is that of the pictures, if there are others.

    `sigmoid`: methods whose models were trained to say yes or no to each class.
    """

    evaluation: Evaluation
    recipe_hash: str
    test: ImageDataset
    size: tuple[int, int]
    place: Place
    name: str = ""
    sigmoid: frozenset[str] = frozenset()

    def on(self, name: str, test: ImageDataset) -> Subject:
        """Another test set, on which is measured what the recipe says of further ones."""
        return replace(self, evaluation=self.evaluation.further or self.evaluation, name=name, test=test)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.test.source.classes

    @cached_property
    def fingerprint(self) -> str:
        """Of the test pictures."""
        return self.test.source.fingerprint()[:12]

    def task_of(self, *jobs: Job) -> Classification:
        """What is asked of these models together: as they were trained, if that is the same."""
        return Classification(sigmoid=all(job.label in self.sigmoid for job in jobs))

    def row(self, suite: str, metric: str, value: float, n: int, job: Job, protocol: dict[str, object]) -> Row:
        """A row without interval: the spread is over seeds."""
        return Row(suite, metric, value, n, None, job.seed, job.label, self.recipe_hash, protocol, versions())


def accuracies(subject: Subject, models: Models, *, keep: Keep | None = None) -> list[Row]:
    """Rows of all models on all suites of the recipe; `keep` as for `answered`."""
    return rows_of(subject, answered(subject, models, keep=keep))


def answered(subject: Subject, models: Models, *, keep: Keep | None = None) -> Answers:
    """What all models answered on all suites of the recipe; the corrupted pictures may be fewer than the clean ones.

    `keep` is given each cell with what each model said of it.
    """
    answers: Answers = {key: right.Kept() for key in models}
    parts = _parts(subject)
    place = subject.place
    shares = (len(suites) * len(range(place.process, len(dataset), place.processes)) for dataset, suites in parts)
    with Bar(f"evaluate {subject.name}".strip(), sum(shares), shown=place.is_main) as bar:
        for dataset, suites in parts:
            _add_answers(answers, subject, models, dataset, suites, bar=bar, keep=keep)
    return answers


def rows_of(subject: Subject, answers: Answers) -> list[Row]:
    """The accuracies that answers give, and what stands beside them."""
    return [
        row for job, kept in answers.items() for row in (*_rows_of(subject, kept.right, job), *_class_rows(subject, kept, job))
    ]


def clean_of(answers: Answers) -> dict[Job, Answered]:
    """What each model said of the clean pictures; of models that were not shown them, nothing."""
    return {job: kept.said["clean"] for job, kept in answers.items() if "clean" in kept.said}


def keep_answers(run: Path, answers: Sequence[tuple[Subject, Answers]]) -> None:
    """Write what each model answered, for intervals over seeds and pictures and for mistakes; other files that lie there go."""
    by_model: dict[Job, right.Kept] = {}
    for place, (subject, found) in enumerate(answers):
        named = partial(of_set, pictures=subject.name if place else "")
        for job, kept in found.items():
            whole = by_model.setdefault(job, right.Kept())
            whole.right.update({named(suite): correct for suite, correct in kept.right.items()})
            whole.said.update({named(suite): said for suite, said in kept.said.items()})
    paths = {right.path_of(run, *job): kept for job, kept in by_model.items()}
    for path, kept in paths.items():
        right.write_kept(path, kept)
    for path in set((run / right.RIGHT).glob("*.npz")) - set(paths):
        path.unlink()


def validated(subject: Subject, model: nn.Module) -> dict[str, float]:
    """Accuracy in percent on the pictures of the subject as they are; how the log of a training has it."""
    key = Job("validation", 0)
    with Bar("", 0, shown=False) as bar:
        answers = {key: right.Kept()}
        _add_answers(answers, subject, {key: model}, subject.test, (Clean(),), bar=bar, keep=None)
    return {"validation_accuracy": 100 * float(answers[key].right["clean"].mean())}


def images_to_show(subject: Subject) -> int:
    """How many images one model is shown by `accuracies`."""
    return sum(len(suites) * len(dataset) for dataset, suites in _parts(subject))


def _parts(subject: Subject) -> list[tuple[ImageDataset, tuple[Suite, ...]]]:
    """Pictures and what is done to them; the corrupted pictures may be fewer, and are then shown as they are, too."""
    evaluation, few = subject.evaluation, _fewer_pictures(subject)
    is_shown = few is subject.test and any(suite.name == "clean" for suite in evaluation.suites)
    unchanged = () if is_shown else (Clean(clean_beside("c")),)
    parts = [(subject.test, evaluation.suites), (few, (*unchanged, *evaluation.corruptions) if evaluation.corruptions else ())]
    return [(dataset, suites) for dataset, suites in parts if suites]


def _add_answers(
    answers: Answers,
    subject: Subject,
    models: Models,
    dataset: ImageDataset,
    suites: Sequence[Suite],
    *,
    bar: Bar,
    keep: Keep | None,
) -> None:
    """Add what every model answers. Models are put into evaluation mode on the device of the subject.

    Raises:
        DataError: a picture cannot be read; none is left out or replaced.
    """
    place, view = subject.place, all_classes(len(subject.classes))
    classifiers = {
        key: Classifier(model.eval().to(place.device), place.device, sigmoid=key.label in subject.sigmoid)
        for key, model in models.items()
    }
    shelf = Shelf(batch_size=subject.evaluation.batch_size, place=place, strict=True, limit_bytes=KEPT_BYTES)
    pictures = dataset.source.fingerprint()[:12]
    for suite in suites:
        cell = Cell(suite.name, dataset, suite, (view,), {"data": pictures})
        for key, said in predict(classifiers, cell, shelf, advance=partial(bar.add, cell.name)).items():
            if keep is not None:
                keep(cell, said)
            answers[key].right[cell.name] = view.correct(said.targets, said.outputs[view.metric])
            if said.confidence is not None:
                answers[key].said[cell.name] = cells.answered(view, said, subject.classes)


def _fewer_pictures(subject: Subject) -> ImageDataset:
    """The test pictures for what is measured many times: `c_per_class` times as many as there are classes."""
    evaluation, source = subject.evaluation, subject.test.source
    if evaluation.c_per_class is None:
        return subject.test
    chosen = fewer(source, evaluation.c_per_class, evaluation.c_draw)
    return subject.test if chosen is source else ImageDataset(chosen, subject.test.transform, seed=0)


def _drawn_as(subject: Subject) -> dict[str, object]:
    """How the fewer pictures were chosen, for protocols; as older versions did, which said nothing, it says nothing."""
    is_drawn = subject.evaluation.c_draw != "first" and _fewer_pictures(subject) is not subject.test
    return {"draw": "in proportion to classes", "draw_seed": 0} if is_drawn else {}


def _rows_of(subject: Subject, answers: Mapping[str, Correct], job: Job) -> list[Row]:
    height, width = subject.size
    shown = _shown(subject)
    of_part = partial(
        accuracy_rows,
        answers,
        height=height,
        width=width,
        method=job.label,
        seed=job.seed,
        recipe_hash=subject.recipe_hash,
        versions=versions(),
    )
    parts = ((suites, {} if dataset is subject.test else _drawn_as(subject)) for dataset, suites in _parts(subject))
    return [row for suites, drawn in parts for row in of_part(suites, protocol={**shown, **drawn})]


def _class_rows(subject: Subject, kept: right.Kept, job: Job) -> list[Row]:
    """What stands beside the accuracy on pictures as they are, where these were shown."""
    make = partial(Row, method=job.label, seed=job.seed, recipe_hash=subject.recipe_hash, versions=versions())
    return [row for suite, said in kept.said.items() for row in class_rows(make, suite, said, _shown(subject))]


def _shown(subject: Subject) -> dict[str, object]:
    """Which pictures, and how they are brought to the models, for protocols."""
    height, width = subject.size
    return {**_of_which(subject), "height": height, "width": width, **_cropped(subject.test.transform)}


def _of_which(subject: Subject) -> dict[str, object]:
    """Which pictures: the name of their set where it has one, what they hold, and of how many classes where not of all."""
    there, known = len(np.unique(subject.test.source.targets)), len(subject.classes)
    some = {"classes": f"{there} of {known}"} if there < known else {}
    return {**({SET: subject.name} if subject.name else {}), "data": subject.fingerprint, **some}


def _cropped(view: Transform) -> dict[str, object]:
    """How test pictures are cropped; also to what they are resized before, where crop_pct does not say that to the pixel."""
    if not isinstance(view, CenterCrop) or view.size is None:
        return {"crop_pct": None}
    is_whole = (view.size / view.crop_pct).is_integer()
    return {"crop_pct": view.crop_pct, **({} if is_whole else {"resize": view.short_side})}


def modified_codes(
    subject: Subject, models: Models, discretizer: FrozenDiscretizer, *, alpha: float
) -> tuple[list[Row], list[str]]:
    """As `words.modified_codes`, of as many test pictures as are corrupted, by the loss that all models were trained by.

    Where they were trained by two, by cross-entropy.
    """
    task = subject.task_of(*models)
    by = {"loss": "binary cross-entropy"} if task.sigmoid else {}
    dataset, protocol = _fewer_pictures(subject), {"data": subject.fingerprint, **_drawn_as(subject), **by}
    shown = words.Shown(dataset, task, subject.evaluation.batch_size, subject.place, subject.row, protocol)
    return words.modified_codes(shown, models, discretizer, alpha=alpha)


def costs(row: MakeRow, trainings: Trainings, seeds: Sequence[int], folder: Path) -> list[Row]:
    """Seconds per step: the median over the log of each training, and its share of the time in which steps were sought."""
    rows = []
    for label, training in trainings.items():
        protocol: dict[str, object] = {"machine": machine(), "batch_size": training.batch_size}
        for seed in seeds:
            log = _log(folder, label, seed)
            seconds = training.batch_size / _speed(log) + _sought_seconds(log)
            sought = {SOUGHT: _sought_seconds(log)} if _sought_seconds(log) else {}
            rows.append(row("cost", "seconds_per_step", seconds, len(log), Job(label, seed), {**protocol, **sought}))
    return rows


@dataclass(frozen=True)
class _Line:
    """What a line of the log of a training says of its cost."""

    step: int
    images_per_s: float
    calibration_s: float


def _log(folder: Path, label: str, seed: int) -> list[_Line]:
    """Of each line its cost.

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / f"{label}-seed{seed}" / "log.jsonl"
    try:
        return [_line(from_json(line)) for line in path.read_text().splitlines()]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{path} is damaged ({error}), so the cost of a step is not known; put it back, or remove {path.parent} to train "
            "anew."
        ) from error


def _line(values: Mapping[str, Any]) -> _Line:
    return _Line(int(values.get("step", 0)), float(values["images_per_s"]), float(values.get("calibration_s", 0.0)))


def _speed(log: Sequence[_Line]) -> float:
    """Images per second, the median."""
    return float(np.median([line.images_per_s for line in log]))


def _sought_seconds(log: Sequence[_Line]) -> float:
    """What the search for the length of the step took, spread over all steps."""
    return sum(line.calibration_s for line in log) / max(1, *(line.step for line in log))


def epochs_of_equal_time(trainings: Trainings, seeds: Sequence[int], folder: Path, *, reference: str) -> dict[str, int]:
    """For each method, how many epochs take as long as those of the method `reference`; at least one.

    How many times as fast it is, is the median over seeds of the ratio in the same seed: a machine may have had more to do
    while another seed was trained.
    """
    speeds = {
        label: np.array([_whole_speed(_log(folder, label, seed), training) for seed in seeds])
        for label, training in trainings.items()
    }
    ratios = {label: float(np.median(of_method / speeds[reference])) for label, of_method in speeds.items()}
    return {label: max(1, round(trainings[reference].epochs * ratio)) for label, ratio in ratios.items()}


def _whole_speed(log: Sequence[_Line], training: Training) -> float:
    """Images per second with the time in which steps were sought."""
    return 1 / (1 / _speed(log) + _sought_seconds(log) / training.batch_size)


def epochs_begun(labels: Iterable[str], seed: int, run: Path, again: Path) -> dict[str, int]:
    """With how many epochs methods of `run` began in the folder `again`, with any seed; none of a method that was another then.

    `seed`: one that all of them have in `run`.

    Raises:
        RunFolderError: what lies beside a training is damaged.
    """
    begun: dict[str, int] = {}
    for label in labels:
        now = _without_seed(run / f"{label}-seed{seed}")
        parts = [part for part in sorted(again.glob(f"{label}-seed*")) if part.name.rpartition("-seed")[0] == label]
        for then in (_without_seed(part) for part in parts if dependence.has_begun(part)):
            if not dependence.changes(then, now, without=["training.epochs"]) and then:
                begun.setdefault(label, then["training"]["epochs"])
    return begun


def _without_seed(part: Path) -> dict[str, Any]:
    """The settings of a training but for its seed, and whence its discretizer comes; none where they are not known."""
    found = dependence.kept(part)
    return {key: value for key, value in (found.settings if found else {}).items() if key not in ("seed", "discretizer")}


def expectations(subject: Subject, expected: tuple[str, Mapping[str, Mapping[str, float]]] | None) -> list[Row]:
    """What a paper reports, and where; on how many images, it does not say (`n` 0)."""
    if expected is None:
        return []
    source, numbers = expected
    protocol: dict[str, object] = {"source": source}
    quoted = [(label, suite, value) for label, values in numbers.items() for suite, value in values.items()]
    return [
        Row("c", "mce", value, 0, None, None, label, subject.recipe_hash, protocol, source="paper")
        if suite == "mce"
        else Row(suite, "accuracy", value, 0, None, None, label, subject.recipe_hash, protocol, source="paper")
        for label, suite, value in quoted
    ]


def pictures(subject: Subject, job: Job, model: nn.Module, discretizer: FrozenDiscretizer, path: Path, *, alpha: float) -> None:
    """Write some test pictures on their way through the adversary."""
    images, targets = _examples(subject)
    change = discrete_change(model, subject.task_of(job), discretizer.exact(), images, targets, alpha=alpha)
    write_arrays(
        path,
        original=as_bytes(change.original),
        reconstruction=as_bytes(change.reconstruction),
        adversarial=as_bytes(change.adversarial),
        changed=change.changed.cpu().numpy(),
        labels=np.array([subject.classes[label] for label in targets.tolist()]),
        predicted_original=_predicted(model, change.original, subject.classes),
        predicted_adversarial=_predicted(model, change.adversarial, subject.classes),
    )


def _examples(subject: Subject) -> tuple[Tensor, Tensor]:
    """The first test pictures of as many classes as there is room for."""
    chosen = first_per_class(subject.test.source, -(-PICTURES // len(subject.classes)))
    spread = np.unique(np.linspace(0, len(chosen) - 1, min(PICTURES, len(chosen))).round().astype(np.int64))
    shown = ImageDataset(Subset(chosen, spread), subject.test.transform, seed=0)
    images, targets, _ = next(iter(evaluation_batches(shown, PICTURES)))
    return images.to(subject.place.device), targets.to(subject.place.device)


def as_bytes(images: Tensor) -> np.ndarray:
    """Images as `(batch, height, width, 3)` of 8 bits."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def _predicted(model: nn.Module, images: Tensor, classes: Sequence[str]) -> np.ndarray:
    return np.array([classes[label] for label in model(images).argmax(dim=1).tolist()])
