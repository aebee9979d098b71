"""What all attacks share: the gradient at the images, directions and balls, and that no trace is left behind.

An attack sees a `LossFn` and nothing else: no model, no labels. It writes no parameter gradient (the derivative is with
respect to the images only), leaves every buffer of every module as it was, and gives the random streams back where it
found them. Whether dropout is on and which statistics normalise, the caller decides: train mode, or `evaluating(model)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dat.errors import DivergenceError, UsageError
from dat.types import Images, LossFn

GradientScale = Literal["l2", "linf", "raw"]
Norm = Literal["l2", "linf"]

# In float16 the gradient of one pixel may underflow. A power of two, so that nothing changes in any other format.
LOSS_FACTOR = 2.0**8

CUT_OFF = (
    "The losses of loss_fn have no gradient at the images that it is given; use its argument, and leave out detach(), "
    "torch.no_grad() and what goes through NumPy between it and the losses."
)
NAMED = 5
"""So many positions are named in a message."""

Choice = TypeVar("Choice")


def input_gradient(images: Images, loss_fn: LossFn) -> Images:
    """Gradient of each image's own loss with respect to that image.

    The losses are summed, not averaged: the gradient of an image does not depend on the batch around it.
    """
    return gradient_and_losses(images, loss_fn)[0]


def gradient_and_losses(images: Images, loss_fn: LossFn) -> tuple[Tensor, Tensor]:
    """`input_gradient` and the losses it came from, detached.

    Raises:
        UsageError: inference mode is on, in which nothing can be differentiated; or the losses do not follow from the images.
        DivergenceError: a loss or a gradient is NaN or infinite, whose sign or direction would move nothing.
    """
    if torch.is_inference_mode_enabled():
        raise UsageError(
            "An adversary needs gradients, which torch.inference_mode() forbids to all that is made in it; write "
            "torch.no_grad() in its place, in Lightning Trainer(inference_mode=False)."
        )
    with untouched_modules(), _forked_random_streams(images.device), torch.enable_grad():
        images = images.detach().requires_grad_()
        losses = _checked_losses(loss_fn(images), images)
        (gradient,) = torch.autograd.grad(_climbable(losses).sum() * LOSS_FACTOR, images, allow_unused=True)
    if gradient is None:
        raise UsageError(CUT_OFF)
    _refuse_no_numbers(gradient, "gradient")
    return gradient / LOSS_FACTOR, losses.detach()


def unit_l2(tensor: Tensor) -> Tensor:
    """Each image's tensor divided by its L2 norm, computed in float32 or better; a zero stays zero.

    However small a gradient is, its direction counts: the largest entry is taken out first, so that no square underflows.
    """
    exact = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    scaled = _over(exact, exact.abs().amax(dim=(1, 2, 3), keepdim=True))
    return _over(scaled, torch.linalg.vector_norm(scaled, dim=(1, 2, 3), keepdim=True)).to(tensor.dtype)


def _over(tensor: Tensor, sizes: Tensor) -> Tensor:
    """The quotient, and 0 where there is nothing to divide by."""
    return tensor / torch.where(sizes > 0, sizes, 1)


def exactly(images: Images, loss_fn: LossFn) -> tuple[Images, LossFn]:
    """Images in float32 or better, and their loss function, which goes on seeing them in their own dtype.

    An attack adds up steps that half precision rounds away, and leads out of its ball by: bfloat16 has steps of 1/256.
    """
    return images.to(torch.promote_types(images.dtype, torch.float32)), lambda exact: loss_fn(exact.to(images.dtype))


@dataclass(eq=False)
class _Buffers:
    """What the buffers of the modules that ran were, and which modules those are, by `id`."""

    saved: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def put_back(self) -> None:
        for buffer, value in self.saved:
            # `.data`: a clean branch may still wait for its backward pass, and must not see a changed version.
            buffer.data.copy_(value)


_noted: list[_Buffers] = []
_alone = RLock()
"""For the one of several threads that puts up or takes down the hook."""


def _note(module: nn.Module, _: object) -> None:
    for buffers in tuple(_noted):  # another thread may end its attack meanwhile
        if module.training and id(module) not in buffers.seen:
            buffers.seen.update(id(part) for part in module.modules())
            buffers.saved.extend((buffer, buffer.clone()) for buffer in module.buffers())


_hook = register_module_forward_pre_hook(_note)
_hook.remove()


@contextmanager
def untouched_modules() -> Iterator[None]:
    """Put back the buffers (running statistics, ...) of every module that runs inside in train mode."""
    buffers, hooks = _Buffers(), _hook.hooks_dict_ref()
    assert hooks is not None, "torch keeps it"
    with _alone:
        _noted.append(buffers)
        hooks[_hook.id] = _note  # always the same: of a hook with a number of its own a compiled model is compiled anew
    try:
        yield
    finally:
        with _alone:
            _noted.remove(buffers)
            if not _noted:
                _hook.remove()
        buffers.put_back()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model (without its data-parallel wrapper) in eval mode; every part's own mode is put back afterwards."""
    model = unwrapped(model)
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for part, training in modes:
            part.training = training


