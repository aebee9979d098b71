"""What a run left behind, found again by the folder of one of its models: a classifier, a detector of boxes, an encoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dat.data.address import set_name
from dat.data.boxed import Letterbox
from dat.data.picture_files import find_pictures
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.engine import checkpoint, run_folder
from dat.engine.dependence import has_begun
from dat.engine.validation import weights_of
from dat.errors import CheckpointError, UsageError
from dat.evaluation.found_things import SCORE, Detected, Finder, found_in
from dat.evaluation.labels import Labeller, Prediction, labelled
from dat.nn.features import encoder_of
from dat.nn.norm import Normalized, without_auxiliary_norms
from dat.nn.weights import load_strictly
from dat.progress import warn
from dat.recipe import read
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.contest import training_of
from dat.recipe.data import FolderData, Tests, build_tests, view_of
from dat.recipe.detection import DetectionRecipe, DetectorBlueprint
from dat.recipe.methods import wants_auxiliary_norms
from dat.recipe.model import open_model
from dat.recipe.parts import OnDisk
from dat.recipe.pretraining import PretrainingBlueprint
from dat.recipe.selfsupervised import SelfSupervisedRecipe
from dat.recipe.unlabelled import view_of as unlabelled_view
from dat.types import Task

BATCH, BOXED_BATCH = 64, 8
"""Pictures that a classifier, and a detector, is shown at once."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a run left: a classifier in eval mode that takes images in [0, 1], and how pictures are brought to it.

    `classes` are the names of its outputs, in their order. `recipe` is the run's, with all defaults written out
    (`recipe.model_dump()`); `label` and `seed` say which of its models this is.
    """

    model: nn.Module
    classes: tuple[str, ...]
    view: CenterCrop
    recipe: ClassificationRecipe
    label: str
    seed: int

    def test_pictures(self) -> tuple[ImageDataset, tuple[int, int]]:
        """The pictures the recipe tests on, with their height and width; of several sets those of the first.

        Raises:
            DataError: they are missing, or have other classes than those the model was trained on.
        """
        tests = self.test_sets()
        return tests.first, tests.size

    def test_sets(self) -> Tests:
        """All pictures the recipe tests on, by what they are called in results. Raises: DataError: as `test_pictures`."""
        tests = build_tests(self.recipe.data, classes=self.classes)
        return Tests({name or self.test_name: dataset for name, dataset in tests.sets.items()}, tests.size)

    def predict(self, pictures: Sequence[str | Path], *, top: int | None = None, batch_size: int = BATCH) -> list[Prediction]:
        """What the model says of picture files, and of all below folders, each brought to it as the test pictures are.

        A prediction has `path`, `label`, `probability` and `probabilities` by class, the likeliest first: of the `top` ones, or
        of all. Of a picture that cannot be read it has a `fault`, which says why.

        Raises:
            DataError: there is nothing of a name.
            UsageError: no list of names; a `top` or a batch_size below 1.
        """
        return [one for batch in self.predictions(find_pictures(pictures), top=top, batch_size=batch_size) for one in batch]

    def predictions(self, paths: Sequence[Path], *, top: int | None, batch_size: int) -> Iterator[list[Prediction]]:
        """As `predict`, of files, a batch at a time."""
        sigmoid = training_of(self.recipe, self.label).sigmoid
        labeller = Labeller(self.model, self.view, self.classes, sigmoid, top)
        return labelled(labeller, paths, batch_size=batch_size, device=_device_of(self.model))

    @property
    def test_name(self) -> str:
        """What the first of these is called in results."""
        data = self.recipe.data
        if not isinstance(data, FolderData):
            return data.source
        return set_name(data.test) if isinstance(data.test, str) else next(iter(data.test))


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """What a run of detection left: a detector in eval mode that takes images in [0, 1], as large as `frame`.

    `classes` are the names of its labels, in their order; `frame(picture)` is how pictures are brought to it, and `frame.back`
    how boxes come back. `recipe`, `label` and `seed` as of `TrainedModel`.
    """

    model: nn.Module
    classes: tuple[str, ...]
    frame: Letterbox
    recipe: DetectionRecipe
    label: str
    seed: int

    def predict(self, pictures: Sequence[str | Path], *, score: float = SCORE, batch_size: int = BOXED_BATCH) -> list[Detected]:
        """What the detector finds in picture files, and in all below folders, with at least this score.

        Each has `path` and `things`, the surest first, of `label`, `score` and `box` (left, top, right, bottom, in pixels of
        the picture); of a picture that cannot be read a `fault`, which says why.

        Raises:
            DataError: there is nothing of a name.
            UsageError: no list of names; a score that is none; a batch_size below 1.
        """
        return [one for batch in self.predictions(find_pictures(pictures), score=score, batch_size=batch_size) for one in batch]

    def predictions(self, paths: Sequence[Path], *, score: float, batch_size: int) -> Iterator[list[Detected]]:
        """As `predict`, of files, a batch at a time."""
        finder = Finder(self.model, self.frame, self.classes, score)
        return found_in(finder, paths, batch_size=batch_size, device=_device_of(self.model))


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.empty(0)).device


@dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """What a run of self-supervised learning left: a frozen encoder that takes images in [0, 1], and gives features.

    `label` and `seed` as of `TrainedModel`.
    """

    encoder: Normalized
    label: str
    seed: int


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """What a run of self-supervised learning left, whole: in eval mode, it takes images in [0, 1] as its task asks.

    `task` is what it learned, `encoder` the part that is kept, which shares its weights; `view` is how pictures that are judged
    are brought to it. `recipe`, `label` and `seed` as of `TrainedModel`.
    """

    model: Normalized
    task: Task[Any]
    encoder: Normalized
    view: CenterCrop
    recipe: SelfSupervisedRecipe
    label: str
    seed: int


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> TrainedModel | TrainedDetector:
    """The result of a training: the best weights where these are kept, averaged ones where there are some, no auxiliary norms.
    No picture is needed.

    Args:
        path: the folder `<method>-seed<k>` of a run, or a checkpoint in it (`.../checkpoints/step-...`).
        overrides: `key.sub=value` that change the recipe of the run, e.g. `data.test=FOLDER`.

    Raises:
        CheckpointError: it is no such folder, or its newest checkpoint is damaged (an older one may be named instead).
        UsageError: an override is wrong.
    """
    found = _find(path)
    recipe = read.load(str(found.recipe), overrides)
    if not isinstance(recipe, ClassificationRecipe | DetectionRecipe):
        tuned = f", or tune its encoder by a recipe of classification with model.weights={found.folder}"
        instead = "name another run" + tuned * (recipe.kind == "selfsupervised")
        sentence = f"is a run of kind {recipe.kind}, which trains no classifier and no detector; {instead}."
        raise CheckpointError(f"{found.folder.parent} {sentence}")
    state = _state_of(found, recipe.methods)
    classes = _class_names(found.folder.parent)
    tensors = weights_of(state.tensors)
    wanted = wants_auxiliary_norms(recipe.methods[found.label])
    norms = wanted and any(".auxiliary." in key for key in tensors)  # a model that was sent has none
    with torch.random.fork_rng(devices=[]):
        model = as_trained(recipe, found.seed, len(classes), auxiliary_norms=norms)
    load_strictly(model, tensors, name=f"{found.folder.name} with the settings given")
    model = without_auxiliary_norms(model).eval()
    if isinstance(recipe, DetectionRecipe):
        return TrainedDetector(model, classes, Letterbox(*recipe.data.size), recipe, found.label, found.seed)
    return TrainedModel(model, classes, view_of(recipe.data), recipe, found.label, found.seed)


def load_encoder(path: str | Path, recipe: SelfSupervisedRecipe, *, side: int) -> TrainedEncoder:
    """One of the networks of a run of self-supervised learning, for pictures of so many pixels a side; as `load_run`.

    `recipe`: that of the run, perhaps with other keys.

    Raises:
        CheckpointError: as `load_run`.
    """
    found = _find(path)
    return TrainedEncoder(encoder_of(_pretrained(found, recipe, side)), found.label, found.seed)


def load_pretrained(path: str | Path) -> TrainedNetwork:
    """One of the networks of a run of self-supervised learning, with what it is trained with. Raises: as `load_run`."""
    found = _find(path)
    recipe = read.load(str(found.recipe))
    assert isinstance(recipe, SelfSupervisedRecipe)
    side = run_folder.read_run(found.folder.parent).get("data", {}).get("image_size", [recipe.data.size])[0]
    model = _pretrained(found, recipe, side).eval()
    view, task = unlabelled_view(recipe.data), recipe.task.task(model.network)
    return TrainedNetwork(model, task, encoder_of(model), view, recipe, found.label, found.seed)


def _pretrained(found: _Place, recipe: SelfSupervisedRecipe, side: int) -> Normalized:
    state = _state_of(found, recipe.methods)
    bare = PretrainingBlueprint(recipe.model.model_copy(update={"weights": None}), recipe.task, side)
    with torch.random.fork_rng(devices=[]):
        model = bare.untrained(found.seed, auxiliary_norms=wants_auxiliary_norms(recipe.methods[found.label]))
    load_strictly(model, weights_of(state.tensors), name=f"{found.folder.name} with the settings given")
    model = without_auxiliary_norms(model)
    assert isinstance(model, Normalized)
    return model


def load_classifier(path: str | Path, overrides: Sequence[str] = ()) -> TrainedModel:
    """As `load_run`, of a run of classification.

    Raises:
        CheckpointError, UsageError: as `load_run`; or it is a detector.
    """
    found = load_run(path, overrides)
    if isinstance(found, TrainedDetector):
        raise CheckpointError(f"{path} is a detector of a run; evaluate it with --suites, e.g. --suites clean,fgsm,c.")
    return found


def run_folder_of(path: str | Path) -> Path:
    """The folder of the run that a model, or one of its checkpoints, lies in. Raises: as `load_run`, for its path."""
    return _find(path).folder.resolve().parent


def is_detector(path: str | Path) -> bool:
    """Whether a path names a model of a run of detection; False of whatever is no model of a run."""
    try:
        stored = _find(path).recipe
    except CheckpointError:
        return False
    return isinstance(read.load(str(stored)), DetectionRecipe)


def pretraining_of(path: str | Path) -> Path | None:
    """The recipe's file of a run of self-supervised learning, by its folder or that of a network; None of whatever else."""
    stored = Path(path) / "recipe.yaml"
    try:
        stored = stored if stored.is_file() else _find(path).recipe
    except CheckpointError:
        return None
    return stored if isinstance(read.load(str(stored)), SelfSupervisedRecipe) else None


