"""A recipe made small enough to be tried in seconds, and parts for it out of thin air.

What is left is what the recipe says: methods and their settings, optimizer, schedule, augmentation, mixup, auxiliary layers,
the stride of the discretizer. What is not looked at: pictures, weights, and whether the real networks fit into memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from dat.data.annotated import AnnotatedPictures, Things
from dat.data.boxed import BoxedDataset, Letterbox
from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.views import TwoViews
from dat.discretizers import names
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.objective import Perceptual
from dat.engine.discretizer_loop import DiscretizerTraining
from dat.engine.distill import Distillation
from dat.engine.loop import Training
from dat.errors import UsageError
from dat.nn.imagenet_networks import ImageNetNetwork
from dat.recipe.boxes import BoxedData, BoxesData
from dat.recipe.boxes import augmentation as boxed_augmentation
from dat.recipe.data import Data, DataSection, augmentation
from dat.recipe.model import ModelSection, check_model
from dat.recipe.parts import Precision
from dat.recipe.perceptual import FrechetSection, MultiscaleGradientSection, NoPerceptual, PerceptualSection, build_perceptual
from dat.recipe.unlabelled import DigitPictures, FolderPictures, UnlabelledData, augmented

STEPS, BATCH, BOXED_BATCH, CLASSES, SIDE = 2, 6, 2, 10, 32
MADE_UP = "made-up-f"
"""Name of a discretizer that is not there, before its stride."""
SMALLER: Mapping[str, Mapping[str, Any]] = {
    "small_resnet": {"depth": 8, "width": 8},
    "drvit": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "vit_": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "tf_efficientnet_lite": {},
    "resnet": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
}
"""Options that shrink a network, by the beginning of its name, if only its images; what does not take them is run as it is."""
SHORT: Mapping[str, Any] = {
    "epochs": 1,
    "accumulate": 1,
    "workers": 0,
    "log_every": 1,
    "disc_width": 8,
    "lr": 1e-4,
    "milestones": (),
    "warmup_epochs": 0,
    "warmup_prefix": False,
}
"""A training of one epoch of two short steps; milestones and warm-up, which count epochs, are left out."""

Settings = TypeVar("Settings", bound=Training | DiscretizerTraining | Distillation)


class MadeUp:
    """Parts that are nowhere: noise for pictures, tiny networks for discretizers."""

    def data(self, section: DataSection) -> Data:
        """Noise of the size of the section, under its augmentation."""
        side = section.size or SIDE
        source = _noise(side)
        pictures = ImageDataset(source, augmentation(section.augment, CenterCrop(side)), seed=0)
        held_out = pictures if section.validation is not None else None
        return Data(pictures, pictures, source.classes, (side, side), "made up", validation=held_out)

    def unlabelled(self, section: DigitPictures | FolderPictures, *, views: int) -> UnlabelledData:
        """As `data`."""
        side = section.size or SIDE
        source, view = _noise(side), CenterCrop(side)
        shown = (TwoViews if views == 2 else ImageDataset)(source, augmented(section.augment, view), seed=0)
        return UnlabelledData(shown, *[ImageDataset(source, view, seed=0)] * 2, size=(side, side))

    def boxed(self, section: BoxesData) -> BoxedData:
        """Noise in a frame of the section's size, with a box in each."""
        frame = Letterbox(*section.size)
        pictures = BoxedDataset(MadeUpBoxes(frame), boxed_augmentation(section, frame), seed=0)
        classes = tuple(str(number) for number in range(CLASSES))
        nothing = AnnotatedPictures(Path("made up"), Path(), [], [], [], classes, [], [*range(CLASSES)])
        return BoxedData(pictures, nothing, frame)

    def discretizer(self, source: str, *, precision: Precision = "fp32", compiled: bool = False) -> FrozenDiscretizer:
        """One of the same stride."""
        del precision, compiled
        return _tiny_discretizer(stride_of(source))

    def origin(self, source: str) -> dict[str, str]:
        """Its name alone."""
        return {"name": source}

    def perceptual(self, section: PerceptualSection) -> Perceptual | None:
        """One that needs no weights, where there is one."""
        return None if isinstance(section, NoPerceptual) else build_perceptual(MultiscaleGradientSection())

    def features(self, section: FrechetSection | None) -> ImageNetNetwork | None:
        """None."""
        del section

    def weights(self, path: str) -> Mapping[str, Tensor]:
        """None; a shrunk model begins with random ones."""
        raise AssertionError(f"a rehearsal reads no weights, not {path}")


