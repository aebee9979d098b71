"""Settings of trainings, which live beside the loops they steer, read strictly here."""

from __future__ import annotations

import dataclasses
import difflib

from pydantic.dataclasses import dataclass as validated_dataclass
from timm.optim import list_optimizers  # pyright: ignore[reportPrivateImportUsage]  # documented, but timm has no __all__

from dat.engine.discretizer_loop import DiscretizerTraining
from dat.engine.distill import Distillation
from dat.engine.loop import Training
from dat.errors import UsageError, did_you_mean
from dat.recipe.strict import STRICT

LOWEST = {
    "backbone_lr_scale": 0,
    **dict.fromkeys(("epochs", "batch_size", "accumulate", "log_every", "disc_width", "patience"), 1),
    **dict.fromkeys(("lr", "momentum", "weight_decay", "layer_decay", "warmup_epochs", "warmup_lr", "min_lr", "clip_grad"), 0),
    **dict.fromkeys(("ema_decay", "mixup", "cutmix", "smoothing", "workers", "save_minutes", "revive_every", "disc_layers"), 0),
    **dict.fromkeys(("eps", "decay_rate", "ema_codebook_decay", "warmup_steps", "image_weight", "perceptual_weight"), 0),
}
"""Smallest value of each number that a training has."""
SHARES = ("momentum", "layer_decay", "backbone_lr_scale", "ema_decay", "ema_codebook_decay", "smoothing")
"""Numbers of a training that are not above 1."""


@validated_dataclass(config=STRICT, frozen=True)
class TrainingSection(Training):
    """`dat.engine.loop.Training`, read strictly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ranges(self)
        known = [*map(str, list_optimizers())]
        if self.optimizer not in known:
            near = difflib.get_close_matches(self.optimizer, known, n=1)
            raise UsageError(
                f"optimizer is {self.optimizer!r}; {did_you_mean(near)}write a name that timm knows, e.g. {known[0]}."
            )


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
