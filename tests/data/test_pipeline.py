import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform  # pyright: ignore[reportPrivateImportUsage]  # timm's documented import
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from dat.data import pipeline
from dat.data.embedded import ArraySource, digits
from dat.data.folders import ImageFolder
from dat.data.pipeline import (
    CenterCrop,
    CropFlip,
    Examples,
    ImageDataset,
    ImageNet,
    TrainingOrder,
    Transform,
    crop_draws,
    crop_flip,
    evaluation_batches,
    global_streams,
    training_batches,
)
from dat.errors import DataError, UsageError

TRANSFORMS: dict[str, Transform] = {
    "native": CenterCrop(),
    "center": CenterCrop(7),
    "crop_flip": CropFlip(2),
    "reflect": CropFlip(2, "reflect", view=CenterCrop(6)),
    "imagenet": ImageNet(8),
    "randaugment": ImageNet(8, auto_augment="rand-m9-mstd0.5-inc1"),
    "augmix": ImageNet(8, auto_augment="augmix-m3-w3"),
    "erasing": ImageNet(8, erase=0.5),
}


def noise(count: int = 26, height: int = 10, width: int = 10) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    return ArraySource(images, np.arange(count) % 3, ("a", "b", "c"))


def folder_of(root: Path, source: ArraySource) -> ImageFolder:
    for index in range(len(source)):
        path = root / source.classes[source.targets[index]] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        source.read(index).save(path)
    return ImageFolder(root)


def together(batches: Iterator[Examples]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def close(batches: Iterator[Examples]) -> None:
    assert isinstance(batches, Generator)
    batches.close()


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


# --- what comes out


@pytest.mark.parametrize("name", TRANSFORMS)
def test_batches_are_collated_floats_in_the_unit_range(name: str) -> None:
    images, targets, indices = ImageDataset(noise(), TRANSFORMS[name], seed=0).__getitems__([(0, 5), (1, 3), (0, 25)])
    assert (images.dtype, targets.dtype, indices.dtype) == (torch.float32, torch.int64, torch.int64)
    assert images.ndim == 4
    assert images.shape[:2] == (3, 3)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.max() > 0.5
    assert targets.tolist() == [2, 0, 1]
    assert indices.tolist() == [5, 3, 25]


def test_native_pictures_are_the_pixels() -> None:
    source = noise()
    images, _, _ = ImageDataset(source, CenterCrop(), seed=0).__getitems__([(0, 5), (9, 5)])
    for image in images:
        np.testing.assert_array_equal((image * 255).round().numpy(), source.images[5])
    single, _, _ = ImageDataset(source, CenterCrop(), seed=0)[(0, 5)]
    assert torch.equal(single[0], images[0])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(90, 60), (61, 97), (40, 40)])
def test_center_crop_is_that_of_timm(interpolation: str, shape: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8))
    theirs = create_transform(28, interpolation=interpolation, crop_pct=0.875, normalize=False)
    ours = CenterCrop(28, 0.875, "bicubic" if interpolation == "bicubic" else "bilinear")
    expected = theirs(picture)  # pyright: ignore[reportCallIssue, reportArgumentType]  # timm's annotation is a tuple
    assert np.array_equal(np.asarray(ours(picture)).transpose(2, 0, 1), np.asarray(expected))


@pytest.mark.parametrize("size", [28, 32, 48, 64, 95, 96, 112, 128, 160, 176, 192, 224, 240, 256, 288])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 0.96])
def test_usual_sizes_are_cropped_to_the_pixel_as_by_timm(size: int, crop_pct: float) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (97, 61, 3), dtype=np.uint8))
    theirs = create_transform(size, interpolation="bilinear", crop_pct=crop_pct, normalize=False)
    expected = theirs(picture)  # pyright: ignore[reportCallIssue, reportArgumentType]  # timm's annotation is a tuple
    ours = CenterCrop(size, crop_pct, "bilinear")(picture)
    assert np.array_equal(np.asarray(ours).transpose(2, 0, 1), np.asarray(expected))


def test_small_pictures_are_enlarged() -> None:
    assert CenterCrop(224, 1.0)(Image.new("RGB", (10, 20))).size == (224, 224)