@dataclasses.dataclass(frozen=True)
class MadeUpBoxes:
    """Noise as large as a frame, with a thing in the middle."""

    frame: Letterbox

    @property
    def things(self) -> list[Things]:
        """Of each picture."""
        height, width = self.frame.height, self.frame.width
        box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
        return [
            Things(box, np.array([number % CLASSES]), np.array([1.0]), np.array([False]), (1,)) for number in range(len(self))
        ]

    def __len__(self) -> int:
        """How many pictures."""
        return STEPS * BOXED_BATCH

    def read(self, index: int) -> Image.Image:
        """Another noise each."""
        shape = (self.frame.height, self.frame.width, 3)
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8))

    def name(self, index: int) -> str:
        """Its number."""
        return str(index)


def _noise(side: int) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (STEPS * BATCH, 3, side, side), dtype=np.uint8)
    return ArraySource(images, np.arange(len(images)) % CLASSES, tuple(str(number) for number in range(CLASSES)))


def shorter(training: Settings, *, batch: int = BATCH) -> Settings:
    """The same training, as short as it can be, on a CPU."""
    values = {**SHORT, "batch_size": batch}
    if getattr(training, "schedule", "") == "multistep":
        values["schedule"] = "cosine"
    if getattr(training, "precision", "") == "fp16":
        values["precision"] = "fp32"
    known = {entry.name for entry in dataclasses.fields(training)}
    return dataclasses.replace(training, **{name: value for name, value in values.items() if name in known})


def shortened(section: BaseModel, training: Training, *, batch: int = BATCH) -> BaseModel:
    """The section of a method, trained as shortly as can be; a share of a batch is half, as others may be none of so few."""
    changes: dict[str, Any] = {"training": dataclasses.asdict(shorter(training, batch=batch))}
    if hasattr(section, "adversarial_share"):
        changes["adversarial_share"] = 0.5
    if hasattr(section, "clean_share"):
        changes["clean_share"] = min(0.5, getattr(section, "clean_share"))  # noqa: B009
    return section.model_copy(update=changes)


def smaller(section: ModelSection, *, side: int) -> tuple[ModelSection, int]:
    """The same model with fewer and narrower layers, and a small image for it; as it is and `side`, if it cannot be shrunk."""
    small = next((small for begin, small in SMALLER.items() if section.name.startswith(begin)), None)
    whole = section.model_copy(update={"weights": None, "pretrained": None})
    if small is None:
        return whole, side
    options, shrunk_side = {**section.options, **small}, SIDE
    if section.name.startswith(("vit_", "drvit")):  # two patches a side
        patch = next((int(part.removeprefix("patch")) for part in section.name.split("_") if part.startswith("patch")), 16)
        shrunk_side = options["img_size"] = 2 * patch
    elif section.name.startswith(("resnet", "tf_efficientnet_lite")):
        # At one pixel, oneDNN's bfloat16 gradient of a stride-2 convolution reads foreign memory (torch 2.15).
        shrunk_side = 2 * SIDE
    shrunk = whole.model_copy(update={"options": options})
    return (shrunk, shrunk_side) if _is_buildable(shrunk) else (whole, side)


def stride_of(source: str) -> int:
    """Pixels per code of a public discretizer, or of a made-up one; 8 as the paper's for one that only its file could tell."""
    if source.startswith(MADE_UP):
        return int(source.removeprefix(MADE_UP))
    return names.PUBLIC[source].stride if source in names.PUBLIC else 8


def _is_buildable(section: ModelSection) -> bool:
    try:
        check_model(section)
    except UsageError:
        return False
    return True


@cache
def _tiny_discretizer(stride: int) -> FrozenDiscretizer:
    torch.manual_seed(0)
    config = VQGANConfig(
        n_embed=16,
        embed_dim=4,
        z_channels=8,
        ch=32,
        ch_mult=(1,) * stride.bit_length(),
        num_res_blocks=1,
        attn_resolutions=(),
        attn_type="none",
    )
    return FrozenDiscretizer(VQGAN(config))
