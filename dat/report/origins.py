"""Where a number of a table comes from: which models, seeds and weights, which recipe, how it was measured, which versions.

Knows tables and rows; neither files nor HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from dat.report.tables import DASH, TIMES, Cell, Table, method_title, number, suite_title
from dat.results import CLASS, Row

Key = tuple[tuple[str, str, int | None, str, str, str, float, str], ...]

SMALL = ("correlation", "loss", "seconds")
"""Metrics, by how they begin, whose numbers are not in percent."""
WEIGHTS = 8
"""Digits of the hash of weights that are shown."""


@dataclass(frozen=True)
class Origin:
    """What is told of a number: `id` for a page, a title, and facts by name."""

    id: str
    title: str
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Origins:
    """Those of all numbers of some tables; numbers of the same rows have one."""

    tables: Sequence[Table]

    @cached_property
    def known(self) -> dict[Key, Origin]:
        """By the rows."""
        cells = (cell for table in self.tables for line in table.lines for cell in line.cells if cell.rows)
        rows = {key_of(cell): cell.rows for cell in cells}
        return {key: origin(of_cell, f"from-{place}") for place, (key, of_cell) in enumerate(rows.items())}

    def of(self, cell: Cell) -> Origin | None:
        """Of a cell; None where its rows are not known."""
        return self.known.get(key_of(cell))


def key_of(cell: Cell) -> Key:
    """What tells the rows of a cell from those of another."""
    return tuple(
        (row.suite, row.method, row.seed, row.metric, row.source, row.checkpoint, row.value, str(row.protocol.get(CLASS, "")))
        for row in cell.rows
    )


def origin(rows: Sequence[Row], name: str) -> Origin:
    """What rows tell of the number that was made of them."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    suites = list(dict.fromkeys(row.suite for row in rows))
    where = suite_title(suites[0]) if len(suites) == 1 else f"{len(suites)} test sets"
    facts = {method_title(method): models_text(found) for method, found in by_method.items()}
    facts |= {
        "Pictures": _listed(f"{row.n:,}" for row in rows if row.n),
        "Measured": spelled(shared([row.protocol for row in rows])),
        "Recipe": _listed(row.recipe_hash for row in rows),
        "Versions": spelled(shared([row.versions for row in rows])),
        "Rows": f"{_listed(row.metric for row in rows)} of {_span(suites)}",
    }
    classes = {str(row.protocol[CLASS]): f", class {row.protocol[CLASS]}" for row in rows if CLASS in row.protocol}
    title = f"{' against '.join(map(method_title, by_method))}: {where}{_listed(classes.values())}"
    return Origin(name, title, {key: text for key, text in facts.items() if text})


def models_text(rows: Sequence[Row]) -> str:
    """Value and weights of each model of a method: `seed 0: 97.33 (weights 3f2a9c12); seed 1: 98.00`."""
    found: dict[tuple[int | None, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.seed, row.checkpoint), []).append(row)
    return "; ".join(_model_text(seed, of_seed) for (seed, _), of_seed in found.items())


def _model_text(seed: int | None, rows: Sequence[Row]) -> str:
    value = number(fmean(row.value for row in rows), decimals=4 if rows[0].metric.startswith(SMALL) else 2)
    weights = _listed(row.checkpoint[:WEIGHTS] for row in rows if row.checkpoint)
    named = f"seed {seed}: " if seed is not None else ""
    quoted = " as the paper says" * (rows[0].source == "paper")
    return f"{named}{value}{f' (weights {weights})' * bool(weights)}{quoted}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _span(suites: Sequence[str]) -> str:
    """Names of suites; of many the first and the last."""
    return ", ".join(suites) if len(suites) < 4 else f"{suites[0]} {DASH} {suites[-1]} ({len(suites)})"


# Settings as text.


def shared(settings: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """The entries that are the same in all."""
    first, *others = settings
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def spelled(settings: Mapping[str, object]) -> str:
    """`epsilon 0.03, steps 1`."""
    return ", ".join(f"{key.replace('_', ' ')} {short(value)}" for key, value in settings.items())


def short(value: object) -> str:
    """A setting as text; numbers to four digits, several settings in brackets."""
    if isinstance(value, Mapping):
        return f"({spelled({str(key): one for key, one in value.items()})})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f" {TIMES} ".join(map(short, value))
    return str(value)
