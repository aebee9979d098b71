"""The page of an analysis: a sentence that counts models, and tables whose numbers tell whence; no file beside it is needed."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure
from synthetic_run import row

from dat.report.sheet import MOST_PLOTS, Sheet, plots_of, rows_table, sheet_page, tally
from dat.report.tables import ABSENT, Column
from dat.results import Row

METRICS = {"correlation_of_means": Column("Means"), "l2": Column("l2")}
LINES = {"pixel": "pixels", "discrete-minus-pixel": "words minus pixels"}
ENDS = {"one": (0.1, 0.3), "two": (-0.3, -0.1), "three": (-0.1, 0.2)}


def rows() -> list[Row]:
    found = list[Row]()
    for model, ends in ENDS.items():
        protocol: dict[str, object] = {"model": model, "alpha": 0.5}
        found.append(row("pixel", 0.25, metric="l2", protocol=protocol))
        found.append(row("discrete-minus-pixel", sum(ends) / 2, metric="correlation_of_means", ci=ends, protocol=protocol))
    return found


def test_a_sentence_counts_only_what_is_certain() -> None:
    assert tally(rows(), "discrete-minus-pixel", "correlation_of_means") == "higher on 1 of 3, lower on 1, open on 1"
    assert tally(rows()[:2], "discrete-minus-pixel", "correlation_of_means") == "higher on 1 of 1"
    assert tally(rows(), "pixel", "nothing") == "not measured"


def test_a_table_has_a_line_for_each_suite_under_each_model() -> None:
    table = rows_table(rows(), caption="x", lines=LINES, metrics=METRICS, groups=["model", "alpha"])
    assert [(line.group, line.title) for line in table.lines[:3]] == [
        ("one, alpha 0.5", "pixels"),
        ("one, alpha 0.5", "words minus pixels"),
        ("two, alpha 0.5", "pixels"),
    ]
    assert [cell.text for cell in table.lines[0].cells] == [ABSENT.text, "0.25"]
    gaps = [line.cells[0] for line in table.lines[1::2]]
    assert [(cell.text, cell.mark) for cell in gaps] == [("+0.2000", "best"), ("\N{MINUS SIGN}0.2000", "best"), ("+0.0500", "")]
    assert [cell.rows for cell in gaps] == [(one,) for one in rows()[1::2]]


@pytest.fixture(scope="module")
def page() -> str:
    table = rows_table(rows(), caption="x", lines=LINES, metrics=METRICS, groups=["model"])
    figures = {f"model {place}": Figure(figsize=(2, 2)) for place in range(MOST_PLOTS + 2)}
    plots = plots_of(figures, {name: f"Of {name}" for name in figures})
    return sheet_page(Sheet("Title", "below", ("A lead.",), {table.name: table}, plots, ("rows.jsonl",)))


def test_a_page_shows_few_figures_and_asks_for_nothing(page: str) -> None:
    assert page.count("<figure") == MOST_PLOTS
    assert page.count("<details>") == MOST_PLOTS - 1
    assert page.count(f"figures of 2 more (model {MOST_PLOTS}, model {MOST_PLOTS + 1}) are in the pictures beside") == 1
    assert not re.search(r"(src|href)=\"(https?:)?//", page.replace("http://www.w3.org", ""))
    assert "default-src 'none'" in page
    assert 'href="rows.jsonl"' in page


def test_a_group_keeps_its_letters() -> None:
    line = rows_table(
        [row("pixel", 1.0, metric="l2", protocol={"model": "DAT-seed0"})],
        caption="",
        lines=LINES,
        metrics=METRICS,
        groups=["model"],
    )
    page = sheet_page(Sheet("", "", (), {"numbers": line}, {}, ()))
    assert ">DAT-seed0</th>" in page


def test_its_numbers_tell_where_they_come_from(page: str) -> None:
    assert len(re.findall(r'popovertarget="from-\d+">', page)) == 6
    assert "model one, alpha 0.5" in page
