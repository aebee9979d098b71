"""How long a training step takes on this machine: the unit in which the plans of tables say what their runs cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from dat.recipe.classification import ClassificationRecipe
from dat.recipe.contest import training_of
from dat.recipe.model import Blueprint
from dat.recipe.rehearsal import CLASSES, SIDE

WARM, TIMED = 2, 5
"""Steps before those that are timed, of which the median counts."""


def plain_step_s(recipe: ClassificationRecipe, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of a step of a recipe's network on a batch of noise of its size: both passes and an update, in float32."""
    side, batch = recipe.data.size or SIDE, training_of(recipe, next(iter(recipe.methods))).batch_size
    numbers = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, side, side, generator=numbers).to(device)
    labels = torch.randint(CLASSES, (batch,), generator=numbers).to(device)
    model = Blueprint(recipe.model, CLASSES).untrained(0).train().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    taken = list[float]()
    for _ in range(WARM + TIMED):
        began = clock()
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU
        taken.append(clock() - began)
    return median(taken[WARM:])
