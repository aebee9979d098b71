"""The table of methods and tasks: every yes trains a step and goes on to the bit, every no says why, and the page shows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from dat.data.annotated import Things
from dat.data.boxed import BoxedDataset, Letterbox
from dat.data.pipeline import CropFlip, Fetched
from dat.data.views import TwoViews
from dat.engine.loop import train
from dat.methods import METHODS
from dat.methods.serving import ONLY_CLASSES, TASKS, WITHOUT_CLASSES, markdown, serves, why_not
from dat.nn.contrastive import MoCoNetwork, SimCLRNetwork
from dat.nn.detectors import Detector
from dat.nn.mae import MaskedAutoencoder
from dat.nn.norm import Normalized
from dat.tasks.classification import Classification
from dat.tasks.contrastive import Contrastive, MomentumContrastive
from dat.tasks.detection import Detection
from dat.tasks.masked import MaskedReconstruction
from dat.types import Method, Task

HALF = (0.5, 0.5, 0.5)
MAE: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 3}
MAE |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


class Subject(NamedTuple):
    """A task with a model of seconds and its data."""

    network: Callable[[], nn.Module]
    task: Task
    data: Fetched


def backbone() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 8)
    )


class Levels(nn.Module):
    """Features for a detector."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 32, 3, stride=8, padding=1), nn.BatchNorm2d(32), nn.ReLU())

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"0": self.layers(images)}


def detector() -> nn.Module:
    return Detector(FCOS(Levels(), 2, anchor_generator=AnchorGenerator(((16,),), ((1.0,),))))


class Boxed:
    """Noise with a box."""

    things = [  # noqa: RUF012
        Things(np.array([[4.0, 4, 20, 20]]), np.array([n % 2]), np.array([1.0]), np.array([False]), (1,)) for n in range(16)
    ]

    def __len__(self) -> int:
        return 16

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8))

    def name(self, index: int) -> str:
        return str(index)


def views() -> TwoViews:
    return TwoViews(tiny.pictures(16).source, CropFlip(padding=1), seed=0)


SUBJECTS: dict[str, dict[str, Callable[[], Subject]]] = {
    "classification": {
        "classification": lambda: Subject(lambda: tiny.network().network, Classification(num_classes=4), tiny.pictures(16))
    },
    "detection": {"detection": lambda: Subject(detector, Detection(), BoxedDataset(Boxed(), Letterbox(32, 32), seed=0))},
    "masked reconstruction": {
        "mae": lambda: Subject(
            lambda: MaskedAutoencoder(img_size=8, patch_size=2, **MAE), MaskedReconstruction(2), tiny.pictures(16)
        )
    },
    "contrastive": {
        "simclr": lambda: Subject(lambda: SimCLRNetwork(backbone(), depth=8, hidden=8, width=4), Contrastive(), views()),
        "moco-v3": lambda: Subject(
            lambda: MoCoNetwork(backbone(), depth=8, hidden=8, width=4), MomentumContrastive(momentum=0.5), views()
        ),
    },
}


def method_for(name: str, task: str) -> Method:
    method: Any = tiny.methods()[name]
    needed = WITHOUT_CLASSES.get(name) if task != "classification" else None
    return dataclasses.replace(method, **{needed.key: needed.value}) if needed is not None else method


def trained(folder: Path, subject: Subject, method: Method) -> None:
    torch.manual_seed(0)
    model = tiny.fitted(Normalized(subject.network(), mean=HALF, std=HALF), method)
    settings = tiny.settings(epochs=1, batch_size=8, save_minutes=0.0)
    train(model, method, subject.task, subject.data, settings, seed=0, folder=folder, num_classes=4, cpu=True)


CELLS = [
    (name, task, kind)
    for task, kinds in SUBJECTS.items()
    for kind in kinds
    for name in METHODS
    if not serves(name, task).startswith("no")
]


@pytest.mark.parametrize(("name", "task", "kind"), CELLS)
def test_every_yes_trains_and_goes_on_to_the_bit(name: str, task: str, kind: str, tmp_path: Path) -> None:
    subject, method = SUBJECTS[task][kind](), method_for(name, task)
    trained(tmp_path / "alone", subject, method)
    with pytest.raises(tiny.Killed):
        trained(tmp_path / "killed", subject, tiny.KilledInCall(method, 1))
    assert tiny.final_state(tmp_path / "killed").numbers["step"] == 1
    trained(tmp_path / "killed", subject, method)
    tiny.assert_same_state(tiny.final_state(tmp_path / "killed"), tiny.final_state(tmp_path / "alone"))


def test_a_resumed_momentum_encoder_is_neither_the_first_nor_the_own_one(tmp_path: Path) -> None:
    subject = SUBJECTS["contrastive"]["moco-v3"]()
    torch.manual_seed(0)
    first = subject.network().state_dict()
    trained(tmp_path, subject, METHODS["standard"]())
    tensors = tiny.final_state(tmp_path).tensors["model"]
    key = "0.0.weight"
    follower, own = tensors[f"network.momentum.{key}"], tensors["network.backbone.0.weight"]
    assert not torch.equal(follower, own)
    assert not torch.equal(follower, first[f"momentum.{key}"])


def test_every_cell_is_said() -> None:
    assert set(SUBJECTS) == set(TASKS)
    assert len(CELLS) == 16 + 4 * 15
    for name in METHODS:
        for task in TASKS:
            cell = serves(name, task)
            assert cell == "yes" or cell.startswith(("no: it ", "`")), cell
    assert set(ONLY_CLASSES) | set(WITHOUT_CLASSES) < set(METHODS)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("task", ["mae", "simclr"])
def test_a_no_is_what_the_method_itself_refuses(name: str, task: str) -> None:
    """With its own settings, a method trains without classes exactly where the table says so."""
    from dat.errors import UsageError
    from dat.types import Batch, DrawingTask

    subject = SUBJECTS["masked reconstruction" if task == "mae" else "contrastive"][task]()
    method: Any = tiny.methods()[name]
    settings = {entry.name: getattr(method, entry.name) for entry in dataclasses.fields(method)}
    torch.manual_seed(0)
    model = tiny.fitted(Normalized(subject.network(), mean=HALF, std=HALF), method)
    images, targets, _ = subject.data.__getitems__([(0, place) for place in range(8)])
    batch: Batch = Batch(images, targets, torch.Generator().manual_seed(0))
    drawn = subject.task.drawn(batch) if isinstance(subject.task, DrawingTask) else batch
    refused = False
    try:
        for loss in method(model, drawn, subject.task):
            loss.backward()
    except UsageError:
        refused = True
    assert refused == bool(why_not(name, settings))


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "method.md").read_text()
    assert markdown() in page, "write what dat.methods.serving.markdown() gives into docs/method.md"
