"""Attacks on codes at an equal modified-code rate: what a trained classifier makes of the pictures they lead to.

Prints a table and, with `--json` and `--figure`, writes it and draws it. Needs pictures and a classifier of CIFAR-10.
Example: `python benchmarks/equal_rate.py --data cifar10/test --weights cifar10_resnet20-12fca82f.th --json equal-rate.json`
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from step import SEED, rounded
from torch import Tensor, nn

from dat.attacks.codes import adversarial_codes
from dat.attacks.discrete import discrete_adversary
from dat.data.draw import Draw
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset, evaluation_batches
from dat.discretizers.codes import modified_code_rate, resample, resample_nearby
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import DatError
from dat.nn.norm import Normalized
from dat.nn.weights import load_strictly, read_tensors
from dat.nn.zoo import SmallResNet
from dat.progress import Bar
from dat.report.figures import INK, PAPER, STYLE, Look, panels
from dat.results import versions, wilson, write_bytes, write_text
from dat.types import Codes, Images, LossFn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the public CIFAR-10 weights were trained with
RATES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
NEIGHBOURS, BATCH = 8, 50
FIRST_ALPHA, TOLERANCE, MOST_TRIALS = 0.03, 0.015, 5

Attacked = tuple[Codes, Images]
"""Codes of some pictures after an attack, and what they decode to."""


@dataclass(frozen=True)
class Passes:
    """What an attack costs for each picture: forward passes, and gradients (forward and backward)."""

    encoder: int
    decoder: int
    decoder_gradient: int = 0
    classifier_gradient: int = 0


@dataclass(frozen=True)
class Attack:
    """One way to change codes. `strength` of `run` is the rate itself, or where `tuned` an alpha that leads to it."""

    run: Callable[[Images, LossFn, FrozenDiscretizer, float, torch.Generator], Attacked]
    look: Look
    passes: Passes
    tuned: bool = False


@dataclass(frozen=True)
class Subject:
    """Who is attacked on which pictures; `codes` and `reconstruction` are those of the pictures before any attack."""

    images: Images
    targets: Tensor
    classifier: nn.Module
    discretizer: FrozenDiscretizer
    codes: Codes
    reconstruction: Images


@dataclass(frozen=True)
class Outcome:
    """What an attack of one strength made of all pictures, at which mean rate, in how many seconds of the processor."""

    strength: float
    modified_code_rate: float
    images: Images
    seconds: float


class Noted:
    """A discretizer that remembers the codes of its last pass."""

    def __init__(self, discretizer: FrozenDiscretizer) -> None:
        self.inner = discretizer
        self.codebook_size, self.stride = discretizer.codebook_size, discretizer.stride
        self.codes: Codes

    def __call__(self, images: Images) -> Images:
        """`Q(x)`."""
        self.codes = self.encode(images)
        return self.decode(self.codes)

    def encode(self, images: Images) -> Codes:
        """Codes, not remembered."""
        return self.inner.encode(images)

    def decode(self, codes: Codes) -> Images:
        """Images."""
        return self.inner.decode(codes)


def random_codes(
    images: Images,
    _: LossFn,
    discretizer: FrozenDiscretizer,
    rate: float,
    generator: torch.Generator,
    *,
    neighbours: int | None = None,
) -> Attacked:
    """The same number of codes of every picture, replaced blindly by any other ones or by near ones."""
    codes = discretizer.encode(images)
    order = torch.rand(codes.flatten(1).shape, generator=generator).argsort(dim=1).argsort(dim=1)
    chance = (order / order.shape[1]).view(codes.shape)  # Each of 0/n, 1/n, ... once, so that rate x n are below the rate.
    choice = torch.rand(codes.shape, generator=generator)
    if neighbours is None:
        chosen = resample(codes, discretizer.codebook_size, rate, chance, choice)
    else:
        chosen = resample_nearby(codes, discretizer.neighbours(neighbours), rate, chance, choice)
    return chosen, discretizer.decode(chosen)


def dat(
    images: Images, loss_fn: LossFn, discretizer: FrozenDiscretizer, alpha: float, _: torch.Generator, *, steps: int
) -> Attacked:
    """Algorithm 1, or several steps of it."""
    noted = Noted(discretizer)
    adversarial = discrete_adversary(images, loss_fn, noted, alpha=alpha, steps=steps)
    return noted.codes, adversarial


def dat_codes(
    images: Images, loss_fn: LossFn, discretizer: FrozenDiscretizer, rate: float, _: torch.Generator, *, steps: int
) -> Attacked:
    """The codes of the largest gains, each replaced by one of its neighbours."""
    chosen = adversarial_codes(images, loss_fn, discretizer, rate=rate, neighbours=NEIGHBOURS, steps=steps)
    return chosen, discretizer.decode(chosen)


ATTACKS = {
    "random codes, near": Attack(partial(random_codes, neighbours=NEIGHBOURS), Look("#6e7681", "s"), Passes(1, 1)),
    "random codes": Attack(random_codes, Look("#00805f", "o"), Passes(1, 1)),
    "dat": Attack(partial(dat, steps=1), Look("#cc4e00", "D"), Passes(2, 2, 0, 1), tuned=True),
    "dat, 3 steps": Attack(partial(dat, steps=3), Look("#a64a86", "^"), Passes(4, 4, 0, 3), tuned=True),
    "dat-codes": Attack(partial(dat_codes, steps=1), Look("#0067a5", "v"), Passes(1, 1, 1, 1)),
    "dat-codes, 3 rounds": Attack(partial(dat_codes, steps=3), Look("#4a3f94", "p"), Passes(1, 1, 3, 3)),
}


def main() -> None:
    """Measure what the command line asks for and print it."""
    options = parsed()
    if options.data is None or options.weights is None:  # no error: `make bench` runs every script as it is
        print("Nothing was measured: give CIFAR-10 test pictures (--data) and weights of a classifier (--weights).")
        return
    try:
        result = compared(options)
    except DatError as error:
        raise SystemExit(str(error)) from error
    print(as_text(result))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    if options.figure:
        earlier = [json.loads(path.read_text())["discretizers"] for path in options.beside]
        save(reduce(or_, earlier, {}) | result["discretizers"], options.figure)


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of test pictures, one subfolder per class")
    parser.add_argument("--weights", type=Path, help="of a small_resnet, such as the public ones of CIFAR-10")
    parser.add_argument("--depth", type=int, default=20, help="layers of that network")
    parser.add_argument("--per-class", type=int, default=100, help="so many times the number of classes are drawn")
    parser.add_argument("--draw", choices=get_args(Draw), default="in-proportion", help="which, as in a recipe")
    parser.add_argument("--discretizers", nargs="+", default=["cifar-f2-1024", "cifar-f2-1024-fast"], help="names or files")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="shares of the codes that are modified")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; with several, seconds say little")
    parser.add_argument("--json", type=Path, help="file for the JSON")
    parser.add_argument("--figure", type=Path, help="file for the picture (PNG)")
    parser.add_argument("--beside", type=Path, nargs="+", default=[], help="JSON of earlier runs, drawn into that picture too")
    return parser.parse_args()


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """All attacks at all rates on each discretizer, the setting, and the versions."""
    torch.set_num_threads(options.threads)
    images, targets, classes = pictures(options.data, options.per_class, options.draw)
    classifier = trained(options.weights, classes=classes, depth=options.depth)
    results = {}
    for name in options.discretizers:
        subject = subject_of(images, targets, classifier, load_discretizer(name))
        results[Path(name).name] = {
            "clean": scored(images, subject),
            "reconstruction": scored(subject.reconstruction, subject) | distances(subject.reconstruction, images),
            "points": points(subject, sorted(options.rates), title=Path(name).name),
        }
    passes = {name: asdict(attack.passes) for name, attack in ATTACKS.items()}
    return {"discretizers": results, "passes": passes, "setting": setting(options), "versions": versions()}


def pictures(root: Path, per_class: int, draw: Draw) -> tuple[Images, Tensor, int]:
    """Pictures that were drawn, their classes, and how many classes there are."""
    folder = ImageFolder(root, per_class=per_class, draw=draw)
    images, targets, _ = next(iter(evaluation_batches(ImageDataset(folder, CenterCrop(), seed=SEED), len(folder))))
    return images, targets, len(folder.classes)


def trained(weights: Path, *, classes: int, depth: int) -> nn.Module:
    """The classifier; the public files come from a data-parallel module, and from a time without counters of batches."""
    network = SmallResNet(num_classes=classes, depth=depth)
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    given = {key.removeprefix("module."): tensor for key, tensor in read_tensors(weights)[0].items()}
    load_strictly(network, counters | given, name=weights.name)
    return Normalized(network.requires_grad_(False), mean=MEAN, std=STD).eval()


def subject_of(images: Images, targets: Tensor, classifier: nn.Module, discretizer: FrozenDiscretizer) -> Subject:
    """With the codes before any attack, and the neighbours known, so that no attack has to seek them."""
    discretizer.neighbours(NEIGHBOURS)
    codes = in_batches(discretizer.encode, images)
    return Subject(images, targets, classifier, discretizer, codes, in_batches(discretizer.decode, codes))


def part_of(subject: Subject, *, every: int) -> Subject:
    """The same with fewer pictures."""
    tensors = ("images", "targets", "codes", "reconstruction")
    return replace(subject, **{name: getattr(subject, name)[::every] for name in tensors})


def in_batches(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """What the function gives for all rows."""
    return torch.cat([function(part) for part in tensor.split(BATCH)])


def points(subject: Subject, rates: Sequence[float], *, title: str) -> list[dict[str, Any]]:
    """Every attack at every rate; shows how far it is."""
    found = []
    with Bar(title, len(ATTACKS) * len(rates)) as bar:
        for name in ATTACKS:
            for point in curve(name, subject, rates):
                found.append(point)
                bar.advance(len(found), name)
    return found


def curve(name: str, subject: Subject, rates: Sequence[float]) -> Iterator[dict[str, Any]]:
    """The points of an attack; where its strength is an alpha, one that leads to the rate."""
    attack, few, alpha = ATTACKS[name], part_of(subject, every=5), FIRST_ALPHA
    for rate in rates:
        if attack.tuned:  # first by a few pictures, so that few runs over all are needed
            alpha = tuned(attack, few, rate, start=alpha).strength
            outcome = tuned(attack, subject, rate, start=alpha)
            alpha = outcome.strength
        else:
            outcome = outcome_of(attack, subject, rate)
        point = {"attack": name, "target_rate": rate, "modified_code_rate": rounded(outcome.modified_code_rate)}
        point |= {"alpha": rounded(alpha) if attack.tuned else None}
        point |= scored(outcome.images, subject) | distances(outcome.images, subject.reconstruction)
        yield point | {"seconds_per_picture": rounded(outcome.seconds / len(subject.images))}


def tuned(attack: Attack, subject: Subject, rate: float, *, start: float) -> Outcome:
    """The attack of the alpha that leads closest to the rate.

    As the rate grows with alpha, somewhat less than in proportion, alpha times the missing factor closes in from one side.
    """
    trials: list[Outcome] = []
    alpha = start
    while len(trials) < MOST_TRIALS:
        trials.append(outcome_of(attack, subject, alpha))
        achieved = trials[-1].modified_code_rate
        if abs(achieved - rate) <= TOLERANCE * rate:
            break
        alpha *= rate / max(achieved, rate / 4)
    return min(trials, key=lambda trial: abs(trial.modified_code_rate - rate))


def outcome_of(attack: Attack, subject: Subject, strength: float) -> Outcome:
    """One run over all pictures, timed; random numbers are the same at every strength."""
    generator = torch.Generator().manual_seed(SEED)
    start, found = time.process_time(), []
    for images, targets in zip(subject.images.split(BATCH), subject.targets.split(BATCH), strict=True):
        loss_fn = partial(losses, subject.classifier, targets)
        found.append(attack.run(images, loss_fn, subject.discretizer, strength, generator))
    seconds = time.process_time() - start
    codes, images = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Outcome(strength, float(modified_code_rate(subject.codes, codes).mean()), images, seconds)


def losses(classifier: nn.Module, targets: Tensor, images: Images) -> Tensor:
    """One cross-entropy per picture."""
    return F.cross_entropy(classifier(images), targets, reduction="none")


def scored(images: Images, subject: Subject) -> dict[str, Any]:
    """Accuracy in percent with its interval, and mean loss, of `n` pictures."""
    with torch.no_grad():
        logits = in_batches(subject.classifier, images)
    correct, n = int((logits.argmax(dim=1) == subject.targets).sum()), len(images)
    interval = [round(bound, 2) for bound in wilson(correct, n)]
    loss = rounded(float(F.cross_entropy(logits, subject.targets)))
    return {"accuracy": round(100 * correct / n, 2), "interval": interval, "n": n, "loss": loss}


def distances(images: Images, others: Images) -> dict[str, float | None]:
    """PSNR of the mean squared error over all pictures, of which single ones may be equal, and mean L2 distance."""
    squares = (images - others).flatten(1).square()
    error = float(squares.mean())
    psnr = round(-10 * math.log10(error), 2) if error else None
    return {"psnr_db": psnr, "l2_distance": rounded(float(squares.sum(dim=1).sqrt().mean()))}


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, without paths."""
    values = {
        name: value for name, value in vars(options).items() if name not in ("data", "json", "figure", "beside", "discretizers")
    }
    fixed = {"neighbours": NEIGHBOURS, "batch": BATCH, "seed": SEED, "clock": "cpu"}
    return values | fixed | {"weights": options.weights.name}


