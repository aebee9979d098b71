"""One picture file becomes one RGB picture, or an error that names the file.

Knows no folders and no transforms. What the file says is kept: alpha is dropped and EXIF orientation is not applied,
as torchvision and timm do, so that accuracies are comparable; 16-bit values are scaled, where PIL would clip them.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from dat.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Read by content, whatever the extension says. Closed, because PIL's full list starts Ghostscript for EPS."""

WHITE_16_BIT = 65535
WHITE_12_BIT = 4095
ZERO_IS_WHITE = 0
"""Photometric interpretation of a TIFF, as of X-rays."""


class Encoded(NamedTuple):
    """What the file of a picture holds, where it lies within another file; `called` names it in messages."""

    held: bytes
    called: str


def decode(path: str | Path | Encoded) -> Image.Image:
    """The picture in `path` as RGB, 8 bits; the first frame where there are several.

    Grey is repeated, alpha dropped (not blended on a background), CMYK and YCbCr converted as PIL does, EXIF orientation
    not applied. 16-bit grey is scaled by 255/65535, 12-bit by 255/4095, and shown as it is meant where a TIFF says that 0 is
    white. Floating point has no agreed white: it is 1, 255 or 65535, the smallest that no value exceeds.

    Raises:
        DataError: the file is missing, empty, truncated, not an image, too large (PIL's limit of 179 million pixels),
            or holds values that no 16-bit picture has. No other picture is put in its place.
    """
    try:
        with Image.open(_readable(path), formats=FORMATS) as image:
            image.load()
            return to_rgb(image)
    except DataError as error:
        raise DataError(f"{error} in {_described(path)}; convert the file to 8-bit RGB.") from error
    except Exception as error:  # PIL's parsers raise nearly every built-in error on damaged files
        raise _unreadable(path, error) from error


def size_of(path: str | Path | Encoded) -> tuple[int, int]:
    """Width and height as the head of the file has them; its pixels are not read.

    Raises:
        DataError: as `decode`, for what the head tells.
    """
    try:
        with Image.open(_readable(path), formats=FORMATS) as image:
            return image.size
    except Exception as error:
        raise _unreadable(path, error) from error


def head_of(path: str | Path) -> tuple[tuple[int, int], int]:
    """Width and height, and the EXIF orientation: 1 as it is, 2 to 8 to be turned or mirrored by who shows it.

    Raises:
        DataError: as `decode`, for what the head tells.
    """
    try:
        with Image.open(_readable(path), formats=FORMATS) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return image.size, orientation if orientation in range(2, 9) else 1
    except Exception as error:
        raise _unreadable(path, error) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, 8 bits, from any mode that PIL reads.

    Raises:
        DataError: values outside [0, 65535], or not finite.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_rgb(image)
    if image.mode in ("La", "RGBa"):  # premultiplied alpha: PIL goes to RGB only through the plain form
        image = image.convert(image.mode[:-1] + "A")
    if image.mode == "P" and "transparency" in image.info:  # PIL warns on the direct way; the colours are the same
        image = image.convert("RGBA")
    return image.convert("RGB")


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """What a TIFF says of its grey is heeded here, as PIL heeds it for 8 bits alone."""
    values, tags = np.asarray(image).astype(np.float64), getattr(image, "tag_v2", {})
    integer_white = WHITE_12_BIT if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else WHITE_16_BIT
    white = _float_white(values) if image.mode == "F" else integer_white
    if not (values.min() >= 0 and values.max() <= white):
        raise DataError(f"Values from {values.min():g} to {values.max():g} (8- or 16-bit expected)")
    grey = np.rint(values * (255 / white)).astype(np.uint8)
    zero_is_white = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == ZERO_IS_WHITE
    return Image.fromarray(255 - grey if zero_is_white else grey).convert("RGB")


def _float_white(values: np.ndarray) -> int:
    return next((white for white in (1, 255) if values.max() <= white), WHITE_16_BIT)


def _unreadable(path: str | Path | Encoded, error: Exception) -> DataError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else _first_line(error)
    advice = "fetch it again, or take it out of the data set"
    return DataError(f"Cannot read the picture {_described(path)}: {reason}; {advice}.")


def _readable(path: str | Path | Encoded) -> str | Path | BytesIO:
    return BytesIO(path.held) if isinstance(path, Encoded) else path


def _described(path: str | Path | Encoded) -> str:
    try:
        called, size = (path.called, len(path.held)) if isinstance(path, Encoded) else (path, Path(path).stat().st_size)
    except OSError:
        return f"{path} (no such file)"
    return f"{called} (0 bytes, empty)" if size == 0 else f"{called} ({size} bytes)"


def _first_line(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (said.splitlines() or [""])[0].rstrip(".") or type(error).__name__
