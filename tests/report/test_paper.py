"""The numbers of a paper beside ours."""

from synthetic_run import rows_of

from dat.report.paper import paper_table
from dat.report.tables import comparison_table, plain_table
from dat.results import Row


def quoted(method: str, value: float, *, suite: str = "clean", metric: str = "accuracy") -> Row:
    return Row(suite, metric, value, 0, None, None, method, "hash", {"source": "A paper, Table 6"}, source="paper")


OURS = [*rows_of("clean", {"standard": [80.0, 80.5, 81.0], "dat": [82.0, 83.0, 84.0]})]
PAPER = [quoted("standard", 76.0), quoted("dat", 77.5), quoted("dat", 50.0, suite="c", metric="mce")]


def test_paper_ours_delta_and_n_stand_beside_each_other():
    table = paper_table(comparison_table(OURS), OURS + PAPER)
    assert table is not None
    assert [column.title for column in table.columns][:4] == ["Paper", "Ours", "Delta", "n"]
    standard, dat, mce = table.lines
    assert [cell.text for cell in dat.cells] == ["77.50", "83.00", "+5.50", str(OURS[0].n), "+1.50", "+2.50"]
    assert [cell.text for cell in standard.cells][4:] == ["—", "—"]
    assert [cell.text for cell in mce.cells] == ["50.00", "—", "—", "—", "—", "—"]
    assert (dat.group, dat.title, mce.title) == ("DAT", "Clean", "Corruptions, mCE")
    assert "A paper, Table 6" in table.notes[0]


def test_nothing_quoted_is_no_table():
    assert paper_table(comparison_table(OURS), OURS) is None


def test_in_plain_text_the_test_sets_stand_below_their_method():
    table = paper_table(comparison_table(OURS), OURS + PAPER)
    assert table is not None
    lines = plain_table(table).splitlines()
    assert lines[3].strip() == "Standard"
    assert lines[4].split() == ["Clean", "76.00", "80.50", "±", "1.67", "+4.50", str(OURS[0].n), "—", "—"]
