"""The words of the whole package: tensors by shape, and the protocols of the method.

Images are RGB in [0, 1] everywhere: classifiers normalise inside, discretizers map to their own range inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dat.errors import UsageError

Images = Float[Tensor, "batch 3 height width"]
PerImage = Float[Tensor, " batch"]
Codes = Int[Tensor, "batch *grid"]
Latents = Float[Tensor, "batch depth rows columns"]
Vectors = Float[Tensor, "count depth"]
Indices = Int[Tensor, " count"]
Logits = Float[Tensor, "batch classes"]
ClassTargets = Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
"""The right class of each image, or the shares of all classes."""

LossFn = Callable[[Tensor], Tensor]
"""How bad are these images? `(batch, 3, height, width) -> (batch,)`. All that an attack may see."""


@runtime_checkable
class Targets(Protocol):
    """The right answers for a batch, in a form of the task's own: what a loss compares with, and what it draws at random.

    A tensor is one, with a row per image. Another value gives, indexed by a slice or a tensor of positions, the targets of
    these images; it has a `concatenated` where its task's targets are put together.
    """

    def __len__(self) -> int:
        """How many images."""
        ...

    def __getitem__(self, rows: Any, /) -> Any:
        """The targets of some of the images."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The same on another device, as `torch.Tensor.to`."""
        ...


AnyTargets = TypeVar("AnyTargets", bound=Targets)
TargetsOfTask = TypeVar("TargetsOfTask", bound=Targets, contravariant=True)


def concatenated(parts: Sequence[AnyTargets]) -> AnyTargets:
    """The targets of one batch after those of another; a value that is no tensor says how (`concatenated(parts)`)."""
    first: Any = parts[0]
    return cast(Any, torch.cat)(list(parts)) if isinstance(first, Tensor) else first.concatenated(parts)


RANGE_TOLERANCE = 1e-3
"""Forgives the rounding of bicubic resizing and of bfloat16, not a normalised image."""


