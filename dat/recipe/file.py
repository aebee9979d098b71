"""Recipe files: where they are, YAML as people expect it, and `key.sub=value` from the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dat.errors import UsageError, did_you_mean
from dat.recipe.older import with_old_draw
from dat.results import RUN


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number, as everybody expects; YAML 1.1 takes it for text."""


_UNFIT = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)
"""What PyYAML raises of a tag that does not fit its value (`!!int ten`), and of a nest without end."""


class _Twice(yaml.YAMLError):
    """A key stands twice in one mapping."""


def _mapping_of(loader: _Loader, node: yaml.MappingNode) -> Any:
    """As `SafeLoader`, which would let the last of several equal keys win."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if isinstance(key.value, str) and key.value in lines:
            first, again = lines[key.value], key.start_mark.line + 1
            where = "twice" if first == again else f"in line {first} and in line {again}"
            raise _Twice(f"the key {key.value!r} {where}; keep one")
        lines[str(key.value)] = key.start_mark.line + 1
    yield (found := {})
    found.update(loader.construct_mapping(node))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_of)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

SHIPPED = next(
    folder for folder in (Path(__file__).parents[1] / "recipes", Path(__file__).parents[2] / "recipes") if folder.is_dir()
)


REPLACED = ("methods", "expect")
"""Sections that are taken from the file itself or from its base, never from both."""

TAGS = ("kind", "source", "method", "name")
"""Keys that say what a section is: one that says otherwise than its base replaces it."""


INSTEAD = {"load": "train", "train": "load"}
"""Keys that say in two ways where something comes from: who writes one takes away the other of the base."""


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name (`cifar10/compare`); files that are only a `base` begin with `_`."""
    paths = (path for path in sorted(SHIPPED.rglob("*.yaml")) if not path.name.startswith("_"))
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in paths}


def find(name: str) -> Path:
    """A recipe by its file or by the name of a shipped one.

    Raises:
        UsageError: there is neither; near names are suggested.
    """
    shipped = shipped_recipes()
    if Path(name).is_file():
        return Path(name)
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1, cutoff=0.5)
    raise UsageError(f"There is no recipe {name!r}; {did_you_mean(near)}`dat recipes list` shows all of them.")


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a recipe file, with `key.sub=value` replaced; `out` defaults to a folder under `runs/` named after it.

    `base: NAME` takes the values of another file first (beside this one, or a shipped one), which this one then changes.
    That of a run of an older version draws its pictures as that version did.

    Raises:
        UsageError: the file is no YAML mapping, its base is not there, or an override cannot be applied.
    """
    values = _with_base(path, ())
    if (path.parent / RUN).is_file():
        values = with_old_draw(values)
    for text in overrides:
        override(values, text)
    values.setdefault("out", f"runs/{path.stem}" if path.parent == SHIPPED else f"runs/{path.parent.name}-{path.stem}")
    return values


def _with_base(path: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    if path in children:
        raise UsageError(f"{path} is its own base; remove one of the `base:` lines.")
    values = _mapping(path)
    base = values.pop("base", None)
    if base is None:
        return values
    places = [path.parent / f"{base}.yaml", SHIPPED / f"{base}.yaml"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UsageError(f"{path} has base {base!r}, but there is neither {places[0]} nor a shipped recipe of that name.")
    return merged(_with_base(found, (*children, path)), values)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(), Loader=_Loader)
    except _Twice as error:
        raise UsageError(f"{path} has {error}.") from error
    except (yaml.YAMLError, *_UNFIT) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds {type(values).__name__}, not the keys of a recipe; begin with `kind:`.")
    return values


def merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The keys of both, `values` before `base`; sections are merged, but one of another kind replaces that of the base."""
    if any(tag in values and values[tag] != base.get(tag, values[tag]) for tag in TAGS):
        return values
    shared = [key for key, value in values.items() if key not in REPLACED and _are_sections(base.get(key), value)]
    both = {key: merged(base[key], values[key]) for key in shared}
    kept = {key: value for key, value in base.items() if values.get(INSTEAD.get(key, "")) is None}
    return {**kept, **values, **both}


def _are_sections(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


def check_overrides(overrides: object) -> None:
    """Refuse what is no list of texts, above all a single text, which Python takes for a list of letters.

    Raises:
        UsageError: what it is.
    """
    if isinstance(overrides, str) or not isinstance(overrides, Sequence) or not all(isinstance(one, str) for one in overrides):
        raise UsageError(f"overrides are {overrides!r}; write a list of texts, e.g. ['training.epochs=3'].")


def override(values: dict[str, Any], text: str) -> None:
    """Set the value that `key.sub=value` names, in place; sections that are missing are made.

    Raises:
        UsageError: the text is of another form, or a key on the way holds a single value.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text!r} is not of the form key.sub=value; write e.g. training.epochs=3.")
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UsageError(f"{key} cannot be set: {parent} is a single value, not a section.")
    try:
        section[last] = yaml.load(value, Loader=_Loader)
        if section[last] is not None:
            section.pop(INSTEAD.get(last), None)
    except _Twice as error:
        raise UsageError(f"The value of {key} has {error}.") from error
    except (yaml.YAMLError, *_UNFIT) as error:
        raise UsageError(f"The value of {key} is not YAML: {value!r}.") from error
