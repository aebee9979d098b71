"""Each planted fault of a detector is found and named; a healthy one raises no alarm, and one that finds nothing is told."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch
from rectangles import FindsColours, write_rectangles
from torch import Tensor, nn

from dat.boxes import Boxes, Found
from dat.data.annotated import AnnotatedPictures
from dat.data.annotations import open_annotated
from dat.data.boxed import Letterbox
from dat.evaluation.detector_selftest import detector_selftest
from dat.evaluation.selftest import Alarm
from dat.nn.norm import Normalized
from dat.types import Place

FRAME = Letterbox(64, 96)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedPictures:
    return open_annotated(write_rectangles(tmp_path_factory.mktemp("set"), "test", 12))


def normalised(network: nn.Module) -> nn.Module:
    return Normalized(network, mean=[0.5] * 3, std=[0.5] * 3)


class Changed(nn.Module):
    """A detector whose answers, or whose images, are changed."""

    def __init__(
        self, answers: Callable[[Found], Found] = lambda found: found, images: Callable[[Tensor], Tensor] = lambda x: x
    ):
        super().__init__()
        self.model, self.answers, self.images = normalised(FindsColours()), answers, images

    def forward(self, images: Tensor, boxes: Boxes | None = None) -> list[Found]:
        assert boxes is None
        return [self.answers(found) for found in self.model(self.images(images))]


class LeavesInFrame(Letterbox):
    """Boxes are not taken back to the picture."""

    def back(self, corners: Tensor, size: tuple[int, int]) -> Tensor:
        return corners.double()


def shifted(step: int, found: Found) -> Found:
    labels = found.labels + step
    kept = (labels >= 0) & (labels < 3)
    return Found(found.corners[kept], found.scores[kept], labels[kept])


def alarms(model: nn.Module, pictures: AnnotatedPictures, frame: Letterbox = FRAME) -> list[Alarm]:
    return detector_selftest(model.eval(), pictures, frame, place=Place(torch.device("cpu")), batch_size=4)


PLANTED: dict[str, tuple[nn.Module, Letterbox, str, str]] = {
    "label + 1": (Changed(lambda found: shifted(1, found)), FRAME, "shifted-labels", "label k \\+ 1 stands for class k"),
    "label - 1": (Changed(lambda found: shifted(-1, found)), FRAME, "shifted-labels", "label k - 1 stands for class k"),
    "by name": (
        Changed(lambda found: found._replace(labels=torch.tensor([2, 0, 1])[found.labels])),
        FRAME,
        "shifted-labels|class-order",
        "if",
    ),
    "x and y": (
        Changed(lambda found: found._replace(corners=found.corners[:, [1, 0, 3, 2]])),
        FRAME,
        "swapped-axes",
        "x and y of the boxes are exchanged",
    ),
    "frame": (normalised(FindsColours()), LeavesInFrame(64, 96), "unscaled-boxes", "from the frame into the picture"),
    "shares": (
        Changed(lambda found: found._replace(corners=found.corners / torch.tensor([96, 64, 96, 64]) / 2)),
        FRAME,
        "unscaled-boxes",
        "multiplied by width and height",
    ),
    "not normalised": (FindsColours(), FRAME, "normalisation-missing", "when they are normalised by"),
    "twice": (Changed(images=lambda x: 2 * x - 1), FRAME, "normalised-twice", "multiplied by 4"),
    "0 to 255": (Changed(images=lambda x: 255 * x), FRAME, "normalised-twice", "multiplied by 510"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found_and_named(planted: str, pictures: AnnotatedPictures) -> None:
    model, frame, name, said = PLANTED[planted]
    (alarm,) = alarms(model, pictures, frame)
    assert alarm.name in name.split("|")
    assert alarm.stops
    assert re.search(said, alarm.sentence), alarm.sentence


def test_a_healthy_detector_raises_no_alarm(pictures: AnnotatedPictures) -> None:
    assert alarms(normalised(FindsColours()), pictures) == []


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_detector_that_is_merely_bad_raises_no_alarm(pictures: AnnotatedPictures, share: float) -> None:
    """It misses some things, moves others, and takes some for what they are not."""
    numbers = torch.Generator().manual_seed(0)

    def worse(found: Found) -> Found:
        count = len(found.labels)
        moved = found.corners + 6 * share * torch.randn(count, 4, generator=numbers)
        other = torch.rand(count, generator=numbers) < share / 2
        return Found(moved, torch.rand(count, generator=numbers), torch.where(other, (found.labels + 1) % 3, found.labels))

    assert alarms(Changed(worse), pictures) == []


def test_one_that_finds_nothing_is_told_and_not_stopped(pictures: AnnotatedPictures) -> None:
    generator = torch.Generator().manual_seed(0)

    def anything(found: Found) -> Found:
        corners = torch.rand(50, 4, generator=generator).cumsum(dim=1) * 30
        corners = torch.cat([corners[:, [0, 1]], corners[:, [0, 1]] + corners[:, 2:]], dim=1)
        return Found(corners, torch.rand(50, generator=generator), torch.arange(50) % 3)

    nothing = Changed(lambda found: Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)))
    for model in (nothing, Changed(anything)):
        (alarm,) = alarms(model, pictures)
        assert (alarm.name, alarm.stops) == ("finds-nothing", False)


def test_pictures_without_a_thing_say_nothing(pictures: AnnotatedPictures) -> None:
    bare = [dataclasses.replace(things, crowd=~things.crowd) for things in pictures.things]
    assert alarms(normalised(FindsColours()), dataclasses.replace(pictures, things=bare)) == []