def refuse_unfinished(path: str | Path) -> None:
    """Refuse a model whose training was stopped: numbers of it would pass for those of its recipe.

    Raises:
        CheckpointError: with the steps that are done, and those that there are; or it is no model of a run.
    """
    folder = _find(path).folder
    for sentence in checkpoint.unfinished(_newest_state(folder), folder):
        raise CheckpointError(sentence)


def models_of(path: Path) -> list[Path]:
    """The folders of the models of a run, in the order of its recipe; or the path itself, of whatever else it is."""
    stored = path / "recipe.yaml"
    methods = getattr(read.load(str(stored)), "methods", {}) if stored.is_file() else {}
    found = [sorted(path.glob(f"{label}-seed*"), key=lambda model: (len(model.name), model.name)) for label in methods]
    known = [model for label, models in zip(methods, found, strict=True) for model in models if _is_of(model, label)]
    return known or [path]


def refuse_missing(path: Path) -> None:
    """Refuse a whole run of which trainings have not begun: the others would pass for all of it.

    Raises:
        CheckpointError: with their names.
    """
    recipe: Any = read.load(str(path / "recipe.yaml")) if (path / "recipe.yaml").is_file() else None
    wanted = [f"{label}-seed{seed}" for label in getattr(recipe, "methods", ()) for seed in recipe.seeds]
    missing = [name for name in wanted if not has_begun(path / name)]
    if missing:
        there = [path / name for name in wanted if name not in missing]
        instead = f", or name those that are there, e.g. {there[0]}" if there else ""
        raise CheckpointError(f"{path} lacks {', '.join(missing)}, not trained yet; finish it with --resume{instead}.")


