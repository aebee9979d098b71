"""A trained autoencoder as the method's `Q`: frozen, [0, 1] in and out, any image size."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.codes import Neighbours, check_in_codebook
from dat.errors import UsageError
from dat.types import Codes, Images, Latents, Vectors, check_images

PaddedImages = Float[Tensor, "batch 3 rows columns"]
Rows = Int[Tensor, " rows"]
MOST_LISTED = 2**18
"""Codes of the largest codebook of which neighbours are sought: the work grows with the square of their number."""
DISTANCES = 2**22
"""Of one chunk of that search: 32 MiB."""
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8)


class FrozenDiscretizer(nn.Module):
    """The discretizer of an autoencoder: frozen, without gradients, untouched by `.train()` and by the caller's autocast.

    It keeps a copy of the network; with `copy_network=False` it takes the network itself, which is then frozen.
    Images whose sides are not multiples of `stride` are reflected on the right and below, and cropped again.
    `precision` (bfloat16, float16) is that of the networks; the codebook and its search stay in float32.
    bfloat16 changes more codes (3 %) than the paper's alpha of 0.1 does: `exact()` is what measures an adversary.
    `check_range` False lets images leave [0, 1], as `x + delta` does in the paper's formula.
    """

    check_range: bool = True
    network: Autoencoder

    def __init__(self, network: Autoencoder, *, precision: torch.dtype | None = None, copy_network: bool = True) -> None:
        super().__init__()
        self.network = (copy.deepcopy(network) if copy_network else network).requires_grad_(False)
        self.codebook_size: int = network.codebook_size
        self.stride: int = network.stride
        self._neighbours: dict[object, Neighbours] = {}
        self.train(False)
        for weight in self.parameters():
            if weight.ndim == 4:  # torch's own `.to` refuses kernels over frames
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        if precision is not None:
            self.low_precision(precision)

    def train(self, mode: bool = True) -> FrozenDiscretizer:
        """Stay in evaluation mode, also as a part of a model that trains."""
        del mode
        return super().train(False)

    def low_precision(self, precision: torch.dtype) -> FrozenDiscretizer:
        """Put the networks, not the quantizer, into `precision`; in place."""
        quantizer = copy.deepcopy(self.network.quantize)  # its exact weights, which a cast there and back would round
        self.network.to(precision)
        self.network.quantize = quantizer
        return self

    def exact(self) -> FrozenDiscretizer:
        """Itself, or where its networks are in low precision a copy that computes in float32, with the weights as they are."""
        if self._dtype not in (torch.float16, torch.bfloat16):
            return self
        return copy.deepcopy(self).low_precision(torch.float32)

    def compile_networks(self, **options: Any) -> FrozenDiscretizer:
        """Put encoder and decoder through `torch.compile` with these options; in place, and no key of the weights changes.

        The search is left as it is: its branches depend on the data. The first call with each size of images compiles.
        """
        self.network.encoder.compile(**options)
        self.network.decoder.compile(**options)
        return self

    def forward(self, images: Images) -> Images:
        """`Q(x)`: the reconstruction in [0, 1], of the size and dtype of the input."""
        codes = self.encode(images)
        height, width = images.shape[-2:]
        return self._decode(codes, images.dtype)[..., :height, :width]

    def encode(self, images: Images) -> Codes:
        """Codes of each patch; the grid is the image size over `stride`, rounded up.

        Raises:
            UsageError: not floating point images of 3 channels in [0, 1], or not of the only size that the network takes.
            DivergenceError: the latents are NaN or infinite.
        """
        latents = self.latents(images)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            return self.network.quantize.encode(latents)

    def latents(self, images: Images) -> Latents:
        """What the codes are searched for, in float32 (float64 after `.double()`); the images are never written to.

        Raises:
            UsageError: see `encode`.
        """
        if self.check_range:
            check_images(images)
        check_size(images, self.network)
        low, high = self.network.pixel_range
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            exact = images.to(torch.promote_types(images.dtype, self._dtype))
            padded = pad_to_multiple((high - low) * exact + low, self.stride)
            found = self.network.latents(padded.to(self._dtype))
            return found.to(torch.promote_types(found.dtype, torch.float32))

    def decode(self, codes: Codes) -> Images:
        """Images in [0, 1], `stride` times as large as the grid of codes, in float32 (float64 after `.double()`).

        Raises:
            UsageError: a code is not in the codebook, or codes are no whole numbers, or of another shape than the network's.
        """
        check_codes(codes, self.network)
        return self._decode(codes.long(), torch.promote_types(self._dtype, torch.float32))

    def vectors(self, codes: Codes) -> Latents:
        """The vector of each code as the quantizer holds it, in float32 (float64 after `.double()`), without a gradient."""
        with torch.no_grad(), torch.autocast(codes.device.type, enabled=False):
            return self.network.quantize.decode(codes)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images in [0, 1] of vectors, which need not be those of codes, with a gradient to them; 0 where [0, 1] cuts.

        Of the dtype of the vectors, and `stride` times as large as their grid.
        """
        return self._pixels(vectors, vectors.dtype)

    def neighbours(self, count: int) -> Neighbours:
        """For each code the `count` other codes whose vectors are nearest to its own, the nearest first; ties in any order.

        Sought once per count, over all pairs of codes (16384 of them: some seconds on a CPU core), then kept.

        Raises:
            UsageError: the codebook has fewer other codes, or more than 2**18.
        """
        weights = tuple((tensor.data_ptr(), tensor._version) for tensor in self.network.quantize.parameters())
        key = (count, self._device, weights)
        if key not in self._neighbours:
            self._neighbours = {key: nearest_others(self.codebook(), count)}
        return self._neighbours[key]

    def codebook(self) -> Vectors:
        """The vector of every code.

        Raises:
            UsageError: there are more than 2**18.
        """
        if self.codebook_size > MOST_LISTED:
            raise UsageError(
                f"This discretizer has {self.codebook_size} codes, too many to list; take one of at most {MOST_LISTED}."
            )
        every = torch.arange(self.codebook_size, device=self._device)
        with torch.no_grad(), torch.autocast(every.device.type, enabled=False):
            return self.network.quantize.vectors_of_all(
                every.view(1, 1, -1) if self.network.tokens is None else every.view(1, -1)
            )

    def _decode(self, codes: Codes, dtype: torch.dtype) -> Images:
        with torch.no_grad():
            return self._pixels(self.vectors(codes), dtype)

    def _pixels(self, vectors: Latents, dtype: torch.dtype) -> Images:
        low, high = self.network.pixel_range
        with torch.autocast(vectors.device.type, enabled=False):
            raw = self.network.decode_vectors(vectors.to(self._dtype))
            return ((raw.to(torch.promote_types(raw.dtype, dtype)).clamp(low, high) - low) / (high - low)).to(dtype)

    @property
    def _device(self) -> torch.device:
        return next(self.network.encoder.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.encoder.parameters()).dtype


