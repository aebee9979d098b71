"""Tables that name pictures: what they give, and each mistake in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dat.data import tabled
from dat.data.address import address_of, set_name
from dat.data.concatenated import Concatenated
from dat.data.folders import ImageFolder, ImageSource
from dat.data.overlap import shared_pictures
from dat.data.places import open_place
from dat.errors import DataError, UsageError

FILES = {"a.png": "dog", "deep/b.png": "cat", "deep/c.png": "dog", "d e.png": "eel"}

Write = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """Pictures of one grey value each, and tables beside them."""
    (tmp_path / "set" / "deep").mkdir(parents=True)
    for value, name in enumerate(FILES):
        Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(tmp_path / "set" / name)

    def write(lines: Sequence[str] | None = None, *, head: str = "path,label", name: str = "photos.csv") -> Path:
        lines = [f"{path},{label}" for path, label in FILES.items()] if lines is None else lines
        (tmp_path / "set" / name).write_text("\n".join([head, *lines]) + "\n")
        return tmp_path / "set" / name

    return write


def names(source: ImageSource) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def test_paths_are_relative_to_the_table_and_pictures_in_the_order_of_classes(
    table: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # not where the pictures are
    source = open_place("set/" + table().name)
    assert (source.classes, names(source)) == (("cat", "dog", "eel"), ["deep/b.png", "a.png", "deep/c.png", "d e.png"])
    assert (source.targets.tolist(), source.targets.dtype) == ([0, 1, 1, 2], np.int64)
    assert [np.asarray(source.read(index)).max() for index in range(4)] == [1, 0, 2, 3]
    assert source.size(0) == (5, 4)
    assert source.class_order == "column label of set/photos.csv, by the alphabet"


def test_the_order_of_lines_and_absolute_paths_change_nothing(table: Write) -> None:
    first = open_place(table())
    lines = [f"{table().parent / path},{label}" for path, label in reversed(FILES.items())]
    second = open_place(table(lines))
    assert (names(first), first.fingerprint()) == (names(second), second.fingerprint())
    other = open_place(table([f"{path},{label if path != 'a.png' else 'eel'}" for path, label in FILES.items()]))
    assert first.fingerprint() != other.fingerprint(), "the classes count, though no name says them"


def test_absolute_paths_elsewhere(table: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    lines = [f"{tmp_path / 'set' / path},{label}" for path, label in FILES.items()]
    (tmp_path / "elsewhere" / "t.csv").write_text("\n".join(["path,label", *lines, "../set/deep/../a2.png,cat"]))
    (tmp_path / "set" / "a2.png").write_bytes((tmp_path / "set" / "a.png").read_bytes())
    source = open_place(tmp_path / "elsewhere" / "t.csv")
    assert len(source) == 5
    assert {source.read(index).size for index in range(5)} == {(5, 4)}
    assert len(source.fingerprint()) == 64


def test_other_names_of_columns_semicolons_and_further_columns(table: Write) -> None:
    lines = [f'"{path}";7; {label} ' for path, label in FILES.items()]
    named = table(lines, head="\ufefffile;width;species", name="x.csv")
    assert names(open_place(f"{named}::path=file::label=species")) == names(open_place(table()))
    tabs = table([f"{path}\t{label}" for path, label in FILES.items()], head="path\tlabel", name="x.tsv")
    assert names(open_place(tabs)) == names(open_place(table()))


def test_numbers_are_in_the_order_of_numbers(table: Write) -> None:
    source = open_place(table([f"{path},{number}" for path, number in zip(FILES, (10, 9, 9, 100), strict=True)]))
    assert (source.classes, source.targets.tolist()) == (("9", "10", "100"), [0, 0, 1, 2])
    assert source.class_order.endswith("by number")


def test_fewer_are_drawn_as_from_folders(table: Write, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for number in range(10):
            file = tmp_path / "folders" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), number + 20 * (label == "dog"), np.uint8)).save(file)
    whole = ImageFolder(tmp_path / "folders")
    lines = [f"{name},{name.partition('/')[0]}" for name in reversed(names(whole))]
    listed = tmp_path / "folders" / "all.csv"
    listed.write_text("\n".join(["path,label", *lines]))
    for draw in ("in-proportion", "first"):
        drawn = open_place(listed, per_class=3, draw=draw)
        assert names(drawn) == names(ImageFolder(tmp_path / "folders", per_class=3, draw=draw))
        assert len(drawn) == 6


def test_a_folder_and_a_table_of_the_same_classes_are_one_set(table: Write, tmp_path: Path) -> None:
    train = open_place(table())
    for label in ("cat", "dog", "eel"):
        (tmp_path / "more" / label).mkdir(parents=True)
        Image.fromarray(np.full((4, 5, 3), 90, np.uint8)).save(tmp_path / "more" / label / "x.png")
    both = Concatenated([train, open_place(tmp_path / "more", classes=train.classes)])
    assert both.targets.tolist() == [0, 1, 1, 2, 0, 1, 2]
    some = open_place(table(["a.png,dog"], name="some.csv"), classes=train.classes, subset=True)
    assert (some.targets.tolist(), some.classes) == ([1], train.classes)
    assert [(ours.name, theirs.name) for ours, theirs in shared_pictures(train, some)] == [("a.png", "a.png")]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["a.png,dog", "b.png,cat", "c.png,cat", "x.png,cat", "y.png,cat"], r"4 pictures \(b.png, c.png, x.png, ...\) where"),
        (["deep,dog"], r"1 picture \(deep\) where there is no file; paths are relative to .*set, where the table is"),
        (["a.png,dog", "a.png,cat"], r"that the picture a.png is 'dog' and 'cat'; a picture has one class\.$"),
        (["a.png,dog", "deep/../a.png,cat"], "the picture a.png, also as deep/../a.png, is 'dog' and 'cat'"),
        (["a.png,dog", "link.png,cat"], "the picture a.png, also as link.png, is 'dog' and 'cat'"),
        (["a.png,dog", "a.png,dog"], r"names the picture a.png twice; list each picture once\.$"),
        (["a.png,", "deep/b.png,cat", "deep/c.png, "], r"2 pictures \(a.png, deep/c.png\) of .*photos.csv without a class"),
        (["a.png,dog", "deep/b.png"], r"Line 3 of .*photos.csv has 1 cells for 2 columns"),
        ([], "There are no pictures in .*photos.csv"),
        (["a.png,Dog", "deep/b.png,dog"], r"one class spelt in two ways, 'Dog' and 'dog'; write one of them"),
    ],
)
def test_mistakes_are_told_in_a_sentence(table: Write, lines: list[str], said: str) -> None:
    os.symlink("a.png", table().parent / "link.png")
    with pytest.raises(DataError, match=said) as told:
        open_place(table(lines))
    assert len(str(told.value).splitlines()) == 1


def test_mistakes_of_the_head_and_the_place(table: Write, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"has the columns file, label, and not one called path; name .*photos.csv::path=COLUMN"
    ):
        open_place(table(head="file,label"))
    with pytest.raises(DataError, match=r"not one called species; name the one that is meant: .*photos.csv::label=COLUMN"):
        open_place(f"{table()}::label=species")
    with pytest.raises(DataError, match=r"has the columns path, path, label, and not one called path"):
        open_place(table(["a.png,a.png,dog"], head="path,path,label"))
    with pytest.raises(DataError, match=r"Cannot read the table .*none.csv \(No such file or directory\)"):
        open_place(tmp_path / "none.csv")
    with pytest.raises(
        UsageError, match=r"::labels=x is not understood; what may follow .*photos.csv are ::path=..., ::label="
    ):
        open_place(f"{table()}::labels=x")
    with pytest.raises(DataError, match=r"not those of the training pictures: 1 extra \('eel'\); use pictures with the same"):
        open_place(table(), classes=("cat", "dog"))
    with pytest.raises(UsageError, match="per_class is 0"):
        open_place(table(), per_class=0)
    (tmp_path / "odd.csv").write_bytes(b"path,label\n\xff\xfe,dog\n")
    with pytest.raises(DataError, match=r"Cannot read the table .*odd.csv \("):
        open_place(tmp_path / "odd.csv")


def test_parquet_is_read_as_the_same_table_is(table: Write, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install '.[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"path": [*FILES], "label": pyarrow.array([*FILES.values()]).dictionary_encode(), "other": [0.5] * 4}
    file = tmp_path / "set" / "photos.parquet"
    parquet.write_table(pyarrow.table(columns), file)
    assert open_place(file).fingerprint() == open_place(table()).fingerprint()
    parquet.write_table(pyarrow.table({"path": [*FILES], "label": [10, 9, 9, 100]}), file)
    assert open_place(file).classes == ("9", "10", "100")
    parquet.write_table(pyarrow.table({"path": [*FILES], "label": [1.0, 2.0, 1.0, 1.0]}), file)
    with pytest.raises(DataError, match=r"Column label of .*photos.parquet holds 1.0; texts or whole numbers"):
        open_place(file)
    parquet.write_table(pyarrow.table({"path": [*FILES], "label": ["a", None, "a", "b"]}), file)
    with pytest.raises(DataError, match=r"1 picture \(deep/b.png\) of .* without a class"):
        open_place(file)
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"Cannot read the table .*photos.parquet"):
        open_place(file)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabled, "is_installed", lambda name: False)
    with pytest.raises(UsageError, match=r"pyarrow is not installed, which .*x.parquet needs; run pip install '.*\[parquet\]'"):
        open_place(tmp_path / "x.parquet")


def test_what_places_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.csv").mkdir()
    assert [address_of(place).kind for place in ("odd.csv", "x.csv", "x.CSV::label=a", "photos", "hf:a/b", "x.tar")] == [
        "folder",
        "table",
        "table",
        "folder",
        "hub",
        "shards",
    ]
    places = ["photos/art", "photos/val", "photos/val.csv", "photos/art.csv::label=x", "hf:a/cifar10::split=test"]
    assert [set_name(place) for place in places] == ["art", "photos-val", "photos-val", "art", "cifar10-test"]
    assert set_name("p/train-{000..009}.tar") == "p-train"
    assert set_name("p/cats-*.tar") == "cats"


def test_what_datasets_saved_is_no_folder_of_pictures(tmp_path: Path) -> None:
    for names in (("state.json", "dataset_info.json"), ("dataset_dict.json",)):
        saved = tmp_path / names[0]
        saved.mkdir()
        for name in names:
            (saved / name).write_text("{}")
        with pytest.raises(UsageError, match=rf"is what save_to_disk of datasets wrote, .*; write hf:{saved}\."):
            open_place(saved)
        assert address_of(f"hf:{saved}").kind == "hub"
    (tmp_path / "state.json" / "dataset_info.json").unlink()
    assert address_of(tmp_path / "state.json").kind == "folder"
