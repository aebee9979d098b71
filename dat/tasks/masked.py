"""Masked reconstruction: the pixels of hidden patches are predicted from the patches that are left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dat.errors import UsageError
from dat.tasks.losses import at_least_float32
from dat.types import Batch, Images, PerImage

Target = Literal["clean", "adversarial"]
Noise = Float[Tensor, "batch patches"]


@dataclass(frozen=True, eq=False)
class Hidden:
    """For each image: a number per patch, of which the largest are hidden, and the image as it was when they were drawn."""

    noise: Noise
    clean: Images

    def __len__(self) -> int:
        """How many images."""
        return len(self.noise)

    def __getitem__(self, rows: Any) -> Hidden:
        """Of some of the images."""
        return Hidden(self.noise[rows], self.clean[rows])

    def to(self, *args: Any, **kwargs: Any) -> Hidden:
        """The same on another device, as `torch.Tensor.to`."""
        return Hidden(self.noise.to(*args, **kwargs), self.clean.to(*args, **kwargs))

    @staticmethod
    def concatenated(parts: list[Hidden]) -> Hidden:
        """The targets of one batch after those of another."""
        return Hidden(torch.cat([part.noise for part in parts]), torch.cat([part.clean for part in parts]))


@dataclass(frozen=True)
class MaskedReconstruction:
    """The loss of a masked autoencoder, image by image; which patches are hidden is drawn once a step.

    `target` names what is predicted where a method shows other images than those of the batch: the hidden pixels of the
    `clean` image, so that the model takes away what the adversary did, or those of the `adversarial` image itself. How much is
    hidden and whether patches are normalised is said by the model (`dat.nn.mae.MaskedAutoencoder`), which has this patch size.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022. The target is ours.

    Raises:
        UsageError: a patch size below 1, another target.
    """

    patch_size: int
    target: Target = "clean"

    def __post_init__(self) -> None:
        if self.patch_size < 1:
            raise UsageError(f"patch_size is {self.patch_size}; write the side of a patch in pixels, 1 or more.")
        check_target(self.target)

    def losses(self, model: nn.Module, images: Images, targets: Hidden) -> PerImage:
        """One loss per image, in float32 or better."""
        shown = torch.cat([images, targets.clean.to(images.dtype)]) if self.target == "clean" else images
        return at_least_float32(model(shown, targets.noise))

    def drawn(self, batch: Batch) -> Batch[Hidden]:
        """The batch with a number per patch, and its images as they are; what its targets were is not looked at.

        Raises:
            UsageError: the patches do not divide the images.
        """
        height, width = batch.images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise UsageError(
                f"Patches of {self.patch_size} pixels do not divide images of {width} x {height}; take a multiple of it."
            )
        noise = batch.draw(torch.rand, (height // self.patch_size) * (width // self.patch_size))
        return replace(batch, targets=Hidden(noise, batch.images))


def check_target(target: str) -> None:
    """Refuse a target that there is not.

    Raises:
        UsageError: naming it.
    """
    if target not in get_args(Target):
        raise UsageError(f"target is {target!r}; write clean or adversarial.")
