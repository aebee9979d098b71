"""Images per second of each corruption, in batches and one at a time: `python benchmarks/corruptions.py --side 32`.

Prints one JSON object; `batch_gain` is the ratio of the two rates in this run, mean over the five severities.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import Tensor

from dat.data.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, corrupt


def main() -> None:
    """Measure every corruption on one thread and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--count", type=int, default=256, help="images per batch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(arguments.count, 3, arguments.side, arguments.side, generator=generator)
    rates = {name: _rates(images, name) for name in (*CORRUPTIONS, *EXTRA_CORRUPTIONS)}
    print(json.dumps({"side": arguments.side, "count": arguments.count, "threads": 1, "images_per_second": rates}))


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


if __name__ == "__main__":
    main()
