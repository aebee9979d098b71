"""Picture files that somebody names, without classes: found, read as a model is shown them, and put into a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from dat.data.folders import EXTENSIONS
from dat.data.images import decode
from dat.errors import DataError, UsageError
from dat.types import Images

Shown = TypeVar("Shown")


def find_pictures(places: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and of folders every visible picture below, in order of names.

    Raises:
        DataError: a path is not there, or a folder holds no picture.
        UsageError: they are no list, or none is named.
    """
    if isinstance(places, str | Path) or not places or not all(isinstance(place, str | Path) for place in places):
        raise UsageError(f"Pictures are {places!r}; give a list of files and folders, e.g. ['photo.jpg', 'photos'].")
    return [path for place in places for path in _pictures_at(Path(place))]


def _pictures_at(place: Path) -> list[Path]:
    if not place.exists():
        raise DataError(f"There is no picture and no folder at {place}; check the path.")
    below = [place] if place.is_file() else [path for path in sorted(place.rglob("*")) if _is_picture(path, place)]
    if not below:
        raise DataError(f"The folder {place} holds no pictures ({' '.join(EXTENSIONS)}); name another.")
    return below


def _is_picture(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in EXTENSIONS and path.is_file() and not hidden


def read_as(view: Callable[[Image.Image], Shown], path: Path) -> Shown | str:
    """The picture as a model is shown it, or the sentence that says why there is none."""
    try:
        return view(decode(path))
    except DataError as error:
        return str(error)


def as_batch(pictures: Sequence[Image.Image]) -> Images:
    """RGB pictures of one size as a batch in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).float() / 255
