"""Data sets of Hugging Face give what the same files give as class folders. Nothing is fetched."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dat.data import hub
from dat.data.folders import ImageFolder
from dat.data.images import decode
from dat.data.overlap import shared_pictures
from dat.data.places import open_place
from dat.errors import DataError, UsageError

datasets: Any = pytest.importorskip("datasets", reason="pip install '.[datasets]'")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures that readers treat in different ways: with an EXIF orientation, in CMYK, in grey of 16 bits, in colour."""
    folder = tmp_path / "files"
    folder.mkdir()
    draws = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draws[0]).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(draws[1]).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(draws[2, :, :, 0].astype(np.uint16) * 256).save(folder / "grey.png")
    Image.fromarray(draws[3]).save(folder / "plain.png")
    return [folder / name for name in ("turned.jpg", "cmyk.jpg", "grey.png", "plain.png")]


def made(files: list[Path], labels: list[Any], kind: Any, *, image: str = "image", label: str = "label") -> Any:
    pictures = [{"bytes": file.read_bytes(), "path": None} for file in files]
    kinds = datasets.Features({image: datasets.Image(), label: kind})
    return datasets.Dataset.from_dict({image: pictures, label: labels}, features=kinds)


def saved(folder: Path, rows: Any) -> str:
    rows.save_to_disk(str(folder))
    return f"hf:{folder}"


def test_pictures_are_those_of_the_files(files: list[Path], tmp_path: Path) -> None:
    place = saved(tmp_path / "one", made(files, [1, 0, 1, 1], datasets.ClassLabel(names=["fox", "cat"])))
    source = open_place(place)
    assert (source.classes, source.targets.tolist()) == (("fox", "cat"), [1, 0, 1, 1])
    assert source.class_order == f"column label of {place}, in its order"
    for index, file in enumerate(files):
        assert np.array_equal(np.asarray(source.read(index)), np.asarray(decode(file))), file.name
        assert source.size(index) == (8, 6)
    assert source.name(2) == "one-all/2"
    cat = open_place(place, classes=("cat", "fox"))  # of a model that has them in another order
    assert cat.targets.tolist() == [0, 1, 0, 0]
    drawn = open_place(place, per_class=1)
    assert (len(drawn), set(drawn.targets.tolist())) == (2, {0, 1})


def test_fingerprints_and_leftovers_are_of_what_the_files_hold(files: list[Path], tmp_path: Path) -> None:
    kind = datasets.ClassLabel(names=["a", "b"])
    first = open_place(saved(tmp_path / "x" / "s", made(files, [0, 1, 0, 1], kind)))
    again = open_place(saved(tmp_path / "y" / "s", made(files, [0, 1, 0, 1], kind)))
    other = open_place(saved(tmp_path / "z" / "s", made(files, [0, 1, 1, 0], kind)))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    (tmp_path / "f" / "a").mkdir(parents=True)
    (tmp_path / "f" / "a" / "x.png").write_bytes(files[2].read_bytes())
    ((ours, theirs),) = shared_pictures(ImageFolder(tmp_path / "f"), first)
    assert (str(ours.path), str(theirs.path)) == (f"hf:{tmp_path}/x/s: s-all/2", f"{tmp_path}/f/a/x.png")


def test_splits_and_columns_are_found_or_named(files: list[Path], tmp_path: Path) -> None:
    rows = made(files, ["10", "9", "9", "9"], datasets.Value("string"), image="img", label="fine")
    place = saved(tmp_path / "two", datasets.DatasetDict({"train": rows, "test": rows.select([3, 0])}))
    with pytest.raises(UsageError, match=r"several splits \(train, test\); write .*two::split=train\.$"):
        open_place(place)
    with pytest.raises(UsageError, match=r"no split 'val' \(train, test\)"):
        open_place(f"{place}::split=val")
    with pytest.raises(UsageError, match=r"no column that may be the label; write .*::label=COLUMN, one of img, fine\.$"):
        open_place(f"{place}::split=test")
    with pytest.raises(UsageError, match=r"no column 'picture'; write .*::image=COLUMN"):
        open_place(f"{place}::split=test::image=picture::label=fine")
    test = open_place(f"{place}::split=test::label=fine")
    assert (test.classes, test.targets.tolist(), test.name(0)) == (("9", "10"), [0, 1], "two-test/0")
    assert np.array_equal(np.asarray(test.read(0)), np.asarray(decode(files[3]))), "rows that were selected"
    assert test.fingerprint() != open_place(f"{place}::split=train::label=fine").fingerprint()


