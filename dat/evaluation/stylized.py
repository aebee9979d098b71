"""Stylised pictures on the fly: each picture in the style of another, shape kept and texture replaced.

Not the published Stylized-ImageNet, whose styles are 79,395 paintings; results are marked as generated, with what.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from dat.augment.style import load_adain, statistics_style
from dat.data.contents import contents
from dat.data.folders import EXTENSIONS, ImageSource
from dat.data.images import decode
from dat.errors import DataError, UsageError
from dat.nn.weights import file_sha256
from dat.types import Images, Indices, LossFn

STYLES = 3  # first word of every seed: no other use shares the stream (see `dat.data.pipeline`)


@runtime_checkable
class Gallery(Protocol):
    """Pictures that lend their style: any labelled set is one, and `Paintings`."""

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 that changes with the set."""
        ...


@dataclass(frozen=True, eq=False)
class Paintings:
    """Pictures that lend their style: all visible ones below a folder in order of names, whatever folders they are in.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """

    folder: Path
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        files = (path for path in self.folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
        names = sorted(path.relative_to(self.folder).as_posix() for path in files)
        object.__setattr__(self, "names", tuple(name for name in names if not f"/{name}".count("/.")))
        if not self.names:
            raise DataError(f"There are no pictures to take styles from in {self.folder}; check the path.")

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.names)

    def read(self, index: int) -> Image.Image:
        """The picture as RGB, 8 bits.

        Raises:
            DataError: it cannot be read.
        """
        return decode(self.folder / self.names[index])

    def fingerprint(self) -> str:
        """SHA-256 over the relative names and contents.

        Raises:
            DataError: a file is gone or cannot be read.
        """
        digest = hashlib.sha256()
        for name, content in zip(self.names, contents(self.folder, self.names), strict=True):
            digest.update(os.fsencode(f"{name}\0{content}\0"))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Stylized:
    """Pictures of `source` (ids are positions in it) in the style of pictures of `gallery`.

    Without a gallery the styles are other pictures of the source, of another class if it has one. Which one is a function
    of (`seed`, id); it is cut and resized to the picture's own size. `adain`: the files of VGG and decoder; without
    them the style is matched statistics (`dat.augment.style.statistics_style`), which needs no weights. `alpha` 1 takes
    all of the style, as Stylized-ImageNet does.

    Pictures are made one by one, so none depends on the batch around it, and rounded to 8 bits.

    Raises:
        UsageError: `alpha` outside [0, 1], or a negative seed.
        DataError: there is no picture to take a style from.

    Source: Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019 (AdaIN, alpha 1).
    """

    source: ImageSource
    gallery: Gallery | None = None
    adain: tuple[Path, Path] | None = None
    alpha: float = 1.0
    seed: int = 0
    name: str = "stylized-generated"
    depends_on_model: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"The strength of the style, alpha, is {self.alpha}; write a number from 0 to 1.")
        if self.seed < 0:
            raise UsageError(f"The seed is {self.seed}; write 0 or a positive number.")
        if self.gallery is None and len(self.source) < 2:
            raise DataError(f"A set of {len(self.source)} pictures has no other picture to take a style from; name styles.")

    def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
        """The stylised images: a function of (seed, id) and of the picture."""
        made = [self._stylised(image[None], identity) for image, identity in zip(images, ids.tolist(), strict=True)]
        return torch.cat(made) if made else images.clone()

    def protocol(self, height: int, width: int) -> dict[str, object]:
        """That it was generated; with which network, strength and styles."""
        styles = "other pictures of the set" if self.gallery is None else self.gallery.fingerprint()
        chosen: dict[str, object] = {"generated": True, "seed": self.seed, "alpha": self.alpha, "styles": styles}
        if self.adain is None:
            return {**chosen, "style": "statistics"}
        vgg, decoder = self.adain
        return {**chosen, "style": "adain", "vgg_sha256": file_sha256(vgg), "decoder_sha256": file_sha256(decoder)}

    def style_position(self, identity: int) -> int:
        """Which picture lends its style to the picture `identity`."""
        numbers = np.random.Generator(np.random.PCG64(np.random.SeedSequence((STYLES, self.seed, identity))))
        if self.gallery is not None:
            return int(numbers.integers(len(self.gallery)))
        others = np.flatnonzero(self.source.targets != self.source.targets[identity])
        if not len(others):
            others = np.delete(np.arange(len(self.source)), identity)
        return int(others[numbers.integers(len(others))])

    def _stylised(self, image: Images, identity: int) -> Images:
        style = self._style_image(identity, *image.shape[2:]).to(image)
        if self.adain is None:
            made = statistics_style(image, style, alpha=self.alpha)
        else:
            made = load_adain(*self.adain).to(image.device)(image, style, alpha=self.alpha)
        return (made.clamp(0, 1) * 255).round() / 255

    def _style_image(self, identity: int, height: int, width: int) -> Images:
        lender = self.source if self.gallery is None else self.gallery
        picture = lender.read(self.style_position(identity))
        fitted = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        return pil_to_tensor(fitted)[None] / 255
