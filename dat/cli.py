"""The command line: verbs that parse, call and print. Results on stdout, progress on stderr.

Nothing heavy is imported until a verb needs it: `dat --help` does not wait for torch.
"""

from __future__ import annotations

import inspect
import json as jsonlib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dat.engine.allocator import keep_freed_memory
from dat.errors import DatError, UsageError

if TYPE_CHECKING:
    from dat.commands.reproduce import Reproduction
    from dat.commands.specimens import Options
    from dat.results import Row

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY.SUB=VALUE]...", help="Recipe keys to change.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that is in the output folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
Cpu = Annotated[bool, typer.Option("--cpu", help="Use no GPU, even if there is one.")]
Config = Annotated[Path | None, typer.Option(help="Its public configuration, YAML or JSON, where the file does not tell.")]
Layout = Annotated[str | None, typer.Option(help="The layout of its tensors, where they do not tell.")]
NAMED = ("timm:", "torchvision:", "imagenet:")
"""How models begin that no run of ours has left."""
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A file of weights, or a name of `dat discretizer list`.")]
SourceFolder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Pictures in class folders, or a table, shards or hf:NAME.")
]
CopyFolder = Annotated[Path, typer.Option("--out", help="Folder of the copy.")]
CopySize = Annotated[str, typer.Option("--size", help="Side in pixels; `none`: each picture keeps its own.")]
CropPct = Annotated[float, typer.Option(help="The short side is resized to size / crop-pct before the centre is cut out.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="RUN/<method>-seed<k>, or whole runs.")]
AnalyzedData = Annotated[
    Path | None, typer.Option(help="A folder, table, shards or hf:NAME; by default what the run is tested on.")
]
Figures = Annotated[Path | None, typer.Option(help="Folder of the rows and the picture; in that of the first RUN.")]
Pictures = Annotated[int, typer.Option(help="So many at most, drawn by a fixed seed.")]
BatchSize = Annotated[int | None, typer.Option(help="Pictures that are shown at once (64; a detector 8).")]
Alpha = Annotated[float | None, typer.Option(help="L2 length of the step of DAT; by default that of the run, else 0.1.")]
Epsilon = Annotated[
    float | None, typer.Option("--epsilon-255", help="Radius of PGD in pixels, in 255ths; that of the run's AT, else 4.")
]
With = Annotated[str | None, typer.Option("--with", help="The discretizer: a name, or a file; by default that of the run.")]
Size = Annotated[int | None, typer.Option(help="Resize the short side to this and cut out the centre.")]
CopyForm = Annotated[str, typer.Option("--format", help="png, or jpeg (quality 85, as the published ImageNet-C).")]

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
RESUMABLE = (["train"], ["demo"])

app = typer.Typer(
    name="dat",
    help="Discrete Adversarial Training: the adversary changes visual words, not pixels.",
    epilog="Example:  dat demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes_app = typer.Typer(
    help="Recipes that come with the package, and checks of your own.",
    epilog="Example:  dat recipes show demo",
    no_args_is_help=True,
)
app.add_typer(recipes_app, name="recipes")
discretizer_app = typer.Typer(
    help="Trained discretizers by name: which there are, where to get them, and their files.",
    epilog="Example:  dat discretizer list",
    no_args_is_help=True,
)
app.add_typer(discretizer_app, name="discretizer")
data_app = typer.Typer(
    help="Test sets of the literature: which there are, how to get them, and whether yours is as published.",
    epilog="Example:  dat data check a --root /data",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")
analyze_app = typer.Typer(
    help="Figures of the paper on models of your own: what adversaries do to statistics, and what they look like.",
    epilog="Example:  dat analyze statistics runs/demo",
    no_args_is_help=True,
)
app.add_typer(analyze_app, name="analyze")
make_app = typer.Typer(
    help="Copies of a folder of pictures: corrupted as ImageNet-C is, or each picture in the style of another.",
    epilog="Example:  dat data make corruptions photos/val --out photos-c",
    no_args_is_help=True,
)
data_app.add_typer(make_app, name="make")


def _say_versions(wanted: bool) -> bool:
    if not wanted:
        return False
    from dat.commands import versions

    print(versions.as_text())
    raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_versions, is_eager=True, help="Say which versions are here.")
    ] = False,
) -> None:
    """What comes before any verb; `--version` ends the program itself."""


def _recipes_like(start: str) -> list[str]:
    """Names of recipes for a shell; of none it offers files."""
    from dat.recipe.file import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(start)]


Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name.", autocompletion=_recipes_like)]
NamedRecipes = Annotated[list[str] | None, typer.Argument(metavar="[RECIPE]...", autocompletion=_recipes_like)]


@app.command(epilog="Example:  dat demo")
def demo(overrides: Overrides = None, resume: Resume = False, cpu: Cpu = False) -> None:
    """Train and compare four methods on handwritten digits in a few minutes, and write a report page."""
    train("demo", overrides, resume, cpu)


