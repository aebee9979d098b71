"""A result is a row with provenance; rows live in JSON lines.

`Row.ci` is a 95 % interval. `wilson` gives it for a proportion, `mean_interval` for the mean over repeats (seeds).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import platform
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from dat.errors import DataError
from dat.version import __version__

RUN, EVALUATION, RESULTS = "run.json", "evaluation.json", "results.jsonl"
"""Files of a folder: the facts of a run or of an evaluation, and its rows."""
MISTAKES, LATER_MISTAKES = "mistakes.npz", "later-mistakes.npz"
"""Files of a run: pictures of which two models say different things, on its test sets and on later ones."""
BOXES, FEATURES = "detection-evaluation", "feature-evaluation"
"""Kinds of an evaluation of a detector, and of the features of a network that was trained without classes."""
SET = "set"
"""Entry of a protocol: what the folder of the pictures is called. It names rows, and is no condition of a measurement."""
CLASS = "class"
"""Entry of a protocol: the class of a set of which alone a number is."""
INTERVAL = "interval"
"""Entry of a protocol: how the interval of the row was made, which is no condition of its number."""
SOUGHT = "of_which_calibration_s"
"""Entry of the protocol of a cost: seconds per step in which the length of a step was sought; measured, and no condition."""


@dataclass(frozen=True)
class Row:
    """One measured number.

    `suite`: the test set (`clean`, `fgsm`, `c/fog/3`, `c`), `metric`: what was computed (`accuracy`, in percent),
    `n`: on how many images, `protocol`: how (resize, epsilon, counts), `source`: who measured it (`ours`, `paper`),
    `checkpoint`: SHA-256 of the model, its architecture and all its tensors, where a single one was measured.
    """

    suite: str
    metric: str
    value: float
    n: int
    ci: tuple[float, float] | None
    seed: int | None
    method: str
    recipe_hash: str
    protocol: dict[str, object] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    source: str = "ours"
    checkpoint: str = ""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a proportion, in percent. Source: Wilson (1927)."""
    share, z = correct / n, float(special.ndtri(0.975))
    centre = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((centre + side) / (1 + z**2 / n) for side in (-half, half))
    return 100 * low if correct else 0.0, 100 * high if correct < n else 100.0


UNBOUNDED = (-math.inf, math.inf)


def mean_interval(
    values: Sequence[float], *, bounds: tuple[float, float] = UNBOUNDED
) -> tuple[float, tuple[float, float] | None]:
    """Mean over repeats with its 95 % Student-t interval, cut where no value can be; no interval for a single repeat."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = float(special.stdtrit(len(values) - 1, 0.975)) * math.sqrt(variance / len(values))
    return mean, (max(bounds[0], mean - half), min(bounds[1], mean + half))


def of_set(suite: str, pictures: str) -> str:
    """A suite under the name of its pictures, to tell it from the same suite on others: `c@photos/fog/3`."""
    first, *rest = suite.split("/")
    return "/".join([f"{first}@{pictures}", *rest]) if pictures else suite


def without_set(suite: str) -> tuple[str, str]:
    """The suite, and the name of its pictures where it says one."""
    first, *rest = suite.split("/")
    plain, _, pictures = first.partition("@")
    return "/".join([plain, *rest]), pictures


def differing(first: Mapping[str, object], second: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Of two protocols the entries that are not the same in both; an entry that one lacks is None there."""
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return {key: first.get(key) for key in keys}, {key: second.get(key) for key in keys}


def from_json(text: str | bytes) -> Any:
    """What JSON text holds.

    Raises:
        ValueError: it is none, or nested too deep to be read, which Python calls a RecursionError.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file at once: readers see the old rows or the new ones, never half of them."""
    write_text(path, "".join(json.dumps(asdict(row), sort_keys=True) + "\n" for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Rows of a `results.jsonl`.

    Raises:
        DataError: the file is missing, or a line of it is not a row (which line is said).
    """
    if not path.is_file():
        raise DataError(f"There are no results at {path}; finish the run (--resume), or name the folder of another.")
    names = {entry.name for entry in fields(Row)}
    rows = []
    for number, line in enumerate(_lines_of(path), start=1):
        try:
            values = from_json(line)
            if not isinstance(values, dict):
                raise ValueError(f"it is a {type(values).__name__}")
            if unknown := sorted(set(values) - names):
                raise ValueError(f"unknown field {unknown[0]!r}")
            if values["ci"] is not None:
                values["ci"] = tuple(values["ci"])
            rows.append(_row(values))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"Line {number} of {path} is not a result row ({error}); remove that line.") from error
    return rows


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error}); evaluate or train again.") from error


def _row(values: Mapping[str, Any]) -> Row:
    """Raises: ValueError, TypeError: an entry is missing, or of another type than a row's."""
    row = Row(**values)
    for name, kinds in _TYPES.items():
        value = getattr(row, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"its {name} is {value!r}")
    if row.ci is not None and not (len(row.ci) == 2 and all(isinstance(end, int | float) for end in row.ci)):
        raise ValueError(f"its ci is {row.ci!r}")
    return row


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("suite", "metric", "method", "recipe_hash", "source", "checkpoint"), (str,)),
    **dict.fromkeys(("protocol", "versions"), (dict,)),
    "value": (int, float),
    "n": (int,),
    "seed": (int, type(None)),
    "ci": (tuple, type(None)),
}
"""What the entries of a row are."""


def write_csv(path: Path, lines: Iterable[Sequence[object]]) -> None:
    """Lines of values as a spreadsheet reads them, with commas; None becomes an empty cell."""
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows(lines)
    write_text(path, content.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (temporary file beside it, flushed to disk, renamed)."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; a full disk leaves the old file and no temporary one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: Path, /, **arrays: np.ndarray) -> None:
    """Write NumPy arrays into one compressed file (`.npz`) atomically; the same arrays give the same bytes.

    What `np.savez_compressed` does, which has no arrays of the names of its own parameters, `file` and `allow_pickle`.

    Raises:
        ValueError: an array holds Python objects, which only pickle could write.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    write_bytes(path, content.getvalue())


def hashes_of(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the files of a folder that a page is made from, by their names in it; of those that are there."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def altered(folder: Path, facts: Mapping[str, object]) -> list[str]:
    """A sentence for each file that is not as it was when `facts` noted its hash (`files`); older folders noted none."""
    noted = facts.get("files")
    said = []
    for name, digest in noted.items() if isinstance(noted, dict) else ():
        if not (folder / name).is_file():
            said.append(f"{folder.name}/{name} was written, but is not there any more.")
        elif _sha256(folder / name) != digest:
            said.append(f"{folder.name}/{name} was changed or damaged after it was written: do not trust what it shows.")
    return said


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Of what a number depends on."""
    return {"dat": __version__, **{name: version(name) for name in ("torch", "timm", "numpy")}}


def machine() -> str:
    """Where it ran, without names of hosts."""
    import torch  # rows alone need not wait for it

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} CPU cores, {platform.machine()}" + "".join(f", {name}" for name in devices)
