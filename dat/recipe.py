"""Recipes: what to train on what, how, and where to put it, in YAML. The only place where a name becomes an object.

A recipe is read strictly: an unknown key, a wrong type or a missing value is an error, all of them are reported together, and a
near miss is suggested. What is stored with a run is the resolved recipe, all defaults written out, and its hash.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import torch
import yaml
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model, model_validator
from pydantic.dataclasses import dataclass as validated_dataclass
from timm.optim import list_optimizers  # pyright: ignore[reportPrivateImportUsage]  # documented, but timm has no __all__

from dat import recipe_file
from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.fast import FastAutoencoder, affordable, student_of
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.objective import Perceptual, VQGANObjective
from dat.discretizers.pretrained import load_discretizer
from dat.engine.discretizer_loop import DiscretizerTraining, check_training
from dat.engine.distill import Distillation
from dat.engine.loop import Training
from dat.engine.steps import stream_seed
from dat.errors import CheckpointError, UsageError
from dat.evaluation.suites import FGSM, Clean, Suite, corruption_suites
from dat.methods import METHODS
from dat.nn.drvit import DrViT, VisualWords
from dat.nn.imagenet_networks import ImageNetNetwork, load_imagenet_network
from dat.nn.norm import Normalized
from dat.nn.perceptual import load_feature_distance, load_lpips, multiscale_gradient_distance
from dat.nn.zoo import begin_with, create_network, needs_words
from dat.recipe_data import DataSection
from dat.recipe_faults import did_you_mean, sentence
from dat.strict import STRICT, Strict
from dat.types import Codes, Discretizer, Images, Method

LOWEST = {
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "log_every", "disc_width"), 1),
    **dict.fromkeys(("lr", "momentum", "weight_decay", "layer_decay", "warmup_epochs", "warmup_lr", "min_lr", "clip_grad"), 0),
    **dict.fromkeys(("ema_decay", "mixup", "cutmix", "smoothing", "workers", "save_minutes", "revive_every", "disc_layers"), 0),
    **dict.fromkeys(("eps", "decay_rate", "ema_codebook_decay", "warmup_steps", "image_weight", "perceptual_weight"), 0),
}
"""Smallest value of each number that a training has."""

SHARES = ("momentum", "layer_decay", "ema_decay", "ema_codebook_decay", "smoothing")
"""Numbers of a training that are not above 1."""

SCHEDULES = ["cosine", "step", "multistep", "poly", "tanh"]


# ---- settings that live beside the code they steer, read strictly here


@validated_dataclass(config=STRICT, frozen=True)
class TrainingSection(Training):
    """`dat.engine.loop.Training`, read strictly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ranges(self)
        for key, known in (("optimizer", [*map(str, list_optimizers())]), ("schedule", SCHEDULES)):
            if (name := getattr(self, key)) not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise UsageError(f"{key} is {name!r}; {did_you_mean(near)}write a name that timm knows, e.g. {known[0]}.")


@validated_dataclass(config=STRICT, frozen=True)
class DiscretizerTrainingSection(DiscretizerTraining):
    """`dat.engine.discretizer_loop.DiscretizerTraining`, read strictly."""

    def __post_init__(self) -> None:
        _check_ranges(self)


@validated_dataclass(config=STRICT, frozen=True)
class DistillationSection(Distillation):
    """`dat.engine.distill.Distillation`, read strictly."""

    def __post_init__(self) -> None:
        _check_ranges(self)


@validated_dataclass(config=STRICT, frozen=True)
class NetworkSection(VQGANConfig):
    """`dat.discretizers.networks.vqgan.VQGANConfig`, read strictly."""


@validated_dataclass(config=STRICT, frozen=True)
class ObjectiveSection(VQGANObjective):
    """`dat.discretizers.objective.VQGANObjective`, read strictly."""


