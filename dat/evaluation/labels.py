"""What a classifier says of picture files, whose classes nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from dat.data.picture_files import as_batch, read_as
from dat.errors import UsageError
from dat.nn.outputs import logits_of


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture: the likeliest class, and probabilities by class, the likeliest first.

    Of a picture that cannot be read there is neither, and `fault` says why.
    """

    path: str
    label: str | None
    probabilities: dict[str, float]
    fault: str | None = None

    @property
    def probability(self) -> float | None:
        """Of the likeliest class."""
        return None if self.label is None else self.probabilities[self.label]


@dataclass(frozen=True, eq=False)
class Labeller:
    """A classifier in eval mode on its device, how pictures are brought to it, and the names of its outputs.

    `sigmoid`: it was trained to say yes or no to each class, so its probabilities do not add up to one. `top`: so many of the
    likeliest classes are told; None: all.

    Raises:
        UsageError: a `top` below 1.
    """

    model: nn.Module
    view: Callable[[Image.Image], Image.Image]
    classes: tuple[str, ...]
    sigmoid: bool = False
    top: int | None = None

    def __post_init__(self) -> None:
        if self.top is not None:
            check_top(self.top)


def labelled(labeller: Labeller, paths: Sequence[Path], *, batch_size: int, device: torch.device) -> Iterator[list[Prediction]]:
    """What the model says of each picture, a batch at a time, in their order.

    Raises:
        UsageError: a batch_size below 1.
    """
    check_batch_size(batch_size)
    for first in range(0, len(paths), batch_size):
        read = [(path, read_as(labeller.view, path)) for path in paths[first : first + batch_size]]
        yield [
            said
            for size, group in groupby(read, key=lambda one: None if isinstance(one[1], str) else one[1].size)
            for said in (_faults(list(group)) if size is None else _said(labeller, list(group), device))
        ]


def check_top(top: int) -> None:
    """Raises: UsageError: no whole number, or below 1."""
    if not isinstance(top, int) or top < 1:
        raise UsageError(f"top is {top}, but so many classes are told; write a whole number, 1 or more.")


def check_batch_size(batch_size: int) -> None:
    """Raises: UsageError: no whole number, or below 1."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; write a whole number, 1 or more.")


def _faults(read: Sequence[tuple[Path, Image.Image | str]]) -> list[Prediction]:
    return [Prediction(str(path), None, {}, str(fault)) for path, fault in read]


def _said(labeller: Labeller, read: Sequence[tuple[Path, Image.Image | str]], device: torch.device) -> list[Prediction]:
    """Of pictures of one size."""
    shown = as_batch([picture for _, picture in read if not isinstance(picture, str)]).to(device)
    with torch.inference_mode():
        logits = logits_of(labeller.model, shown).float()
    each = (logits.sigmoid() if labeller.sigmoid else logits.softmax(dim=1)).cpu()
    likeliest = each.sort(dim=1, descending=True, stable=True)
    count = labeller.top
    return [
        Prediction(str(path), labeller.classes[order[0]], {labeller.classes[k]: p for k, p in zip(order, shares, strict=True)})
        for (path, _), order, shares in zip(
            read, likeliest.indices[:, :count].tolist(), likeliest.values[:, :count].tolist(), strict=True
        )
    ]
