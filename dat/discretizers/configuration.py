"""Configurations of networks: read strictly from the words of a public file, or off tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from typing import Any, TypeVar

from torch import Tensor

from dat.errors import CheckpointError, UsageError

Shape = TypeVar("Shape")
Tensors = Mapping[str, Tensor]


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 1


def _are_sizes(value: object) -> bool:
    return isinstance(value, tuple) and value != () and all(map(_is_size, value))


# By the annotation of a setting: what it must be, and whether a value is.
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number from 1 on", _is_size),
    "int | None": ("a whole number from 1 on", lambda value: value is None or _is_size(value)),
    "tuple[int, ...]": ("whole numbers from 1 on", _are_sizes),
    "tuple[int, ...] | None": ("whole numbers from 1 on", lambda value: value is None or _are_sizes(value)),
    "float": ("a number", lambda value: type(value) in (int, float)),
    "bool": ("true or false", lambda value: type(value) is bool),
    "str": ("a word", lambda value: isinstance(value, str)),
}
ANYTHING = ("", lambda _: True)


def settings_from(words: Mapping[str, Any], shape: type[Shape], kind: str) -> Shape:
    """A dataclass of settings from a flat dictionary of its fields; lists become tuples, what is absent has its default.

    Raises:
        UsageError: a word is unknown, one without a default is missing, or a value is refused by the dataclass.
    """
    known: Any = fields(shape)  # pyright: ignore[reportArgumentType]  # every caller gives a dataclass
    needed = {entry.name for entry in known if entry.default is MISSING and entry.default_factory is MISSING}
    if faults := sorted(set(words) - {entry.name for entry in known} | needed - set(words)):
        raise UsageError(f"Unknown or missing keys in the configuration of {kind}: {', '.join(faults)}.")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in words.items()}
    check_values(shape, values, kind)
    return shape(**values)


def tokenizer_settings(config: Mapping[str, Any], shape: type[Shape], kind: str, *, model_type: str) -> Shape:
    """Those of a tokenizer, from config.json of transformers, of which all is skipped that concerns something else.

    Raises:
        UsageError: it is of another model, a value is none, or nothing tells the range of pixels.
    """
    if config.get("model_type", model_type) != model_type:
        raise UsageError(f"config.json is of a model {config['model_type']!r}, not of {model_type!r}.")
    if not {"image_mean", "image_std"} <= config.keys():
        raise UsageError(
            f"Nothing tells the range of pixels of {kind.replace('a ', 'this ', 1)}; put its preprocessor_config.json beside "
            'config.json, or write "image_mean" and "image_std" into its configuration.'
        )
    known: Any = fields(shape)  # pyright: ignore[reportArgumentType]  # every caller gives a dataclass
    return settings_from({entry.name: config[entry.name] for entry in known if entry.name in config}, shape, kind)


def tokenizer_words(settings: Any, model_type: str) -> dict[str, object]:
    """The public words of these settings, which `tokenizer_settings` takes and JSON holds."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}
    return {"model_type": model_type, **values}


def check_values(shape: Any, values: Mapping[str, Any], kind: str) -> None:
    """Refuse sizes that are no sizes, switches that are no switches: values of fields of a dataclass, by their annotations.

    Raises:
        UsageError: all faults together.
    """
    faults = []
    for entry in fields(shape):
        wanted, holds = KINDS.get(str(entry.type), ANYTHING)
        if entry.name in values and not holds(values[entry.name]):
            faults.append(f"{entry.name} is {values[entry.name]!r}, not {wanted}")
    if faults:
        raise UsageError(f"This is no configuration of {kind}: {'; '.join(faults)}.")


@contextmanager
def reading_off(name: str, kind: str) -> Iterator[None]:
    """Whatever goes wrong while a configuration is read off the tensors of file `name`, as one sentence about the file.

    Raises:
        CheckpointError: a tensor is missing, or their shapes are those of no such network.
    """
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{name} holds no {kind}: it lacks the tensor {error}.") from error
    except UsageError as error:
        raise CheckpointError(f"The configuration of {name} cannot be read off its tensors: {error}") from error
    except (IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{name} holds no {kind}: its tensors have the names of one, but not the shapes.") from error


def count_of(pattern: str, tensors: Tensors) -> int:
    """How many parts are numbered: different numbers that the group of `pattern` finds at the start of keys.

    Not the largest of them, by which one key of a damaged file could ask for a billion parts.
    """
    return len({found[1] for key in tensors if (found := re.match(pattern, key))})
