"""From a model and the names of suites to a filled evaluation folder. It can be stopped at any time, and goes on where it was.

OUT/evaluation.json  results.jsonl  report.md  report.html
OUT/answers.npz   what the model said of fixed pictures: by that it is known again, or another
OUT/predictions/<cell>.npz   what the model said of every picture     OUT/pictures/<hash>.txt   which pictures those are
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from dat.attacks.gradient import evaluating
from dat.commands.evaluation_folder import default_folder, held, known_as, other_rows, place_of, said_alarms, told
from dat.commands.evaluation_plan import Plan, Settings, parse_settings, without_places
from dat.commands.subject import Tested
from dat.commands.trained import TrainedModel, load_classifier, models_of
from dat.data.pipeline import CenterCrop
from dat.errors import UsageError
from dat.evaluation import store
from dat.evaluation.cells import Cell, Correct, Predictions
from dat.evaluation.predict import Classifier, Shelf, predict, refuse_unreadable
from dat.evaluation.right import Model
from dat.evaluation.robustness import Rows, robustness_rows
from dat.evaluation.selftest import selftest
from dat.progress import Bar, warn
from dat.recipe import read
from dat.recipe.begun import leftovers_of_beginnings
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.contest import training_of
from dat.recipe.data import FolderData, OneOfSets, Tests, notes_of, trained_pictures
from dat.recipe.header import recipe_hash
from dat.recipe.methods import alpha_of
from dat.recipe.parts import PRECISIONS
from dat.report.page import read_facts
from dat.results import (
    EVALUATION,
    LATER_MISTAKES,
    RESULTS,
    SET,
    Row,
    hashes_of,
    machine,
    of_set,
    read_rows,
    versions,
    write_rows,
    write_text,
)
from dat.studies import measured, mistaken_pictures
from dat.studies.study import Job
from dat.types import Place

PROBE = 64
"""Side of the image that asks a model for its number of outputs, where pictures are shown as they are."""


def assess(
    tested: Tested,
    suites: Sequence[str],
    *,
    root: Path | None,
    folder: Path | None,
    settings: Settings,
    allow_bad: int = 0,
    self_test: bool = True,
    cpu: bool = False,
    called: str = "",
) -> Rows:
    """Evaluate a model on suites; what `folder` holds already is not computed again, and rows of other suites stay there.

    `called`: what the pictures of `root` are called in results, if not as the folder is. Without a folder nothing is kept. On
    several processes each shows its share of every set; the first writes.

    Raises:
        DatError: one of its kinds, each with a sentence for the user. What was evaluated before stays.
    """
    if not suites:
        raise UsageError("No suite is named; write at least one, e.g. clean.")
    place = place_of(cpu)
    with evaluating(tested.model.to(place.device)) as model, held(folder, place):
        classifier = Classifier(model, place.device, PRECISIONS[settings.precision], tested.sigmoid)
        plan = Plan(tested, root, settings, _outputs(classifier, tested, settings.size), called)
        cells = [cell for suite in dict.fromkeys(suites) for cell in plan.cells(suite, suites)]
        tried = next((cell for cell in cells if cell.name == "clean"), cells[0])
        alarms = selftest(model, tried.dataset, tried.views[0], device=place.device) if self_test else []
        notes = said_alarms(alarms) + told(plan.leftovers(suites))
        known = known_as(model, place, folder, _shown_size(tested, settings.size))
        job = Evaluating(plan, known, place, folder)
        predictions = job.predictions(cells, classifier, allow_bad=allow_bad)
        return job.rows(cells, predictions, notes)


@dataclass(frozen=True, eq=False)
class Evaluating:
    """One evaluation at work: which model, by its name in the folder, where, and into which folder."""

    plan: Plan
    checkpoint: str
    place: Place
    folder: Path | None

    def predictions(self, cells: Sequence[Cell], classifier: Classifier, *, allow_bad: int) -> dict[str, Predictions]:
        """What the model says of every cell, read where it is kept, computed and kept where it is not.

        Cell by cell, so that the pictures of one are looked at when those before it are done.
        """
        settings, place = self.plan.settings, self.place
        shelf = Shelf(batch_size=settings.batch_size, place=place, workers=settings.workers)
        total = sum(len(shelf.share(cell.dataset)) for cell in cells)
        found: dict[str, Predictions] = {}
        with Bar(self.plan.tested.name, total, shown=place.is_main) as bar:
            for cell in cells:
                found[cell.name] = self._kept(cell, shelf, bar) or self._computed(cell, classifier, shelf, bar)
                refuse_unreadable(cell, found[cell.name], allowed=allow_bad)
        return found

    def _kept(self, cell: Cell, shelf: Shelf, bar: Bar) -> Predictions | None:
        if self.folder is None or not store.is_stored(self.folder, cell, store.identity(cell, self.checkpoint)):
            return None
        bar.skip(cell.name, len(shelf.share(cell.dataset)))
        return store.read_predictions(self.folder, cell.name, store.set_of(cell))

    def _computed(self, cell: Cell, classifier: Classifier, shelf: Shelf, bar: Bar) -> Predictions:
        PartialState().wait_for_everyone()  # all have looked before one of them writes
        model = self.plan.tested.name
        said = predict({model: classifier}, cell, shelf, advance=partial(bar.add, cell.name))[model]
        if self.folder is not None and self.place.is_main:
            store.write_predictions(self.folder, cell, said, store.identity(cell, self.checkpoint))
            store.write_names(self.folder, cell)
        return said

    def rows(self, cells: Sequence[Cell], predictions: Mapping[str, Predictions], notes: Sequence[str] = ()) -> Rows:
        """Rows of results, written with the facts of the evaluation and its page; `notes` come before their own."""
        tested = self.plan.tested
        rows = robustness_rows(
            cells,
            predictions,
            model=tested.name,
            checkpoint=self.checkpoint,
            seed=tested.seed,
            recipe_hash=tested.recipe_hash,
            versions=versions(),
            imagenet=self.plan.is_imagenet,
        )
        rows.notes[:0] = notes
        if self.folder is not None and self.place.is_main:
            write_rows(self.folder / RESULTS, [*other_rows(self.folder / RESULTS, rows.rows), *rows.rows])
            write_text(self.folder / EVALUATION, json.dumps(self._facts(cells, rows), indent=1))
        return rows

    def _facts(self, cells: Sequence[Cell], rows: Rows) -> dict[str, object]:
        tested, settings = self.plan.tested, self.plan.settings
        return {
            "kind": "evaluation",
            "name": tested.name,
            "checkpoint": self.checkpoint,
            "settings": without_places(settings),
            "cells": {cell.name: cell.protocol["data"] for cell in cells},
            "notes": list(rows.notes),
            "versions": versions(),
            "machine": machine(),
            "files": _hashes(self.folder) if self.folder is not None else {},
        }


def _shown_size(tested: Tested, size: int | None) -> tuple[int, int]:
    """Width and height of what the model is shown: its own size, or the `size` that was asked for."""
    if (size := size or tested.view.size) is not None:
        return size, size
    return tested.test.source.read(0).size if tested.test is not None else (PROBE, PROBE)


def _outputs(classifier: Classifier, tested: Tested, size: int | None) -> int:
    """How many logits the model gives for images of the size that it is shown.

    Raises:
        UsageError: it does not take such images, gives something else, or not as many as it has classes.
    """
    width, height = _shown_size(tested, size)
    try:
        with torch.inference_mode():
            logits = classifier(torch.zeros(1, 3, height, width, device=classifier.device))
    except UsageError:
        raise
    except Exception as error:  # whatever a network raises
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UsageError(
            f"{tested.name} gives no logits for an image of {width}x{height} pixels ({reason}); set a size that it takes."
        ) from error
    if logits.ndim != 2:
        raise UsageError(f"The model gives {tuple(logits.shape)} for one image; one row of logits, (1, classes), is expected.")
    if logits.shape[1] < 2:
        raise UsageError("The model has one output, which is always right; name a model of two classes or more.")
    if tested.classes is not None and len(tested.classes) != logits.shape[1]:
        raise UsageError(f"The model gives {logits.shape[1]} logits, but {len(tested.classes)} classes are named; name each.")
    return logits.shape[1]


def evaluate(
    model: nn.Module,
    *,
    suites: Sequence[str],
    data: str | Path,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    name: str = "model",
    size: int | None = 224,
    crop_pct: float = 0.875,
    allow_bad: int = 0,
    self_test: bool = True,
    cpu: bool = False,
    **settings: Any,
) -> list[Row]:
    """Rows of results of any classifier that takes images in [0, 1], normalised inside: accuracies, mCE, with intervals.

    Args:
        suites: names, as `dat eval --suites` takes them: `clean`, `fgsm`, `a`, `c-generated`, ...
        data: the folder with the test sets, or one with a subfolder per class.
        out: where predictions, rows and a page are kept; what is there is not computed again. Nothing is kept without it.
        model: is moved to the device that evaluates, and put into evaluation mode meanwhile.
        classes: names of the model's outputs, as class folders are called; not needed for ImageNet's 1000.
        size: pictures are resized to size / crop_pct and cropped to this; None shows them as they are.
        crop_pct: the share of the resized side that is kept.
        settings: others of `dat.commands.evaluation_plan.Settings`, e.g. `fgsm_epsilon_255=4`.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"The model is {type(model).__name__}, no torch module; write run.model for that of dat.load_run.")
    if isinstance(suites, str) or not isinstance(data, str | Path):
        raise UsageError(f"suites are {suites!r} and data is {data!r}; write e.g. suites=['clean'], data='photos/val'.")
    tested = Tested(name, model, CenterCrop(size, crop_pct), classes=tuple(classes) if classes is not None else None)
    folder = Path(out) if out is not None else None
    checked = {"root": Path(data), "folder": folder, "settings": parse_settings(settings)}
    return assess(tested, suites, **checked, allow_bad=allow_bad, self_test=self_test, cpu=cpu).rows


