"""A table as Markdown, CSV and LaTeX; knows tables and text, and writes files where it is told."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dat.report.tables import MINUS, Cell, Line, Table
from dat.results import write_text

TABLES = "tables"
"""Folder of the files beside a page."""
HEADINGS = ("group", "row", "column", "unit", "mean", "half_interval", "low", "high", "seeds", "n", "text")
"""Of the columns of CSV, where a line is one cell of the table."""
LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},  # at the beginning of a line they would belong to the one above
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    MINUS: "$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{ALMOST EQUAL TO}": r"$\approx$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{GREEK SMALL LETTER DELTA}": r"$\delta$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{NO-BREAK SPACE}": "~",
}
"""What signs are in LaTeX; letters of all languages stay, which it reads as UTF-8."""
SIGNS = {"tie": "\N{ALMOST EQUAL TO}", "open": "\N{ALMOST EQUAL TO}"}
"""Before a number, by its mark."""


def write_tables(folder: Path, tables: Iterable[Table]) -> dict[str, str]:
    """Write `NAME.csv` and `NAME.tex` of each table into the folder; a line of provenance that names them, or none."""
    tables = list(tables)
    if not tables:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_text(folder / f"{table.name}.csv", csv_text(table))
        write_text(folder / f"{table.name}.tex", latex_text(table))
    names = ", ".join(f"{table.name}" for table in tables)
    return {
        "Tables": f"as {folder.name}/NAME.csv (one cell a line: mean, half interval, n) and {folder.name}/NAME.tex: {names}"
    }


# Markdown.


def markdown_table(table: Table) -> str:
    """A table in GitHub Markdown, with its caption above and its notes below."""
    headings = [table.corner, *(f"{c.title} ({c.detail})" if c.detail else c.title for c in table.columns)]
    rows = [headings, ["---", *["---:"] * len(table.columns)], *map(_markdown_line, table.lines)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([f"**{table.caption}**", lines, *table.notes])


def _markdown_line(line: Line) -> list[str]:
    """The cells of a line, with its group before its title."""
    return [f"{line.group}: {line.title}" if line.group else line.title, *map(_markdown_cell, line.cells)]


def _markdown_cell(cell: Cell) -> str:
    """A number with its spread, bold or marked."""
    text = f"**{cell.text}**" if cell.mark == "best" else cell.text
    return " ".join(filter(None, [SIGNS.get(cell.mark), text, cell.spread]))


# CSV.


def csv_text(table: Table) -> str:
    """A table with a line for each of its cells, under `HEADINGS`.

    `mean`, `half_interval`, `low`, `high`, `seeds` and `n` (pictures at each seed) are those of the estimate that the cell
    shows, not rounded; of a cell that shows none `mean` is its number, if it is one. `text` is what the page shows.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADINGS)
    for line in table.lines:
        for column, cell in zip(table.columns, line.cells, strict=True):
            writer.writerow([line.group, line.title, column.title, column.detail, *_numbers(cell), _plain(cell)])
    return file.getvalue()


def _numbers(cell: Cell) -> tuple[float | int | str, ...]:
    """Mean, half interval, both ends, seeds and n; empty where they are not known."""
    if cell.estimate is None:
        return (_number_of(cell.text), *[""] * 5)
    low, high = cell.estimate.interval or ("", "")
    half = (high - low) / 2 if isinstance(high, float) and isinstance(low, float) else ""
    return cell.estimate.mean, half, low, high, cell.estimate.seeds, cell.estimate.n or ""


def _number_of(text: str) -> float | str:
    """The number that a text is; empty where it is none."""
    plain = text.replace(MINUS, "-")
    return float(plain) if re.fullmatch(r"[+-]?\d+(\.\d+)?", plain) else ""


def _plain(cell: Cell) -> str:
    return f"{cell.text} {cell.spread}".rstrip()


# LaTeX.


def latex_text(table: Table) -> str:
    """A floating table for `\\usepackage{booktabs}`, with caption, label and notes; whatever is in a name, it is text."""
    columns = len(table.columns) + 1
    details = [["", *(column.detail for column in table.columns)]] * any(column.detail for column in table.columns)
    headings = [[table.corner, *(column.title for column in table.columns)], *details]
    parts = [
        "% \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
        r"\toprule",
        *(_latex_row(map(escaped, row)) for row in headings),
        r"\midrule",
        *_latex_lines(table.lines, columns),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {escaped(note)}\par}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def _latex_lines(lines: Iterable[Line], columns: int) -> Iterator[str]:
    """Each line of the table; before the first of a group, the group."""
    group = ""
    for line in lines:
        if line.group != group:
            yield r"\addlinespace" + "\n" + rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{escaped(line.group)}}}}} \\"
            group = line.group
        yield _latex_row([escaped(line.title), *map(_latex_cell, line.cells)])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{escaped(cell.text)}}}" if cell.mark == "best" else escaped(cell.text)
    return " ".join(filter(None, [escaped(SIGNS.get(cell.mark, "")), text, escaped(cell.spread)]))


def escaped(text: str) -> str:
    """Text in which LaTeX reads nothing but text."""
    return "".join(LATEX.get(sign, sign) for sign in text)