@app.command(epilog="Example:  dat train cifar10/cpu/dat training.epochs=4 out=runs/short")
def train(recipe: Recipe, overrides: Overrides = None, resume: Resume = False, cpu: Cpu = False) -> None:
    """Carry out RECIPE: a YAML file, or the name of one that comes with the package (`dat recipes list`)."""
    from dat.commands import train
    from dat.commands.report import outcome

    folder = train.train(recipe, overrides or (), resume=resume, cpu=cpu)
    if _is_main():
        print(outcome(folder))


@app.command("eval", epilog="Example:  dat eval timm:resnet50 --suites clean,fgsm,a,c,r --data /data")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="RUN/<method>-seed<k>, a checkpoint in it, timm:NAME, torchvision:DETECTOR."),
    ],
    overrides: Overrides = None,
    suites: Annotated[str | None, typer.Option(help="Test sets, with commas: clean,fgsm,a,c (`dat data list`).")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="The folder with the test sets, or with class folders (or x.csv, x-*.tar, hf:NAME); for detectors a COCO "
            "file. NAME=FOLDER for each of several.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where predictions, rows and the page go; what is there is kept.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A file of weights for timm:NAME or torchvision:DETECTOR, instead of theirs.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the model in rows and tables.")] = None,
    allow_bad: Annotated[int, typer.Option(help="So many unreadable pictures of a set are left out.")] = 0,
    self_test: Annotated[bool, typer.Option(help="Look for mistakes that make numbers wrong, first.")] = True,
    json: Json = False,
    cpu: Cpu = False,
) -> None:
    """Evaluate MODEL: on the test sets named, stopped and continued at will; or, of a run, as its recipe says.

    With --suites, KEY=VALUE are settings of the evaluation (fgsm_epsilon_255=4, precision=bf16); without, recipe keys. With
    --data NAME=FOLDER and no --suites, MODEL may be a whole RUN: all of its models are shown those pictures as they are. Of a
    run of self-supervised learning, whole or not, the features are judged.
    """
    more, changes = _sets_and_keys(overrides or (), named=bool(data) and "" not in _named_sets(data))
    sets = _named_sets([*(data or ()), *more])
    names = None if suites is None else [named.strip() for named in suites.split(",") if named.strip()]
    how = {"out": out, "sets": sets, "self_test": self_test, "cpu": cpu}
    if not model.startswith(NAMED) and _is_pretraining(model):
        _refuse_for_features(model, {"--weights": weights, "--allow-bad": allow_bad})
        rows, shown = _judged(model, names, changes, name=name, **how)
    elif names is None:
        unnamed = {"": data} if "" in sets else {}
        _refuse_without_suites({"--data": unnamed, "--weights": weights, "--name": name, "--allow-bad": allow_bad})
        rows, shown = _evaluated_again(model, changes, sets, out, cpu=cpu, json=json)
    else:
        rows, shown = _evaluated(model, names, changes, {"weights": weights, "name": name}, allow_bad=allow_bad, **how)
    for row in rows if json and _is_main() else ():
        print(jsonlib.dumps(asdict(row)))
    if shown is not None and not json:
        print(shown)


def _named_sets(data: Sequence[str]) -> dict[str, Path]:
    """Folders by the names before them; a single one may have none.

    Raises:
        UsageError: several folders, and one has no name, or that of another.
    """
    if len(data) == 1 and (Path(data[0]).exists() or "=" not in data[0].partition("::")[0]):
        return {"": Path(data[0])}
    sets: dict[str, Path] = {}
    for text in data:
        name, _, folder = text.partition("=")
        if fault := _fault_of_set(name, folder, sets):
            raise UsageError(f"--data {text} {fault}; write --data NAME=FOLDER for each, e.g. --data art=photos/art.")
        sets[name] = Path(folder)
    return sets


def _fault_of_set(name: str, folder: str, known: Collection[str]) -> str | None:
    """Why a set cannot be called so; None where it can."""
    if not (name and folder):
        return "names no set of its own"
    if not re.fullmatch(r"[\w.+-]+", name):
        return f"calls a set {name!r}, but names are of letters, digits and any of . + - _"
    return f"is another set with the name {name}" if name in known else None


FOLDERS = ("frost", "styles", "out")
"""Keys whose value may be a folder."""


def _sets_and_keys(overrides: Sequence[str], *, named: bool) -> tuple[list[str], list[str]]:
    """Of what follows `--data art=A`, the further sets of `--data art=A sketch=B`, which lead to something, and the keys."""
    sets = [text for text in overrides if named and _is_set(*text.partition("=")[::2])]
    return sets, [text for text in overrides if text not in sets]


def _is_set(name: str, place: str) -> bool:
    return bool(place) and "." not in name and name not in FOLDERS and Path(place).exists()


