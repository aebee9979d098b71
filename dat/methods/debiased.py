"""Shape-texture debiased training."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.augment import style as styles
from dat.errors import DatError, UsageError
from dat.methods.settings import check_sorts
from dat.nn.norm import through_auxiliary_norms
from dat.nn.outputs import logits_of
from dat.types import Batch, ClassifyingTask, Images, Logits, Task


@dataclass(frozen=True)
class Debiased:
    """Train on clean images, and on images in the style of others of the batch, whose class is in part that of the style.

    The stylised images pass through the auxiliary norms, and count for the class of their content by `shape_weight`, for the
    style's by the rest. With `multi_grid` they are smaller (nearest pixel, before they are stylised): by the root of 2 on
    even steps, by it once more in the first half of each of the `stages` (shares of the training at which they begin), down
    to the share `least_size` of the side.
    Style "adain" is the paper's and needs its two weight files; "statistics" needs none: see `dat.augment.style`.
    Source: Li et al., "Shape-Texture Debiased Neural Network Training", ICLR 2021;
    `LiYingwei/ShapeTextureDebiasedTraining:imagenet.py`. There even batches are those of the epoch, here steps of the
    training; and AdaIN's images are clamped to [0, 1] here, and cropped to their size.
    Cost per step: two forward and backward passes, of which `multi_grid` makes one cheaper; with "adain" three passes of
    networks of VGG's size. Needs of the model: normalisation layers, and with `multi_grid` that it takes any size.
    """

    style: Literal["statistics", "adain"] = "statistics"
    vgg: str | None = None
    decoder: str | None = None
    mix: float = 0.5
    shape_weight: float = 0.8
    auxiliary_norms: bool = True
    multi_grid: bool = True
    stages: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    least_size: float = 0.5

    def __post_init__(self) -> None:
        check_sorts(self)
        for name in ("mix", "shape_weight", "least_size"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but it is a share; write a number from 0 to 1.")
        if list(self.stages) != sorted({*self.stages, 0.0}) or self.stages[-1] >= 1:
            raise UsageError(
                f"stages are {list(self.stages)}, but they are where parts of the training begin; "
                "write rising shares from 0.0 on, below 1, such as [0.0, 0.3, 0.6, 0.9]."
            )
        self._check_weight_files()

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the halves of the mean loss over clean and stylised images."""
        if not isinstance(task, ClassifyingTask):
            raise UsageError(
                f"debiased mixes the losses of two classes, but {type(task).__name__} has none; choose another method."
            )
        order = batch.draw(torch.rand).argsort()
        yield task.losses(model, batch.images, batch.targets).mean() / 2
        with through_auxiliary_norms(model) if self.auxiliary_norms else nullcontext():
            logits = self._logits(model, self._stylised(batch, order))
        shape, texture = (task.losses_of_logits(logits, targets) for targets in (batch.targets, batch.targets[order]))
        yield torch.lerp(texture, shape, self.shape_weight).mean() / 2

    def size(self, side: int, *, step: int, progress: float) -> int:
        """Side of the stylised images at a step of the training, in pixels."""
        if not self.multi_grid:
            return side
        starts = (*self.stages, 1.0)
        stage = bisect_right(self.stages, progress) - 1
        halvings = (step % 2 == 0) + (progress < (starts[stage] + starts[stage + 1]) / 2)
        return max(_rounded(side * 2 ** (-halvings / 2)), _rounded(side * self.least_size), 1)

    def _stylised(self, batch: Batch, order: Tensor) -> Images:
        height, width = (self.size(side, step=batch.step, progress=batch.progress) for side in batch.images.shape[-2:])
        images = batch.images.detach()
        if (height, width) != images.shape[-2:]:
            images = F.interpolate(images, size=(height, width), mode="nearest")
        if self.style == "statistics":
            return styles.statistics_style(images, images[order], alpha=self.mix)
        assert self.vgg is not None
        assert self.decoder is not None
        network = styles.load_adain(Path(self.vgg), Path(self.decoder)).to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            return network(images, images[order], alpha=self.mix).clamp(0, 1)

    def _logits(self, model: nn.Module, images: Images) -> Logits:
        try:
            return logits_of(model, images)
        except (RuntimeError, AssertionError, ValueError) as error:
            if not self.multi_grid or isinstance(error, DatError | torch.OutOfMemoryError):
                raise
            raise UsageError(
                f"The model did not take stylised images of {images.shape[-2]} x {images.shape[-1]} pixels ({error}); "
                "if it takes one size only, write multi_grid: false."
            ) from error

    def _check_weight_files(self) -> None:
        for name, path in (("vgg", self.vgg), ("decoder", self.decoder)):
            if self.style == "statistics" and path is not None:
                raise UsageError(f"{name} is {path!r}, but only 'adain' has weights; write style: adain, or leave it out.")
            if self.style == "adain" and path is None:
                raise UsageError(f"style is 'adain', which needs {name}, the path of its weights; or write style: statistics.")
            if path is not None and not Path(path).is_file():
                raise UsageError(f"{name} is {path!r}, where there is no file; give the path of AdaIN's weights.")


def _rounded(number: float) -> int:
    """To the nearest whole number, halves up."""
    return math.floor(number + 0.5)
