"""Plans of the tables of the paper: rows are the recipes with its numbers, and each scale trains rows that there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dat.errors import UsageError
from dat.recipe import table_plan
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.contest import training_of
from dat.recipe.file import SHIPPED, shipped_recipes
from dat.recipe.table_plan import check_scale, classification, load_plan, tables

TABLES = ("table1", "table2", "table6", "table8")


def test_the_plans_are_these() -> None:
    assert tuple(tables()) == TABLES


@pytest.mark.parametrize("table", TABLES)
def test_the_rows_are_all_recipes_of_the_table(table: str) -> None:
    plan = load_plan(table)
    assert {row.recipe for row in plan.rows.values()} == {
        name for name in shipped_recipes() if name.startswith(f"imagenet/{table}/")
    }
    for row in plan.rows.values():
        recipe = classification(row.recipe)
        assert recipe.expect is not None
        assert recipe.expect.source.endswith(f"Table {table.removeprefix('table')}")
    assert {plan.baseline, *(row.to for row in plan.rows.values() if row.to)} <= set(plan.rows)


@pytest.mark.parametrize("table", TABLES)
def test_the_cost_of_a_row_is_that_of_its_recipe(table: str) -> None:
    for row in load_plan(table).rows.values():
        text = (SHIPPED / f"{row.recipe}.yaml").read_text()
        if "Estimated at" in text:
            assert f"Estimated at {row.gpu_hours:,.0f} GPU hours" in text


@pytest.mark.parametrize("table", TABLES)
def test_methods_of_a_scale_are_rows_and_with_what_they_are_compared(table: str) -> None:
    plan = load_plan(table)
    assert set(plan.scales) == {"demo", "cifar"}
    for scale in plan.scales.values():
        recipes = [classification(name) for name in scale.runs]
        rows = [label for recipe in recipes for label in recipe.methods]
        assert len(rows) == len(set(rows))
        assert set(rows) <= set(plan.rows)
        assert all(isinstance(recipe, ClassificationRecipe) for recipe in recipes)


COSTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "reproduce-cpu.json"


def test_plans_say_what_was_measured() -> None:
    known = json.loads(COSTS.read_text())["recipes"]
    told = {name: worth for table in TABLES for scale in load_plan(table).scales.values() for name, worth in scale.runs.items()}
    assert len(told) == 10
    assert told == {name: float(f"{known[name]['plain_steps']:.2g}") if name in known else None for name in told}
    for name in known:
        recipe, cost = classification(name), known[name]
        assert list(cost["methods"]) == list(recipe.methods), "measured anew when the recipe changes"
        assert cost["seeds"] == len(recipe.seeds)
        for label, one in cost["methods"].items():
            assert one["epochs"] == training_of(recipe, label).epochs
            whole = one["epochs"] * (one["steps_per_epoch"] * one["a_step"] + one["an_epoch_beside"])
            assert one["whole"] == pytest.approx(whole, rel=0.02)
        each = sum(one["whole"] for one in cost["methods"].values()) + cost["evaluation_of_a_model"] * len(recipe.methods)
        assert cost["plain_steps"] == pytest.approx(cost["discretizer"] + cost["seeds"] * each, rel=0.01)
        assert "reproduce-cpu.json" in (SHIPPED / f"{name}.yaml").read_text() or name == "reproduce/demo-table8"


def test_the_numbers_of_table_8_are_those_of_the_paper() -> None:
    plan, quoted = load_plan("table8"), load_plan("table8").quoted()
    assert [quoted[row]["codes"] for row in ("alpha-0", "random", "alpha-0.1", "alpha-0.2", "alpha-0.4")] == [
        0,
        3.8,
        3.8,
        7,
        13,
    ]
    assert quoted["alpha-0.4"]["fgsm"] == 36.2
    assert quoted["random"]["mce"] == 74.71
    assert plan.compared_with("random") == plan.compared_with("alpha-0") == "alpha-0"
    assert load_plan("table1").compared_with("mae-h-dat") == load_plan("table1").compared_with("mae-h") == "mae-h"


def test_what_is_no_table_or_scale_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="There is no plan of a table 'table9'; did you mean 'table8'"):
        load_plan("table9")
    with pytest.raises(UsageError, match=r"--scale is 'imagnet'; did you mean 'imagenet'\? write one of demo, cifar, imagenet"):
        check_scale("imagnet")
    with pytest.raises(UsageError, match="discretizer/digits is a recipe of kind discretizer; a table is of classification"):
        classification("discretizer/digits")
    (tmp_path / "_table3.yaml").write_text(
        "title: x\nbaseline: a\nrows: {a: {title: A, recipe: b, gpu_hours: many}}\nscales: {}\n"
    )
    monkeypatch.setattr(table_plan, "PLANS", tmp_path)
    with pytest.raises(UsageError, match=r"_table3.yaml: .*gpu_hours"):
        load_plan("table3")