def _check_ranges(settings: Training | DiscretizerTraining | Distillation) -> None:
    """Refuse numbers that no training can have, all of one section together."""
    values = dataclasses.asdict(settings)
    faults = [
        f"{name} is {values[name]}, write {lowest} or more"
        for name, lowest in LOWEST.items()
        if values.get(name) is not None and values[name] < lowest
    ]
    faults += [f"{name} is {values[name]}, write a number from 0 to 1" for name in SHARES if (values.get(name) or 0) > 1]
    if faults:
        raise UsageError(f"{'; '.join(faults)}.")


class _AnyDiscretizer:
    """Stands for the discretizer while settings are checked: the real one is loaded or trained later."""

    codebook_size = 1
    stride = 1

    def encode(self, images: Images) -> Codes:
        raise NotImplementedError

    def decode(self, codes: Codes) -> Images:
        raise NotImplementedError

    def __call__(self, images: Images) -> Images:
        raise NotImplementedError


class _MethodSection(Strict):
    """Settings of a method; what the method refuses is a fault of the recipe.

    `training` changes keys of the recipe's training for this method alone, e.g. `{epochs: 88}`.
    """

    training: dict[str, Any] = Field(default={})

    @model_validator(mode="after")
    def _accepted(self) -> _MethodSection:
        build_method(self, _AnyDiscretizer())
        return self


def _method_section(name: str, method: type) -> type[BaseModel]:
    """The settings of a method, taken from its dataclass, so that a new method needs no line here."""
    hints = get_type_hints(method)
    fields: dict[str, Any] = {"method": (Literal[name], name)}
    fields |= {
        entry.name: (hints[entry.name], ... if entry.default is dataclasses.MISSING else entry.default)
        for entry in dataclasses.fields(method)
        if entry.name != "discretizer"
    }
    return create_model(method.__name__, __base__=_MethodSection, **fields)


if TYPE_CHECKING:
    MethodSection = BaseModel
else:
    MethodSection = Annotated[
        reduce(or_, (_method_section(name, method) for name, method in METHODS.items())), Field(discriminator="method")
    ]


# ---- model, discretizer, evaluation


class ModelSection(Strict):
    """A classifier by its timm name, `small_resnet` or `drvit_*`; normalised inside by `mean` and `std`.

    `weights`: a file to begin with: of the same network (the head may be for other classes), or of a masked autoencoder.
    `discretizer`: whose codes a DrViT reads, as `load` of a discretizer; those of the methods may be another's.
    """

    name: str
    options: dict[str, Any] = Field(default={})
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    weights: str | None = None
    discretizer: str | None = None

    @model_validator(mode="after")
    def _fits_drvit(self) -> ModelSection:
        if needs_words(self.name) != (self.discretizer is not None):
            raise ValueError(
                f"{self.name} {'reads' if needs_words(self.name) else 'reads no'} visual words; "
                f"{'name a discretizer' if needs_words(self.name) else 'leave out discretizer'}"
            )
        if needs_words(self.name) and (self.mean, self.std) != (DrViT.mean, DrViT.std):
            raise ValueError(f"{self.name} takes images in [-1, 1]; write mean: [0.5, 0.5, 0.5] and std: [0.5, 0.5, 0.5]")
        return self


class LPIPSSection(Strict):
    """LPIPS on a torchvision backbone that is on disk already; `linear_layers` is its published file of linear layers."""

    kind: Literal["lpips"]
    backbone: str
    linear_layers: str
    cache: str | None = None


class FeatureDistanceSection(Strict):
    """Distance in the features of a small ImageNet classifier whose file is on disk, without LPIPS's linear layers."""

    kind: Literal["features"]
    network: Literal["squeezenet1_0", "mobilenet_v2", "tiny_darknet"]
    weights: str
    least_side: int = Field(default=32, ge=0)


class MultiscaleGradientSection(Strict):
    """Differences of image gradients over a pyramid: needs no trained network."""

    kind: Literal["multiscale-gradient"] = "multiscale-gradient"


class NoPerceptual(Strict):
    """No perceptual term; `objective.perceptual_weight` is 0 then."""

    kind: Literal["none"]


PerceptualSection = LPIPSSection | FeatureDistanceSection | MultiscaleGradientSection | NoPerceptual


class FrechetSection(Strict):
    """The ImageNet classifier in whose features originals and reconstructions are compared as sets, for the log."""

    network: Literal["squeezenet1_0", "mobilenet_v2", "tiny_darknet"]
    weights: str


