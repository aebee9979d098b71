"""Every picture is shown once, as it should be, and what is found comes back in its own pixels."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from dat.boxes import Boxes, Found
from dat.data.annotated import AnnotatedPictures, Things
from dat.data.boxed import Letterbox
from dat.errors import DataError
from dat.evaluation.coco_scores import coco_scores
from dat.evaluation.detected import Corrupted, detect
from dat.evaluation.suites import FGSM, Clean, Corruption, Suite
from dat.nn.detectors import DetectionLosses
from dat.tasks.detection import Detection
from dat.types import Place

HERE = Place(torch.device("cpu"))
SIZES = [(60, 40), (40, 60), (96, 32), (30, 30), (64, 48)]


@pytest.fixture
def source(tmp_path: Path) -> AnnotatedPictures:
    """White rectangles on black, in pictures of several sizes."""
    things = []
    for number, (width, height) in enumerate(SIZES):
        picture = Image.new("RGB", (width, height))
        box = (width // 4, height // 3, width // 4 + 15, height // 3 + 12)
        ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=(255, 255, 255))
        picture.save(tmp_path / f"{number}.png")
        things.append(Things(np.array([box], float), np.array([0]), np.array([180.0]), np.array([False]), (1,)))
    names = [f"{number}.png" for number in range(len(SIZES))]
    return AnnotatedPictures(tmp_path / "made.json", tmp_path, names, SIZES, things, ("box",), [*range(len(SIZES))], [1])


class FindsWhite(nn.Module):
    """One box around what is white; its loss is how dark the picture is."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor, boxes: Boxes | None = None) -> list[Found] | DetectionLosses:
        if boxes is not None:
            darkness = (1 - images).flatten(1).mean(dim=1)
            return DetectionLosses(darkness, 0 * darkness)
        self.shown.append(images.clone())
        return [self._found(image) for image in images]

    def _found(self, image: Tensor) -> Found:
        rows, columns = torch.nonzero(image.amin(dim=0) > 0.75, as_tuple=True)
        corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])[None].float()
        return Found(corners, torch.tensor([0.9]), torch.tensor([0]))


def found_of(source: AnnotatedPictures, change: Suite, *, batch_size: int = 2, model: nn.Module | None = None) -> list[Found]:
    return detect(
        model or FindsWhite(),
        source,
        Letterbox(128, 192),
        change,
        task=Detection(),
        place=HERE,
        batch_size=batch_size,
        advance=lambda count: None,
    )


def test_boxes_come_back_in_the_pixels_of_each_picture(source: AnnotatedPictures) -> None:
    found = found_of(source, Clean())
    for one, things in zip(found, source.things, strict=True):
        assert one.corners.dtype == torch.float32
        np.testing.assert_allclose(one.corners.numpy(), things.corners, atol=0.6)
    assert coco_scores(source, found).numbers["ap50"] == pytest.approx(100)


def test_batches_of_any_size_give_the_same(source: AnnotatedPictures) -> None:
    for change in (Clean(), FGSM(8 / 255), Corruption("gaussian_noise", 1)):
        first, second = found_of(source, change, batch_size=1), found_of(source, change, batch_size=5)
        assert all(torch.equal(one.corners, other.corners) for one, other in zip(first, second, strict=True))


def test_an_attack_climbs_the_loss_and_stays_in_its_ball(source: AnnotatedPictures) -> None:
    clean, attacked = FindsWhite(), FindsWhite()
    found_of(source, Clean(), model=clean, batch_size=5)
    found_of(source, FGSM(8 / 255), model=attacked, batch_size=5)
    moved = attacked.shown[0] - clean.shown[0]
    assert moved.abs().max() <= 8 / 255 + 1e-6
    assert moved.min() < -0.03  # darker is worse
    assert moved.max() <= 0


def test_a_corruption_is_of_the_picture_as_it_is_and_leaves_the_frame_clean(source: AnnotatedPictures) -> None:
    model = FindsWhite()
    found_of(source, Corruption("brightness", 3), model=model, batch_size=5)
    corrupted = np.asarray(Corrupted(source, Corruption("brightness", 3)).read(2))
    assert corrupted.shape == (32, 96, 3)
    shown = (model.shown[0][2] * 255).round().byte().permute(1, 2, 0).numpy()
    assert (shown[64:] == (124, 116, 104)).all()
    expected = np.asarray(Image.fromarray(corrupted).resize((192, 64), Image.Resampling.BILINEAR))
    assert (shown[:64] == expected).all()


def test_processes_share_the_pictures_and_all_know_everything(
    source: AnnotatedPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shares = found_of(source, Clean()), []

    def gather(into: list[object], here: dict[int, Found]) -> None:
        shares.append(here)
        into[:] = [*shares, *[{}] * (2 - len(shares))]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    settings = {"task": Detection(), "batch_size": 2, "advance": lambda count: None}
    with pytest.raises(DataError, match="5 pictures were to be shown once each, and 3 were"):
        detect(FindsWhite(), source, Letterbox(128, 192), Clean(), place=Place(HERE.device, 0, 2), **settings)
    found = detect(FindsWhite(), source, Letterbox(128, 192), Clean(), place=Place(HERE.device, 1, 2), **settings)
    assert [sorted(share) for share in shares] == [[0, 2, 4], [1, 3]]
    assert all(torch.equal(one.corners, other.corners) for one, other in zip(whole, found, strict=True))
    assert cast(list[Found], found)[1].labels.tolist() == [0]
