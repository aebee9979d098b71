"""Data sets of Hugging Face's `datasets`: saved by `save_to_disk`, a folder of pictures or Parquet, or by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from dat.data.address import Address, is_saved, set_name
from dat.data.labelled import Wanted, chosen, refuse_unlabelled
from dat.data.packed import PackedPictures
from dat.errors import DataError, UsageError
from dat.installed import is_installed

PACKAGE = "datasets"
EXTRA = "discrete-adversarial-training[datasets]"
LABELS = ("label", "labels")


class Rows:
    """The pictures of a column, undecoded: our own reader does with EXIF, grey and CMYK what it does with files."""

    def __init__(self, rows: Any, column: str, called: str) -> None:
        self.rows = rows.select_columns([column]).cast_column(column, import_module(PACKAGE).Image(decode=False))
        self.column, self.called = column, called

    def name(self, position: int) -> str:
        """The set and the number of the row, counted from 0."""
        return f"{self.called}/{position}"

    def bytes_of(self, position: int) -> int:
        """How many the file of the picture holds."""
        held = self._bytes[position]
        return len(self.encoded(position)) if held is None else held

    def encoded(self, position: int) -> bytes:
        """What the file of the picture holds, from the table or from the path that it names.

        Raises:
            DataError: the row has no picture, or its file is gone.
        """
        held = self.rows[position][self.column]
        if not held or (held["bytes"] is None and not held["path"]):
            raise DataError(f"Row {position} of {self.called} has no picture; take it out of the data set.")
        try:
            return held["bytes"] if held["bytes"] is not None else Path(held["path"]).read_bytes()
        except OSError as error:
            named = f"the picture {held['path']} of row {position} of {self.called}"
            raise DataError(f"Cannot read {named} ({error.strerror}); restore it.") from error

    @cached_property
    def _bytes(self) -> list[int | None]:
        """None where a row names a file."""
        compute: Any = import_module("pyarrow.compute")
        pictures = self.rows.with_format("arrow")[:][self.column]
        return compute.binary_length(compute.struct_field(pictures, "bytes")).to_pylist()


def open_hub(address: Address, wanted: Wanted) -> PackedPictures:
    """The pictures of a split, in the order of its rows.

    Classes are those of a `ClassLabel`, in its order, or texts or whole numbers, ordered as class folders are.

    Raises:
        UsageError: datasets is not installed, or several splits or columns are there and none is named.
        DataError: it cannot be opened, a row has no class, or as for `ImageFolder`.
    """
    place = f"hf:{address.path}"
    if not is_installed(PACKAGE):
        raise UsageError(f"datasets is not installed, which {place} needs; run pip install '{EXTRA}'.")
    rows = _split(place, address, _loaded(place, address))
    package: Any = import_module(PACKAGE)
    kinds = {name: [key for key, kind in rows.features.items() if isinstance(kind, getattr(package, name))] for name in KINDS}
    image = _column(place, rows, address.options.get("image"), kinds["Image"], "image")
    classes = kinds["ClassLabel"] or [name for name in LABELS if name in rows.column_names]
    label = _column(place, rows, address.options.get("label"), classes, "label")
    store = Rows(rows, image, set_name(f"{place}::split={address.options.get('split', 'all')}"))
    names = list(map(store.name, range(len(rows))))
    labels, order = _labels(place, rows, label)
    refuse_unlabelled(place, names, labels, f"fill the column {label}")
    kept = chosen(place, names, labels, wanted, said_by=f"column {label} of {place}", order=order)
    return PackedPictures(place, store, kept)


KINDS = ("Image", "ClassLabel")


def _loaded(place: str, address: Address) -> Any:
    package: Any = import_module(PACKAGE)
    split = address.options.get("split")
    try:
        if is_saved(address.path):
            return package.load_from_disk(address.path)
        return package.load_dataset(address.path, address.options.get("config"), split=split)
    except Exception as error:  # of a dozen kinds, of the network, of files and of the package's own
        said = (str(error).splitlines() or [""])[0].rstrip(".")[:300] or type(error).__name__
        raise DataError(f"Cannot open {place} ({said}); check the name, the split and the network.") from error


def _split(place: str, address: Address, found: Any) -> Any:
    """The rows of the split that is meant."""
    split = address.options.get("split")
    if not isinstance(found, dict):
        _refuse_unheeded(place, address, found)
        return found
    there = list(found)
    if split is None and len(there) == 1:
        return found[there[0]]
    if split not in there:
        said = f"no split {split!r}" if split else "several splits"
        raise UsageError(f"{place} has {said} ({', '.join(there)}); write {place}::split={there[0]}.")
    return found[split]


def _refuse_unheeded(place: str, address: Address, found: Any) -> None:
    """Refuse the name of another split than that which `save_to_disk` wrote alone.

    Raises:
        UsageError: it is named.
    """
    split = address.options.get("split")
    if split is not None and is_saved(address.path) and split != str(found.split):
        there = "a single set" if found.split is None else f"the split {str(found.split)!r} alone"
        advice = f"leave out ::split={split}, or name another folder"
        raise UsageError(f"{place} was saved as {there}, and not as {split!r}; {advice}.")


def _column(place: str, rows: Any, named: str | None, found: Sequence[str], what: str) -> str:
    """The column that is named, or the only one that can be meant."""
    if named is not None and named in rows.column_names:
        return named
    if named is None and len(found) == 1:
        return found[0]
    said = f"no column {named!r}" if named else f"{'several columns' if found else 'no column'} that may be the {what}"
    raise UsageError(f"{place} has {said}; write {place}::{what}=COLUMN, one of {', '.join(rows.column_names)}.")


def _labels(place: str, rows: Any, column: str) -> tuple[list[str], Sequence[str]]:
    """The class of each row by name, empty where it has none, and the order that a `ClassLabel` gives."""
    values = rows.select_columns([column])[:][column]
    names = getattr(rows.features[column], "names", None)
    if names is not None:
        return ["" if value is None or value < 0 else names[value] for value in values], names
    if odd := [value for value in values if value is not None and type(value) not in (str, int)]:
        raise DataError(f"Column {column} of {place} holds {odd[0]!r:.40}; texts or whole numbers are expected.")
    return ["" if value is None else str(value).strip() for value in values], ()
