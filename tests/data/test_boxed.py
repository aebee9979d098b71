"""Boxes stay on what they were drawn around, whatever is done to the picture; and every crop is known by its key."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dat.boxes import Boxes
from dat.data import boxed
from dat.data.annotated import AnnotatedPictures, Things
from dat.data.boxed import BoxedDataset, JitterCropFlip, Letterbox
from dat.data.coco import read_coco
from dat.data.pipeline import Examples, TrainingOrder, evaluation_batches, fetch, training_batches
from dat.errors import DataError, UsageError
from tests.data.made_up_boxes import write_coco

SHAPES = [(200, 120), (120, 200), (150, 150), (400, 60), (37, 300)]
FRAMES = [(96, 96), (64, 160), (160, 64), (333, 250)]
"""Height and width."""


def things_of(*corners: tuple[int, int, int, int]) -> Things:
    several = np.array(corners, dtype=np.float64).reshape(-1, 4)
    count = len(several)
    areas = (several[:, 2:] - several[:, :2]).prod(axis=1)
    return Things(several, np.arange(count), areas, np.zeros(count, dtype=bool), tuple(range(count)))


def drawn(folder: Path, corners: tuple[int, int, int, int], size: tuple[int, int]) -> AnnotatedPictures:
    """One white rectangle on black, and its box."""
    picture = Image.new("RGB", size)
    ImageDraw.Draw(picture).rectangle((corners[0], corners[1], corners[2] - 1, corners[3] - 1), fill=(255, 255, 255))
    picture.save(folder / "one.png")
    boxes = things_of(corners)
    return AnnotatedPictures(folder / "x.json", folder, ["one.png"], [size], [boxes], ("thing",), [1], [1])


def seen_in(image: Tensor) -> list[float]:
    """The corners of what is white, to a fraction of a pixel: a pixel that is half white is half covered."""
    white = image.min(dim=0).values.clone()
    white[(image[0] - image[2]).abs() > 0.02] = 0  # the border is no grey
    across, down = white.max(dim=0).values, white.max(dim=1).values
    found = []
    for profile in (across, down):
        bright = torch.nonzero(profile > 0.5).flatten()
        found.append((float(bright.min()), float(bright.max()) + 1))
    return [found[0][0], found[1][0], found[0][1], found[1][1]]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("size", SHAPES)
def test_corners_go_to_the_frame_and_back(size: tuple[int, int], frame: tuple[int, int]) -> None:
    view = Letterbox(*frame)
    width, height = view.inside(size)
    assert (width, height) == (frame[1], height) or (width, height) == (width, frame[0])
    assert width <= frame[1]
    assert height <= frame[0]
    assert abs(width / height - size[0] / size[1]) < (1.01 * size[0] / size[1]) / min(width, height)
    corners = np.random.default_rng(0).uniform(0, [*size, *size], (50, 4))
    there = torch.from_numpy(corners * view.factors(size))
    np.testing.assert_allclose(view.back(there, size).numpy(), corners, atol=1e-9)
    whole = view.back(torch.tensor([[-3.0, -3, 1000, 1000]]), size)
    assert whole.tolist() == [[0, 0, *size]]


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("size", SHAPES)
def test_a_letterboxed_rectangle_stays_under_its_box(tmp_path: Path, size: tuple[int, int], frame: tuple[int, int]) -> None:
    width, height = size
    source = drawn(tmp_path, (width // 5, height // 4, width * 4 // 5, height * 3 // 4), size)
    images, targets, positions = BoxedDataset(source, Letterbox(*frame), seed=0).__getitems__([(0, 0)])
    assert (images.shape, positions.tolist()) == ((1, 3, *frame), [0])
    corners, labels = targets.of_image(0)
    assert labels.tolist() == [0]
    np.testing.assert_allclose(seen_in(images[0]), corners[0].tolist(), atol=1)
    outside = images[0, :, Letterbox(*frame).inside(size)[1] :]
    assert (outside == torch.tensor(boxed.BORDER).view(3, 1, 1) / 255).all()


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("size", "frame"), [*zip(SHAPES, [*FRAMES, FRAMES[0]], strict=True)])
def test_a_jittered_rectangle_stays_under_its_box(
    tmp_path: Path, size: tuple[int, int], frame: tuple[int, int], scale: float, flip: float
) -> None:
    width, height = size
    source = drawn(tmp_path, (width // 10, height // 4, width * 3 // 5, height * 3 // 4), size)
    dataset = BoxedDataset(source, JitterCropFlip(*frame, scale=(scale, scale), flip=flip), seed=0)
    counted = 0
    for epoch in range(8):
        images, targets, _ = dataset.__getitems__([(epoch, 0)])
        corners, _ = targets.of_image(0)
        assert len(corners) <= 1
        assert images.shape == (1, 3, *frame)
        if len(corners):
            counted += 1
            np.testing.assert_allclose(seen_in(images[0]), corners[0].tolist(), atol=1.01)
        if scale <= 1:
            across = torch.nonzero((images[0, 0] - images[0, 2]).abs().min(dim=0).values < 0.02)
            centre = (corners[0, 0] + corners[0, 2]) / 2
            assert (centre > across.double().mean()) == bool(flip)  # drawn left of the middle
    assert counted == 8 if scale <= 1 else counted >= 3


def test_the_scale_is_that_of_what_fits(tmp_path: Path) -> None:
    """Also where frame and picture are wide: torchvision's ScaleJitter takes the width first."""
    source = drawn(tmp_path, (0, 0, 400, 100), (400, 100))
    for frame, sides in (((50, 200), [200, 50]), ((200, 50), [50, 12])):
        _, targets, _ = BoxedDataset(source, JitterCropFlip(*frame, scale=(1.0, 1.0)), seed=0).__getitems__([(0, 0)])
        corners, _ = targets.of_image(0)
        assert (corners[0, 2:] - corners[0, :2]).tolist() == sides


