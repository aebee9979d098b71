"""Methods are compared on object detection: one detector per method and seed, all measured alike, one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from torch import nn

from dat.boxes import Found
from dat.data.annotated import AnnotatedPictures
from dat.discretizers.frozen import FrozenDiscretizer
from dat.engine.loop import train
from dat.engine.run_folder import Run
from dat.evaluation.coco_scores import CocoScores, coco_scores, results_json
from dat.evaluation.detected import detect
from dat.evaluation.suites import Suite
from dat.nn.norm import without_auxiliary_norms
from dat.progress import Bar, followed_by
from dat.recipe.detection import DetectionComparison
from dat.results import Row, versions, write_text
from dat.studies import measured
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
        return [Job(label, seed) for seed in self.opened.seeds for label in self.opened.contestants]

    def train(self, job: Job, title: str) -> nn.Module:
        """The trained detector of one method and seed, without auxiliary norms."""
        opened, contestant, jobs = self.opened, self.opened.contestants[job.label], self.jobs()
        with self.run.timed("train"), followed_by(self._forecast.seconds(jobs[jobs.index(job) + 1 :])):
            trained = train(
                opened.model.untrained(job.seed, auxiliary_norms=contestant.auxiliary_norms),
                contestant.method(self._discretizer),
                opened.task,
                opened.data.seeded(job.seed).train,
                contestant.training,
                seed=job.seed,
                folder=self.run.folder / f"{job.label}-seed{job.seed}",
                title=title,
                num_classes=len(opened.data.classes),
                cpu=self.run.cpu,
            )
        return without_auxiliary_norms(trained)

    def rows(self, models: Mapping[Job, nn.Module]) -> list[Row]:
        """COCO's numbers of every suite, of the corruptions together, and costs."""
        place = self.run.place
        rows: list[Row] = []
        with self.run.timed("evaluate"), Bar("evaluate", self._shown * len(models), shown=place.is_main) as bar:
            for job, model in models.items():
                rows += self._measured(job, model.eval().to(place.device), bar)
        if not place.is_main:
            return rows
        trainings = {label: contestant.training for label, contestant in self.opened.contestants.items()}
        return rows + measured.costs(self._row, trainings, self.opened.seeds, self.run.folder)

    def pictures(self, models: Mapping[Job, nn.Module]) -> None:
        """Its page shows none."""

    def following(self) -> None:
        """Nothing follows."""

    def _measured(self, job: Job, model: nn.Module, bar: Bar) -> list[Row]:
        """Suite by suite; a corruption beside the clean pictures that it is made of."""
        evaluation, whole = self.opened.evaluation, self.opened.data.test
        fewer, positions = self.opened.corrupted
        found = {suite.name: self._found(model, whole, suite, bar) for suite in evaluation.suites}
        in_corrupted = {suite: self._found(model, fewer, suite, bar) for suite in evaluation.corruptions}
        if not self.run.place.is_main:
            return []  # all show their share; one scores
        self._keep(job, found["clean"])
        rows = [row for suite in evaluation.suites for row in self._rows_of(job, suite, coco_scores(whole, found[suite.name]))]
        if not evaluation.corruptions:
            return rows
        clean = coco_scores(fewer, [found["clean"][position] for position in positions])
        cells = {suite: coco_scores(fewer, of_suite) for suite, of_suite in in_corrupted.items()}
        rows += [row for suite, scores in cells.items() for row in self._rows_of(job, suite, scores)]
        return rows + self._together(job, clean, list(cells.values()))

    def _found(self, model: nn.Module, pictures: AnnotatedPictures, suite: Suite, bar: Bar) -> list[Found]:
        return detect(
            model,
            pictures,
            self.opened.data.frame,
            suite,
            task=self.opened.task,
            place=self.run.place,
            batch_size=self.opened.evaluation.batch_size,
            advance=partial(bar.add, suite.name),
        )

    def _rows_of(self, job: Job, suite: Suite, scores: CocoScores) -> list[Row]:
        height, width = self.opened.data.size
        done = suite.protocol(height, width)
        protocol = {**done, "loss": self.opened.task.climbed} if suite.depends_on_model else done
        numbers = dict(scores.numbers) | {f"ap/{name}": value for name, value in scores.by_class.items()}
        return [self._row(suite.name, metric, value, scores.pictures, job, protocol) for metric, value in numbers.items()]

    def _together(self, job: Job, clean: CocoScores, cells: Sequence[CocoScores]) -> list[Row]:
        """Mean performance under corruption, and its share of the clean one. Source: Michaelis et al., 2019, section 3.1."""
        mean = float(np.mean([scores.numbers["ap"] for scores in cells]))
        rows = {"ap_clean": clean.numbers["ap"], "mpc": mean}
        if clean.numbers["ap"] > 0:
            rows["rpc"] = 100 * mean / clean.numbers["ap"]
        protocol: dict[str, object] = {"cells": len(cells)}
        return [self._row("c", metric, value, clean.pictures, job, protocol) for metric, value in rows.items()]

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
    def _discretizer(self) -> FrozenDiscretizer | None:
        found = self.opened.discretizer
        return None if found is None else found.to(self.run.place.device)

    @property
    def _forecast(self) -> Forecast:
        trainings = {label: contestant.training for label, contestant in self.opened.contestants.items()}
        jobs = list(self.jobs())
        return Forecast(self.run.folder, trainings, jobs, len(self.opened.data.train), self._shown * len(jobs))
