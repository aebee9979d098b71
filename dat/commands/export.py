"""What a run left, in a form that runs without this package: a folder of timm, a file of ONNX, a program of `torch.export`.

Each file is read again by what will run it and compared with ours before it gets its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.commands import trained
from dat.commands.trained import TrainedDetector, TrainedModel, load_pretrained, load_run, run_folder_of
from dat.discretizers import names
from dat.discretizers.frozen import FrozenDiscretizer, check_image_size
from dat.discretizers.halves import Decode, Encode
from dat.discretizers.listing import in_columns
from dat.discretizers.pretrained import FILE_NAME, load_discretizer
from dat.engine import run_folder
from dat.engine.staging import staged
from dat.errors import CheckpointError, RunFolderError, UsageError
from dat.nn.graphs import SUFFIXES, Form, Graph, read_graph, refuse_without_onnx, write_graph
from dat.nn.norm import Normalized
from dat.nn.outputs import logits_of
from dat.nn.timm_folder import CONFIG, WEIGHTS, Shown, read_timm_folder, refuse_others, write_timm_folder
from dat.recipe import read
from dat.recipe.contest import training_of
from dat.recipe.header import recipe_hash
from dat.results import RUN
from dat.types import Images
from dat.version import __version__

To = Literal["timm", "onnx", "torch-export"]
BATCHES = (1, 5)
"""Pictures in the batches that are compared."""
PARITY = 1e-4
"""Most by which an output may differ: absolutely, or of outputs above 1 relative to the largest."""
MOST_SIDE = 4096


@dataclass(frozen=True)
class Written:
    """A file, its bytes, ONNX's opset, and the largest difference to ours: of codes, how many are others."""

    file: Path
    bytes: int
    opset: int | None
    output: str
    difference: float


@dataclass(frozen=True, eq=False)
class _Piece:
    """A network under the name of its file, with what it is shown, given a number of pictures."""

    name: str
    network: nn.Module
    output: str
    inputs: Callable[[int], Tensor]
    facts: Mapping[str, str]


def export(
    source: str | Path,
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    discretizer: bool = False,
    size: int | None = None,
) -> list[Written]:
    """Write the network of a run so that it runs without this package, and compare it with ours; gives the files.

    A classifier gives logits, a self-supervised encoder its features; both take pictures in [0, 1], a batch of any number of
    them, and normalise inside. `timm` gives a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`, whose
    configuration names the normalisation.

    Args:
        source: `RUN/<method>-seed<k>`; with `discretizer` also a discretizer's name or file, of which `size` is then asked.
        to: timm, onnx or torch-export.
        out: the folder; by default `exported/<to>` in that of the model.
        discretizer: the frozen discretizer of the run, in two files: `encode` (pictures to codes) and `decode` (back).
        size: side in pixels of what the discretizer is shown; by default that of the run.

    Raises:
        UsageError: no such form, a package is missing, or the network cannot be written so.
        CheckpointError: it is no model of a run, or one of an unfinished training; or what was written differs from ours.
        RunFolderError: the output is there already, or cannot be written.
    """
    _check_asked(to, discretizer=discretizer, size=size)
    if not discretizer:
        _refuse_discretizer(source)
    folder = Path(out) if out is not None else _default_folder(Path(source), to)
    if to == "timm":
        return _export_to_timm(Path(source), folder)
    form = cast(Form, to)
    refuse_there([folder / f"{name}{SUFFIXES[form]}" for name in (("encode", "decode") if discretizer else ("model",))])
    pieces = _halves(source, size) if discretizer else [_network(Path(source))]
    with staged(folder) as stage:
        return [_moved(_write(form, piece, stage), folder) for piece in pieces]


def as_table(written: Sequence[Written]) -> str:
    """A line for each file."""
    head = ("file", "MB", "opset", "compared with ours, batches of 1 and 5")
    return in_columns([head, *((str(one.file), f"{one.bytes / 1e6:.1f}", _opset(one), _compared(one)) for one in written)])


def _opset(one: Written) -> str:
    return "-" if one.opset is None else str(one.opset)


def _compared(one: Written) -> str:
    return "all codes equal" if one.output == "codes" else f"{one.output} differ by at most {one.difference:.1e}"


