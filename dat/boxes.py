"""Boxes around things in images: what is right, and what a detector found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dat.errors import UsageError

Numbers = Float[Tensor, " batch"]
Scores = Float[Tensor, " count"]
Labels = Int[Tensor, " count"]
Corners = Float[Tensor, "count 4"]
"""x0, y0, x1, y1 in pixels; x to the right, y down, from the upper left corner of the image."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """The things in each image of a batch, padded to the most of any: the targets of detection.

    `corners` `(batch, most, 4)`: x0, y0, x1, y1 in pixels of the images. `labels` `(batch, most)`: classes from 0 on, without
    one for the background. `valid` `(batch, most)`: which entries are things, and not padding.
    `numbers` `(batch,)`: uniform in [0, 1), from which a detector that samples draws; drawn once a step, zeros elsewhere.

    Raises:
        UsageError: shapes that do not belong together.
    """

    corners: Tensor
    labels: Tensor
    valid: Tensor
    numbers: Numbers | None = None

    def __post_init__(self) -> None:
        if not (
            self.labels.ndim == 2 and self.labels.shape == self.valid.shape and self.corners.shape == (*self.labels.shape, 4)
        ):
            shapes = [tuple(part.shape) for part in (self.corners, self.labels, self.valid)]
            raise UsageError(f"Boxes have shapes {shapes}; expected (batch, most, 4), (batch, most) and (batch, most).")

    @classmethod
    def padded(cls, corners: Sequence[Tensor], labels: Sequence[Tensor]) -> Boxes:
        """Of one `(count, 4)` and one `(count,)` tensor per image; of a thing-less image, `(0,)` will do for both.

        Raises:
            UsageError: not as many corners as labels, or of no image.
        """
        _check_pairs(corners, labels)
        counts = torch.tensor([len(part) for part in labels], device=labels[0].device)
        most = max(int(counts.max()), 1)
        return cls(
            torch.stack([_filled(part.float().reshape(-1, 4), most) for part in corners]),
            torch.stack([_filled(part.long(), most) for part in labels]),
            torch.arange(most, device=counts.device) < counts[:, None],
        )

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels)

    def __getitem__(self, rows: Any) -> Boxes:
        """Those of some of the images, by a slice or a tensor of positions."""
        return self._each(lambda part: part[rows])

    def to(self, *args: Any, **kwargs: Any) -> Boxes:
        """The same on another device."""
        return self._each(lambda part: part.to(*args, **kwargs))

    def concatenated(self, parts: Sequence[Boxes]) -> Boxes:
        """The images of all parts, one after the other."""
        most = max(part.labels.shape[1] for part in parts)
        same = [part._each(lambda tensor: _wider(tensor, most)) for part in parts]
        numbers = [part.drawn_numbers() for part in parts]
        joined = [torch.cat([getattr(part, name) for part in same]) for name in ("corners", "labels", "valid")]
        return Boxes(*joined, numbers=torch.cat(numbers))

    def of_image(self, row: int) -> tuple[Corners, Labels]:
        """Corners and labels of the things in one image."""
        chosen = self.valid[row]
        return self.corners[row][chosen], self.labels[row][chosen]

    def drawn_numbers(self) -> Numbers:
        """`numbers`, or zeros where none were drawn."""
        return self.corners.new_zeros(len(self)) if self.numbers is None else self.numbers

    def with_numbers(self, numbers: Numbers) -> Boxes:
        """The same things with other random numbers."""
        return replace(self, numbers=numbers)

    def _each(self, function: Any) -> Boxes:
        numbers = None if self.numbers is None else cast(Tensor, function(self.numbers))
        return Boxes(function(self.corners), function(self.labels), function(self.valid), numbers)


class Found(NamedTuple):
    """What a detector found in one image: corners `(count, 4)` in its pixels, scores in [0, 1], and classes from 0 on."""

    corners: Corners
    scores: Scores
    labels: Labels


def _check_pairs(corners: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
    if not len(corners) == len(labels) > 0:
        raise UsageError(f"There are corners of {len(corners)} images and labels of {len(labels)}; give both, of each image.")
    for row, (places, classes) in enumerate(zip(corners, labels, strict=True)):
        if classes.ndim != 1 or (places.shape != (len(classes), 4) and (places.numel() or len(classes))):
            shapes = f"corners {tuple(places.shape)} and labels {tuple(classes.shape)}"
            raise UsageError(f"Image {row} has {shapes}; give (count, 4) and (count,), as many of one as of the other.")


def _filled(part: Tensor, most: int) -> Tensor:
    """Zeros after the last row."""
    return torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])])


def _wider(part: Tensor, most: int) -> Tensor:
    if part.ndim == 1:
        return part
    extra = part.new_zeros(len(part), most - part.shape[1], *part.shape[2:])
    return torch.cat([part, extra], dim=1)