def _evaluated_again(
    model: str, overrides: Sequence[str], sets: Mapping[str, Path], out: Path | None, *, cpu: bool, json: bool
) -> tuple[Sequence[Row], str | None]:
    """Rows of a model of a run, or of all its models, as its recipe measures them, and what is shown of them."""
    from dat.commands.evaluate import evaluate_all_again
    from dat.report.tables import terminal_table

    if model.startswith(NAMED):
        raise UsageError(
            f"{model} has no recipe that says what it is tested on; add --suites, e.g. --suites clean, and --data."
        )
    rows, right = evaluate_all_again(Path(model), overrides, sets=sets, out=out, cpu=cpu)
    return rows, None if json or not _is_main() else terminal_table(rows, answers=right, named=bool(sets))


def _evaluated(
    model: str,
    suites: Sequence[str],
    overrides: Sequence[str],
    subject: Mapping[str, Any],
    *,
    out: Path | None,
    sets: Mapping[str, Path],
    allow_bad: int,
    self_test: bool,
    cpu: bool,
) -> tuple[Sequence[Row], str | None]:
    """Rows of a classifier or of a detector on suites, and what is shown of them; its page is written."""
    from dat.commands.detector_subject import is_of_boxes
    from dat.commands.evaluation_folder import default_folder
    from dat.commands.report import write_all

    folder = out or default_folder(model)
    how = {"folder": folder, "self_test": self_test, "cpu": cpu}
    data = next(iter(sets.values()), None)
    if is_of_boxes(model):
        from dat.commands.detection_plan import detection_settings
        from dat.commands.detector_subject import open_detector
        from dat.commands.evaluate_detector import assess_detector

        if sets and "" not in sets:
            raise UsageError("A detector is shown one set at a time; write --data FILE without a name.")
        if allow_bad:
            raise UsageError("--allow-bad goes with classifiers; mend the picture, or take it and its boxes out of the set.")
        settings = detection_settings(overrides)
        rows = assess_detector(open_detector(model, **subject), suites, data=data, settings=settings, **how)
    else:
        from dat.commands.evaluate import assess
        from dat.commands.evaluation_plan import settings_of
        from dat.commands.subject import open_tested, refuse_boxes

        refuse_boxes(model, data)
        how |= {"settings": settings_of(overrides), "allow_bad": allow_bad}
        tested, places = open_tested(model, **subject), sets or {"": None}
        rows = [row for called, root in places.items() for row in assess(tested, suites, root=root, called=called, **how).rows]
    return rows, "\n\nReport: ".join(map(str, write_all([folder]))) if _is_main() else None


def _is_pretraining(model: str) -> bool:
    from dat.commands.trained import pretraining_of

    return pretraining_of(model) is not None


def _refuse_for_features(model: str, options: Mapping[str, object]) -> None:
    if options["--weights"]:
        raise UsageError(f"{model} has its own weights; leave out --weights.")
    if options["--allow-bad"]:
        raise UsageError("--allow-bad goes with classifiers; mend the picture, or take it out of the set.")


def _judged(
    model: str,
    suites: Sequence[str] | None,
    overrides: Sequence[str],
    *,
    name: str | None,
    out: Path | None,
    sets: Mapping[str, Path],
    self_test: bool,
    cpu: bool,
) -> tuple[Sequence[Row], str | None]:
    """Rows of the features of one network of a run or of all, and what is shown of them; a page of each is written."""
    from dat.commands.evaluate_features import assess_features
    from dat.commands.report import write_all
    from dat.report.selfsupervised_page import features_table

    how = {"sets": sets, "out": out, "name": name, "self_test": self_test, "cpu": cpu}
    found = assess_features(Path(model), suites, overrides, **how)
    if not found:  # the first process shows
        return [], None
    rows = [row for of_network in found.values() for row in of_network]
    pages = [write_all([folder]) for folder in found]
    shown = [text for text, _ in pages] if len(pages) == 1 else [features_table(rows)]
    return rows, "\n\n".join([*shown, "\n".join(f"Report: {page}" for _, page in pages)])


def _refuse_without_suites(options: dict[str, object]) -> None:
    if given := [name for name, value in options.items() if value]:
        raise UsageError(
            f"{given[0]} goes with --suites; add e.g. --suites clean, name a set of a run, e.g. --data art=FOLDER, or keys "
            "of its recipe, e.g. data.test=FOLDER."
        )