def test_a_box_around_all_of_a_picture_stays_whatever_its_size(tmp_path: Path) -> None:
    """Its far corner is rounded to 96.000008 in the first."""
    for size, frame in (((672, 672), (96, 96)), ((651, 497), (71, 93)), ((101, 97), (71, 93))):
        source = drawn(tmp_path, (0, 0, *size), size)
        dataset = BoxedDataset(source, JitterCropFlip(*frame, scale=(1.0, 1.0), flip=0.0), seed=0)
        assert dataset.__getitems__([(0, 0)])[1].valid.tolist() == [[True]]


def test_boxes_beyond_the_picture_are_cut_before_anything_else(tmp_path: Path) -> None:
    source = drawn(tmp_path, (-20, 10, 160, 90), (100, 100))
    for transform in (Letterbox(200, 400), JitterCropFlip(200, 400, scale=(0.5, 0.5))):
        images, targets, _ = BoxedDataset(source, transform, seed=0).__getitems__([(0, 0)])
        np.testing.assert_allclose(targets.of_image(0)[0][0].tolist(), seen_in(images[0]), atol=1)


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotatedPictures:
    return read_coco(write_coco(tmp_path))


def test_crowds_and_flat_boxes_are_no_targets(annotated: AnnotatedPictures) -> None:
    _, targets, positions = BoxedDataset(annotated, Letterbox(50, 50), seed=0).__getitems__([(0, 2), (0, 1), (0, 0)])
    assert positions.tolist() == [2, 1, 0]
    assert targets.valid.sum(dim=1).tolist() == [1, 0, 1]
    assert [targets.of_image(row)[1].tolist() for row in range(3)] == [[0], [], [1]]
    torch.testing.assert_close(
        targets.of_image(2)[0], torch.tensor([[5.0, 6.25, 17.5, 21.25]]) * torch.tensor([1, 38 / 37.5] * 2)
    )
    jittered = BoxedDataset(annotated, JitterCropFlip(50, 50, scale=(0.5, 1.0)), seed=0)
    assert [jittered.__getitems__([(0, row)])[1].valid.sum().item() for row in range(3)] == [1, 0, 1]


def test_what_is_thinner_than_a_pixel_in_the_frame_is_no_target(tmp_path: Path) -> None:
    """In single precision it could have no width at all, which torchvision's detectors refuse."""
    source = drawn(tmp_path, (10, 10, 60, 60), (100, 100))
    source.things[0].corners[0] = [90, 10, 90 + 1e-9, 60]
    for transform in (Letterbox(50, 50), JitterCropFlip(50, 50, scale=(1.0, 1.0))):
        _, targets, _ = BoxedDataset(source, transform, seed=0).__getitems__([(0, 0)])
        assert not targets.valid.any()


def test_pictures_without_things_make_a_batch(annotated: AnnotatedPictures) -> None:
    for transform in (Letterbox(32, 32), JitterCropFlip(32, 32)):
        images, targets, _ = BoxedDataset(annotated, transform, seed=0).__getitems__([(0, 1)])
        assert images.shape == (1, 3, 32, 32)
        assert (targets.corners.shape, targets.valid.tolist()) == ((1, 1, 4), [[False]])


def same(first: Examples, second: Examples) -> bool:
    parts = zip(flat(first), flat(second), strict=True)
    return all(torch.equal(one, other) for one, other in parts)


def flat(examples: Examples) -> list[Tensor]:
    images, targets, positions = examples
    rows = [targets.of_image(row) for row in range(len(targets))]
    return [images, positions, *itertools.chain.from_iterable(rows)]


def one_by_one(batches: list[Examples]) -> list[tuple[Tensor, Boxes, Tensor]]:
    return [
        (images[row : row + 1], targets[row : row + 1], positions[row : row + 1])
        for images, targets, positions in batches
        for row in range(len(positions))
    ]


