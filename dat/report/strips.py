"""Pictures beside and below each other, with words under each: what is looked at without a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP, BAND = 4, 16
"""Pixels between the pictures, and of a line of words below one."""


def pixels_of(images: Tensor) -> np.ndarray:
    """The first image of a batch in 8 bits, `(height, width, 3)`."""
    return (images[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def captioned(picture: Image.Image, words: str) -> Image.Image:
    """A picture above its words, as wide as the wider of the two."""
    lines, font = words.split("\n"), _font()
    width = max(picture.width, *(2 + math.ceil(font.getlength(line)) for line in lines))
    whole = Image.new("RGB", (width, picture.height + BAND * len(lines)), "white")
    whole.paste(picture, (0, 0))
    ImageDraw.Draw(whole).text((2, picture.height + 2), words, fill="black", font=font)
    return whole


def _font() -> ImageFont.FreeTypeFont:
    """That of the other figures, which knows the letters of most names."""
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 11)


def beside(views: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row."""
    whole = Image.new("RGB", (sum(view.width + GAP for view in views) - GAP, max(view.height for view in views)), "white")
    left = 0
    for view in views:
        whole.paste(view, (left, 0))
        left += view.width + GAP
    return whole


def stacked(strips: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    whole = Image.new("RGB", (max(one.width for one in strips), sum(one.height + GAP for one in strips) - GAP), "white")
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height + GAP
    return whole


def png(picture: Image.Image) -> bytes:
    """As a file has it."""
    file = BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
