"""Models to evaluate, by name: of a run, of timm, of a file of weights; and what is known of each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from timm.data import resolve_data_config  # pyright: ignore[reportPrivateImportUsage]  # timm's documented import
from torch import nn

from dat.data.folders import set_name
from dat.data.pipeline import CenterCrop, CropMode, ImageDataset, Interpolation
from dat.engine import checkpoint, run_folder
from dat.errors import CheckpointError, UsageError
from dat.nn.imagenet_networks import NETWORKS, load_imagenet_network
from dat.nn.norm import Normalized, without_auxiliary_norms
from dat.nn.weights import fitted, load_strictly, read_weights, split_key
from dat.recipe import read
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.data import FolderData, build_test, view_of
from dat.recipe.header import recipe_hash
from dat.recipe.methods import wants_auxiliary_norms
from dat.recipe.model import open_model
from dat.recipe.parts import OnDisk

TIMM, IMAGENET = "timm:", "imagenet:"
IMAGENET_CLASSES, LEAST_OTHER_CLASSES = 1000, 10_000
"""timm's classifiers have ImageNet's classes or more than 10 000; fewer outputs of another number are compared with texts."""


@dataclass(frozen=True, eq=False)
class Tested:
    """A model that takes images in [0, 1], and what is known of it.

    `view` is how pictures are brought to it. `classes` are the names of its outputs, None where they are not known: ImageNet's,
    if it has 1000. `test` are the pictures its own recipe tests it on, `test_name` what these are called.
    """

    name: str
    model: nn.Module
    view: CenterCrop
    classes: tuple[str, ...] | None = None
    test: ImageDataset | None = None
    test_name: str = ""
    seed: int | None = None
    recipe_hash: str = ""


def open_tested(target: str, *, weights: Path | None = None, name: str | None = None) -> Tested:
    """A model by `timm:NAME`, by `imagenet:NAME` with a file of weights, or by the folder or checkpoint of a run.

    `weights` of a timm model replace the pretrained ones, which timm downloads. `name`: what to call it in results.

    Raises:
        UsageError: there is no such model, or weights are missing or too much.
        CheckpointError: weights cannot be read or do not fit.
    """
    found = _opened(target, weights)
    return found if name is None else replace(found, name=name)


def _opened(target: str, weights: Path | None) -> Tested:
    if target.startswith(TIMM):
        return _of_timm(target.removeprefix(TIMM), weights)
    if target.startswith(IMAGENET):
        return _of_imagenet(target.removeprefix(IMAGENET), weights)
    if weights is not None:
        raise UsageError(f"{target} has its own weights; leave out --weights, or name a model as timm:NAME.")
    return of_run(Path(target))


def _of_timm(name: str, weights: Path | None) -> Tested:
    """Whatever can be refused is refused before anything is downloaded."""
    config = _config_of_timm(name)
    view = _view_of_timm(name, config)
    network = _from_timm(name, pretrained=weights is None)
    called = f"{TIMM}{name}"
    if weights is not None:
        tensors, which = read_weights(weights)
        load_strictly(network, fitted(network, tensors), name=str(weights))
        called += f"@{split_key(weights)[0].name}{f'#{which}' * bool(which)}"
    return Tested(
        called,
        Normalized(network, mean=config["mean"], std=config["std"]),
        view,
    )


def _config_of_timm(name: str) -> dict[str, Any]:
    """How timm tests a classifier.

    Raises:
        UsageError: timm has no model or no weights of that name, or the model is no classifier.
    """
    if ":" in name:
        raise UsageError(
            f"{name!r} is no name of timm.list_models() but a place of files; name timm's model and add --weights FILE."
        )
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UsageError(f"timm has no model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    try:
        published = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        model, _, tag = name.partition(".")
        known = ", ".join(timm.list_pretrained(f"{model}.*")) or "none"
        raise UsageError(f"timm has no weights {tag!r} of {model}; it has: {known}.") from error
    assert published is not None
    if why := _why_no_classifier(published.num_classes):
        raise UsageError(f"timm's {name} {why}; name a classifier, one whose outputs are classes.")
    return resolve_data_config(pretrained_cfg=published.to_dict(), use_test_size=True)


def _why_no_classifier(outputs: int) -> str | None:
    if not outputs:
        return "gives features, no classes"
    if outputs < LEAST_OTHER_CLASSES and outputs != IMAGENET_CLASSES:
        return f"gives {outputs} numbers to compare with those of a text, no classes"
    return None


def _from_timm(name: str, *, pretrained: bool) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # a download fails in any way, and timm's models refuse in as many
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if not pretrained:
            raise UsageError(f"timm cannot make {name} ({reason}); name another model.") from error
        raise CheckpointError(
            f"timm cannot get the weights of {name} ({reason}); add --weights FILE if you have them."
        ) from error


def _view_of_timm(name: str, config: Mapping[str, Any]) -> CenterCrop:
    """timm's own test transform.

    Raises:
        UsageError: it is one that is not done here.

    Source: huggingface/pytorch-image-models:timm/data/transforms_factory.py.
    """
    channels, height, width = config["input_size"]
    if channels != 3:
        raise UsageError(f"timm's {name} takes images of {channels} channels; name a model that takes RGB.")
    crop_mode, interpolation = config["crop_mode"], config["interpolation"]
    if odd := _not_done_here(crop_mode, interpolation, (height, width)):
        raise UsageError(
            f"timm shows pictures to {name} with {odd}, which is not done here; to crop their centre instead, "
            f"call dat.evaluate with timm.create_model({name!r}, pretrained=True) in dat.Normalized and its size."
        )
    return CenterCrop(height, config["crop_pct"], interpolation, crop_mode=crop_mode)


def _not_done_here(crop_mode: str, interpolation: str, sides: tuple[int, int]) -> str | None:
    if crop_mode not in get_args(CropMode):
        return f"crop_mode {crop_mode!r}"
    if interpolation not in get_args(Interpolation):
        return f"interpolation {interpolation!r}"
    return f"{sides[1]}x{sides[0]} pixels" if sides[0] != sides[1] else None


def _of_imagenet(name: str, weights: Path | None) -> Tested:
    if weights is None:
        raise UsageError(f"{IMAGENET}{name} comes without weights; add --weights FILE.")
    return Tested(f"{IMAGENET}{name}@{weights.name}", load_imagenet_network(name, weights), CenterCrop(NETWORKS[name].side))


def of_run(path: Path) -> Tested:
    """The model in the folder `<method>-seed<k>` of a run, or in a checkpoint there, with the pictures its recipe tests it on.

    Raises:
        CheckpointError: as `load_run`.
        DataError: the test pictures are missing, or have other classes than those the model was trained on.
    """
    found = load_run(path)
    test, _ = found.test_pictures()
    return Tested(
        found.label,
        found.model,
        found.view,
        classes=found.classes,
        test=test,
        test_name=found.test_name,
        seed=found.seed,
        recipe_hash=recipe_hash(found.recipe),
    )


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
        """The pictures the recipe tests on, with their height and width.

        Raises:
            DataError: they are missing, or have other classes than those the model was trained on.
        """
        return build_test(self.recipe.data, classes=self.classes)

    @property
    def test_name(self) -> str:
        """What these pictures are called in results."""
        data = self.recipe.data
        return set_name(data.test) if isinstance(data, FolderData) else data.source


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> TrainedModel:
    """The result of a training: averaged weights where there are some, no auxiliary norms. No picture is needed.

    Args:
        path: the folder `<method>-seed<k>` of a run, or a checkpoint in it (`.../checkpoints/step-...`).
        overrides: `key.sub=value` that change the recipe of the run, e.g. `data.test=FOLDER`.

    Raises:
        CheckpointError: it is no such folder, or its newest checkpoint is damaged (an older one may be named instead).
        UsageError: an override is wrong.
    """
    if not isinstance(path, str | Path):
        raise UsageError(f"A run is named by the path of a folder, not by {type(path).__name__}; write RUN/<method>-seed<k>.")
    given, path = path, Path(path)
    path = path if "-seed" in path.as_posix() else path.resolve()  # it may be named from inside the run
    folder = path.parent.parent if path.name.startswith("step-") else path
    label, _, seed = folder.name.rpartition("-seed")
    stored = folder.parent / "recipe.yaml"
    if not stored.is_file() or not seed.isdigit():
        raise CheckpointError(
            f"{given} is not the folder of a trained model; give RUN/<method>-seed<k>, e.g. runs/demo/dat-seed0, or timm:NAME."
        )
    recipe = read.load(str(stored), overrides)
    if not isinstance(recipe, ClassificationRecipe):
        raise CheckpointError(f"{folder.parent} is a run of kind {recipe.kind}, which trains no classifier; name another run.")
    if label not in recipe.methods:
        known = ", ".join(recipe.methods)
        raise CheckpointError(
            f"{folder.name} is none of the models of {folder.parent} ({known}); give it its first name again, "
            "or put it back into the recipe."
        )
    state = checkpoint.load(path) if folder != path else _newest_state(folder)
    classes = _class_names(folder.parent)
    model = _as_trained(recipe, label, int(seed), len(classes))
    load_strictly(model, state.tensors.get("ema", state.tensors["model"]), name=f"{folder.name} with the settings given")
    return TrainedModel(without_auxiliary_norms(model).eval(), classes, view_of(recipe.data), recipe, label, int(seed))


def _class_names(run: Path) -> tuple[str, ...]:
    """Raises: CheckpointError: `run.json` does not say them."""
    names = run_folder.read_run(run).get("class_names")
    if not names:
        raise CheckpointError(f"{run / 'run.json'} names no classes (class_names); restore it, or train again elsewhere.")
    return tuple(names)


def _as_trained(recipe: ClassificationRecipe, label: str, seed: int, num_classes: int) -> nn.Module:
    """The model in the form in which it trained; weights to begin with need not be there, as those of the state count."""
    begun = recipe.model.model_copy(update={"weights": None})
    with torch.random.fork_rng(devices=[]):
        blueprint = open_model(begun, OnDisk(), num_classes=num_classes)
        return blueprint.untrained(seed, auxiliary_norms=wants_auxiliary_norms(recipe.methods[label]))


def _newest_state(folder: Path) -> checkpoint.State:
    found = checkpoint.newest_valid(folder / "checkpoints")
    if found is None:
        raise CheckpointError(f"{folder} holds no checkpoint; train it first.")
    older, state, damaged = found
    if damaged:  # an older state has other numbers, and must be asked for
        raise CheckpointError(f"{damaged[0]} The newest whole one is {older}; name that, or train on with --resume.")
    return state
