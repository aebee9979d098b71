"""Every picture is shown exactly once, on any number of processes; what cannot be read is said, and nothing takes its place."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dat.data.embedded import ArraySource
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.readable import why_unreadable
from dat.data.testsets.class_maps import NOTHING
from dat.errors import DataError, DivergenceError
from dat.evaluation import predict as predicting
from dat.evaluation.attacked import PGD
from dat.evaluation.cells import UNREADABLE, Cell, Predictions, View, all_classes
from dat.evaluation.predict import Classifier, Shelf, predict, refuse_unreadable
from dat.evaluation.suites import FGSM, Clean, Corruption, Suite
from dat.tasks.losses import margin
from dat.types import Images, Indices, LossFn, Place

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
SIZES = (1, 2, 3, 7, 10, 97, 101)


class Reader(nn.Module):
    """Reads the class that is written into a picture: its first pixel is 25 times the class."""

    def forward(self, images: Tensor) -> Tensor:
        written = (images[:, 0, 0, 0] * 255 / 25).round().long()
        return torch.nn.functional.one_hot(written, 10).float()


class Whole(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def written(count: int, *, wrong: int = 0) -> ImageDataset:
    """Pictures in which their class is written, but for the first `wrong`."""
    targets = np.arange(count) % 10
    values = np.where(np.arange(count) < wrong, (targets + 1) % 10, targets) * 25
    pixels = np.broadcast_to(values[:, None, None, None], (count, 3, 8, 8)).astype(np.uint8)
    return ImageDataset(ArraySource(pixels, targets.astype(np.int64), tuple("abcdefghij")), CenterCrop(), seed=0)


def cell(dataset: ImageDataset, *, change: Suite | None = None, views: tuple[View, ...] = (all_classes(10),)) -> Cell:
    return Cell("clean", dataset, change or Clean(), views, {"data": "0"})


def predicted(subject: Cell, *, place: Place | None = None, batch_size: int = 4, **settings: Any) -> Predictions:
    return said_by(Reader(), subject, Shelf(batch_size=batch_size, place=place or Place(CPU), **settings))


def said_by(model: nn.Module, subject: Cell, shelf: Shelf) -> Predictions:
    return predict({"net": Classifier(model, CPU)}, subject, shelf, advance=lambda count: None)["net"]


def on_threads(processes: int, work: Callable[[Place], Predictions]) -> list[Predictions]:
    """What each process gives, where `all_reduce` adds up what threads bring."""
    barrier, brought, found = threading.Barrier(processes), {}, {}

    def add_up(tensor: Tensor) -> None:
        brought[threading.get_ident()] = tensor.clone()
        barrier.wait()
        total = torch.stack(list(brought.values())).sum(0)
        barrier.wait()
        tensor.copy_(total)
        barrier.wait()

    def run(process: int) -> None:
        found[process] = work(Place(CPU, process, processes))

    with patch("torch.distributed.all_reduce", add_up):
        threads = [threading.Thread(target=run, args=(process,)) for process in range(processes)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    return [found[process] for process in range(processes)]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("count", SIZES)
def test_each_picture_counts_once_on_any_number_of_processes(count: int, processes: int) -> None:
    wrong = (count + 1) // 3
    for found in on_threads(processes, lambda place: predicted(cell(written(count, wrong=wrong)), place=place)):
        outputs = found.outputs["accuracy"]
        assert len(outputs) == count
        assert found.bad == 0
        assert all_classes(10).correct(found.targets, outputs).tolist() == [False] * wrong + [True] * (count - wrong)


@pytest.mark.slow  # two processes are in tests/engine/test_processes.py
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_real_processes_count_as_one_does(processes: int, tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *launcher, str(HERE / "predicting.py"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for count in SIZES:
        expected = predicted(cell(written(count, wrong=2))).outputs["accuracy"]
        assert np.load(tmp_path / f"{count}.npy").tolist() == expected.tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in range(3):
        (tmp_path / str(label)).mkdir()
        for number in range(4):
            Image.fromarray(np.full((8, 8, 3), 25 * label, np.uint8)).save(tmp_path / str(label) / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(("broken", "workers"), [((), 0), (("0/0.png",), 0), (("0/1.png", "2/3.png"), 0), (("1/2.png",), 2)])
def test_what_cannot_be_read_is_marked_and_named_and_counts_for_nothing(
    folder: Path, broken: tuple[str, ...], workers: int
) -> None:
    for name in broken:
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
    subject = cell(ImageDataset(ImageFolder(folder), CenterCrop(), seed=0))
    found = predicted(subject, batch_size=3, workers=workers)
    names = [subject.dataset.source.name(index) for index in range(12)]
    assert [name for name, said in zip(names, found.outputs["accuracy"], strict=True) if said == UNREADABLE] == list(broken)
    assert all_classes(10).correct(found.targets, found.outputs["accuracy"]).tolist() == [True] * (12 - len(broken))
    refuse_unreadable(subject, found, allowed=len(broken))
    if broken:
        with pytest.raises(DataError, match=f"{len(broken)} of 12 pictures of clean cannot be read, 0 are allowed") as raised:
            refuse_unreadable(subject, found, allowed=0)
        assert all(name in str(raised.value) for name in broken)


def test_a_whole_batch_that_cannot_be_read_stops_nothing(folder: Path) -> None:
    for number in range(4):
        (folder / "1" / f"{number}.png").write_bytes(b"")
    found = predicted(cell(ImageDataset(ImageFolder(folder), CenterCrop(), seed=0)), batch_size=4)
    assert (found.outputs["accuracy"] == UNREADABLE).tolist() == [False] * 4 + [True] * 4 + [False] * 4


def test_pictures_of_two_sizes_are_no_broken_pictures(folder: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "0" / "3.png")
    with pytest.raises(DataError, match="set a size"):
        predicted(cell(ImageDataset(ImageFolder(folder), CenterCrop(), seed=0)))


def test_a_picture_that_was_left_out_but_can_be_read_is_an_error(folder: Path) -> None:
    class Forgetful(Shelf):
        def batches(self, dataset: ImageDataset):
            yield from list(super().batches(dataset))[1:]

    subject = cell(ImageDataset(ImageFolder(folder), CenterCrop(), seed=0))
    shelf = Forgetful(batch_size=4, place=Place(CPU))
    with pytest.raises(DataError, match="4 pictures of clean were not shown exactly once"):
        said_by(Reader(), subject, shelf)


@pytest.mark.parametrize(("process", "faults"), [(0, 1), (1, 2)])
def test_a_process_reads_again_only_its_own_broken_pictures_and_a_message_the_first_few(
    folder: Path, process: int, faults: int
) -> None:
    """Positions 0, 1 and 3 are broken: the even ones are those of the first of two processes."""
    for number in (0, 1, 3):
        (folder / "0" / f"{number}.png").write_bytes(b"")
    subject = cell(ImageDataset(ImageFolder(folder), CenterCrop(), seed=0))
    with (
        patch.object(predicting, "add_up") as added,
        patch.object(predicting, "why_unreadable", side_effect=why_unreadable) as asked,
        pytest.raises(DataError, match="6 pictures of clean"),
    ):
        predicted(subject, place=Place(CPU, process, 2))
    assert [sum(values) for values in added.call_args.args[0][:2]] == [6 - faults, faults]
    assert asked.call_count == faults
    found = predicted(subject)
    with (
        patch.object(predicting, "NAMED", 2),
        patch.object(predicting, "why_unreadable", side_effect=why_unreadable) as asked,
        pytest.raises(DataError, match=r"3 of 12 .*\n.*0/0\.png.*\n.*0/1\.png.*\n  \.\.\.$"),
    ):
        refuse_unreadable(subject, found, allowed=2)
    assert asked.call_count == 2


def test_a_strict_shelf_refuses_what_cannot_be_read(folder: Path) -> None:
    (folder / "1" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1/2\.png"):
        predicted(cell(ImageDataset(ImageFolder(folder), CenterCrop(), seed=0)), strict=True)


class Odd(nn.Module):
    """Right, but for what it says of a picture of exactly half brightness."""

    def __init__(self, said: float) -> None:
        super().__init__()
        self.said = said

    def forward(self, images: Tensor) -> Tensor:
        is_half = (images[:, 0, 0, :1] - 0.5).abs() < 1e-4
        return torch.where(is_half, self.said * torch.ones(len(images), 10), Reader()(images))


@pytest.mark.parametrize("said", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_outputs_that_are_no_numbers_are_an_error_and_no_class(said: float, autocast: torch.dtype | None) -> None:
    """Whatever the precision, clean or changed; NaN as the largest of all outputs would be class 0."""

    class Flattened(Clean):
        def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
            return torch.where((ids == 7)[:, None, None, None], 0.5, images)

    shelf = Shelf(batch_size=5, place=Place(CPU))
    for change, message in ((Clean(), None), (Flattened(), r"1 of 5 pictures of changed in one batch, .*7")):
        subject = replace(cell(written(10), change=change), name="changed")
        model = Classifier(Odd(said), CPU, autocast)
        with nullcontext() if message is None else pytest.raises(DivergenceError, match=message):
            predict({0: model}, subject, shelf, advance=lambda count: None)


def test_masked_outputs_may_be_minus_infinity() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))

    class Masked(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return linear(images).masked_fill(torch.arange(10) > 4, -torch.inf)

    for change in (Clean(), FGSM(0.1)):
        found = said_by(Masked(), cell(written(5), change=change), Shelf(batch_size=5, place=Place(CPU)))
        assert (found.outputs["accuracy"] < 5).all()


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("change", [FGSM(0.02), PGD(0.02, 0.01, 4), PGD(0.15, 0.1, 3, norm="l2")])
def test_a_sure_model_is_as_robust_as_an_unsure_one(classes: int, change: Suite) -> None:
    """Its decisions are the same, whatever its logits are multiplied by. A float32 cross-entropy sees no gradient from 5 on."""
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(60, 190, (200, 3, 4, 4), dtype=np.uint8)
    weights = torch.from_numpy(numbers.normal(size=(classes, 48))).float()

    def linear(images: Tensor) -> Tensor:
        return 4 * (images - 0.5).flatten(1) @ weights.T

    targets = linear(torch.from_numpy(pixels) / 255).argmax(dim=1).numpy()
    source = ArraySource(pixels, targets, tuple("abcdefghij"[:classes]))
    subject = cell(ImageDataset(source, CenterCrop(), seed=0), change=change, views=(all_classes(classes),))
    robust = []
    for scale in (0.1, 1.0, 10.0, 100.0):
        model = Whole(lambda images, scale=scale: scale * linear(images))
        said = said_by(model, subject, Shelf(batch_size=200, place=Place(CPU)))
        robust.append((said.outputs["accuracy"] == targets).mean())
    assert 0.05 < robust[1] < 0.95
    # Of several wrong classes, which one is aimed at follows the scale a little, as it does for the cross-entropy itself.
    assert np.ptp(robust) <= (0.0 if classes == 2 else 0.08), robust
    assert np.ptp(robust[1:]) <= (0.0 if classes == 2 else 0.03), robust


def test_all_models_see_the_same_images_where_these_do_not_depend_on_the_model() -> None:
    """Three batches: made once each for two models, and attacked once each for every model."""

    class Blind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return -torch.arange(10.0).expand(len(images), 10)

    models = {name: Classifier(model, CPU) for name, model in (("reader", Reader()), ("blind", Blind()))}
    dataset, shelf = written(10, wrong=3), Shelf(batch_size=4, place=Place(CPU))
    for suite, made in ((Clean, 3), (FGSM, 6)):
        with patch.object(suite, "images", autospec=True, side_effect=lambda change, images, ids, loss_fn: images) as images:
            found = predict(models, cell(dataset, change=suite()), shelf, advance=lambda count: None)
        assert images.call_count == made
        assert [call.args[3] is None for call in images.call_args_list] == [suite is Clean] * made
        assert found["blind"].outputs["accuracy"].tolist() == [0] * 10
        assert found["reader"].outputs["accuracy"].tolist() != [0] * 10


def test_a_mask_leaves_outputs_and_classes_out() -> None:
    """Outputs 0 to 4 are looked at, and pictures of classes 0 to 2 count."""
    groups = np.where(np.arange(10) < 5, np.arange(10), NOTHING)
    view = View("accuracy", groups, np.where(np.arange(10) < 3, np.arange(10), NOTHING))
    found = predicted(cell(written(20), views=(view, View("accuracy_unmasked", np.arange(10), np.arange(10)))))
    assert set(found.outputs["accuracy"][found.targets > 4]) <= set(range(5))
    assert view.correct(found.targets, found.outputs["accuracy"]).tolist() == [True] * 6
    assert found.outputs["accuracy_unmasked"].tolist() == found.targets.tolist()


def test_outputs_that_share_a_group_are_all_right() -> None:
    """Classes 1 and 2 of the set are one: a picture of either is right where the model says one of the two."""
    groups = np.array([0, 1, 1, *range(3, 10)])
    view = View("accuracy", groups, groups)
    mistaken = Predictions(np.array([1, 2, 3]), {"accuracy": np.array([2, 1, 2])})
    assert view.correct(mistaken.targets, mistaken.outputs["accuracy"]).tolist() == [True, True, False]


def test_the_shelf_reads_a_set_once_and_gives_the_same_bits_again() -> None:
    dataset = written(10)
    shelf = Shelf(batch_size=3, place=Place(CPU))
    with patch.object(ImageDataset, "__getitems__", autospec=True, side_effect=ImageDataset.__getitems__) as fetched:
        first, again = list(shelf.batches(dataset)), list(shelf.batches(dataset))
    assert fetched.call_count == 4
    assert all(torch.equal(*pair) for one, other in zip(first, again, strict=True) for pair in zip(one, other, strict=True))


def test_a_set_that_is_too_large_for_the_shelf_is_read_again() -> None:
    dataset = written(10)
    shelf = Shelf(batch_size=3, place=Place(CPU), limit_bytes=1000)
    with patch.object(ImageDataset, "__getitems__", autospec=True, side_effect=ImageDataset.__getitems__) as fetched:
        assert [len(list(shelf.batches(dataset))) for _ in range(2)] == [4, 4]
    assert fetched.call_count == 8


def test_corruptions_depend_on_the_picture_and_not_on_the_batch() -> None:
    class Bytes(nn.Module):
        """Ten numbers that change with every pixel."""

        def forward(self, images: Tensor) -> Tensor:
            weights = torch.randn(10, images[0].numel(), generator=torch.Generator().manual_seed(0))
            return (images - images.mean(dim=(1, 2, 3), keepdim=True)).flatten(1) @ weights.T

    subject = cell(written(30), change=Corruption("gaussian_noise", 5))
    said = [said_by(Bytes(), subject, Shelf(batch_size=size, place=Place(CPU))) for size in (30, 7)]
    assert said[0].outputs["accuracy"].tolist() == said[1].outputs["accuracy"].tolist()
    assert len(set(said[0].outputs["accuracy"].tolist())) > 3


def test_an_attack_aims_at_what_counts_as_right() -> None:
    """The classes of the set are the model's in another order; an attack on the wrong ones would help the model."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.normal_()
    order = np.roll(np.arange(10), 3)
    shown: list[Tensor] = []

    class Kept(FGSM):
        def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
            assert loss_fn is not None
            attacked = super().images(images, ids, loss_fn)
            shown.append(loss_fn(attacked) - loss_fn(images))
            return attacked

    right = torch.from_numpy(order)
    shown_counts: list[int] = []
    with patch("dat.evaluation.predict.margin", side_effect=margin) as loss:
        subject = cell(written(10), change=Kept(0.1), views=(View("accuracy", np.arange(10), order),))
        predict({0: Classifier(linear, CPU)}, subject, Shelf(batch_size=10, place=Place(CPU)), advance=shown_counts.append)
    assert (shown[0] > 0).all()
    assert torch.equal(loss.call_args.args[1], right[torch.arange(10)])
    assert shown_counts == [10]
