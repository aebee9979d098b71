"""Images per second of the evaluation loop against a bare loop, in one run: `python benchmarks/evaluation.py`.

Two ratios. `memory`: pictures lie in memory as bytes; the bare loop turns them into floats and calls the model, nothing else.
`files`: pictures are JPEG files; the bare loop is torchvision's folder, transforms and loader in front of the same model.
Rounds alternate, so that a busy moment hits both; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from step import SEED, surroundings
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import CenterCrop as Crop
from torchvision.transforms import Compose, InterpolationMode, Resize, ToTensor

from dat.data.embedded import ArraySource
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.evaluation.cells import Cell, all_classes
from dat.evaluation.predict import Classifier, Shelf, predict
from dat.evaluation.suites import Clean
from dat.nn.norm import Normalized
from dat.nn.zoo import create_network
from dat.results import write_text
from dat.types import Place

CLASSES = 10


def main() -> None:
    """Measure both ratios and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18", help="a model of timm")
    parser.add_argument("--size", type=int, default=224, help="side of the images that the model sees")
    parser.add_argument("--count", type=int, default=64, help="pictures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="file for the JSON")
    arguments = parser.parse_args()
    load = psutil.getloadavg()[0]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    network = create_network(arguments.model, num_classes=CLASSES, options={})
    model = Normalized(network, mean=(0.5,) * 3, std=(0.5,) * 3).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), arguments.count, round(arguments.size / 0.875))
        loops = {
            "memory": in_memory(model, device, arguments.count, arguments.size, arguments.batch),
            "files": from_files(model, device, Path(folder), arguments.size, arguments.batch),
        }
        found = {name: compared(*pair, rounds=arguments.rounds, count=arguments.count) for name, pair in loops.items()}
    settings = {key: value for key, value in vars(arguments).items() if key != "output"}
    text = json.dumps({"settings": settings, "images_per_second": found, **surroundings(device, load)}, indent=1)
    print(text)
    if arguments.output is not None:
        write_text(arguments.output, text + "\n")


Loop = Callable[[], None]


def compared(ours: Loop, bare: Loop, *, rounds: int, count: int) -> dict[str, float]:
    """Speeds of both, and the median over rounds of their ratio; a first round warms up and is not counted."""
    times = [(seconds(ours), seconds(bare)) for _ in range(rounds + 1)][1:]
    ratios = [theirs / own for own, theirs in times]
    own, theirs = (count / statistics.median(column) for column in zip(*times, strict=True))
    spread = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {key: round(value, 3) for key, value in {"evaluation": own, "bare": theirs, **spread}.items()}


def seconds(loop: Loop) -> float:
    """Wall time of one pass."""
    start = time.perf_counter()
    loop()
    return time.perf_counter() - start


def in_memory(model: nn.Module, device: torch.device, count: int, size: int, batch: int) -> tuple[Loop, Loop]:
    """Our loop and a bare one over bytes in memory."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    targets = np.arange(count) % CLASSES
    dataset = ImageDataset(ArraySource(pixels, targets, tuple(map(str, range(CLASSES)))), CenterCrop(), seed=0)

    @torch.inference_mode()
    def bare() -> None:
        right = 0
        for first in range(0, count, batch):
            images = torch.from_numpy(pixels[first : first + batch]).to(device).float() / 255
            right += int((model(images).argmax(1).cpu() == torch.from_numpy(targets[first : first + batch])).sum())

    return evaluation(model, device, dataset, batch), bare


def from_files(model: nn.Module, device: torch.device, folder: Path, size: int, batch: int) -> tuple[Loop, Loop]:
    """Our loop and torchvision's over the same files."""
    view = Compose([Resize(round(size / 0.875), InterpolationMode.BICUBIC), Crop(size), ToTensor()])
    loader = DataLoader(datasets.ImageFolder(folder, view), batch_size=batch)

    @torch.inference_mode()
    def bare() -> None:
        sum(int((model(images.to(device)).argmax(1).cpu() == targets).sum()) for images, targets in loader)

    return evaluation(model, device, ImageDataset(ImageFolder(folder), CenterCrop(size), seed=0), batch), bare


def evaluation(model: nn.Module, device: torch.device, dataset: ImageDataset, batch: int) -> Loop:
    """What `dat eval` does for one cell, with everything that is checked."""
    cell = Cell("clean", dataset, Clean(), (all_classes(CLASSES),))

    def loop() -> None:
        shelf = Shelf(batch_size=batch, place=Place(device))
        predict({"model": Classifier(model, device)}, cell, shelf, advance=lambda count: None)

    return loop


def write_pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files of smooth noise, a few per class; their short side is what the model's transform asks for."""
    numbers = np.random.default_rng(SEED)
    for index in range(count):
        place = folder / str(index % CLASSES)
        place.mkdir(exist_ok=True)
        small = Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        small.resize((side + side // 3, side), Image.Resampling.BICUBIC).save(place / f"{index}.jpg", quality=90)


if __name__ == "__main__":
    main()
