import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from dat.data.corruptions.frost import ORIGINAL_NAMES, frost_textures, textures_sha256
from dat.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(ORIGINAL_NAMES, start=1):
        Image.new("RGB", (10 + number, 9), (number, 0, 0)).save(tmp_path / name)
    return tmp_path


def test_textures_come_in_the_order_of_the_original(folder: Path) -> None:
    textures = frost_textures(folder)
    assert [tuple(texture.shape) for texture in textures] == [(9, 10 + number, 3) for number in range(1, 7)]
    assert {texture.dtype for texture in textures} == {torch.uint8}
    assert [int(texture[0, 0, 0]) for texture in textures[:3]] == [1, 2, 3]


def test_the_hash_is_that_of_pixels_and_order(folder: Path) -> None:
    textures = frost_textures(folder)
    before = textures_sha256(textures)
    assert before == textures_sha256(frost_textures(folder))
    assert before != textures_sha256(textures[::-1])
    Image.fromarray(textures[0].numpy()).save(folder / "frost1.png", compress_level=0)
    assert before == textures_sha256(frost_textures(folder))
    Image.new("RGB", (11, 9), (1, 1, 0)).save(folder / "frost1.png")
    assert before != textures_sha256(frost_textures(folder))


def test_a_texture_may_be_of_another_kind_but_is_there_once(folder: Path) -> None:
    (folder / "frost4.jpg").unlink()
    with pytest.raises(DataError, match=r"frost4\.jpg is expected in .*nothing of that name"):
        frost_textures(folder)
    Image.new("RGB", (7, 7)).save(folder / "frost4.png")
    assert frost_textures(folder)[3].shape == (7, 7, 3)
    Image.new("RGB", (7, 7)).save(folder / "frost4.bmp")
    with pytest.raises(DataError, match=r"frost4\.png and frost4\.bmp"):
        frost_textures(folder)


def test_a_broken_texture_is_named(folder: Path) -> None:
    (folder / "frost6.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"frost6\.jpg"):
        frost_textures(folder)


@pytest.mark.shared
def test_the_original_six_are_found(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "imagenet_c_frost.zip") as archive:
        archive.extractall(tmp_path)
    textures = frost_textures(tmp_path)
    assert [tuple(texture.shape[:2]) for texture in textures[:5]] == [
        (600, 900),
        (315, 560),
        (315, 560),
        (350, 527),
        (495, 660),
    ]