class DiscretizerSpec(Strict):
    """A discretizer to train: its network, its objective, its training.

    `init`: the weights to begin with, random ones by default; a file, a folder, or a name of `dat discretizer list`.
    """

    network: NetworkSection
    init: str | None = None
    objective: ObjectiveSection
    training: DiscretizerTrainingSection
    perceptual: Annotated[PerceptualSection, Field(discriminator="kind")]
    frechet: FrechetSection | None = None
    seed: int = 0


class DiscretizerSection(Strict):
    """The discretizer of the methods: `load` weights from a file, or `train` one first, on the same training pictures.

    `load` is a file, a folder, or a name of `dat discretizer list`. `precision` is that of its networks while methods use it;
    the search for the nearest code stays in float32. `compile` hands the networks to `torch.compile`.
    """

    load: str | None = None
    train: DiscretizerSpec | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> DiscretizerSection:
        if (self.load is None) == (self.train is None):
            raise ValueError("give either load (a file of weights) or train (a discretizer to train first)")
        return self


class EvaluationSection(Strict):
    """Test sets: `clean`, `fgsm` (one step of `fgsm_epsilon_255` / 255), `c` (15 corruptions at 5 severities)."""

    suites: list[Literal["clean", "fgsm", "c"]] = Field(default=["clean", "fgsm", "c"], min_length=1)
    fgsm_epsilon_255: float = Field(default=1.0, ge=0)
    c_per_class: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=256, ge=1)

    def build(self) -> list[Suite]:
        """The test sets, in the order of the recipe; corruption cells last."""
        single: dict[str, Suite] = {"clean": Clean(), "fgsm": FGSM(self.fgsm_epsilon_255 / 255)}
        return [single[name] for name in self.suites if name in single]

    def build_corruptions(self) -> Sequence[Suite]:
        """The 75 corruption cells, if asked for."""
        return corruption_suites() if "c" in self.suites else []


PaperColumn = Literal["clean", "fgsm", "damagenet", "a", "mce", "v2", "r", "sketch", "stylized"]


class ExpectSection(Strict):
    """What a paper reports for the same training, in percent by method and test set, and where: to stand beside our numbers."""

    source: str
    percent: dict[str, dict[PaperColumn, float]]


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
    out: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> ClassificationRecipe:
        needing = [label for label, section in self.methods.items() if needs_discretizer(section)]
        if needing and self.discretizer is None:
            raise ValueError(f"method {needing[0]} needs a discretizer; add a section `discretizer:` with load or train")
        if not self.methods or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("give at least one method, and seeds that differ")
        if min(self.seeds) < 0:
            raise ValueError(f"seed {min(self.seeds)} is negative; write 0 or more")
        if odd := [label for label in self.methods if not re.fullmatch(r"[\w.+-]+", label) or label.startswith(".")]:
            raise ValueError(f"method label {odd[0]!r} becomes the name of a folder; use letters, digits and any of . + - _")
        expected = list(self.expect.percent) if self.expect is not None else []
        named = {"expect.percent": expected, "equal_time_as": [self.equal_time_as] if self.equal_time_as else []}
        if unknown := [(key, label) for key, labels in named.items() for label in labels if label not in self.methods]:
            raise ValueError(
                f"{unknown[0][0]} names {unknown[0][1]!r}, which is none of the methods: {', '.join(self.methods)}"
            )
        for label in self.methods:
            training_of(self, label)
        return self


class DiscretizerRecipe(DiscretizerSpec):
    """Train a discretizer."""

    kind: Literal["discretizer"]
    title: str
    data: DataSection
    out: str = ""


class TeacherSection(Strict):
    """The discretizer to learn from: a file of weights, or a name of `dat discretizer list`."""

    load: str
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class StudentSection(Strict):
    """The widest student within `budget`, its share of the teacher's FLOPs; its blocks before and after the codes."""

    budget: float = Field(default=0.02, gt=0)
    encoder_blocks: int = Field(default=3, ge=0)
    decoder_blocks: int = Field(default=3, ge=0)


