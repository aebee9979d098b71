"""Each number of a page says which models, recipe, protocol and versions it comes from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_run import full_rows, row, write_run

from dat.report.heat import corruption_heat
from dat.report.origins import Origins, models_text, origin
from dat.report.page import gather, html_page
from dat.report.paper import paper_table
from dat.report.tables import Cell, Column, Line, Table, all_tables, comparison_table

pytestmark = pytest.mark.usefixtures("all_undrawn")


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    comparison = comparison_table(full_rows())
    quoted = [row("fgsm", 12.19, method="standard", seed=None, source="paper", n=0, protocol={"source": "Table 6"})]
    found = (*all_tables(comparison), corruption_heat(comparison), paper_table(comparison, [*full_rows(), *quoted]))
    return {table.name: table for table in found if table}


def test_every_number_of_a_comparison_has_one(tables: dict[str, Table]) -> None:
    origins = Origins([*tables.values()])
    shown = [cell for table in tables.values() for line in table.lines for cell in line.cells if cell.text != "\N{EM DASH}"]
    assert len(shown) > 150
    assert all(origins.of(cell) for cell in shown)
    ids = [found.id for found in origins.known.values()]
    assert len(set(ids)) == len(ids) < len(shown), "numbers of the same rows share one"
    assert origins.of(Cell("1")) is None


def cell_of(table: Table, line: str, column: str) -> Cell:
    place = [one.title for one in table.columns].index(column)
    return next(one for one in table.lines if one.title == line).cells[place]


def test_a_mean_names_its_models_and_how_they_were_measured(tables: dict[str, Table]) -> None:
    found = Origins([*tables.values()]).of(cell_of(tables["accuracy"], "DAT", "FGSM"))
    assert found is not None
    rows = [one for one in full_rows() if (one.method, one.suite) == ("dat", "fgsm")]
    expected = "; ".join(f"seed {one.seed}: {one.value:.2f} (weights {one.checkpoint[:8]})" for one in rows)
    assert found.title == "DAT: FGSM"
    assert found.facts == {
        "DAT": expected,
        "Pictures": "450",
        "Measured": "epsilon 0.03137",
        "Recipe": "0123abcd",
        "Versions": "dat 0.1.0, torch 2.0",
        "Rows": "accuracy of fgsm",
    }


def test_a_difference_names_both_and_a_mean_over_cells_its_cells(tables: dict[str, Table]) -> None:
    origins = Origins([*tables.values()])
    difference = origins.of(cell_of(tables["difference-to"], "DAT", "Clean"))
    assert difference is not None
    assert difference.title == "DAT against Standard: Clean"
    assert {"DAT", "Standard"} <= {*difference.facts}
    of_corruption = origins.of(cell_of(tables["corruptions"], "fog", "AT"))
    assert of_corruption is not None
    assert of_corruption.facts["Rows"] == "accuracy of c/fog/1 \N{EN DASH} c/fog/5 (5)"
    assert of_corruption.facts["Measured"] == "corruption fog, drawn by formula", "what all severities share"
    cells = [one for one in full_rows() if one.method == "at" and one.suite.startswith("c/fog/") and one.seed == 1]
    mean = sum(one.value for one in cells) / 5
    assert f"seed 1: {mean:.2f}" in of_corruption.facts["AT"]
    group = origins.of(cell_of(tables["groups"], "AT", "Weather"))
    assert group is not None
    assert group.facts["Rows"].endswith("(20)")


def test_a_quoted_number_says_who_says_it(tables: dict[str, Table]) -> None:
    found = Origins([*tables.values()]).of(tables["paper"].lines[0].cells[0])
    assert found is not None
    assert found.facts["Standard"] == "12.19 as the paper says"
    assert found.facts["Measured"] == "source Table 6"
    assert "Pictures" not in found.facts


def test_seeds_that_do_not_count_are_not_named() -> None:
    rows = [row("clean", 90 + seed, method=method, seed=seed) for method in ("standard", "dat") for seed in range(4)]
    comparison = comparison_table(rows[:-1])
    value = comparison.estimate("clean", "standard")
    assert value is not None
    assert (value.mean, [one.seed for one in value.rows]) == (91, [0, 1, 2])
    gap = comparison.difference("clean", "dat")
    assert gap is not None
    assert [(one.method, one.seed) for one in gap.rows] == [(name, seed) for name in ("dat", "standard") for seed in (0, 1, 2)]


def test_small_numbers_keep_four_digits() -> None:
    assert models_text([row("x", 0.99763, metric="correlation_of_means", checkpoint="")]) == "seed 0: 0.9976"
    assert models_text([row("cost", 0.01234, checkpoint="")]) == "seed 0: 0.0123"


def test_models_of_one_name_stay_apart() -> None:
    one, other = (row("clean", value, seed=None, checkpoint=name * 64) for value, name in ((90.0, "a"), (80.0, "b")))
    assert models_text([one, other]) == "90.00 (weights aaaaaaaa); 80.00 (weights bbbbbbbb)"
    assert origin([one], "x").title == "DAT: Clean"


def test_classes_of_one_accuracy_stay_apart() -> None:
    cells = [Cell("90.0", quoted=(row("clean", 90.0, seed=0, protocol={"class": name}),)) for name in ("cat", "dog")]
    lines = tuple(Line(title, (one,)) for title, one in zip(("cat", "dog"), cells, strict=True))
    origins = Origins([Table("t", "Caption.", "Class", (Column("DAT"),), lines)])
    found = [origins.of(one) for one in cells]
    assert [one and one.title for one in found] == ["DAT: Clean, class cat", "DAT: Clean, class dog"]


def test_the_page_has_a_place_for_each(tmp_path: Path) -> None:
    page = html_page(gather(write_run(tmp_path / "run")))
    targets = re.findall(r'popovertarget="(from-\d+)">', page)
    places = re.findall(r'<div popover class="told" id="(from-\d+)"', page)
    assert len(targets) > 150
    assert set(targets) == set(places)
    assert len(places) == len(set(places))
