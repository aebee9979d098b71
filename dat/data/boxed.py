"""From pictures with boxes to batches: resized into a fixed frame, jittered and mirrored for training.

As in `dat.data.pipeline`, whose loaders and orders serve these pictures, too, every random number is a function of
(seed, epoch, position of the picture).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from dat.boxes import Boxes
from dat.data.annotated import AnnotatedPictures, Things
from dat.data.pipeline import TRANSFORMS, Examples, Key, global_streams
from dat.errors import DataError, UsageError

CornersOf = Float[np.ndarray, "count 4"]

BORDER = (124, 116, 104)
"""ImageNet's mean colour: about 0 to a network that normalises by it, as torchvision pads."""
LEAST_SIDE = 1.0
"""Boxes whose visible part in the frame is narrower, in pixels, are no targets of training."""
ROUNDING = 1e-3
"""Boxes that reach so far over an edge, in pixels, are cut, too, but not counted."""


@dataclass(frozen=True)
class Letterbox:
    """Resized to fit into `height` x `width` without distortion, in the upper left corner, the rest filled. Not random.

    `short_side`: no larger than that its shorter side has so many pixels, as torchvision shows pictures to most detectors.
    `squash`: resized to the frame, with distortion, as it shows them to SSD.

    Raises:
        UsageError: a side below 1.
    """

    height: int
    width: int
    short_side: int | None = None
    squash: bool = False

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.short_side or 1) < 1:
            raise UsageError(f"The frame is {self.height} x {self.width} pixels; write sides of 1 or more.")

    def inside(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height in the frame of a picture of this width and height."""
        if self.squash:
            return self.width, self.height
        limits = [] if self.short_side is None else [self.short_side / min(size)]
        scale = min(self.width / size[0], self.height / size[1], *limits)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture in its frame."""
        frame = Image.new("RGB", (self.width, self.height), BORDER)
        frame.paste(picture.resize(self.inside(picture.size), Image.Resampling.BILINEAR))
        return frame

    def protocol(self) -> dict[str, object]:
        """What a reader needs to know beside height and width."""
        told: dict[str, object] = {"short_side": self.short_side, "squash": self.squash}
        return {name: value for name, value in told.items() if value}

    def factors(self, size: tuple[int, int]) -> CornersOf:
        """What corners in a picture of this width and height are multiplied with to be those in the frame, `(1, 4)`."""
        across, down = (inner / outer for inner, outer in zip(self.inside(size), size, strict=True))
        return np.array([[across, down, across, down]])

    def back(self, corners: Tensor, size: tuple[int, int]) -> Tensor:
        """Corners in the frame as corners in the picture, cut at its edges."""
        found = corners.double().cpu() / torch.from_numpy(self.factors(size))
        return torch.minimum(found.clamp(min=0), torch.tensor([*size, *size], dtype=torch.float64))


@dataclass(frozen=True)
class JitterCropFlip:
    """Mirrored with probability `flip`, resized to `scale` times what fits, and cropped or padded to the frame at random.

    Boxes are cut at the edges; those that are left with less than a pixel go. torchvision's transforms for detection.

    Raises:
        UsageError: as `Letterbox`; a scale or a probability that is none.
    """

    height: int
    width: int
    scale: tuple[float, float] = (0.75, 1.5)
    flip: float = 0.5

    def __post_init__(self) -> None:
        Letterbox(self.height, self.width)
        if not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise UsageError(f"scale is {[*self.scale]}; write two numbers above 0, the smaller first.")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"flip is {self.flip}; write a probability, from 0 to 1.")

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether a picture of this width and height keeps a pixel on each side at the smallest scale."""
        return min(size) * min(self.width / size[0], self.height / size[1]) * self.scale[0] >= 1

    def build(self) -> Callable[[Any], Any]:
        """torchvision's transforms; they draw from torch's global stream."""
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(self.flip),
                v2.ScaleJitter((self.width, self.height), self.scale),  # unlike all others of torchvision, width first
                v2.RandomCrop(
                    (self.height, self.width), pad_if_needed=True, fill={tv_tensors.Image: BORDER, Image.Image: BORDER}
                ),
                v2.ClampBoundingBoxes(),  # rounded, a corner may be beyond the frame, and the box would go
                v2.SanitizeBoundingBoxes(min_size=LEAST_SIDE),
            ]
        )


@runtime_checkable
class Annotated(Protocol):
    """What a `BoxedDataset` asks of a set: pictures by position, and what is in each."""

    @property
    def things(self) -> Sequence[Things]:
        """Of each picture."""
        ...

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits."""
        ...

    def name(self, index: int) -> str:
        """What to call the picture in messages."""
        ...


