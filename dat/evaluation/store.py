"""What a model said, on disk: one file per cell, whole or not at all, from which every number can be computed again."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dat.errors import DataError
from dat.evaluation.cells import Cell, Predictions, View, answered
from dat.evaluation.identity import Answers
from dat.evaluation.mistakes import Answered
from dat.results import SET, from_json, write_arrays, write_text

PREDICTIONS, PICTURES, ANSWERS = "predictions", "pictures", "answers.npz"
OUTPUTS, GROUPS, LABELS = "outputs.", "groups.", "labels."
CONFIDENCE, CLASSES = "confidence", "classes"


def identity(cell: Cell, checkpoint: str) -> str:
    """SHA-256 over all that a cell's predictions depend on: the model, the pictures, what is done to them, what counts."""
    depended_on = {key: value for key, value in cell.protocol.items() if key != SET}  # a folder may be called anything
    known = {"checkpoint": checkpoint, "protocol": depended_on}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for view in cell.views:
        digest.update(view.metric.encode() + view.groups.astype(np.int64).tobytes() + view.labels.astype(np.int64).tobytes())
    return digest.hexdigest()


def path_of(folder: Path, name: str, pictures: str = "") -> Path:
    """Where the predictions of a cell lie: `c/fog/3` in `predictions/c__fog__3.npz`.

    Where the pictures of another set lie there: with the name of the set behind, `predictions/c__fog__3@photos.npz`.
    """
    flat = name.replace("/", "__")
    first, own = (folder / PREDICTIONS / f"{called}.npz" for called in (flat, f"{flat}@{pictures}"))
    return own if pictures and (own.is_file() or _set_of(first) not in ("", pictures)) else first


def set_of(cell: Cell) -> str:
    """The name of the pictures of a cell, as its rows have it."""
    return str(cell.protocol.get(SET, ""))


def is_stored(folder: Path, cell: Cell, known: str) -> bool:
    """Whether the predictions of a cell are there, whole, and those of this identity."""
    path = path_of(folder, cell.name, set_of(cell))
    if not path.is_file():
        return False
    try:
        return _read(path)["identity"].item() == known
    except DataError:
        return False


def write_predictions(folder: Path, cell: Cell, predictions: Predictions, known: str) -> None:
    """Write the predictions of a cell at once; the same predictions give the same bytes."""
    outputs = {OUTPUTS + metric: values.astype(np.int32) for metric, values in predictions.outputs.items()}
    texts: dict[str, np.ndarray] = {
        "identity": np.array(known),
        "protocol": np.array(json.dumps(dict(cell.protocol), sort_keys=True)),
    }
    views = {GROUPS + view.metric: view.groups.astype(np.int32) for view in cell.views}
    views |= {LABELS + view.metric: view.labels.astype(np.int32) for view in cell.views}
    if predictions.confidence is not None:
        texts |= {CONFIDENCE: predictions.confidence.astype(np.float32), CLASSES: np.array(cell.dataset.source.classes)}
    targets = predictions.targets.astype(np.int32)
    write_arrays(path_of(folder, cell.name, set_of(cell)), targets=targets, **outputs, **views, **texts)


def read_predictions(folder: Path, name: str, pictures: str = "") -> Predictions:
    """The predictions of a cell on the set called `pictures`.

    Raises:
        DataError: they are missing or damaged.
    """
    arrays = _read(path_of(folder, name, pictures))
    outputs = {key.removeprefix(OUTPUTS): value.astype(np.int64) for key, value in arrays.items() if key.startswith(OUTPUTS)}
    confidence = arrays[CONFIDENCE].astype(np.float64) if CONFIDENCE in arrays else None
    return Predictions(arrays["targets"].astype(np.int64), outputs, confidence)


def read_answered(folder: Path, name: str, pictures: str = "") -> Answered:
    """What was said of a cell of unchanged pictures, in classes of the set.

    Raises:
        DataError: as `read_predictions`; or an older version wrote it, which kept neither classes nor probabilities.
    """
    path = path_of(folder, name, pictures)
    arrays = _read(path)
    if not {CONFIDENCE, CLASSES, GROUPS + "accuracy"} <= set(arrays):
        raise DataError(
            f"{path} does not say how sure the model was: an older version wrote it; remove it, and evaluate again."
        )
    view = read_views(folder, name, pictures)["accuracy"]
    return answered(view, read_predictions(folder, name, pictures), [str(label) for label in arrays[CLASSES]])


def read_views(folder: Path, name: str, pictures: str = "") -> dict[str, View]:
    """How the predictions of a cell are counted, by metric.

    Raises:
        DataError: as `read_predictions`.
    """
    arrays = _read(path_of(folder, name, pictures))
    metrics = [key.removeprefix(GROUPS) for key in arrays if key.startswith(GROUPS)]
    return {
        metric: View(metric, arrays[GROUPS + metric].astype(np.int64), arrays[LABELS + metric].astype(np.int64))
        for metric in metrics
    }


def write_names(folder: Path, cell: Cell) -> None:
    """Write the names of the pictures of a set, in their order, with their classes; once for all cells that show them."""
    path = folder / PICTURES / f"{cell.protocol['data']}.txt"
    if path.is_file():
        return
    source = cell.dataset.source
    lines = (f"{source.classes[target]}\t{source.name(index)}\n" for index, target in enumerate(source.targets.tolist()))
    write_text(path, "".join(lines))


def read_answers(folder: Path) -> dict[str, Answers]:
    """What the models of a folder answered to the fixed pictures, by the names of the models; none in a new folder.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / ANSWERS
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is damaged ({error}), so whose predictions lie beside it is not known; name another folder."
        ) from error


def write_answers(folder: Path, answers: Mapping[str, Answers]) -> None:
    """Write what models answered, at once."""
    write_arrays(folder / ANSWERS, **answers)


def _set_of(path: Path) -> str:
    """Of which set the predictions of a file are; empty where it does not say, is damaged or missing, and may be replaced."""
    try:
        return str(from_json(_read(path)["protocol"].item()).get(SET, "")) if path.is_file() else ""
    except (DataError, ValueError, AttributeError):
        return ""


def _read(path: Path) -> Mapping[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
        if not {"targets", "identity", "protocol"} <= set(arrays):
            raise ValueError("it holds other arrays")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is missing or damaged ({error}); evaluate again, which makes only what is missing.") from error
    return arrays
