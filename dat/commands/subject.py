"""Models to evaluate, by name: of a run, of timm, of a file of weights; and what is known of each."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import timm
from timm.data import resolve_data_config  # pyright: ignore[reportPrivateImportUsage]  # timm's documented import
from torch import nn

from dat.commands.trained import load_classifier
from dat.data.annotations import is_annotated
from dat.data.pipeline import CenterCrop, CropMode, ImageDataset, Interpolation
from dat.errors import CheckpointError, UsageError
from dat.nn.imagenet_networks import NETWORKS, load_imagenet_network
from dat.nn.norm import Normalized
from dat.nn.weights import fitted, load_strictly, read_weights, split_key
from dat.nn.zoo import classes_of_head
from dat.progress import warn
from dat.recipe.contest import training_of
from dat.recipe.data import DigitsData, FolderData
from dat.recipe.header import recipe_hash

TIMM, IMAGENET = "timm:", "imagenet:"
IMAGENET_CLASSES, LEAST_OTHER_CLASSES = 1000, 10_000
"""timm's classifiers have ImageNet's classes or more than 10 000; fewer outputs of another number are compared with texts."""


@dataclass(frozen=True, eq=False)
class Tested:
    """A model that takes images in [0, 1], and what is known of it.

    `view` is how pictures are brought to it. `classes` are the names of its outputs, None where they are not known: ImageNet's,
    if it has 1000. `test` are the pictures its own recipe tests it on, `test_name` what these are called; `trained_on` says
    what it was trained on, and `begun_with` from which weights, where that is known; the pictures may have gone since.
    `sigmoid`: it was trained to say yes or no to each class.
    """

    name: str
    model: nn.Module
    view: CenterCrop
    classes: tuple[str, ...] | None = None
    test: ImageDataset | None = None
    test_name: str = ""
    trained_on: DigitsData | FolderData | None = None
    begun_with: str | None = None
    seed: int | None = None
    recipe_hash: str = ""
    sigmoid: bool = False


def open_tested(target: str, *, weights: Path | None = None, name: str | None = None) -> Tested:
    """A model by `timm:NAME`, by `imagenet:NAME` with a file of weights, or by the folder or checkpoint of a run.

    `weights` of a timm model replace the pretrained ones, which timm downloads. `name`: what to call it in results.

    Raises:
        UsageError: there is no such model, or weights are missing or too much.
        CheckpointError: weights cannot be read or do not fit.
    """
    found = _opened(target, weights)
    return found if name is None else replace(found, name=name)


def refuse_boxes(target: str, data: Path | None) -> None:
    """Raises: UsageError: a file of pictures with boxes is named for a classifier."""
    if data is not None and data.is_file() and is_annotated(data):
        raise UsageError(
            f"{data} says what is where in pictures, and {target} is a classifier; name a folder with a subfolder per class, "
            "or a detector: a model of a run of detection, or torchvision:NAME."
        )


def _opened(target: str, weights: Path | None) -> Tested:
    if target.startswith(TIMM):
        return _of_timm(target.removeprefix(TIMM), weights)
    if target.startswith(IMAGENET):
        return _of_imagenet(target.removeprefix(IMAGENET), weights)
    if weights is not None:
        raise UsageError(f"{target} has its own weights; leave out --weights, or name a model as timm:NAME.")
    if not Path(target).is_dir():
        raise CheckpointError(
            f"{target} is not the folder of a trained model; give RUN/<method>-seed<k>, e.g. runs/demo/dat-seed0, or timm:NAME."
        )
    return of_run(Path(target))


def _of_timm(name: str, weights: Path | None) -> Tested:
    """Whatever can be refused is refused before anything is downloaded."""
    config = _config_of_timm(name)
    view = _view_of_timm(name, config)
    called = f"{TIMM}{name}"
    if weights is None:
        network = _from_timm(name)
    else:
        network, which = _with_weights(name, weights)
        called += f"@{split_key(weights)[0].name}{f'#{which}' * bool(which)}"
    return Tested(
        called,
        Normalized(network, mean=config["mean"], std=config["std"]),
        view,
    )


def _with_weights(name: str, weights: Path) -> tuple[nn.Module, str]:
    """The network of timm for as many classes as the weights of a file are, and which of the file they are.

    Raises:
        CheckpointError: they are those of another network.
    """
    network = _untrained(name)
    tensors, which = read_weights(weights)
    own, count = (classes_of_head(network, given) for given in (network.state_dict(), tensors))
    if count is not None and count != own:
        network = _untrained(name, num_classes=count)
        warn(
            f"{weights} is of {count} classes and does not say which: they are taken for the class folders by the alphabet, "
            "capitals first, as by torchvision's ImageFolder; of another order write dat.evaluate(model, classes=...)."
        )
    try:
        load_strictly(network, fitted(network, tensors), name=str(weights))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} Name timm's model that they are of; one of other options, as img_size, is evaluated from Python: "
            "dat.evaluate(dat.Normalized(network, mean=..., std=...), ...)."
        ) from error
    return network, which


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


def _untrained(name: str, **classes: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False, **classes)
    except Exception as error:  # timm's models refuse in any way
        raise UsageError(f"timm cannot make {name} ({_reason(error)}); name another model.") from error


def _from_timm(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # a download fails in any way, and timm's models refuse in as many
        raise CheckpointError(
            f"timm cannot get the weights of {name} ({_reason(error)}); add --weights FILE if you have them."
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


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
    found = load_classifier(path)
    test, _ = found.test_pictures()
    return Tested(
        found.label,
        found.model,
        found.view,
        classes=found.classes,
        test=test,
        test_name=found.test_name,
        trained_on=found.recipe.data,
        begun_with=found.recipe.model.weights,
        seed=found.seed,
        recipe_hash=recipe_hash(found.recipe),
        sigmoid=training_of(found.recipe, found.label).sigmoid,
    )
