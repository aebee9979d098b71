"""What the tests run on several processes, by `torchrun`: `processes.py OUT`.

Trains by each method, resumes once, and evaluates sets of several sizes; the main process writes what came out.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tiny
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor, nn

from dat.data.embedded import digits
from dat.data.pipeline import CropFlip, Fetched, ImageDataset
from dat.data.subset import Subset
from dat.data.views import TwoViews
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.objective import VQGANObjective
from dat.engine import checkpoint
from dat.engine.discretizer_loop import DiscretizerTraining, TwoPlayerLearner, train_discretizer
from dat.engine.loop import train
from dat.evaluation.cells import Cell, all_classes
from dat.evaluation.predict import Classifier, Shelf, predict
from dat.evaluation.suites import FGSM, Clean
from dat.methods import METHODS
from dat.nn.contrastive import MoCoNetwork, SimCLRNetwork
from dat.nn.mae import MaskedAutoencoder
from dat.nn.norm import Normalized
from dat.nn.perceptual import multiscale_gradient_distance
from dat.nn.zoo import create_network
from dat.tasks.contrastive import Contrastive, MomentumContrastive
from dat.tasks.masked import MaskedReconstruction
from dat.types import Batch, Method, Place, Task

SIZES = (1, 2, 3, 7, 10)
DIVIDES_MICRO_BATCHES = ("fast-advprop", "debiased", "dat-fast")
ACCUMULATED = ("advprop",)
"""Methods that are trained in two micro-batches per process, too: passes that leave out parameters are then mixed."""


def transformer() -> Normalized:
    """A model whose images do not see each other."""
    torch.manual_seed(0)
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    network = create_network("vit_tiny_patch16_224", num_classes=10, options=options)
    return Normalized(network, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def write(model: nn.Module, file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)


def small_digits(count: int) -> ImageDataset:
    chosen = Subset(digits("train"), torch.arange(count).numpy())
    return ImageDataset(chosen, CropFlip(padding=1, flip=False), seed=0)


def predictions(place: Place) -> dict[str, list[list[int]]]:
    """What the model says of sets of several sizes, of each clean and attacked."""
    classifiers, found = {"vit": Classifier(transformer().eval(), place.device)}, {}
    for size in SIZES:
        dataset, shelf = small_digits(size), Shelf(batch_size=3, place=place)
        cells = [Cell(change.name, dataset, change, (all_classes(10),)) for change in (Clean(), FGSM(8 / 255))]
        said = [predict(classifiers, cell, shelf, advance=lambda count: None)["vit"] for cell in cells]
        found[str(size)] = [predictions.outputs["accuracy"].tolist() for predictions in said]
    return found


def train_two_players(folder: Path, *, last: int | None = None) -> nn.Module:
    """The VQGAN, trained; `last`: the step before which every process dies."""
    objective = VQGANObjective(disc_start=2, disc_weight=0.5)
    training = DiscretizerTraining(8, 8, 1e-3, revive_every=4, disc_layers=1, disc_width=8, save_minutes=0.0)
    pictures, vqgan, step = tiny.pictures(16), tiny.vqgan(), TwoPlayerLearner.step

    def dying(learner: TwoPlayerLearner, batches: Sequence[Batch], number: int) -> Mapping[str, Tensor]:
        if number == last:
            raise tiny.Killed
        return step(learner, batches, number)

    arguments = {"seed": 0, "folder": folder, "weights": folder / "weights.safetensors", "provenance": {}, "cpu": True}
    with patch.object(TwoPlayerLearner, "step", dying), suppress(tiny.Killed):
        train_discretizer(vqgan, objective, multiscale_gradient_distance, training, pictures, pictures, **arguments)
    return vqgan


def train_running_means(folder: Path) -> dict[str, Tensor]:
    """Codebook and statistics after six steps with a revival; no discriminator, whose own statistics depend on the division."""
    vqgan, pictures = tiny.vqgan(codes=32), tiny.pictures(16)
    objective = VQGANObjective(perceptual_weight=0.0, disc_factor=0.0)
    training = DiscretizerTraining(3, 8, 1e-4, codebook_update="ema", ema_codebook_decay=0.8, revive_every=4, disc_layers=0)
    arguments = {"seed": 0, "folder": folder, "weights": folder / "weights.safetensors", "provenance": {}, "cpu": True}
    train_discretizer(vqgan, objective, None, training, pictures, pictures, **arguments)
    state = checkpoint.load(checkpoint.list_checkpoints(folder / "checkpoints")[-1])
    return {"codebook": vqgan.state_dict()["quantize.embedding.weight"], **state.tensors["codebook"]}


def supervised(processes: int) -> dict[str, tuple[Method, int]]:
    """What is trained, and in how many micro-batches: the same two ones of a step, where a method divides each of them."""
    methods = {**tiny.methods(), "dat-sought": tiny.sought()}
    whole = {name: (method, 2 // processes if name in DIVIDES_MICRO_BATCHES else 1) for name, method in methods.items()}
    return {**whole, **{f"{name}-accumulated": (methods[name], 2) for name in ACCUMULATED}}


def train_all(out: Path, place: Place) -> None:
    for name, (method, accumulate) in supervised(place.processes).items():
        settings = {"dataset": small_digits(80), "lr": 0.05, "classes": 10, "accumulate": accumulate}
        model = tiny.trained(out / name, method, model=transformer(), **settings)
        if place.is_main:
            write(model, out / f"{name}.safetensors")


def unlabelled() -> dict[str, tuple[Callable[[], nn.Module], Task, Fetched]]:
    """Tasks without classes, by the name of what is trained on one and on two processes."""
    pictures = small_digits(80)
    views = TwoViews(pictures.source, pictures.transform, seed=0)
    sizes: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 3}
    projection = {"depth": 10, "hidden": 64, "width": 16}  # of a few units one is active, and an image's gradient is rounding
    sizes |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    return {
        "mae": (lambda: MaskedAutoencoder(img_size=8, patch_size=2, **sizes), MaskedReconstruction(2), pictures),
        "simclr": (lambda: SimCLRNetwork(transformer().network, **projection), Contrastive(), views),
        "moco-v3": (lambda: MoCoNetwork(transformer().network, **projection), MomentumContrastive(momentum=0.9), views),
    }


@dataclass(frozen=True)
class InFloat64:
    """A method, of images in double precision: what is left of a difference is then no rounding."""

    method: Method

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        yield from self.method(model, replace(batch, images=batch.images.double()), task)


def train_without_classes(out: Path, place: Place) -> None:
    method = InFloat64(METHODS["dat"](FrozenDiscretizer(tiny.vqgan()).double(), alpha=1.0))
    for name, (network, task, data) in unlabelled().items():
        torch.manual_seed(0)
        model = Normalized(network(), mean=(0.5,) * 3, std=(0.5,) * 3).double()
        settings = tiny.settings(epochs=1, lr=0.05)
        train(model, method, task, data, settings, seed=0, folder=out / name, num_classes=10, cpu=True)
        if place.is_main:
            write(model, out / f"{name}.safetensors")


def train_with_statistics(out: Path, place: Place) -> None:
    """DAT on a model with batch statistics, and a discretizer, killed and resumed, and alone; each process saves its own."""
    method = tiny.methods()["dat"]
    with suppress(tiny.Killed):
        tiny.trained(out / "resumed", tiny.KilledInCall(method, 6), ema_decay=0.5, save_minutes=0.0)
    train_two_players(out / "resumed-vqgan", last=6)
    for run in ("resumed", "alone"):
        model = tiny.trained(out / run, method, ema_decay=0.5)
        write(model, out / f"{run}-{place.process}.safetensors")
        write(train_two_players(out / f"{run}-vqgan"), out / f"{run}-vqgan-{place.process}.safetensors")


def main(out: Path) -> None:
    gc.freeze()  # each end of a training collects garbage, and what was imported is none
    state = PartialState(cpu=True)
    place = Place(torch.device("cpu"), state.process_index, state.num_processes)
    train_all(out, place)
    train_without_classes(out, place)
    train_with_statistics(out, place)
    save_file(train_running_means(out / "means"), out / f"means-{place.process}.safetensors")
    said = predictions(place)
    (out / f"predicted-{place.process}.json").write_text(json.dumps(said))
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
