"""Methods are compared on object detection: one detector per method and seed, all measured alike, one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

from torch import nn

from dat.boxes import Found
from dat.data.boxed import BoxedDataset
from dat.discretizers.frozen import FrozenDiscretizer
from dat.engine.run_folder import Run
from dat.evaluation.coco_scores import CocoScores, coco_scores, results_json
from dat.evaluation.detected import detect
from dat.evaluation.detection_rows import BoxedCell, numbers_of, protocol_of, under_corruption
from dat.evaluation.suites import FGSM
from dat.progress import Bar, warn
from dat.recipe.detection import DetectionComparison
from dat.results import Row, versions, write_text
from dat.studies import boxed_pictures, measured, words
from dat.studies.contest import jobs_of, trained
from dat.studies.forecast import Forecast
from dat.studies.study import Job

DETECTIONS = "detections"
"""Folder of what the models found in the clean pictures, in COCO's format."""


class DetectionStudy:
    """Train, measure and show detectors."""

    def __init__(self, opened: DetectionComparison, run: Run) -> None:
        self.opened, self.run = opened, run

    def jobs(self) -> Sequence[Job]:
        """Seed by seed all methods."""
        return jobs_of(self.opened)

    def train(self, job: Job, title: str) -> nn.Module:
        """The trained detector of one method and seed, without auxiliary norms."""
        return trained(
            self.opened,
            self.run,
            job,
            task=self.opened.task,
            discretizer=self._discretizer,
            forecast=self._forecast,
            title=title,
        )

    def rows(self, models: Mapping[Job, nn.Module]) -> list[Row]:
        """COCO's numbers of every suite, of the corruptions together, what an adversary does, and costs."""
        place = self.run.place
        rows: list[Row] = []
        with self.run.timed("evaluate"), Bar("evaluate", self._shown * len(models), shown=place.is_main) as bar:
            for job, model in models.items():
                rows += self._measured(job, model.eval().to(place.device), bar)
        if not place.is_main:
            return rows
        rows += self._words(models)
        trainings = {label: contestant.training for label, contestant in self.opened.contestants.items()}
        return rows + measured.costs(self._row, trainings, self.opened.seeds, self.run.folder)

    def pictures(self, models: Mapping[Job, nn.Module]) -> None:
        """Some test pictures on their way through the adversary, with the boxes that two of the models find."""
        opened, adversary = self.opened, self._adversary
        positions = boxed_pictures.spread(opened.data.test)
        if not positions:
            return
        with self.run.timed("analyse"):
            shown = {job: models[job] for job in boxed_pictures.two_models(list(models), opened.contestants)}
            scene = boxed_pictures.Scene(opened.data.test.at(positions), opened.data.frame, opened.task, self.run.place)
            boxed_pictures.write(self.run.folder / "pictures.npz", shown, scene, adversary)
            self.run.facts["pictures"] = {"models": [str(job) for job in shown], **adversary.facts}

    def following(self) -> None:
        """Nothing follows."""

    def _words(self, models: Mapping[Job, nn.Module]) -> list[Row]:
        """What an adversary does to the words and the loss of each model, on the pictures that are corrupted."""
        opened, found = self.opened, self._discretizer
        if found is None:
            return []
        shown = words.Shown(
            BoxedDataset(opened.corrupted[0], opened.data.frame, seed=0),
            opened.task,
            opened.evaluation.batch_size,
            self.run.place,
            self._row,
            {"loss": opened.task.climbed},
        )
        with self.run.timed("analyse"):
            rows, alarms = words.modified_codes(shown, models, found, alpha=self._alpha)
        self.run.facts["adversary"] = alarms
        for alarm in alarms:
            warn(alarm)
        return rows

    @property
    def _adversary(self) -> boxed_pictures.Words | boxed_pictures.Pixels:
        """Of the pictures on the page."""
        if (found := self._discretizer) is not None:
            return boxed_pictures.Words(found.exact(), self._alpha)
        return boxed_pictures.Pixels(next((suite for suite in self.opened.evaluation.suites if isinstance(suite, FGSM)), None))

    def _measured(self, job: Job, model: nn.Module, bar: Bar) -> list[Row]:
        """Suite by suite; a corruption beside the clean pictures that it is made of."""
        evaluation, whole = self.opened.evaluation, self.opened.data.test
        fewer, positions = self.opened.corrupted
        shown = [BoxedCell(suite.name, whole, suite) for suite in evaluation.suites]
        corrupted = [BoxedCell(suite.name, fewer, suite) for suite in evaluation.corruptions]
        found = {cell.name: self._found(model, cell, bar) for cell in (*shown, *corrupted)}
        if not self.run.place.is_main:
            return []  # all show their share; one scores
        self._keep(job, found["clean"])
        scores = {cell.name: coco_scores(cell.pictures, found[cell.name]) for cell in (*shown, *corrupted)}
        rows = [row for cell in (*shown, *corrupted) for row in self._rows_of(job, cell, scores[cell.name])]
        if not corrupted:
            return rows
        clean = coco_scores(fewer, [found["clean"][position] for position in positions])
        numbers = under_corruption(clean.numbers["ap"], [scores[cell.name].numbers["ap"] for cell in corrupted])
        protocol: dict[str, object] = {"cells": len(corrupted)}
        return rows + [self._row("c", name, float(value), len(fewer), job, protocol) for name, value in numbers.items()]

    def _found(self, model: nn.Module, cell: BoxedCell, bar: Bar) -> list[Found]:
        return detect(
            model,
            cell.pictures,
            self.opened.data.frame,
            cell.change,
            task=self.opened.task,
            place=self.run.place,
            batch_size=self.opened.evaluation.batch_size,
            advance=partial(bar.add, cell.name),
        )

    def _rows_of(self, job: Job, cell: BoxedCell, scores: CocoScores) -> list[Row]:
        protocol = protocol_of(cell, self.opened.data.frame, self.opened.task.climbed)
        numbers = numbers_of(scores)
        return [self._row(cell.name, metric, value, scores.pictures, job, protocol) for metric, value in numbers.items()]

    def _row(self, suite: str, metric: str, value: float, n: int, job: Job, protocol: dict[str, object]) -> Row:
        height, width = self.opened.data.size
        shown = {"data": self._fingerprint, "height": height, "width": width, **protocol}
        return Row(suite, metric, value, n, None, job.seed, job.label, self.opened.header.recipe_hash, shown, versions())

    def _keep(self, job: Job, found: Sequence[Found]) -> None:
        path = self.run.folder / DETECTIONS / f"{job.label}-seed{job.seed}.json"
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(results_json(self.opened.data.test, found)))

    @cached_property
    def _fingerprint(self) -> str:
        return self.opened.data.fingerprint

    @property
    def _shown(self) -> int:
        """How many images one model is shown."""
        evaluation, data = self.opened.evaluation, self.opened.data
        place, fewer = self.run.place, self.opened.corrupted[0]
        shares = [len(range(place.process, len(part), place.processes)) for part in (data.test, fewer)]
        return len(evaluation.suites) * shares[0] + len(evaluation.corruptions) * shares[1]

    @property
    def _alpha(self) -> float:
        return words.step_of(self.opened.contestants, self.run.folder, self.opened.seeds[0])

    @property
    def _discretizer(self) -> FrozenDiscretizer | None:
        found = self.opened.discretizer
        return None if found is None else found.to(self.run.place.device)

    @property
    def _forecast(self) -> Forecast:
        trainings = {label: contestant.training for label, contestant in self.opened.contestants.items()}
        jobs = list(self.jobs())
        return Forecast(self.run.folder, trainings, jobs, len(self.opened.data.train), self._shown * len(jobs))