def test_a_split_that_was_not_saved_is_refused(files: list[Path], tmp_path: Path) -> None:
    rows = made(files, [0, 1, 1, 0], datasets.ClassLabel(names=["cat", "dog"]))
    whole = saved(tmp_path / "whole", rows)
    with pytest.raises(UsageError, match=r"whole was saved as a single set, and not as 'val'; leave out ::split=val, or name"):
        open_place(f"{whole}::split=val")
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    train = datasets.load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train")
    alone = saved(tmp_path / "alone", train)
    assert len(open_place(f"{alone}::split=train")) == 4
    with pytest.raises(UsageError, match=r"alone was saved as the split 'train' alone, and not as 'val'"):
        open_place(f"{alone}::split=val")


def test_a_folder_of_pictures_and_one_of_parquet(files: list[Path], tmp_path: Path) -> None:
    for number, (label, file) in enumerate(zip(("cat", "dog", "dog", "cat"), files, strict=True)):
        (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / label / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    source, folder = open_place(f"hf:{tmp_path / 'folder'}"), ImageFolder(tmp_path / "folder")
    assert source.classes == ("cat", "dog")
    sizes = sorted(len(file.read_bytes()) for file in files)
    assert sorted(source.bytes_of(index) for index in range(4)) == sizes  # type: ignore[union-attr]
    assert len(shared_pictures(folder, source)) == 4
    (tmp_path / "p").mkdir()
    made(files, [0, 1, 1, 0], datasets.ClassLabel(names=["cat", "dog"])).to_parquet(str(tmp_path / "p" / "train.parquet"))
    packed = open_place(f"hf:{tmp_path / 'p'}")
    assert [np.asarray(packed.read(index)).tolist() for index in range(4)] == [
        np.asarray(decode(file)).tolist() for file in files
    ]


@pytest.mark.parametrize(
    ("labels", "kind", "said"),
    [
        ([0, -1, 0, None], ("a", "b"), r"2 pictures \(odd-all/1, odd-all/3\) of hf:.*odd without a class"),
        ([0, 0, 0, 0], ("a", "b"), r"Class 'b' of the column label of hf:.*odd has no pictures"),
        ([0.5, 0.5, 1.0, 1.0], None, r"Column label of hf:.*odd holds 0.5; texts or whole numbers"),
    ],
)
def test_bad_labels_are_told(files: list[Path], tmp_path: Path, labels: list[Any], kind: Any, said: str) -> None:
    feature = datasets.ClassLabel(names=list(kind)) if kind else datasets.Value("float32")
    with pytest.raises(DataError, match=said):
        open_place(saved(tmp_path / "odd", made(files, labels, feature)))


def test_rows_without_a_picture_and_damaged_ones(files: list[Path], tmp_path: Path) -> None:
    stream = BytesIO(files[3].read_bytes()[:60])
    pictures = [{"bytes": stream.getvalue(), "path": None}, None]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": ["a"] * 2}, features=kinds)
    source = open_place(saved(tmp_path / "bad", rows))
    for index, said in enumerate([r"hf:.*bad: bad-all/0 \(60 bytes\)", "Row 1 of bad-all has no picture"]):
        with pytest.raises(DataError, match=said):
            source.read(index)
    for label in ("a", "b"):
        (tmp_path / "named" / label).mkdir(parents=True)
        (tmp_path / "named" / label / "x.png").write_bytes(files[3].read_bytes())
    named = open_place(f"hf:{tmp_path / 'named'}")
    (tmp_path / "named" / "b" / "x.png").unlink()
    with pytest.raises(DataError, match=r"Cannot read the picture .*b/x.png of row 1 of named-all \(No such file"):
        named.read(1)


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*words: object, **more: object) -> None:
        raise ConnectionError("Couldn't reach 'who/what' on the Hub (OfflineModeIsEnabled)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"Cannot open hf:who/what \(Couldn't reach 'who/what' .*\); check the name, the split"):
        open_place("hf:who/what::split=test")
    monkeypatch.setattr(hub, "is_installed", lambda name: False)
    with pytest.raises(
        UsageError, match=r"datasets is not installed, which hf:who/what needs; run pip install '.*\[datasets\]'"
    ):
        open_place("hf:who/what")
