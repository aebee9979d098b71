"""A table of the paper beside what was measured here: `paper | ours | delta | n`, and as lines of a spreadsheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dat.report.tables import ABSENT, Cell, Column, Comparison, Estimate, Line, Table, cell, number, suite_title

Quoted = Mapping[str, Mapping[str, float]]
"""What the paper reports, by row and measure."""

CODES, MCE, C = "codes", "mce", "c"
MEASURES = (CODES, "clean", "fgsm", "damagenet", "a", MCE, C, "v2", "r", "sketch", "stylized")
"""In the order of the paper, with the mean accuracy on corruptions, which it does not print, after its mCE."""
TITLES = {CODES: "Modified codes", MCE: "Corruptions, mCE (lower is better)", C: "Corruptions, accuracy"}
ORIENTATION = (
    "Not the paper's experiment, but its question on other pictures at another scale: the column of the paper is for "
    "orientation. Delta compares what a row differs from its baseline by, never the numbers themselves."
)
ITSELF = "Delta is ours minus the paper's."


@dataclass(frozen=True)
class Beside:
    """One number: of the paper and ours, each with what it differs by from the row that it is compared with, if any is.

    `is_same`: whether it was measured as the paper's was; otherwise only differences are compared.
    """

    row: str
    measure: str
    to: str
    paper: float | None
    paper_gap: float | None
    ours: Estimate | None
    ours_gap: Estimate | None
    is_same: bool

    @property
    def delta(self) -> float | None:
        """Ours minus the paper's, of what can be compared."""
        ours, paper = (self.ours, self.paper) if self.is_same else (self.ours_gap, self.paper_gap)
        return None if ours is None or paper is None else ours.mean - paper


def beside(rows: Mapping[str, str], quoted: Quoted, comparison: Comparison | None, *, is_same: bool) -> list[Beside]:
    """Every number of the rows, each with the row that it is compared with; without `comparison` nothing was measured yet.

    Measures that were not measured here are left out, unless they should have been (`is_same`).
    """
    ours = set(comparison.scores) if comparison is not None else set[str]()
    shown = [name for name in MEASURES if name in ours or (is_same and any(name in of for of in quoted.values()))]
    if not is_same and C in ours:
        shown = [name for name in MEASURES if name in (*shown, MCE)]
    return [_beside(row, to, name, quoted, comparison, is_same) for row, to in rows.items() for name in shown]


def _beside(row: str, to: str, name: str, quoted: Quoted, comparison: Comparison | None, is_same: bool) -> Beside:
    paper, base = quoted[row].get(name), quoted[to].get(name)
    paper_gap = paper - base if paper is not None and base is not None and row != to else None
    ours = comparison.estimate(name, row) if comparison is not None else None
    gap = comparison.difference(name, row, to=to) if ours is not None and comparison is not None and row != to else None
    return Beside(row, name, to, paper, paper_gap, ours, gap, is_same)


def table_of(name: str, caption: str, found: Sequence[Beside], titles: Mapping[str, str], notes: Sequence[str]) -> Table:
    """A line for each number, under the heading of its row."""
    is_same = any(one.is_same for one in found)
    columns = (
        Column("Paper", "" if is_same else "other data"),
        Column("Ours"),
        Column("Delta", "ours - paper" if is_same else "of differences"),
        Column("n", "pictures x seeds"),
        Column("Paper: difference", "to the baseline"),
        Column("Ours: difference", "to the baseline, paired"),
    )
    own = (ITSELF if is_same else ORIENTATION, *notes)
    return Table(name, caption, "Measure", columns, tuple(_line(one, titles) for one in found), own)


def _line(one: Beside, titles: Mapping[str, str]) -> Line:
    numbers = Cell(f"{one.ours.n} x {one.ours.seeds}", quoted=one.ours.rows) if one.ours is not None else ABSENT
    cells = (
        _plain(one.paper),
        cell(one.ours, decimals=2),
        _plain(one.delta, signed=True),
        numbers,
        _plain(one.paper_gap, signed=True),
        cell(one.ours_gap, decimals=2, signed=True),
    )
    group = titles[one.row] + ("" if one.to == one.row else f" (to {titles[one.to]})")
    return Line(TITLES.get(one.measure, suite_title(one.measure)), cells, group=group)


def _plain(value: float | None, *, signed: bool = False) -> Cell:
    return ABSENT if value is None else Cell(number(value, decimals=2, signed=signed))


SHEET = ("row", "measure", "paper", "ours", "low", "high", "delta", "pictures", "seeds", "baseline")
GAPS = ("paper_difference", "our_difference", "difference_low", "difference_high", "measured_as_in_the_paper")


def sheet(found: Sequence[Beside]) -> Iterator[Sequence[object]]:
    """The numbers as lines of a spreadsheet, after their headings; what is not known is None."""
    yield (*SHEET, *GAPS)
    for one in found:
        ours, gap = one.ours, one.ours_gap
        ends, gap_ends = ((value.interval or (None, None)) if value else (None, None) for value in (ours, gap))
        counts = (ours.n, ours.seeds) if ours else (None, None)
        mean, gap_mean = (value.mean if value else None for value in (ours, gap))
        yield (
            one.row,
            one.measure,
            one.paper,
            mean,
            *ends,
            one.delta,
            *counts,
            one.to,
            one.paper_gap,
            gap_mean,
            *gap_ends,
            one.is_same,
        )
