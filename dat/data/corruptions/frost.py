"""Frost textures of ImageNet-C from a folder: they may not be shipped, so a user names where they are.

Knows no corruptions; `corrupt` takes what is read here, and makes textures of its own where none are given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dat.data.folders import EXTENSIONS
from dat.data.images import decode
from dat.errors import DataError

Texture = UInt8[Tensor, "_ _ 3"]

ORIGINAL_NAMES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg")
"""Of `hendrycks/robustness:ImageNet-C/create_c/`, in the order in which the original lists them."""


def frost_textures(folder: str | Path) -> list[Texture]:
    """The six textures `frost1` ... `frost6` of a folder, in that order: RGB, 8 bits, `(height, width, 3)`.

    Any kind of picture will do, so that own textures can take their place; the original draws from the first five only.

    Raises:
        DataError: one of the six is missing or there twice, or cannot be read.
    """
    return [torch.from_numpy(np.array(decode(_found(Path(folder), name)))) for name in ORIGINAL_NAMES]


def textures_sha256(textures: Sequence[Texture]) -> str:
    """SHA-256 over the sizes and the pixels of all textures, in their order: what a result on frost depends on."""
    digest = hashlib.sha256()
    for texture in textures:
        digest.update(repr(tuple(texture.shape)).encode())
        digest.update(texture.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _found(folder: Path, name: str) -> Path:
    stem = Path(name).stem
    files = [folder / f"{stem}{extension}" for extension in EXTENSIONS if (folder / f"{stem}{extension}").is_file()]
    if len(files) != 1:
        found = " and ".join(file.name for file in files) or "nothing of that name"
        raise DataError(f"Frost texture {name} is expected in {folder}, where there is {found}; put the original six there.")
    return files[0]
