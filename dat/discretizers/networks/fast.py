"""A light discretizer that stands for a heavy one: its codes at a fraction of its FLOPs.

All of it works at the resolution of the codes: one strided convolution, residual blocks of a 5x5 depthwise and two 1x1
convolutions, no attention and no norm (it trains without, and a norm costs memory traffic), a pixel shuffle.
It is made for a teacher here; `dat.engine.distill` trains it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dat.discretizers.autoencoder import Autoencoder, Quantizer
from dat.discretizers.configuration import check_values, settings_from
from dat.discretizers.quantizers.cosine import CosineQuantizer
from dat.discretizers.quantizers.finite_scalar import FiniteScalarQuantizer
from dat.discretizers.quantizers.gumbel import GumbelQuantizer
from dat.discretizers.quantizers.index_propagation import IndexPropagationQuantizer
from dat.discretizers.quantizers.lookup_free import LookupFreeQuantizer
from dat.discretizers.quantizers.nearest import Codebook, TrainableQuantizer, VectorQuantizer
from dat.discretizers.quantizers.table import check_quantizer, create_quantizer
from dat.errors import UsageError
from dat.nn.weights import build_strictly
from dat.types import Codes, Images, Latents

Features = Float[Tensor, "batch channels rows columns"]
Placed = Float[Tensor, "batch kept rows columns"]
Axes = Float[Tensor, "depth kept"]
Centre = Float[Tensor, " depth"]
Tensors = Mapping[str, Tensor]

KIND = "a fast discretizer"
EXPANSION = 2
WIDTH_STEP = 8
"""Widths are multiples of it, as vector units like them."""
WIDEST = 4096
LOST = 0.001
"""Part of the squared distance between neighbouring codes that the axes left out may hold; of the 128 of a trained
VQ-VAE 10 are kept (8 give 99.93 % of its codes on photographs, 12 give 99.95 %), and the search costs a 13th."""
SAMPLED_ROWS = 1024

# Quantizers that have no nearest code, or none to search: the student has the same, over the same latents.
COPIED: dict[type[Quantizer], str] = {
    FiniteScalarQuantizer: "fsq",
    LookupFreeQuantizer: "lfq",
    IndexPropagationQuantizer: "ibq",
    GumbelQuantizer: "gumbel",
}
NEAREST = (VectorQuantizer, CosineQuantizer)


@dataclass(frozen=True)
class FastConfig:
    """Shape of the network. `width`: channels of all blocks; `depth`: of the latents; `stride`: pixels per code.

    `quantizer` is a name of `dat.discretizers.quantizers.table`; `levels` are those of "fsq".
    """

    codebook_size: int
    depth: int
    stride: int
    width: int = 64
    encoder_blocks: int = 2
    decoder_blocks: int = 2
    quantizer: str = "vq"
    levels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_values(self, vars(self), KIND)
        check_quantizer(self.quantizer, self.codebook_size, self.depth, self.levels or ())

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> FastConfig:
        """From a dictionary of these words.

        Raises:
            UsageError: a word is unknown or missing, or a value is none.
        """
        return settings_from(config, cls, KIND)

    def to_dict(self) -> dict[str, object]:
        """What `from_dict` takes and JSON holds."""
        return {**asdict(self), "levels": None if self.levels is None else list(self.levels)}


class FastAutoencoder(Autoencoder):
    """Encoder, the teacher's codes, decoder. Images are in [-1, 1] here; `FrozenDiscretizer` speaks [0, 1]."""

    layout = "fast"

    def __init__(self, config: FastConfig) -> None:
        super().__init__()
        # Set once, so these types may be narrower than the interface's.
        self.config: FastConfig = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.codebook_size, self.stride = config.codebook_size, config.stride
        width, stride = config.width, config.stride
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, stride, stride),
            *(LightBlock(width) for _ in range(config.encoder_blocks)),
            nn.Conv2d(width, config.depth, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.depth, width, 1),
            *(LightBlock(width) for _ in range(config.decoder_blocks)),
            nn.Conv2d(width, 3 * stride**2, 1),
            nn.PixelShuffle(stride),
        )
        quantizer = create_quantizer(config.quantizer, config.codebook_size, config.depth, config.levels or ())
        self.quantize: TrainableQuantizer = quantizer  # pyright: ignore[reportIncompatibleVariableOverride]
        self.quantize.requires_grad_(False)

    def latents(self, images: Images) -> Latents:
        """What the quantizer sees, for images in [-1, 1] whose sides are multiples of the stride."""
        return self.encoder(images)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images around [-1, 1], not clamped."""
        return self.decoder(vectors)

    def forward(self, images: Images, codes: Codes) -> tuple[Latents, Images]:
        """Latents of images in [-1, 1], and the reconstruction of codes that need not be theirs: the halves train apart."""
        return self.latents(images), self.decode_vectors(self.quantize.decode(codes))


class LightBlock(nn.Module):
    """Depthwise 5x5, then two 1x1 convolutions about a ReLU, beside a shortcut; the identity when it is new.

    The last convolution starts at 0, by which deep stacks train without a norm. Source: Zhang et al. (2019), Fixup.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.widen = nn.Conv2d(width, EXPANSION * width, 1)
        self.narrow = nn.Conv2d(EXPANSION * width, width, 1)
        for parameter in self.narrow.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Features) -> Features:
        """Features of the same shape."""
        return features + self.narrow(F.relu_(self.widen(self.mix(features))))


