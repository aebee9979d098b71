"""Images per second of each corruption, in batches and one at a time: `python benchmarks/corruptions.py --side 32`.

Prints one JSON object; `batch_gain` is the ratio of the two rates in this run, mean over the five severities. `--peer`
measures against the package `imagecorruptions` (an image at a time is all it knows), which must be importable.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dat.data.corruptions.table import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt

PEER = "imagecorruptions"
ROUNDS = 5
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
PeerCorrupt = Callable[..., object]


def main() -> None:
    """Measure every corruption and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--count", type=int, default=256, help="images per batch")
    parser.add_argument("--peer", action="store_true", help=f"only compare with the package {PEER}, in the same run")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of torch and OpenCV; all cores by default"
    )
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine and one thread"
    )
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = round(os.getloadavg()[0], 2)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(arguments.count, 3, arguments.side, arguments.side, generator=generator)
    clock = CLOCKS[arguments.clock]
    measured = _compared(images, clock) if arguments.peer else {"images_per_second": _all_rates(images, clock)}
    setting = {name: getattr(arguments, name) for name in ("side", "count", "threads", "clock")}
    result = {**setting, "load_at_start": load, **measured}
    print(json.dumps(result))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def _all_rates(images: Tensor, clock: Clock) -> dict[str, dict[str, float]]:
    return {name: _rates(images, name, clock) for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)}


def _rates(images: Tensor, name: str, clock: Clock) -> dict[str, float]:
    few = images[: max(1, len(images) // 16)]
    _ours(images[:1], name, clock)  # Kernels and textures that are computed once.
    batched = 5 * len(images) / _ours(images, name, clock)
    single = 5 * len(few) / _ours(few, name, clock, batch=1)
    return {"batched": round(batched, 1), "single": round(single, 1), "batch_gain": round(batched / single, 2)}


def _compared(images: Tensor, clock: Clock) -> dict[str, Any]:
    """Ours in one batch against the peer, which knows one image at a time."""
    peer = _peer()
    rows = {name: _row(images, name, peer, clock) for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)}
    names = (PEER, "numpy", "scipy", "scikit-image", "opencv-python-headless", "torch", "pillow")
    return {"peer": PEER, "rounds": ROUNDS, "versions": _versions(names), "corruptions": rows}


def _peer() -> PeerCorrupt:
    """Its `corrupt`, on as many threads as torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It uses names that SciPy and setuptools are about to drop.
        try:
            module, opencv = importlib.import_module(PEER), importlib.import_module("cv2")
        except ImportError as error:
            sys.exit(
                f"The comparison needs the package {PEER} ({error}); install it into a folder and name that in PYTHONPATH."
            )
    opencv.setNumThreads(torch.get_num_threads())
    return module.corrupt


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    there = {found.name.lower() for found in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in names if name in there}


def _row(images: Tensor, name: str, peer: PeerCorrupt, clock: Clock) -> dict[str, Any]:
    """Images per second of both and the ratio, medians over rounds; or why the peer has none."""
    levels = list((images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())
    _ours(images, name, clock)
    try:
        peer(levels[0], corruption_name=name, severity=1)
    except Exception as error:
        return {
            "ours": round(5 * len(images) / _ours(images, name, clock), 1),
            "peer_fails": f"{type(error).__name__}: {error}",
        }
    rounds = [
        (5 * len(images) / _ours(images, name, clock), 5 * len(levels) / _theirs(levels, name, peer, clock))
        for _ in range(ROUNDS)
    ]
    ours, theirs = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratios = sorted(mine / other for mine, other in rounds)
    spread = [round(ratios[0], 2), round(ratios[-1], 2)]
    ratio = round(statistics.median(ratios), 2)
    return {"ours": round(ours, 1), "peer": round(theirs, 1), "ratio": ratio, "ratio_range": spread}


def _ours(images: Tensor, name: str, clock: Clock, *, batch: int | None = None) -> float:
    """Seconds of all five severities."""
    size = batch or len(images)
    start = clock()
    for severity in range(1, 6):
        for first in range(0, len(images), size):
            part = images[first : first + size]
            corrupt(part, name, severity, ids=torch.arange(first, first + len(part)))
    return clock() - start


def _theirs(levels: list[Any], name: str, peer: PeerCorrupt, clock: Clock) -> float:
    start = clock()
    for severity in range(1, 6):
        for picture in levels:
            peer(picture, corruption_name=name, severity=severity)
    return clock() - start


if __name__ == "__main__":
    main()
