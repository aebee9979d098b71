"""Test sets made against the model that is tested: PGD with restarts, and AutoAttack.

PGD sees a loss and nothing else. AutoAttack aims at logits, so it is given the model: `AttacksLogits`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dat.attacks.gradient import NORMS, Norm, losses_only
from dat.attacks.pixels import pgd, random_start
from dat.data.corruptions.draws import Draws, streams_of
from dat.errors import UsageError
from dat.evaluation.suites import CLIMBED
from dat.installed import is_installed
from dat.types import Images, Indices, LossFn, check_images

LogitsFn = Callable[[Tensor], Tensor]
"""Images in [0, 1] to one row of logits per image."""

PACKAGE, EXTRA = "pyautoattack", "discrete-adversarial-training[autoattack]"
STARTS = 3
"""Names the stream of the starts of PGD among those of a picture."""
FEWEST_CLASSES = 4
"""The targeted loss compares the highest logit with the mean of the third and the fourth."""

SHORTEST = 5
"""In its L2 version Square lays five by five tiles over an image."""


@runtime_checkable
class AttacksLogits(Protocol):
    """A suite that needs more of the model than a loss: whoever shows its images calls this instead of `Suite.images`."""

    def images_against(self, model: LogitsFn, images: Images, targets: Indices, ids: Indices) -> Images:
        """What the model is shown instead of the images; `targets` are the right outputs."""
        ...


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the model's loss; its images depend on (seed, id) and the model, not on the batch.

    Costs `restarts x steps` forward and backward passes, with several restarts one more forward for each. Each restart gives
    its last point, as RVT's code does; shown is the one of the highest loss. So a picture counts as wrong if any restart makes
    it wrong, but for those where the model is right at a higher cross-entropy than it is wrong at: rare, and never with two
    classes.

    Args:
        epsilon: radius in pixel units of [0, 1] ("linf" per entry, "l2" per image).
        step_size: length of a step in the same norm.
        steps: how many.
        restarts: how many times it begins anew.
        norm: of the ball and of the steps.
        random_start: uniform in the ball ("linf") or on its sphere ("l2"); otherwise from the clean image.
        seed: of the starts.

    Raises:
        UsageError: a setting without meaning.

    Source: Madry et al., ICLR 2018; the defaults are those of `alibaba/easyrobust:RVT/engine.py` (before commit bc3f19a).
    """

    epsilon: float = 1 / 255
    step_size: float = 0.5 / 255
    steps: int = 5
    restarts: int = 1
    norm: Norm = "linf"
    random_start: bool = True
    seed: int = 0
    name: str = "pgd"
    depends_on_model: bool = True

    def __post_init__(self) -> None:
        _check_ball("PGD", self.epsilon, self.norm, self.seed)
        if not self.step_size > 0:
            raise UsageError(f"PGD has a step_size of {self.step_size}; write the length of a step, e.g. {self.epsilon / 2:g}.")
        if self.steps < 1 or self.restarts < 1:
            raise UsageError(f"PGD has {self.steps} steps and {self.restarts} restarts; write 1 or more of each.")
        if self.restarts > 1 and not self.random_start:
            raise UsageError(
                f"{self.restarts} restarts of PGD without a random start are the same; write restarts=1 or random_start=True."
            )

    def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
        """The attacked images: of each, the restart of the highest loss."""
        assert loss_fn is not None
        worst = self._attacked(images, ids, loss_fn, restart=0)
        if self.restarts == 1:
            return worst
        highest = losses_only(worst, loss_fn)
        for restart in range(1, self.restarts):
            candidates = self._attacked(images, ids, loss_fn, restart=restart)
            losses = losses_only(candidates, loss_fn)
            worse = losses > highest
            worst[worse], highest[worse] = candidates[worse], losses[worse]
        return worst

    def protocol(self, height: int, width: int) -> dict[str, object]:
        """All settings."""
        start = {"start": "random", "seed": self.seed} if self.random_start else {"start": "clean"}
        lengths = {**_length("epsilon", self.epsilon, self.norm), **_length("step", self.step_size, self.norm)}
        return {"norm": self.norm, **lengths, "steps": self.steps, "restarts": self.restarts, "loss": CLIMBED, **start}

    def _attacked(self, images: Images, ids: Indices, loss_fn: LossFn, *, restart: int) -> Images:
        start = self._start(images, ids, restart=restart) if self.random_start else None
        return pgd(
            images,
            loss_fn,
            epsilon=self.epsilon,
            step_size=self.step_size,
            steps=self.steps,
            norm=self.norm,
            start=start,
        )

    def _start(self, images: Images, ids: Indices, *, restart: int) -> Images:
        draws = Draws(streams_of((STARTS, self.seed, restart), ids))
        shape = images.shape[1:]
        noise = draws.uniform(0.0, 1.0, *shape) if self.norm == "linf" else draws.normal(*shape)
        return random_start(images, noise.to(images), epsilon=self.epsilon, norm=self.norm)


