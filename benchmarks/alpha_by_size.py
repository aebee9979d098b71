"""How many codes one alpha changes on pictures of several sizes, and which power of the side keeps that number.

Prints a table and, with `--json` and `--figure`, writes it and draws it. Needs pictures of ImageNet and a classifier of them.
Example: `python benchmarks/alpha_by_size.py --data imagenet_sample --weights tiny_darknet_imagenet.safetensors --json a.json`
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from step import SEED, rounded
from torch import Tensor

from dat.attacks.gradient import input_gradient, unit_l2
from dat.data.folders import ImageSource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.subset import spread
from dat.data.testsets import layouts
from dat.discretizers.codes import modified_code_rate
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import DatError
from dat.nn.imagenet_networks import ImageNetNetwork, load_imagenet_network
from dat.progress import Bar
from dat.report.figures import PAPER, STYLE, panels
from dat.results import versions, write_bytes, write_text
from dat.tasks.losses import cross_entropy
from dat.types import Images, PerImage

ALPHAS = (0.05, 0.1, 0.2, 0.4, 0.8)
SIDES = (32, 64, 128, 224)
BATCH = 8
RATES_COMPARED = 9
COLOURS = ("#cc4e00", "#0067a5", "#00805f", "#a64a86")


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
    if options.figure:
        content = io.BytesIO()
        drawn(result).savefig(content, format="png", dpi=100, facecolor=PAPER)
        write_bytes(options.figure, content.getvalue())


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of labelled pictures of ImageNet's 1000 classes")
    parser.add_argument("--network", default="tiny_darknet", help="squeezenet1_0, mobilenet_v2 or tiny_darknet")
    parser.add_argument("--weights", type=Path, help="of that network")
    parser.add_argument("--discretizer", default="photos-f4-1024", help="name or file")
    parser.add_argument("--pictures", type=int, default=32, help="how many, spread evenly")
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, help="of the pictures, in pixels")
    parser.add_argument("--alphas", nargs="+", type=float, default=ALPHAS, help="L2 lengths of the step")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--json", type=Path, help="file for the JSON")
    parser.add_argument("--figure", type=Path, help="file for the picture (PNG)")
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The rate of every alpha at every side, the exponent, the setting and the versions."""
    torch.set_num_threads(options.threads)
    (part,) = layouts.parts("clean", options.data)
    source = spread(part.source, options.pictures)
    classifier = load_imagenet_network(options.network, options.weights)
    discretizer = load_discretizer(options.discretizer)
    labels = torch.from_numpy(part.labels[source.targets])
    points = []
    with Bar("sides", len(options.sides)) as bar:
        for number, side in enumerate(options.sides):
            rates = rates_at(side, source, labels, classifier, discretizer, options.alphas)
            points += [point(side, alpha, rate) for alpha, rate in zip(options.alphas, rates, strict=True)]
            bar.advance(number + 1, f"{side} px")
    return {"points": points, "exponent": exponent(points), "setting": setting(options, source), "versions": versions()}


def rates_at(
    side: int,
    source: ImageSource,
    labels: Tensor,
    classifier: ImageNetNetwork,
    discretizer: FrozenDiscretizer,
    alphas: Sequence[float],
) -> list[PerImage]:
    """Per alpha the share of each picture's codes that differ between x and x + delta, Algorithm 1 with the clamp."""
    dataset, found = ImageDataset(source, CenterCrop(side, crop_pct=1.0), seed=SEED), []
    for first in range(0, len(source), BATCH):
        images, _, _ = dataset.__getitems__([(0, index) for index in range(first, min(first + BATCH, len(source)))])
        targets = labels[first : first + BATCH]
        codes = discretizer.encode(images)
        reconstruction = discretizer.decode(codes)[..., :side, :side]
        direction = direction_at(reconstruction, targets, classifier)
        found.append(
            [modified_code_rate(codes, discretizer.encode((images + alpha * direction).clamp(0, 1))) for alpha in alphas]
        )
    return [torch.cat(column) for column in zip(*found, strict=True)]


