"""Which model it is whose predictions are kept: its architecture, its tensors, and what it answers to a few fixed pictures.

Answers are compared, not hashed: another machine rounds otherwise.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import count

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn
from torch.nn import functional as F

from dat.evaluation.predict import Classifier
from dat.types import Images

Answers = Float32[np.ndarray, "_ _"]
"""Logits: pictures by outputs."""

PROBES = 4
TOLERANCE = 1e-3
"""Of the deviation of all answers: so much may one differ. Rounding stays below, changed code does not."""


def checkpoint_hash(model: nn.Module) -> str:
    """SHA-256 over the architecture and the names, shapes and values of all parameters and buffers.

    Those are among them that a model keeps out of its files, as `Normalized` does with mean and deviation.
    """
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model)).encode())  # an address is another each time
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(tensors, key=lambda named: named[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def probes(height: int, width: int) -> Images:
    """Fixed pictures: soft spots of colour under grain, so that they differ for whatever a model looks at."""
    generator = torch.Generator().manual_seed(0)
    spots = F.interpolate(torch.rand(PROBES, 3, 3, 3, generator=generator), size=(height, width), mode="bilinear")
    return 0.8 * spots + 0.2 * torch.rand(PROBES, 3, height, width, generator=generator)


def answers_of(classifier: Classifier, height: int, width: int) -> Answers:
    """Logits of the fixed pictures, shown one by one. A model that draws is given the same numbers each time."""
    devices = [classifier.device] if classifier.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode():
        torch.manual_seed(0)
        said = [classifier(picture[None].to(classifier.device)) for picture in probes(height, width)]
    return torch.cat(said).float().cpu().numpy()


def are_alike(first: Answers, second: Answers) -> bool:
    """Whether two answers are those of one model, up to rounding."""
    if first.shape != second.shape:
        return False
    finite = first[np.isfinite(first)]
    spread = float(finite.std()) if len(finite) else 0.0
    return np.allclose(first, second, rtol=0.0, atol=TOLERANCE * spread, equal_nan=True)


def known_as(known: Mapping[str, Answers], checkpoint: str, answers: Answers) -> str:
    """The name of a model among those that are `known`: that of one with its tensors and answers, or else one of its own.

    The first with these tensors is called as they are.
    """
    names = (checkpoint if number == 0 else _further(checkpoint, number) for number in count())
    return next(name for name in names if name not in known or are_alike(known[name], answers))


def _further(checkpoint: str, number: int) -> str:
    """Of a model with the same tensors, and answers that none before it gave."""
    return hashlib.sha256(f"{checkpoint}/{number}".encode()).hexdigest()


def detector_hash(model: nn.Module) -> str:
    """As `checkpoint_hash`, and over the numbers that its parts hold beside tensors, e.g. the least score of a box."""
    numbers = [
        (name, key, value)
        for name, part in model.named_modules()
        for key, value in sorted(vars(part).items())
        if key != "training" and isinstance(value, int | float)
    ]
    return hashlib.sha256(f"{checkpoint_hash(model)} {numbers}".encode()).hexdigest()
