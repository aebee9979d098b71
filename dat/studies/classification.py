"""Methods are compared on classification: one model per method and seed, all measured alike, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from accelerate import PartialState
from torch import nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.engine.discretizer_health import digest, reconstruction_quality
from dat.engine.loop import Training
from dat.engine.run_folder import Run
from dat.engine.validation import Validate
from dat.progress import Bar, followed_by, warn
from dat.recipe.classification import Comparison
from dat.results import MISTAKES, Row, write_text
from dat.studies import discretizer, measured, mistaken_pictures, words
from dat.studies.contest import jobs_of, trained
from dat.studies.forecast import Forecast
from dat.studies.study import Job
from dat.tasks.classification import Classification


class ClassificationStudy:
    """Train, measure and show classifiers."""

    def __init__(self, opened: Comparison, run: Run) -> None:
        self.opened, self.run = opened, run
        self._discretizer = opened.discretizer
        self._answers: list[tuple[measured.Subject, measured.Answers]] = []

    def jobs(self) -> Sequence[Job]:
        """Seed by seed all methods, once there is a discretizer for them."""
        with followed_by(self._forecast.seconds(jobs_of(self.opened))):
            self._discretizer = self._ready_discretizer()
        return jobs_of(self.opened)

    def train(self, job: Job, title: str) -> nn.Module:
        """The trained model of one method and seed, without auxiliary norms."""
        training = self.opened.contestants[job.label].training
        return trained(
            self.opened,
            self.run,
            job,
            task=Classification(training.smoothing, len(self.opened.data.classes), training.sigmoid),
            discretizer=self._discretizer,
            forecast=self._forecast,
            title=title,
            validate=self._validate,
        )

    def rows(self, models: Mapping[Job, nn.Module]) -> list[Row]:
        """Accuracies, what an adversary does, costs, and what a paper reports."""
        with self.run.timed("evaluate"), followed_by(self._forecast.seconds((), evaluated=False)):
            answers = [(subject, measured.answered(subject, models)) for subject in self._subjects]
        rows = [row for subject, found in answers for row in measured.rows_of(subject, found)]
        if not self.run.place.is_main:
            return rows
        measured.keep_answers(self.run.folder, answers)
        self._answers = answers
        if self._discretizer is None:
            self.run.facts.pop("discretizer", None)
        else:
            with self.run.timed("analyse"):
                self._describe(self._discretizer)
                rows += self._words(self._discretizer, models)
        rows += measured.costs(self._subject.row, self._trainings, self.opened.seeds, self.run.folder)
        return rows + measured.expectations(self._subject, self.opened.expected)

    def _words(self, found: FrozenDiscretizer, models: Mapping[Job, nn.Module]) -> list[Row]:
        """What an adversary does to the words and the loss of each model; where it is none, that is said and noted."""
        rows, alarms = measured.modified_codes(self._subject, models, found, alpha=self._alpha)
        self.run.facts["adversary"] = alarms
        for alarm in alarms:
            warn(alarm)
        return rows

    def pictures(self, models: Mapping[Job, nn.Module]) -> None:
        """Some test pictures on their way through the adversary, and those of which two models say different things."""
        adversaries = [label for label, contestant in self.opened.contestants.items() if contestant.alpha is not None]
        if (pair := mistaken_pictures.pair_of(list(models), adversaries)) is not None:
            sets = [(subject.name, subject.test, measured.clean_of(found)) for subject, found in self._answers]
            mistaken_pictures.write(self.run.folder / MISTAKES, sets, pair)
        if self._discretizer is not None:
            with self.run.timed("analyse"):
                attacked = words.attacked(models, self.opened.contestants)
                path = self.run.folder / "pictures.npz"
                measured.pictures(self._subject, attacked, models[attacked], self._discretizer, path, alpha=self._alpha)
                self.run.facts["pictures"] = {"model": str(attacked), "alpha": self._alpha}

    def following(self) -> Path | None:
        """The same with the epochs of each method that fit into the time of one of them, written when all are trained.

        The time of an epoch is the median of what the logs say, so it is right on a machine that did nothing else.
        """
        if self.opened.equal_time_as is None:
            return None
        path = self.run.folder / "equal-time.yaml"
        if self.run.place.is_main:
            trained_here = self._weights if self.opened.plan is not None else None
            write_text(path, self.opened.in_equal_time(self._epochs_of_equal_time(self.opened.equal_time_as), trained_here))
        PartialState().wait_for_everyone()
        return path

    def _epochs_of_equal_time(self, reference: str) -> dict[str, int]:
        """Those with which each method began there, whatever seeds came and went since; counted, of those that have not begun.

        All are counted where the method whose time it is has not begun with as many as it has here: it was another, or
        another method's time.
        """
        run, trainings = self.run.folder, self._trainings
        counted = measured.epochs_of_equal_time(trainings, self.opened.seeds, run, reference=reference)
        begun = measured.epochs_begun(counted, self.opened.seeds[0], run, run / "equal-time")
        return counted | begun if begun.get(reference) == trainings[reference].epochs else counted

    @property
    def _trainings(self) -> Mapping[str, Training]:
        return {label: contestant.training for label, contestant in self.opened.contestants.items()}

    @property
    def _weights(self) -> Path:
        return self.run.folder / "discretizer" / discretizer.WEIGHTS

    @property
    def _alpha(self) -> float:
        return words.step_of(self.opened.contestants, self.run.folder, self.opened.seeds[0])

    @property
    def _forecast(self) -> Forecast:
        opened, jobs = self.opened, jobs_of(self.opened)
        shown = len(jobs) * sum(map(measured.images_to_show, self._subjects))
        return Forecast(self.run.folder, self._trainings, jobs, len(opened.data.train), shown, opened.equal_time_as)

    @property
    def _validate(self) -> Validate | None:
        """Accuracy on the pictures of validation, where there are some; never on those of a test."""
        pictures = self.opened.data.validation
        return None if pictures is None else partial(measured.validated, replace(self._subject, test=pictures))

    @cached_property
    def _subject(self) -> measured.Subject:
        data, recipe_hash = self.opened.data, self.opened.header.recipe_hash
        sigmoid = frozenset(label for label, training in self._trainings.items() if training.sigmoid)
        where = (self.run.place, data.test_name, sigmoid)
        return measured.Subject(self.opened.evaluation, recipe_hash, data.test, data.size, *where)

    @cached_property
    def _subjects(self) -> list[measured.Subject]:
        """One a test set, the first first."""
        return [self._subject, *(self._subject.on(name, test) for name, test in self.opened.data.further.items())]

    def _ready_discretizer(self) -> FrozenDiscretizer | None:
        """Train the discretizer, if the recipe says so."""
        opened, run = self.opened, self.run
        found = opened.discretizer
        if opened.plan is not None:
            with run.timed("discretizer"):
                found = opened.load_trained(discretizer.trained(opened.plan, opened.data, run, self._weights.parent))
        return None if found is None else found.to(run.place.device)

    def _describe(self, found: FrozenDiscretizer) -> None:
        """What the page says of the discretizer; its reconstructions of the test pictures are measured once."""
        opened, facts = self.opened, self.run.facts
        of = {"weights": digest(found)[:12], "data": self._subject.fingerprint}
        if facts.get("discretizer", {}).get("quality_of") == of:
            return
        with Bar("quality of the discretizer", len(opened.data.test)) as bar:
            quality = reconstruction_quality(found, opened.data.test, self.run.place, advance=partial(bar.add, ""))
        sizes = {"codebook_size": found.codebook_size, "stride": found.stride}
        kind = {} if opened.plan is None else {"perceptual": opened.plan.perceptual_kind}
        facts["discretizer"] = {**sizes, **quality, **kind, "quality_of": of}
