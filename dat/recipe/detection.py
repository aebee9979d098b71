"""Comparisons of methods on object detection: settings, and the comparison that they become."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from dat.data.annotated import AnnotatedPictures
from dat.data.boxed import wanted
from dat.discretizers.frozen import FrozenDiscretizer, check_image_size
from dat.engine.steps import stream_seed
from dat.engine.trackers import Names
from dat.errors import DataError, UsageError
from dat.evaluation.suites import FGSM, Clean, Corruption, Suite, corruption_suites
from dat.nn.detector_zoo import begin_backbone_with, begin_detector_with, create_detector
from dat.nn.norm import Normalized, with_auxiliary_norms
from dat.nn.transformers_detectors import TransformersDetector
from dat.recipe.boxes import BoxedData, BoxesData
from dat.recipe.contest import Contestant, check_contest, contestant, training_of, trainings_of
from dat.recipe.discretizer import DiscretizerSection
from dat.recipe.fits import check_batches, check_corruptible, check_runs
from dat.recipe.header import Header, header_of
from dat.recipe.methods import MethodSection, why_only_classes
from dat.recipe.parts import Parts
from dat.recipe.rehearsal import BOXED_BATCH, shortened
from dat.recipe.strict import Strict
from dat.recipe.training import TrainingSection
from dat.tasks.detection import Detection, Part


class DetectorSection(Strict):
    """A detector by its torchvision name, `fcos` or `retinanet` on a `backbone` of timm, or `transformers:FOLDER`.

    Normalised inside by `mean` and `std`. `weights`: a file of the same detector to begin with, whose classes may be others,
    the folder `RUN/<method>-seed<k>` of a run, or that of transformers. `backbone_weights`: a file of the backbone as a
    classifier.
    """

    name: str
    backbone: str | None = None
    options: dict[str, Any] = Field(default={})
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    weights: str | None = None
    backbone_weights: str | None = None

    @model_validator(mode="after")
    def _positive(self) -> DetectorSection:
        if low := [value for value in self.std if value <= 0]:
            raise ValueError(f"std is {[*self.std]}, and images are divided by it; write numbers above 0 instead of {low[0]}")
        if self.weights is not None and self.backbone_weights is not None:
            raise ValueError("weights hold those of the backbone, too; leave out backbone_weights")
        return self


@dataclass(frozen=True, eq=False)
class DetectorBlueprint:
    """A detector as it is before training, as often as it is asked for: the same for every method of a seed."""

    section: DetectorSection
    num_classes: int
    classes: tuple[str, ...] = ()
    weights: Mapping[str, Tensor] | None = None
    backbone_weights: Mapping[str, Tensor] | None = None

    def untrained(self, seed: int, *, auxiliary_norms: bool = False) -> Normalized:
        """A new model; with auxiliary normalisation layers where the method trains with them.

        Raises:
            UsageError: there is no such detector, or it does not take these options.
            CheckpointError: the weights do not fit.
        """
        section = self.section
        torch.manual_seed(stream_seed(seed, 0))
        network = create_detector(
            section.name, num_classes=self.num_classes, backbone=section.backbone, options=section.options
        )
        if self.weights is not None:
            begin_detector_with(network, _own(self.weights), name=str(section.weights), classes=self.classes)
        if self.backbone_weights is not None:
            begin_backbone_with(network, _own(self.backbone_weights), name=str(section.backbone_weights))
        model = Normalized(network, mean=section.mean, std=section.std)
        if auxiliary_norms:
            with_auxiliary_norms(model)
        return model


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network takes tensors over, and trains them."""
    return {key: tensor.clone() for key, tensor in tensors.items()}


@dataclass(frozen=True)
class DetectionEvaluation:
    """What is measured on every model; of the test pictures, so many are corrupted, spread over the set (None: all)."""

    suites: tuple[Suite, ...]
    corruptions: tuple[Corruption, ...]
    c_pictures: int | None
    batch_size: int