def as_text(result: dict[str, Any]) -> str:
    """The result as plain tables, one for each discretizer."""
    return "\n\n".join("\n".join(lines_of(name, found)) for name, found in result["discretizers"].items())


def lines_of(name: str, found: dict[str, Any]) -> Iterator[str]:
    """The table of one discretizer."""
    plain = found["reconstruction"]
    low, high = plain["interval"]
    yield (
        f"{name}: {plain['n']} pictures, clean accuracy {found['clean']['accuracy']:.1f} %, "
        f"of the reconstruction {plain['accuracy']:.1f} % ({low:.1f} to {high:.1f}); "
        "PSNR: of the mean error, to the reconstruction"
    )
    yield f"{'attack':<24}{'modified codes':>15}{'alpha':>8}{'accuracy':>10}{'95 %':>15}{'loss':>8}{'PSNR':>7}{'ms/image':>10}"
    for point in found["points"]:
        low, high = point["interval"]
        alpha = "-" if point["alpha"] is None else f"{point['alpha']:.3f}"
        psnr = "-" if point["psnr_db"] is None else f"{point['psnr_db']:.1f}"
        yield (
            f"{point['attack']:<24}{point['modified_code_rate']:>15.2%}{alpha:>8}{point['accuracy']:>9.1f} "
            f"{f'{low:.1f} to {high:.1f}':>15}{point['loss']:>8.2f}{psnr:>7}{1000 * point['seconds_per_picture']:>10.1f}"
        )