@app.command(epilog="Example:  dat predict runs/photos/dat-seed0 holiday.jpg photos/new")
def predict(
    model: Annotated[str, typer.Argument(metavar="RUN", help="RUN/<method>-seed<k>, or a checkpoint in it.")],
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURES...", help="Files, and folders of them.")],
    top: Annotated[int | None, typer.Option(help="So many of the likeliest classes are told (5).")] = None,
    score: Annotated[float | None, typer.Option(help="Of a detector: boxes with a lower score are left out (0.5).")] = None,
    explain: Annotated[Path | None, typer.Option(help="PNG, or folder: the codes that an adversary would change.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Length of its step; by default that of the training.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures that are shown at once (64; a detector 8).")] = None,
    json: Json = False,
    cpu: Cpu = False,
) -> None:
    """Say what a trained model sees in PICTURES, or finds in them; exit code 1 if one of them cannot be read."""
    from dat.commands import predict as prediction

    options = prediction.Options(top=top, score=score, batch_size=batch_size, explain=explain, alpha=alpha, cpu=cpu)
    found: list[prediction.Said] = []
    for batch in prediction.said(model, pictures, options):
        for one in batch if json else ():
            print(jsonlib.dumps(asdict(one)), flush=True)
        found += batch
    if not json:
        print(prediction.as_table(found))
    if explain is not None:
        print(f"Explained: {explain}", file=sys.stderr)
    if bad := sum(one.fault is not None for one in found):
        print(f"{bad} of {len(found)} pictures cannot be read.", file=sys.stderr)
        raise typer.Exit(1)


@app.command(epilog="Example:  dat export runs/photos/dat-seed0 --to onnx")
def export(
    source: Annotated[
        str, typer.Argument(metavar="RUN", help="RUN/<method>-seed<k>; with --discretizer also a name or a file.")
    ],
    to: Annotated[str, typer.Option(help="timm, onnx or torch-export.")],
    out: Annotated[Path | None, typer.Option(help="The folder; `exported/<to>` in that of the model.")] = None,
    discretizer: Annotated[
        bool, typer.Option("--discretizer", help="The frozen discretizer: encode (pictures to codes) and decode.")
    ] = False,
    size: Annotated[int | None, typer.Option(help="Side in pixels that the discretizer is shown; that of the run.")] = None,
    json: Json = False,
) -> None:
    """Write a trained network so that it runs without this package: a folder for timm, a file of ONNX, or of torch.export.

    It takes pictures in [0, 1], any number at once, and is compared with ours before it is kept.
    """
    from dat.commands import export as exporting

    written = exporting.export(source, to, out, discretizer=discretizer, size=size)
    for one in written if json else ():
        print(jsonlib.dumps({**asdict(one), "file": str(one.file)}))
    if not json:
        print(exporting.as_table(written))


@app.command(epilog="Example:  dat push runs/photos/dat-seed0 me/photos-dat --dry-run")
def push(
    source: Annotated[str, typer.Argument(metavar="RUN", help="RUN/<method>-seed<k> of classification or detection.")],
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="What it is called on the Hugging Face Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and the card; send nothing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Only for those whom you let in.")] = False,
    licence: Annotated[str, typer.Option("--licence", "--license", help="What the card says, e.g. apache-2.0.")] = "unknown",
    json: Json = False,
) -> None:
    """Send a model to the hub: weights, recipe, results, and a card that is made from them. Nothing else of the run is sent."""
    from dat.commands import push as pushing

    parcel = pushing.push(source, name, private=private, dry_run=dry_run, licence=licence)
    print(jsonlib.dumps(asdict(parcel)) if json else pushing.as_text(parcel))


@app.command(epilog="Example:  dat pull me/photos-dat")
def pull(
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="What it is called on the Hugging Face Hub.")],
    revision: Annotated[str | None, typer.Option(help="A branch, a tag or a commit; the newest.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the run; runs/NAME.")] = None,
) -> None:
    """Fetch a model that `dat push` sent, as the folder of a run: tensors and data only, nothing of it can run."""
    from dat.commands import pull as pulling

    found = pulling.pull(name, out, revision=revision)
    print(f"{found.model} (commit {found.commit})")


@app.command(epilog="Example:  dat report runs/demo")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A run of `dat train`, or folders of `dat eval`.")],
    mixed: Annotated[bool, typer.Option("--mixed", help="Compare what was measured in different ways, and say so.")] = False,
) -> None:
    """Write the page of a finished run, report.html (and report.md), from what it stored; of several evaluations, which are
    compared, comparison.html (and .md) in the first folder.
    """
    from dat.commands.report import write_all

    text, page = write_all(runs, mixed=mixed)
    print(f"{text}\n\n{page}" if text else page)


@app.command(epilog="Example:  dat calibrate evaluations/resnet50")
def calibrate(
    folder: Annotated[Path, typer.Argument(metavar="EVALUATION", help="What `dat eval timm:NAME --out` filled.")],
    json: Json = False,
) -> None:
    """Compare our accuracies of timm's models with those that timm publishes; exit code 1 if a comparable one is off."""
    from dat import results
    from dat.evaluation import calibration

    found = calibration.calibrate(results.read_rows(folder / "results.jsonl"))
    for comparison in found if json else ():
        print(jsonlib.dumps(asdict(comparison)))
    if not json:
        print(calibration.as_table(found))
    if any(comparison.verdict == "off" for comparison in found):
        raise typer.Exit(1)


@app.command(epilog="Example:  dat doctor")
def doctor(json: Json = False) -> None:
    """Say what this machine has, what is missing, and the command that installs it."""
    from dat.commands import doctor as examination

    findings = examination.findings()
    print(jsonlib.dumps(findings) if json else examination.as_text(findings))
    if examination.missing(findings):
        raise typer.Exit(1)


