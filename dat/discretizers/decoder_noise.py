"""Images distorted by a discretizer whose decoder is disturbed: DeepAugment without a network to download.

Ours, after the idea of Hendrycks et al., "The Many Faces of Robustness" (DeepAugment), ICCV 2021: a network that
reproduces images makes other images of the same content when its weights and activations are changed. The source takes a
super-resolution network and an autoencoder, and distorts the training set beforehand; here any convolutional discretizer
serves, at every step anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from dat.discretizers.networks import vqgan
from dat.errors import UsageError
from dat.types import Batch, Discretizer, Images

Features = Float[Tensor, "batch channels rows columns"]
Kernels = Float[Tensor, "out in rows columns"]
PerChannel = Float[Tensor, "batch channels"]
Field = Float[Tensor, "batch 1 rows columns"]

DISTURBED = 3
"""How many layers have their weights changed, and how many their activations; as many as the source changes."""
FIELD = 4
"""Side of the grid of random numbers from which a smooth change over an image is interpolated."""


@dataclass(frozen=True)
class Layer:
    """A convolution of the decoder: its kernels, by their name in the discretizer, and the module that holds them."""

    name: str
    kernels: Tensor
    module: nn.Module


@dataclass(frozen=True)
class Disturbance:
    """What happens to the activations of one layer: a factor per channel and image, and one that varies over the image."""

    factors: PerChannel
    field: Field

    def __call__(self, _: nn.Module, __: object, features: Features) -> Features:
        """The features so changed; a forward hook."""
        smooth = F.interpolate(self.field, size=features.shape[2:], mode="bilinear", align_corners=False)
        return features * (self.factors[:, :, None, None] * smooth).to(features.dtype)


def distorted(discretizer: Discretizer, batch: Batch, *, strength: float) -> Images:
    """The images of a batch encoded, and decoded with changed weights and activations; in [0, 1].

    The change of the weights is one for the whole step, that of the activations is each image's own. Mean and deviation of
    each channel are those of the image again. The discretizer is left as it was. Without gradients.

    Args:
        discretizer: any whose decoder has convolutions, not compiled (a compiled one may ignore the changes).
        batch: images in [0, 1]; may be empty, which draws the same random numbers.
        strength: 0 gives reconstructions; 1 what is meant to be hard but recognisable.

    Raises:
        UsageError: the discretizer is no module, or its decoder has no convolution.
    """
    if not isinstance(discretizer, nn.Module):
        raise UsageError(f"{type(discretizer).__name__} is no torch module, so its decoder cannot be disturbed.")
    layers = decoder_layers(discretizer)
    with torch.no_grad(), torch.autocast(batch.images.device.type, enabled=False):
        weights = {layer.name: _changed(layer.kernels, batch, strength) for layer in _chosen(layers, batch)}
        changes = [
            (layer, _disturbance(layer, batch, strength)) for layer in _chosen(with_activations(layers, discretizer), batch)
        ]
        if not len(batch.images):
            return batch.images
        with hooked(changes):
            seen = functional_call(discretizer, weights, (batch.images,))
        return _with_statistics_of(batch.images, seen)


def decoder_layers(discretizer: nn.Module) -> list[Layer]:
    """The convolutions of the decoder, whatever they are called, but the last one, which gives colours.

    Raises:
        UsageError: there are fewer than two.
    """
    found = [
        Layer(name, kernels, discretizer.get_submodule(name.rpartition(".")[0]))
        for name, kernels in discretizer.named_parameters()
        if kernels.ndim == 4 and any(part.endswith("decoder") for part in name.split("."))
    ]
    if len(found) < 2:
        raise UsageError(
            f"{type(discretizer).__name__} has no decoder of convolutions that could be disturbed; take a VQGAN, "
            "or method deepaugment, which needs no discretizer."
        )
    return found[:-1]


def with_activations(layers: Sequence[Layer], discretizer: nn.Module) -> list[Layer]:
    """Layers that are called, and whose channels are the first dimension of their kernels."""
    merged = {id(part.conv) for part in discretizer.modules() if isinstance(part, vqgan.Upsample)}
    return [layer for layer in layers if id(layer.module) not in merged and not isinstance(layer.module, nn.ConvTranspose2d)]


def _chosen(layers: Sequence[Layer], batch: Batch) -> list[Layer]:
    """A few layers, drawn once per step."""
    places = (batch.draw_once(torch.rand, DISTURBED).double() * len(layers)).long()
    return [layers[place] for place in sorted(set(places.tolist()))]


def _changed(kernels: Kernels, batch: Batch, strength: float) -> Kernels:
    """The kernels after a change drawn once per step."""
    changes: list[Callable[[Tensor, Batch, float], Tensor]] = [_scaled, _negated, _noised]
    if kernels.shape[-1] > 1:
        changes.append(_mirrored)
    change = changes[int(batch.draw_once(torch.rand).double() * len(changes))]
    return change(kernels.float(), batch, strength).to(kernels.dtype)


def _scaled(kernels: Kernels, batch: Batch, strength: float) -> Kernels:
    """Each filter stronger or weaker."""
    return kernels * (strength * batch.draw_once(torch.randn, len(kernels), 1, 1, 1)).exp()


def _negated(kernels: Kernels, batch: Batch, strength: float) -> Kernels:
    """Some filters with the opposite sign."""
    return torch.where(batch.draw_once(torch.rand, len(kernels), 1, 1, 1) < 0.2 * strength, -kernels, kernels)


def _noised(kernels: Kernels, batch: Batch, strength: float) -> Kernels:
    """Gaussian noise as large as the kernels themselves."""
    return kernels + strength * kernels.std() * batch.draw_once(torch.randn, *kernels.shape)


def _mirrored(kernels: Kernels, batch: Batch, strength: float) -> Kernels:
    """Each filter a mixture of itself and its mirror image."""
    share = strength * batch.draw_once(torch.rand, len(kernels), 1, 1, 1)
    return kernels.lerp(kernels.flip(3), share.clamp(max=1))


def _disturbance(layer: Layer, batch: Batch, strength: float) -> Disturbance:
    """Factors around 1, of which some are 0 and some negative, and a smooth field around 1, for each image."""
    channels = len(layer.kernels)
    factors = (0.5 * strength * batch.draw(torch.randn, channels)).exp()
    kind = batch.draw(torch.rand, channels)
    sign = 1 - (kind < 0.1 * strength).float() - 2 * (kind > 1 - 0.05 * strength).float()
    return Disturbance(sign * factors, 1 + 0.5 * strength * batch.draw(torch.randn, 1, FIELD, FIELD))


@contextmanager
def hooked(changes: Sequence[tuple[Layer, Disturbance]]) -> Iterator[None]:
    """Change the activations of layers inside."""
    hooks = [layer.module.register_forward_hook(change) for layer, change in changes]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _with_statistics_of(images: Images, seen: Images) -> Images:
    """Each channel of each image with the mean and the deviation it had, where it is not flat."""
    (deviation, mean), (seen_deviation, seen_mean) = (
        torch.std_mean(given.float(), dim=(2, 3), keepdim=True) for given in (images, seen)
    )
    return ((seen - seen_mean) / seen_deviation.clamp(min=1e-3) * deviation + mean).clamp(0, 1).to(images.dtype)