def check_number(name: str, value: object, *, whole: bool = False, more: str = "") -> None:
    """Refuse what is no number, or no whole one; `more` goes on with what else may be written.

    Raises:
        UsageError: with the name and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise UsageError(f"{name} is {value!r}; write a{' whole' * whole} number{more}.")


def check_radius(norm: str, **sizes: float) -> None:
    """Refuse radii and steps in pixel units that are none: of "linf" from 0 to 1, of "l2" from 0 on.

    Raises:
        UsageError: with the name and the value.
    """
    for name, size in sizes.items():
        check_number(name, size)
        if not size >= 0:
            why = "it cannot be negative" if size < 0 else "that is no number"
            raise UsageError(f"{name} is {size}, but {why}; write 0 or more.")
        if norm == "linf" and size > 1:
            advice = f"; write {size:g}/255 as {size / 255:.4f}" * math.isfinite(size)
            raise UsageError(f"{name} is {size:g}, but pixels go from 0 to 1{advice}.")


exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
"""Whether `torch.export` looks on; torch 2.6 cannot tell it from `torch.compile`."""


def check_images(images: Tensor) -> None:
    """Refuse what is not a batch of float images in [0, 1]; costs one pass over them, and none while `torch.export` looks on.

    Raises:
        UsageError: with the type, the shape, the dtype or the range that was met.
    """
    if not isinstance(images, Tensor):
        raise UsageError(f"Images are of type {type(images).__name__}; give a tensor (batch, 3, height, width) in [0, 1].")
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise UsageError(f"Images have shape {tuple(images.shape)}; expected (batch, 3, height, width).")
    if not images.is_floating_point():
        raise UsageError(f"Images are {images.dtype}; convert them to float in [0, 1], e.g. images.float() / 255.")
    if exporting():
        return
    low, high = torch.stack(torch.aminmax(images)).tolist()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise UsageError(
            f"Images range from {low:.4g} to {high:.4g}, but must lie in [0, 1]; "
            "move the normalisation into the model (dat.Normalized) and give raw images."
        )


@dataclass(frozen=True)
class Batch(Generic[AnyTargets]):
    """Images of one step with their targets and their share of the step's randomness.

    `generator` is the same on every process; each draws for the `total` images of the step and keeps its rows from
    `first` on, so a step on several processes uses the numbers of the step on one. None: torch's global stream.
    `step` counts optimizer steps from 0; `progress` is the share of the training that lies behind, in [0, 1).
    """

    images: Images
    targets: AnyTargets
    generator: torch.Generator | None = None
    first: int = 0
    total: int | None = None
    step: int = 0
    progress: float = 0.0

    def draw(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        """Random numbers `(batch, *shape)` from `sampler`, which is `torch.rand` or `torch.randn`."""
        total = self.total or len(self.images)
        device = self.generator.device if self.generator is not None else self.images.device
        numbers = sampler((total, *shape), generator=self.generator, device=device)
        return numbers[self.first : self.first + len(self.images)].to(self.images.device)

    def draw_once(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        """Random numbers `shape` for the whole step, the same on every process."""
        device = self.generator.device if self.generator is not None else self.images.device
        return sampler(shape, generator=self.generator, device=device).to(self.images.device)


@dataclass(frozen=True)
class Place:
    """Where a process stands among its like."""

    device: torch.device
    process: int = 0
    processes: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.process == 0


@runtime_checkable
class Discretizer(Protocol):
    """`Q` of the method, frozen: images to visual words and back. No call leaves a gradient."""

    codebook_size: int
    stride: int

    def encode(self, images: Images) -> Codes:
        """Codes of each patch; the grid is the image size over `stride`, rounded up."""
        ...

    def decode(self, codes: Codes) -> Images:
        """Images in [0, 1], `stride` times as large as the grid of codes."""
        ...

    def __call__(self, images: Images) -> Images:
        """`Q(x)`: the reconstruction in [0, 1], of the size of the input."""
        ...


def check_discretizer(value: object) -> None:
    """Refuse the name or the file of a discretizer in its place, and what is none.

    Raises:
        UsageError: with the value, and how one is loaded.
    """
    if isinstance(value, str | Path):
        raise UsageError(f"discretizer is {str(value)!r}, a name; write dat.load_discretizer({str(value)!r}).")
    if not callable(value):
        raise UsageError(f"discretizer is {value!r}; give what dat.load_discretizer(NAME) gives.")


@runtime_checkable
class Task(Protocol[TargetsOfTask]):
    """What the loss of a model is. Knows nothing of attacks."""

    def losses(self, model: nn.Module, images: Images, targets: TargetsOfTask) -> PerImage:
        """One loss per image. Nothing is drawn here: what is random comes with the targets."""
        ...


@runtime_checkable
class DrawingTask(Task[TargetsOfTask], Protocol):
    """A task whose loss has random numbers: masks, sampled anchors, a second view."""

    def drawn(self, batch: Batch) -> Batch:
        """The batch with these numbers in its targets, taken from `batch.draw`.

        The loop asks once a step, so that attack and training see the same.
        """
        ...


@runtime_checkable
class ClimbedTask(Task[TargetsOfTask], Protocol):
    """A task of which an adversary climbs another loss than the one that is minimised."""

    def climbed_losses(self, model: nn.Module, images: Images, targets: TargetsOfTask) -> PerImage:
        """One loss per image, larger is worse for the model."""
        ...


@runtime_checkable
class FollowedTask(Task[TargetsOfTask], Protocol):
    """A task with something that follows the weights of the model: a momentum encoder.

    That has no gradient, yet is normalised by its batches as what it follows is: with such a task the loop takes no layer
    for frozen, and none evaluates while the model trains.
    """

    def follow(self, model: nn.Module, *, progress: float) -> None:
        """Let it follow, in place; the loop calls this after each optimizer step, `progress` as in `Batch`.

        The model comes without its data-parallel wrapper, and what follows is in its state, so it is saved with it.
        """
        ...


def climbed_losses(task: Task, model: nn.Module, images: Images, targets: Any) -> PerImage:
    """What an adversary of a task climbs: the task's loss, unless it names another."""
    if isinstance(task, ClimbedTask):
        return task.climbed_losses(model, images, targets)
    return task.losses(model, images, targets)


@runtime_checkable
class ClassifyingTask(Task[ClassTargets], Protocol):
    """A task whose models give one logit per class: what methods need that aim at classes or compare predictions."""

    def losses_of_logits(self, logits: Logits, targets: ClassTargets) -> PerImage:
        """One loss per image, of what the model gave for it."""
        ...

    def random_classes(self, targets: ClassTargets, numbers: PerImage) -> ClassTargets:
        """For each image a class drawn by its number, which is uniform in [0, 1); in the form of `targets`."""
        ...


@runtime_checkable
class Method(Protocol):
    """What is done with one batch: yields the losses of one step; the loop back-propagates each as it comes."""

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Scalar losses, each with its own graph."""
        ...
