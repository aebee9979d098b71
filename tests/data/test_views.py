"""Two views of a picture, a function of (seed, epoch, picture) whoever fetches them, and flat folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from dat.data.embedded import ArraySource
from dat.data.folders import PictureFolder
from dat.data.pipeline import CropFlip, ImageDataset, ImageNet, TrainingOrder, Transform, training_batches
from dat.data.views import TwoViews
from dat.errors import DataError, UsageError

SIMCLR = ImageNet(16, scale=(0.2, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), jitter=0.8, grey=0.2, blur=0.5)


def source(count: int = 8) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    return ArraySource(images, np.zeros(count, np.int64), ("any",))


@pytest.mark.parametrize("transform", [SIMCLR, CropFlip(padding=2)])
def test_views_follow_from_seed_epoch_and_picture_alone(transform: Transform) -> None:
    dataset = TwoViews(source(), transform, seed=3)
    keys = [(epoch, position) for epoch in (0, 1) for position in range(4)]
    first, second, positions = dataset.__getitems__(keys)
    assert positions.tolist() == [0, 1, 2, 3] * 2
    assert first.shape == second.shape == (8, 3, 16, 16)
    for row, key in reversed(list(enumerate(keys))):
        alone = dataset.__getitems__([key])
        assert torch.equal(alone[0][0], first[row])
        assert torch.equal(alone[1][0], second[row])
    assert torch.equal(first, ImageDataset(source(), transform, seed=3).__getitems__(keys)[0])
    views = torch.cat([first, second]).flatten(1)
    assert len(views.unique(dim=0)) >= 12
    other = TwoViews(source(), transform, seed=4).__getitems__(keys)
    assert not torch.equal(other[0], first)
    assert not torch.equal(other[1], second)


def test_workers_change_nothing() -> None:
    dataset, order = TwoViews(source(), SIMCLR, seed=0), TrainingOrder(8, batch_size=4)
    before = torch.get_rng_state()
    alone, by_two = (list(training_batches(dataset, order, epoch=1, workers=workers)) for workers in (0, 2))
    for here, there in zip(alone, by_two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("transform", [SIMCLR, CropFlip(padding=2)])
def test_a_picture_is_read_once_for_both_views_and_few_are_held(
    transform: Transform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = source(20)
    for index in range(20):
        held.read(index).save(tmp_path / f"{index:02}.png")
    keys = [(0, index) for index in range(20)]
    expected, read = TwoViews(held, transform, seed=0).__getitems__(keys), list[int]()
    of_file = PictureFolder.read
    monkeypatch.setattr(PictureFolder, "read", lambda folder, index: read.append(index) or of_file(folder, index))
    dataset = TwoViews(PictureFolder(tmp_path), transform, seed=0)
    for _ in range(2):
        assert all(torch.equal(here, there) for here, there in zip(dataset.__getitems__(keys), expected, strict=True))
    assert read == [*range(20)] * 2


def test_pictures_of_other_sizes_are_refused_by_name(tmp_path: Path) -> None:
    for side in (8, 9):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    with pytest.raises(DataError, match=r"8\.png is 8x8 but 9\.png is 9x9"):
        TwoViews(PictureFolder(tmp_path), CropFlip(padding=1), seed=0).__getitems__([(0, 0), (0, 1)])


def test_simclrs_augmentation_jitters_greys_and_blurs() -> None:
    keys = [(epoch, position) for epoch in range(20) for position in range(8)]
    whole: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "interpolation": "bilinear"}

    def shown(**settings: Any) -> torch.Tensor:
        return ImageDataset(source(), ImageNet(16, **whole, color_jitter=0.0, **settings), seed=0).__getitems__(keys)[0]

    plain, grey, blurred = shown(), shown(grey=0.3), shown(blur=0.5)
    is_grey = (grey[:, 0] == grey[:, 2]).flatten(1).all(dim=1)
    assert 0.15 < is_grey.float().mean() < 0.45
    assert 0.35 < (blurred != plain).flatten(1).any(dim=1).float().mean() < 0.65
    for name in ("grey", "blur", "jitter"):
        with pytest.raises(UsageError, match=rf"{name} is 1\.5; write a probability"):
            ImageNet(16, **cast(Any, {name: 1.5}))


def test_a_flat_folder_and_one_of_folders_are_pictures(tmp_path: Path) -> None:
    (tmp_path / "deeper" / "still").mkdir(parents=True)
    for number, name in enumerate(["b.png", "a.png", "deeper/c.png", "deeper/still/d.png"]):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"")
    found = PictureFolder(tmp_path)
    assert [found.name(index) for index in range(len(found))] == ["a.png", "b.png", "deeper/c.png", "deeper/still/d.png"]
    assert np.asarray(found.read(2))[0, 0].tolist() == [2, 0, 0]
    assert found.targets.tolist() == [0] * 4
    before = found.fingerprint()
    Image.new("RGB", (4, 4), (9, 0, 0)).save(tmp_path / "e.png")
    assert PictureFolder(tmp_path).fingerprint() != before


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There are no pictures in .* \(\.jpg"):
        PictureFolder(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        PictureFolder(tmp_path / "nowhere")
