"""Normalisation of the input inside the model, and normalisation layers that have an auxiliary copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dat.errors import UsageError
from dat.types import Images


class Normalized(nn.Module):
    """A network that takes images in [0, 1] and shows its `network` images of zero mean and unit deviation.

    The network keeps its own parameter names under `network.`: optimizers that group parameters by name (layer decay, no
    weight decay) are given `.network`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Images, *others: Any) -> Any:
        """What the network gives for the normalised images, and for what else it is given."""
        return self.network((images - self.mean) / self.std, *others)


class TwoNorms(nn.Module):
    """A normalisation layer with an auxiliary copy, which takes its place inside `through_auxiliary_norms`.

    Images of another distribution (adversarial, stylised) then leave the statistics and the affine parameters of the main
    layer alone. Source: Xie et al., "Adversarial Examples Improve Image Recognition" (AdvProp), CVPR 2020, section 3.2.
    """

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main, self.auxiliary = main, copy.deepcopy(main)
        self.is_auxiliary = False

    def forward(self, features: Tensor) -> Tensor:
        """What the layer in use gives."""
        return self.auxiliary(features) if self.is_auxiliary else self.main(features)


NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def with_auxiliary_norms(model: nn.Module) -> nn.Module:
    """The model with every normalisation layer (batch, layer, group) made `TwoNorms`; in place.

    Raises:
        UsageError: the model has no such layer.
    """
    _replace(model, lambda layer: TwoNorms(layer) if isinstance(layer, NORMS) else None)
    if not has_auxiliary_norms(model):
        raise UsageError("The model has no normalisation layer, so none can be auxiliary; write auxiliary_norms: false.")
    return model


def without_auxiliary_norms(model: nn.Module) -> nn.Module:
    """The model with its main normalisation layers alone, under the names they had before; in place."""
    _replace(model, lambda layer: layer.main if isinstance(layer, TwoNorms) else None)
    return model


def has_auxiliary_norms(model: nn.Module) -> bool:
    """Whether `with_auxiliary_norms` was applied."""
    return any(isinstance(layer, TwoNorms) for layer in model.modules())


@contextmanager
def through_auxiliary_norms(model: nn.Module) -> Iterator[None]:
    """Send what the model is shown inside through the auxiliary normalisation layers.

    Raises:
        UsageError: the model has none.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, TwoNorms)]
    if not layers:
        raise UsageError("The model has no auxiliary normalisation layers; make it with dat.with_auxiliary_norms(model).")
    for layer in layers:
        layer.is_auxiliary = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_auxiliary = False


@contextmanager
def scaled_norm_gradients(model: nn.Module, *, main: float, auxiliary: float) -> Iterator[None]:
    """Multiply what backward passes inside add to the gradients of main and of auxiliary normalisation layers.

    The factors act before gradients are accumulated or shared between processes. For methods whose two kinds of layers see
    different numbers of images.
    """
    hooks = [
        parameter.register_hook(partial(torch.mul, other=factor))
        for layer in model.modules()
        if isinstance(layer, TwoNorms)
        for part, factor in ((layer.main, main), (layer.auxiliary, auxiliary))
        for parameter in part.parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _replace(module: nn.Module, successor: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put the successor of each part, where it has one, into its place; what is inside such a part is left alone."""
    for name, part in module.named_children():
        replacement = successor(part)
        if replacement is None:
            _replace(part, successor)
        else:
            setattr(module, name, replacement)
