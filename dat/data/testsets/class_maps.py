"""Which output of a model stands for which class of a test set: ImageNet's wnids, and the mappings of sets with other classes.

Knows no pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from dat.data.spelling import spelt_twice
from dat.data.testsets.table import Outputs
from dat.errors import DataError, UsageError

Groups = Int64[np.ndarray, " outputs"]
OfClasses = Int64[np.ndarray, " classes"]
Classes = Sequence[str] | int
"""The names of a model's classes in the order of its outputs, or only how many it has."""

NOTHING = -1
"""In the views of an evaluation: an output that is not looked at, or a class whose pictures do not count."""

WNID = re.compile(r"n\d{8}")


@lru_cache
def wnids() -> tuple[str, ...]:
    """ImageNet's 1000 classes in the order of a model's outputs. Source: timm:data/_info/imagenet_synsets.txt."""
    return tuple(_timm_list("imagenet_synsets.txt"))


@lru_cache
def wnids_of(outputs: Outputs) -> tuple[str, ...]:
    """Those of the classes that are ImageNet-A's ("a") or ImageNet-R's ("r"), 200 each; or all.

    Source: timm:data/_info/imagenet_{a,r}_indices.txt, equal to the lists of the authors' evaluation code.
    """
    if outputs == "all":
        return wnids()
    return tuple(wnids()[int(index)] for index in _timm_list(f"imagenet_{outputs}_indices.txt"))


def _timm_list(file: str) -> list[str]:
    """The entries of a list that comes with timm, which is not imported for it: that takes seconds."""
    found = find_spec("timm")
    assert found is not None, "timm is a dependency"
    return (Path(found.origin or "").parent / "data" / "_info" / file).read_text().split()


def imagenet_columns(classes: Classes) -> dict[str, int]:
    """The output of each wnid, for a model of ImageNet's 1000 classes in any order.

    Raises:
        UsageError: the model's classes are others.
    """
    return columns_of(wnids(), classes, "ImageNet's")


def groups_of(outputs: Outputs, classes: Classes = 1000) -> Groups:
    """Each output stands for itself, or for `NOTHING` where it is not one of the 200 of ImageNet-A or -R.

    Raises:
        UsageError: the model's classes are not ImageNet's.
    """
    columns = imagenet_columns(classes)
    groups = np.full(len(columns), NOTHING, dtype=np.int64)
    chosen = [columns[wnid] for wnid in wnids_of(outputs)]
    groups[chosen] = chosen
    return groups


def outputs_of(names: Sequence[str], classes: Classes, where: str | Path) -> OfClasses:
    """The output of a model that stands for each of a set's classes, which may be fewer than the model's.

    By name where the model's classes have names that are those of the set. Otherwise ImageNet's wnids for 1000 outputs, the
    number of a folder whose name is one, and the order where there are as many classes as outputs.

    Raises:
        DataError: none of these fits: the set is of other classes than the model.
    """
    count = classes if isinstance(classes, int) else len(classes)
    known = {} if isinstance(classes, int) else {name: output for output, name in enumerate(classes)}
    numbers = [] if set(names) <= set(known) else numbers_of(names)
    if count == len(wnids()) and (not known or set(known) == set(wnids())):  # a model of ImageNet's classes
        known = imagenet_columns(classes) if numbers or any(WNID.fullmatch(name) for name in names) else known
        names = [wnids()[number] for number in numbers] if numbers and max(numbers) < count else names
    elif numbers and not known and max(numbers) < count:
        return np.array(numbers, dtype=np.int64)
    if not known and len(names) == count:
        return np.arange(count)
    if foreign := sorted(set(names) - set(known)):
        if twice := spelt_twice(foreign, known):
            raise DataError(f"The class {twice[1]!r} of {where} is {twice[0]!r} in the model; give its folder that name.")
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        advice = "give the set of its classes, or folders named as they are"
        raise DataError(f"{where} has {len(names)} classes, not those of the model, which has {count} ({shown}); {advice}.")
    return np.array([known[name] for name in names], dtype=np.int64)


def columns_of(expected: Sequence[str], classes: Classes, whose: str) -> dict[str, int]:
    """Position of each expected class among the model's."""
    count = classes if isinstance(classes, int) else len(classes)
    if count != len(expected):
        advice = "take `clean`, and suites that are made from it" if whose == "ImageNet's" else "take a model of these classes"
        raise UsageError(f"This set is of {whose} {len(expected)} classes but the model has {count} outputs; {advice}.")
    names = expected if isinstance(classes, int) else classes
    if odd := sorted(set(names) ^ set(expected)):
        raise UsageError(f"This set is of {whose} classes and the model's are others, e.g. {odd[0]!r}; take a model of these.")
    return {name: output for output, name in enumerate(names)}


def numbers_of(names: Sequence[str]) -> list[int]:
    """The names as numbers; empty if they are not numbers, each once."""
    if not all(name.isascii() and name.isdigit() for name in names):
        return []
    numbers = [int(name) for name in names]
    return numbers if len(set(numbers)) == len(numbers) else []


def objectnet_mapping(place: Path) -> dict[str, list[int]]:
    """ImageNet's indices of each ObjectNet folder.

    Four files: folder to label, label to names of ImageNet separated by `; `, those names line by line, and the line of each
    index (lines counted from the smallest number that is there).

    Raises:
        DataError: a file is missing or of another form, or an index belongs to two folders.
    """
    labels = _json(place / "folder_to_objectnet_label.json")
    names = _json(place / "objectnet_to_imagenet_1k.json")
    numbers = {int(index): int(line) for index, line in _json(place / "pytorch_to_imagenet_2012_id.json").items()}
    try:
        lines = (place / "imagenet_to_label_2012_v2").read_text().splitlines()
    except OSError as error:
        raise DataError(
            f"Cannot read {place / 'imagenet_to_label_2012_v2'} ({error.strerror}); it comes with the set."
        ) from error
    first = min(numbers.values(), default=0)
    try:
        index_of = {lines[line - first].strip(): index for index, line in numbers.items()}
        mapped = {
            folder: [index_of[one.strip()] for one in names[label].split(";")]
            for folder, label in labels.items()
            if label in names
        }
    except (IndexError, KeyError) as error:
        raise DataError(f"The mappings of {place} do not fit together ({error}); fetch them again.") from error
    _require_disjoint(mapped, place)
    return mapped


def _require_disjoint(mapped: Mapping[str, Sequence[int]], where: Path) -> None:
    owner: dict[int, str] = {}
    for folder, indices in mapped.items():
        for index in indices:
            if owner.setdefault(index, folder) != folder:
                raise DataError(f"{where} gives class {index} to {owner[index]} and to {folder}; fetch the mappings again.")


def superclasses(file: Path) -> dict[str, list[str]]:
    """The wnids of each superclass of LAION-C, from the authors' file.

    Raises:
        DataError: it cannot be read, or gives a class to two superclasses, or one that is not ImageNet's.
    """
    members: dict[str, list[str]] = _json(file)
    position = {wnid: index for index, wnid in enumerate(wnids())}
    if odd := sorted(wnid for found in members.values() for wnid in found if wnid not in position):
        raise DataError(f"{file} names {odd[0]}, which is no class of ImageNet; fetch it again.")
    _require_disjoint({name: [position[wnid] for wnid in found] for name, found in members.items()}, file)
    return members


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise DataError(f"Cannot read {file} ({reason}); it comes with the set, fetch it again.") from error