def test_a_crop_is_known_by_seed_epoch_and_position(annotated: AnnotatedPictures) -> None:
    def crop(seed: int, epoch: int, position: int = 0) -> Examples:
        return BoxedDataset(annotated, JitterCropFlip(40, 40), seed=seed).__getitems__([(epoch, position)])

    assert same(crop(0, 3), crop(0, 3))
    assert not torch.equal(crop(0, 3)[0], crop(0, 4)[0])
    assert not torch.equal(crop(0, 3)[0], crop(1, 3)[0])
    twice = replace(annotated, names=["a.png"] * 2, sizes=[annotated.sizes[0]] * 2, things=[annotated.things[0]] * 2)
    here, there = (BoxedDataset(twice, JitterCropFlip(40, 40), seed=0).__getitems__([(3, position)]) for position in (0, 1))
    assert not torch.equal(here[0], there[0])
    still = BoxedDataset(annotated, Letterbox(40, 40), seed=0)
    assert same(still.__getitems__([(0, 0)]), still.__getitems__([(5, 0)]))


def test_batches_and_workers_change_nothing(annotated: AnnotatedPictures) -> None:
    dataset = BoxedDataset(annotated, JitterCropFlip(40, 40), seed=2)
    keys = [(4, 2), (4, 0), (5, 0), (4, 1)]
    alone = [dataset.__getitems__([key]) for key in keys]
    for split, workers in (([keys], 0), ([keys[:3], keys[3:]], 0), ([keys[:1], keys[1:]], 2)):
        found = one_by_one(list(fetch(dataset, split, workers=workers)))
        assert [same(one, other) for one, other in zip(alone, found, strict=True)] == [True] * 4, (len(split), workers)
    assert len(list(training_batches(dataset, TrainingOrder(3, batch_size=2), epoch=0))) == 1
    seen = [positions.tolist() for _, _, positions in evaluation_batches(dataset, 2, workers=2)]
    assert seen == [[0, 1], [2]]


STREAMS = """
import random, sys
from pathlib import Path
import numpy as np, torch
from dat.data.boxed import BoxedDataset, JitterCropFlip
from dat.data.coco import read_coco
from dat.data.pipeline import fetch

assert "beartype" not in sys.modules
states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
dataset = BoxedDataset(read_coco(Path(sys.argv[1])), JitterCropFlip(40, 40), seed=0)
for workers in (0, 2):
    assert len(list(fetch(dataset, [[(0, 0), (0, 1)]], workers=workers))) == 1
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()), workers
"""


def test_the_global_streams_are_left_alone(annotated: AnnotatedPictures) -> None:
    # In a process of its own, because the shape checks of the tests draw from Python's stream.
    subprocess.run([sys.executable, "-c", STREAMS, str(annotated.file)], cwd=Path(__file__).parents[2], check=True)


def test_a_picture_of_another_size_stops_with_its_sentence(annotated: AnnotatedPictures) -> None:
    Image.new("RGB", (41, 30)).save(annotated.root / "a.png")
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"a\.png has 41 x 30 pixels, but .*instances_train\.json says 40 x 30"):
            list(fetch(BoxedDataset(annotated, Letterbox(8, 8), seed=0), [[(0, 0)]], workers=workers))


def test_a_picture_that_would_vanish_is_refused_at_every_draw(tmp_path: Path) -> None:
    source = drawn(tmp_path, (1, 0, 5, 2), (400, 2))
    assert BoxedDataset(source, Letterbox(64, 64), seed=0).__getitems__([(0, 0)])[0].shape == (1, 3, 64, 64)
    for epoch in range(4):
        with pytest.raises(DataError, match=r"one\.png has 400 x 2 pixels, .* at the smallest scale; take it out"):
            BoxedDataset(source, JitterCropFlip(64, 64, scale=(1.0, 10.0)), seed=0).__getitems__([(epoch, 0)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"height": 0}, r"The frame is 0 x 8 pixels; write sides of 1 or more"),
        ({"scale": (0.0, 1.0)}, r"scale is \[0\.0, 1\.0\]; write two numbers above 0, the smaller first"),
        ({"scale": (2.0, 1.0)}, r"scale is \[2\.0, 1\.0\]"),
        ({"scale": (1.0, float("inf"))}, r"scale is \[1\.0, inf\]"),
        ({"flip": 1.5}, r"flip is 1\.5; write a probability, from 0 to 1"),
        ({"flip": float("nan")}, r"flip is nan"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        JitterCropFlip(**({"height": 8, "width": 8} | settings))  # pyright: ignore[reportArgumentType]


def test_a_negative_seed_is_refused(annotated: AnnotatedPictures) -> None:
    with pytest.raises(UsageError, match="seed is -1; write 0 or more"):
        BoxedDataset(annotated, Letterbox(8, 8), seed=-1)
