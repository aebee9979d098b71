"""What a training begins with besides its settings: pictures with their classes, and files of weights, by their hashes.

Paths stand in a recipe, and what lies there may change: a run that is resumed must find what it began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dat.data.embedded import ArraySource
from dat.discretizers.pretrained import weight_files
from dat.engine.dependence import OR, Dependence
from dat.nn.perceptual import backbone_file
from dat.nn.weights import file_sha256
from dat.recipe.data import Data
from dat.recipe.header import Recipe, Sets

MOST_BYTES = 4 * 2**30
"""So much of the training pictures is read before the first step; of a larger set a sample of files."""
DISCRETIZERS = ("model.discretizer", "discretizer.load", "discretizer.train.init", "init", "teacher.load")
FILES = ("model.weights", "model.backbone_weights")
NETWORKS = ("perceptual", "frechet", "discretizer.train.perceptual", "discretizer.train.frechet")
"""Keys of a recipe that name weights, or are sections that do."""


def inputs_of(recipe: Recipe, data: Sets) -> dict[str, str]:
    """SHA-256 of all that was opened, by the key of the recipe that names it.

    Training pictures beyond `MOST_BYTES` are known by their names, classes and sizes, and by what a sample of them holds;
    those of a folder in memory by their files, or by their pixels.

    Raises:
        DataError, CheckpointError: a file is gone meanwhile.
    """
    files = dict(_files_of(recipe.model_dump(mode="json")))
    hashes = {key: " ".join(map(file_sha256, paths)) for key, paths in files.items()}
    train = OR.join(_digests(data.train.source, most_bytes=MOST_BYTES))
    return {"data.train": train, **_tested(recipe.data, data), **hashes}


def _tested(section: Any, data: Sets) -> dict[str, str]:
    """Of the test pictures, of the first set under the key of all; and of a folder of validation."""
    if not isinstance(data, Data):
        return {"data.test": data.fingerprint}
    sets = {"data.test": data.test} | {f"data.test.{name}": test for name, test in data.further.items()}
    if data.validation is not None and isinstance(section.validation, str):
        sets["data.validation"] = data.validation
    return {key: OR.join(digest[:12] for digest in _digests(test.source)) for key, test in sets.items()}


def _digests(source: Any, *, most_bytes: int | None = None) -> list[str]:
    """Of the pictures, and first of their files where these were read before."""
    files = source.files if isinstance(source, ArraySource) else None
    return [each.fingerprint(most_bytes=most_bytes) for each in (files, source) if each is not None]


def dependences(parts: Mapping[str, Mapping[str, Any]], inputs: Mapping[str, str]) -> dict[str, Dependence]:
    """Of each part of a run its settings, and those of the inputs that they name."""
    return {
        name: Dependence(settings, {key: digest for key, digest in inputs.items() if _names(settings, key)})
        for name, settings in parts.items()
    }


def _names(settings: Mapping[str, Any], key: str) -> bool:
    """Whether one of the settings names this input. Digits have no paths: both sets come with one package."""
    section, _, name = key.rpartition(".")
    found = _at(settings, section) if section else settings
    return isinstance(found, Mapping) and (name in found or found.get("source") == "digits")


def _files_of(settings: Mapping[str, Any]) -> Iterator[tuple[str, list[Path]]]:
    for key in DISCRETIZERS:
        if isinstance(source := _at(settings, key), str):
            yield key, weight_files(source)
    named = [*FILES, *(f"{key}.{name}" for key in NETWORKS for name in ("weights", "linear_layers"))]
    for key in named:
        if isinstance(path := _at(settings, key), str):
            yield key, _whole(Path(path))
    for key in NETWORKS:
        if isinstance(backbone := _at(settings, f"{key}.backbone"), str):
            yield f"{key}.backbone", [backbone_file(backbone, _at(settings, f"{key}.cache"))]


def _whole(path: Path) -> list[Path]:
    """A file, or all weights of a folder."""
    return sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]


def _at(settings: Mapping[str, Any], key: str) -> Any:
    """The value of `model.weights`; None where there is no such section."""
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
