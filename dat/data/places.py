"""Labelled pictures, wherever they are: the one place where what a recipe or a command names becomes a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dat.data.address import address_of
from dat.data.folders import ImageFolder, PictureFolder
from dat.data.hub import open_hub
from dat.data.labelled import Wanted
from dat.data.packed import PackedPictures
from dat.data.shards import open_shards
from dat.data.tabled import TabledPictures

Placed = ImageFolder | TabledPictures | PackedPictures


def open_place(place: str | Path, **wanted: Any) -> Placed:
    """The labelled pictures of a place; `wanted` are the settings of `Wanted`, which are those of `ImageFolder`.

    Raises:
        DataError, UsageError: as `address_of` and the kinds of places.
    """
    address = address_of(place)
    settings = Wanted(**wanted)
    match address.kind:
        case "folder":
            return ImageFolder(place, **wanted)
        case "table":
            return TabledPictures(address, settings)
        case "shards":
            return open_shards(address, settings)
        case "hub":
            return open_hub(address, settings)


def open_pictures(place: str | Path) -> Placed | PictureFolder:
    """The pictures of a place, whatever their classes: of a folder those in it and below it.

    Raises:
        DataError, UsageError: as `open_place`, and `PictureFolder`.
    """
    return PictureFolder(place) if address_of(place).kind == "folder" else open_place(place)