@app.command("discretize", epilog="Example:  dat discretize photos --with ldm-vq-f8 --size 256 --out seen")
def discretize_pictures(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Pictures, or folders of them.")],
    source: Annotated[
        list[str] | None, typer.Option("--with", help="The discretizer: a name, or a file of weights; several are compared.")
    ] = None,
    config: Config = None,
    layout: Layout = None,
    size: Annotated[int | None, typer.Option(help="Resize the short side to this and cut out the centre.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for picture.png, codes.npz and reconstructions/.")] = Path("discretized"),
    rate: Annotated[float | None, typer.Option(help="Share of the codes that is replaced at random.")] = None,
    seed: Annotated[int, typer.Option(help="Of those random codes.")] = 0,
    attack: Annotated[
        Path | None, typer.Option(metavar="RUN", help="RUN/<method>-seed<k>: show Q(x + delta) against it, by alpha.")
    ] = None,
    alpha: Annotated[list[float] | None, typer.Option(help="With --attack, once for each length (0, 0.2 to 0.8).")] = None,
    allow_bad: Annotated[int, typer.Option(help="So many unreadable pictures are left out.")] = 0,
    json: Json = False,
    cpu: Cpu = False,
) -> None:
    """Reconstruct IMAGES with a discretizer: write pictures and codes, print PSNR and how the codebook is used.

    The PSNR of all is that of their mean error, as trainings give it; the mean of the pictures' own stands beside it. With
    several --with, or --attack, the first eight are shown side by side, in comparison.png or alphas.png.
    """
    import torch

    from dat.data.picture_files import find_pictures

    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    unused = {"--config": config, "--layout": layout, "--rate": rate, "--allow-bad": allow_bad}
    if attack is not None:
        _refuse_beside("--attack", {**unused, "--size": size, "a second --with": (source or ())[1:]})
        _show_steps(find_pictures(images), attack, out, alpha, (source or [None])[0], device, json)
    elif not source:
        raise UsageError(
            "--with is missing; name a discretizer (`dat discretizer list`), or add --attack RUN/<method>-seed<k>."
        )
    elif alpha:
        raise UsageError(f"--alpha is {alpha[0]:g}, the length of a step against a model; add --attack RUN/<method>-seed<k>.")
    elif len(source) > 1:
        _refuse_beside("a second --with", unused)
        _show_comparison(find_pictures(images), source, out, size, device, json)
    else:
        how = {"size": size, "rate": rate, "seed": seed, "allow_bad": allow_bad}
        _discretize(find_pictures(images), source[0], config, layout, out, device, json, **how)


def _refuse_beside(option: str, others: Mapping[str, object]) -> None:
    if given := [name for name, value in others.items() if value]:
        raise UsageError(f"{given[0]} does not go with {option}; leave one of them out.")


def _show_steps(
    paths: list[Path], model: Path, out: Path, alphas: list[float] | None, source: str | None, device: str, json: bool
) -> None:
    from dat.commands import galleries

    rows = galleries.step_through(paths, model, out, alphas=alphas or galleries.ALPHAS, source=source, device=device)
    _print_gallery(rows, out / galleries.STEPS, json)


def _show_comparison(paths: list[Path], sources: list[str], out: Path, size: int | None, device: str, json: bool) -> None:
    from dat.commands import galleries

    _print_gallery(galleries.compare(paths, sources, out, size=size, device=device), out / galleries.COMPARISON, json)


def _print_gallery(rows: Sequence[Any], picture: Path, json: bool) -> None:
    from dat.commands import galleries

    for row in rows if json else ():
        print(jsonlib.dumps(asdict(row)))
    if not json:
        print(f"{galleries.as_table(rows)}\n{picture}")


def _discretize(
    found: list[Path],
    source: str,
    config: Path | None,
    layout: str | None,
    out: Path,
    device: str,
    json: bool,
    *,
    rate: float | None,
    seed: int,
    **how: Any,
) -> None:
    from dat.commands import discretize
    from dat.discretizers.listing import read_config
    from dat.discretizers.pretrained import load_discretizer

    discretizer = load_discretizer(source, read_config(config, layout)).to(device)
    random_codes = None if rate is None else discretize.RandomCodes(rate, seed)
    outcomes, total = discretize.discretize(found, discretizer, out, random_codes=random_codes, **how)
    if json:
        for row in (*outcomes, total):
            print(jsonlib.dumps(asdict(row)))
    else:
        print(discretize.as_table(outcomes, total))
        print(out / discretize.PICTURE)


