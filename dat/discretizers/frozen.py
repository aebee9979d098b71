"""A trained VQGAN as the method's `Q`: frozen, [0, 1] in and out, any image size."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dat.discretizers.vqgan import VQGAN
from dat.errors import UsageError
from dat.types import Codes, Images, Latents, check_images

PaddedImages = Float[Tensor, "batch 3 rows columns"]


class FrozenVQGAN(nn.Module):
    """The discretizer of a VQGAN: frozen, without gradients, untouched by `.train()` and by the caller's autocast.

    It keeps a copy of the network; with `copy_network=False` it takes the network itself, which is then frozen.
    Images whose sides are not multiples of `stride` are reflected on the right and below, and cropped again.
    `precision` (bfloat16, float16) is that of the networks; the codebook and its search stay in float32.
    bfloat16 changes about as many codes as the paper's alpha of 0.1 does (3 %): measure it before the flips matter.
    `check_range` False lets images leave [0, 1], as `x + delta` does in the paper's formula.
    """

    check_range: bool = True

    def __init__(self, vqgan: VQGAN, *, precision: torch.dtype | None = None, copy_network: bool = True) -> None:
        super().__init__()
        self.vqgan = (copy.deepcopy(vqgan) if copy_network else vqgan).requires_grad_(False)
        self.codebook_size: int = vqgan.config.n_embed
        self.stride: int = vqgan.config.stride
        self.train(False)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # missing in torch's stub
        if precision is not None:
            self.low_precision(precision)

    def train(self, mode: bool = True) -> FrozenVQGAN:
        """Stay in evaluation mode, also as a part of a model that trains."""
        del mode
        return super().train(False)

    def low_precision(self, precision: torch.dtype) -> FrozenVQGAN:
        """Put the networks, not the codebook, into `precision`; in place."""
        for part in (self.vqgan.encoder, self.vqgan.decoder, self.vqgan.quant_conv, self.vqgan.post_quant_conv):
            part.to(precision)
        return self

    def forward(self, images: Images) -> Images:
        """`Q(x)`: the reconstruction in [0, 1], of the size and dtype of the input."""
        height, width = images.shape[-2:]
        return self._decode(self.encode(images), images.dtype)[..., :height, :width]

    def encode(self, images: Images) -> Codes:
        """Codes of each patch; the grid is the image size over `stride`, rounded up.

        Raises:
            UsageError: not floating point images of 3 channels in [0, 1].
            DivergenceError: the latents are NaN or infinite.
        """
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.vqgan.quantize.encode(self.latents(images))

    def latents(self, images: Images) -> Latents:
        """What the nearest codes are searched for, in the dtype of the codebook (float32 unless `.double()`).

        Raises:
            UsageError: not floating point images of 3 channels in [0, 1].
        """
        if self.check_range:
            check_images(images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            exact = images.to(torch.promote_types(images.dtype, self._dtype))
            padded = pad_to_multiple(2 * exact - 1, self.stride)
            return self.vqgan.latents(padded.to(self._dtype)).to(self.vqgan.quantize.embedding.weight.dtype)

    def decode(self, codes: Codes) -> Images:
        """Images in [0, 1], `stride` times as large as the grid of codes, in the dtype of the codebook.

        Raises:
            UsageError: a code is not in the codebook.
        """
        check_codes(codes, self.codebook_size)
        return self._decode(codes, self.vqgan.quantize.embedding.weight.dtype)

    def _decode(self, codes: Codes, dtype: torch.dtype) -> Images:
        with torch.no_grad(), torch.autocast(codes.device.type, enabled=False):
            raw = self.vqgan.decode_vectors(self.vqgan.quantize.decode(codes).to(self._dtype))
            return raw.to(torch.promote_types(raw.dtype, dtype)).clamp_(-1, 1).add_(1).div_(2).to(dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return self.vqgan.quant_conv.weight.dtype


def check_codes(codes: Tensor, codebook_size: int) -> None:
    """Refuse codes that are not in the codebook.

    Raises:
        UsageError: a code is below 0 or not below `codebook_size`, or codes are not whole numbers.
    """
    if codes.ndim != 3 or codes.is_floating_point() or not codes.numel():
        raise UsageError(
            f"Codes are {codes.dtype} of shape {tuple(codes.shape)}; they must be integers (batch, rows, columns)."
        )
    lowest, highest = torch.stack(torch.aminmax(codes)).tolist()
    if lowest < 0 or highest >= codebook_size:
        raise UsageError(f"Codes reach from {lowest} to {highest}; this codebook holds 0 to {codebook_size - 1}.")


def pad_to_multiple(images: Images, stride: int) -> PaddedImages:
    """Reflect images on the right and below up to multiples of `stride`; repeat the border where they are too small."""
    height, width = images.shape[-2:]
    down, right = -height % stride, -width % stride
    if not (down or right):
        return images
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, down), mode=mode)
