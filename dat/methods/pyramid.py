"""Pyramid adversarial training: colour offsets of cells of several sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dat.attacks.gradient import unwrapped
from dat.attacks.pyramid import check_pyramid, pyramid
from dat.methods.advprop import random_classes
from dat.methods.settings import check_sorts
from dat.types import Batch, Images, Targets, Task, climbed_losses


@dataclass(frozen=True)
class PyramidAT:
    """Train on the images, and on images whose colours an adversary moved, cell by cell, towards a random class.

    With `targeted` off it moves them away from what is right, whatever the task: ours, not the paper's.

    `matched`: the clean pass, the attack (in train mode) and the adversarial pass drop out the same units and layers, so that
    one and the same network is attacked and trained. Both losses have weight 1.

    Source: Herrmann et al., "Pyramid Adversarial Training Improves ViT Performance", CVPR 2022, and its program
    `google-research/scenic:scenic/projects/adversarialtraining`. Its grids of 7, 14 and 224 offsets per side on 224 pixels are
    given as cells of 32, 16 and 1 pixels here, and its values of [-1, 1] are halved: 6/255 there is 3/255 here.
    Cost per step: `steps` image gradients, two forward and backward passes. Needs of the model: logits (`targeted`).
    """

    epsilon: float = 3 / 255
    step_size: float = 0.5 / 255
    steps: int = 5
    cells: tuple[int, ...] = (32, 16, 1)
    scales: tuple[float, ...] = (20.0, 10.0, 1.0)
    matched: bool = True
    targeted: bool = True

    def __post_init__(self) -> None:
        check_sorts(self)
        check_pyramid(epsilon=self.epsilon, step_size=self.step_size, steps=self.steps, cells=self.cells, scales=self.scales)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the mean loss of the clean images, then that of the adversarial ones.

        Raises:
            UsageError: `targeted`, and the task knows no classes.
        """
        aims = random_classes(batch, task) if self.targeted else batch.targets  # first: it may draw from the masks' stream
        device = batch.images.device
        masks = _random_states(device)
        yield task.losses(model, batch.images, batch.targets).mean()
        with _drawing_again(masks, device) if self.matched else nullcontext():
            adversarial = self._adversarial(model, batch.images, aims, task)
            loss = task.losses(model, adversarial, batch.targets).mean()
        yield loss

    def _adversarial(self, model: nn.Module, images: Images, aims: Targets, task: Task) -> Images:
        attacked, sign = unwrapped(model), -1 if self.targeted else 1
        return pyramid(
            images,
            lambda shown: sign * climbed_losses(task, attacked, shown, aims),
            epsilon=self.epsilon,
            step_size=self.step_size,
            steps=self.steps,
            cells=self.cells,
            scales=self.scales,
        )


def _random_states(device: torch.device) -> list[Tensor]:
    """Of torch's streams that a model on the device draws from: the CPU's, and the GPU's."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


@contextmanager
def _drawing_again(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Let the streams run from `states`; afterwards they go on as if nothing had been drawn inside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        yield