def evaluate_again(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    sets: Mapping[str, OneOfSets] | None = None,
    folder: Path | None = None,
    cpu: bool = False,
    opened: Opened | None = None,
    right: Right | None = None,
) -> list[Row]:
    """Rows of one trained model, as the recipe of its run measures it: `path` as for `load_run`.

    `overrides` change that recipe, e.g. `data.test=FOLDER` or `evaluation.suites=[clean]`. The training pictures need not be
    there. `sets` are other test sets by name, on which is measured what the recipe says of further ones. Rows and predictions
    stay in `folder`, beside those of `assess` of the same weights; nothing is kept without it. `opened`: pictures that another
    call opened, so that this one need not. `right` is told which pictures were answered rightly, by model and suite.

    Raises:
        CheckpointError: no whole checkpoint is there.
        DataError: the test pictures have other classes than those the model was trained on.
        RunFolderError: the folder is in use, or cannot be written.
    """
    found, place = load_classifier(path, overrides), place_of(cpu)
    subjects = _subjects(found, sets, place, opened if opened is not None else {})
    rows, answers = list[Row](), (right if right is not None else {}).setdefault((found.label, found.seed), {})
    with held(folder, place), evaluating(found.model.to(place.device)) as model:
        height, width = subjects[0].size
        checkpoint = known_as(model, place, folder, (width, height))
        for subject in subjects:
            more, correct = _rows_on(subject, found, checkpoint, folder)
            rows += more
            others = subject.name if subject is not subjects[0] else ""
            answers.update({of_set(suite, others): flags for suite, flags in correct.items()})
    return rows


