"""The paper beside ours: what is compared with what, and that nothing is claimed of another experiment."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dat.report.reproduced import ORIENTATION, beside, sheet, table_of
from dat.report.tables import Comparison, comparison_table, number, plain_table
from dat.results import write_csv
from tests.report.synthetic_run import full_rows

ROWS = {"standard": "standard", "dat": "standard"}
TITLES = {"standard": "Plain & simple", "dat": "DAT, 4 %"}
QUOTED = {
    "standard": {"clean": 76.13, "fgsm": 12.19, "mce": 76.7, "a": 0.0},
    "dat": {"codes": 3.8, "clean": 76.52, "fgsm": 30.66, "mce": 74.16, "a": 4.38},
}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return comparison_table(full_rows())


def test_at_another_scale_only_differences_are_compared(comparison: Comparison) -> None:
    found = {(one.row, one.measure): one for one in beside(ROWS, QUOTED, comparison, is_same=False)}
    assert {measure for _, measure in found} == {"codes", "clean", "fgsm", "mce", "c"}
    fgsm = found["dat", "fgsm"]
    estimate, gap = comparison.estimate("fgsm", "dat"), comparison.difference("fgsm", "dat", to="standard")
    assert (fgsm.ours, fgsm.ours_gap) == (estimate, gap)
    assert gap is not None
    assert gap.interval is not None
    assert fgsm.paper_gap == pytest.approx(30.66 - 12.19)
    assert fgsm.delta == pytest.approx(gap.mean - (30.66 - 12.19))
    assert found["standard", "fgsm"].delta is None
    assert found["standard", "fgsm"].ours_gap is None
    assert found["dat", "c"].delta is None, "the paper prints no accuracy on corruptions"
    assert found["dat", "mce"].ours is None


def test_at_the_papers_scale_numbers_are_compared_and_all_are_shown(comparison: Comparison) -> None:
    found = {(one.row, one.measure): one for one in beside(ROWS, QUOTED, comparison, is_same=True)}
    clean = comparison.estimate("clean", "standard")
    assert clean is not None
    assert found["standard", "clean"].delta == pytest.approx(clean.mean - 76.13)
    assert found["dat", "a"].ours is None
    assert found["dat", "a"].paper_gap == pytest.approx(4.38)
    nothing = beside(ROWS, QUOTED, None, is_same=True)
    assert all(one.ours is None and one.delta is None for one in nothing)
    assert beside(ROWS, QUOTED, None, is_same=False) == []


def test_the_table_says_what_it_is_not(comparison: Comparison) -> None:
    here, papers = (
        table_of("t", "Caption.", beside(ROWS, QUOTED, comparison, is_same=is_same), TITLES, ["A note."])
        for is_same in (False, True)
    )
    assert here.notes == (ORIENTATION, "A note.")
    assert here.columns[0].detail == "other data"
    assert here.columns[2].detail == "of differences"
    assert ORIENTATION not in papers.notes
    text = plain_table(here)
    assert "DAT, 4 % (to Plain & simple)" in text
    assert "450 x 3" in text
    assert [column.title for column in here.columns[:4]] == ["Paper", "Ours", "Delta", "n"]


@pytest.mark.parametrize("is_same", [False, True])
def test_each_number_stands_under_its_heading(comparison: Comparison, *, is_same: bool) -> None:
    table = table_of("t", "Caption.", beside(ROWS, QUOTED, comparison, is_same=is_same), TITLES, [])
    line = next(line for line in table.lines if line.group.startswith("DAT") and line.title == "FGSM")
    estimate, gap = comparison.estimate("fgsm", "dat"), comparison.difference("fgsm", "dat", to="standard")
    assert estimate is not None
    assert gap is not None
    delta = estimate.mean - 30.66 if is_same else gap.mean - (30.66 - 12.19)
    assert delta * gap.mean
    assert {column.title: cell.text for column, cell in zip(table.columns, line.cells, strict=True)} == {
        "Paper": "30.66",
        "Ours": number(estimate.mean, decimals=2),
        "Delta": number(delta, decimals=2, signed=True),
        "n": "450 x 3",
        "Paper: difference": "+18.47",
        "Ours: difference": number(gap.mean, decimals=2, signed=True),
    }


def test_the_sheet_has_the_numbers(comparison: Comparison, tmp_path: Path) -> None:
    found = beside(ROWS, QUOTED, comparison, is_same=False)
    write_csv(tmp_path / "t.csv", sheet(found))
    lines = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert len(lines) == len(found)
    line = next(line for line in lines if (line["row"], line["measure"]) == ("dat", "fgsm"))
    one = next(one for one in found if (one.row, one.measure) == ("dat", "fgsm"))
    assert one.ours is not None
    assert one.ours_gap is not None
    assert one.ours_gap.interval is not None
    assert float(line["ours"]) == one.ours.mean
    assert (float(line["low"]), float(line["high"])) == one.ours.interval
    assert (float(line["paper"]), float(line["paper_difference"])) == (30.66, pytest.approx(18.47))
    assert float(line["our_difference"]) == one.ours_gap.mean
    assert int(line["pictures"]) == 450
    assert (float(line["difference_low"]), float(line["difference_high"])) == one.ours_gap.interval
    assert float(line["delta"]) == pytest.approx(one.delta)
    assert (line["baseline"], line["seeds"], line["measured_as_in_the_paper"]) == ("standard", "3", "False")
    assert next(line for line in lines if line["row"] == "standard")["delta"] == ""