def unwrapped(model: nn.Module) -> nn.Module:
    """The module itself: an attack has no parameter gradients to synchronise."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _project_l2(delta: Tensor, epsilon: float) -> Tensor:
    return delta.renorm(p=2, dim=0, maxnorm=epsilon)


def _project_linf(delta: Tensor, epsilon: float) -> Tensor:
    return delta.clamp(-epsilon, epsilon)


def unchanged(tensor: Tensor, _: float = torch.inf) -> Tensor:
    """Neither a direction nor a ball."""
    return tensor


def into_range(images: Tensor) -> Tensor:
    """Images cut to [0, 1]."""
    return images.clamp(0, 1)


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float], Tensor]]] = {
    "l2": (unit_l2, _project_l2),
    "linf": (torch.sign, _project_linf),
}
GRADIENT_SCALES = {**NORMS, "raw": (unchanged, unchanged)}
"""How a gradient becomes a direction, and what keeps a sum of such steps in a ball."""


def choose(table: dict[str, Choice], argument: str, name: str) -> Choice:
    """What a table has under a name.

    Raises:
        UsageError: it has nothing; with the argument and the names that there are.
    """
    if name not in table:
        raise UsageError(f"{argument} is {name!r}; write one of {', '.join(map(repr, table))}.")
    return table[name]


def _checked_losses(losses: Tensor, images: Tensor) -> Tensor:
    if not isinstance(losses, Tensor):
        raise UsageError(
            f"loss_fn gave what is of type {type(losses).__name__}; return a tensor with one loss per image, without item() or "
            "tolist(), e.g. dat.cross_entropy(model(images), labels)."
        )
    if losses.shape != images.shape[:1]:
        raise UsageError(
            f"loss_fn gave shape {tuple(losses.shape)} for {len(images)} images; "
            "return one loss per image, e.g. dat.cross_entropy(model(images), labels)."
        )
    _refuse_no_numbers(losses, "loss")
    return losses


def _climbable(losses: Tensor) -> Tensor:
    if not losses.requires_grad:
        raise UsageError(CUT_OFF)
    return losses


def _refuse_no_numbers(values: Tensor, name: str) -> None:
    odd = ~values.detach().isfinite().reshape(len(values), -1).all(dim=1)
    if odd.any():
        positions = odd.nonzero()[:, 0].tolist()
        listed = ", ".join(map(str, positions[:NAMED])) + (", ..." if len(positions) > NAMED else "")
        raise DivergenceError(
            f"The {name} of {len(positions)} of {len(odd)} images is NaN or infinite (positions {listed}), so no attack can "
            "climb it; check the model for divisions by 0, roots and logarithms, and the precision it is run in."
        )


def losses_only(images: Tensor, loss_fn: LossFn) -> Tensor:
    """The losses of images, without a gradient and without a trace."""
    with untouched_modules(), _forked_random_streams(images.device), torch.no_grad():
        return _checked_losses(loss_fn(images), images)


def _forked_random_streams(device: torch.device):
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