def _rows_on(
    subject: measured.Subject, found: TrainedModel, checkpoint: str, folder: Path | None
) -> tuple[list[Row], dict[str, Correct]]:
    """Rows of one test set, written beside those that are there, and which pictures were answered rightly, by suite."""
    writes, named = folder is not None and subject.place.is_main, {SET: subject.name}

    def keep(shown: Cell, predictions: Predictions) -> None:
        if folder is not None and writes:
            cell = replace(shown, protocol={**named, **shown.protocol})
            store.write_predictions(folder, cell, predictions, store.identity(cell, checkpoint))
            store.write_names(folder, cell)

    job = Job(found.label, found.seed)
    answers = measured.answered(subject, {job: found.model}, keep=keep)
    rows = [
        replace(row, checkpoint=checkpoint, protocol={**named, **row.protocol}) for row in measured.rows_of(subject, answers)
    ]
    if folder is not None and writes:
        _write_again(folder, found.label, rows)
    return rows, answers[job].right


Opened = dict[str, Tests]
"""Test pictures that were opened, by the settings that name them."""
Right = dict[Model, dict[str, Correct]]
"""Which pictures models answered rightly, by suite; suites on sets after the first say these."""


def _subjects(
    found: TrainedModel, sets: Mapping[str, OneOfSets] | None, place: Place, opened: Opened
) -> list[measured.Subject]:
    """What is measured on which pictures; those that lie among the training pictures, where these are there, are told.

    Raises:
        UsageError: named folders for a run that is not of folders.
        DataError: as `evaluate_again`.
    """
    section = found.recipe.data
    if sets:
        if not isinstance(section, FolderData):
            raise UsageError(f"The run is of {section.source}, not of folders; name --suites clean with --data NAME=FOLDER.")
        found = replace(found, recipe=found.recipe.model_copy(update={"data": section.model_copy(update={"test": dict(sets)})}))
    known = found.recipe.data.model_dump_json()
    if known not in opened:
        opened[known] = found.test_sets()
        for note in _odd(found, opened[known]):
            warn(note)
    tests, evaluation = opened[known], found.recipe.evaluation.build()
    yes_or_no = frozenset([found.label] if training_of(found.recipe, found.label).sigmoid else [])
    name = next(iter(tests.sets))
    first = measured.Subject(evaluation, recipe_hash(found.recipe), tests.first, tests.size, place, name, yes_or_no)
    others = [first.on(name, test) for name, test in tests.sets.items() if sets or test is not tests.first]
    return others if sets else [first, *others]