def _check_asked(to: str, *, discretizer: bool, size: int | None) -> None:
    if to not in get_args(To):
        raise UsageError(f"--to is {to}; write one of {', '.join(get_args(To))}.")
    if discretizer and to == "timm":
        raise UsageError("A discretizer is no network of timm; write --to onnx or --to torch-export.")
    if size is not None and not discretizer:
        raise UsageError(f"--size is {size}, of what a discretizer is shown; add --discretizer, or leave it out.")
    if size is not None and not 1 <= size <= MOST_SIDE:
        raise UsageError(f"--size is {size}; write a side in pixels from 1 to {MOST_SIDE}.")
    if to == "onnx":
        refuse_without_onnx()


def _refuse_discretizer(source: str | Path) -> None:
    """Raises: UsageError: it is the name, the file or the run of a discretizer."""
    path, known = Path(source), {*names.shipped(), *names.PUBLIC}
    if path.is_file() or (path / FILE_NAME).is_file() or (str(source) in known and not path.exists()):
        raise UsageError(f"{source} is no model of a run, but may be a discretizer; add --discretizer to write that.")


def _default_folder(source: Path, to: str) -> Path:
    return (source if source.is_dir() else Path("exported") / source.stem) / "exported" / to


def refuse_there(files: Sequence[Path]) -> None:
    """Raises: RunFolderError: one of the files is there."""
    if there := [file for file in files if file.exists()]:
        raise RunFolderError(f"{there[0]} is there already; delete it first, or write --out ANOTHER_FOLDER.")


def _moved(one: Written, folder: Path) -> Written:
    return Written(one.file.replace(folder / one.file.name), one.bytes, one.opset, one.output, one.difference)


def _write(form: Form, piece: _Piece, stage: Path) -> Written:
    file = stage / f"{piece.name}{SUFFIXES[form]}"
    opset = write_graph(form, Graph(piece.network, piece.inputs(1), piece.output, piece.facts), file)
    theirs = read_graph(form, file)
    difference = compare(piece.network, theirs, piece.inputs, output=piece.output, name=file.name)
    return Written(file, file.stat().st_size, opset, piece.output, difference)


def compare(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    inputs: Callable[[int], Tensor],
    *,
    output: str,
    name: str,
) -> float:
    """The largest difference over batches of one and of five; of codes, how many are others.

    Raises:
        CheckpointError: the outputs are not the same.
    """
    largest = 0.0
    for count in BATCHES:
        batch = inputs(count)
        with torch.no_grad():
            own, other = ours(batch), theirs(batch)
        if own.shape != other.shape:
            raise CheckpointError(
                f"{name} gives {output} of shape {tuple(other.shape)}, and ours {tuple(own.shape)}; not kept."
            )
        if output == "codes":
            if different := int((own != other).sum()):
                raise CheckpointError(f"In {name} {different} of {own.numel()} codes are others than ours; it is not kept.")
            continue
        difference, scale = float((own - other).abs().max()), max(1.0, float(own.abs().max()))
        if not difference <= PARITY * scale:
            raise CheckpointError(f"The {output} of {name} differ from ours by {difference:.2g}; it is not kept.")
        largest = max(largest, difference)
    return largest


def probes(size: tuple[int, int]) -> Callable[[int], Images]:
    """Made-up pictures in [0, 1] of this height and width, the same at each call: soft shapes with some noise."""

    def pictures(count: int) -> Images:
        stream = torch.Generator().manual_seed(count)
        shapes = F.interpolate(torch.rand(count, 3, 5, 5, generator=stream), size, mode="bilinear")
        return (shapes + 0.1 * torch.randn(count, 3, *size, generator=stream)).clamp(0, 1)

    return pictures


