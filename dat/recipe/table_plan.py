"""The plan of a table of the paper: its rows, where the paper's numbers are, and which recipes train the rows at which scale.

`recipes/reproduce/_table8.yaml` and so on: data, as recipes are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from dat.errors import UsageError, did_you_mean
from dat.recipe import file, read
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.faults import sentence
from dat.recipe.strict import Strict

PLANS = file.SHIPPED / "reproduce"
SCALES = ("demo", "cifar", "imagenet")


class RowSection(Strict):
    """A row: the recipe of the paper's scale, with the paper's numbers, and its cost; `to`: the row that it is compared with.

    `codes`: the paper's modified codes, in percent.
    """

    title: str
    recipe: str
    gpu_hours: float = Field(ge=0)
    to: str | None = None
    codes: float | None = None


class ScaleSection(Strict):
    """Recipes, whose methods are called as the rows; `note`: what is not the paper's.

    Of each recipe, how many plain training steps of its network take as long as the whole run (`benchmarks/reproduce.py`);
    null where that was not measured.
    """

    runs: dict[str, float | None]
    note: str


class TablePlan(Strict):
    """A table of the paper; rows without `to` are compared with the `baseline`."""

    title: str
    baseline: str
    rows: dict[str, RowSection]
    scales: dict[Literal["demo", "cifar"], ScaleSection]

    def compared_with(self, row: str) -> str:
        """The row that it is measured against; itself, where it is such a row."""
        if row in {one.to for one in self.rows.values()}:
            return row
        return self.rows[row].to or self.baseline

    def quoted(self) -> dict[str, dict[str, float]]:
        """What the paper reports, in percent by row and measure: `codes`, `mce`, or a test set."""
        found: dict[str, dict[str, float]] = {}
        for key, row in self.rows.items():
            expected = classification(row.recipe).expect
            assert expected is not None, row.recipe
            codes = {} if row.codes is None else {"codes": row.codes}
            found[key] = codes | next(iter(expected.columns().values()))
        return found


def tables() -> dict[str, Path]:
    """The plans that come with the package, by table."""
    return {path.stem.removeprefix("_"): path for path in sorted(PLANS.glob("_table*.yaml"))}


def load_plan(table: str) -> TablePlan:
    """The plan of a table.

    Raises:
        UsageError: there is none of that name; or a fault of it.
    """
    known = tables()
    if table not in known:
        near = did_you_mean(difflib.get_close_matches(table, known, n=1, cutoff=0.5))
        raise UsageError(f"There is no plan of a table {table!r}; {near}write one of {', '.join(known)}.")
    values = {key: value for key, value in file.read(known[table]).items() if key != "out"}
    try:
        return TablePlan.model_validate_json(json.dumps(values))
    except ValidationError as error:
        faults = "; ".join(sentence(fault, values, TablePlan.model_json_schema()) for fault in error.errors())
        raise UsageError(f"{known[table]}: {faults}") from error


def check_scale(scale: str) -> None:
    """Raises: UsageError: it is none."""
    if scale not in SCALES:
        near = did_you_mean(difflib.get_close_matches(scale, SCALES, n=1, cutoff=0.5))
        raise UsageError(f"--scale is {scale!r}; {near}write one of {', '.join(SCALES)}.")


def classification(name: str, overrides: Sequence[str] = ()) -> ClassificationRecipe:
    """A recipe of classification by its name, with `key.sub=value` replaced.

    Raises:
        UsageError: it has faults, or is of another kind.
    """
    recipe = read.load(name, overrides)
    if not isinstance(recipe, ClassificationRecipe):
        raise UsageError(f"{name} is a recipe of kind {recipe.kind}; a table is of classification.")
    return recipe