def test_crop_flip_is_pad_crop_mirror_of_each_picture() -> None:
    source = noise(40, 9, 7)
    draws = crop_draws(3, np.full(40, 2), np.arange(40), length=40)
    for settings in (CropFlip(3), CropFlip(3, "reflect")):
        results = crop_flip(source.images, draws, settings=settings)
        for image, (down, right, mirrored), result in zip(source.images, draws, results, strict=True):
            top, left = int(down * 7), int(right * 7)
            mode = "constant" if settings.fill == "zeros" else "reflect"
            padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode=mode)
            expected = padded[:, top : top + 9, left : left + 7]
            np.testing.assert_array_equal(result, expected[..., ::-1] if mirrored < 0.5 else expected)


def test_crop_flip_reaches_every_offset_and_can_leave_the_side() -> None:
    white = np.full((400, 3, 4, 4), 255, np.uint8)
    draws = crop_draws(0, np.zeros(400, np.int64), np.arange(400), length=400)
    results = crop_flip(white, draws, settings=CropFlip(2, flip=False))
    seen = {(int(result[0].any(1).sum()), int(result[0].any(0).sum())) for result in results}
    assert seen == {(height, width) for height in (2, 3, 4) for width in (2, 3, 4)}
    untouched = crop_flip(noise().images, draws[:26], settings=CropFlip(0, flip=False))
    np.testing.assert_array_equal(untouched, noise().images)


def test_a_border_that_cannot_be_reflected() -> None:
    with pytest.raises(DataError, match="10x10 cannot be reflected by 10"):
        ImageDataset(noise(), CropFlip(10, "reflect"), seed=0)[(0, 0)]


def test_imagenet_is_timms_transform_on_a_seeded_stream() -> None:
    transform = ImageNet(8, auto_augment="rand-m9-mstd0.5-inc1")
    dataset = ImageDataset(noise(), transform, seed=4)
    images, _, _ = dataset.__getitems__([(1, 2), (1, 3)])
    augment, picture = transform.build(), noise().read(3)
    with global_streams() as seed_streams:
        seed_streams((2, 4, 1, 3))
        expected = augment(picture)
    np.testing.assert_array_equal((images[1] * 255).round().numpy(), expected.numpy())


def test_random_erasing_is_timms_kept_within_the_range_of_pictures() -> None:
    """Same numbers: what the normalised picture would be after timm's own transform, and back, clipped."""
    settings = ImageNet(24, erase=0.6)
    theirs = create_transform(24, is_training=True, interpolation="random", scale=(0.08, 1.0), re_prob=0.6, re_mode="pixel")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    source, outside = noise(20, 30, 30), 0
    ours, _, _ = ImageDataset(source, settings, seed=4).__getitems__([(1, position) for position in range(20)])
    for position in range(20):
        with global_streams() as seed_streams:
            seed_streams((2, 4, 1, position))
            expected = cast(Tensor, theirs(source.read(position))) * std + mean  # pyright: ignore[reportCallIssue, reportArgumentType]  # timm's annotation is a tuple
        outside += int(((expected < -1e-3) | (expected > 1 + 1e-3)).any())
        torch.testing.assert_close(ours[position], expected.clamp(0, 1), rtol=0, atol=0.51 / 255)
    assert outside > 5


@pytest.mark.parametrize("erase", [0.0, 0.25, 1.0])
def test_the_share_of_erased_pictures(erase: float) -> None:
    gray = ArraySource(np.full((400, 3, 12, 12), 128, np.uint8), np.zeros(400, np.int64), ("a",))
    transform = ImageNet(12, color_jitter=0.0, erase=erase)
    images, _, _ = ImageDataset(gray, transform, seed=0).__getitems__([(0, position) for position in range(400)])
    erased = (images != 128 / 255).any(dim=1).float().mean(dim=(1, 2))
    assert (erased > 0).float().mean().item() == pytest.approx(erase, abs=0.06)
    assert erased.max() < 0.45
    assert images.min() >= 0
    assert images.max() <= 1


def test_erasing_changes_no_other_draw_of_the_picture() -> None:
    keys = [(0, position) for position in range(26)]
    plain, erased = (ImageDataset(noise(), ImageNet(8, erase=erase), seed=0).__getitems__(keys)[0] for erase in (0.0, 1.0))
    same_pixels = (plain == erased).all(dim=1).float().mean(dim=(1, 2))
    assert (same_pixels < 1).any()
    assert (same_pixels > 0.4).all()


