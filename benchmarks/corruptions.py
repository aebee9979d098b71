"""Images per second of each corruption, in batches and one at a time: `python benchmarks/corruptions.py --side 32`.

Prints one JSON object; `batch_gain` is the ratio of the two rates in this run, mean over the five severities. `--peer` also
measures the package `imagecorruptions` (an image at a time is all it knows), which must be importable.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dat.data.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt

PEER = "imagecorruptions"
ROUNDS = 3
PeerCorrupt = Callable[..., object]


def main() -> None:
    """Measure every corruption on one thread and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--count", type=int, default=256, help="images per batch")
    parser.add_argument("--peer", action="store_true", help=f"only compare with the package {PEER}, in the same run")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(arguments.count, 3, arguments.side, arguments.side, generator=generator)
    measured = _compared(images) if arguments.peer else {"images_per_second": _all_rates(images)}
    result = {"side": arguments.side, "count": arguments.count, "threads": 1, **measured}
    print(json.dumps(result))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def _all_rates(images: Tensor) -> dict[str, dict[str, float]]:
    return {name: _rates(images, name) for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)}


def _rates(images: Tensor, name: str) -> dict[str, float]:
    few = images[: max(1, len(images) // 16)]
    _seconds(images[:1], name, batch=1)  # Kernels and textures that are computed once.
    batched = 5 * len(images) / _seconds(images, name, batch=len(images))
    single = 5 * len(few) / _seconds(few, name, batch=1)
    return {"batched": round(batched, 1), "single": round(single, 1), "batch_gain": round(batched / single, 2)}


def _seconds(images: Tensor, name: str, *, batch: int) -> float:
    """Wall time of all five severities."""
    start = time.perf_counter()
    for severity in range(1, 6):
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            corrupt(part, name, severity, ids=torch.arange(first, first + len(part)))
    return time.perf_counter() - start


def _compared(images: Tensor) -> dict[str, Any]:
    """Ours in one batch against the peer; processor time, so that other work on the machine does not decide."""
    peer = _peer()
    rows = {name: _row(images, name, peer) for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)}
    names = (PEER, "numpy", "scipy", "scikit-image", "opencv-python-headless", "torch", "pillow")
    return {"peer": PEER, "clock": "cpu", "rounds": ROUNDS, "versions": _versions(names), "corruptions": rows}


def _peer() -> PeerCorrupt:
    """Its `corrupt`, held to one thread as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It uses names that SciPy and setuptools are about to drop.
        try:
            module, opencv = importlib.import_module(PEER), importlib.import_module("cv2")
        except ImportError as error:
            sys.exit(
                f"The comparison needs the package {PEER} ({error}); install it into a folder and name that in PYTHONPATH."
            )
    opencv.setNumThreads(1)
    return module.corrupt


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    there = {found.name.lower() for found in importlib.metadata.distributions()}
    return {name: importlib.metadata.version(name) for name in names if name in there}


def _row(images: Tensor, name: str, peer: PeerCorrupt) -> dict[str, Any]:
    """Images per second of both and the ratio, medians over rounds; or why the peer has none."""
    levels = list((images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())
    _processor_seconds(lambda severity: corrupt(images[:1], name, severity, ids=torch.arange(1)))
    try:
        peer(levels[0], corruption_name=name, severity=1)
    except Exception as error:
        ours = _processor_seconds(lambda severity: corrupt(images, name, severity, ids=torch.arange(len(images))))
        return {"ours": round(5 * len(images) / ours, 1), "peer_fails": f"{type(error).__name__}: {error}"}
    rounds = [_round(images, levels, name, peer) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratios = sorted(mine / other for mine, other in rounds)
    spread = [round(ratios[0], 2), round(ratios[-1], 2)]
    ratio = round(statistics.median(ratios), 2)
    return {"ours": round(ours, 1), "peer": round(theirs, 1), "ratio": ratio, "ratio_range": spread}


def _round(images: Tensor, levels: list[Any], name: str, peer: PeerCorrupt) -> tuple[float, float]:
    def theirs(severity: int) -> None:
        for picture in levels:
            peer(picture, corruption_name=name, severity=severity)

    ours = _processor_seconds(lambda severity: corrupt(images, name, severity, ids=torch.arange(len(images))))
    return 5 * len(images) / ours, 5 * len(levels) / _processor_seconds(theirs)


def _processor_seconds(act: Callable[[int], object]) -> float:
    """Of all five severities."""
    start = time.process_time()
    for severity in range(1, 6):
        act(severity)
    return time.process_time() - start


if __name__ == "__main__":
    main()
