"""Pictures in flat folders whose classes stand in a list: `val.txt` with a line per picture, or a CSV table.

Knows no data set: the names of the classes are handed in.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dat.data.folders import EXTENSIONS, PictureFiles
from dat.errors import DataError

PATH_COLUMNS = ("path", "file", "filename", "image")
NAME_COLUMNS = ("wnid", "class")
INDEX_COLUMNS = ("class_index", "imagenet_index")

Row = Mapping[str, str]


class ListedPictures(PictureFiles):
    """Pictures below `root` with the class that a list gives them, in the order of their names.

    `listed` maps names, relative to `root` with forward slashes, to positions in `classes`. The list and the disk must
    agree: all pictures of the folders that it names are in it.

    Raises:
        DataError: the list is empty, a listed picture is missing, or a picture is not listed (how many, and which).
    """

    def __init__(self, root: str | Path, listed: Mapping[str, int], classes: Sequence[str]) -> None:
        root, names = Path(root), sorted(listed)
        if not listed:
            raise DataError(f"The list of pictures of {root} is empty; a line per picture is expected.")
        there = set(_pictures(root, {str(Path(name).parent.as_posix()) for name in listed}))
        if missing := sorted(set(listed) - there):
            raise DataError(f"{_counted(missing)} listed but not in {root}; fetch what is missing, or correct the list.")
        if unlisted := sorted(there - set(listed)):
            raise DataError(f"{_counted(unlisted)} in {root} but not listed; complete the list, or take them away.")
        targets = np.array([listed[name] for name in names], dtype=np.int64)
        super().__init__(root, names, targets, tuple(classes), named_by_class=False)


def from_lines(folder: str | Path, list_file: str | Path, classes: Sequence[str]) -> ListedPictures:
    """The pictures right in `folder` with the classes of lines `name index`, as in ImageNet's and DamageNet's `val.txt`.

    A name is matched by its stem: DamageNet's pictures are PNG where the list of ImageNet says JPEG. `index` is a position
    in `classes`.

    Raises:
        DataError: a line of another form, an index beyond `classes`, a picture that is listed twice, two pictures of one
            stem, or a list that does not agree with the folder.
    """
    folder = Path(folder)
    stems = _by_stem(folder)
    listed: dict[str, int] = {}
    for number, line in enumerate(_read_text(Path(list_file)).splitlines(), start=1):
        if not line.strip():
            continue
        said, index = _split(line, f"line {number} of {list_file}", len(classes))
        name = stems.get(Path(said).stem, Path(said).name)
        _add(listed, name, index, f"line {number} of {list_file}")
    return ListedPictures(folder, listed, classes)


def from_table(table: str | Path, classes: Sequence[str]) -> ListedPictures:
    """Pictures with the classes of a CSV file; their paths are relative to it.

    Columns: the path (`path`, `file`, `filename` or `image`), and the class by its name (`wnid` or `class`) or its position
    in `classes` (`class_index` or `imagenet_index`). Where the table has both, they must agree. Others are not looked at.

    Raises:
        DataError: no such columns, a class that is not one of `classes`, or a list that does not agree with the disk.
    """
    table = Path(table)
    rows = _rows(table)
    columns = list(rows[0]) if rows else []
    path = _column(PATH_COLUMNS, columns)
    if path is None or not (set(NAME_COLUMNS + INDEX_COLUMNS) & set(columns)):
        wanted = f"one of {', '.join(PATH_COLUMNS)} and one of {', '.join(NAME_COLUMNS + INDEX_COLUMNS)}"
        raise DataError(f"{table} has the columns {', '.join(columns) or '(none)'}; {wanted} are expected.")
    positions = {name: position for position, name in enumerate(classes)}
    listed: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        where = f"line {number} of {table}"
        _add(listed, Path(row[path] or "").as_posix(), _class_of(row, columns, positions, where), where)
    return ListedPictures(table.parent, listed, classes)


def names_of_classes(table: str | Path) -> set[str]:
    """The names of classes that a CSV file mentions; none where it has no column for them.

    Raises:
        DataError: it cannot be read.
    """
    return {row[column] or "" for row in _rows(Path(table)) for column in NAME_COLUMNS if column in row}


def _class_of(row: Row, columns: Sequence[str], positions: Mapping[str, int], where: str) -> int:
    name, index = _column(NAME_COLUMNS, columns), _column(INDEX_COLUMNS, columns)
    if name is None:
        return _position(row[index or ""], len(positions), where)
    if row[name] not in positions:
        raise DataError(f"Class {row[name]!r} in {where} is not one of the {len(positions)} classes that are known here.")
    if index is not None and _position(row[index], len(positions), where) != positions[row[name]]:
        raise DataError(f"{where.capitalize()} says class {row[index]} and {row[name]}, which is {positions[row[name]]}.")
    return positions[row[name]]


def _split(line: str, where: str, count: int) -> tuple[str, int]:
    parts = line.rsplit(maxsplit=1)
    if len(parts) != 2:
        raise DataError(f"{where.capitalize()} is {line.strip()!r}; the name of a picture and its class index are expected.")
    return parts[0].strip(), _position(parts[1], count, where)


def _position(text: str, count: int, where: str) -> int:
    digits = text.lstrip("0") or text[:1]  # Python reads no number of thousands of digits
    if not (text.isascii() and text.isdigit() and len(digits) <= len(str(count)) and int(digits) < count):
        advice = "ImageNet's development kit counts from 1 in another order" if count == 1000 else "count from 0"
        raise DataError(f"Class {text!r} in {where} is not an index from 0 to {count - 1}; {advice}.")
    return int(digits)


def _add(listed: dict[str, int], name: str, index: int, where: str) -> None:
    if name in listed:
        raise DataError(f"{name} is listed a second time in {where}; list each picture once.")
    listed[name] = index


def _column(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)


def _by_stem(folder: Path) -> dict[str, str]:
    names = _pictures(folder, {"."})
    counts = Counter(Path(name).stem for name in names)
    if doubled := sorted(stem for stem, count in counts.items() if count > 1):
        raise DataError(f"There are several pictures called {doubled[0]} in {folder}; keep the one that is meant.")
    return {Path(name).stem: name for name in names}


def _pictures(root: Path, folders: Iterable[str]) -> list[str]:
    """Names, relative to `root`, of the visible pictures right in its `folders`; none of a folder that is not there."""
    found = []
    for folder in sorted(folders):
        place = root / folder
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            if entry.suffix.lower() in EXTENSIONS and not entry.name.startswith("."):
                found.append((Path(folder) / entry.name).as_posix())
    return found


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(_read_text(table).splitlines()))
    except csv.Error as error:
        raise DataError(f"{table} is no CSV table ({error}); write a line of columns and a line per picture.") from error
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(f"Line {number} of {table} has not as many cells as there are columns; write one for each.")
    return rows


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets begin their tables with a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text"
        raise DataError(f"Cannot read the list {path} ({reason}); a text file is expected.") from error


def _counted(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {'picture is' if len(names) == 1 else 'pictures are'} ({shown})"
