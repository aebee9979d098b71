"""A model of a run for others: its weights, recipe, results and a card, to the Hugging Face Hub.

What is sent is written into a folder first, as timm reads it where the network is timm's, and compared with ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from dat.commands import trained
from dat.commands.evaluation_folder import default_folder
from dat.commands.export import write_as_timm
from dat.commands.trained import TrainedDetector, TrainedModel, load_run, run_folder_of
from dat.discretizers import names
from dat.discretizers.listing import in_columns
from dat.engine import run_folder
from dat.errors import UsageError
from dat.nn import hub
from dat.nn.norm import Normalized
from dat.nn.timm_folder import is_timms, write_weights
from dat.nn.transformers_detectors import PREFIX
from dat.recipe.shareable import without_places
from dat.report.model_card import Subject, model_card
from dat.results import RESULTS, Row, read_rows, write_rows

TOLD = ("kind", "name", "title", "recipe_hash", "versions", "class_names")
"""What of `run.json` is sent; of the data, what is counted."""
COUNTED = ("name", "train_images", "test_images", "classes", "image_size", "test_sets", "validation_images")


@dataclass(frozen=True)
class Parcel:
    """What is sent: names and bytes of the files, and the card; `address` is where it went, if it did."""

    name: str
    files: dict[str, int]
    card: str
    address: str | None = None


def push(path: str | Path, name: str, *, private: bool = False, dry_run: bool = False, licence: str = "unknown") -> Parcel:
    """Send a model of a run to the hub, or only say what would be sent.

    Sent are the weights that `load_run` takes, the recipe without what says where things lie on this machine, the rows of this
    model, and a card that is made from them.

    Args:
        path: `RUN/<method>-seed<k>` of classification or detection.
        name: `user/name` on the hub.
        licence: what the card says, in the hub's words, e.g. apache-2.0.

    Raises:
        UsageError: no such name, or the model cannot be loaded elsewhere.
        CheckpointError: it is no model of a run, or of an unfinished training; or the hub cannot be reached, or refuses.
    """
    hub.refuse_odd_name(name)
    trained.refuse_unfinished(path)
    run = load_run(path)
    _refuse_local(run)
    with _packed(run, Path(path), name, licence) as folder:
        files = {file: (folder / file).stat().st_size for file in hub.SENT if (folder / file).exists()}
        parcel = Parcel(name, files, (folder / hub.CARD).read_text(encoding="utf-8"))
        return parcel if dry_run else replace(parcel, address=hub.send(folder, name, private=private))


def as_text(parcel: Parcel) -> str:
    """What was sent and where to; of what was not, the card as well."""
    rows = [("file", "bytes"), *((name, f"{size:,}") for name, size in parcel.files.items())]
    total = f"{len(parcel.files)} files, {sum(parcel.files.values()) / 1e6:.1f} MB"
    if parcel.address is not None:
        return f"{in_columns(rows)}\n{total}\n\nSent: {parcel.address}"
    return f"{in_columns(rows)}\n{total} would be sent to {parcel.name}; nothing was.\n\n{parcel.card}"


def _refuse_local(run: TrainedModel | TrainedDetector) -> None:
    """Raises: UsageError: the model needs a file that others do not have."""
    section = run.recipe.model
    if section.name.startswith(PREFIX):
        raise UsageError(f"{section.name} is described by a folder on this machine, without which nobody can load it.")
    words = None if isinstance(run, TrainedDetector) else run.recipe.model.discretizer
    if words is not None and words not in (*names.PUBLIC, *names.shipped()):
        raise UsageError(
            f"{section.name} reads the codes of {words}, which others do not have; train it with one of `dat discretizer list`."
        )


@contextmanager
def _packed(run: TrainedModel | TrainedDetector, path: Path, name: str, licence: str) -> Iterator[Path]:
    """A folder with what is sent."""
    assert isinstance(run.model, Normalized)
    source = run_folder_of(path)
    kept = run_folder.read_run(source)
    settings = without_places(run.recipe.model_dump(mode="json"))
    facts = {**_facts(kept), "model": {"method": run.label, "seed": run.seed}}
    rows = list(_rows(source, path, run))
    of_timm = isinstance(run, TrainedModel) and is_timms(run.recipe.model.name)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        if of_timm and isinstance(run, TrainedModel):
            height, width = kept["data"]["image_size"]
            write_as_timm(folder, run, (height, width))
        else:
            write_weights(folder, run.model)
        _write_text(folder / hub.RECIPE, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        _write_text(folder / hub.RUN, json.dumps(facts, indent=1, ensure_ascii=False))
        write_rows(folder / hub.ROWS, rows)
        card = model_card(Subject(name, run.label, run.seed, settings, facts, rows, of_timm, licence))
        _write_text(folder / hub.CARD, card)
        yield folder


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _facts(run: dict[str, Any]) -> dict[str, Any]:
    told = {key: run[key] for key in TOLD if key in run}
    return {**told, "data": {key: run["data"][key] for key in COUNTED if key in run.get("data", {})}}


def _rows(source: Path, path: Path, run: TrainedModel | TrainedDetector) -> Iterator[Row]:
    """Those of this model, of its run and of a later evaluation in its folder, each once."""
    folders: Sequence[Path] = [source, default_folder(str(path))]
    found = [row for folder in folders if (folder / RESULTS).is_file() for row in read_rows(folder / RESULTS)]
    seen: set[str] = set()
    for row in [replace(row, protocol=without_places(row.protocol)) for row in found]:
        text = json.dumps({**asdict(row), "checkpoint": "", "recipe_hash": ""}, sort_keys=True)
        if (row.method, row.seed) == (run.label, run.seed) and text not in seen:
            seen.add(text)
            yield row
