"""Comparisons of methods on self-supervised learning: settings, and the comparison that they become."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from dat.data.draw import Draw
from dat.data.pipeline import ImageDataset
from dat.data.subset import fewer
from dat.discretizers.frozen import FrozenDiscretizer, check_image_size
from dat.engine.trackers import Names
from dat.evaluation.features import check_neighbours
from dat.evaluation.suites import FGSM, Clean, Corruption, Suite, corruption_suites
from dat.progress import warn
from dat.recipe.begun import leftovers_of_beginnings
from dat.recipe.contest import Contestant, check_contest, contestant, training_of, trainings_of
from dat.recipe.discretizer import DiscretizerSection
from dat.recipe.fits import check_batches, check_corruptible, check_runs
from dat.recipe.header import Header, header_of
from dat.recipe.methods import MethodSection, why_only_classes
from dat.recipe.model import ModelSection
from dat.recipe.parts import Parts
from dat.recipe.pretraining import EncoderSection, PretrainingBlueprint, TaskSection, open_pretraining
from dat.recipe.rehearsal import SIDE, shortened, smaller
from dat.recipe.strict import Strict
from dat.recipe.training import TrainingSection
from dat.recipe.unlabelled import OF_JUDGING, OF_TRAINING, PicturesSection, UnlabelledData
from dat.types import Batch, DrawingTask, PerImage, Task


@dataclass(frozen=True)
class Judging:
    """How frozen features are judged: on what, by how many neighbours at which temperature, by which probe."""

    suites: tuple[Suite, ...]
    corruptions: tuple[Corruption, ...]
    c_per_class: int | None
    c_draw: Draw
    k: int
    temperature: float
    probe_decay: float
    probe_iterations: int
    batch_size: int

    def corrupted(self, test: ImageDataset) -> ImageDataset:
        """So many of the test pictures as are corrupted."""
        chosen = test.source if self.c_per_class is None else fewer(test.source, self.c_per_class, self.c_draw)
        return test if chosen is test.source else ImageDataset(chosen, test.transform, seed=0)


class JudgingSection(Strict):
    """Test sets: `clean`, `fgsm` (one step of `fgsm_epsilon_255` / 255 through the probe), `c` (15 corruptions).

    `k`, `temperature`: of the neighbours that vote. `probe_decay`, `probe_iterations`: of the linear probe. `c_per_class`,
    `c_draw`, `c_severities`: fewer pictures to corrupt, and fewer of the five severities.
    """

    suites: list[Literal["clean", "fgsm", "c"]] = Field(default=["clean", "fgsm", "c"], min_length=1)
    fgsm_epsilon_255: float = Field(default=1.0, ge=0, le=255)
    c_per_class: int | None = Field(default=None, ge=1)
    c_draw: Draw = "in-proportion"
    c_severities: list[Literal[1, 2, 3, 4, 5]] = Field(default=[1, 2, 3, 4, 5], min_length=1)
    k: int = Field(default=20, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    probe_decay: float = Field(default=1e-4, ge=0)
    probe_iterations: int = Field(default=200, ge=1)
    batch_size: int = Field(default=256, ge=1)

    def build(self) -> Judging:
        """The clean pictures are always measured."""
        suites: tuple[Suite, ...] = (Clean(), *[FGSM(self.fgsm_epsilon_255 / 255)] * ("fgsm" in self.suites))
        cells = corruption_suites() if "c" in self.suites else ()
        chosen = tuple(cell for cell in cells if cell.severity in self.c_severities)
        return Judging(suites, chosen, **self.model_dump(exclude={"suites", "fgsm_epsilon_255", "c_severities"}))


@dataclass(frozen=True, eq=False)
class SelfSupervisedComparison:
    """A recipe of self-supervised learning, opened: methods by label, and all that they share."""

    header: Header
    data: UnlabelledData
    model: PretrainingBlueprint
    contestants: Mapping[str, Contestant]
    seeds: tuple[int, ...]
    discretizer: FrozenDiscretizer | None
    task: Task
    judging: Judging

    @cached_property
    def corrupted(self) -> ImageDataset:
        """So many of the test pictures as are corrupted."""
        return self.judging.corrupted(self.data.test)


class SelfSupervisedRecipe(Strict):
    """Pre-train one network per method and seed under one budget of epochs, judge the features of all, write one report.

    `task`: what is learned. No class is looked at but to judge. A discretizer is loaded; one is trained by its own recipe.
    """

    kind: Literal["selfsupervised"]
    title: str
    data: PicturesSection
    task: TaskSection
    model: EncoderSection
    training: TrainingSection
    methods: dict[str, MethodSection]
    seeds: list[int] = Field(default=[0])
    discretizer: DiscretizerSection | None = None
    evaluation: JudgingSection = JudgingSection()
    trackers: Names = None
    out: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> SelfSupervisedRecipe:
        check_contest(self)
        if self.discretizer is not None and self.discretizer.train is not None:
            raise ValueError(
                "a self-supervised recipe loads a discretizer; train one by a recipe of kind discretizer, then write load"
            )
        for label, section in self.methods.items():
            if reason := why_only_classes(section):
                raise ValueError(f"methods.{label}: {reason}")
            self._check_training(label, training_of(self, label))
        return self

    def _check_training(self, label: str, training: TrainingSection) -> None:
        if named := [name for name in ("mixup", "cutmix", "smoothing", "sigmoid") if getattr(training, name)]:
            raise ValueError(f"methods.{label}: {named[0]} is about classes, and here an image has none; leave it out")
        if self.task.views == 2 and training.batch_size // training.accumulate < 2:
            raise ValueError(
                f"methods.{label}: a contrastive loss finds an image among others, and batch_size {training.batch_size} with "
                f"accumulate {training.accumulate} shows one at a time; write a batch_size of 2 or more per micro-batch"
            )

    def check(self) -> None:
        """Build the network without memory for it.

        Raises:
            UsageError: a name or an option is not known where the schema cannot tell.
        """
        with torch.device("meta"):
            PretrainingBlueprint(self.model, self.task, self.data.size).untrained(seed=0)

    def open(self, parts: Parts) -> SelfSupervisedComparison:
        """Open pictures, discretizer and weights, and see whether they fit.

        Raises:
            DataError, CheckpointError: they cannot be read.
            UsageError: they do not fit the settings.
        """
        data = self._with_beginnings(parts.unlabelled(self.data, views=self.task.views))
        model = open_pretraining(self.model, self.task, parts, size=data.size)
        task = self.task.task(model.untrained(seed=0).network)
        self._check_fit(data, model, task)
        discretizer = None
        if (section := self.discretizer) is not None:
            discretizer = parts.discretizer(str(section.load), precision=section.precision, compiled=section.compile)
            check_image_size(data.size, discretizer.network)
        return SelfSupervisedComparison(
            header=header_of(self, data, self.model.name, methods=list(self.methods), seeds=self.seeds, task=self.task.kind),
            data=data,
            model=model,
            contestants={label: contestant(method, training_of(self, label)) for label, method in self.methods.items()},
            seeds=tuple(self.seeds),
            discretizer=discretizer,
            task=task,
            judging=self.evaluation.build(),
        )

    def rehearsal(self) -> SelfSupervisedRecipe:
        """The same with a light network on small pictures, for two short steps of every method."""
        methods = {label: shortened(section, training_of(self, label)) for label, section in self.methods.items()}
        model, side = self._smaller()
        changes: dict[str, Any] = {
            "data": self.data.model_copy(update={"size": side}),
            "model": model,
            "methods": methods,
            "seeds": [0],
            "discretizer": self.discretizer and self.discretizer.made_up(),
            "evaluation": self.evaluation.model_copy(update={"suites": ["clean"], "k": 1}),
        }
        return self.model_copy(update=changes)

    def depends_on(self) -> dict[str, dict[str, Any]]:
        """Of the run, what is measured with; of each network, what was trained from what, and how."""
        data = self.data.model_dump(mode="json")
        tested, trained = ({key: data[key] for key in data if key in keys} for keys in (OF_JUDGING, OF_TRAINING))
        return {".": {"data": tested}} | trainings_of(self, data=trained, task=self.task.model_dump(mode="json"))

    def _smaller(self) -> tuple[EncoderSection, int]:
        """A light network of the same kind, and the side of its pictures."""
        if self.task.kind == "mae":
            options = {**self.model.options, **LIGHT}
            side = 4 * int(options.get("patch_size", 16))
            return self.model.model_copy(update={"options": options, "weights": None}), side
        names = {"name": self.model.name, "options": self.model.options}
        small, side = smaller(ModelSection(**names), side=self.data.size or SIDE)
        return self.model.model_copy(update={"options": small.options, "weights": None}), side

    def _with_beginnings(self, data: UnlabelledData) -> UnlabelledData:
        """With what is to be said of the pictures that the weights of the beginning were trained on."""
        tests, train = {"": data.test.source}, data.train.source
        notes = (*leftovers_of_beginnings(self.model.weights, tests, train, unknown=True),)
        for note in notes:
            warn(note)
        return dataclasses.replace(data, notes=(*data.notes, *notes)) if notes else data

    def _check_fit(self, data: UnlabelledData, model: PretrainingBlueprint, task: Task) -> None:
        for label in self.methods:
            check_batches(training_of(self, label), data, where=f"methods.{label}")
        if "c" in self.evaluation.suites:
            check_corruptible(data.size)
        check_neighbours(self.evaluation.k, self.evaluation.temperature, bank=len(data.bank))
        images, targets, _ = data.train.__getitems__([(0, 0), (0, len(data.train) - 1)])
        bare = dataclasses.replace(model, weights=None).untrained(seed=0).eval()

        def losses() -> PerImage:
            batch: Batch = Batch(images, targets, torch.Generator().manual_seed(0))
            drawn = task.drawn(batch) if isinstance(task, DrawingTask) else batch
            return task.losses(bare, drawn.images, drawn.targets)

        with torch.no_grad():
            check_runs(losses, f"The model {self.model.name}", images)


LIGHT: Mapping[str, int] = {
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 3,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}
"""What a rehearsal makes of any masked autoencoder."""