def _is_of(model: Path, label: str) -> bool:
    """Whether a folder holds a trained model of this method."""
    return model.name.rpartition("-seed")[0] == label and has_begun(model)


class _Place(NamedTuple):
    """Of a trained model: the folder or the checkpoint that was named, its folder, its recipe's file, its method and seed."""

    path: Path
    folder: Path
    recipe: Path
    label: str
    seed: int


def _find(path: object) -> _Place:
    """Raises: UsageError: it is no path. CheckpointError: it is no folder of a trained model."""
    if not isinstance(path, str | Path):
        raise UsageError(f"A run is named by the path of a folder, not by {type(path).__name__}; write RUN/<method>-seed<k>.")
    given, path = path, Path(path)
    path = path if "-seed" in path.as_posix() else path.resolve()  # it may be named from inside the run
    folder = path.parent.parent if path.name.startswith("step-") else path
    label, _, seed = folder.name.rpartition("-seed")
    stored = folder.parent / "recipe.yaml"
    if not stored.is_file() or not seed.isdigit():
        there = [found for found in models_of(path) if found != path]
        if there:
            raise CheckpointError(f"{given} is the folder of a run, not of one of its models; name one, e.g. {there[0]}.")
        raise CheckpointError(
            f"{given} is not the folder of a trained model; give RUN/<method>-seed<k>, e.g. runs/demo/dat-seed0."
        )
    return _Place(path, folder, stored, label, int(seed))


