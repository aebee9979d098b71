"""From labelled pictures to batches: what is done to each picture, in which order they come, and who fetches them.

Every random number is a function of (seed, epoch, position of the picture), and every order one of (seed, epoch): the
number of workers, the split into batches and a resume change nothing. torch's, NumPy's and Python's global streams are
left as they were found. Knows no model and no device; images leave as RGB in [0, 1], not normalised.
"""

from __future__ import annotations

import math
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int64
from PIL import Image
from timm.data import create_transform  # pyright: ignore[reportPrivateImportUsage]  # timm's documented import
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, InterpolationMode
from torchvision.transforms import functional as vision

from dat.data.embedded import ArraySource, Pixels
from dat.data.folders import ImageSource
from dat.errors import DataError, DatError, UsageError
from dat.types import Images, Indices

Examples = tuple[Images, Any, Indices]
"""Images, targets (of an `ImageDataset` class indices), and the positions of the pictures in their source."""

Key = tuple[int, int]
"""(epoch, position): what a picture's random numbers depend on, besides the seed."""

Positions = Int64[np.ndarray, " batch"]
Draws = Float64[np.ndarray, "count 3"]
Interpolation = Literal["bicubic", "bilinear"]
CropMode = Literal["center", "squash"]

# First word of every seed, so that no two uses share a stream.
ORDER, CROPS, TRANSFORMS = 0, 1, 2