class DistillationRecipe(Strict):
    """Train a fast discretizer after a slow one."""

    kind: Literal["distillation"]
    title: str
    data: DataSection
    teacher: TeacherSection
    student: StudentSection = StudentSection()
    training: DistillationSection
    perceptual: Annotated[PerceptualSection, Field(discriminator="kind")] = NoPerceptual(kind="none")
    seed: int = 0
    out: str = ""

    @model_validator(mode="after")
    def _weighted(self) -> DistillationRecipe:
        if bool(self.training.perceptual_weight) == isinstance(self.perceptual, NoPerceptual):
            raise ValueError(
                f"training.perceptual_weight is {self.training.perceptual_weight}, perceptual.kind {self.perceptual.kind!r}; "
                "give a distance and a weight above 0, or neither"
            )
        return self


Recipe = ClassificationRecipe | DiscretizerRecipe | DistillationRecipe
_TRAINING = TypeAdapter(TrainingSection)
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="kind")])


def wants_auxiliary_norms(section: BaseModel) -> bool:
    """Whether a method of a recipe trains the model with auxiliary normalisation layers."""
    return bool(getattr(section, "auxiliary_norms", False))


def build_model(
    section: ModelSection, *, num_classes: int, seed: int, discretizer: FrozenDiscretizer | None = None
) -> Normalized:
    """The model as it is before training: the same for every method of a seed.

    `discretizer` stands for the one that the section names.

    Raises:
        UsageError: there is no such network, or it does not take these options.
        CheckpointError: its weights, or its discretizer, cannot be read or do not fit.
    """
    torch.manual_seed(stream_seed(seed, 0))
    if section.discretizer is not None and discretizer is None:
        discretizer = load_discretizer(section.discretizer)
    words = None if section.discretizer is None or discretizer is None else VisualWords(discretizer, discretizer.codebook())
    network = create_network(section.name, num_classes=num_classes, options=section.options, words=words)
    if section.weights is not None:
        begin_with(network, Path(section.weights))
    return Normalized(network, mean=section.mean, std=section.std)


def build_vqgan(spec: DiscretizerSpec) -> VQGAN:
    """The VQGAN of a recipe with the weights it begins with."""
    torch.manual_seed(stream_seed(spec.seed, 0))
    vqgan = VQGAN(spec.network)
    if spec.init is not None:
        _take_weights(vqgan, spec.init)
    return vqgan


