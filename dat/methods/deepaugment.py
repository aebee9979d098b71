"""DeepAugment at training time: a share of the images seen through disturbed networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dat.augment import noise2net
from dat.discretizers import decoder_noise
from dat.errors import UsageError
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Images, Task


@dataclass(frozen=True)
class DeepAugment:
    """Train on images of which a share went through a random network each (Noise2Net).

    Source: Hendrycks et al., "The Many Faces of Robustness", ICCV 2021, whose copies of the training set made by networks
    are data, not a method (recipe key `data.extra`); its variant at training time is
    `hendrycks/imagenet-r:DeepAugment/train_noise2net.py`. There the first half of a batch is distorted, here as many spread
    evenly over it, so that every process and micro-batch has its share; and shapes of kernels are drawn per step, not per
    epoch. `epsilon` is the largest weight of what a block adds, drawn per step from its half upwards.
    Cost per step: a random network of 29 k weights or fewer for a share of the images, one forward and backward pass.
    Needs of the model: nothing.
    """

    share: float = 0.5
    epsilon: float = 0.75

    def __post_init__(self) -> None:
        check_sorts(self)
        _check(share=self.share, epsilon=self.epsilon)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the batch with its distorted images."""
        yield task.losses(model, self.distorted(batch).images, batch.targets).mean()

    def distorted(self, batch: Batch) -> Batch:
        """The batch with a share of its images distorted, by its next random numbers."""
        return with_share(batch, self.share, self._through_noise2net)

    def _through_noise2net(self, batch: Batch) -> Images:
        count = 2 * noise2net.BLOCKS * (noise2net.SCALES - 1)
        *numbers, chance = batch.draw_once(torch.rand, count + 1).tolist()
        shapes = noise2net.random_shapes(numbers)
        kernels = batch.draw(torch.rand, noise2net.count_of_numbers(shapes))
        if not len(batch.images):
            return batch.images
        return noise2net.distorted(batch.images, kernels, shapes, epsilon=self.epsilon * (1 + chance) / 2)


@dataclass(frozen=True)
class DeepAugmentDecoder:
    """Train on images of which a share were decoded by the discretizer with disturbed weights and activations.

    Ours, after the source of `DeepAugment`: the discretizer takes the place of its networks, so nothing is downloaded.
    `strength` 1 is meant to be hard but recognisable, 0 shows reconstructions.
    Cost per step: one pass of the discretizer for a share of the images, one forward and backward pass. Needs of the model:
    nothing; the decoder must have convolutions and must not be compiled.
    """

    discretizer: Discretizer
    share: float = 0.5
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_sorts(self)
        _check(share=self.share, strength=self.strength)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the batch with its distorted images.

        Raises:
            UsageError: the discretizer has no decoder of convolutions.
        """
        yield task.losses(model, self.distorted(batch).images, batch.targets).mean()

    def distorted(self, batch: Batch) -> Batch:
        """The batch with a share of its images distorted, by its next random numbers."""
        return with_share(
            batch, self.share, lambda part: decoder_noise.distorted(self.discretizer, part, strength=self.strength)
        )


def with_share(batch: Batch, share: float, distort: Callable[[Batch], Images]) -> Batch:
    """The batch in which a share of the images, evenly spread over the whole step, is what `distort` makes of them.

    The same images are chosen however the step is split; `distort` is called on every part, if need be without images, so
    that every part draws the same numbers.
    """
    total, last = batch.total or len(batch.images), batch.first + len(batch.images)
    # How many of the images before each, and before the end, are chosen.
    before = [math.ceil(share * row) for row in range(batch.first, last + 1)]
    rows = [row for row in range(len(batch.images)) if before[row + 1] > before[row]]
    part = replace(
        batch,
        images=batch.images[rows],
        targets=batch.targets[rows],
        first=before[0],
        total=math.ceil(share * total),
    )
    images = batch.images.clone()
    images[rows] = distort(part)
    return replace(batch, images=images)


def _check(*, share: float, **sizes: float) -> None:
    if not 0 <= share <= 1:
        raise UsageError(f"share is {share}, but it is a share of the images; write a number from 0 to 1.")
    for name, size in sizes.items():
        if not size >= 0:
            raise UsageError(f"{name} is {size}, but it cannot be negative; write 0 or more.")