def test_pictures_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    folder_of(tmp_path, noise())
    Image.new("RGB", (4, 6)).save(tmp_path / "a" / "000.png")
    source = ImageFolder(tmp_path)
    with pytest.raises(DataError, match=r"a/000\.png is 4x6 but a/003\.png is 10x10; set a size"):
        ImageDataset(source, CenterCrop(), seed=0).__getitems__([(0, 0), (0, 1)])
    assert ImageDataset(source, CenterCrop(8), seed=0).__getitems__([(0, 0), (0, 1)])[0].shape == (2, 3, 8, 8)


def test_a_folder_and_its_arrays_give_the_same_batch(tmp_path: Path) -> None:
    source = noise()
    folder = folder_of(tmp_path, source)
    original = [int(Path(folder.name(index)).stem) for index in range(len(folder))]
    copy = ArraySource(source.images[original], folder.targets, folder.classes)
    for transform in TRANSFORMS.values():
        keys = [(3, 1), (0, 20)]
        one = ImageDataset(folder, transform, seed=1).__getitems__(keys)
        other = ImageDataset(copy, transform, seed=1).__getitems__(keys)
        assert same(list(one), list(other))


# --- randomness is a function of seed, epoch and position


@pytest.mark.parametrize("name", ["crop_flip", "reflect", "imagenet", "randaugment", "augmix", "erasing"])
def test_augmentation_depends_on_seed_epoch_and_position_only(name: str) -> None:
    dataset = ImageDataset(noise(), TRANSFORMS[name], seed=5)
    keys = [(epoch, index) for epoch in (0, 1) for index in range(26)]
    whole = dataset.__getitems__(keys)[0]
    shuffled = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0)).tolist()
    for index in shuffled:
        assert torch.equal(dataset[keys[index]][0][0], whole[index])
    assert not torch.equal(whole[:26], whole[26:])
    assert not torch.equal(ImageDataset(noise(), TRANSFORMS[name], seed=6).__getitems__(keys)[0], whole)


STREAMS = """
import random, sys
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from tests.data.test_pipeline import TRANSFORMS, ImageDataset, TrainingOrder, evaluation_batches, noise, training_batches

assert "beartype" not in sys.modules
states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
for name, transform in TRANSFORMS.items():
    for workers in (0, 2):
        dataset = ImageDataset(noise(), transform, seed=0)
        order = TrainingOrder(26, batch_size=8)
        seen = len(list(training_batches(dataset, order, epoch=0, workers=workers)))
        seen += len(list(evaluation_batches(dataset, 8, workers=workers)))
        assert seen == 7
        now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        assert now == states, (name, workers)
"""


def test_the_global_streams_are_left_alone() -> None:
    # In a process of its own, because the shape checks of the tests draw from Python's stream.
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", STREAMS, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TRANSFORMS)
def test_workers_change_nothing(name: str) -> None:
    dataset = ImageDataset(noise(), TRANSFORMS[name], seed=0)
    order = TrainingOrder(26, batch_size=6, accumulate=2, seed=1)
    assert same(
        together(training_batches(dataset, order, epoch=3, workers=0)),
        together(training_batches(dataset, order, epoch=3, workers=2)),
    )
    assert same(together(evaluation_batches(dataset, 7, workers=0)), together(evaluation_batches(dataset, 7, workers=2)))


@pytest.mark.parametrize("name", ["crop_flip", "imagenet"])
def test_resume_at_every_step_continues_identically(name: str) -> None:
    order = TrainingOrder(26, batch_size=4, accumulate=2, seed=1)
    batches = list(training_batches(ImageDataset(noise(), TRANSFORMS[name], seed=0), order, epoch=2))
    assert len(batches) == order.steps_per_epoch * 2 == 12
    for step in range(order.steps_per_epoch + 1):
        fresh = ImageDataset(noise(), TRANSFORMS[name], seed=0)
        rest = list(training_batches(fresh, order, epoch=2, start_step=step))
        assert len(rest) == len(batches) - 2 * step
        assert all(same(list(one), list(other)) for one, other in zip(rest, batches[2 * step :], strict=True))


# --- order


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_sees_the_same_rows_however_it_is_divided(processes: int, accumulate: int) -> None:
    whole = list(TrainingOrder(50, batch_size=12, seed=7).batches(3))
    settings = {"batch_size": 12, "accumulate": accumulate, "processes": processes, "seed": 7}
    orders = [TrainingOrder(50, process=process, **settings) for process in range(processes)]
    shares = [list(order.batches(3)) for order in orders]
    for step, rows in enumerate(whole):
        placed: list[tuple[int, int] | None] = [None] * 12
        for order, share in zip(orders, shares, strict=True):
            for index, keys in enumerate(share[step * accumulate : (step + 1) * accumulate]):
                first = order.first_row(index)
                placed[first : first + order.micro_batch] = keys
        assert placed == rows