def save(found: dict[str, Any], path: Path) -> None:
    """The picture of the results as a PNG file."""
    content = io.BytesIO()
    drawn(found).savefig(content, format="png", dpi=100, facecolor=PAPER)
    write_bytes(path, content.getvalue())


@mpl.rc_context(STYLE)
def drawn(found: dict[str, Any]) -> Figure:
    """Accuracy against modified-code rate: a panel for each discretizer, a line for each attack."""
    figure, axes = panels(len(found), width=1.2 + 4.1 * len(found), height=4.3, same_height=True)
    for panel, (name, results) in zip(axes, found.items(), strict=True):
        panel.axhline(results["reconstruction"]["accuracy"], color=INK, lw=1.0, ls="--")
        for attack in ATTACKS:
            draw_curve(panel, [point for point in results["points"] if point["attack"] == attack], ATTACKS[attack].look)
        rates = sorted({100 * point["target_rate"] for point in results["points"]})
        panel.set_xscale("log", base=2)
        panel.set_xticks(rates, [f"{rate:.3g}" for rate in rates])
        panel.set_title(f"{name}, {results['clean']['n']} pictures", loc="left", fontweight="bold")
        panel.set_xlabel("modified codes, %")
    axes[0].set_ylabel("accuracy, %")
    axes[0].set_ylim(bottom=0)
    handles = [Line2D([], [], color=INK, lw=1.0, ls="--", label="no code modified")]
    for name, attack in ATTACKS.items():
        handles.append(Line2D([], [], color=attack.look.color, marker=attack.look.marker, ms=5, label=name))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, 2 * len(found)), handlelength=1.8)
    return figure


def draw_curve(axes: Axes, points: Sequence[dict[str, Any]], look: Look) -> None:
    """One attack: accuracies joined, each with its interval."""
    rates, values = ([point[key] for point in points] for key in ("modified_code_rate", "accuracy"))
    errors = [[abs(point["interval"][end] - point["accuracy"]) for point in points] for end in (0, 1)]
    drawn = {"color": look.color, "marker": look.marker, "ms": 5.5, "markeredgecolor": PAPER, "markeredgewidth": 0.8}
    axes.errorbar([100 * rate for rate in rates], values, yerr=errors, **drawn, lw=1.3, elinewidth=1.3)


if __name__ == "__main__":
    main()
