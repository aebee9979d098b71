"""A batch with pictures that cannot be read: the others are there, and each file is opened once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.readable import NAMED, Readable, refuse_damaged, without_unreadable
from dat.errors import DataError


@pytest.fixture
def five(tmp_path: Path) -> ImageDataset:
    (tmp_path / "cat").mkdir()
    for index in range(5):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "cat" / f"{index}.png")
    return ImageDataset(ImageFolder(tmp_path), CenterCrop(), seed=0)


def test_every_picture_of_a_bad_batch_is_read_once(five: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat" / "2.png").write_bytes(b"no picture")
    opened: Counter[int] = Counter()
    read = five.source.read
    monkeypatch.setattr(five.source, "read", lambda index: opened.update([index]) or read(index))
    images, targets, positions = Readable(five).__getitems__([(0, index) for index in (4, 2, 0)])
    assert positions.tolist() == [4, 0]
    assert targets.tolist() == [0, 0]
    assert np.round(255 * images[:, 0, 0, 0].numpy()).tolist() == [4, 0]
    assert opened == {4: 1, 2: 1, 0: 1}


def test_pictures_that_do_not_fit_one_batch_are_an_error(five: ImageDataset, tmp_path: Path) -> None:
    Image.new("RGB", (8, 9)).save(tmp_path / "cat" / "3.png")
    with pytest.raises(DataError, match=r"0\.png is 8x8 but cat/3\.png is 8x9"):
        Readable(five).__getitems__([(0, 0), (0, 3)])


def test_what_cannot_be_read_is_left_out_counted_and_named(
    five: ImageDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert without_unreadable(five.source, allowed=1) is five.source
    (tmp_path / "cat" / "2.png").write_bytes(b"no picture")
    left = without_unreadable(five.source, allowed=1)
    assert [left.name(index) for index in range(len(left))] == [f"cat/{index}.png" for index in (0, 1, 3, 4)]
    assert "1 of 5 training pictures are left out:" in (said := capsys.readouterr().err)
    assert "cat/2.png" in said
    (tmp_path / "cat" / "4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 5 .* data\.allow_bad is 1; .*data\.allow_bad=2:\n.*2\.png.*\n.*4\.png"):
        without_unreadable(five.source, allowed=1)


def test_pictures_of_which_none_may_be_damaged_are_named_up_to_a_number(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "whole.png")
    refuse_damaged(ImageFolder(tmp_path), of="test")
    for index in range(NAMED + 1):
        (tmp_path / "cat" / f"{index:02}.png").write_bytes(b"no picture")
        with pytest.raises(DataError) as caught:
            refuse_damaged(ImageFolder(tmp_path), of="test", shown=False)
        first, *named = str(caught.value).splitlines()
        assert first == f"{index + 1} of {index + 2} test pictures cannot be read:"
        assert [f"{number:02}.png" in line for number, line in enumerate(named[:NAMED])] == [True] * min(index + 1, NAMED)
        assert named[NAMED:] == ["  ..."] * (index == NAMED)