class DetectionEvaluationSection(Strict):
    """Test sets: `clean`, `fgsm` (one step of `fgsm_epsilon_255` / 255), `c` (15 corruptions of `c_severities`)."""

    suites: list[Literal["clean", "fgsm", "c"]] = Field(default=["clean", "fgsm", "c"], min_length=1)
    fgsm_epsilon_255: float = Field(default=1.0, ge=0, le=255)
    c_pictures: int | None = Field(default=None, ge=1)
    c_severities: list[Literal[1, 2, 3, 4, 5]] = Field(default=[1, 2, 3, 4, 5], min_length=1)
    batch_size: int = Field(default=16, ge=1)

    def build(self) -> DetectionEvaluation:
        """The test sets, in the order of the recipe; corruption cells last. The clean pictures are always measured."""
        suites: tuple[Suite, ...] = (Clean(), *[FGSM(self.fgsm_epsilon_255 / 255)] * ("fgsm" in self.suites))
        cells = corruption_suites() if "c" in self.suites else ()
        chosen = tuple(cell for cell in cells if cell.severity in self.c_severities)
        return DetectionEvaluation(suites, chosen, self.c_pictures, self.batch_size)


@dataclass(frozen=True, eq=False)
class DetectionComparison:
    """A recipe of detection, opened: methods by label, and all that they share."""

    header: Header
    data: BoxedData
    model: DetectorBlueprint
    contestants: Mapping[str, Contestant]
    seeds: tuple[int, ...]
    discretizer: FrozenDiscretizer | None
    task: Detection
    evaluation: DetectionEvaluation

    @cached_property
    def corrupted(self) -> tuple[AnnotatedPictures, list[int]]:
        """So many of the test pictures as are corrupted, at even distances, and their places in the set."""
        whole, count = self.data.test, self.evaluation.c_pictures
        if count is None or count >= len(whole):
            return whole, list(range(len(whole)))
        positions = np.linspace(0, len(whole) - 1, count).round().astype(int).tolist()
        return whole.at(positions), positions


class DetectionRecipe(Strict):
    """Train one detector per method and seed under one budget of epochs, evaluate all of them, write one report.

    `climbed`: which losses an adversary raises. A discretizer is loaded; one is trained by a recipe of its own.
    """

    kind: Literal["detection"]
    title: str
    data: BoxesData
    model: DetectorSection
    training: TrainingSection
    methods: dict[str, MethodSection]
    seeds: list[int] = Field(default=[0])
    discretizer: DiscretizerSection | None = None
    climbed: Part = "all"
    evaluation: DetectionEvaluationSection = DetectionEvaluationSection()
    trackers: Names = None
    out: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> DetectionRecipe:
        check_contest(self)
        if self.discretizer is not None and self.discretizer.train is not None:
            raise ValueError(
                "a detection recipe loads a discretizer; train one by a recipe of kind discretizer, then write load"
            )
        for label, section in self.methods.items():
            if reason := why_only_classes(section):
                raise ValueError(f"methods.{label}: {reason}")
            if self.climbed != "all" and dict(section)["method"] in ("dat-free", "fast-advprop"):
                raise ValueError(
                    f"methods.{label} steps by the gradient of what it minimises, which is all; write climbed: all"
                )
            if training_of(self, label).mixup or training_of(self, label).cutmix:
                raise ValueError(f"methods.{label}: mixup and cutmix mix the classes of whole images, and boxes stay; write 0")
        return self

    def check(self) -> None:
        """Build the detector without memory for it.

        Raises:
            UsageError: a name or an option is not known where the schema cannot tell.
        """
        bare = self.model.model_copy(update={"weights": None, "backbone_weights": None})
        with torch.device("meta"):
            DetectorBlueprint(bare, num_classes=10).untrained(seed=0)

    def open(self, parts: Parts) -> DetectionComparison:
        """Open pictures, discretizer and weights, and see whether they fit.

        Raises:
            DataError, CheckpointError: they cannot be read.
            UsageError: they do not fit the settings.
        """
        self.check()
        data = parts.boxed(self.data)
        model = open_detector(self.model, parts, num_classes=len(data.classes), classes=data.classes)
        self._check_fit(data, model)
        discretizer = None
        if (section := self.discretizer) is not None:
            discretizer = parts.discretizer(str(section.load), precision=section.precision, compiled=section.compile)
            check_image_size(data.size, discretizer.network)
        opened = DetectionComparison(
            header=header_of(self, data, self.model.name, methods=list(self.methods), seeds=self.seeds),
            data=data,
            model=model,
            contestants={label: contestant(method, training_of(self, label)) for label, method in self.methods.items()},
            seeds=tuple(self.seeds),
            discretizer=discretizer,
            task=Detection(self.climbed),
            evaluation=self.evaluation.build(),
        )
        _check_findable(opened)
        return opened

    def rehearsal(self) -> DetectionRecipe:
        """The same with a light detector, in a small frame, for two short steps of every method."""
        methods = {
            label: shortened(section, training_of(self, label), batch=BOXED_BATCH) for label, section in self.methods.items()
        }
        changes: dict[str, Any] = {
            "data": self.data.model_copy(update={"size": (128, 128)}),
            "model": self.model.model_copy(update=LIGHT),
            "methods": methods,
            "seeds": [0],
            "discretizer": self.discretizer and self.discretizer.made_up(),
            "evaluation": self.evaluation.model_copy(update={"c_severities": [1], "c_pictures": 2}),
        }
        return self.model_copy(update=changes)

    def depends_on(self) -> dict[str, dict[str, Any]]:
        """Of the run, what is measured with; of each detector, what was trained from what, and how."""
        data = self.data.model_dump(mode="json")
        tested = {key: data[key] for key in ("source", "test", "test_pictures", "size")}
        trained = {key: value for key, value in data.items() if not key.startswith("test")}
        return {".": {"data": tested}} | trainings_of(self, data=trained, climbed=self.climbed)

    def _check_fit(self, data: BoxedData, model: DetectorBlueprint) -> None:
        for label in self.methods:
            check_batches(training_of(self, label), data, where=f"methods.{label}")
        if "c" in self.evaluation.suites:
            check_corruptible(data.size)
        images, boxes = data.example()
        bare = dataclasses.replace(model, weights=None, backbone_weights=None).untrained(seed=0).eval()
        if isinstance(bare.network, TransformersDetector):
            _check_queries(data, bare.network.most_things)
        with torch.no_grad():
            check_runs(lambda: bare(images, boxes), f"The detector {model.section.name}", images)


