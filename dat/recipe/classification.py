"""Comparisons of methods on classification: settings, and the comparison that they become."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from dat.data.draw import Draw
from dat.discretizers.frozen import FrozenDiscretizer, check_image_size
from dat.engine.trackers import Names
from dat.errors import DataError
from dat.evaluation.suites import FGSM, Clean, Suite, corruption_suites
from dat.progress import warn
from dat.recipe.begun import leftovers_of_beginnings
from dat.recipe.contest import Contestant, check_contest, contestant, training_of, trainings_of
from dat.recipe.data import Data, DataSection, tested_on, trained_on
from dat.recipe.discretizer import DiscretizerPlan, DiscretizerSection, check_spec, open_plan
from dat.recipe.fits import check_batches, check_corruptible, check_network
from dat.recipe.header import Header, header_of, resolved
from dat.recipe.methods import MethodSection, wants_auxiliary_norms
from dat.recipe.model import Blueprint, ModelSection, check_model, open_model
from dat.recipe.parts import Parts
from dat.recipe.rehearsal import SIDE, shortened, smaller
from dat.recipe.strict import Strict
from dat.recipe.training import TrainingSection


@dataclass(frozen=True)
class Evaluation:
    """What is measured on every model; the corrupted pictures may be fewer than the clean ones.

    They are `c_per_class` times as many as there are classes, chosen as `c_draw` says. `further` is what is measured on the
    test sets after the first.
    """

    suites: tuple[Suite, ...]
    corruptions: tuple[Suite, ...]
    c_per_class: int | None
    c_draw: Draw
    batch_size: int
    further: Evaluation | None = None


SuiteName = Literal["clean", "fgsm", "c"]


class EvaluationSection(Strict):
    """Test sets: `clean`, `fgsm` (one step of `fgsm_epsilon_255` / 255), `c` (15 corruptions at 5 severities).

    `c_per_class`, `c_draw`: fewer pictures to corrupt, as `test_per_class` and `draw` of the data choose them.
    Of several test sets `suites` are of the first, `further_suites` of the others.
    """

    suites: list[SuiteName] = Field(default=["clean", "fgsm", "c"], min_length=1)
    further_suites: list[SuiteName] = Field(default=["clean"], min_length=1)
    fgsm_epsilon_255: float = Field(default=1.0, ge=0, le=255)
    c_per_class: int | None = Field(default=None, ge=1)
    c_draw: Draw = "in-proportion"
    batch_size: int = Field(default=256, ge=1)

    def build(self) -> Evaluation:
        """The test sets, in the order of the recipe; corruption cells last."""
        return dataclasses.replace(self._of(self.suites), further=self._of(self.further_suites))

    def _of(self, names: Sequence[SuiteName]) -> Evaluation:
        single: dict[str, Suite] = {"clean": Clean(), "fgsm": FGSM(self.fgsm_epsilon_255 / 255)}
        suites = tuple(single[name] for name in names if name in single)
        corruptions = tuple(corruption_suites()) if "c" in names else ()
        return Evaluation(suites, corruptions, self.c_per_class, self.c_draw, self.batch_size)


PaperColumn = Literal["clean", "fgsm", "damagenet", "a", "mce", "v2", "r", "sketch", "stylized"]


class ExpectSection(Strict):
    """What a paper reports for the same training, in percent by method and test set, and where: to stand beside our numbers."""

    source: str
    percent: dict[str, dict[PaperColumn, float]]

    def columns(self) -> dict[str, dict[str, float]]:
        """The numbers, by method and test set."""
        return {label: {str(column): value for column, value in numbers.items()} for label, numbers in self.percent.items()}


@dataclass(frozen=True, eq=False)
class Comparison:
    """A recipe of classification, opened: methods by label, and all that they share.

    The discretizer was loaded, or `plan` trains one first, which `load_trained` then reads; neither, if no method uses one.
    `expected`: where a paper reports numbers for the same training, and in percent by method and test set, which.
    `in_equal_time`: the text of the recipe that follows, given the epochs of each method and a discretizer trained here.
    """

    header: Header
    data: Data
    model: Blueprint
    contestants: Mapping[str, Contestant]
    seeds: tuple[int, ...]
    discretizer: FrozenDiscretizer | None
    plan: DiscretizerPlan | None
    load_trained: Callable[[Path], FrozenDiscretizer]
    evaluation: Evaluation
    expected: tuple[str, Mapping[str, Mapping[str, float]]] | None
    equal_time_as: str | None
    in_equal_time: Callable[[Mapping[str, int], Path | None], str]


class ClassificationRecipe(Strict):
    """Train one model per method and seed under one budget, evaluate all of them, write one report.

    The budget is a number of epochs. `equal_time_as`: do it all a second time, in the folder `equal-time`, with the epochs of
    each method chosen so that it takes the time that this method took.
    """

    kind: Literal["classification"]
    title: str
    data: DataSection
    model: ModelSection
    training: TrainingSection
    methods: dict[str, MethodSection]
    seeds: list[int] = Field(default=[0])
    discretizer: DiscretizerSection | None = None
    evaluation: EvaluationSection = EvaluationSection()
    expect: ExpectSection | None = None
    equal_time_as: str | None = None
    trackers: Names = None
    out: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> ClassificationRecipe:
        check_contest(self)
        expected = list(self.expect.percent) if self.expect is not None else []
        named = {"expect.percent": expected, "equal_time_as": [self.equal_time_as] if self.equal_time_as else []}
        if unknown := [(key, label) for key, labels in named.items() for label in labels if label not in self.methods]:
            raise ValueError(
                f"{unknown[0][0]} names {unknown[0][1]!r}, which is none of the methods: {', '.join(self.methods)}"
            )
        own = [label for label, section in self.methods.items() if wants_auxiliary_norms(section)]
        if own and self.model.freeze is not None:
            raise ValueError(
                f"model.freeze is {self.model.freeze!r}, but {own[0]} trains with normalisation layers of its own; write "
                "model.freeze: null, or leave that method out"
            )
        return self

    def check(self) -> None:
        """Build the networks; methods and objective were built when the recipe was read.

        Raises:
            UsageError: a name or an option is not known where the schema cannot tell.
        """
        check_model(self.model)
        if self.discretizer is not None and self.discretizer.train is not None:
            check_spec(self.discretizer.train)

    def open(self, parts: Parts) -> Comparison:
        """Open pictures, discretizer and weights, and see whether they fit.

        Raises:
            DataError, CheckpointError: they cannot be read.
            UsageError: they do not fit the settings.
        """
        self.check()
        data, section = self._with_beginnings(parts.data(self.data)), self.discretizer
        if len(data.classes) < 2:
            raise DataError(f"The training pictures have one class, {', '.join(data.classes)}, which is always right; add one.")
        header = header_of(self, data, self.model.name, methods=list(self.methods), seeds=self.seeds)
        model = open_model(self.model, parts, num_classes=len(data.classes))
        self._check_fit(data, model)
        plan = discretizer = None
        if section is not None and section.train is not None:
            plan = open_plan(section.train, parts, data, recipe_hash=header.recipe_hash)
        elif section is not None:
            discretizer = self._load_discretizer(parts, str(section.load))
            check_image_size(data.size, discretizer.network)
        return Comparison(
            header=header,
            data=data,
            model=model,
            contestants={label: contestant(method, training_of(self, label)) for label, method in self.methods.items()},
            seeds=tuple(self.seeds),
            discretizer=discretizer,
            plan=plan,
            load_trained=lambda path: self._load_discretizer(parts, str(path)),
            evaluation=self.evaluation.build(),
            expected=None if self.expect is None else (self.expect.source, self.expect.columns()),
            equal_time_as=self.equal_time_as,
            in_equal_time=self._in_equal_time,
        )

    def rehearsal(self) -> ClassificationRecipe:
        """The same with a small model and a small discretizer of the same stride, for two short steps of every method."""
        model, side = smaller(self.model, side=self.data.size or SIDE)
        methods = {label: shortened(section, training_of(self, label)) for label, section in self.methods.items()}
        changes: dict[str, Any] = {
            "data": self.data.model_copy(update={"size": side}),
            "model": model,
            "methods": methods,
            "seeds": [0],
            "discretizer": self.discretizer and self.discretizer.made_up(),
            "equal_time_as": None,
        }
        return self.model_copy(update=changes)

    def depends_on(self) -> dict[str, dict[str, Any]]:
        """Of the run, what is measured with; of its discretizer and of each model, what was trained from what, and how."""
        data, discretizer = trained_on(self.data), self.discretizer and self.discretizer.model_dump(mode="json")
        parts = {".": {"data": tested_on(self.data), "discretizer": discretizer}}
        if discretizer is not None and discretizer["train"] is not None:
            parts["discretizer"] = {"data": data, "discretizer": {"train": discretizer["train"]}}
        return parts | trainings_of(self, data=data)

    def _with_beginnings(self, data: Data) -> Data:
        """With what is to be said of the pictures that the weights of the beginning were trained on."""
        sources = {name: test.source for name, test in data.test_sets.items()}
        notes = (*leftovers_of_beginnings(self.model.weights, sources, data.train.source, unknown=True),)
        for note in notes:
            warn(note)
        return dataclasses.replace(data, notes=(*data.notes, *notes)) if notes else data

    def _check_fit(self, data: Data, model: Blueprint) -> None:
        for label in self.methods:
            check_batches(training_of(self, label), data, where=f"methods.{label}")
        if "c" in (*self.evaluation.suites, *(self.evaluation.further_suites if data.further else ())):
            check_corruptible(data.size)
        check_network(model, data)

    def _load_discretizer(self, parts: Parts, source: str) -> FrozenDiscretizer:
        assert self.discretizer is not None
        return parts.discretizer(source, precision=self.discretizer.precision, compiled=self.discretizer.compile)

    def _in_equal_time(self, epochs: Mapping[str, int], discretizer: Path | None) -> str:
        values = self.model_dump(mode="json") | {"equal_time_as": None, "out": str(Path(self.out) / "equal-time")}
        values["title"] += ", equal time"
        for label, count in epochs.items():
            values["methods"][label]["training"]["epochs"] = count
        if discretizer is not None:
            values["discretizer"] |= {"train": None, "load": str(discretizer)}
        return resolved(ClassificationRecipe.model_validate_json(json.dumps(values)))
