"""Inner maximisation in code space itself: the adversary chooses which words change, and into which of their neighbours.

Like `dat.attacks.gradient`, on whose conditions it relies: an attack sees a `LossFn`, and leaves no trace in what it runs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dat.attacks.gradient import exactly, input_gradient
from dat.discretizers.codes import CodeSpace, Neighbours, changed, code_space
from dat.errors import UsageError
from dat.types import Codes, Discretizer, Images, Latents, LossFn, check_discretizer, check_images, check_number

Gains = Float[Tensor, "batch *grid"]


def code_adversary(
    images: Images, loss_fn: LossFn, discretizer: Discretizer, *, rate: float, neighbours: int = 8, steps: int = 1
) -> Images:
    """Images of the codes that `adversarial_codes` chose, one more pass of the decoder; of the size and dtype of the images.

    Raises:
        UsageError: see `adversarial_codes`.
    """
    height, width = images.shape[-2:]
    chosen = adversarial_codes(images, loss_fn, discretizer, rate=rate, neighbours=neighbours, steps=steps)
    return discretizer.decode(chosen)[..., :height, :width].to(images.dtype)


def adversarial_codes(
    images: Images, loss_fn: LossFn, discretizer: Discretizer, *, rate: float, neighbours: int = 8, steps: int = 1
) -> Codes:
    """Codes of the images, of which the most harmful share was replaced, each by one of its nearest codes.

    What a replacement does to the loss is taken from the gradient, through the decoder: `g . (e_new - e_old)` at its
    position. In each of the `steps` (no more than there are changes) the same share of the changes is made, where that gain
    is largest, and the gradient is taken anew; what was changed stays. The number of changes per image is the budget
    `rate` x positions, rounded; it is smaller only where fewer positions have a replacement with a gain above 0.

    Costs one pass of the encoder, and per step a forward and a backward pass of the decoder and of the model. The first call
    seeks each code's neighbours.

    Args:
        images: in [0, 1].
        loss_fn: images of that dtype to one loss each, larger is worse for the model.
        discretizer: what `dat.load_discretizer` gives; its decoder must be differentiable.
        rate: share of the codes that may change; 0 gives the codes of the images.
        neighbours: how many of the nearest codes a code may become.
        steps: gradients taken.

    Raises:
        UsageError: rate is no share, or less than half a code of the grid; there are not so many neighbours, or no steps;
            the discretizer has no vectors; images or losses are not what `dat.attacks.gradient` asks for.

    Source: ours, the discrete counterpart of Ebrahimi et al., "HotFlip: White-Box Adversarial Examples for Text
    Classification", ACL 2018, section 3: the same first-order estimate over the letters of a text.
    """
    check_budget(rate, neighbours, steps)
    check_images(images)
    check_discretizer(discretizer)
    images, loss_fn = exactly(images, loss_fn)
    space = code_space(discretizer)
    original = chosen = space.encode(images)
    budget = _budget(rate, original)
    candidates, rounds = space.neighbours(neighbours), min(steps, budget)
    for number in range(rounds):
        count = budget * (number + 1) // rounds - budget * number // rounds
        gains, best = _best_replacements(
            chosen, candidates, vector_gradient(space.vectors(chosen), loss_fn, space, images), space
        )
        chosen = _replaced(chosen, best, gains.masked_fill(changed(original, chosen), -torch.inf), count)
    return chosen


def vector_gradient(vectors: Latents, loss_fn: LossFn, space: CodeSpace, images: Images) -> Latents:
    """Gradient of each image's own loss with respect to the vectors it is decoded from, cropped like `images`."""
    height, width = images.shape[-2:]
    with torch.enable_grad():
        vectors = vectors.detach().requires_grad_()
        decoded = space.decode_vectors(vectors)[..., :height, :width]
    # In two parts, so that the model's graph is gone before the decoder's is walked.
    upstream = input_gradient(decoded.detach(), loss_fn)
    (gradient,) = torch.autograd.grad(decoded, vectors, upstream.to(decoded.dtype))
    return gradient


def check_budget(rate: float, neighbours: int, steps: int) -> None:
    """Refuse numbers that no attack on codes can have.

    Raises:
        UsageError: which one, and what to write.
    """
    check_number("rate", rate)
    for name, count in {"neighbours": neighbours, "steps": steps}.items():
        check_number(name, count, whole=True)
    if not 0 <= rate <= 1:
        raise UsageError(f"rate is {rate}, but it is a share of the codes; write a number from 0 to 1.")
    if neighbours < 1 or steps < 1:
        raise UsageError(f"neighbours is {neighbours} and steps is {steps}; both must be 1 or more.")


def _budget(rate: float, codes: Codes) -> int:
    positions = codes[0].numel()
    budget = round(rate * positions)
    if rate > 0 and not budget:
        raise UsageError(
            f"A rate of {rate} of {positions} codes is less than half a code; write {1 / positions:.3g} or more, "
            "or take a discretizer of a smaller stride."
        )
    return budget


def _best_replacements(codes: Codes, candidates: Neighbours, gradient: Latents, space: CodeSpace) -> tuple[Gains, Codes]:
    """At each position the largest gain of its candidates, and the candidate; one candidate at a time, to save memory."""
    before = space.vectors(codes)
    best, gains = codes, torch.full(codes.shape, -torch.inf, dtype=gradient.dtype, device=codes.device)
    for column in candidates.T:
        candidate = column[codes]
        gain = ((space.vectors(candidate) - before) * gradient).sum(dim=1).view(codes.shape)
        best = torch.where(gain > gains, candidate, best)
        gains = torch.maximum(gains, gain)
    return gains, best


def _replaced(codes: Codes, replacements: Codes, gains: Gains, count: int) -> Codes:
    """In each image the `count` positions of the largest gains replaced, as far as those are above 0."""
    largest = gains.flatten(1).topk(count, dim=1)
    chosen = torch.zeros_like(gains.flatten(1), dtype=torch.bool).scatter_(1, largest.indices, largest.values > 0)
    return torch.where(chosen.view(codes.shape), replacements, codes)
