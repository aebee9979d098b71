import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dat.data.draw import drawn
from dat.data.folders import ImageFolder, ImageSource
from dat.errors import DataError, UsageError


def put(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(path, "PNG")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for index, name in enumerate(["cat/a.png", "cat/b.PNG", "cat/deep/er/c.png", "dog/x.jpg", "dog/y.tiff", "eel/z.webp"]):
        put(root / name, index)
    return root


def test_a_folder_is_a_source(pets: Path) -> None:
    folder = ImageFolder(pets)
    assert isinstance(folder, ImageSource)
    assert folder.classes == ("cat", "dog", "eel")
    assert folder.targets.tolist() == [0, 0, 0, 1, 1, 2]
    assert folder.targets.dtype == np.int64
    names = [folder.name(index) for index in range(len(folder))]
    assert names == ["cat/a.png", "cat/b.PNG", "cat/deep/er/c.png", "dog/x.jpg", "dog/y.tiff", "eel/z.webp"]
    assert [np.asarray(folder.read(index)).max() for index in range(len(folder))] == list(range(6))


def test_stray_files_are_left_out(pets: Path) -> None:
    before = ImageFolder(pets)
    for stray in ["readme.txt", ".DS_Store", "loose.png", "cat/.DS_Store", "cat/._a.png", "cat/notes.txt", ".git/x.png"]:
        put(pets / stray)
    after = ImageFolder(pets)
    assert after.classes == before.classes
    assert after.fingerprint() == before.fingerprint()


def test_numeric_folders_are_in_numeric_order(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path / str(number) / "x.png", number)
    folder = ImageFolder(tmp_path)
    assert folder.classes == tuple(map(str, range(12)))
    assert [np.asarray(folder.read(index)).max() for index in range(12)] == folder.targets.tolist()


def test_copies_of_a_set_share_its_names(pets: Path) -> None:
    first, second = ImageFolder(pets), ImageFolder(pets)
    assert all(first.name(index) is second.name(index) for index in range(len(first)))


def test_fewer_pictures_are_those_that_are_drawn(pets: Path) -> None:
    whole, folder = ImageFolder(pets), ImageFolder(pets, per_class=1)
    chosen = drawn([whole.name(index) for index in range(len(whole))], whole.targets, 1)
    assert [folder.name(index) for index in range(len(folder))] == [whole.name(index) for index in chosen.tolist()]
    assert folder.targets.tolist() == [0, 1, 2]
    assert folder.fingerprint() != whole.fingerprint()
    assert len(ImageFolder(pets, per_class=100)) == len(whole)


def test_older_versions_kept_the_first_of_each_class(pets: Path) -> None:
    folder = ImageFolder(pets, per_class=2, draw="first")
    assert [folder.name(index) for index in range(len(folder))] == [
        "cat/a.png", "cat/b.PNG", "dog/x.jpg", "dog/y.tiff", "eel/z.webp",
    ]  # fmt: skip
    assert folder.targets.tolist() == [0, 0, 1, 1, 2]
    with pytest.raises(UsageError, match="per_class is 0"):
        ImageFolder(pets, per_class=0)


@pytest.mark.parametrize("name", ["with space.png", "ünïcödé-图.png", "new\nline.png", "percent%20.png", "-dash.png"])
def test_odd_names(name: str, tmp_path: Path) -> None:
    put(tmp_path / "a class\nor two" / name, 9)
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("a class\nor two",)
    assert np.asarray(folder.read(0)).max() == 9
    assert len(folder.fingerprint()) == 64


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    put(tmp_path / "class" / os.fsdecode(b"\xff\xfe.png"), 5)
    folder = ImageFolder(tmp_path)
    assert np.asarray(folder.read(0)).max() == 5
    assert len(folder.fingerprint()) == 64


def test_links_are_followed_but_not_in_circles(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "cat").symlink_to(pets / "cat", target_is_directory=True)
    put(root / "dog" / "x.png")
    (root / "dog" / "again").symlink_to(root / "dog", target_is_directory=True)
    (root / "dog" / "y.png").symlink_to(pets / "dog" / "x.jpg")
    folder = ImageFolder(root)
    assert [folder.name(index) for index in range(len(folder))] == [
        "cat/a.png", "cat/b.PNG", "cat/deep/er/c.png", "dog/x.png", "dog/y.png",
    ]  # fmt: skip
    assert np.asarray(folder.read(4)).max() == 3


def test_a_broken_link_is_named(pets: Path) -> None:
    (pets / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
    folder = ImageFolder(pets)
    with pytest.raises(DataError, match=r"gone\.png"):
        folder.fingerprint()
    with pytest.raises(DataError, match=r"gone\.png \(no such file\)"):
        folder.read([folder.name(index) for index in range(len(folder))].index("cat/gone.png"))


def test_missing_and_empty_folders_are_named(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent \(No such file"):
        ImageFolder(tmp_path / "absent")
    with pytest.raises(DataError, match=r"x\.jpg \(Not a directory"):
        ImageFolder(pets / "dog" / "x.jpg")
    with pytest.raises(DataError, match=r"no class folders in .*eel"):
        ImageFolder(pets / "eel")
    (pets / "fox").mkdir()
    with pytest.raises(DataError, match="fox holds no files"):
        ImageFolder(pets)
    (pets / "fox" / "x.txt").write_text("x")
    with pytest.raises(DataError, match="fox holds nothing but files of other kinds"):
        ImageFolder(pets)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (["cat", "dog", "eel", "fox"], r"1 missing \('fox'\)"),
        (["cat", "dog"], r"1 extra \('eel'\)"),
        (["cat", "dog", "fox"], r"1 missing \('fox'\), 1 extra \('eel'\)"),
        (["cat", "eel", "dog"], "permuted: class 1 is 'dog' in the folder and 'eel' in training"),
        ([], r"3 extra \('cat', 'dog', 'eel'\)"),
    ],
)
def test_other_classes_than_the_checkpoint(pets: Path, expected: list[str], said: str) -> None:
    assert len(ImageFolder(pets, classes=["cat", "dog", "eel"])) == 6
    with pytest.raises(DataError, match=said):
        ImageFolder(pets, classes=expected)


def test_fingerprint_sees_names_and_sizes(pets: Path) -> None:
    first = ImageFolder(pets).fingerprint()
    assert first == ImageFolder(str(pets) + "/").fingerprint()
    with (pets / "cat" / "a.png").open("ab") as file:
        file.write(b"more")
    second = ImageFolder(pets).fingerprint()
    (pets / "cat" / "a.png").rename(pets / "cat" / "aa.png")
    assert len({first, second, ImageFolder(pets).fingerprint()}) == 3


def test_nothing_is_written_into_the_data_folder(pets: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        return sorted((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in [pets, *pets.rglob("*")])

    before = state()
    folder = ImageFolder(pets)
    folder.fingerprint()
    for index in range(len(folder)):
        folder.read(index)
    assert state() == before