def build_fast(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> FastAutoencoder:
    """The fast discretizer that has these tensors.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape; the message names them.
        UsageError: there is no `config`, or it is none of a fast discretizer.
    """
    if config is None:
        raise UsageError(f"{name} holds {KIND} without its configuration; give config with codebook_size, depth, stride, ...")
    settings = FastConfig.from_dict(config)
    return build_strictly(lambda: FastAutoencoder(settings), tensors, name=name)


# ---- the teacher's codes


@dataclass(frozen=True)
class Frame:
    """Where a student's latents lie: `(z - centre) @ axes` of the teacher's `z`, at length 1 before if `unit`.

    Nearest codes there are nearest codes of the teacher, but for what lies outside the axes.
    """

    centre: Centre
    axes: Axes
    unit: bool = False

    def place(self, latents: Latents) -> Placed:
        """The teacher's latents as the student's."""
        rows = (F.normalize(latents, dim=1) if self.unit else latents).movedim(1, -1)
        return ((rows - self.centre.to(rows)) @ self.axes.to(rows)).movedim(-1, 1)


def frame_of(teacher: Autoencoder, depth: int) -> Frame | None:
    """The first `depth` principal axes of the teacher's codebook, its nearest codes about 1 apart; None: its own latents.

    It lies on the CPU, and is computed there: the same quantizer gives the same frame on every device of a machine.

    Raises:
        UsageError: the teacher has fewer axes, or codes that no student can have.
    """
    quantizer = _shareable(teacher)
    if not isinstance(quantizer, NEAREST):
        return None
    rows = _rows(quantizer).cpu()
    if depth > rows.shape[1]:
        raise UsageError(f"depth is {depth}, but the codes of the teacher have {rows.shape[1]} channels; write that or less.")
    centre, _, axes = _principal_axes(rows)
    # Contiguous, as a saved one is: the strides decide in which order a product is summed, and so its last bits.
    kept = (axes[:, :depth] / neighbour_distance(rows)).float().contiguous()
    return Frame(centre.float(), kept, unit=isinstance(quantizer, CosineQuantizer))


def student_of(teacher: Autoencoder, config: FastConfig) -> FastAutoencoder:
    """An untrained student with the teacher's codes; its weights are drawn from torch's global stream.

    Raises:
        UsageError: the configuration is not that of this teacher's codes, or no student can have them.
    """
    quantizer, frame = _shareable(teacher), frame_of(teacher, config.depth)
    expected = replace(_shape_of_codes(teacher, config.depth), **_own_sizes(config))
    if config != expected:
        raise UsageError(f"The student's configuration {config} does not fit its teacher; write {expected}.")
    student = FastAutoencoder(config)
    if frame is None:
        student.quantize.load_state_dict(copy.deepcopy(quantizer.state_dict()))
    else:
        placed = frame.place(_rows(quantizer).float()[:, :, None, None])
        student.quantize.load_state_dict({"embedding.weight": placed.flatten(1)})
    return student


def affordable(
    teacher: Autoencoder, *, size: int, budget: float = 0.02, encoder_blocks: int = 3, decoder_blocks: int = 3
) -> FastConfig:
    """The widest student that takes at most `budget` of the teacher's FLOPs for an image of `size` x `size` pixels.

    Its latents have as few channels as the teacher's codebook needs; of a teacher on the meta device, all.

    Raises:
        UsageError: no student is that small, or none can have the teacher's codes.
    """
    shape = _shape_of_codes(teacher, _needed_depth(teacher))
    limit = budget * flops_per_image(teacher, size)
    shape = replace(shape, encoder_blocks=encoder_blocks, decoder_blocks=decoder_blocks)

    def fits(steps: int) -> bool:
        with torch.device("meta"):
            return flops_per_image(FastAutoencoder(replace(shape, width=WIDTH_STEP * steps)), size) <= limit

    fitting, too_wide = 0, WIDEST // WIDTH_STEP + 1
    while too_wide - fitting > 1:
        middle = (fitting + too_wide) // 2
        fitting, too_wide = (middle, too_wide) if fits(middle) else (fitting, middle)
    if not fitting:
        raise UsageError(
            f"No student with {encoder_blocks} + {decoder_blocks} blocks takes {budget:g} of the teacher's "
            f"{limit / budget / 1e9:.3g} GFLOP at {size} pixels; raise the budget or take fewer blocks."
        )
    return replace(shape, width=WIDTH_STEP * fitting)


def flops_per_image(network: Autoencoder, size: int) -> int:
    """FLOPs of one pass over an image of `size` x `size` pixels, 2 per multiplication with its addition; nothing is run.

    Convolutions, matrix products and attention, by PyTorch's formulas; in the search, every weight meets every position.
    """
    meta = copy.deepcopy(network).to("meta").float()
    side = -(-size // network.stride) * network.stride
    images = torch.empty(1, 3, side, side, device="meta")
    grid = (network.tokens,) if network.tokens is not None else (side // network.stride, side // network.stride)
    codes = torch.empty((1, *grid), dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta.latents(images)
        meta.decode_vectors(meta.quantize.decode(codes))
    return counter.get_total_flops() + 2 * codes.numel() * sum(weight.numel() for weight in meta.quantize.parameters())


def neighbour_distance(rows: Codebook) -> float:
    """Root mean square distance of codes to the nearest other code, over at most 1024 of them in even steps."""
    some = torch.arange(0, len(rows), -(-len(rows) // SAMPLED_ROWS), device=rows.device)
    distances = torch.cdist(rows[some], rows).index_put((torch.arange(len(some)), some), rows.new_tensor(torch.inf))
    return max(distances.amin(dim=1).square().mean().sqrt().item(), torch.finfo(torch.float32).tiny)


def _shape_of_codes(teacher: Autoencoder, depth: int) -> FastConfig:
    quantizer = _shareable(teacher)
    levels = quantizer.levels if isinstance(quantizer, FiniteScalarQuantizer) else None
    name = COPIED.get(type(quantizer), "vq")
    return FastConfig(teacher.codebook_size, depth, teacher.stride, quantizer=name, levels=levels)


def _own_sizes(config: FastConfig) -> dict[str, int]:
    return {name: getattr(config, name) for name in ("width", "encoder_blocks", "decoder_blocks")}


def _shareable(teacher: Autoencoder) -> Quantizer:
    if teacher.tokens is None and type(teacher.quantize) in (*NEAREST, *COPIED):
        return teacher.quantize
    raise UsageError(
        f"A student cannot have the codes of this teacher, {type(teacher).__name__} with {type(teacher.quantize).__name__}; "
        "take one with a grid of codes and a codebook of vectors, or levels or signs, such as a VQGAN."
    )


def _rows(quantizer: Quantizer) -> Codebook:
    """The vectors that are searched, in float64."""
    rows = quantizer.get_parameter("embedding.weight").detach().double()
    return F.normalize(rows, dim=1) if isinstance(quantizer, CosineQuantizer) else rows


def _principal_axes(rows: Codebook) -> tuple[Centre, Centre, Axes]:
    """Mean of the rows, their variance along each principal axis (largest first), and the axes, signs settled."""
    centre = rows.mean(dim=0)
    variances, axes = torch.linalg.eigh((rows - centre).T @ (rows - centre) / len(rows))
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return centre, variances.flip(0).clamp(min=0), (axes * largest.sign()).flip(1)


def _needed_depth(teacher: Autoencoder) -> int:
    quantizer = _shareable(teacher)
    if isinstance(quantizer, FiniteScalarQuantizer):
        return len(quantizer.levels)
    if isinstance(quantizer, LookupFreeQuantizer):
        return quantizer.bits
    if isinstance(quantizer, GumbelQuantizer):
        return quantizer.embed.embedding_dim
    weight = quantizer.get_parameter("embedding.weight")
    if weight.is_meta or not isinstance(quantizer, NEAREST):
        return weight.shape[1]
    rows = _rows(quantizer)
    _, variances, _ = _principal_axes(rows)
    lost = variances.sum() - variances.cumsum(0)
    return min(int((lost > LOST * neighbour_distance(rows) ** 2).sum()) + 1, weight.shape[1])
