"""How a discretizer does after each epoch: quality of its reconstructions, an alarm for a dying codebook, some pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dat.data.pipeline import ImageDataset, evaluation_batches
from dat.data.subset import Subset
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.objective import Perceptual
from dat.discretizers.quality import ReconstructionQuality, is_collapsed
from dat.nn.imagenet_networks import ImageNetNetwork
from dat.results import write_arrays
from dat.types import Images, PerImage, Place

PICTURES = 8
KEPT_EPOCHS = 9
MOST, PIXELS = 256, 2**20
"""So many pictures at a time, and so many pixels of them, are compared with their reconstructions."""


def reconstruction_quality(
    discretizer: FrozenDiscretizer,
    test: ImageDataset,
    place: Place,
    *,
    perceptual: Perceptual | None = None,
    features: ImageNetNetwork | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """The measures of `ReconstructionQuality` over all test pictures, on this process alone; `advance` is told how many."""
    return examined(discretizer, test, place, perceptual=perceptual, features=features, advance=advance).compute()


def digest(discretizer: FrozenDiscretizer) -> str:
    """SHA-256 over all tensors of a discretizer."""
    found = hashlib.sha256()
    for name, tensor in sorted(discretizer.state_dict().items()):
        found.update(name.encode() + str(tensor.dtype).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def examined(
    discretizer: FrozenDiscretizer,
    test: ImageDataset,
    place: Place,
    *,
    perceptual: Perceptual | None = None,
    features: ImageNetNetwork | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> ReconstructionQuality:
    """All test pictures, discretized and compared with their reconstructions."""
    named = _Named(perceptual) if perceptual is not None else None
    quality = ReconstructionQuality(discretizer.codebook_size, perceptual=named, features=features)
    rows, columns = test[0, 0][0].shape[-2:]
    for fetched in evaluation_batches(test, max(1, min(MOST, PIXELS // (rows * columns)))):
        images = fetched[0].to(place.device)
        codes = discretizer.encode(images)
        quality.update(images, discretizer.decode(codes)[..., : images.shape[2], : images.shape[3]], codes)
        advance(len(images))
    return quality


class _Named:
    """A perceptual distance under its own name, or, of a function, that of the function."""

    def __init__(self, distance: Perceptual) -> None:
        self.distance = distance
        self.name = str(getattr(distance, "name", getattr(distance, "__name__", "perceptual_distance")))

    def __call__(self, images: Images, references: Images) -> PerImage:
        return self.distance(images, references)


def usage_alarm(used: float, codebook_size: int, *, places: int, has_codebook: bool) -> str:
    """One sentence where less than a tenth of the codes that `places` positions could use is used; else nothing."""
    if not is_collapsed(used * codebook_size / min(codebook_size, places)):
        return ""
    advice = (
        "write training.revive_every: 20 and training.codebook_update: ema, or a smaller network.n_embed"
        if has_codebook
        else "raise objective.entropy_weight, or give the quantizer fewer codes"
    )
    return f"Only {used:.1%} of the {codebook_size} codes are used at the {places} positions of the test pictures; {advice}."


def example_pictures(test: ImageDataset) -> Images:
    """A few pictures, evenly spread over the test set."""
    positions = np.unique(np.linspace(0, len(test) - 1, min(PICTURES, len(test))).round().astype(np.int64))
    return next(evaluation_batches(ImageDataset(Subset(test.source, positions), test.transform, seed=test.seed), PICTURES))[0]


def keep_reconstructions(path: Path, originals: Images, reconstructions: Images, *, epoch: int, epochs: int) -> None:
    """Add the reconstructions after `epoch` to the file of arrays at `path`, atomically; 8 bits, colours last.

    It holds `original` and `epoch_<n>`, n from 1: of the newest epoch, and of at most nine that are spread over all.
    """
    spread = np.linspace(0, epochs - 1, KEPT_EPOCHS).round().astype(np.int64)
    names = {f"epoch_{number + 1}" for number in spread.tolist() if number < epoch}
    earlier: dict[str, np.ndarray] = {}
    if path.is_file():
        with np.load(path) as stored:
            earlier = {name: stored[name] for name in stored.files if name in names}
    arrays = {"original": _bytes(originals), **earlier, f"epoch_{epoch + 1}": _bytes(reconstructions)}
    write_arrays(path, **arrays)


def _bytes(images: Images) -> np.ndarray:
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
