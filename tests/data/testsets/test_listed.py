"""Pictures whose classes stand in a list."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dat.data.folders import ImageSource
from dat.data.testsets.listed import ListedPictures, from_lines, from_table
from dat.errors import DataError

CLASSES = ("ant", "bee", "cat")


def put(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, value, value)).save(path)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Three PNG pictures that the list calls JPEG, and in another order."""
    for value, name in enumerate(("val_1", "val_2", "val_10")):
        put(tmp_path / "flat" / f"{name}.png", value)
    (tmp_path / "val.txt").write_text("val_2.JPEG 2\nval_1.JPEG 0\n\nsome/where/val_10 1\n")
    return tmp_path / "flat"


def table(root: Path, text: str) -> Path:
    (root / "labels.csv").write_text(text)
    return root / "labels.csv"


def test_a_list_of_lines_is_a_source(flat: Path) -> None:
    source = from_lines(flat, flat.parent / "val.txt", CLASSES)
    assert isinstance(source, ImageSource)
    assert [source.name(index) for index in range(len(source))] == ["val_1.png", "val_10.png", "val_2.png"]
    assert source.targets.tolist() == [0, 1, 2]
    assert source.classes == CLASSES
    assert [source.read(index).getpixel((0, 0)) for index in range(3)] == [(0, 0, 0), (2, 2, 2), (1, 1, 1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("val_1 0\nval_2 1\nval_10 2\nval_3 0\n", "1 picture is (val_3) listed but not in"),
        ("val_1 0\nval_2 1\n", "1 picture is (val_10.png) in"),
        ("val_1 0\nval_1.png 1\nval_2 1\nval_10 1\n", "a second time in line 2"),
        ("val_1 3\n", "not an index from 0 to 2"),
        ("val_1 -1\n", "not an index from 0 to 2"),
        ("val_1\n", "class index are expected"),
        ("", "is empty"),
    ],
)
def test_a_list_that_does_not_agree_is_refused(flat: Path, text: str, said: str) -> None:
    (flat.parent / "val.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        from_lines(flat, flat.parent / "val.txt", CLASSES)
    assert said in str(caught.value)


def test_an_index_beyond_imagenet_says_why(flat: Path) -> None:
    (flat.parent / "val.txt").write_text("val_1 1000\n")
    with pytest.raises(DataError, match="another order"):
        from_lines(flat, flat.parent / "val.txt", [str(index) for index in range(1000)])


def test_two_pictures_of_one_stem_are_refused(flat: Path) -> None:
    put(flat / "val_1.bmp")
    with pytest.raises(DataError, match="several pictures called val_1"):
        from_lines(flat, flat.parent / "val.txt", CLASSES)


def test_a_list_that_cannot_be_read_is_named(flat: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt"):
        from_lines(flat, flat / "gone.txt", CLASSES)


@pytest.mark.parametrize(
    "text",
    [
        "path,wnid\na/1.png,bee\nb/2.png,ant\n",
        "class_index,path\n1,a/1.png\n0,b/2.png\n",
        "imagenet_index,file,class,remark\n1,a/1.png,bee,x\n0,b/2.png,ant,\n",
    ],
)
def test_a_table_is_a_source(tmp_path: Path, text: str) -> None:
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "b" / "2.png")
    source = from_table(table(tmp_path, text), CLASSES)
    assert [source.name(index) for index in range(2)] == ["a/1.png", "b/2.png"]
    assert source.targets.tolist() == [1, 0]
    assert source.read(1).size == (4, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na/1.png,1\n", "has the columns path, label"),
        ("", "has the columns (none)"),
        ("path,wnid\na/1.png,dog\n", "'dog' in line 2"),
        ("path,wnid,class_index\na/1.png,bee,0\n", "says class 0 and bee, which is 1"),
        ("path,wnid\na/1.png,bee\na/2.png,bee\n", "1 picture is (a/2.png) listed but not in"),
    ],
)
def test_a_table_that_does_not_agree_is_refused(tmp_path: Path, text: str, said: str) -> None:
    put(tmp_path / "a" / "1.png")
    with pytest.raises(DataError) as caught:
        from_table(table(tmp_path, text), CLASSES)
    assert said in str(caught.value)


def test_the_fingerprint_sees_names_sizes_and_classes(flat: Path) -> None:
    listed = {"val_1.png": 0, "val_2.png": 2, "val_10.png": 1}
    first = ListedPictures(flat, listed, CLASSES)
    assert ListedPictures(flat, dict(reversed(listed.items())), CLASSES).fingerprint() == first.fingerprint()
    assert ListedPictures(flat, listed | {"val_2.png": 1}, CLASSES).fingerprint() != first.fingerprint()
    before = first.fingerprint()
    with (flat / "val_1.png").open("ab") as file:
        file.write(b"more")
    assert first.fingerprint() != before
    (flat / "val_1.png").unlink()
    with pytest.raises(DataError, match=r"val_1\.png is gone"):
        first.fingerprint()


@pytest.mark.shared
def test_the_imagenet_sample(shared_data: Path) -> None:
    labels = Path(__file__).resolve().parents[3] / "data" / "imagenet_sample" / "labels.csv"
    if not labels.is_file():
        pytest.skip("data/imagenet_sample is not unpacked")
    wnids = [line.split(",")[2] for line in labels.read_text().splitlines()[1:]]
    source = from_table(labels, sorted(wnids))
    assert len(source) == 1000
    assert [source.classes[target] for target in source.targets[:3]] == [Path(source.name(i)).stem for i in range(3)]
