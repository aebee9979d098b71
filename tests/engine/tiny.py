"""Models, data and recipes of seconds for the tests of the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dat.attacks.rate import Rate
from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, CropFlip, ImageDataset
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.quantizers.nearest import CodebookQuantizer
from dat.engine import checkpoint
from dat.engine.checkpoint import State
from dat.engine.loop import Training, train
from dat.methods import METHODS
from dat.methods.dat import DAT
from dat.nn.norm import Normalized, with_auxiliary_norms
from dat.tasks.classification import Classification
from dat.types import Batch, Method, Task

torch.set_num_threads(1)  # the tensors are tiny, and sums come in the same order on every machine

CLASSES = 4
NETWORK = VQGANConfig(n_embed=16, embed_dim=4, z_channels=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())


def pictures(count: int = 40, *, augmented: bool = True) -> ImageDataset:
    """Noise with labels, 8x8, under a random crop that depends on epoch and position."""
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    source = ArraySource(images, numbers.integers(0, CLASSES, count), tuple("abcd"))
    return ImageDataset(source, CropFlip(padding=1) if augmented else CenterCrop(), seed=0)


def network(*, dropout: float = 0.0, batch_norm: bool = True) -> Normalized:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(8 * 64, CLASSES),
    ]
    return Normalized(nn.Sequential(*layers), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def vqgan(*, codes: int = 16) -> VQGAN:
    """An untrained VQGAN whose codebook consists of its own outputs, so that many codes are used."""
    torch.manual_seed(1)
    model = VQGAN(replace(NETWORK, n_embed=codes))
    assert isinstance(model.quantize, CodebookQuantizer)
    with torch.no_grad():
        model.quantize.initialise(model.latents(2 * torch.rand(8, 3, 8, 8) - 1), torch.Generator().manual_seed(2))
    return model


def methods() -> dict[str, Method]:
    """One of each kind, with all that is random in it turned on."""
    discretizer = FrozenDiscretizer(vqgan())
    return {
        "standard": METHODS["standard"](),
        "at": METHODS["at"](epsilon=0.05, step_size=0.05, steps=1, random_start=True),
        "random-codes": METHODS["random-codes"](discretizer, rate=0.3),
        "dat": METHODS["dat"](discretizer, alpha=1.0),
        "advprop": METHODS["advprop"](epsilon=0.05, step_size=0.05, noise_threshold=-0.5),
        "fast-advprop": METHODS["fast-advprop"](epsilon=0.05, step_size=0.05, noise_threshold=-0.5),
        "dat-official": METHODS["dat-official"](discretizer, epsilon=1.0, step_size=1.0, random_start_probability=0.5),
        "dat-free": METHODS["dat-free"](discretizer, alpha=1.0),
        "dat-fast": METHODS["dat-fast"](discretizer, alpha=1.0),
        "dat-codes": METHODS["dat-codes"](discretizer, rate=0.2, neighbours=4),
        "pyramid-at": METHODS["pyramid-at"](steps=2, cells=(4, 1), scales=(20.0, 1.0)),
        "debiased": METHODS["debiased"](multi_grid=False),
        "augmix": METHODS["augmix"](),
        "deepaugment": METHODS["deepaugment"](),
        "deepaugment-decoder": METHODS["deepaugment-decoder"](discretizer),
        "deepaugment-augmix-dat": METHODS["deepaugment-augmix-dat"](discretizer, alpha=1.0),
    }


def sought(rate: float = 0.2, **settings: Any) -> DAT:
    """DAT whose step is sought before each epoch."""
    return DAT(FrozenDiscretizer(vqgan()), Rate(rate, pictures=40), **settings)


def fitted(model: Normalized, method: Method) -> Normalized:
    """The model with auxiliary normalisation layers, where the method trains with them."""
    inner = method.method if isinstance(method, KilledInCall) else method
    if getattr(inner, "auxiliary_norms", False):
        with_auxiliary_norms(model)
    return model


def settings(**changes: Any) -> Training:
    """Two epochs of five steps."""
    values: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.05, "log_every": 3}
    return Training(**{**values, **changes})


def trained(
    folder: Path,
    method: Method | None = None,
    *,
    model: Normalized | None = None,
    dataset: ImageDataset | None = None,
    classes: int = CLASSES,
    **changes: Any,
) -> nn.Module:
    """The model after `train` on this process alone."""
    method = method if method is not None else METHODS["standard"]()
    return train(
        fitted(model if model is not None else network(), method),
        method,
        Classification(num_classes=classes),
        dataset if dataset is not None else pictures(),
        settings(**changes),
        seed=0,
        folder=folder,
        num_classes=classes,
        cpu=True,
    )


def final_state(folder: Path) -> State:
    return checkpoint.load(checkpoint.list_checkpoints(folder / "checkpoints")[-1])


def assert_same_state(first: State, second: State) -> None:
    """To the bit: all tensors, and the numbers beside them."""
    assert first.numbers == second.numbers
    assert {part: set(tensors) for part, tensors in first.tensors.items()} == {
        part: set(tensors) for part, tensors in second.tensors.items()
    }
    for part, tensors in first.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second.tensors[part][name]), f"{part}: {name}"


class Killed(Exception):  # noqa: N818  # not an error of the code under test
    """Stands for the end of the process."""


@dataclass
class KilledInCall:
    """A method that dies when it is called for the `last + 1`-th time, before or after it gave its loss."""

    method: Method
    last: int
    after_loss: bool = False
    calls: int = field(default=0)

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        self.calls += 1
        if self.calls > self.last and not self.after_loss:
            raise Killed
        yield from self.method(model, batch, task)
        if self.calls > self.last:
            raise Killed


RECIPE = """\
kind: classification
title: Seconds
data: {source: digits, size: 8, augment: {kind: crop-flip, padding: 1, flip: false}}
discretizer:
  train:
    network: {n_embed: 16, embed_dim: 4, z_channels: 8, ch: 32, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: []}
    objective: {disc_start: 3, disc_weight: 0.1}
    perceptual: {kind: multiscale-gradient}
    training: {epochs: 1, batch_size: 128, lr: 1.0e-3, cosine: true, revive_every: 4, disc_layers: 1, disc_width: 8,
               save_minutes: 0.0}
model: {name: small_resnet, options: {depth: 8, width: 4}}
training: {epochs: 2, batch_size: 128, lr: 0.05, accumulate: 2, mixup: 0.2, ema_decay: 0.9, save_minutes: 0.0}
methods:
  dat: {alpha: 0.4}
evaluation: {suites: [clean]}
"""


def recipe_file(folder: Path) -> Path:
    path = folder / "seconds.yaml"
    path.write_text(RECIPE)
    return path


def environment() -> dict[str, str]:
    """One thread: sums in the same order on every machine. What is compiled is kept for the next of many processes."""
    settings = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "default"}
    return {**os.environ, **settings, "PYTHONDONTWRITEBYTECODE": ""}


def started(*arguments: str) -> subprocess.Popen[str]:
    """`python -m dat train ...` in a process of its own."""
    command = [sys.executable, "-m", "dat", "train", *arguments, "--cpu"]
    repository = Path(__file__).resolve().parents[2]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(), cwd=repository, stdout=pipe, stderr=pipe, text=True)


def finished(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a run that nothing disturbs."""
    process = started(*arguments)
    _, said = process.communicate(timeout=300)
    return process.returncode, said