def _take_weights(vqgan: VQGAN, source: str) -> None:
    """Copy the weights of a trained discretizer.

    Raises:
        UsageError: it is another network; the settings that differ are named.
    """
    trained, wanted = load_discretizer(source).network, vqgan.config.to_dict()
    found = {"layout": trained.layout, **trained.config.to_dict()}
    odd = [f"{key} {found.get(key)} instead of {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if trained.layout != vqgan.layout or odd:
        differing = ", ".join(odd) or f"the layout {trained.layout}"
        raise UsageError(f"init is {source!r}, but it has {differing}; give the network the settings of its weights.")
    vqgan.load_state_dict(trained.state_dict())


def build_perceptual(section: PerceptualSection) -> Perceptual | None:
    """The perceptual distance of a recipe.

    Raises:
        CheckpointError: its weights are not on disk.
    """
    try:
        if isinstance(section, LPIPSSection):
            cache = Path(section.cache) if section.cache is not None else None
            return load_lpips(section.backbone, Path(section.linear_layers), cache=cache)
        if isinstance(section, FeatureDistanceSection):
            return load_feature_distance(section.network, Path(section.weights), least_side=section.least_side)
    except CheckpointError as error:
        raise CheckpointError(f"{error} Without them, write perceptual: {{kind: multiscale-gradient}}.") from error
    return multiscale_gradient_distance if isinstance(section, MultiscaleGradientSection) else None


def build_frechet(section: FrechetSection | None) -> ImageNetNetwork | None:
    """The network whose features tell how far the reconstructions are from the originals, as sets.

    Raises:
        CheckpointError: its weights are not on disk.
    """
    return None if section is None else load_imagenet_network(section.network, Path(section.weights))


def build_student(recipe: DistillationRecipe, teacher: Autoencoder, *, size: int) -> FastAutoencoder:
    """The untrained student of a recipe, for pictures of `size` pixels a side.

    Raises:
        UsageError: no student is within the budget, or none can have the teacher's codes.
    """
    torch.manual_seed(stream_seed(recipe.seed, 0))
    return student_of(teacher, affordable(teacher, size=size, **recipe.student.model_dump()))


def training_of(recipe: ClassificationRecipe, label: str) -> TrainingSection:
    """The training of one method: that of the recipe, with what the method's own section changes.

    Raises:
        ValueError: naming every fault of that section.
    """
    changes: dict[str, Any] = dict(recipe.methods[label])["training"]
    values = {**dataclasses.asdict(recipe.training), **changes}
    try:
        return _TRAINING.validate_json(json.dumps(values))
    except ValidationError as error:
        faults = [sentence(fault, values, _TRAINING.json_schema()) for fault in error.errors()]
        raise ValueError("; ".join(f"methods.{label}.training.{fault.rstrip('.')}" for fault in faults)) from error


def needs_discretizer(section: BaseModel) -> bool:
    """Whether a method of a recipe uses `Q`."""
    method = METHODS[dict(section)["method"]]
    return "discretizer" in {entry.name for entry in dataclasses.fields(method)}


def build_method(section: BaseModel, discretizer: Discretizer | None) -> Method:
    """The method with the settings of the recipe."""
    settings = section.model_dump(exclude={"training"})
    method = METHODS[settings.pop("method")]
    return method(discretizer, **settings) if needs_discretizer(section) else method(**settings)


def check(recipe: Recipe) -> None:
    """Build the networks of a recipe; its methods and objective were built when it was read.

    Raises:
        UsageError: a name or an option is not known where the schema cannot tell.
    """
    if isinstance(recipe, ClassificationRecipe):
        if not needs_words(recipe.model.name):  # what it reads is on disk, and is opened when it runs
            with torch.device("meta"):  # shapes only: a ViT-H would fill gigabytes
                build_model(recipe.model.model_copy(update={"weights": None}), num_classes=10, seed=0)
        spec = recipe.discretizer.train if recipe.discretizer is not None else None
    else:
        spec = recipe if isinstance(recipe, DiscretizerRecipe) else None
    if spec is not None:
        check_training(build_vqgan(spec), spec.objective, spec.training)


# ---- reading


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a file, or the name of a shipped one), with `key.sub=value` replaced, and check all of it.

    Raises:
        UsageError: listing every fault of the recipe.
    """
    path = recipe_file.find(name)
    return parse(recipe_file.read(path, overrides), where=str(path))


def parse(values: Mapping[str, Any], *, where: str = "the recipe") -> Recipe:
    """Check the values of a recipe.

    Raises:
        UsageError: listing every fault.
    """
    values = _with_method_names(values)
    try:
        return _ADAPTER.validate_json(json.dumps(values))
    except ValidationError as error:
        faults = [sentence(fault, values, _json_schema()) for fault in error.errors()]
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise UsageError(f"{where} has {len(faults)} fault{'s' * (len(faults) > 1)}:{lines}") from error
    except (TypeError, ValueError) as error:  # a date, or a list that holds itself
        raise UsageError(f"{where} holds a value that is not text, number, list or mapping ({error}).") from error


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_hash(recipe: Recipe) -> str:
    """Twelve hexadecimal digits over all settings but the output folder, the title, and the numbers of a paper."""
    settings = recipe.model_dump(mode="json", exclude={"out", "title", "expect"})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _with_method_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A method whose label is its name need not repeat it: `dat: {alpha: 0.1}`."""
    methods = values.get("methods")
    if not isinstance(methods, dict):
        return dict(values)
    named = {
        label: {"method": label, **(section or {})} if isinstance(section, dict | None) else section
        for label, section in methods.items()
    }
    return {**values, "methods": named}


@cache
def _json_schema() -> dict[str, Any]:
    return _ADAPTER.json_schema()
