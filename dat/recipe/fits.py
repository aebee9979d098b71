"""Whether what a recipe names fits together: pictures, batches, networks. Asked before anything is written or trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from dat.data.corruptions.table import LEAST_SIDE
from dat.data.pipeline import TrainingOrder
from dat.discretizers.objective import Perceptual
from dat.engine.discretizer_loop import DiscretizerTraining
from dat.engine.distill import Distillation
from dat.engine.loop import Training, training_order
from dat.errors import DatError, UsageError
from dat.nn.patch_discriminator import check_patch_size
from dat.recipe.data import Data
from dat.recipe.header import Sets
from dat.recipe.model import Blueprint
from dat.types import Images, Place

REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError)
"""What networks raise on images that they do not take."""


def check_batches(settings: Training | DiscretizerTraining | Distillation, data: Sets, *, where: str) -> None:
    """Refuse batches that the training pictures cannot fill or the processes cannot share; `where` is the recipe's section.

    Raises:
        UsageError: as `TrainingOrder` and `training_order`.
    """
    place = Place(torch.device("cpu"), processes=_processes())
    try:
        if isinstance(settings, Training):
            training_order(settings, len(data.train), place=place, seed=0)
        else:
            TrainingOrder(len(data.train), settings.batch_size, settings.accumulate, place.processes)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def check_corruptible(size: tuple[int, int]) -> None:
    """Refuse test pictures that are too small to be corrupted; `size` is their height and width.

    Raises:
        UsageError: their size, and the smallest.
    """
    if min(size) < LEAST_SIDE:
        raise UsageError(
            f"evaluation.suites has c, but the test pictures are {size[1]} x {size[0]} pixels and corruptions need "
            f"{LEAST_SIDE} a side; leave c out, or set data.size to {LEAST_SIDE} or more."
        )


def check_network(model: Blueprint, data: Data) -> None:
    """Show the untrained network one training picture and one of the size of the test pictures.

    Raises:
        UsageError: it refuses their size.
        DataError: the picture cannot be read, or not be augmented.
    """
    bare = dataclasses.replace(model, weights=None)
    for images in _examples(data):
        if model.words is None and _runs(lambda images=images: _answer(bare, images, "meta")):
            continue  # shapes alone: a network of gigabytes needs neither memory nor time
        check_runs(lambda images=images: _answer(bare, images, "cpu"), f"The model {model.section.name}", images)


def check_patches(layers: int, data: Data, *, stride: int) -> None:
    """Refuse training pictures, filled up to multiples of `stride`, that are too small for a patch discriminator.

    It may join in only after many steps.

    Raises:
        UsageError: their size, and the smallest.
    """
    height, width = (-(-side // stride) * stride for side in _examples(data)[0].shape[-2:])
    check_patch_size((height, width), layers)


def check_perceptual(distance: Perceptual | None, data: Data) -> None:
    """Show a perceptual distance one training picture beside itself.

    Raises:
        UsageError: it refuses its size.
    """
    if distance is not None:
        images = 2 * _examples(data)[0] - 1
        check_runs(lambda: distance(images, images), "The perceptual distance", images)


def check_runs(act: Callable[[], object], name: str, images: Images) -> None:
    """Refuse images that a network refuses, in one sentence.

    Raises:
        UsageError: what the network says of them.
    """
    try:
        act()
    except REFUSALS as error:
        if isinstance(error, DatError):
            raise
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        size = f"{images.shape[3]} x {images.shape[2]} pixels"
        # What timm's vision transformers say, whose positions belong to a size.
        other = f", or write model.options.img_size={images.shape[3]}" if "match model" in said else ""
        raise UsageError(f"{name} does not run on images of {size}: {said}; set a data.size that it takes{other}.") from error


def _processes() -> int:
    """How many carry out the recipe together."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


def _examples(data: Data) -> list[Images]:
    """A training picture as it is trained on, and an image of the size of the test pictures where that is another."""
    seen = data.train[(0, 0)][0]
    return [seen] if seen.shape[-2:] == data.size else [seen, torch.full((1, 3, *data.size), 0.5)]


def _answer(model: Blueprint, images: Images, device: str) -> object:
    with torch.device(device), torch.no_grad():
        return model.untrained(seed=0).eval()(images.to(device))


def _runs(act: Callable[[], object]) -> bool:
    try:
        act()
    except REFUSALS:
        return False
    return True