@dataclass(frozen=True)
class CenterCrop:
    """The short side is resized to size / crop_pct, rounded down as timm does, then the centre is cut out. Not random.

    `size` None keeps the pictures as they are; they must then have one size. `resize` says the short side itself; 0 leaves the
    scale as it is, as published corruptions want it; the centre of a smaller picture then has a black border.
    `crop_mode` "squash" resizes both sides to what is otherwise the short one, so that nothing is cropped where crop_pct is 1.

    Raises:
        UsageError: size below 1, crop_pct outside (0, 1], another interpolation or crop_mode, a negative resize.
    """

    size: int | None = None
    crop_pct: float = 0.875
    interpolation: Interpolation = "bicubic"
    resize: int | None = None
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        _require(self.size is None or self.size >= 1, "size", self.size, "1 or more, or none for the native size")
        _require(0 < self.crop_pct <= 1, "crop_pct", self.crop_pct, "a number above 0, at most 1")
        _require(self.interpolation in ("bicubic", "bilinear"), "interpolation", self.interpolation, "bicubic, bilinear")
        _require(self.resize is None or self.resize >= 0, "resize", self.resize, "the short side in pixels, or 0 for none")
        _require(self.crop_mode in ("center", "squash"), "crop_mode", self.crop_mode, "center or squash")

    @property
    def short_side(self) -> int:
        """To which the pictures are resized before the crop, both sides where they are squashed; 0 where they are not."""
        return math.floor((self.size or 0) / self.crop_pct) if self.resize is None else self.resize

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture, cropped."""
        if self.size is None:
            return picture
        scaled: Any = picture
        if self.short_side:
            sides = [self.short_side] * (2 if self.crop_mode == "squash" else 1)
            scaled = vision.resize(scaled, sides, InterpolationMode(self.interpolation))
        return cast(Image.Image, vision.center_crop(scaled, [self.size]))


@dataclass(frozen=True)
class CropFlip:
    """CIFAR's training: `padding` pixels on each side, a random crop of the first size, mirrored half of the time.

    `view` is taken of each picture before. `fill` is what the border shows.

    Raises:
        UsageError: negative padding, another fill.
    """

    padding: int = 4
    fill: Literal["zeros", "reflect"] = "zeros"
    flip: bool = True
    view: CenterCrop = field(default_factory=CenterCrop)

    def __post_init__(self) -> None:
        _require(self.padding >= 0, "padding", self.padding, "0 or more")
        _require(self.fill in ("zeros", "reflect"), "fill", self.fill, "zeros or reflect")


@dataclass(frozen=True)
class ImageNet:
    """ImageNet's training, by timm: random resized crop, mirror, colour jitter or automatic augmentation.

    `auto_augment` is timm's word for it (`rand-m9-mstd0.5-inc1`, `augmix-m3-w3`); colour jitter is then off, as in timm.
    `border` is the colour in [0, 1] that shifted pictures show; black, as in the official DAT recipe (`--mean 0 0 0`),
    where timm's default is ImageNet's mean. No normalisation.
    `erase` is the probability that a rectangle of 2 to 33 % of the picture becomes noise, each value normal around ImageNet's
    mean with its deviation, as timm's random erasing shows it to a model; but clipped to [0, 1], where the official DAT code
    lets it leave the range of pictures (a mean and a deviation of 0 and 1: 11.5 % of the picture's values do).
    `jitter`, `grey` and `blur` are the probabilities of colour jitter (None: always), of no colour at all, and of a blur; four
    numbers of `color_jitter` are its brightness, contrast, saturation and hue.

    Raises:
        UsageError: timm refuses the settings.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    color_jitter: float | tuple[float, float, float, float] = 0.4
    auto_augment: str | None = None
    interpolation: Literal["random", "bicubic", "bilinear"] = "random"
    border: tuple[float, float, float] = (0.0, 0.0, 0.0)
    erase: float = 0.0
    jitter: float | None = None
    grey: float = 0.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        _require(self.size >= 1, "size", self.size, "1 or more")
        for name in ("flip", "erase", "jitter", "grey", "blur"):
            _require(0 <= (getattr(self, name) or 0) <= 1, name, getattr(self, name), "a probability, from 0 to 1")
        known = ("random", "bicubic", "bilinear")
        _require(self.interpolation in known, "interpolation", self.interpolation, ", ".join(known))
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            _require(0 < low <= high, name, (low, high), "two numbers above 0, the smaller first")
        self.build()

    def build(self) -> Callable[[Image.Image], Tensor]:
        """timm's transform: a picture to 8-bit values (3, size, size); draws from the global streams."""
        try:
            transform = create_transform(
                self.size,
                is_training=True,
                scale=self.scale,
                ratio=self.ratio,
                hflip=self.flip,
                color_jitter=self.color_jitter,
                color_jitter_prob=self.jitter,
                grayscale_prob=self.grey,
                gaussian_blur_prob=self.blur,
                auto_augment=self.auto_augment,
                interpolation=self.interpolation,
                mean=self.border,
                normalize=False,
            )
        except (AssertionError, ValueError, KeyError) as error:
            raise UsageError(f"timm refuses the augmentation {self.auto_augment!r} ({error}); see its names.") from error
        erasing = [_Erasing(self.erase)] if self.erase else []
        return cast(Callable[[Image.Image], Tensor], Compose([transform, *erasing]))


class _Erasing:
    """timm's random erasing of 8-bit values, in its mode "pixel"; draws from the global streams."""

    def __init__(self, probability: float) -> None:
        self.noise = RandomErasing(probability, mode="pixel", device="cpu")

    def __call__(self, pixels: Tensor) -> Tensor:
        noise = self.noise(torch.full(pixels.shape, torch.nan))  # what it leaves alone stays NaN
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        values = (noise * std + mean).clamp(0, 1).mul(255).round().nan_to_num()
        return torch.where(noise.isnan(), pixels, values.to(pixels.dtype))


Transform = CenterCrop | CropFlip | ImageNet


@runtime_checkable
class Fetched(Protocol):
    """What batches are fetched from: pictures by (epoch, position) keys."""

    def __len__(self) -> int:
        """How many pictures."""
        ...

    def __getitems__(self, keys: Sequence[Key]) -> Examples:
        """Images, targets and positions of a batch."""
        ...


class ImageDataset(Dataset[Examples]):
    """Pictures of a source under a transform, fetched a batch at a time by (epoch, position) keys."""

    def __init__(self, source: ImageSource, transform: Transform, *, seed: int) -> None:
        _require(seed >= 0, "seed", seed, "0 or more")
        self.source, self.transform, self.seed = source, transform, seed
        self._augment = transform.build() if isinstance(transform, ImageNet) else None

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.source)

    def __getitem__(self, key: Key) -> Examples:
        """A batch of one."""
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> Examples:
        """Images (float32 in [0, 1]), targets and positions of a whole batch.

        Raises:
            DataError: a picture cannot be read, or the pictures differ in size under a transform that keeps it.
        """
        epochs, positions = np.array(keys, dtype=np.int64).reshape(-1, 2).T
        pixels = self._pixels(epochs, positions)
        images = torch.from_numpy(pixels).to(torch.float32).div_(255)
        targets = torch.from_numpy(self.source.targets[positions])
        return images, targets, torch.from_numpy(positions.copy())

    def _pixels(self, epochs: Positions, positions: Positions) -> Pixels:
        if self._augment is not None:
            return self._augmented(epochs, positions, self._augment)
        if isinstance(self.transform, CropFlip):
            draws = crop_draws(self.seed, epochs, positions, length=len(self))
            return crop_flip(self._viewed(self.transform.view, positions), draws, settings=self.transform)
        return self._viewed(cast(CenterCrop, self.transform), positions)

    def _viewed(self, view: CenterCrop, positions: Positions) -> Pixels:
        if view.size is None and isinstance(self.source, ArraySource):
            return self.source.images[positions]
        arrays = [np.asarray(view(self.source.read(int(position)))).transpose(2, 0, 1) for position in positions]
        for position, array in zip(positions, arrays, strict=True):
            if array.shape != arrays[0].shape:
                first, other = (self.source.name(int(index)) for index in (positions[0], position))
                sizes = f"{first} is {_size(arrays[0])} but {other} is {_size(array)}"
                raise DataError(f"{sizes}; set a size in the transform, so that they fit one batch.")
        return np.stack(arrays)

    def _augmented(self, epochs: Positions, positions: Positions, augment: Callable[[Image.Image], Tensor]) -> Pixels:
        results = []
        with global_streams() as seed_streams:
            for epoch, position in zip(epochs.tolist(), positions.tolist(), strict=True):
                picture = self.source.read(position)
                seed_streams((TRANSFORMS, self.seed, epoch, position))
                results.append(augment(picture))
        return torch.stack(results).numpy()


