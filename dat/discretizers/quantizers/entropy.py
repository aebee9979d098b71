"""How sure each position is of its code, and how evenly a batch uses the codes: what entropy losses are made of.

Source: Yu et al. (2024), Language Model Beats Diffusion, eq. 5; google-research/magvit:videogvt/train_lib/losses.py.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "count codes"]
BitLogits = Float[Tensor, "count bits"]
PerCode = Float[Tensor, " codes"]
Patterns = Float[Tensor, "count patterns"]
Scalar = Float[Tensor, ""]

EPSILON = 1e-5
"""Of the published losses. With 2^18 codes, uniform use is below it: their batch entropy then falls short of log(codes)."""


class Entropies(NamedTuple):
    """In nats: the mean entropy of a position's codes, and the entropy of the codes' mean probabilities."""

    per_position: Scalar
    of_batch: Scalar

    @property
    def loss(self) -> Scalar:
        """Low where each position is sure of its code and the batch uses all codes alike."""
        return self.per_position - self.of_batch


def entropies(logits: Logits) -> Entropies:
    """Of codes with the probabilities `softmax(logits)`; takes a few times the memory of the logits."""
    log_probabilities = F.log_softmax(logits, dim=1)
    probabilities = log_probabilities.exp()
    per_position = -(probabilities * log_probabilities).sum(dim=1).mean()
    return Entropies(per_position, _of_batch(probabilities.mean(dim=0)))


def bit_entropies(logits: BitLogits) -> Entropies:
    """Of codes whose bits are independent, each set with the probability `sigmoid(logit)`; exact for any number of bits.

    The entropy of a position is the sum of its bits' entropies. The probability of a code is that of its lower half of bits
    times that of its upper half, so the mean over positions is one product of two matrices of `2^(bits / 2)` columns:
    18 bits cost 512 x 512 products per position, where enumerating the codes would hold 2^18 numbers for each.
    """
    of_bits = F.softplus(-logits.abs()) + logits.abs() * (-logits.abs()).sigmoid()
    half = logits.shape[1] // 2
    lower, upper = (_pattern_probabilities(part) for part in (logits[:, :half], logits[:, half:]))
    return Entropies(of_bits.sum(dim=1).mean(), _of_batch((upper.T @ lower).flatten() / len(logits)))


def _pattern_probabilities(logits: BitLogits) -> Patterns:
    """Probability of each pattern of bits; in which order the patterns come, no entropy depends on."""
    patterns = logits.new_ones(len(logits), 1)
    for bit in logits.unbind(dim=1):
        is_set, is_not_set = bit.sigmoid()[:, None], (-bit).sigmoid()[:, None]
        patterns = torch.cat([patterns * is_not_set, patterns * is_set], dim=1)
    return patterns


def _of_batch(probabilities: PerCode) -> Scalar:
    return -(probabilities * (probabilities + EPSILON).log()).sum()
