import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dat.data.embedded import ArraySource, digits, in_memory
from dat.data.folders import ImageFolder, ImageSource
from dat.errors import DataError, UsageError

TEST_SPLIT = "fa277816ab13e49c4e0f4ee6fa652a2dae9c6cf472b84129efe28a2b5466f33c"


def positions(source: ArraySource) -> list[int]:
    return [int(source.name(index).removeprefix("digit-")) for index in range(len(source))]


def test_the_split_is_whole_disjoint_and_stratified() -> None:
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1347, 450)
    assert sorted(positions(train) + positions(test)) == list(range(1797))
    share = np.bincount(test.targets) / np.bincount(np.concatenate([train.targets, test.targets]))
    assert np.abs(share - 450 / 1797).max() < 0.005
    assert train.classes == tuple("0123456789")


def test_the_split_never_changes() -> None:
    written = ",".join(map(str, positions(digits("test")))).encode()
    assert hashlib.sha256(written).hexdigest() == TEST_SPLIT


def test_the_pixels_are_those_of_the_set() -> None:
    original, targets = load_digits(return_X_y=True)
    source = digits("test")
    chosen = positions(source)
    assert isinstance(source, ImageSource)
    assert source.images.shape == (450, 3, 8, 8)
    expected = np.rint(original[chosen].reshape(-1, 1, 8, 8) * 255 / 16)
    np.testing.assert_array_equal(source.images, np.broadcast_to(expected, source.images.shape))
    np.testing.assert_array_equal(source.targets, targets[chosen])
    np.testing.assert_array_equal(np.asarray(source.read(7)).transpose(2, 0, 1), source.images[7])


def test_another_size_is_a_bicubic_resize() -> None:
    small, large = digits("test"), digits("test", size=32)
    assert large.images.shape == (450, 3, 32, 32)
    resized = Image.fromarray(small.images[5, 0]).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(large.images[5, 2], np.asarray(resized))


def test_wrong_requests_for_digits() -> None:
    with pytest.raises(UsageError, match="size of 0"):
        digits("train", size=0)


def test_an_array_source_checks_its_targets() -> None:
    images = np.zeros((2, 3, 4, 4), np.uint8)
    with pytest.raises(DataError, match="2 images but 3 targets"):
        ArraySource(images, np.zeros(3, np.int64), ("a",))
    with pytest.raises(DataError, match="from 0 to 1 but there are 1 classes"):
        ArraySource(images, np.arange(2), ("a",))
    assert ArraySource(images, np.zeros(2, np.int64), ("a",)).name(1) == "1"


def test_fingerprint_sees_pixels_and_targets() -> None:
    images = np.zeros((2, 3, 4, 4), np.uint8)
    first = ArraySource(images, np.array([0, 1]), ("a", "b"))
    second = ArraySource(images, np.array([1, 0]), ("a", "b"))
    third = ArraySource(images + 1, np.array([0, 1]), ("a", "b"))
    assert len({source.fingerprint() for source in (first, second, third)}) == 3
    assert pickle.loads(pickle.dumps(first)).fingerprint() == first.fingerprint()


def folder_of(root: Path, sizes: list[tuple[int, int]]) -> ImageFolder:
    root.joinpath("a").mkdir()
    for index, size in enumerate(sizes):
        values = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / "a" / f"{index}.png")
    return ImageFolder(root)


def test_a_folder_in_memory_is_the_same_source(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [(4, 6)] * 3)
    source = in_memory(folder)
    assert (source.classes, source.name(2)) == (folder.classes, "a/2.png")
    for index in range(3):
        np.testing.assert_array_equal(np.asarray(source.read(index)), np.asarray(folder.read(index)))


def test_what_does_not_fit_in_memory_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [(4, 6)] * 3)
    assert len(in_memory(folder, limit_bytes=3 * 3 * 24)) == 3
    with pytest.raises(DataError, match="3 pictures of 6x4 need"):
        in_memory(folder, limit_bytes=3 * 3 * 24 - 1)


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a/1\.png is 4x4 but a/0\.png is 6x4"):
        in_memory(folder_of(tmp_path, [(4, 6), (4, 4)]))


def test_every_picture_is_verified(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [(4, 6)] * 3)
    (tmp_path / "a" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.png \(0 bytes"):
        in_memory(folder)
