"""The faults of a recipe in our words: what is wrong, the value, what to write instead, and near misses.

Knows no recipe: it is given the values that were read, the JSON schema they should follow, and pydantic's list of faults.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dat.errors import did_you_mean

Schema = Mapping[str, Any]


def member(name: str) -> str:
    """A name of one form of a value that has several: pydantic puts it into the location of a fault, and it is no key."""
    return f"<{name}>"


def sentence(fault: Any, values: Mapping[str, Any], schema: Schema) -> str:
    """One fault of pydantic in our words."""
    path = _path(fault["loc"], values)
    key = ".".join(map(str, path)) or "the recipe"
    match fault["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            near = difflib.get_close_matches(str(path[-1]), _known_keys(schema, values, path[:-1]), n=1, cutoff=0.5)
            return f"{key}: unknown key; {did_you_mean(near) or 'remove it.'}".rstrip()
        case "missing" | "missing_argument":
            return f"{key}: missing; add it."
        case "union_tag_not_found" | "union_tag_invalid":
            return _tag_sentence(fault, values, path, schema)
        case "too_short":
            return f"{key}: is empty; write at least one."
        case "value_error":
            return f"{key}: {str(fault['ctx']['error']).rstrip('.')}."
        case _:
            said = fault["msg"].replace("Input should be", "must be").replace("an object", "a section")
            return f"{key}: {said}, not {fault['input']!r}."


def _tag_sentence(fault: Any, values: Mapping[str, Any], path: Sequence[Any], schema: Schema) -> str:
    """The key that decides what a section is (`kind`, `source`, `method`) is missing, misspelled, or holds an unknown word."""
    tag, prefix = str(fault["ctx"]["discriminator"]).strip("'"), "".join(f"{part}." for part in path)
    if "tag" not in fault["ctx"] and (misspelled := difflib.get_close_matches(tag, map(str, fault["input"]), n=1)):
        return f"{prefix}{misspelled[0]}: unknown key; did you mean {tag!r}?"
    known = fault["ctx"].get("expected_tags") or ", ".join(map(repr, _tags(schema, values, path)))
    near = difflib.get_close_matches(str(fault["ctx"].get("tag", "")), re.findall(r"'([^']+)'", known), n=1)
    met = f"is {fault['ctx']['tag']!r}" if "tag" in fault["ctx"] else "missing"
    return f"{prefix}{tag}: {met}; {did_you_mean(near)}write one of {known}."


def _path(location: Sequence[str | int], values: Mapping[str, Any]) -> list[str | int]:
    """Keys of the YAML file that lead to a fault; pydantic's location also names the chosen member of each union."""
    path: list[str | int] = []
    node: Any = values
    for part in location:
        if str(part).startswith("<") or (isinstance(node, dict) and part not in node and part in list(node.values())):
            continue
        path.append(part)
        node = node.get(part) if isinstance(node, dict) else None
    return path


def _known_keys(schema: Schema, values: Mapping[str, Any], path: Sequence[Any]) -> list[str]:
    """Keys that the section at `path` may have."""
    node, value = _schema_at(schema, values, path)
    return list(_member(schema, node, value).get("properties", {}))


def _tags(schema: Schema, values: Mapping[str, Any], path: Sequence[Any]) -> list[str]:
    """Words that may stand in the tag of the union at `path`."""
    node, _ = _schema_at(schema, values, path)
    return list(node.get("discriminator", {}).get("mapping", {}))


def _schema_at(schema: Schema, values: Mapping[str, Any], path: Sequence[Any]) -> tuple[Any, Any]:
    """The part of the schema for the key at `path`, and the value there."""
    node: Any = schema
    value: Any = values
    for part in path:
        section = _member(schema, node, value)
        node = section.get("properties", {}).get(part) or section.get("additionalProperties") or {}
        value = value.get(part) if isinstance(value, dict) else None
    return node, value


def _member(schema: Schema, node: Any, value: Any) -> dict[str, Any]:
    """The schema of a section: references followed, unions decided by the value's own tag."""
    if not isinstance(node, dict):
        return {}
    if reference := node.get("$ref"):
        return _member(schema, schema["$defs"][reference.rsplit("/", 1)[1]], value)
    if union := node.get("discriminator"):
        tag = value.get(union["propertyName"]) if isinstance(value, dict) else None
        return _member(schema, {"$ref": union["mapping"][tag]}, value) if tag in union["mapping"] else {}
    if choices := node.get("anyOf") or node.get("oneOf"):
        return next((found for choice in choices if _has_keys(found := _member(schema, choice, value))), {})
    return node


def _has_keys(node: Schema) -> bool:
    """Whether it is of a section, or of values by names of one's own."""
    return bool(node.get("properties") or node.get("additionalProperties"))
