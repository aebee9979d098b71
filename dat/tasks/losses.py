"""Losses of logits whose gradient with respect to the logits is right however sure the model is.

The cross-entropy that one usually computes, log of a softmax, saturates: in float32 its gradient is exactly 0 from a margin of
about 17 on, so a confident model looks robust to whatever climbs it. Here the same number is a function of the margin itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dat.types import ClassTargets, Indices, Logits, PerImage

Shares = Float[Tensor, "batch classes"]


def margin(logits: Logits, labels: Indices) -> PerImage:
    """How far the other classes together are above the right one: `logsumexp(others) - right`, in float32 or better.

    Cross-entropy is `softplus(margin)`, so both rise together and their gradients have one direction; that of the margin
    never vanishes. What is attacked in an evaluation climbs it.
    """
    logits, rows = at_least_float32(logits), labels.long()[:, None]
    others = logits.scatter(1, rows, torch.finfo(logits.dtype).min)
    return others.logsumexp(dim=1) - logits.gather(1, rows)[:, 0]


def cross_entropy(logits: Logits, targets: ClassTargets, *, smoothing: float = 0.0) -> PerImage:
    """`F.cross_entropy(..., reduction="none")` with a gradient that does not saturate, in float32 or better.

    Right up to a margin of 100, where the gradient itself, exp(-margin), is too small for float32 (1e-44); `margin` has none.

    Args:
        logits: `(batch, classes)`.
        targets: the class of each image, or the shares of all classes.
        smoothing: share of an integer target that goes to all classes evenly; shares are taken as they are.

    With r the class of the largest share, `sum(shares) * softplus(margin_r) + sum(shares * (logit_r - logits))`.
    """
    if targets.ndim == 1 and not smoothing:
        return F.softplus(margin(logits, targets))
    logits = at_least_float32(logits)
    shares = shares_of(targets, logits, smoothing)
    largest = shares.argmax(dim=1)
    above = logits.gather(1, largest[:, None]) - logits
    of_others = shares.scatter(1, largest[:, None], 0.0)  # its own difference is 0, and would cancel small gradients
    return shares.sum(dim=1) * F.softplus(margin(logits, largest)) + (of_others * above).sum(dim=1)


def binary_cross_entropy(logits: Logits, targets: ClassTargets, *, smoothing: float = 0.0) -> PerImage:
    """Sum over classes of the binary cross-entropy of `sigmoid(logits)`, with a gradient as right as that of `cross_entropy`.

    Source: google-research/big_vision:big_vision/utils.py (`sigmoid_xent`).
    """
    logits = at_least_float32(logits)
    shares = shares_of(targets, logits, smoothing)
    return (shares * F.softplus(-logits) + (1 - shares) * F.softplus(logits)).sum(dim=1)


def shares_of(targets: ClassTargets, logits: Logits, smoothing: float) -> Shares:
    """The share of each class in each target; of an integer one, with `smoothing` spread evenly over all classes."""
    if targets.ndim == 2:
        return targets.to(logits.dtype)
    classes = logits.shape[1]
    return F.one_hot(targets.long(), classes).to(logits.dtype) * (1 - smoothing) + smoothing / classes


def at_least_float32(numbers: Tensor) -> Tensor:
    """Numbers of half precision in float32, others as they are."""
    return numbers.float() if numbers.dtype in (torch.float16, torch.bfloat16) else numbers
