"""Tables as CSV and LaTeX, read back."""

import csv
import io
import re
from pathlib import Path

import pytest
from synthetic_run import full_rows, rows_of, write_run

from dat.report.formats import HEADINGS, csv_text, escaped, latex_text
from dat.report.heat import corruption_heat
from dat.report.page import write_report
from dat.report.tables import MINUS, Cell, Column, Line, Table, accuracy_table, all_tables, comparison_table

pytestmark = pytest.mark.usefixtures("all_undrawn")


def read(table: Table) -> list[dict[str, str]]:
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert all(tuple(line) == HEADINGS for line in lines)
    return lines


def test_csv_has_a_line_for_each_cell_with_mean_half_interval_and_n_not_rounded():
    comparison = comparison_table(full_rows())
    table = accuracy_table(comparison)
    lines = read(table)
    assert len(lines) == len(table.lines) * len(table.columns)
    dat = {line["column"]: line for line in lines if line["row"] == "DAT"}
    value = comparison.estimate("clean", "dat")
    assert value is not None
    assert value.interval is not None
    low, high = value.interval
    assert [float(dat["Clean"][key]) for key in ("mean", "half_interval", "low", "high")] == [
        value.mean,
        (high - low) / 2,
        low,
        high,
    ]
    assert (dat["Clean"]["seeds"], dat["Clean"]["n"], dat["Clean"]["unit"]) == (
        "3",
        "450",
        "3 \N{MULTIPLICATION SIGN} 450 images",
    )
    cost = dat["Cost per step"]
    assert float(cost["mean"]) == pytest.approx(3.25, abs=0.1)
    assert (cost["half_interval"], cost["n"]) == ("", "")
    assert re.fullmatch(r"3\.\d\d \(3\.\d\d to 3\.\d\d\)", cost["text"])


def test_csv_says_groups_and_differences_keep_their_sign():
    table = corruption_heat(comparison_table(full_rows()))
    assert table is not None
    lines = read(table)
    assert {line["group"] for line in lines} == {"noise", "blur", "weather", "digital"}
    for told, cell in zip(lines, [cell for line in table.lines for cell in line.cells], strict=True):
        assert f"{float(told['mean']):+.1f}".replace("-", MINUS) == cell.text


def test_csv_without_an_interval_leaves_it_empty_and_quotes_names():
    table = accuracy_table(comparison_table(rows_of("clean", {'odd, "name"': [80.0]})))
    (line,) = read(table)
    assert (line["row"], line["mean"], line["half_interval"], line["low"]) == ('odd, "name"', "80.0", "", "")


ODD = r"50 % of a_b & c#1 {x} \d ~ ^ $y$"


def test_latex_escapes_whatever_a_name_is():
    assert escaped(ODD) == (r"50 \% of a\_b \& c\#1 \{x\} \textbackslash{}d \textasciitilde{} \textasciicircum{} \$y\$")
    assert escaped(f"[{MINUS}1 \N{PLUS-MINUS SIGN} 2] *") == r"{[}$-$1 $\pm$ 2{]} {*}"


def test_latex_has_the_rules_of_booktabs_and_as_many_cells_in_each_line():
    lines = (Line(ODD, (Cell("1.0", "± 0.2", "best"), Cell("2", mark="tie"))), Line("[b]", (Cell("—"), Cell("3")), group="g"))
    table = Table("odd", "A caption: 5 %", "Corner", (Column("A", "%"), Column("B_c")), lines, ("A note & more",))
    text = latex_text(table)
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [2] * 4
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{table}")] == [1] * 4
    assert r"\textbf{1.0} $\pm$ 0.2 & $\approx$ 2 \\" in text
    assert r"\multicolumn{3}{l}{\textit{g}} \\" in text
    assert r"\caption{A caption: 5 \%}" in text
    assert r"A note \& more" in text
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")


def test_every_sign_of_our_tables_is_one_that_latex_knows():
    comparison = comparison_table(full_rows())
    heat = corruption_heat(comparison)
    assert heat is not None
    for table in (*all_tables(comparison), heat):
        assert latex_text(table).isascii(), table.name


def test_the_files_stand_beside_the_page_which_names_them(tmp_path: Path):
    run = write_run(tmp_path / "run")
    page = write_report(run).read_text()
    names = {path.name for path in (run / "tables").iterdir()}
    tables = ("accuracy", "difference-to", "difference-of", "groups", "corruptions", "corruption-differences")
    assert names == {f"{name}.{suffix}" for name in tables for suffix in ("csv", "tex")}
    for text in (page, (run / "report.md").read_text()):
        assert "tables/NAME.csv" in text
        assert "accuracy, difference-to, difference-of, groups, corruptions, corruption-differences" in text