def _state_of(found: _Place, methods: Collection[str]) -> checkpoint.State:
    """Raises: CheckpointError: the recipe knows no such method, or there is no whole checkpoint."""
    if found.label not in methods:
        known = ", ".join(methods)
        raise CheckpointError(
            f"{found.folder.name} is none of the models of {found.folder.parent} ({known}); give it its first name again, "
            "or put it back into the recipe."
        )
    if found.folder != found.path:
        return checkpoint.load(found.path)
    state = _newest_state(found.folder)
    for sentence in checkpoint.unfinished(state, found.folder):
        warn(sentence)
    return state


def _class_names(run: Path) -> tuple[str, ...]:
    """Raises: CheckpointError: `run.json` does not say them."""
    names = run_folder.read_run(run).get("class_names")
    if not names:
        raise CheckpointError(f"{run / 'run.json'} names no classes (class_names); restore it, or train again elsewhere.")
    return tuple(names)


def as_trained(
    recipe: ClassificationRecipe | DetectionRecipe, seed: int, num_classes: int, *, auxiliary_norms: bool
) -> nn.Module:
    """The model in the form in which it trained; weights to begin with need not be there, as those of the state count."""
    if isinstance(recipe, DetectionRecipe):
        bare = recipe.model.model_copy(update={"weights": None, "backbone_weights": None})
        return DetectorBlueprint(bare, num_classes).untrained(seed, auxiliary_norms=auxiliary_norms)
    begun = recipe.model.model_copy(update={"weights": None, "pretrained": None})
    return open_model(begun, OnDisk(), num_classes=num_classes).untrained(seed, auxiliary_norms=auxiliary_norms)


def _newest_state(folder: Path) -> checkpoint.State:
    found = checkpoint.newest_valid(folder / "checkpoints")
    if found is None:
        raise CheckpointError(f"{folder} holds no checkpoint; train it first.")
    older, state, damaged = found
    if damaged:  # an older state has other numbers, and must be asked for
        raise CheckpointError(f"{damaged[0]} The newest whole one is {older}; name that, or train on with --resume.")
    return state
