"""What a detector found, on disk: one file of COCO's results format per cell, which any scorer reads, whole or not at all.

DETECTIONS/<set>/c__fog__3.json    DETECTIONS/<set>/c__fog__3.identity: of which model, pictures and change, and its SHA-256
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dat.boxes import Found
from dat.data.annotated import AnnotatedPictures
from dat.errors import DataError
from dat.evaluation.coco_scores import found_in, results_json
from dat.results import SET, from_json, write_text

DETECTIONS = "detections"


def identity(checkpoint: str, classes: Sequence[str], protocol: Mapping[str, object]) -> str:
    """SHA-256 over all that the detections of a cell depend on; a set may be called anything."""
    depended_on = {key: value for key, value in protocol.items() if key != SET}
    known = {"checkpoint": checkpoint, "classes": list(classes), "protocol": depended_on}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def path_of(folder: Path, name: str, pictures: str) -> Path:
    """Where the detections of a cell on the set called `pictures` lie."""
    return folder / DETECTIONS / re.sub(r"[^\w.-]+", "-", pictures) / f"{name.replace('/', '__')}.json"


def is_kept(path: Path, known: str) -> bool:
    """Whether the detections of this identity are there, as they were written."""
    try:
        noted = from_json(path.with_suffix(".identity").read_bytes())
        return noted == {"identity": known, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except (OSError, ValueError):
        return False


def write_found(path: Path, source: AnnotatedPictures, found: Sequence[Found], known: str) -> None:
    """Write the detections of a cell at once, then whose they are; the same detections give the same bytes."""
    text = json.dumps(results_json(source, found))
    write_text(path, text)
    noted = {"identity": known, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_text(path.with_suffix(".identity"), json.dumps(noted))


def read_found(path: Path, source: AnnotatedPictures) -> list[Found]:
    """The detections of a cell, picture by picture.

    Raises:
        DataError: they are missing or damaged, or of other pictures.
    """
    try:
        return found_in(from_json(path.read_bytes()), source)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is missing or damaged ({error}); evaluate again, which makes only what is missing.") from error