def test_the_layout_of_a_step() -> None:
    order = TrainingOrder(12, batch_size=12, accumulate=2, processes=3, process=1)
    assert order.micro_batch == 2
    assert [order.first_row(index) for index in (0, 1)] == [2, 8]
    rows = order.permutation(0).tolist()
    assert [[row for _, row in keys] for keys in order.batches(0)] == [rows[2:4], rows[8:10]]


def test_an_epoch_is_a_permutation_without_its_remainder() -> None:
    order = TrainingOrder(50, batch_size=12, seed=7)
    assert order.steps_per_epoch == 4
    rows = [row for keys in order.batches(1) for _, row in keys]
    assert len(rows) == len(set(rows)) == 48
    assert rows == order.permutation(1).tolist()[:48]
    assert sorted(order.permutation(1).tolist()) == list(range(50))
    assert rows != [row for keys in order.batches(2) for _, row in keys]
    assert rows != [row for keys in TrainingOrder(50, batch_size=12, seed=8).batches(1) for _, row in keys]


def test_the_order_never_changes() -> None:
    assert TrainingOrder(10, batch_size=2, seed=1).permutation(2).tolist() == [5, 0, 6, 4, 7, 1, 2, 3, 8, 9]
    frozen = crop_draws(1, np.array([2, 3]), np.array([0, 4]), length=5)
    np.testing.assert_allclose(frozen[:, 0], [0.648159181696894, 0.8745146249079903], rtol=1e-12)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_picture_once(processes: int, workers: int) -> None:
    dataset = ImageDataset(digits("test"), CenterCrop(), seed=0)
    seen = [
        together(evaluation_batches(dataset, 64, processes=processes, process=process, workers=workers))
        for process in range(processes)
    ]
    indices = torch.cat([part[2] for part in seen])
    targets = torch.cat([part[1] for part in seen])
    assert sorted(indices.tolist()) == list(range(450))
    np.testing.assert_array_equal(targets.numpy(), dataset.source.targets[indices.numpy()])


def test_fewer_pictures_than_processes() -> None:
    dataset = ImageDataset(noise(2), CenterCrop(), seed=0)
    counts = [len(list(evaluation_batches(dataset, 4, processes=3, process=process))) for process in range(3)]
    assert counts == [1, 1, 0]


# --- mistakes

