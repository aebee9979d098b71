"""What a run ended with, on its trackers: the tables as text or table, the whole test sets as numbers, the pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dat.engine.trackers import Trackers
from dat.report.figures import read_arrays
from dat.report.tables import is_part
from dat.results import RESULTS, Row, read_rows

COLUMNS = ("method", "seed", "suite", "metric", "value", "low", "high", "n")
PICTURES = ("pictures.npz", "reconstructions.npz")
MOST_PICTURES = 16


def show(trackers: Trackers, run: Path) -> None:
    """Give every tracker the stored results of a run, each in the form that it has for them.

    TensorBoard shows the page as text, W&B the rows as a table, MLflow keeps both files of the page; Aim has numbers alone.
    Pictures go to those that take arrays, at most 16 of each sort.
    """
    with trackers.opened("results") as board:
        board.each(lambda name, tracker: _tell(name, tracker, run))


def _tell(name: str, tracker: Any, run: Path) -> None:
    rows = read_rows(run / RESULTS) if (run / RESULTS).is_file() else []
    if numbers := {name_of(row): row.value for row in rows if not is_part(row.suite)}:
        tracker.log(numbers, step=0)
    _tell_tables(name, tracker, run / "report.md", rows)
    pictures = {key: found for file in PICTURES if (run / file).is_file() for key, found in pictures_of(run / file).items()}
    if name in SHOWING:
        SHOWING[name](tracker, pictures)


def name_of(row: Row) -> str:
    """Suite, metric and model, in the letters that MLflow allows; it refuses all numbers for one name of others."""
    return re.sub(r"[^\w./ -]", "_", f"{row.suite}/{row.metric}/{row.method}-seed{row.seed}")


def pictures_of(path: Path) -> dict[str, np.ndarray]:
    """The first pictures of each array `(..., height, width, 3)` of bytes in a file."""
    arrays = {name: array for name, array in read_arrays(path).items() if array.dtype == np.uint8 and array.ndim > 3}
    colour = {name: array for name, array in arrays.items() if array.shape[-1] == 3}
    return {name: array.reshape(-1, *array.shape[-3:])[:MOST_PICTURES] for name, array in colour.items()}


def _tell_tables(name: str, tracker: Any, page: Path, rows: Sequence[Row]) -> None:
    lines = [[row.method, row.seed, row.suite, row.metric, row.value, *(row.ci or (None, None)), row.n] for row in rows]
    files = [file for file in (page, page.with_suffix(".html")) if file.is_file()]
    if name == "tensorboard" and page in files:
        tracker.log({"report": page.read_text()}, step=0)
    elif name == "wandb" and lines:
        tracker.log_table("results", columns=[*COLUMNS], data=lines)
    elif name == "mlflow":
        for file in files:
            tracker.log_artifact(str(file))


SHOWING: dict[str, Callable[[Any, Mapping[str, np.ndarray]], None]] = {
    "tensorboard": lambda tracker, pictures: tracker.log_images(pictures, step=0, dataformats="NHWC"),
    "wandb": lambda tracker, pictures: tracker.log_images({key: [*found] for key, found in pictures.items()}),
    "aim": lambda tracker, pictures: tracker.log_images(
        {f"{key}/{number}": picture for key, found in pictures.items() for number, picture in enumerate(found)}
    ),
}
"""How a tracker is given pictures, by its name."""