def nearest_others(vectors: Vectors, count: int) -> Neighbours:
    """For each row the `count` other rows at the smallest Euclidean distances, the smallest first.

    Equal to the search over `sum((a - b)^2)` in float64 up to the order of ties: matrix products name more candidates than
    asked for, and where their rounding may have left out another, all rows are looked at.

    Raises:
        UsageError: there are not so many.
    """
    if not 0 < count < len(vectors):
        raise UsageError(f"neighbours is {count}, but a codebook of {len(vectors)} has 1 to {len(vectors) - 1} other codes.")
    vectors = vectors.double()
    size = max(1, DISTANCES // len(vectors))
    rows = torch.arange(len(vectors), device=vectors.device)
    return torch.cat([_nearest_to(part, vectors, count) for part in rows.split(size)])


def _nearest_to(rows: Rows, vectors: Vectors, count: int) -> Neighbours:
    """The same for some of the rows."""
    squares = _squares(rows, vectors, "use_mm_for_euclid_dist")
    # So many that the first shell of a lattice, whose codes are all tied, is among them.
    candidates = squares.topk(min(4 * count + 32, len(vectors) - 1), largest=False)
    differences = (vectors[candidates.indices] - vectors[rows, None]).square_().sum(dim=2)
    found = differences.topk(count, largest=False)
    near = candidates.indices.gather(1, found.indices)
    longest = torch.linalg.vector_norm(vectors, dim=1).max()
    rounding = (vectors.shape[1] + 8) * 2.0**-50 * longest.square()
    doubtful = (found.values[:, -1] >= candidates.values[:, -1] - rounding).nonzero()[:, 0]
    if candidates.indices.shape[1] < len(vectors) - 1 and len(doubtful):
        plain = _squares(rows[doubtful], vectors, "donot_use_mm_for_euclid_dist")
        near[doubtful] = plain.topk(count, largest=False).indices
    return near


def _squares(rows: Rows, vectors: Vectors, mode: str) -> Tensor:
    """Squared distances of some rows to all, infinite to themselves."""
    squares = torch.cdist(vectors[rows], vectors, compute_mode=mode).square_()
    return squares.scatter_(1, rows[:, None], torch.inf)


def check_codes(codes: Tensor, network: Autoencoder) -> None:
    """Refuse codes that are not the network's.

    Raises:
        UsageError: a code is below 0 or not below the codebook's size, codes are not whole numbers, or of another shape.
    """
    shape = "(batch, rows, columns)" if network.tokens is None else f"(batch, {network.tokens})"
    fits = codes.ndim == 3 if network.tokens is None else codes.shape[1:] == (network.tokens,)
    if not fits or codes.dtype not in WHOLE_NUMBERS or not codes.numel():
        raise UsageError(f"Codes are {codes.dtype} of shape {tuple(codes.shape)}; they must be signed integers {shape}.")
    check_in_codebook(codes, network.codebook_size)


def check_size(images: Tensor, network: Autoencoder) -> None:
    """Refuse images of another size where the network takes one only.

    Raises:
        UsageError: the size that was met, and the one that is taken.
    """
    check_image_size((images.shape[-2], images.shape[-1]), network)


def check_image_size(size: tuple[int, int], network: Autoencoder) -> None:
    """As `check_size`, of images of this height and width."""
    side, tokens = network.image_size, network.tokens
    if side is not None and size != (side, side):
        raise UsageError(
            f"Images are {size[0]} x {size[1]} pixels; this discretizer takes exactly {side} x {side}, as "
            f"{tokens or (side // network.stride) ** 2} codes; resize the images, or take a convolutional one for any size."
        )


def pad_to_multiple(images: Images, stride: int) -> PaddedImages:
    """Reflect images on the right and below up to multiples of `stride`; repeat the border where they are too small."""
    height, width = images.shape[-2:]
    down, right = -height % stride, -width % stride
    if not (down or right):
        return images
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, down), mode=mode)