@dataclass(frozen=True)
class Analyzed:
    """What every analysis is asked for; the folder of its rows and picture is in that of the first run, unless one is named."""

    runs: list[Path]
    data: Path | None
    out: Path | None
    pictures: int
    batch_size: int | None
    size: int | None
    json: bool
    cpu: bool

    def options(self, alpha: float | None, epsilon: float | None, source: str | None) -> Options:
        """Checked, with what not every analysis takes."""
        from dat.commands.specimens import Options

        return Options(self.data, self.pictures, self.batch_size, alpha, epsilon, source, self.size, self.cpu)

    def show(self, analysis: Any, rows: Sequence[Row], folder: Path) -> None:
        """Print the rows as JSON, or the table of their module and where its page and its picture are."""
        for row in rows if self.json else ():
            print(jsonlib.dumps(asdict(row)))
        if not self.json:
            print(f"{analysis.as_table(rows)}\n\nPage: {folder / analysis.PAGE}\n{folder / analysis.PICTURE}")


def _shared(
    runs: Runs,
    data: AnalyzedData = None,
    out: Figures = None,
    pictures: Pictures = 512,
    batch_size: BatchSize = None,
    size: Size = None,
    json: Json = False,
    cpu: Cpu = False,
) -> Analyzed:
    return Analyzed(runs, data, out, pictures, batch_size, size, json, cpu)


