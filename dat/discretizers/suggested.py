"""Manifests beside our own weights: at which size which alpha changes a share of the codes, and on what that was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dat.errors import CheckpointError
from dat.nn.weights import file_sha256
from dat.results import from_json, write_text


@dataclass(frozen=True)
class SuggestedAlpha:
    """The L2 length that changes a share `rate` of the codes of pictures of `side` pixels: the mean over parts of the pictures.

    `n`: of how many pictures; `pictures` is their set, `data` their fingerprint, `network` the file of the classifier whose
    gradient was followed. `lowest`, `highest`: of a part. Another network may need another: `alpha: {rate: 0.1}` seeks its own.
    """

    side: int
    alpha: float
    rate: float
    lowest: float
    highest: float
    n: int
    pictures: str
    data: str
    network: str


def manifest_of(weights: Path) -> Path:
    """`NAME.json` beside `NAME.safetensors`."""
    return weights.with_suffix(".json")


def read(weights: Path) -> list[SuggestedAlpha]:
    """What was measured with exactly these weights, by size; nothing, where no manifest is theirs.

    Raises:
        CheckpointError: the manifest is damaged.
    """
    path = manifest_of(weights)
    if not path.is_file():
        return []
    try:
        manifest = from_json(path.read_text())
        found = [SuggestedAlpha(**row) for row in manifest["suggested_alpha"]]
        is_theirs = manifest["sha256"] == file_sha256(weights)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); put it back, or remove it to do without its alphas.") from error
    return found if is_theirs else []


def write(folder: Path, weights: Path, found: Sequence[SuggestedAlpha]) -> Path:
    """Write the manifest of these weights into a folder; what it says of other sizes and rates stays."""
    path = manifest_of(folder / weights.name)
    before = read(folder / weights.name) if (folder / weights.name).is_file() else []
    by_size = {(row.side, row.rate): row for row in [*before, *found]}
    rows = [asdict(by_size[key]) for key in sorted(by_size)]
    write_text(path, json.dumps({"sha256": file_sha256(weights), "suggested_alpha": rows}, indent=1) + "\n")
    return path