class _Classifier(nn.Module):
    """Images in [0, 1] to logits, and to nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Images) -> Tensor:
        return logits_of(self.model, images)


def _network(source: Path) -> _Piece:
    """The classifier, or the encoder of a run of self-supervised learning."""
    trained.refuse_unfinished(source)
    if trained.pretraining_of(source) is not None:
        found = load_pretrained(source)
        size, facts = _image_size(source), {"output": "features", "method": found.label, "seed": str(found.seed)}
        return _Piece("model", _Classifier(found.encoder), "features", probes(size), {**_given(size), **facts})
    run = _classifier(source)
    size = _image_size(source)
    facts = {
        "classes": json.dumps(run.classes),
        "output": "logits, for a sigmoid" if training_of(run.recipe, run.label).sigmoid else "logits, for a softmax",
        "crop": json.dumps({"crop_pct": run.view.crop_pct, "interpolation": run.view.interpolation}),
        "method": run.label,
        "seed": str(run.seed),
        "recipe_hash": recipe_hash(run.recipe),
    }
    return _Piece("model", _Classifier(run.model), "logits", probes(size), {**_given(size), **facts})


def _given(size: tuple[int, int]) -> dict[str, str]:
    return {"input": f"RGB in [0, 1], batch x 3 x {size[0]} x {size[1]}", "dat": __version__}


def _classifier(source: Path) -> TrainedModel:
    run = load_run(source)
    if isinstance(run, TrainedDetector):
        raise UsageError(
            f"{source} is a detector: how many boxes it keeps depends on the picture, which no graph of fixed shapes holds, "
            "and without that part it would give no boxes; export a classifier, or its discretizer (--discretizer)."
        )
    return run


def _image_size(source: Path) -> tuple[int, int]:
    return _size_of_run(run_folder_of(source))


def _size_of_run(run: Path) -> tuple[int, int]:
    height, width = run_folder.read_run(run)["data"]["image_size"]
    return height, width


def _halves(source: str | Path, size: int | None) -> list[_Piece]:
    discretizer, sides = _discretizer(source, size)
    check_image_size(sides, discretizer.network)
    pictures = probes(sides)
    facts = {**_given(sides), "codebook_size": str(discretizer.codebook_size), "stride": str(discretizer.stride)}
    return [
        _Piece("encode", Encode(discretizer), "codes", pictures, {**facts, "output": "codes"}),
        _Piece(
            "decode",
            Decode(discretizer, sides),
            "images",
            lambda count: discretizer.encode(pictures(count)),
            {**facts, "input": "codes of `encode`", "output": f"RGB in [0, 1], batch x 3 x {sides[0]} x {sides[1]}"},
        ),
    ]


def _discretizer(source: str | Path, size: int | None) -> tuple[FrozenDiscretizer, tuple[int, int]]:
    """In float32, and height and width of what it is shown."""
    try:
        run = run_folder_of(source)
    except CheckpointError:
        if trained.models_of(Path(source)) != [Path(source)]:
            raise
        return _discretizer_alone(source, size)
    section = getattr(read.load(str(run / "recipe.yaml")), "discretizer", None)
    if section is None:
        raise CheckpointError(f"{source} was trained without a discretizer; name another run, or a discretizer.")
    discretizer = load_discretizer(section.load or run / "discretizer").exact()
    return discretizer, (size, size) if size is not None else _image_size(Path(source))


def _discretizer_alone(source: str | Path, size: int | None) -> tuple[FrozenDiscretizer, tuple[int, int]]:
    """That of a name or a file, or of the run that trained it and knows its size."""
    discretizer = load_discretizer(source)
    side = size or discretizer.network.image_size
    if side is None and (Path(source) / RUN).is_file():
        return discretizer.exact(), _size_of_run(Path(source))
    if side is None:
        raise UsageError(f"Pictures of which size {source} is shown is not known; add --size, e.g. --size 224.")
    return discretizer.exact(), (side, side)


def _export_to_timm(source: Path, folder: Path) -> list[Written]:
    refuse_there([folder / CONFIG, folder / WEIGHTS])
    trained.refuse_unfinished(source)
    if trained.pretraining_of(source) is not None:
        raise UsageError(f"{source} is a network of self-supervised learning, with its own head; write --to onnx.")
    run = _classifier(source)
    refuse_others(run.recipe.model.name)
    with staged(folder) as stage:
        difference = write_as_timm(stage, run, _image_size(source))
        files = [stage / WEIGHTS, stage / CONFIG]  # without a configuration timm reads nothing
        return [_moved(Written(file, file.stat().st_size, None, "logits", difference), folder) for file in files]


def write_as_timm(folder: Path, run: TrainedModel, size: tuple[int, int]) -> float:
    """Write a classifier as timm reads it, and compare; gives the largest difference of the logits.

    Raises:
        CheckpointError: what timm makes of the folder differs from ours.
    """
    section, view, model = run.recipe.model, run.view, run.model
    assert isinstance(model, Normalized)
    shown = Shown(size, view.crop_pct, view.interpolation, view.crop_mode)
    write_timm_folder(folder, model, name=section.name, options=section.options, classes=run.classes, shown=shown)
    return compare(model, read_timm_folder(folder), probes(size), output="logits", name=f"{folder.parent.name} in timm")
