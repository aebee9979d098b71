"""A set is known by what its files hold: read once, remembered elsewhere, and never taken for what it was before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from dat.data import contents as module
from dat.data.concatenated import Concatenated
from dat.data.contents import contents
from dat.data.folders import ImageFolder, ImageSource
from dat.data.subset import Subset
from dat.data.testsets.layouts import WithoutBorder
from dat.data.testsets.listed import ListedPictures
from dat.errors import DataError
from dat.evaluation.stylized import Paintings

LONG_AGO = 10**18
NAMES = ("ant/0.bmp", "ant/1.bmp", "bee/0.bmp", "bee/1.bmp")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which remembers files however new they are."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "JUST_NOW_NS", -1)
    return tmp_path / "cache" / "dat" / "contents"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        put(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def put(path: Path, grey: int) -> None:
    """A picture of 8x8 pixels: all of one size in bytes, and of one age."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def read_by(call: Callable[[], object]) -> list[str]:
    """Names of the files that are read meanwhile."""
    with patch.object(module, "_hashed", side_effect=module._hashed) as hashed:
        call()
    return sorted(call.args[0].name for call in hashed.call_args_list)


def test_it_is_the_hash_of_the_file(photos: Path, cache: Path) -> None:
    expected = [hashlib.sha256((photos / name).read_bytes()).hexdigest() for name in NAMES]
    assert [content.split()[1] for content in contents(photos, NAMES)] == expected


SOURCES: dict[str, Callable[[Path], ImageSource | Paintings]] = {
    "folder": ImageFolder,
    "listed": lambda root: ListedPictures(root, dict.fromkeys(NAMES, 0), ("pet",)),
    "subset": lambda root: Subset(ImageFolder(root), np.arange(2)),
    "concatenated": lambda root: Concatenated([ImageFolder(root), ImageFolder(root)]),
    "without border": lambda root: WithoutBorder(ImageFolder(root), 1),
    "paintings": Paintings,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_picture_replaced_by_one_of_equal_size_and_age_is_another_set(photos: Path, cache: Path, kind: str) -> None:
    before, size = SOURCES[kind](photos).fingerprint(), (photos / NAMES[0]).stat().st_size
    assert SOURCES[kind](photos).fingerprint() == before
    put(photos / NAMES[0], 200)
    assert (photos / NAMES[0]).stat().st_size == size
    after = SOURCES[kind](photos).fingerprint()
    assert after != before
    put(photos / NAMES[0], 0)
    assert SOURCES[kind](photos).fingerprint() == before


def test_exchanged_class_folders_are_another_set(photos: Path, cache: Path) -> None:
    before = ImageFolder(photos).fingerprint()
    for old, new in (("ant", "other"), ("bee", "ant"), ("other", "bee")):
        (photos / old).rename(photos / new)
    assert ImageFolder(photos).fingerprint() != before


def test_a_file_is_read_once(photos: Path, cache: Path) -> None:
    assert len(read_by(ImageFolder(photos).fingerprint)) == 4
    assert read_by(ImageFolder(photos).fingerprint) == []
    put(photos / "bee" / "1.bmp", 77)
    assert read_by(ImageFolder(photos).fingerprint) == ["1.bmp"]
    assert [path.parent for path in cache.iterdir()] == [cache]


def test_what_was_written_just_now_is_not_remembered(photos: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JUST_NOW_NS", 10**12)
    ImageFolder(photos).fingerprint()
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "[]", '{"ant/0.bmp": 3}', '{"ant/0.bmp": [1, 2'])
def test_a_damaged_cache_only_costs_again(photos: Path, cache: Path, content: str) -> None:
    before = ImageFolder(photos).fingerprint()
    (file,) = cache.iterdir()
    file.write_text(content)
    assert ImageFolder(photos).fingerprint() == before
    assert len(json.loads(file.read_text())) == 4


def test_a_cache_that_cannot_be_written_is_no_error(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    monkeypatch.setattr(module, "JUST_NOW_NS", -1)
    found = set()
    for place in (tmp_path / "cache", tmp_path / "taken", photos):  # the last would write beside the pictures
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        found.add(ImageFolder(photos).fingerprint())
    assert len(found) == 1
    assert sorted(path.name for path in photos.iterdir()) == ["ant", "bee"]


def test_many_at_once_leave_a_whole_cache(photos: Path, cache: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: ImageFolder(photos).fingerprint(), range(8)))) == 1
    assert [file.suffix for file in cache.iterdir()] == [".json"]
    assert read_by(ImageFolder(photos).fingerprint) == []


def test_of_a_large_set_a_sample_is_read(photos: Path, cache: Path) -> None:
    source, size = ImageFolder(photos), (photos / NAMES[0]).stat().st_size
    assert source.fingerprint(most_bytes=4 * size) == source.fingerprint()
    sampled = source.fingerprint(most_bytes=2 * size)
    assert [content.split(maxsplit=1)[1] != "not read" for content in contents(photos, NAMES, most_bytes=2 * size)] == [
        True,
        False,
        False,
        True,
    ]
    put(photos / "ant" / "1.bmp", 9)  # not in the sample
    assert source.fingerprint(most_bytes=2 * size) == sampled
    put(photos / "bee" / "1.bmp", 9)
    assert source.fingerprint(most_bytes=2 * size) != sampled


def test_a_file_that_cannot_be_read_is_named(photos: Path, cache: Path) -> None:
    (photos / "ant" / "1.bmp").unlink()
    (photos / "ant" / "1.bmp").mkdir()
    with pytest.raises(DataError, match=r"ant/1\.bmp cannot be read \(Is a directory\)"):
        contents(photos, NAMES)
