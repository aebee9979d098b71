"""Where labelled pictures are, as one text says: class folders, a table, shards, or a data set of Hugging Face.

Opens nothing. What stands after `::` says more: `photos.csv::path=file::label=species`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dat.errors import UsageError

TABLES = (".csv", ".tsv", ".parquet")
SHARDS = (".tar", ".tar.gz", ".tgz")
HUB = "hf:"
MORE = "::"

Kind = Literal["folder", "table", "shards", "hub"]
SPLITS = ("train", "val", "valid", "validation", "test", "images")
"""Names of folders that say which part of a set they hold, and not of which set."""
SAVED = (("state.json", "dataset_info.json"), ("dataset_dict.json",))
"""Files that `save_to_disk` leaves: of a single split, and of several."""
OPTIONS: Mapping[Kind, tuple[str, ...]] = {
    "folder": (),
    "table": ("path", "label"),
    "shards": ("label",),
    "hub": ("config", "split", "image", "label"),
}
"""What may stand after `::`."""


@dataclass(frozen=True)
class Address:
    """A place of labelled pictures: of which kind, its path (or name, without `hf:`), and what more was said of it."""

    kind: Kind
    path: str
    options: Mapping[str, str]


def address_of(place: str | Path) -> Address:
    """What a text stands for; a folder that is there is a folder, whatever it is called.

    Raises:
        UsageError: what stands after `::` is no setting of such a place, or stands twice, or the folder is what `save_to_disk`
            of Hugging Face's datasets wrote.
    """
    text = os.fspath(place)
    path, *more = text.split(MORE)
    kind = "folder" if os.path.isdir(text) else _kind(path)
    if kind == "folder":
        if is_saved(text):
            raise UsageError(f"{text} is what save_to_disk of datasets wrote, and no folder of pictures; write {HUB}{text}.")
        return Address(kind, text, {})
    options: dict[str, str] = {}
    for said in more:
        key, _, value = said.partition("=")
        if key not in OPTIONS[kind] or not value or key in options:
            known = ", ".join(f"{MORE}{name}=..." for name in OPTIONS[kind])
            raise UsageError(f"{text}: {MORE}{said} is not understood; what may follow {path} are {known}, each once.")
        options[key] = value
    return Address(kind, path.removeprefix(HUB), options)


def is_saved(folder: str) -> bool:
    """Whether `save_to_disk` of Hugging Face's datasets wrote it: a single split, or several."""
    return any(all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in SAVED)


def set_name(place: str | Path) -> str:
    """What the pictures of a place are called in results: as the folder is, with the one above where it is a mere `val`.

    Tables and shards are called as they are without suffix and numbers, data sets of Hugging Face with their split.
    """
    address = address_of(place)
    if address.kind == "hub":
        return "-".join([Path(address.path).name, *filter(None, [address.options.get("split")])])
    folder = Path(os.path.abspath(address.path))  # links keep their own names
    name = folder.name if address.kind == "folder" else _stem(folder.name)
    is_split = name.lower() in SPLITS and folder.parent.name
    return f"{folder.parent.name}-{name}" if is_split else name


def _kind(path: str) -> Kind:
    if path.startswith(HUB):
        return "hub"
    if path.lower().endswith(TABLES):
        return "table"
    return "shards" if path.lower().endswith(SHARDS) else "folder"


def _stem(name: str) -> str:
    """`train-{000..009}.tar` is `train`."""
    stem = name.split("{")[0].split("*")[0]
    return (stem if stem != name else name.split(".")[0]).rstrip("-_.") or name.split(".")[0] or name