class BoxedDataset:
    """Annotated pictures under a transform, fetched a batch at a time by (epoch, position) keys.

    Crowds and boxes without area are no targets, boxes are cut at the edges of their picture; `left_out` counts them.
    What is narrower than a pixel in the frame is no target either.

    Raises:
        UsageError: a negative seed.
    """

    def __init__(self, source: Annotated, transform: Letterbox | JitterCropFlip, *, seed: int) -> None:
        if seed < 0:
            raise UsageError(f"seed is {seed}; write 0 or more.")
        self.source, self.transform, self.seed = source, transform, seed

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.source)

    def __getitems__(self, keys: Sequence[Key]) -> Examples:
        """Images (float32 in [0, 1]), `Boxes` in their pixels, and positions of a whole batch.

        Raises:
            DataError: a picture cannot be read, or has another size than stated.
        """
        frames, corners, labels = zip(*(self._example(*key) for key in keys), strict=True)
        images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float().div_(255)
        return images, Boxes.padded(corners, labels), torch.tensor([position for _, position in keys])

    def _example(self, epoch: int, position: int) -> tuple[np.ndarray, Tensor, Tensor]:
        picture, things = self.source.read(position), self.source.things[position]
        chosen = wanted(things)
        corners, labels = cut(things.corners[chosen], picture.size), torch.from_numpy(things.labels[chosen])
        if isinstance(self.transform, Letterbox):
            placed = torch.from_numpy(corners * self.transform.factors(picture.size)).float()
            seen = (placed[:, 2:] - placed[:, :2] >= LEAST_SIDE).all(dim=1)
            return np.asarray(self.transform(picture)), placed[seen], labels[seen]
        if not self.transform.fits(picture.size):
            size = f"{picture.width} x {picture.height} pixels, which leaves no pixel at the smallest scale"
            raise DataError(f"{self.source.name(position)} has {size}; take it out of the set, or write a larger scale.")
        boxes = tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]  # it has no declared arguments
            torch.from_numpy(corners).float(), format="XYXY", canvas_size=(picture.height, picture.width)
        )
        with global_streams() as seed_streams:
            seed_streams((TRANSFORMS, self.seed, epoch, position))
            shown, found = self._augment((picture, {"boxes": boxes, "labels": labels}))
        return np.asarray(shown), found["boxes"].as_subclass(Tensor), found["labels"]

    @cached_property
    def _augment(self) -> Callable[[Any], Any]:
        return self.transform.build() if isinstance(self.transform, JitterCropFlip) else lambda example: example


def wanted(things: Things) -> np.ndarray:
    """Which of the things are targets of a training: those that are no crowd, and whose box has an area."""
    sides = things.corners[:, 2:] - things.corners[:, :2]
    return ~things.crowd & (sides > 0).all(axis=1)


def cut(corners: CornersOf, size: tuple[int, int]) -> CornersOf:
    """Corners at the edges of a picture of this width and height, where they were beyond."""
    return np.clip(corners, 0, [*size, *size])


class Counts(NamedTuple):
    """Of all things of a set: how many are crowds, have no area, or are cut at the edges of their picture as targets."""

    boxes: int
    crowds: int
    flat: int
    cut: int


def counted(source: AnnotatedPictures) -> Counts:
    """What becomes of the things of a set in a training."""
    boxes, crowds = sum(map(len, source.things)), sum(int(things.crowd.sum()) for things in source.things)
    targets = [things.corners[wanted(things)] for things in source.things]
    beyond = [np.abs(cut(corners, size) - corners) > ROUNDING for corners, size in zip(targets, source.sizes, strict=True)]
    several = sum(int(far.any(axis=1).sum()) for far in beyond)
    return Counts(boxes, crowds, boxes - crowds - sum(map(len, targets)), several)


def left_out(source: AnnotatedPictures) -> str:
    """How many things of a set are no targets or only in part, and why, in a sentence; empty where all are."""
    counts = counted(source)
    gone = [f"{counts.crowds} crowds"] * bool(counts.crowds) + [f"{counts.flat} boxes without area"] * bool(counts.flat)
    parts = [f"{' and '.join(gone)} are left out of the training"] * bool(gone)
    parts += [f"{counts.cut} are cut at the edges of their pictures"] * bool(counts.cut)
    return f"Of {counts.boxes} boxes in {source.file}, {', and '.join(parts)}." if parts else ""


def unfindable(source: AnnotatedPictures) -> str:
    """How many things of a test set no detector can find, in a sentence; empty where there are none."""
    counts = counted(source)
    said = f"Of {counts.boxes} boxes in {source.file}, {counts.flat} without area count as things that no detector can find"
    return f"{said}, as in COCO's scorer: 100 % is out of reach; remove them if they are faults." if counts.flat else ""