def _analysis(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is `Analyzed`, with the options of `_shared` in its place, as the parser sees it."""
    shared = inspect.signature(_shared, eval_str=True).parameters
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    @wraps(command)
    def called(**given: Any) -> None:
        command(_shared(**{name: given.pop(name) for name in shared}), **given)

    parameters = [*shared.values(), *own]
    vars(called)["__signature__"] = inspect.Signature(parameters)
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


@analyze_app.command("statistics", epilog="Example:  dat analyze statistics runs/photos --data photos/test")
@_analysis
def analyze_statistics(asked: Analyzed, alpha: Alpha = None, epsilon: Epsilon = None, source: With = None) -> None:
    """How alike clean and adversarial pictures are to the normalisation layers of models (Fig. 2): the correlation of the
    channels' means and variances, after PGD in pixels, DAT, as many random codes, and Q(x) alone. A call goes on where it was.
    """
    from dat.commands import analyze_statistics as analysis

    out = asked.out or asked.runs[0] / "statistics"
    asked.show(analysis, analysis.statistics(asked.runs, out, asked.options(alpha, epsilon, source)), out)


@analyze_app.command("spectrum", epilog="Example:  dat analyze spectrum runs/photos/dat-seed0 --data photos/test")
@_analysis
def analyze_spectrum(asked: Analyzed, alpha: Alpha = None, epsilon: Epsilon = None, source: With = None) -> None:
    """What adversaries of models do to pictures (Fig. 3): frequencies, sizes in l_0, l_2 and l_inf, and colours of a patch,
    after PGD in pixels, DAT, as many random codes, and Q(x) alone. A call goes on where it was.
    """
    from dat.commands import analyze_spectrum as analysis

    out = asked.out or asked.runs[0] / "spectrum"
    asked.show(analysis, analysis.spectra(asked.runs, out, asked.options(alpha, epsilon, source)), out)


@analyze_app.command("codes", epilog="Example:  dat analyze codes runs/photos/dat-seed0 --alpha 0.4")
@_analysis
def analyze_codes(
    asked: Analyzed,
    alpha: Annotated[
        list[float] | None, typer.Option(help="Once for each length of the step (0, 0.1, 0.2, 0.4, and that of the run).")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--with", help="Once for each discretizer: a name, or a file; that of the run.")
    ] = None,
) -> None:
    """How many codes the adversary of words modifies, by the length of its step (Table 8), and what that does to the loss, to
    what a model says and to the pixels, beside a random step as long and as many random codes. A call goes on where it was.
    """
    from dat.commands import analyze_codes as analysis

    out = asked.out or asked.runs[0] / "codes"
    rows = analysis.sweep(asked.runs, out, asked.options(None, None, None), alphas=alpha or (), sources=source or ())
    asked.show(analysis, rows, out)


@app.command(epilog="Example:  dat reproduce table8")
def reproduce(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="table1, table2, table6 or table8.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="data=FOLDER, and recipe keys to change in all runs.")
    ] = None,
    scale: Annotated[str, typer.Option(help="demo (digits, minutes), cifar (data=FOLDER, a night), or imagenet.")] = "demo",
    out: Annotated[Path | None, typer.Option(help="Folder of the runs and the table; runs/reproduce-TABLE-SCALE.")] = None,
    json: Json = False,
    cpu: Cpu = False,
) -> None:
    """A table of the paper beside what is measured here: list the runs behind it, train what is missing, and print paper, ours,
    delta and n; Markdown, CSV and LaTeX beside. At imagenet's scale nothing is trained: its needs and commands are told.

    A call goes on where the last one was stopped. Exit code 1 if something is missing at imagenet's scale.
    """
    from dat.commands import reproduce as reproduction

    found = reproduction.open_reproduction(table, overrides or (), scale=scale, out=out, cpu=cpu)
    if _is_main():
        print(f"{found.listing()}\n", file=sys.stderr if json else sys.stdout, flush=True)
    with found.held() if _is_main() else nullcontext():
        if not found.is_papers:
            found.carry_out(cpu=cpu)
        if _is_main():
            _show_reproduced(found, json=json, cpu=cpu)
    if _is_main() and found.is_papers and not all(is_here for *_, is_here in found.missing()):
        raise typer.Exit(1)


def _show_reproduced(found: Reproduction, *, json: bool, cpu: bool) -> None:
    from dat.commands import reproduce as reproduction

    numbers = found.numbers(cpu=cpu)
    text, page = found.write(numbers)
    for number in numbers if json else ():
        print(jsonlib.dumps(asdict(number) | {"delta": number.delta}))
    if not json:
        print(
            f"{text}\n\nTable: {page}, and .md, .csv and .tex beside it"
            + f"\n\n{reproduction.as_needs(found)}" * found.is_papers
        )


@discretizer_app.command("list", epilog="Example:  dat discretizer list")
def list_discretizers(json: Json = False) -> None:
    """Names of discretizers: ours, which come with the package, and the public ones, with licence and source."""
    from dat.discretizers import listing

    found = listing.rows()
    for row in found if json else ():
        print(jsonlib.dumps(row))
    if not json:
        print(listing.as_table(found))


@discretizer_app.command("get", epilog="Example:  dat discretizer get ldm-vq-f8")
def get_discretizer(name: Annotated[str, typer.Argument(help="A public name that `dat discretizer list` shows.")]) -> None:
    """Download a public discretizer, or the rest of it, into DAT_WEIGHTS (else torch.hub's folder), and say its SHA-256."""
    from dat.discretizers import download, names

    row = names.public(name)
    if names.stored(row) is None:
        for (url, digest), published in zip(download.get(row).items(), row.sha256, strict=True):
            print(f"{digest}  {url}  ({'as published' if published else 'none is published to compare it with'})")
    print(names.stored(row))


@discretizer_app.command("check", epilog="Example:  dat discretizer check ldm-vq-f8")
def check_discretizer(source: Source, config: Config = None, layout: Layout = None) -> None:
    """Load a discretizer, every tensor of it, and say what it is as a line of JSON."""
    from dat.discretizers import listing
    from dat.discretizers.pretrained import load_discretizer

    print(jsonlib.dumps(listing.describe(load_discretizer(source, listing.read_config(config, layout)))))


@discretizer_app.command("convert", epilog="Example:  dat discretizer convert ldm-vq-f8 vq-f8.safetensors")
def convert_discretizer(source: Source, target: Path, config: Config = None, layout: Layout = None) -> None:
    """Write a discretizer as one safetensors file that tells its layout, its configuration and what it was made of."""
    from dat.discretizers import listing, pretrained

    print(pretrained.convert(source, target, listing.read_config(config, layout)))


@data_app.command("list", epilog="Example:  dat data list")
def list_benchmarks(json: Json = False) -> None:
    """The test sets that `dat eval --suites` knows: pictures, classes, licence, and the folders they are looked for in."""
    from dat.data.testsets import check

    found = check.listing()
    for row in found if json else ():
        print(jsonlib.dumps(row))
    if not json:
        print(check.as_table(found))


@data_app.command("check", epilog="Example:  dat data check c --root /data")
def check_benchmark(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE|FOLDER|FILE", help="A name that `dat data list` shows; any place of pictures; a set with boxes."
        ),
    ],
    root: Annotated[
        Path | None, typer.Option(help="The folder with all test sets, or that of this one; that of a COCO file's pictures.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Read every picture, not only the first and the last of each part.")
    ] = False,
    json: Json = False,
) -> None:
    """Say where a test set was found, and whether pictures, classes and files are as published; exit code 1 if not.

    Without --root: read every picture below FOLDER, or of a table, shards or hf:NAME, and list the damaged ones. Of pictures
    with boxes, a COCO file (.json) or a YOLO set (data.yaml, or its folder): count what is in it, and list every fault.
    """
    from dat.data import annotation_check, annotations
    from dat.data.testsets import check

    if annotations.is_annotated(suite):
        findings, as_text = annotation_check.check_annotated(suite, pictures=root), annotation_check.as_text
    elif root is None:
        findings, as_text = check.check_folder(suite), check.folder_as_text
    else:
        findings, as_text = check.check(suite, root, every=every), check.as_text
    print(jsonlib.dumps(findings) if json else as_text(findings))
    if findings["faults"]:
        raise typer.Exit(1)


