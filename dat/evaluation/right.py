"""Which pictures each model of a run got right: one file per model, from which its accuracies can be computed again."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np

from dat.errors import DataError
from dat.evaluation.cells import Correct
from dat.results import write_bytes

RIGHT = "right"
"""Folder of these files in that of the run."""


def path_of(run: Path, label: str, seed: int | None) -> Path:
    """Where the answers of a model lie."""
    return run / RIGHT / f"{label}-seed{seed}.npz"


def write_right(path: Path, by_suite: Mapping[str, np.ndarray]) -> None:
    """Write for each suite whether the model was right, picture by picture, at once; the same answers give the same bytes."""
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **by_suite)
    write_bytes(path, content.getvalue())


def read_right(path: Path) -> dict[str, Correct]:
    """By suite; nothing where no answers were kept.

    Raises:
        DataError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        if any(array.dtype != np.bool_ or array.ndim != 1 for array in arrays.values()):
            raise ValueError("it holds other arrays")
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path.parent.name}/{path.name} is damaged ({error}).") from error
    return arrays


def read_all(run: Path, models: Iterable[tuple[str, int | None]]) -> dict[tuple[str, int | None], dict[str, Correct]]:
    """Of models by method and seed, as `read_right`; those of which no answers were kept are not among them.

    Raises:
        DataError: as `read_right`.
    """
    found = {model: read_right(path_of(run, *model)) for model in dict.fromkeys(models)}
    return {model: by_suite for model, by_suite in found.items() if by_suite}
