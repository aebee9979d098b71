"""From a run of self-supervised learning to filled evaluation folders, one for each network: what its features are worth.

The folders are as those of classifiers (`evaluate.py`). It can be stopped at any time, and goes on where it was; the features
of the bank are not kept, and are made again where anything is missing.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from accelerate import PartialState
from torch import nn

from dat.commands.evaluation_folder import default_folder, held, known_as, other_rows, place_of, said_alarms
from dat.commands.trained import load_encoder, models_of, pretraining_of
from dat.data.address import set_name
from dat.data.pipeline import ImageDataset
from dat.engine import run_folder
from dat.errors import DataError, UsageError, did_you_mean
from dat.evaluation import store
from dat.evaluation.cells import Cell, Predictions
from dat.evaluation.features import Judge, Probed, answers, check_neighbours
from dat.evaluation.intervals import METHOD
from dat.evaluation.selftest import Alarm, selftest
from dat.progress import Bar
from dat.recipe import read
from dat.recipe.fits import check_corruptible
from dat.recipe.header import recipe_hash
from dat.recipe.selfsupervised import SelfSupervisedRecipe
from dat.recipe.unlabelled import DigitPictures, build_judged, size_of, view_of
from dat.report.page import attempt, read_facts
from dat.results import (
    EVALUATION,
    FEATURES,
    INTERVAL,
    RESULTS,
    Row,
    hashes_of,
    machine,
    of_set,
    versions,
    write_rows,
    write_text,
)
from dat.studies.judged import Subject
from dat.types import Place

SUITES = ("clean", "fgsm", "c")
SAME = {"c-generated": "c"}
"""What `dat eval` of classifiers calls corruptions that are made here."""


def assess_features(
    target: Path,
    suites: Sequence[str] | None,
    overrides: Sequence[str] = (),
    *,
    sets: Mapping[str, Path],
    out: Path | None = None,
    name: str | None = None,
    self_test: bool = True,
    cpu: bool = False,
) -> dict[Path, list[Row]]:
    """Judge the features of the networks of a run, or of one; rows by the folder that they are written into.

    `suites` None: those of the recipe; clean pictures are always shown. `overrides` change the recipe; beside `suites` a key
    without a section is one of `evaluation`. `sets`: class folders by name in the place of the run's test pictures. On several
    processes each shows its share; the first writes, and gives the rows.

    Raises:
        DatError: one of its kinds, each with a sentence for the user. What was evaluated before stays.
    """
    models = models_of(target)
    if name is not None and len(models) > 1:
        raise UsageError(f"--name goes with one network, and {target} has {len(models)}; name one, e.g. {models[0]}.")
    stored = pretraining_of(target)
    assert stored is not None
    recipe, place = _recipe(stored, suites, overrides), place_of(cpu)
    subjects = _subjects(recipe, sets, stored.parent, place)
    with ExitStack() as stack:
        networks = []
        for model in models:
            folder = default_folder(str(model)) if out is None else out if model == target else out / model.name
            stack.enter_context(held(folder, place))
            networks.append(_network(model, recipe, subjects[0], folder, name))
        job = _Job(subjects, networks, place)
        notes = job.evaluate(self_test=self_test)
        settings = {"settings": recipe.evaluation.model_dump(mode="json"), "self_test": self_test}
        return {one.folder: job.rows(one, notes[one], settings) for one in networks} if place.is_main else {}


def _recipe(stored: Path, suites: Sequence[str] | None, overrides: Sequence[str]) -> SelfSupervisedRecipe:
    if suites is not None:
        keys = [text if "." in text.partition("=")[0] else f"evaluation.{text}" for text in overrides]
        overrides = [f"evaluation.suites=[{', '.join(_known(suites))}]", *keys]
    recipe = read.load(str(stored), overrides)
    assert isinstance(recipe, SelfSupervisedRecipe)
    return recipe


def _known(suites: Sequence[str]) -> list[str]:
    """Raises: UsageError: none is named, or there is no such suite."""
    if not suites:
        raise UsageError("No suite is named; write at least one, e.g. clean.")
    named = list(dict.fromkeys(SAME.get(suite, suite) for suite in suites))
    for suite in named:
        if suite not in SUITES:
            near = did_you_mean(difflib.get_close_matches(suite, SUITES, n=1))
            raise UsageError(f"There is no suite {suite!r} of features; {near}write some of {', '.join(SUITES)}.")
    return named


def _subjects(recipe: SelfSupervisedRecipe, sets: Mapping[str, Path], run: Path, place: Place) -> list[Subject]:
    """What is judged on each set.

    Raises:
        DataError: pictures cannot be read, have other classes than the bank, or are of another size than those of the run.
        UsageError: settings that the pictures do not allow.
    """
    named = {name or set_name(folder): str(folder) for name, folder in sets.items()}
    bank, tests = build_judged(recipe.data, named)
    judging = recipe.evaluation.build()
    check_neighbours(judging.k, judging.temperature, bank=len(bank))
    own = recipe.data.source if isinstance(recipe.data, DigitPictures) else set_name(recipe.data.test)
    tests = {name or own: test for name, test in tests.items()}
    size = _size(recipe, {"The bank": bank, **tests}, run)
    if judging.corruptions:
        check_corruptible(size)
    return [Subject(judging, bank, test, size, recipe_hash(recipe), place, name) for name, test in tests.items()]


def _size(recipe: SelfSupervisedRecipe, sets: Mapping[str, ImageDataset], run: Path) -> tuple[int, int]:
    """Height and width of what is shown; pictures at their own size must have that of the run.

    Raises:
        DataError: those of a set have another.
    """
    view = view_of(recipe.data)
    sizes = {name: size_of(test.source, view) for name, test in sets.items()}
    size = next(iter(sizes.values()))
    if view.size is None:
        height, width = size = tuple(run_folder.read_run(run).get("data", {}).get("image_size", size))
        for name, (own_height, own_width) in sizes.items():
            if (own_height, own_width) != size:
                raise DataError(
                    f"{name} has pictures of {own_width}x{own_height}, and the run is of {width}x{height}; add "
                    f"data.size={height} data.crop_pct=1.0."
                )
    return size


@dataclass(frozen=True, eq=False)
class _Network:
    """One of the networks: its encoder, what it is called in rows and known as in its folder."""

    encoder: nn.Module
    label: str
    seed: int
    folder: Path
    checkpoint: str

    def keeps(self, cell: Cell) -> bool:
        """Whether what its judges said of a cell is there."""
        return store.is_stored(self.folder, cell, store.identity(cell, self.checkpoint))

    def noted(self, *, self_test: bool) -> list[str] | None:
        """What its folder says that the self-test said; None where it is not there, of another network, or was not tested."""
        facts = attempt("", partial(read_facts, self.folder / EVALUATION), []) or {}
        notes = facts.get("notes") if facts.get("checkpoint") == self.checkpoint else None
        is_tested = facts.get("self_test") is True or not self_test
        return [*map(str, notes)] if isinstance(notes, list) and is_tested else None


def _network(model: Path, recipe: SelfSupervisedRecipe, subject: Subject, folder: Path, name: str | None) -> _Network:
    height, width = subject.size
    found = load_encoder(model, recipe, side=height)
    encoder = found.encoder.to(subject.place.device)
    known = known_as(encoder, subject.place, folder, (width, height))
    return _Network(encoder, name or found.label, found.seed, folder, known)


@dataclass(frozen=True, eq=False)
class _Job:
    """An evaluation at work: which sets, of which networks, where."""

    subjects: Sequence[Subject]
    networks: Sequence[_Network]
    place: Place

    def evaluate(self, *, self_test: bool) -> dict[_Network, list[str]]:
        """Judge what is not kept yet, and keep it; what the self-test said of each network.

        The bank is the same for all sets; corrupted pictures are made once for all networks.
        """
        cells = [cell for subject in self.subjects for cell in subject.cells]
        missing = {network: [cell for cell in cells if not network.keeps(cell)] for network in self.networks}
        notes = {network: network.noted(self_test=self_test) for network in self.networks}
        PartialState().wait_for_everyone()  # all have looked before one of them writes
        needed = [network for network in self.networks if missing[network] or notes[network] is None]
        subject, shelf = self.subjects[0], self.subjects[0].shelf()
        judges = {network: subject.judge(network.encoder, shelf, probed=True) for network in needed}
        notes |= {network: said_alarms(self._alarms(judge)) if self_test else [] for network, judge in judges.items()}
        with Bar("evaluate", sum(len(shelf.share(cell.dataset)) for cell in cells), shown=self.place.is_main) as bar:
            for cell in cells:
                asked = {network: judge for network, judge in judges.items() if cell in missing[network]}
                if not asked:
                    bar.skip(cell.name, len(shelf.share(cell.dataset)))
                    continue
                said = answers(asked, cell.dataset, cell.change, shelf, advance=partial(bar.add, cell.name))
                self._keep(cell, said)
        return {network: found or [] for network, found in notes.items()}

    def _keep(self, cell: Cell, said: Mapping[_Network, Predictions]) -> None:
        for network, predictions in said.items() if self.place.is_main else ():
            store.write_predictions(network.folder, cell, predictions, store.identity(cell, network.checkpoint))
            store.write_names(network.folder, cell)

    def _alarms(self, judge: Judge) -> list[Alarm]:
        """What is wrong with the probed network, on the pictures that are shown first."""
        cell = self.subjects[0].cells[0]
        assert judge.probe is not None
        return selftest(Probed(judge.encoder, judge.probe), cell.dataset, cell.views[1], device=self.place.device)

    def rows(self, network: _Network, notes: Sequence[str], settings: Mapping[str, object]) -> list[Row]:
        """Rows of results, from what is kept; written with the facts of the evaluation."""
        rows = [row for subject in self.subjects for row in _rows_on(subject, network)]
        write_rows(network.folder / RESULTS, [*other_rows(network.folder / RESULTS, rows), *rows])
        facts = {
            "kind": FEATURES,
            "name": network.label,
            "checkpoint": network.checkpoint,
            **settings,
            "cells": {
                of_set(cell.name, subject.name): cell.protocol["data"] for subject in self.subjects for cell in subject.cells
            },
            "notes": list(notes),
            "versions": versions(),
            "machine": machine(),
            "files": hashes_of(network.folder, (RESULTS, f"{store.PREDICTIONS}/*.npz")),
        }
        write_text(network.folder / EVALUATION, json.dumps(facts, indent=1))
        return rows


def _rows_on(subject: Subject, network: _Network) -> list[Row]:
    """Of one set."""
    said = {cell.name: store.read_predictions(network.folder, cell.name, subject.name) for cell in subject.cells}
    rows = subject.rows(said, method=network.label, seed=network.seed)
    return [replace(row, checkpoint=network.checkpoint, protocol={**row.protocol, **_interval(row)}) for row in rows]


def _interval(row: Row) -> dict[str, str]:
    """How that of a mean over cells was made, for its protocol; others are Wilson's, as pages have it."""
    return {INTERVAL: METHOD} if row.suite == "c" and row.ci is not None else {}