def crop_draws(seed: int, epochs: Positions, positions: Positions, *, length: int) -> Draws:
    """Three numbers in [0, 1) per picture: down, right, mirrored. A function of (seed, epoch, position) only."""
    draws = np.empty((len(positions), 3))
    for epoch in np.unique(epochs).tolist():
        rows = epochs == epoch
        draws[rows] = _epoch_draws(seed, epoch, length)[positions[rows]]
    return draws


def crop_flip(pixels: Pixels, draws: Draws, *, settings: CropFlip) -> Pixels:
    """Pad, crop to the same size, mirror; all pictures at once.

    Raises:
        DataError: a reflected border as wide as the picture.
    """
    height, width = pixels.shape[2:]
    border = settings.padding
    if settings.fill == "reflect" and border >= min(height, width):
        size = f"{width}x{height}"
        raise DataError(f"Pictures of {size} cannot be reflected by {border} pixels; set a smaller padding or zeros.")
    sides = ((0, 0), (0, 0), (border, border), (border, border))
    padded = np.pad(pixels, sides, mode="reflect" if settings.fill == "reflect" else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    down, right = (draws[:, :2] * (2 * border + 1)).astype(np.int64).T
    cropped = windows[np.arange(len(pixels)), :, down, right]
    if settings.flip:
        mirrored = draws[:, 2] < 0.5
        cropped[mirrored] = cropped[mirrored, ..., ::-1]
    return cropped


@dataclass(frozen=True)
class TrainingOrder:
    """Which pictures a process sees in each micro-batch of an epoch.

    Optimizer step k takes rows [k B, (k+1) B) of the epoch's permutation, B = `batch_size`, counted over all processes
    and accumulated micro-batches; micro-batch a of process p is its rows [(a P + p) m, (a P + p + 1) m), with
    m = B / (P accumulate). So one step sees the same rows in the same order however it is divided. What is left over at
    the end of an epoch is dropped.

    Raises:
        UsageError: batch_size is larger than the set or not divisible by processes * accumulate; a count below 1.
    """

    length: int
    batch_size: int
    accumulate: int = 1
    processes: int = 1
    process: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "processes"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _require(0 <= self.process < self.processes, "process", self.process, f"0 to {self.processes - 1}")
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
        shares = self.processes * self.accumulate
        if self.batch_size % shares:
            parts = f"{self.processes} processes x {self.accumulate} accumulated batches"
            raise UsageError(f"A batch_size of {self.batch_size} cannot be shared by {parts}; use a multiple of {shares}.")
        if self.length < self.batch_size:
            fact = f"The data set has {self.length} pictures, fewer than one batch of {self.batch_size}"
            raise UsageError(f"{fact}; set a smaller batch_size or use more pictures.")

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return self.length // self.batch_size

    @property
    def micro_batch(self) -> int:
        """Pictures that one process sees at once."""
        return self.batch_size // (self.processes * self.accumulate)

    def first_row(self, accumulate_index: int) -> int:
        """Where this process's micro-batch begins among the rows of its step."""
        return (accumulate_index * self.processes + self.process) * self.micro_batch

    def permutation(self, epoch: int) -> Indices:
        """Order of all pictures in an epoch; the same on every process."""
        generator = torch.Generator().manual_seed(_words((ORDER, self.seed, epoch), 1)[0])
        return torch.randperm(self.length, generator=generator)

    def batches(self, epoch: int, *, start_step: int = 0) -> Iterator[list[Key]]:
        """Keys of each micro-batch from `start_step` on: `accumulate` of them for every optimizer step.

        Raises:
            UsageError: the epoch has fewer steps.
        """
        last = self.steps_per_epoch
        _require(0 <= start_step <= last, "start_step", start_step, f"0 to {last}, the steps of an epoch")
        rows = self.permutation(epoch).tolist()
        steps = (step * self.batch_size for step in range(start_step, last))
        firsts = (step + self.first_row(index) for step in steps for index in range(self.accumulate))
        return ([(epoch, row) for row in rows[first : first + self.micro_batch]] for first in firsts)


def training_batches(
    dataset: Fetched, order: TrainingOrder, *, epoch: int, start_step: int = 0, workers: int = 0
) -> Iterator[Examples]:
    """Micro-batches of this process from `start_step` of an epoch to its end. Close the iterator to stop early.

    Raises:
        UsageError: the order is for another number of pictures, or as `TrainingOrder.batches`.
        DataError: a picture cannot be used, or a worker died.
    """
    if len(dataset) != order.length:
        raise UsageError(f"The order is for {order.length} pictures, the data set has {len(dataset)}; use its length.")
    return fetch(dataset, order.batches(epoch, start_step=start_step), workers=workers)


def evaluation_batches(
    dataset: Fetched, batch_size: int, *, processes: int = 1, process: int = 0, workers: int = 0
) -> Iterator[Examples]:
    """Every picture once over all processes, none twice: process p takes p, p + processes, ... in order.

    `batch_size` is per process; the last batch may be smaller.

    Raises:
        UsageError: a batch_size below 1, or no such process.
        DataError: a picture cannot be used, or a worker died.
    """
    _require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    _require(0 <= process < processes, "process", process, f"0 to {processes - 1}")
    keys = [(0, position) for position in range(process, len(dataset), processes)]
    return fetch(dataset, (keys[first : first + batch_size] for first in range(0, len(keys), batch_size)), workers=workers)


def fetch(dataset: Fetched, batches: Iterable[list[Key]], *, workers: int) -> Iterator[Examples]:
    """Batches in the order of their keys, by this process (`workers` 0) or by that many worker processes.

    Errors of a worker arrive as they were raised there. Workers end with the iterator: at its end, at an error, on close.

    Raises:
        UsageError: a negative number of workers.
        DataError: a picture cannot be used, or a worker died.
    """
    _require(workers >= 0, "workers", workers, "0 (this process) or more")
    return _fetch_by_workers(dataset, batches, workers) if workers else map(dataset.__getitems__, batches)


def _fetch_by_workers(dataset: Fetched, batches: Iterable[list[Key]], workers: int) -> Iterator[Examples]:
    # A generator of its own, because the loader would draw its seed from torch's global stream.
    loader = DataLoader(
        _Reporting(dataset),
        batch_sampler=cast(Any, batches),
        num_workers=workers,
        collate_fn=cast(Any, _unchanged),
        generator=torch.Generator(),
    )
    results = iter(loader)
    with _noted_deaths() as deaths:
        try:
            while (result := _next_of_workers(results, deaths)) is not None:
                if isinstance(result, DatError):
                    raise result
                yield result
        finally:
            cast(Any, results)._shutdown_workers()  # else they live as long as a traceback refers to the iterator


def _next_of_workers(results: Iterator[Examples | DatError], deaths: list[str]) -> Examples | DatError | None:
    """The next result, None after the last; a worker's death is a DataError, whichever way it shows."""
    if deaths:
        raise _worker_death(deaths[0])
    try:
        return next(results, None)
    except (RuntimeError, OSError, EOFError) as error:
        if said := deaths[0] if deaths else _said_of_death(error):
            raise _worker_death(said) from error
        raise


def _said_of_death(error: Exception) -> str:
    """Empty of what a worker raised itself, which begins with "Caught"; the rest comes from the loader and its connections."""
    if isinstance(error, RuntimeError):
        return str(error) if str(error).startswith("DataLoader worker (pid") else ""
    return "" if str(error).startswith("Caught") else f"its connection broke ({type(error).__name__})"


class _Reporting(Dataset[Examples | DatError]):
    """Returns our errors instead of raising: the loader would replace their message by a traceback."""

    def __init__(self, dataset: Fetched) -> None:
        self.dataset = dataset

    def __getitems__(self, keys: Sequence[Key]) -> Examples | DatError:
        try:
            return self.dataset.__getitems__(keys)
        except DatError as error:
            return error


def _unchanged(batch: Examples | DatError) -> Examples | DatError:
    return batch


@contextmanager
def _noted_deaths() -> Iterator[list[str]]:
    """What torch says of workers that died, as they die.

    torch raises it from a signal handler: at any line of the training loop, or in a destructor, where it is lost.
    """
    by_torch = signal.getsignal(signal.SIGCHLD)
    deaths: list[str] = []

    def note(number: int, frame: Any) -> None:
        try:
            if callable(by_torch):
                by_torch(number, frame)
        except RuntimeError as error:
            deaths.append(str(error))

    if _handlers_can_be_set():
        signal.signal(signal.SIGCHLD, note)
    try:
        yield deaths
    finally:
        if _handlers_can_be_set() and signal.getsignal(signal.SIGCHLD) is note:
            signal.signal(signal.SIGCHLD, by_torch)


def _handlers_can_be_set() -> bool:
    return threading.current_thread() is threading.main_thread()


def _worker_death(said: str) -> DataError:
    cause = said.splitlines()[0].rstrip(". ")
    advice = "set fewer workers (0 always works), or give the machine more memory or shared memory (/dev/shm)"
    return DataError(f"A process that reads pictures died: {cause}; {advice}.")


@contextmanager
def global_streams() -> Iterator[Callable[[tuple[int, ...]], None]]:
    """Lends Python's, NumPy's and torch's global streams (CPU) to code that draws from them, then gives them back.

    What is lent is a function that seeds all three.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()

    def seed_streams(entropy: tuple[int, ...]) -> None:
        words = _words(entropy, 3)
        random.seed(words[0])
        np.random.seed(words[1] % 2**32)
        torch.default_generator.manual_seed(words[2])  # torch.manual_seed would reseed the accelerators, too

    try:
        yield seed_streams
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


@lru_cache(maxsize=2)
def _epoch_draws(seed: int, epoch: int, length: int) -> Draws:
    return np.random.default_rng((CROPS, seed, epoch)).random((length, 3))


def _words(entropy: tuple[int, ...], count: int) -> list[int]:
    return np.random.SeedSequence(entropy).generate_state(count, np.uint64).tolist()


def _size(array: np.ndarray) -> str:
    return f"{array.shape[2]}x{array.shape[1]}"


def _require(holds: bool, name: str, value: object, instead: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {value!r}; write {instead}.")