def _odd(found: TrainedModel, tests: Tests) -> Iterator[str]:
    """What is odd about test pictures; a training that began with another has seen the pictures of that one, too."""
    section, sources = found.recipe.data, {name: dataset.source for name, dataset in tests.sets.items()}
    yield from notes_of(section, tests)
    yield from leftovers_of_beginnings(found.recipe.model.weights, sources, trained_pictures(section))


SUBSET = "classes=subset"
"""Among the keys of a recipe: of the sets that are named beside them."""


def evaluate_all_again(
    path: Path, overrides: Sequence[str] = (), *, sets: Mapping[str, Path], out: Path | None = None, cpu: bool = False
) -> tuple[list[Row], Right]:
    """As `evaluate_again`, of a model or of all models of a run, each in its folder `evaluation` or in one of `out`.

    Which pictures were answered rightly is told beside the rows. Test pictures are opened once for all. `classes=subset` among
    the overrides allows `sets` with some of the classes.

    Raises:
        What `evaluate_again` raises.
    """
    models, opened, rows, right = models_of(path), Opened(), list[Row](), Right()
    kept = [text for text in overrides if not (sets and text == SUBSET)]
    classes = "all" if len(kept) == len(overrides) else "subset"
    named = {name: OneOfSets(folder=str(folder), classes=classes) for name, folder in sets.items()}
    for model in models:
        folder = default_folder(str(model)) if out is None else out if model == path else out / model.name
        rows += evaluate_again(model, kept, sets=named, folder=folder, cpu=cpu, opened=opened, right=right)
    if out is None and len(models) > 1 and place_of(cpu).is_main:
        _write_mistaken(path, models, opened)
    return rows, right


def _write_mistaken(run: Path, models: Sequence[Path], opened: Opened) -> None:
    """The pictures of which two methods of a run say different things, for its page."""
    recipe = read.load(str(run / "recipe.yaml"))
    assert isinstance(recipe, ClassificationRecipe)  # others were refused
    jobs = [Job(label, int(seed)) for label, _, seed in (model.name.rpartition("-seed") for model in models)]
    pair = mistaken_pictures.pair_of(
        jobs, [label for label, section in recipe.methods.items() if alpha_of(section) is not None]
    )
    if pair is None:
        return
    folders = {job: default_folder(str(run / f"{job.label}-seed{job.seed}")) for job in pair}
    sets = [
        (name, test, {job: store.read_answered(folder, "clean", name) for job, folder in folders.items()})
        for tests in opened.values()
        for name, test in tests.sets.items()
        if all(store.path_of(folder, "clean", name).is_file() for folder in folders.values())
    ]
    earlier = set.intersection(*(_sets_of(folder) for folder in folders.values()))
    mistaken_pictures.write(run / LATER_MISTAKES, sets, pair, keep=earlier)


def _sets_of(folder: Path) -> set[str]:
    """Names of the sets that the model of a folder was shown as they are."""
    return {str(row.protocol.get(SET, "")) for row in read_rows(folder / RESULTS) if row.suite == "clean"}


def _write_again(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """The rows beside those that are there; and what makes the folder an evaluation, where it is none yet."""
    write_rows(folder / RESULTS, [*other_rows(folder / RESULTS, rows), *rows])
    facts = {"kind": "evaluation", "name": name, "checkpoint": rows[0].checkpoint, "versions": versions(), "machine": machine()}
    if (folder / EVALUATION).is_file():
        facts |= read_facts(folder / EVALUATION)
    write_text(folder / EVALUATION, json.dumps({**facts, "files": _hashes(folder)}, indent=1))


def _hashes(folder: Path) -> dict[str, str]:
    """Of what its page is made from."""
    return hashes_of(folder, (RESULTS, f"{store.PREDICTIONS}/*.npz"))
