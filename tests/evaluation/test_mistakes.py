"""Numbers of each class and of calibration, against scikit-learn's, torchmetrics' and plain arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from torchmetrics.functional.classification import binary_calibration_error, multiclass_accuracy, multiclass_calibration_error

from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.data.testsets.class_maps import NOTHING
from dat.errors import DataError
from dat.evaluation import store
from dat.evaluation.cells import UNREADABLE, Cell, Predictions, View, all_classes, answered, is_unchanged
from dat.evaluation.mistakes import BINS, OTHER, Answered, class_mean_accuracy, reliability
from dat.evaluation.suites import FGSM, Clean, Corruption

CLASSES = ("cat", "dog", "owl", "yak")


def made_up(count: int = 200, *, seed: int = 0, skill: float = 0.7) -> Answered:
    """No picture of the last class; the first is met most often."""
    numbers = np.random.default_rng(seed)
    targets = numbers.choice(3, count, p=[0.6, 0.3, 0.1])
    said = np.where(numbers.random(count) < skill, targets, numbers.integers(0, 4, count))
    return Answered(CLASSES, targets, said, numbers.random(count))


def test_the_confusion_matrix_is_that_of_scikit_learn() -> None:
    found = made_up()
    assert np.array_equal(found.confusion[:, :4], confusion_matrix(found.targets, found.said, labels=range(4)))
    assert not found.confusion[:, 4].any()
    assert found.accuracies[:3] == pytest.approx([100 * (found.said[found.targets == k] == k).mean() for k in range(3)])
    assert np.isnan(found.accuracies[3])


def test_what_is_no_class_of_the_set_has_the_last_column() -> None:
    found = Answered(CLASSES, np.array([0, 0, 1]), np.array([0, OTHER, OTHER]), None)
    assert found.confusion[:2].tolist() == [[1, 0, 0, 0, 1], [0, 0, 0, 0, 1]]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_the_mean_over_classes_is_the_balanced_accuracy() -> None:
    found = made_up()
    value, (low, high) = class_mean_accuracy(found)
    assert value == pytest.approx(100 * balanced_accuracy_score(found.targets, found.said))
    assert value != pytest.approx(100 * found.correct.mean(), abs=0.1)
    assert low < value < high


def test_where_each_class_has_pictures_it_is_the_macro_average_of_torchmetrics() -> None:
    found = made_up()
    among = Answered(CLASSES[:3], found.targets, np.where(found.said == 3, OTHER, found.said), None)
    preds = torch.from_numpy(np.where(found.said == 3, (found.targets + 1) % 3, found.said))
    expected = multiclass_accuracy(preds, torch.from_numpy(found.targets), num_classes=3, average="macro")
    assert class_mean_accuracy(among)[0] == pytest.approx(100 * float(expected), abs=1e-4)


def test_the_interval_of_a_class_mean_covers_it() -> None:
    numbers, truth, inside = np.random.default_rng(1), np.array([0.95, 0.6, 0.8]), 0
    targets = np.repeat(np.arange(3), [60, 20, 10])
    for _ in range(600):
        said = np.where(numbers.random(len(targets)) < truth[targets], targets, 3)
        _, (low, high) = class_mean_accuracy(Answered(CLASSES, targets, said, None))
        inside += low <= 100 * truth.mean() <= high
    assert 0.92 < inside / 600 < 0.99


def test_a_model_without_a_mistake_has_an_interval() -> None:
    value, (low, high) = class_mean_accuracy(Answered(CLASSES, np.arange(4), np.arange(4), None))
    assert (value, high) == (100, 100)
    assert low < 90


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    for seed in range(5):
        found = made_up(seed=seed)
        assert found.sure is not None
        expected = binary_calibration_error(
            torch.from_numpy(found.sure), torch.from_numpy(found.correct).int(), n_bins=BINS, norm="l1"
        )
        assert reliability(found.sure, found.correct).error == pytest.approx(100 * float(expected), abs=1e-4)


def test_bins_hold_each_picture_once_with_both_ends() -> None:
    sure = np.array([0.0, 0.05, 0.5, 1.0])
    found = reliability(sure, np.array([True, False, True, False]), bins=2)
    assert found.counts.tolist() == [2, 2]
    assert found.sure.tolist() == [0.025, 0.75]
    assert found.right.tolist() == [0.5, 0.5]
    assert found.error == pytest.approx(100 * (0.475 + 0.25) / 2)


def test_a_probability_of_one_is_in_the_last_bin_and_that_of_the_top_label_alone_counts() -> None:
    found = reliability(np.array([1.0, 0.95]), np.array([True, False]))
    assert np.flatnonzero(found.counts).tolist() == [BINS - 1]
    assert found.error == pytest.approx(100 * (0.975 - 0.5))


# ---- from logits


def logits_of(count: int = 64) -> torch.Tensor:
    return 2 * torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def test_how_sure_a_model_is_gives_the_error_of_its_probabilities() -> None:
    logits, targets = logits_of(), torch.arange(64) % 4
    view = all_classes(4)
    sure, outputs = view.confidence(logits), view.outputs(logits)
    assert sure == pytest.approx(logits.softmax(dim=1).amax(dim=1).numpy(), abs=1e-6)
    expected = multiclass_calibration_error(logits.softmax(dim=1), targets, num_classes=4, n_bins=BINS, norm="l1")
    assert reliability(sure, outputs == targets.numpy()).error == pytest.approx(100 * float(expected), abs=1e-3)
    assert view.confidence(logits, sigmoid=True) == pytest.approx(logits.sigmoid().amax(dim=1).numpy(), abs=1e-6)


def test_masked_outputs_have_no_probability_and_those_of_one_class_share_theirs() -> None:
    logits = logits_of()
    masked = View("accuracy", np.array([0, NOTHING, 2, NOTHING]), np.array([0, 2]))
    assert masked.confidence(logits) == pytest.approx(logits[:, [0, 2]].softmax(dim=1).amax(dim=1).numpy(), abs=1e-6)
    grouped = View("accuracy", np.array([7, 7, 2, 3]), np.array([7, 2]))
    shares = logits.softmax(dim=1)
    pairs = torch.stack([shares[:, 0] + shares[:, 1], shares[:, 0] + shares[:, 1], shares[:, 2], shares[:, 3]], dim=1)
    expected = pairs.gather(1, logits.argmax(dim=1, keepdim=True))[:, 0]
    assert grouped.confidence(logits) == pytest.approx(expected.numpy(), abs=1e-6)


def test_what_is_said_is_told_in_classes_of_the_set() -> None:
    view = View("accuracy", np.array([10, 11, 11, 12]), np.array([11, 10, NOTHING]))
    outputs = np.array([1, 2, 0, 3, 1, UNREADABLE, 0])
    said = Predictions(np.array([0, 0, 0, 1, 2, 0, 1]), {"accuracy": outputs}, np.linspace(0, 1, 7))
    found = answered(view, said, ("a", "b", "c"))
    assert found.targets.tolist() == [0, 0, 0, 1, 1]
    assert found.said.tolist() == [0, 0, 1, OTHER, 1]
    assert found.sure is not None
    assert found.sure.tolist() == np.linspace(0, 1, 7)[[0, 1, 2, 3, 6]].tolist()
    assert found.correct.tolist() == view.correct(said.targets, outputs).tolist()


def dataset() -> ImageDataset:
    return ImageDataset(ArraySource(np.zeros((4, 3, 2, 2), np.uint8), np.arange(4), CLASSES), CenterCrop(), seed=0)


@pytest.mark.parametrize(
    ("name", "change", "whole"),
    [
        ("clean", Clean(), True),
        ("v2/matched-frequency", Clean(), True),
        ("clean-c", Clean("clean-c"), False),
        ("c/fog/3", Clean(), False),
        ("c/fog/3", Corruption("fog", 3), False),
        ("fgsm", FGSM(), False),
    ],
)
def test_how_sure_a_model_is_is_kept_of_whole_sets_as_they_are(
    name: str, change: Clean | Corruption | FGSM, whole: bool
) -> None:
    assert is_unchanged(Cell(name, dataset(), change, (all_classes(4),))) is whole


# ---- on disk


def test_what_was_said_comes_back_from_the_store(tmp_path: Path) -> None:
    cell = Cell("clean", dataset(), Clean(), (all_classes(4),), {"data": "0"})
    said = Predictions(np.arange(4), {"accuracy": np.array([0, 1, 1, UNREADABLE])}, np.array([0.5, 0.25, 1.0, 0.0]))
    store.write_predictions(tmp_path, cell, said, "known")
    found = store.read_answered(tmp_path, "clean")
    assert (found.classes, found.targets.tolist(), found.said.tolist()) == (CLASSES, [0, 1, 2], [0, 1, 1])
    assert found.sure is not None
    assert found.sure.tolist() == [0.5, 0.25, 1.0]
    store.write_predictions(tmp_path, cell, Predictions(said.targets, said.outputs), "known")
    assert store.read_predictions(tmp_path, "clean").confidence is None
    with pytest.raises(DataError, match=r"clean\.npz does not say how sure the model was: an older version wrote it"):
        store.read_answered(tmp_path, "clean")