@make_app.command("corruptions", epilog="Example:  dat data make corruptions photos/val --out photos-c --severities 1,3,5")
def make_corruptions(
    folder: SourceFolder,
    out: CopyFolder,
    size: CopySize = "224",
    crop_pct: CropPct = 0.875,
    corruptions: Annotated[str | None, typer.Option(help="Their names, with commas; the 15 of ImageNet-C.")] = None,
    severities: Annotated[str, typer.Option(help="From 1 to 5, with commas.")] = "1,2,3,4,5",
    seed: Annotated[int, typer.Option(help="Of the random ones.")] = 0,
    frost: Annotated[Path | None, typer.Option(help="Folder of the six original frost textures.")] = None,
    form: CopyForm = "png",
) -> None:
    """Write FOLDER once per corruption and severity; what is there is kept, so that a second call continues."""
    from dat.commands import make_copies as copies

    cells = copies.cells_of(corruptions, severities, seed=seed, frost=frost)
    source, view = copies.source_of(folder), copies.view_of(size, crop_pct)
    made = copies.make_corruptions(source, out, cells=cells, view=view, form=copies.form_of(form))
    if _is_main():
        print(made)


@make_app.command("stylized", epilog="Example:  dat data make stylized photos/val --out photos-stylized --styles paintings")
def make_stylized(
    folder: SourceFolder,
    out: CopyFolder,
    size: CopySize = "224",
    crop_pct: CropPct = 0.875,
    styles: Annotated[Path | None, typer.Option(help="Pictures that lend their style; other pictures of FOLDER.")] = None,
    adain: Annotated[
        str | None, typer.Option(metavar="VGG,DECODER", help="Weights of AdaIN; without: matched statistics.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="From 0, nothing, to 1, all of the style.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Which picture takes which style.")] = 0,
    form: CopyForm = "png",
) -> None:
    """Write FOLDER with each picture in the style of another; what is there is kept, so that a second call continues."""
    from dat.commands import make_copies as copies

    source, view = copies.source_of(folder), copies.view_of(size, crop_pct)
    style = copies.style_of(source, styles, adain, alpha=alpha, seed=seed)
    made = copies.make_stylized(source, out, style=style, view=view, form=copies.form_of(form))
    if _is_main():
        print(made)


@recipes_app.command("list", epilog="Example:  dat recipes list")
def list_recipes(json: Json = False) -> None:
    """Names and titles of the recipes that come with the package."""
    from dat.recipe import file

    for name, path in file.shipped_recipes().items():
        title = file.read(path)["title"]
        print(jsonlib.dumps({"name": name, "title": title}) if json else f"{name:32} {title}")


@recipes_app.command("show", epilog="Example:  dat recipes show demo training.epochs=3")
def show_recipe(recipe: Recipe, overrides: Overrides = None) -> None:
    """The recipe with every default written out, as it would be stored with a run."""
    from dat.recipe.header import resolved
    from dat.recipe.read import load

    print(resolved(load(recipe, overrides or ())), end="")


@recipes_app.command("check", epilog="Example:  dat recipes check my.yaml")
def check_recipes(names: NamedRecipes = None) -> None:
    """Check recipes (all that come with the package, if none is named): read them, build the model, and carry out two steps
    of every training with networks shrunk to nothing and made-up pictures.
    """
    from dat.commands.check_recipes import check
    from dat.recipe import file, read

    for name in names or file.shipped_recipes():
        check(read.load(name))
        print(f"{name}: good", flush=True)


def main() -> None:
    """Run the command line; errors become one sentence on stderr and an exit code: 1 could not, 2 misuse."""
    # GNU OpenMP's threads spin for milliseconds before they sleep: small networks become 3 to 20 times slower as soon as
    # another process wants a core. Tens of microseconds cost nothing on a quiet machine, and halve that.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    keep_freed_memory()
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED:  # the parser keeps a KeyboardInterrupt to itself
            raise KeyboardInterrupt
        sys.exit(code)
    except DatError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        going_on = "continue with --resume" if sys.argv[1:2] in RESUMABLE else "run the command again"
        _fail(f"Stopped; what was saved is intact, {going_on}.", INTERRUPTED)
    except OSError as error:
        _fail(f"{error.strerror or error} ({error.filename or 'no file named'}).", 1)
    except RuntimeError as error:
        if _processes() == 1 or not _is_loss_of_another(error):
            raise
        sys.exit(1)  # the process that ended has said why
    except Exception as error:
        # The parser's own errors (unknown option, missing argument) know how to say what is wrong.
        sentence = getattr(error, "format_message", None)
        if sentence is None:
            raise
        _fail(sentence(), 2)


def _fail(sentence: str, code: int) -> None:
    if sentence and _is_first_to_say(sentence):
        who = f"process {os.environ['RANK']} of {_processes()}: " if not _is_main() else ""
        print(f"dat: {who}{sentence}", file=sys.stderr, flush=True)
    sys.exit(code)


def _is_first_to_say(sentence: str) -> bool:
    if _processes() == 1:
        return _is_main()
    from dat.engine.processes import is_first_to_say

    return is_first_to_say(sentence)


def _is_loss_of_another(error: RuntimeError) -> bool:
    from dat.engine.processes import is_loss_of_another

    return is_loss_of_another(error)


def _processes() -> int:
    """How many were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_main() -> bool:
    """Whether this process prints."""
    return os.environ.get("RANK", "0") == "0"
