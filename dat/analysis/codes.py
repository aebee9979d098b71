"""What the adversary does: which visual words it changes, and what these changes do to the loss, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dat.attacks.discrete import discrete_adversary
from dat.attacks.gradient import evaluating, into_range, unit_l2
from dat.discretizers.codes import changed, resample
from dat.nn.outputs import logits_of
from dat.types import Batch, ClassifyingTask, Codes, Discretizer, Images, LossFn, PerImage, Targets, Task, climbed_losses

Noise = Float[Tensor, "batch 3 height width"]
ByShown = Float[Tensor, "shown count"]

SHOWN = ("reconstruction", "adversarial", "random")
"""What a model is shown by `effect`: Q(x), Q(x + delta), and Q(x + a random delta of the same length)."""


@dataclass(frozen=True)
class Change:
    """A batch before and after a step. `changed`: codes of `Q(x)` against codes of `Q(x + delta)`, before they are decoded."""

    original: Images
    reconstruction: Images
    adversarial: Images
    changed: Tensor

    @property
    def rate(self) -> float:
        """Modified codes, in percent."""
        return float(self.rates.mean())

    @property
    def rates(self) -> PerImage:
        """Modified codes of each image, in percent."""
        return _rates(self.changed)


def discrete_change(
    model: nn.Module, task: Task, discretizer: Discretizer, images: Images, targets: Targets, *, alpha: float
) -> Change:
    """Attack a batch and compare the codes that `Q` gives for x and for x + delta (Table 8, "modified codes").

    At alpha 0 no code is modified. To encode `Q(x + delta)` again and compare would count what the discretizer does, too: of
    a picture that it decoded it seldom gives the codes back (8 to 36 % are others, without any adversary). In bfloat16
    rounding modifies more codes than a step of alpha 0.1: give a discretizer in float32 (`FrozenDiscretizer.exact`).
    """
    asked = _Asked(discretizer)
    with evaluating(model) as attacked:
        adversarial = discrete_adversary(
            images, lambda shown: climbed_losses(task, attacked, shown, targets), asked, alpha=alpha
        )
    return _change(asked, images, adversarial)


def random_change(discretizer: Discretizer, images: Images, noise: Noise, *, alpha: float) -> Change:
    """The same for a step that knows no loss: delta is the noise, brought to the L2 length alpha."""
    asked = _Asked(discretizer)
    asked.encode(images)
    return _change(asked, images, asked(into_range(images + alpha * unit_l2(noise))))


def _change(asked: _Asked, images: Images, stepped: Images) -> Change:
    before, after = asked.codes
    height, width = images.shape[2:]
    reconstruction = asked.discretizer.decode(before)[..., :height, :width]
    return Change(images, reconstruction, stepped, changed(before, after))


class _Asked:
    """A discretizer that remembers the codes of what it was shown."""

    def __init__(self, discretizer: Discretizer) -> None:
        self.discretizer = discretizer
        self.codebook_size, self.stride = discretizer.codebook_size, discretizer.stride
        self.codes: list[Codes] = []

    def encode(self, images: Images) -> Codes:
        self.codes.append(self.discretizer.encode(images))
        return self.codes[-1]

    def decode(self, codes: Codes) -> Images:
        return self.discretizer.decode(codes)

    def __call__(self, images: Images) -> Images:
        return self.decode(self.encode(images))[..., : images.shape[2], : images.shape[3]]


RECONSTRUCTION, DISCRETE, RANDOM_STEP, RANDOM_CODES = "reconstruction", "discrete", "random-step", "random-codes"
COMPARED: tuple[str, ...] = (RECONSTRUCTION, DISCRETE, RANDOM_STEP, RANDOM_CODES)
"""What `codes` compares: Q(x); Q(x + delta); the same with a random delta as long; and as many codes drawn blindly."""


@dataclass(frozen=True, eq=False)
class Modified:
    """What was done to some pictures in each way of `COMPARED`, picture by picture.

    `rates`: modified codes, in percent; `losses`; `l2`: how far in pixels from Q(x), so that it is 0 where no code is modified.
    """

    images: Mapping[str, Images]
    rates: Mapping[str, PerImage]
    losses: Mapping[str, PerImage]
    l2: Mapping[str, PerImage]


def codes(
    images: Images, loss_fn: LossFn, discretizer: Discretizer, *, alpha: float, generator: torch.Generator | None = None
) -> Modified:
    """Which share of the codes the adversary modifies (Table 8), and what that does, beside steps that know no loss.

    The random codes of each picture are as many as the adversary modified in it, at places and by codes that are uniform: at
    an equal rate, so that what the adversary does beyond it is more than its rate. `loss_fn` gives one loss per image.
    In bfloat16 rounding modifies more codes than a step of alpha 0.1: give a discretizer in float32.
    """
    asked, batch = _Asked(discretizer), Batch(images, images, generator)
    attacked = _change(asked, images, discrete_adversary(images, loss_fn, asked, alpha=alpha))
    stepped = random_change(discretizer, images, batch.draw(torch.randn, *images.shape[1:]), alpha=alpha)
    words = asked.codes[0]
    chance, choice = (batch.draw(torch.rand, *words.shape[1:]) for _ in range(2))
    drawn = _as_many(words, attacked.changed, discretizer.codebook_size, chance, choice)
    blind = discretizer.decode(drawn)[..., : images.shape[2], : images.shape[3]]
    shown: dict[str, Images] = dict(
        zip(COMPARED, (attacked.reconstruction, attacked.adversarial, stepped.adversarial, blind), strict=True)
    )
    rates = (0 * attacked.rates, attacked.rates, stepped.rates, _rates(changed(words, drawn)))
    with torch.no_grad():
        losses = {name: loss_fn(one) for name, one in shown.items()}
    l2 = {name: (one - attacked.reconstruction).flatten(1).norm(dim=1) for name, one in shown.items()}
    return Modified(shown, dict(zip(COMPARED, rates, strict=True)), losses, l2)


def _as_many(words: Codes, where: Tensor, codebook_size: int, chance: Tensor, choice: Tensor) -> Codes:
    """In each picture as many codes replaced by others as there are places in `where`: those of the smallest `chance`."""
    ranks = chance.flatten(1).argsort(dim=1).argsort(dim=1)
    counts = where.flatten(1).sum(dim=1, keepdim=True)
    return torch.where((ranks < counts).view_as(words), resample(words, codebook_size, 1.0, chance, choice), words)


def _rates(where: Tensor) -> PerImage:
    return 100 * where.flatten(1).float().mean(dim=1)


@dataclass(frozen=True)
class Effect:
    """What a step does to some pictures, beside a random step of the same length; on the CPU.

    `modified` and `modified_at_random`: percent of the codes of each picture. `losses`, and whether the model is right (0 or
    1; None where its task asks for no class), by what it is shown (`SHOWN`) and picture.
    """

    modified: Tensor
    modified_at_random: Tensor
    losses: ByShown
    right: ByShown | None

    @property
    def above_random(self) -> Tensor:
        """By how much the loss of each picture is higher at `Q(x + delta)` than after the random step."""
        return self.losses[SHOWN.index("adversarial")] - self.losses[SHOWN.index("random")]


def effect(
    model: nn.Module,
    task: Task,
    discretizer: Discretizer,
    images: Images,
    targets: Targets,
    noise: Noise,
    *,
    alpha: float,
) -> Effect:
    """Of one batch: how many codes the adversary modifies, and the loss at `Q(x)`, `Q(x + delta)` and after a random step.

    The loss is the one that the adversary climbs. The rate alone does not tell an adversary from a step in its opposite or in
    any direction: they modify about as many.
    Costs, beside `discrete_change`, one pass of the discretizer, two of its encoder or decoder, and three of the model.
    """
    attacked = discrete_change(model, task, discretizer, images, targets, alpha=alpha)
    blind = random_change(discretizer, images, noise, alpha=alpha)
    with evaluating(model) as asked, torch.no_grad():
        shown = (attacked.reconstruction, attacked.adversarial, blind.adversarial)
        judged = [_judged(task, asked, seen, targets) for seen in shown]
    right = [of_shown for _, of_shown in judged if of_shown is not None]
    return Effect(
        attacked.rates.cpu(),
        blind.rates.cpu(),
        torch.stack([losses.double().cpu() for losses, _ in judged]),
        torch.stack(right) if right else None,
    )


def _judged(task: Task, model: nn.Module, images: Images, targets: Any) -> tuple[PerImage, PerImage | None]:
    """The loss of each image, and whether the model names its class, on the CPU; where no class is asked for, None."""
    if not isinstance(task, ClassifyingTask):
        return climbed_losses(task, model, images, targets), None
    logits = logits_of(model, images)
    labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
    return task.losses_of_logits(logits, targets), (logits.argmax(dim=1) == labels).double().cpu()


def joined(effects: Sequence[Effect]) -> Effect:
    """Those of several batches as one."""
    right = [one.right for one in effects if one.right is not None]
    return Effect(
        torch.cat([one.modified for one in effects]),
        torch.cat([one.modified_at_random for one in effects]),
        torch.cat([one.losses for one in effects], dim=1),
        torch.cat(right, dim=1) if right else None,
    )
