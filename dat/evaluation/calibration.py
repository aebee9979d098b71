"""Our numbers of timm's models beside those that timm publishes: does this machine, with these pictures, measure alike?

The published ones lie in `timm_results.csv`, whose header says where they come from.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import timm

from dat.errors import DataError, UsageError
from dat.results import Row

Verdict = Literal["equal", "off", "not comparable"]

PREFIX = "timm:"
TOLERANCE = 0.05
"""Points, 25 of 50 000 pictures: near ties, which other kernels and decoders of JPEG decide differently."""


@dataclass(frozen=True)
class Column:
    """A column of the table: the row of ours that it belongs to, and the number of pictures of the whole set."""

    suite: str
    metric: str
    n: int
    mask: str | None = None


MASK = "200 of 1000 outputs"
# The sizes are those that timm's numbers are fractions of: 200 classes have 10000 validation pictures, ReaL labels 46837.
COLUMNS = {
    "val": Column("clean", "accuracy", 50_000),
    "a": Column("a", "accuracy", 7_500, MASK),
    "a_clean": Column("clean", "accuracy_a_classes", 10_000, MASK),
    "r": Column("r", "accuracy", 30_000, MASK),
    "r_clean": Column("clean", "accuracy_r_classes", 10_000, MASK),
    "sketch": Column("sketch", "accuracy", 50_889),
    "v2": Column("v2/matched-frequency", "accuracy", 10_000),
    "real": Column("real", "accuracy", 46_837),
}


@dataclass(frozen=True)
class Published:
    """What timm says of one model at one image size; accuracies in percent, by column."""

    model: str
    size: int
    crop_pct: float
    crop_mode: str
    interpolation: str
    accuracies: dict[str, float]

    @property
    def resize(self) -> int:
        """Short side before the crop. Source: huggingface/pytorch-image-models:timm/data/transforms_factory.py."""
        return math.floor(self.size / self.crop_pct)


@dataclass(frozen=True)
class Comparison:
    """One number of ours beside timm's. `differences` say why the two are not comparable."""

    model: str
    suite: str
    metric: str
    timm: float
    ours: float
    delta: float
    n: int
    verdict: Verdict
    differences: tuple[str, ...] = ()


def calibrate(rows: Iterable[Row], *, tolerance: float = TOLERANCE) -> list[Comparison]:
    """Compare every accuracy of a model `timm:NAME` that timm publishes as well.

    Comparable are numbers of the same pictures, shown alike: all of them, of the same size, resized and masked the same way.
    timm does not publish its arithmetic (precision, releases); `tolerance`, in points, is for that.

    Raises:
        DataError: no row is of a model of timm, or timm publishes nothing of its suites.
        UsageError: timm publishes no results of a model.
    """
    ours = [row for row in rows if row.source == "ours"]
    known = [row for row in ours if row.method.startswith(PREFIX)]
    if not known:
        found = ", ".join(sorted({row.method for row in ours})) or "none at all"
        raise DataError(f"No row is of a model of timm, only of: {found}; evaluate one as {PREFIX}NAME.")
    compared = [comparison for row in known for comparison in _comparisons(row, tolerance)]
    if not compared:
        suites = ", ".join(sorted({row.suite for row in known}))
        wanted = ", ".join(dict.fromkeys(column.suite for column in COLUMNS.values()))
        raise DataError(f"timm publishes nothing of these suites: {suites}; evaluate one of {wanted}.")
    return compared


@cache
def published() -> tuple[Published, ...]:
    """The whole table, by model and size."""
    text = resources.files("dat.evaluation").joinpath("timm_results.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        Published(
            line["model"],
            int(line["img_size"]),
            float(line["crop_pct"]),
            line["crop_mode"],
            line["interpolation"],
            {column: float(line[column]) for column in COLUMNS if line[column]},
        )
        for line in csv.DictReader(lines)
    )


def as_table(comparisons: Sequence[Comparison]) -> str:
    """One line per number, and under it what differs."""
    head = f"{'':44}{'timm':>8}{'ours':>9}{'delta':>8}{'n':>7}  verdict"
    lines = []
    for model in dict.fromkeys(comparison.model for comparison in comparisons):
        lines += [model, head]
        for found in (comparison for comparison in comparisons if comparison.model == model):
            numbers = f"{found.timm:8.3f}{found.ours:9.3f}{found.delta:+8.3f}{found.n:7}"
            lines.append(f"  {found.suite + ' ' + found.metric:42}{numbers}  {found.verdict}")
            lines += [f"      {difference}" for difference in found.differences]
    return "\n".join(lines)


def _comparisons(row: Row, tolerance: float) -> Iterator[Comparison]:
    """None or one: of the column that the row belongs to, where timm has the model's number."""
    lines = _lines_of(row.method.removeprefix(PREFIX))
    for name, column in COLUMNS.items():
        with_number = [line for line in lines if name in line.accuracies]
        if (row.suite, row.metric) == (column.suite, column.metric) and with_number:
            height = row.protocol.get("height")
            nearest = min(with_number, key=lambda line: abs(line.size - height) if isinstance(height, int) else 0)
            yield _compared(row, column, nearest, nearest.accuracies[name], tolerance)


def _compared(row: Row, column: Column, line: Published, value: float, tolerance: float) -> Comparison:
    differences = tuple(_differences(row, column, line))
    delta = round(row.value - value, 3)  # as many digits as timm gives
    verdict: Verdict = "not comparable" if differences else "equal" if abs(delta) <= tolerance else "off"
    return Comparison(line.model, row.suite, row.metric, value, row.value, delta, row.n, verdict, differences)


def _differences(row: Row, column: Column, line: Published) -> Iterator[str]:
    if row.n != column.n:
        yield f"n is {row.n}; the whole set has {column.n}"
    theirs = {"height": line.size, "width": line.size, "resize": line.resize, "interpolation": line.interpolation}
    for key, wanted in theirs.items():
        if key not in row.protocol:
            yield f"{key} is not in our row; timm's is {wanted}"
        elif row.protocol[key] != wanted:
            more = f" (crop_pct {line.crop_pct:g} of {line.size})" if key == "resize" else ""
            yield f"{key} is {row.protocol[key]}; timm's is {wanted}{more}"
    if (mask := row.protocol.get("mask")) != column.mask:
        yield f"mask is {mask or 'none'}; timm's is {column.mask or 'none'}"
    if (mode := row.protocol.get("crop_mode", "center")) != line.crop_mode:
        yield f"crop_mode is {mode}; timm's is {line.crop_mode}"
    if row.protocol.get("generated"):
        yield "the pictures were generated here; timm's are the published ones"


def _lines_of(name: str) -> list[Published]:
    """Those of a model, at all sizes. A name without a tag means the weights that timm loads for it.

    Raises:
        UsageError: there are none.
    """
    full = name
    if "." not in name and timm.is_model(name) and (config := timm.get_pretrained_cfg(name)) is not None:
        full = f"{name}.{config.tag}"
    if lines := [line for line in published() if line.model == full]:
        return lines
    near = difflib.get_close_matches(full, dict.fromkeys(line.model for line in published()), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see timm_results.csv for those it has."
    raise UsageError(f"timm publishes no results of {full!r}; {hint}")