@dataclass(frozen=True)
class AutoAttack:
    """The standard AutoAttack, by an optional package: APGD on cross-entropy, targeted APGD, targeted FAB, and Square.

    Costs per picture that stays right about 100 + 200 x `target_classes` forward and backward passes, and 5000 forward passes.
    Its random numbers belong to the batch, not to the picture: the same batches give the same images, others may differ in a
    few pictures. Its warnings (gradients of zero, outputs that are no logits) go to the log `auto-attack`.

    Args:
        epsilon: radius in pixel units of [0, 1]; 4/255 is RobustBench's for ImageNet, 8/255 for CIFAR.
        norm: "linf" or "l2".
        target_classes: how many wrong classes are aimed at; 9 in the standard version, fewer where a model has fewer.
        seed: of all its draws.

    Raises:
        UsageError: a setting without meaning, or the package is not installed.

    Source: Croce and Hein, ICML 2020; the package's attacks are those of `fra31/auto-attack` at a392200.
    """

    epsilon: float = 4 / 255
    norm: Norm = "linf"
    target_classes: int = 9
    seed: int = 0
    name: str = "autoattack"
    depends_on_model: bool = True

    def __post_init__(self) -> None:
        _check_ball("AutoAttack", self.epsilon, self.norm, self.seed)
        if self.target_classes < 1:
            raise UsageError(f"AutoAttack has {self.target_classes} target_classes; write 1 or more (the standard is 9).")
        if not is_installed(PACKAGE):
            raise UsageError(f"AutoAttack is not installed; run pip install '{EXTRA}', or take the suite pgd.")

    def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
        """Raises: UsageError: always; a loss does not tell the logits that this attack aims at."""
        raise UsageError("AutoAttack aims at logits, which losses do not tell; call images_against(model, ...), or take PGD.")

    def images_against(self, model: LogitsFn, images: Images, targets: Indices, ids: Indices) -> Images:
        """The attacked images; those that the model has wrong, and those it withstood, are left as they are.

        No parameter gradient is written, and the random streams are left as they were.

        Raises:
            UsageError: the model has too few classes, or the images are not square.
        """
        check_images(images)
        logits = _images_alone(model)
        self._check(logits(images[:1]).shape[1], images)
        attack: Any = import_module(PACKAGE).AutoAttack
        cuda = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), _tracing_kept():
            attack = attack(logits, norm=NAMES[self.norm], eps=self.epsilon, seed=self.seed, device=images.device)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = self.target_classes
            attacked, _ = attack.run_standard_evaluation(images.detach(), targets, batch_size=len(images))
        return attacked

    def protocol(self, height: int, width: int) -> dict[str, object]:
        """All settings, and whose code it is."""
        return {
            "norm": self.norm,
            **_length("epsilon", self.epsilon, self.norm),
            "target_classes": self.target_classes,
            "seed": self.seed,
            "package": f"{PACKAGE} {metadata.version(PACKAGE)}",
        }

    def _check(self, classes: int, images: Images) -> None:
        if classes < FEWEST_CLASSES:
            raise UsageError(f"The model has {classes} classes, but AutoAttack's targeted loss needs 4; take the suite pgd.")
        if classes <= self.target_classes:
            raise UsageError(
                f"The model has {classes} classes, too few for {self.target_classes} targets of AutoAttack; "
                f"write target_classes={classes - 1}."
            )
        height, width = images.shape[2:]
        if height != width or height < SHORTEST:
            raise UsageError(
                f"Images are {height} x {width}, but AutoAttack's Square needs squares of at least {SHORTEST}; crop them."
            )


NAMES: dict[str, str] = {"linf": "Linf", "l2": "L2"}


def _check_ball(attack: str, epsilon: float, norm: str, seed: int) -> None:
    if norm not in NORMS:
        raise UsageError(f"norm of {attack} is {norm!r}; write one of {', '.join(map(repr, NORMS))}.")
    if not epsilon > 0:
        raise UsageError(f"epsilon of {attack} is {epsilon}; write the radius of the ball, or take the suite clean.")
    if norm == "linf" and epsilon > 1:
        raise UsageError(f"epsilon of {attack} is {epsilon:g}, but images lie in [0, 1]; write {epsilon:g}/255.")
    if seed < 0:
        raise UsageError(f"seed of {attack} is {seed}; write 0 or more.")


def _length(name: str, value: float, norm: str) -> dict[str, float]:
    """A length in its usual unit: 1/255 for one entry, 1 for a whole image."""
    return {f"{name}_255": round(255 * value, 4)} if norm == "linf" else {name: value}


class _ThroughImages(torch.autograd.Function):
    """A model's logits whose backward pass ends at the images.

    The package's FAB calls `backward`, which would write into the gradient of every parameter, at the price of computing it.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: LogitsFn) -> Tensor:
        with torch.enable_grad():
            ctx.images = images.detach().requires_grad_()
            ctx.logits = model(ctx.images)
        return ctx.logits.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.autograd.grad(ctx.logits, ctx.images, gradients[0])[0], None


def _images_alone(model: LogitsFn) -> LogitsFn:
    """The model; what is derived of it is derived by the images only."""

    def logits(images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and images.requires_grad:
            return _ThroughImages.apply(images, model)  # pyright: ignore[reportReturnType]  # torch leaves it untyped
        with torch.no_grad():
            return model(images)

    return logits


@contextmanager
def _tracing_kept() -> Iterator[None]:
    """Put the trace function of a debugger or of coverage back: the package removes it."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
