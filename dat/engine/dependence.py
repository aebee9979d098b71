"""What each part of a run depends on lies beside it, so that a corrected recipe goes on with all that is still its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dat.engine import checkpoint
from dat.errors import RunFolderError
from dat.results import from_json, write_text

SETTINGS = "settings.json"
"""The file beside each part."""
NAMED = 8
"""So many settings that differ are named, and so many folders."""
PACE = ("data.in_memory", "training.workers", "training.log_every", "training.save_minutes")
"""Ends of keys that say how pictures are fetched, and when is logged and saved: no bit of any weight follows from them."""
TESTED = ("data.test", "data.test_per_class")
"""Keys of test pictures, which no part depends on but the run: older versions noted them beside its discretizer."""
OR = "/"
"""Between two digests of one input, in memory and in its files: where one of them is the same, so is the input."""
RULE = "--resume with a changed recipe uses each training whose own settings are the same, and trains what has not begun."


@dataclass(frozen=True)
class Dependence:
    """Settings, by their keys in the recipe, and what some of these keys name, by SHA-256."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


Dependences = Mapping[str, Dependence]
"""By the folder inside the run; "." is the run itself."""


def has_begun(part: Path) -> bool:
    """Whether there are weights in the folder of a training."""
    return bool(checkpoint.list_checkpoints(part / "checkpoints")) or any(part.glob("*.safetensors"))


def check(run: Path, wanted: Dependences, before: Dependences, *, advice: str = "") -> None:
    """Refuse a recipe by which a training that has begun would go on with other settings, or anything with other inputs.

    `before`: of parts with nothing beside them, as a version began them that did not keep it. `advice`: a sentence on how such
    a recipe goes on.

    Raises:
        RunFolderError: naming settings, old and new, and folders; or what was kept is damaged or not known.
    """
    known = {name: found for name in wanted if (found := kept(run / name) or before.get(name)) is not None}
    begun = [name for name in wanted if has_begun(run / name)]
    if unknown := [name for name in begun if name not in known]:
        raise RunFolderError(
            f"Nothing in {run} says with which settings {_listed(unknown)} began; "
            f"remove {_listed(_removable(run, unknown))} to train anew, or write out=ANOTHER_FOLDER."
        )
    odd = {
        name: changes(found.settings, wanted[name].settings, without=() if name == "." else TESTED)
        for name, found in known.items()
    }
    if others := [name for name in begun if odd[name]]:
        said = [*dict.fromkeys(change for name in others for change in odd[name])]
        raise RunFolderError(
            f"{run} holds trainings with other settings ({_listed(said, '; ')}); put those back, "
            f"remove {_listed(_removable(run, others))} to train anew, or write out=ANOTHER_FOLDER. {advice or RULE}"
        )
    _check_inputs(run, {name: (found, wanted[name]) for name, found in known.items() if not odd[name]})


def keep(run: Path, wanted: Dependences, before: Dependences) -> None:
    """Write beside each part what it depends on; first beside those that have begun and have it only in `before`."""
    begun = {name: found for name, found in before.items() if has_begun(run / name) and kept(run / name) is None}
    for name, dependence in {**begun, **wanted}.items():
        if kept(run / name) != dependence:
            (run / name).mkdir(exist_ok=True)
            write_text(run / name / SETTINGS, json.dumps(asdict(dependence), indent=1))


def kept(part: Path) -> Dependence | None:
    """What lies beside a part; None where nothing does.

    Raises:
        RunFolderError: it cannot be read.
    """
    path = part / SETTINGS
    if not path.is_file():
        return None
    try:
        found = from_json(path.read_text())
        if not (isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ("settings", "inputs"))):
            raise ValueError("it holds no settings and inputs")
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); restore it, or write out=ANOTHER_FOLDER.") from error
    return Dependence(found["settings"], found["inputs"])


def _check_inputs(run: Path, parts: Mapping[str, tuple[Dependence, Dependence]]) -> None:
    """Of parts whose settings are the same. What was not noted is taken as it is."""
    odd = {name: [*_other_inputs(before.inputs, now.inputs)] for name, (before, now) in parts.items()}
    if keys := [*dict.fromkeys(key for found in odd.values() for key in found)]:
        folders = _removable(run, [name for name, found in odd.items() if found])
        what = f"What {' and '.join(keys)} of the recipe {'name' if len(keys) > 1 else 'names'}"
        raise RunFolderError(
            f"{what} is not what the run in {run} began with (files, pictures or their classes were changed since); "
            f"put that back, remove {_listed(folders)} to train anew, or write out=ANOTHER_FOLDER."
        )


def _other_inputs(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    return (key for key, digest in now.items() if set(digest.split(OR)).isdisjoint(before.get(key, digest).split(OR)))


def changes(before: Mapping[str, Any], now: Mapping[str, Any], *, without: Sequence[str] = ()) -> list[str]:
    """`training.epochs was 3, is 5`, for all that differ, but for `PACE` and keys that end so."""
    old, new = _by_key(before), _by_key(now)
    passed_over = tuple(f".{key}" for key in (*PACE, *without))
    odd = [key for key in {**old, **new} if old.get(key) != new.get(key) and not f".{key}".endswith(passed_over)]
    return [f"{key} was {old.get(key, 'not there')}, is {new.get(key, 'not there')}" for key in odd]


def _by_key(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Single values by `key.sub`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _by_key(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _removable(run: Path, names: Sequence[str]) -> list[str]:
    """The folders of parts; also trainings of the same name one floor below, which followed from them."""
    if "." in names:
        return [str(run)]
    below = [str(path) for name in names for path in sorted(run.glob(f"*/{name}")) if has_begun(path)]
    return [*(str(run / name) for name in names), *below]


def _listed(items: Sequence[str], comma: str = ", ") -> str:
    return comma.join([*items[:NAMED], *[f"{len(items) - NAMED} more"] * (len(items) > NAMED)])
