"""Which alpha changes a named share of the codes, with several discretizers at several sizes, and what it changes elsewhere.

The alpha is sought on some pictures, as `alpha: {rate: 0.1}` of a recipe does, and then used on others. Prints a table and,
with `--json`, writes it. Needs pictures of ImageNet and a classifier of them.
Example: `python benchmarks/alpha_for_rate.py --data imagenet_sample --weights tiny_darknet_imagenet.safetensors --json a.json`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from step import SEED, rounded
from torch import Tensor

from dat.analysis.codes import discrete_change
from dat.attacks.rate import Rate
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.subset import spread
from dat.data.testsets import layouts
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import DatError
from dat.methods.calibration import reached
from dat.methods.dat import DAT
from dat.nn.imagenet_networks import ImageNetNetwork, load_imagenet_network
from dat.progress import Bar
from dat.results import versions, write_text
from dat.tasks.classification import Classification
from dat.types import Batch

RATES = (0.05, 0.1)
SIDES = (32, 64, 128)
DISCRETIZERS = ("cifar-f2-1024-fast", "cifar-f4-1024-fast", "photos-f4-1024-fast")
BATCH = 8


def main() -> None:
    """Measure what the command line asks for and print it."""
    options = parsed()
    if options.data is None or options.weights is None:  # no error: `make bench` runs every script as it is
        print("Nothing was measured: give pictures of ImageNet (--data) and weights of a classifier (--weights).")
        return
    try:
        result = measured(options)
    except DatError as error:
        raise SystemExit(str(error)) from error
    print(as_text(result))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of labelled pictures of ImageNet's 1000 classes")
    parser.add_argument("--network", default="tiny_darknet", help="squeezenet1_0, mobilenet_v2 or tiny_darknet")
    parser.add_argument("--weights", type=Path, help="of that network")
    parser.add_argument("--discretizers", nargs="+", default=DISCRETIZERS, help="names or files")
    parser.add_argument("--pictures", type=int, default=128, help="on how many an alpha is sought")
    parser.add_argument("--others", type=int, default=256, help="on how many others it is used")
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, help="of the pictures, in pixels")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="shares of the codes")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--json", type=Path, help="file for the JSON")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The alpha of every rate, discretizer and side, what it changes of the others, the setting and the versions."""
    torch.set_num_threads(options.threads)
    (part,) = layouts.parts("clean", options.data)
    source = spread(part.source, options.pictures + options.others)
    labels = torch.from_numpy(part.labels[source.targets])
    classifier, points = load_imagenet_network(options.network, options.weights), []
    with Bar("discretizers and sides", len(options.discretizers) * len(options.sides)) as bar:
        for name in options.discretizers:
            for side in options.sides:
                batches = batches_of(ImageDataset(source, CenterCrop(side, crop_pct=1.0), seed=SEED), labels, options.pictures)
                found = points_at(batches, classifier, load_discretizer(name), options.rates)
                points += [{"discretizer": Path(name).name, "side": side, **row} for row in found]
                bar.add(f"{Path(name).name} {side} px", 1)
    data = source.fingerprint()[:12]
    return {"points": points, "setting": setting(options, data), "versions": versions()}


def batches_of(dataset: ImageDataset, labels: Tensor, pictures: int) -> tuple[list[Batch], list[Batch]]:
    """Those on which an alpha is sought, and the others: picture by picture in turn, as far as there are both."""
    step = len(dataset) / pictures
    chosen = {int(step * number) for number in range(pictures)}
    parts = sorted(chosen), [index for index in range(len(dataset)) if index not in chosen]
    sought, others = ([rows[first : first + BATCH] for first in range(0, len(rows), BATCH)] for rows in parts)
    return [batch(dataset, labels, rows) for rows in sought], [batch(dataset, labels, rows) for rows in others]


def batch(dataset: ImageDataset, labels: Tensor, rows: Sequence[int]) -> Batch:
    """These pictures with their labels."""
    images, _, _ = dataset.__getitems__([(0, row) for row in rows])
    return Batch(images, labels[list(rows)])


def points_at(
    batches: tuple[list[Batch], list[Batch]],
    classifier: ImageNetNetwork,
    discretizer: FrozenDiscretizer,
    rates: Sequence[float],
) -> list[dict[str, Any]]:
    """For each rate the alpha that is found, the share it changes there, and of the others with its standard error."""
    task, found = Classification(), []
    for rate in rates:
        sought = reached(DAT(discretizer, Rate(rate)), classifier, batches[0], task)
        changes = (
            discrete_change(classifier, task, discretizer, each.images, each.targets, alpha=sought.alpha) for each in batches[1]
        )
        others = torch.cat([change.rates.double() / 100 for change in changes])
        found.append(
            {
                "rate": rate,
                "alpha": rounded(sought.alpha),
                "reached": rounded(sought.rate),
                "elsewhere": rounded(float(others.mean())),
                "standard_error": rounded(float(others.std()) / len(others) ** 0.5),
                "n": len(others),
            }
        )
    return found


def setting(options: argparse.Namespace, data: str) -> dict[str, Any]:
    """What was measured, without paths."""
    values = {name: value for name, value in vars(options).items() if name not in ("data", "json")}
    names = {"weights": options.weights.name, "discretizers": [Path(name).name for name in options.discretizers]}
    return values | names | {"data": data, "gradient_scale": "l2", "clamp": True, "precision": "fp32"}


def as_text(result: dict[str, Any]) -> str:
    """A row for each discretizer, side and rate, as Markdown."""
    lines = ["| discretizer | size | rate | alpha | changed there | changed elsewhere |", "|---|---:|---:|---:|---:|---:|"]
    lines += [
        f"| `{row['discretizer']}` | {row['side']} px | {row['rate']:.0%} | {row['alpha']:.3f} | {row['reached']:.1%} | "
        f"{row['elsewhere']:.1%} ± {row['standard_error']:.1%} |"
        for row in result["points"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