def direction_at(images: Images, targets: Tensor, classifier: ImageNetNetwork) -> Images:
    """Of length 1 per picture, up the loss."""
    return unit_l2(input_gradient(images, lambda shown: cross_entropy(classifier(shown), targets)))


def point(side: int, alpha: float, rates: PerImage) -> dict[str, Any]:
    """Mean rate over pictures and its standard error."""
    error = float(rates.double().std()) / len(rates) ** 0.5
    mean = float(rates.double().mean())
    return {
        "side": side,
        "alpha": alpha,
        "modified_code_rate": rounded(mean),
        "standard_error": rounded(error),
        "n": len(rates),
    }


def exponent(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The p of `alpha ~ side^p` that holds a rate: over rates that every side reaches, its mean, lowest and highest value."""
    sides = sorted({row["side"] for row in points})
    curves = {
        side: np.array([(row["alpha"], row["modified_code_rate"]) for row in points if row["side"] == side]) for side in sides
    }
    low = max(curve[:, 1].min() for curve in curves.values())
    high = min(curve[:, 1].max() for curve in curves.values())
    if not 0 < low < high:
        return {"mean": None, "range": None, "rates": None}
    rates = np.geomspace(low, high, RATES_COMPARED)
    alphas = [np.exp(np.interp(np.log(rates), np.log(curves[side][:, 1]), np.log(curves[side][:, 0]))) for side in sides]
    slopes = np.polyfit(np.log(sides), np.log(alphas), 1)[0]
    spread_of = [rounded(float(slopes.min())), rounded(float(slopes.max()))]
    return {"mean": rounded(float(slopes.mean())), "range": spread_of, "rates": [rounded(float(low)), rounded(float(high))]}


def setting(options: argparse.Namespace, source: ImageSource) -> dict[str, Any]:
    """What was measured, without paths."""
    values = {name: value for name, value in vars(options).items() if name not in ("data", "json", "figure")}
    names = {"weights": options.weights.name, "discretizer": Path(options.discretizer).name}
    return values | names | {"data": source.fingerprint()[:12], "gradient_scale": "l2", "clamp": True, "precision": "fp32"}


def as_text(result: dict[str, Any]) -> str:
    """A row for each alpha, a column for each side."""
    points, setting = result["points"], result["setting"]
    rates = {(row["side"], row["alpha"]): row["modified_code_rate"] for row in points}
    lines = ["alpha " + "".join(f"{side:>7} px" for side in setting["sides"])]
    lines += [
        f"{alpha:<6g}" + "".join(f"{rates[side, alpha]:>10.2%}" for side in setting["sides"]) for alpha in setting["alphas"]
    ]
    return "\n".join([*lines, f"alpha ~ side^p holds the rate: {result['exponent']}"])


@mpl.rc_context(STYLE)
def drawn(result: dict[str, Any]) -> Figure:
    """The rate against alpha, and against alpha / side^p, where the sides should fall together."""
    power = result["exponent"]["mean"] or 0.0
    figure, axes = panels(2, width=8.6, height=3.9, same_height=True)
    for colour, side in zip(COLOURS, result["setting"]["sides"], strict=False):
        rows = [row for row in result["points"] if row["side"] == side]
        alphas, rates, errors = (
            np.array([row[key] for row in rows]) for key in ("alpha", "modified_code_rate", "standard_error")
        )
        for axis, lengths in zip(axes, (alphas, alphas * (224 / side) ** power), strict=True):
            look = {"color": colour, "marker": "o", "ms": 5, "markeredgecolor": PAPER, "lw": 1.3}
            axis.errorbar(lengths, 100 * rates, yerr=100 * errors, label=f"{side} px", **look)
    for axis, title in zip(axes, ("One alpha", f"alpha as at 224 px: times (224 / side)^{power:.2f}"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter("{x:.3g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_title(title, loc="left", fontweight="bold")
        axis.set_xlabel("alpha")
    axes[0].set_ylabel("modified codes, %")
    axes[0].legend()
    return figure


if __name__ == "__main__":
    main()
