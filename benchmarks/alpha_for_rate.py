"""Which alpha changes a named share of the codes, with several discretizers at several sizes, and what it changes elsewhere.

The pictures are dealt into parts; on each the alpha is sought, as `alpha: {rate: 0.1}` of a recipe does on 256 of them, then
used on the others. Prints a table; with `--json` writes it, with `--manifests` puts the mean alphas beside the weights of the
discretizers, where `dat discretizer list` finds them. Needs labelled pictures and a classifier of them.
Example: `python benchmarks/alpha_for_rate.py --data imagenet_sample --weights tiny_darknet_imagenet.safetensors --json a.json`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from step import SEED, rounded
from torch import Tensor, nn

from dat.attacks.rate import Rate, Step, length_for
from dat.data.address import set_name
from dat.data.folders import ImageFolder, ImageSource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.subset import spread
from dat.data.testsets import layouts
from dat.discretizers import suggested
from dat.discretizers.codes import modified_code_rate
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer, weight_file
from dat.errors import DatError
from dat.methods.dat import DAT
from dat.nn.imagenet_networks import load_imagenet_network
from dat.nn.norm import Normalized
from dat.nn.weights import read_tensors
from dat.nn.zoo import begin_with, create_network
from dat.progress import Bar
from dat.results import versions, write_text
from dat.tasks.classification import Classification
from dat.types import Batch, PerImage

RATES = (0.1,)
SIDES = (32, 64, 128)
DISCRETIZERS = ("cifar-f2-1024-fast", "cifar-f4-1024-fast", "photos-f4-1024-fast")
BATCH = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the public CIFAR-10 weights were trained with


def main() -> None:
    """Measure what the command line asks for and print it."""
    options = parsed()
    if options.data is None or options.weights is None:  # no error: `make bench` runs every script as it is
        print("Nothing was measured: give labelled pictures (--data) and weights of a classifier (--weights).")
        return
    try:
        result = measured(options)
    except DatError as error:
        raise SystemExit(str(error)) from error
    print(as_text(result))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    if options.manifests:
        for name in options.discretizers:
            suggested.write(options.manifests, weight_file(name), suggestions(result, Path(name).name))


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of labelled pictures, of ImageNet's 1000 classes or the network's")
    networks = "squeezenet1_0, mobilenet_v2 or tiny_darknet of ImageNet, or small_resnet of CIFAR-10"
    parser.add_argument("--network", default="tiny_darknet", help=networks)
    parser.add_argument("--depth", type=int, default=56, help="layers of small_resnet")
    parser.add_argument("--weights", type=Path, help="of that network")
    parser.add_argument("--discretizers", nargs="+", default=DISCRETIZERS, help="names or files")
    parser.add_argument("--pictures", type=int, default=256, help="of a part, on which an alpha is sought")
    parser.add_argument("--parts", type=int, default=2, help="how many; an alpha is used on all but its own")
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, help="of the pictures, in pixels")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="shares of the codes")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--json", type=Path, help="file for the JSON")
    parser.add_argument("--manifests", type=Path, help="folder of the discretizers' manifests, e.g. weights")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The alpha of every rate, discretizer, side and part, what it changes of the others, the setting and the versions."""
    torch.set_num_threads(options.threads)
    source, labels = pictures(options)
    classifier, points = network(options), []
    dealt = np.array_split(np.random.default_rng(SEED).permutation(len(source)), options.parts)
    with Bar("discretizers and sides", len(options.discretizers) * len(options.sides)) as bar:
        for name in options.discretizers:
            for side in options.sides:
                dataset = ImageDataset(source, CenterCrop(side, crop_pct=1.0), seed=SEED)
                batches = [batches_of(dataset, labels, rows) for rows in dealt]
                found = points_at(batches, classifier, load_discretizer(name), options.rates)
                points += [{"discretizer": Path(name).name, "side": side, **row} for row in found]
                bar.add(f"{Path(name).name} {side} px", 1)
    data = source.fingerprint()[:12]
    return {"points": points, "setting": setting(options, data), "versions": versions()}


def pictures(options: argparse.Namespace) -> tuple[ImageSource, Tensor]:
    """As many as all parts need, or all there are, spread evenly; their labels as the network counts classes."""
    many = options.parts * options.pictures
    if options.network == "small_resnet":
        source = spread(ImageFolder(options.data), many)
        return source, torch.from_numpy(source.targets)
    (part,) = layouts.parts("clean", options.data)
    source = spread(part.source, many)
    return source, torch.from_numpy(part.labels[source.targets])


