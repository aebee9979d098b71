"""A model from the Hugging Face Hub as the folder of a run, which `load_run` and all verbs read.

Files of others are read as tensors and data only. Nothing is kept before all of it was read and fits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from dat.commands.trained import load_run
from dat.engine import checkpoint, run_folder
from dat.engine.staging import staged
from dat.errors import CheckpointError, DataError, RunFolderError, UsageError
from dat.nn import hub
from dat.nn.timm_folder import WEIGHTS
from dat.nn.weights import read_safetensors
from dat.recipe import read
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.detection import DetectionRecipe
from dat.recipe.header import resolved
from dat.results import RESULTS, RUN, read_rows, write_rows


class Pulled(NamedTuple):
    """The folder of the model, for `load_run`, and the commit of the hub that it is of."""

    model: Path
    commit: str


def pull(name: str, out: str | Path | None = None, *, revision: str | None = None) -> Pulled:
    """Fetch a model that `dat push` sent, as a folder `RUN/<method>-seed<k>`.

    Args:
        name: `user/name` on the hub.
        out: the folder of the run; by default `runs/<name>`.
        revision: a branch, a tag or a commit; by default the newest.

    Raises:
        UsageError: it is no name of a model.
        CheckpointError: there is no such model, it is not one of `dat push`, a file is damaged, or they do not fit together.
        RunFolderError: the folder is there already, or cannot be written.
    """
    hub.refuse_odd_name(name)
    folder = Path(out) if out is not None else Path("runs") / name.partition("/")[2]
    if folder.exists():
        raise RunFolderError(f"{folder} is there already; delete it first, or write --out ANOTHER_FOLDER.")
    with staged(folder.parent) as stage:
        commit = hub.fetch(name, stage / "fetched", revision=revision)
        model = _as_run(stage / "fetched", stage / "run", folder, name)
        load_run(model)
        (stage / "run").rename(folder)
    return Pulled(folder / model.name, commit)


class _Model(NamedTuple):
    label: str
    seed: int


def _as_run(fetched: Path, folder: Path, place: Path, name: str) -> Path:
    """The files in the form in which a training leaves them, to lie at `place` in the end; gives the folder of the model.

    Raises:
        CheckpointError: a file is damaged, or they do not belong together.
    """
    recipe = _recipe(fetched, name)
    facts = _facts(fetched, name)
    model = _model_of(facts, recipe, name)
    tensors = {f"network.{key}": tensor for key, tensor in read_safetensors(fetched / WEIGHTS).items()}
    state = checkpoint.State({"model": tensors}, {"step": 1, "steps": 1})
    target = folder / f"{model.label}-seed{model.seed}"
    checkpoint.save(target / "checkpoints", 1, state)
    text = resolved(recipe.model_copy(update={"out": str(place)}))
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    (folder / RUN).write_text(json.dumps({**facts, "pulled": name}, indent=1), encoding="utf-8")
    if (card := fetched / hub.CARD).is_file():
        card.rename(folder / hub.CARD)
    if (rows := fetched / hub.ROWS).is_file():
        write_rows(folder / RESULTS, _rows(rows, name))
    return target


def _recipe(fetched: Path, name: str) -> ClassificationRecipe | DetectionRecipe:
    try:
        recipe = read.load(str(fetched / hub.RECIPE))
    except UsageError as error:
        raise CheckpointError(f"The recipe of {name} cannot be used here: {error}") from error
    if not isinstance(recipe, ClassificationRecipe | DetectionRecipe):
        raise CheckpointError(f"{name} holds a recipe of kind {recipe.kind}, which makes no classifier and no detector.")
    return recipe


def _facts(fetched: Path, name: str) -> dict[str, Any]:
    try:
        return run_folder.read_run(fetched)
    except RunFolderError as error:
        raise CheckpointError(
            f"{hub.RUN} of {name} is damaged, or was not written by `dat push` ({error.__cause__})."
        ) from error


def _rows(file: Path, name: str) -> list[Any]:
    try:
        return read_rows(file)
    except DataError as error:
        raise CheckpointError(f"The results of {name} are damaged: {error}") from error


def _model_of(facts: dict[str, Any], recipe: ClassificationRecipe | DetectionRecipe, name: str) -> _Model:
    """Raises: CheckpointError: `run.json` names no model of the recipe, by a name that can be one of a folder."""
    told = facts.get("model")
    label, seed = (told.get("method"), told.get("seed")) if isinstance(told, dict) else (None, None)
    is_number = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
    if not (isinstance(label, str) and label in recipe.methods and Path(label).name == label and is_number):
        raise CheckpointError(f"{hub.RUN} of {name} names the model {told!r}, which its recipe does not; nothing was kept.")
    assert isinstance(seed, int)
    return _Model(label, seed)
