"""The table of names as rows of facts, what a loaded discretizer is, and the configuration files of the public ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from dat.discretizers import names, suggested
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer, read_extra
from dat.errors import UsageError

TENTH = 0.1


def rows() -> list[dict[str, Any]]:
    """Every discretizer that has a name, ours first: its facts, and under `here` its file on this machine, if any.

    Of ours also, where it was measured, the alpha that changes a tenth of the codes, by size (`suggested_alpha`).

    Raises:
        CheckpointError: a file of ours is damaged.
    """
    public = [
        {**asdict(row), "tokens_at_256": row.tokens or (256 // row.stride) ** 2, "here": _text(names.stored(row))}
        for row in names.PUBLIC.values()
    ]
    return [*(_facts_of_ours(name, path) for name, path in names.shipped().items()), *public]


def _facts_of_ours(name: str, path: Path) -> dict[str, Any]:
    extra, discretizer = read_extra(path), load_discretizer(path)
    facts = describe(discretizer)
    return {
        "name": name,
        **facts,
        "tokens_at_256": facts["tokens"] or (256 // facts["stride"]) ** 2,
        "licence": str(extra.get("licence", "not stated")),
        "remark": str(extra.get("remark", "ours")),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "suggested_alpha": [asdict(row) for row in suggested.read(path)],
        "here": str(path),
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def as_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The table of names in columns."""
    keys = ("name", "stride", "codebook_size", "tokens_at_256", "licence")
    lines = [("name", "stride", "codebook", "codes at 256 px", "licence", "here", "alpha of 10 %", "trained on")]
    lines += [(*(str(row[key]) for key in keys), "yes" if row["here"] else "no", _alphas(row), row["remark"]) for row in found]
    return in_columns(lines)


def _alphas(row: Mapping[str, Any]) -> str:
    """Which alpha changes a tenth of the codes, at each size at which it was measured."""
    measured = [of for of in row.get("suggested_alpha", ()) if of["rate"] == TENTH]
    return ", ".join(f"{of['alpha']:.2g} at {of['side']} px" for of in measured) or "-"


def as_markdown() -> str:
    """The public table as the documentation shows it."""
    lines = ["| name | layout | stride | codebook | codes at 256 px | trained on | licence |", "|---|---|---|---|---|---|---|"]
    for row in names.PUBLIC.values():
        codes = f"{row.tokens}, no grid" if row.tokens else str((256 // row.stride) ** 2)
        cells = (f"`{row.name}`", f"`{row.layout}`", str(row.stride), str(row.codebook_size), codes, row.remark)
        lines.append(f"| {' | '.join(cells)} | [{row.licence}]({row.page}) |")
    return "\n".join(lines)


def describe(discretizer: FrozenDiscretizer) -> dict[str, Any]:
    """What a loaded discretizer is."""
    network = discretizer.network
    return {
        "layout": network.layout,
        "stride": network.stride,
        "codebook_size": network.codebook_size,
        "pixel_range": network.pixel_range,
        "image_size": network.image_size,
        "tokens": network.tokens,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def read_config(path: Path | None, layout: str | None = None) -> dict[str, Any] | None:
    """A public configuration from a YAML or JSON file, as its repository writes it, and the layout if that is said.

    Raises:
        UsageError: the file cannot be read, or holds no mapping.
    """
    said = {} if layout is None else {"layout": layout}
    if path is None:
        return said or None
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UsageError(f"{path} is no configuration in YAML or JSON: {reason}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds {type(values).__name__}, not the keys of a configuration.")
    model = values.get("model")
    inner = model.get("params", model.get("init_args")) if isinstance(model, dict) else None
    return {**(inner if isinstance(inner, dict) else values), **said}


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as lines, each column as wide as its widest cell."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