def _check_queries(data: BoxedData, queries: int) -> None:
    """Refuse pictures with more things than a detector can find.

    Raises:
        UsageError: naming the picture.
    """
    for pictures in (data.train.source, data.test):
        counts = [int(wanted(things).sum()) for things in pictures.things]
        if counts and (most := max(counts)) > queries:
            name = pictures.name(counts.index(most))
            raise UsageError(
                f"{name} has {most} things, and the detector finds {queries}; write model.options.num_queries={most} or more."
            )


def _check_findable(opened: DetectionComparison) -> None:
    """Refuse test pictures in which there is nothing to find, whose average precision is no number.

    Raises:
        DataError: naming the file.
    """
    sets = {"test pictures": opened.data.test, "test pictures that are corrupted (evaluation.c_pictures)": opened.corrupted[0]}
    for name, pictures in sets.items():
        if len(pictures) and all(things.crowd.all() for things in pictures.things):
            raise DataError(f"{pictures.file}: in the {len(pictures)} {name} there is nothing to find but crowds; take more.")


LIGHT: Mapping[str, Any] = {
    "name": "fcos",
    "backbone": "resnet18",
    "options": {"width": 64, "convs": 1, "backbone_options": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}},
    "weights": None,
    "backbone_weights": None,
}
"""What a rehearsal trains in place of any detector."""


def open_detector(
    section: DetectorSection, parts: Parts, *, num_classes: int, classes: tuple[str, ...] = ()
) -> DetectorBlueprint:
    """Read the weights that a detector begins with, and see whether they fit; `classes` are the names that they may know.

    Raises:
        UsageError, CheckpointError: as `DetectorBlueprint.untrained`; or a file cannot be read.
    """
    weights = parts.weights(section.weights) if section.weights is not None else None
    of_backbone = parts.weights(section.backbone_weights) if section.backbone_weights is not None else None
    blueprint = DetectorBlueprint(section, num_classes, classes, weights, of_backbone)
    if weights is not None or of_backbone is not None:
        blueprint.untrained(seed=0)
    return blueprint
