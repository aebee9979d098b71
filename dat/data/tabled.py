"""Pictures that a table names: CSV or Parquet with a path and a class in each line, paths relative to the table."""

from __future__ import annotations

import csv
import stat
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dat.data.address import Address
from dat.data.folders import PictureFiles, in_order
from dat.data.labelled import Wanted, chosen, counted, refuse_unlabelled
from dat.errors import DataError, UsageError
from dat.installed import is_installed

PACKAGE = "pyarrow"
EXTRA = "discrete-adversarial-training[parquet]"
COLUMNS = {"path": "path", "label": "label"}
"""What the columns are called where nobody says otherwise."""
DELIMITERS = ",;\t"
"""Spreadsheets write `;` where the comma is the decimal point."""


class TabledPictures(PictureFiles):
    """Pictures with the classes that a table gives them, by class and name. Its other columns are not looked at.

    Paths are relative to the folder of the table, or absolute; those below that folder are named relative to it.

    Raises:
        DataError: the table cannot be read or lacks a column, a path leads to no file (how many, and the first three), a line
            has no class, a picture stands in it twice, or as for `ImageFolder`.
        UsageError: it is a Parquet file, and pyarrow is not installed.
    """

    def __init__(self, address: Address, wanted: Wanted) -> None:
        table = Path(address.path)
        path, label = ({**COLUMNS, **address.options}[key] for key in ("path", "label"))
        rows = _parquet(table, path, label) if table.suffix.lower() == ".parquet" else _csv(table, path, label)
        names = [_relative(name, table.parent) for name, _ in rows]
        refuse_unlabelled(str(table), names, [category for _, category in rows], f"fill its column {label}")
        labels = [category for _, category in rows]
        _refuse_repeated(table, names, labels)
        ranks = {name: rank for rank, name in enumerate(in_order(set(labels)))}
        order = sorted(range(len(rows)), key=lambda number: (ranks[labels[number]], names[number]))
        names, labels = [names[number] for number in order], [labels[number] for number in order]
        kept = chosen(str(table), names, labels, wanted, said_by=f"column {label} of {table}")
        files = [names[position] for position in kept.positions.tolist()]
        how: Any = {"named_by_class": False, "class_order": kept.class_order}
        super().__init__(table.parent, files, kept.targets, kept.classes, **how)


def _relative(name: str, folder: Path) -> str:
    """A path as it is used below the folder; an absolute one that leads there is shortened, so that the set can be moved."""
    path = Path(name)
    whole = folder.absolute()
    return (path.relative_to(whole) if path.is_absolute() and path.is_relative_to(whole) else path).as_posix()


def _refuse_repeated(table: Path, names: Sequence[str], labels: Sequence[str]) -> None:
    """Refuse paths without a file, and files that stand in the table twice, perhaps by another path or a link."""
    missing: list[str] = []
    met: dict[tuple[int, int], int] = {}
    for number, name in enumerate(names):
        if (file := _identity(table.parent / name)) is None:
            missing.append(name)
        elif (first := met.setdefault(file, number)) != number:
            raise DataError(_twice(table, *((names[place], labels[place]) for place in (first, number))))
    if missing:
        advice = f"paths are relative to {table.parent}, where the table is, or absolute"
        raise DataError(f"{table} names {counted(missing)} where there is no file; {advice}.")


def _twice(table: Path, first: tuple[str, str], second: tuple[str, str]) -> str:
    (name, label), (other, category) = first, second
    also = "" if name == other else f", also as {other},"
    if label == category:
        return f"{table} names the picture {name} twice{also.rstrip(',')}; list each picture once."
    return f"{table} says that the picture {name}{also} is {label!r} and {category!r}; a picture has one class."


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever the path; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _csv(table: Path, path: str, label: str) -> list[tuple[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")  # spreadsheets begin their tables with a byte-order mark
        head = text.partition("\n")[0]
        delimiter = max(DELIMITERS, key=head.count)
        columns, *lines = [*csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(table, error) from error
    columns = [column.strip() for column in columns]
    _require_columns(table, columns, (path, label))
    for number, line in enumerate(lines, start=2):
        if line and len(line) != len(columns):
            raise DataError(f"Line {number} of {table} has {len(line)} cells for {len(columns)} columns; write one for each.")
    places = columns.index(path), columns.index(label)
    return [(line[places[0]].strip(), line[places[1]].strip()) for line in lines if line]


def _parquet(table: Path, path: str, label: str) -> list[tuple[str, str]]:
    if not is_installed(PACKAGE):
        raise UsageError(f"pyarrow is not installed, which {table} needs; run pip install '{EXTRA}', or write a CSV file.")
    parquet: Any = import_module(f"{PACKAGE}.parquet")
    try:
        _require_columns(table, parquet.read_schema(table).names, (path, label))
        read = parquet.read_table(table, columns=[path, label])
        paths, labels = (read.column(name).to_pylist() for name in (path, label))
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise _unreadable(table, error) from error
    return [(_text(table, path, name), _text(table, label, category)) for name, category in zip(paths, labels, strict=True)]


def _text(table: Path, column: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"Column {column} of {table} holds {value!r:.40}; texts or whole numbers are expected.")
    return str(value).strip()


def _require_columns(table: Path, columns: Sequence[str], wanted: Iterable[str]) -> None:
    for name, default in zip(wanted, COLUMNS, strict=True):
        if columns.count(name) != 1:
            there = f"the columns {', '.join(columns) or '(none)'}"
            advice = f"name the one that is meant: {table}::{default}=COLUMN" if columns else "its first line names them"
            raise DataError(f"{table} has {there}, and not one called {name}; {advice}.")


def _unreadable(table: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataError(f"Cannot read the table {table} ({reason}); write a line of columns, and a line for each picture.")
