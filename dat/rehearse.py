"""Two steps of a recipe with networks shrunk to nothing and made-up pictures: does every part of it fit the others?

What is left is what the recipe says: methods and their settings, optimizer, schedule, augmentation, mixup, auxiliary layers,
the stride of the discretizer. What is not looked at: pictures, weights, and whether the real networks fit into memory.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dat import recipe as recipes
from dat import recipe_data
from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.discretizers import names
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.engine.discretizer_loop import train_discretizer
from dat.engine.distill import distill
from dat.engine.loop import train
from dat.errors import DatError, UsageError
from dat.nn.norm import with_auxiliary_norms
from dat.tasks.classification import Classification

STEPS, BATCH, CLASSES, SIDE = 2, 10, 10, 32
SMALLER: Mapping[str, Mapping[str, Any]] = {
    "small_resnet": {"depth": 8, "width": 8},
    "drvit": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "vit_": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "resnet": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
}
"""Options that shrink a network, by the beginning of its name; what does not take them is run as it is."""


def rehearse(recipe: recipes.Recipe) -> None:
    """Carry out two steps of every training of a recipe, in seconds; nothing is left behind.

    Raises:
        DatError: what would stop the training.
    """
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        if isinstance(recipe, recipes.ClassificationRecipe):
            _classification(recipe, Path(folder))
        elif isinstance(recipe, recipes.DiscretizerRecipe):
            _discretizer(recipe, Path(folder))
        else:
            _distillation(recipe, Path(folder))


def _classification(recipe: recipes.ClassificationRecipe, folder: Path) -> None:
    model, side = _smaller_model(recipe.model, side=getattr(recipe.data, "size", None) or SIDE)
    pictures = _pictures(recipe.data, side)
    stride = _stride(recipe.discretizer) if recipe.discretizer is not None else 8
    discretizer = FrozenDiscretizer(_tiny_vqgan(stride))
    words = FrozenDiscretizer(_tiny_vqgan(_stride_of(model.discretizer))) if model.discretizer is not None else None
    for label, section in recipe.methods.items():
        training = _shorter(recipes.training_of(recipe, label))
        network = recipes.build_model(model, num_classes=CLASSES, seed=0, discretizer=words)
        if recipes.wants_auxiliary_norms(section):
            with_auxiliary_norms(network)
        with _faults_of(label, model.name, side):
            train(
                network,
                recipes.build_method(section, discretizer),
                Classification(training.smoothing, CLASSES, training.sigmoid),
                pictures,
                training,
                seed=0,
                folder=folder / label,
                num_classes=CLASSES,
                cpu=True,
            )


@contextmanager
def _faults_of(label: str, model: str, side: int) -> Iterator[None]:
    """What a network refuses in torch's words, e.g. the size of its images, as a sentence."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, DatError):
            raise
        said = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"Two steps of {label} with {model} on {side} x {side} pixels do not run: {said}.") from error


def _discretizer(recipe: recipes.DiscretizerRecipe, folder: Path) -> None:
    small = {"ch": 32, "n_embed": 16, "num_res_blocks": 1, "z_channels": 32, "embed_dim": min(recipe.network.embed_dim, 32)}
    spec = recipe.model_copy(update={"network": dataclasses.replace(recipe.network, **small), "init": None})
    pictures = _pictures(recipe.data, max(SIDE, 2 ** len(recipe.network.ch_mult)))
    needs = recipe.objective.perceptual_weight > 0
    perceptual = recipes.build_perceptual(recipes.MultiscaleGradientSection()) if needs else None
    train_discretizer(
        recipes.build_vqgan(spec),
        recipe.objective,
        perceptual,
        _shorter(recipe.training),
        pictures,
        pictures,
        seed=0,
        folder=folder,
        weights=folder / "weights.safetensors",
        provenance={},
        cpu=True,
    )