REFUSED: dict[str, Callable[[], object]] = {
    r"5 pictures, fewer than one batch of 8": lambda: TrainingOrder(5, batch_size=8),
    r"batch_size of 10 .* 2 processes x 2 .* multiple of 4": lambda: TrainingOrder(
        50, batch_size=10, accumulate=2, processes=2
    ),
    "batch_size is 0": lambda: TrainingOrder(50, batch_size=0),
    "accumulate is 0": lambda: TrainingOrder(50, batch_size=2, accumulate=0),
    "process is 2; write 0 to 1": lambda: TrainingOrder(50, batch_size=2, processes=2, process=2),
    "seed is -1": lambda: TrainingOrder(50, batch_size=2, seed=-1),
    "start_step is 26; write 0 to 25": lambda: TrainingOrder(50, batch_size=2).batches(0, start_step=26),
    "order is for 50 pictures, the data set has 26": lambda: training_batches(
        ImageDataset(noise(), CenterCrop(), seed=0), TrainingOrder(50, batch_size=2), epoch=0
    ),
    "workers is -1": lambda: evaluation_batches(ImageDataset(noise(), CenterCrop(), seed=0), 4, workers=-1),
    "process is 1": lambda: evaluation_batches(ImageDataset(noise(), CenterCrop(), seed=0), 4, process=1),
    "size is 0": lambda: CenterCrop(0),
    r"crop_pct is 1\.1": lambda: CenterCrop(8, 1.1),
    "padding is -1": lambda: CropFlip(-1),
    r"scale is \(1\.0, 0\.5\)": lambda: ImageNet(8, scale=(1.0, 0.5)),
    r"erase is 1\.1; write a probability": lambda: ImageNet(8, erase=1.1),
    "timm refuses the augmentation 'magic'": lambda: ImageNet(8, auto_augment="magic"),
    "timm refuses the augmentation 'rand-foo9'": lambda: ImageNet(8, auto_augment="rand-foo9"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_mistakes_are_refused_at_once(said: str) -> None:
    with pytest.raises(UsageError, match=said):
        REFUSED[said]()


# --- workers


def damaged_folder(root: Path) -> ImageFolder:
    folder = folder_of(root, noise())
    (root / folder.name(17)).write_bytes(b"<html>")
    return folder


@pytest.mark.parametrize("transform", [CenterCrop(), ImageNet(8)])
def test_an_unreadable_picture_is_the_same_error_with_workers(tmp_path: Path, transform: Transform) -> None:
    dataset = ImageDataset(damaged_folder(tmp_path), transform, seed=0)
    said = []
    for workers in (0, 2):
        with pytest.raises(DataError, match=r"\(6 bytes\): not an image") as caught:
            together(evaluation_batches(dataset, 4, workers=workers))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert not multiprocessing.active_children()


def test_the_global_streams_survive_an_error(tmp_path: Path) -> None:
    dataset = ImageDataset(damaged_folder(tmp_path), ImageNet(8), seed=0)
    torch.manual_seed(1)
    expected = torch.default_generator.get_state()
    with pytest.raises(DataError):
        together(evaluation_batches(dataset, 26))
    assert torch.equal(torch.default_generator.get_state(), expected)


@pytest.mark.parametrize("seen_by_torch", [True, False], ids=["in the loop body", "in a fetch"])
def test_a_killed_worker_is_a_data_error(seen_by_torch: bool) -> None:
    dataset = ImageDataset(noise(4000), CropFlip(), seed=0)
    batches = training_batches(dataset, TrainingOrder(4000, batch_size=4), epoch=0, workers=2)
    next(batches)
    pid = multiprocessing.active_children()[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    if seen_by_torch:
        time.sleep(1)  # a loop's body goes on as if nothing had happened
    shown = r"died: (DataLoader worker|its connection broke) .*; set fewer workers .*/dev/shm"
    go_on: Callable[[Iterator[Examples]], object] = next if seen_by_torch else together
    with pytest.raises(DataError, match=shown) as failure:
        go_on(batches)
    assert not seen_by_torch or f"(pid {pid}) is killed by signal" in str(failure.value)
    close(batches)
    assert not multiprocessing.active_children()
    assert getattr(signal.getsignal(signal.SIGCHLD), "__module__", "") == "torch.utils.data._utils.signal_handling"


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "its connection broke (ConnectionResetError)"),
        (EOFError(), "its connection broke (EOFError)"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "DataLoader worker (pid(s) 7) exited unexpectedly"),
    ],
)
def test_every_way_in_which_a_death_shows_is_one_sentence(failure: Exception, said: str) -> None:
    def breaking() -> Iterator[Any]:
        yield from ()
        raise failure

    with pytest.raises(DataError) as error:
        pipeline._next_of_workers(breaking(), [])
    assert str(error.value).startswith(f"A process that reads pictures died: {said}; set fewer workers")
    with pytest.raises(DataError, match="died: killed; set"):
        pipeline._next_of_workers(breaking(), ["killed."])


def test_a_death_is_told_before_batches_that_were_read_ahead() -> None:
    ahead = iter([DataError("a batch")])
    with pytest.raises(DataError, match="died: killed; set"):
        pipeline._next_of_workers(ahead, ["killed."])
    assert str(pipeline._next_of_workers(ahead, [])) == "a batch"


@pytest.mark.parametrize(
    "failure", [RuntimeError("Caught RuntimeError in a worker"), OSError("Caught OSError"), RuntimeError("a")]
)
def test_what_a_worker_raised_itself_is_raised(failure: Exception) -> None:
    def breaking() -> Iterator[Any]:
        yield from ()
        raise failure

    with pytest.raises(type(failure)) as error:
        pipeline._next_of_workers(breaking(), [])
    assert error.value is failure


def test_workers_end_with_the_iterator() -> None:
    dataset = ImageDataset(noise(400), CenterCrop(), seed=0)
    batches = evaluation_batches(dataset, 4, workers=2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    close(batches)
    assert not multiprocessing.active_children()


def test_a_dataset_travels_to_a_spawned_worker(tmp_path: Path) -> None:
    for transform in TRANSFORMS.values():
        dataset = ImageDataset(folder_of(tmp_path, noise()), transform, seed=0)
        copy = pickle.loads(pickle.dumps(dataset))
        assert same(list(copy[(1, 4)]), list(dataset[(1, 4)]))