def network(options: argparse.Namespace) -> nn.Module:
    """The classifier whose gradient is taken; of images in [0, 1]."""
    if options.network != "small_resnet":
        return load_imagenet_network(options.network, options.weights)
    resnet = create_network("small_resnet", num_classes=10, options={"depth": options.depth})
    begin_with(resnet, read_tensors(options.weights)[0], name=options.weights.name)
    return Normalized(resnet, mean=MEAN, std=STD).eval()


def batches_of(dataset: ImageDataset, labels: Tensor, rows: np.ndarray) -> list[Batch]:
    """These pictures with their labels."""
    parts = [rows[first : first + BATCH].tolist() for first in range(0, len(rows), BATCH)]
    return [Batch(dataset.__getitems__([(0, row) for row in part])[0], labels[part]) for part in parts]


def points_at(
    parts: Sequence[Sequence[Batch]], classifier: nn.Module, discretizer: FrozenDiscretizer, rates: Sequence[float]
) -> list[dict[str, Any]]:
    """For each rate and part the alpha that is found, the share it changes there, and of the others with its standard error."""
    task, found = Classification(), []
    for rate in rates:
        method = DAT(discretizer, Rate(rate))
        steps = [[method.step(classifier, batch, task) for batch in part] for part in parts]
        for number, part in enumerate(steps):
            alpha, share = length_for(rate, part, discretizer)
            others = [step for other in steps if other is not part for step in other]
            elsewhere = torch.cat([rates_of(step, alpha, discretizer) for step in others]).double()
            found.append(
                {
                    "part": number,
                    "rate": rate,
                    "alpha": rounded(alpha),
                    "reached": rounded(share),
                    "elsewhere": rounded(float(elsewhere.mean())),
                    "standard_error": rounded(float(elsewhere.std()) / len(elsewhere) ** 0.5),
                    "n": len(elsewhere),
                }
            )
    return found


def rates_of(step: Step, alpha: float, discretizer: FrozenDiscretizer) -> PerImage:
    """The share of the codes of each picture that differ between x and x + delta."""
    return modified_code_rate(discretizer.encode(step.images), discretizer.encode(step.after(alpha)))


def setting(options: argparse.Namespace, data: str) -> dict[str, Any]:
    """What was measured, without paths."""
    left_out = ("data", "json", "manifests", *(() if options.network == "small_resnet" else ("depth",)))
    values = {name: value for name, value in vars(options).items() if name not in left_out}
    names = {"weights": options.weights.name, "discretizers": [Path(name).name for name in options.discretizers]}
    names["data_name"] = set_name(options.data)
    return values | names | {"data": data, "gradient_scale": "l2", "clamp": True, "precision": "fp32"}


def grouped(result: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The parts of each discretizer, side and rate."""
    keys = ("discretizer", "side", "rate")
    for key in dict.fromkeys(tuple(row[name] for name in keys) for row in result["points"]):
        yield [row for row in result["points"] if tuple(row[name] for name in keys) == key]


def suggestions(result: dict[str, Any], name: str) -> list[suggested.SuggestedAlpha]:
    """The mean alpha of one discretizer at each side and rate, with what it was measured on."""
    options = result["setting"]
    which = {"network": options["weights"], "pictures": options["data_name"], "data": options["data"]}
    return [
        suggested.SuggestedAlpha(
            side=rows[0]["side"],
            alpha=rounded(float(np.mean([row["alpha"] for row in rows]))),
            lowest=min(row["alpha"] for row in rows),
            highest=max(row["alpha"] for row in rows),
            rate=rows[0]["rate"],
            n=options["parts"] * options["pictures"],
            **which,
        )
        for rows in grouped(result)
        if rows[0]["discretizer"] == name
    ]


def as_text(result: dict[str, Any]) -> str:
    """A row for each discretizer, side and rate, as Markdown; of each part what it came to."""
    lines = ["| discretizer | size | rate | alpha | changed there | changed elsewhere |", "|---|---:|---:|---|---|---|"]
    lines += [
        f"| `{rows[0]['discretizer']}` | {rows[0]['side']} px | {rows[0]['rate']:.0%} | "
        + " | ".join(", ".join(format(row[key], form) for row in rows) for key, form in COLUMNS.items())
        + " |"
        for rows in grouped(result)
    ]
    return "\n".join(lines)


COLUMNS = {"alpha": ".3f", "reached": ".1%", "elsewhere": ".1%"}


if __name__ == "__main__":
    main()