def _distillation(recipe: recipes.DistillationRecipe, folder: Path) -> None:
    teacher = FrozenDiscretizer(_tiny_vqgan(_stride_of(recipe.teacher.load)))
    side = max(SIDE, 2 * teacher.stride)
    roomy = recipe.model_copy(update={"student": recipe.student.model_copy(update={"budget": 0.5})})
    needs = recipe.training.perceptual_weight > 0
    distill(
        recipes.build_student(roomy, teacher.network, size=side),
        teacher,
        _shorter(recipe.training),
        pictures := _pictures(recipe.data, side),
        pictures,
        perceptual=recipes.build_perceptual(recipes.MultiscaleGradientSection()) if needs else None,
        seed=0,
        folder=folder,
        weights=folder / "weights.safetensors",
        provenance={},
        cpu=True,
    )


def _smaller_model(section: recipes.ModelSection, *, side: int) -> tuple[recipes.ModelSection, int]:
    """The same model with fewer and narrower layers, and a small image for it; as it is and `side`, if it cannot be shrunk."""
    small = next((small for begin, small in SMALLER.items() if section.name.startswith(begin)), None)
    whole = section.model_copy(update={"weights": None})
    if small is None:
        return whole, side
    options, shrunk_side = {**section.options, **small}, SIDE
    if section.name.startswith(("vit_", "drvit")):  # two patches a side
        patch = next((int(part.removeprefix("patch")) for part in section.name.split("_") if part.startswith("patch")), 16)
        shrunk_side = options["img_size"] = 2 * patch
    elif section.name.startswith("resnet"):
        shrunk_side = (
            2 * SIDE
        )  # at one pixel, oneDNN's bfloat16 gradient of a stride-2 convolution reads foreign memory (torch 2.15)
    shrunk = whole.model_copy(update={"options": options})
    return (shrunk, shrunk_side) if _is_buildable(shrunk) else (whole, side)


def _is_buildable(section: recipes.ModelSection) -> bool:
    if section.discretizer is not None:
        return True
    try:
        with torch.device("meta"):
            recipes.build_model(section, num_classes=CLASSES, seed=0)
    except UsageError:
        return False
    return True


def _shorter(training: Any) -> Any:
    """The same training for one epoch of two short steps on a CPU; milestones and warm-up, which count epochs, are left out."""
    short: dict[str, Any] = {
        "epochs": 1,
        "batch_size": BATCH,
        "accumulate": 1,
        "workers": 0,
        "log_every": 1,
        "disc_width": 8,
        "lr": 1e-4,
    }
    short |= {"milestones": (), "warmup_epochs": 0, "warmup_prefix": False}
    if getattr(training, "schedule", "") == "multistep":
        short["schedule"] = "cosine"
    if training.precision == "fp16":
        short["precision"] = "fp32"
    known = {entry.name for entry in dataclasses.fields(training)}
    return dataclasses.replace(training, **{name: value for name, value in short.items() if name in known})


def _pictures(section: recipe_data.DataSection, side: int) -> ImageDataset:
    """Noise of the right size under the augmentation of the recipe."""
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (STEPS * BATCH, 3, side, side), dtype=np.uint8)
    labels = tuple(str(number) for number in range(CLASSES))
    source = ArraySource(images, np.arange(len(images)) % CLASSES, labels)
    return ImageDataset(source, recipe_data.augmentation(section.augment, CenterCrop(side)), seed=0)


def _stride(section: recipes.DiscretizerSection) -> int:
    if section.train is not None:
        return 2 ** (len(section.train.network.ch_mult) - 1)
    return _stride_of(str(section.load))


def _stride_of(source: str) -> int:
    """Pixels per code of a public discretizer; the 8 of the paper's for one that only its file could tell."""
    return names.PUBLIC[source].stride if source in names.PUBLIC else 8


def _tiny_vqgan(stride: int) -> VQGAN:
    torch.manual_seed(0)
    levels = stride.bit_length()
    return VQGAN(
        VQGANConfig(
            n_embed=16,
            embed_dim=4,
            z_channels=8,
            ch=32,
            ch_mult=(1,) * levels,
            num_res_blocks=1,
            attn_resolutions=(),
            attn_type="none",
        )
    )
