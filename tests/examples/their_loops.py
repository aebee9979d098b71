"""Loops of others, as the tests run them on one process and on two: `their_loops.py OUT`.

Each takes three optimizer steps of eight pictures in double precision: whole, in two micro-batches, and shared by two
processes. All is imported once and forked from there, as the packages take longer to import than their loops to run.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import torch
import transformers
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers.modeling_outputs import ImageClassifierOutput

import dat
from dat.discretizers.pretrained import save_discretizer
from examples import hugging_face_trainer, lightning_module, timm_task
from tests.engine import tiny

STEPS, BATCH = 3, 8
FROZEN = "3.bias"
"""Of the network, a weight that does not learn."""


class Watched(nn.Sequential):
    """A network that notes how it is called: its mode, and which weights learn."""

    calls: list[tuple[bool, tuple[bool, ...]]]
    pretrained_cfg: dict[str, Any]

    def forward(self, input: Tensor) -> Tensor:
        self.calls.append((self.training, tuple(parameter.requires_grad for parameter in self.parameters())))
        return super().forward(input)


def watched() -> Watched:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 64, tiny.CLASSES)]
    network = Watched(*layers).double()
    network.get_parameter(FROZEN).requires_grad_(False)
    network.calls = []
    return network


def pictures(*, first: int = 0, stride: int = 1) -> TensorDataset:
    """Those of one process: its `stride` is how many there are."""
    numbers = torch.Generator().manual_seed(0)
    images = torch.rand(STEPS * BATCH, 3, 8, 8, generator=numbers, dtype=torch.float64)
    labels = torch.randint(0, tiny.CLASSES, (len(images),), generator=numbers)
    return TensorDataset(images[first::stride], labels[first::stride])


def discretizer() -> dat.FrozenDiscretizer:
    return dat.FrozenDiscretizer(tiny.vqgan()).double()


def in_lightning(out: Path, processes: int, micro: int, **strategy: Any) -> Watched:
    network = watched()
    parallel = DDPStrategy(process_group_backend="gloo", **strategy)
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet: dict[str, Any] = dict.fromkeys(silent, False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=parallel if processes > 1 else "auto",
        max_epochs=1,
        accumulate_grad_batches=micro,
        default_root_dir=out,
        use_distributed_sampler=False,
        **quiet,
    )
    module = lightning_module.DATModule(network, discretizer(), alpha=1.0)
    mine = pictures(first=int(os.environ.get("RANK", "0")), stride=processes)  # Lightning's own sampler would shuffle them
    trainer.fit(module, DataLoader(mine, BATCH // processes // micro))
    assert not any("frozen" in key for key in module.state_dict())
    return network


class Classifier(nn.Module):
    """Called as transformers' models are, with `**kwargs`, by which Trainer tells whether a loss is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.network = watched()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.network(pixel_values))


def in_trainer(out: Path, processes: int, micro: int) -> Watched:
    model = Classifier()
    settings = transformers.TrainingArguments(
        str(out),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH // processes // micro,
        gradient_accumulation_steps=micro,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    rows = [{"pixel_values": image, "labels": label} for image, label in pictures()]
    parts: dict[str, Any] = {"discretizer": discretizer(), "alpha": 1.0, "normalize": lambda x: 2 * x - 1}
    hugging_face_trainer.DATTrainer(model, settings, train_dataset=rows, **parts).train()
    return model.network


def in_timm(out: Path, processes: int, micro: int) -> Watched:
    """The steps of timm's train.py that touch the task."""
    network = watched()
    network.pretrained_cfg = {"mean": (0.25, 0.5, 0.5), "std": (0.25, 0.5, 0.5)}
    task = timm_task.DATTask(network, nn.CrossEntropyLoss()).double()
    if processes > 1:
        task.prepare_distributed()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    rank, size = int(os.environ.get("RANK", "0")), BATCH // processes // micro
    loader = DataLoader(pictures(), size)
    mine = [batch for number, batch in enumerate(loader) if number % processes == rank]
    for number, (images, labels) in enumerate(mine, start=1):
        last = number % micro == 0
        with nullcontext() if last else task.no_sync():
            loss = task((images - task.mean) / task.std, labels)["loss"] / micro
            loss.backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()
    return network


def in_fastai(out: Path, processes: int, micro: int) -> Watched:
    """The wrapper is what `distrib_ctx` puts around a model; its own loader of shares needs a GPU."""
    from fastai.callback.training import GradientAccumulation  # pyright: ignore[reportMissingImports]
    from fastai.optimizer import SGD  # pyright: ignore[reportMissingImports]

    from examples import fastai_callback

    network = watched()
    model = nn.parallel.DistributedDataParallel(network) if processes > 1 else network
    mine = pictures(first=int(os.environ.get("RANK", "0")), stride=processes)
    loaders = fastai_callback.DataLoaders(DataLoader(mine, BATCH // processes // micro), [])
    callbacks = [fastai_callback.DiscreteAdversary(discretizer(), alpha=1.0), GradientAccumulation(BATCH // processes)]
    settings = {"opt_func": SGD, "cbs": callbacks, "path": out}
    learner = fastai_callback.Learner(loaders, model, lambda x, y: nn.functional.cross_entropy(x, y).float(), **settings)
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, lr=0.1)
    return network


LOOPS: dict[str, Callable[[Path, int, int], Watched]] = {
    "trainer": in_trainer,
    **({"fastai": in_fastai} if find_spec("fastai") else {}),
    "timm": in_timm,
    "lightning-static": partial(in_lightning, static_graph=True),
    "lightning": in_lightning,
}
"""Lightning's comes last: it takes what torchrun says of the processes out of the environment."""


def run(out: Path, processes: int, micro: int) -> None:
    """Every loop, and its weights into a file."""
    rank = os.environ.get("RANK", "0")
    for name, loop in LOOPS.items():
        network = loop(out, processes, micro)
        (calls,) = {*network.calls}
        assert calls == (True, tuple(name != FROZEN for name, _ in network.named_parameters()))
        save_file(network.state_dict(), out / f"{name}-{processes}-{micro}-{rank}.safetensors")


def forked(work: Callable[[], None], variables: Mapping[str, str]) -> int:
    """The number of a process that does the work and ends."""
    if child := os.fork():
        return child
    os.environ.update(variables)
    work()
    sys.stdout.flush()
    os._exit(0)


def main(out: Path) -> None:
    save_discretizer(out / "discretizer", tiny.vqgan())
    os.environ.update({"DAT_DISCRETIZER": str(out / "discretizer"), "DAT_ALPHA": "1.0"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    children = [forked(lambda: run(out, 2, 1), {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]
    children += [forked(lambda micro=micro: run(out, 1, micro), {}) for micro in (1, 2)]
    ends = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
