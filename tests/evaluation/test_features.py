"""Nearest neighbours against a plain loop, a probe against scikit-learn, and every picture judged once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.errors import DivergenceError, UsageError
from dat.evaluation.features import Judge, NearestNeighbours, answers, check_neighbours, features_of, fit_probe
from dat.evaluation.predict import Shelf
from dat.evaluation.suites import FGSM, Clean, Corruption
from dat.types import Place

CLASSES = 3


def blobs(count: int, *, seed: int, depth: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centres = 1.2 * torch.randn(CLASSES, depth, generator=torch.Generator().manual_seed(0))
    return centres[labels] + torch.randn(count, depth, generator=generator), labels


def test_neighbours_vote_as_in_a_plain_loop() -> None:
    (bank, labels), (queries, _) = blobs(40, seed=1), blobs(9, seed=2)
    k, temperature = 5, 0.2
    expected = []
    for query in queries.double().numpy():
        cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in bank.double().numpy()]
        best = sorted(range(len(bank)), key=lambda index, c=cosines: -c[index])[:k]
        votes = [sum(math.exp(cosines[i] / temperature) for i in best if labels[i] == c) for c in range(CLASSES)]
        expected.append([vote / sum(votes) for vote in votes])
    found = NearestNeighbours(bank, labels, CLASSES, k, temperature).votes(queries)
    torch.testing.assert_close(found / found.sum(dim=1, keepdim=True), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e3])
def test_no_length_and_no_temperature_breaks_the_votes(temperature: float) -> None:
    """Where float32 weights overflow, libraries say the classes 0, 1, 2, ... for every query."""
    (bank, labels), (queries, _) = blobs(40, seed=1), blobs(9, seed=2)
    votes = NearestNeighbours(1e4 * bank, labels, CLASSES, 1, temperature).votes(1e-4 * queries)
    assert votes.isfinite().all()
    nearest = NearestNeighbours(bank, labels, CLASSES, 1, 0.1).nearest(queries)[:, 0]
    assert torch.equal(votes.argmax(dim=1), labels[nearest])


def test_the_probe_is_the_logistic_regression_of_scikit_learn() -> None:
    (bank, labels), (queries, _) = blobs(60, seed=1), blobs(20, seed=2)
    decay = 1e-2
    probe = fit_probe(bank, labels, CLASSES, decay=decay)
    mean, deviation = bank.double().mean(0), bank.double().std(0, correction=0)
    theirs = LogisticRegression(C=1 / (decay * len(bank)), tol=1e-10, max_iter=1000)
    theirs.fit(((bank - mean) / deviation).numpy(), labels.numpy())
    expected = theirs.predict_proba(((queries - mean) / deviation).numpy())
    np.testing.assert_allclose(probe(queries.double()).softmax(dim=1).numpy(), expected, atol=1e-5)
    again = fit_probe(bank, labels, CLASSES, decay=decay)
    assert torch.equal(probe.weights, again.weights)
    assert torch.equal(probe.bias, again.bias)


def test_a_feature_that_never_varies_is_left_out() -> None:
    bank, labels = blobs(60, seed=1)
    probe = fit_probe(torch.cat([bank, torch.full((60, 1), 0.1)], dim=1), labels, CLASSES)
    assert (probe.weights[:, -1] == 0).all()
    torch.testing.assert_close(probe.weights[:, :-1], fit_probe(bank, labels, CLASSES).weights, rtol=1e-4, atol=1e-5)


class Colours(nn.Module):
    """Mean colours, spread a little: features with a gradient."""

    def forward(self, images: Tensor) -> Tensor:
        return 3 * images.mean(dim=(2, 3)) - 1


def pictures(count: int, *, seed: int) -> ImageDataset:
    """A class is which colour is brightest, mostly."""
    numbers, labels = np.random.default_rng(seed), np.arange(count) % CLASSES
    images = numbers.integers(60, 200, (count, CLASSES, 32, 32))
    images[np.arange(count), labels] += 6
    return ImageDataset(ArraySource(images.astype(np.uint8), labels, tuple("rgb")), CenterCrop(), seed=0)


def judge() -> Judge:
    shelf = Shelf(batch_size=7, place=Place(torch.device("cpu")))
    bank, labels = features_of(Colours(), pictures(60, seed=0), shelf, advance=lambda count: None)
    return Judge(Colours(), NearestNeighbours(bank, labels, CLASSES, 5, 0.1), fit_probe(bank, labels, CLASSES))


def test_the_bank_is_in_the_order_of_the_set() -> None:
    dataset, shown = pictures(10, seed=0), list[int]()
    bank, labels = features_of(Colours(), dataset, Shelf(batch_size=4, place=Place(torch.device("cpu"))), advance=shown.append)
    expected = [Colours()(dataset[(0, row)][0])[0] for row in range(10)]
    torch.testing.assert_close(bank, torch.stack(expected))
    assert labels.tolist() == dataset.source.targets.tolist()
    assert shown == [4, 4, 2]


def test_each_picture_is_judged_once_and_an_attack_goes_through_the_probe() -> None:
    found, dataset, advanced = judge(), pictures(20, seed=1), list[int]()
    raw = Judge(nn.Flatten(), found.neighbours, None)
    suites = {"clean": Clean(), "fgsm": FGSM(8 / 255), "c": Corruption("contrast", 5)}
    said = {}
    for name, suite in suites.items():
        shelf = Shelf(batch_size=6, place=Place(torch.device("cpu")))
        said[name] = answers({"ours": found}, dataset, suite, shelf, advance=advanced.append)
    assert sum(advanced) == 60
    clean, attacked = (said[name]["ours"] for name in ("clean", "fgsm"))
    images, labels, _ = dataset.__getitems__([(0, row) for row in range(20)])
    assert clean.targets.tolist() == labels.tolist()
    assert clean.outputs["probe"].tolist() == found.says(images)["probe"].tolist()
    assert clean.outputs["knn"].tolist() == found.says(images)["knn"].tolist()
    assert (attacked.outputs["probe"] == attacked.targets).sum() < (clean.outputs["probe"] == clean.targets).sum()
    gradient_step = found.shown(FGSM(8 / 255), images, labels, torch.arange(20))
    assert (gradient_step - images).abs().max() <= 8 / 255 + 1e-6
    assert attacked.outputs["knn"].tolist() == found.says(gradient_step)["knn"].tolist()
    shelf = Shelf(batch_size=6, place=Place(torch.device("cpu")))
    assert set(answers({"raw": raw}, dataset, FGSM(), shelf, advance=advanced.append)) == set()


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: check_neighbours(0, 0.1), "k is 0; write how many neighbours vote"),
        (lambda: NearestNeighbours(*blobs(4, seed=0), CLASSES, 5), "k is 5, but the bank has 4 pictures; write 4 or less"),
        (lambda: check_neighbours(1, 0.0), r"temperature is 0\.0, and similarities are divided by it"),
        (lambda: check_neighbours(1, -0.1), r"temperature is -0\.1"),
        (lambda: check_neighbours(1, math.nan), "temperature is nan"),
        (lambda: fit_probe(*blobs(4, seed=0), CLASSES, decay=-1.0), r"decay is -1\.0"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        act()


def test_features_that_are_no_numbers_are_refused() -> None:
    bank, labels = blobs(6, seed=0)
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        fit_probe(bank / 0.0, labels, CLASSES)
    with pytest.raises(DivergenceError, match="features of a test picture are NaN or infinite"):
        judge().says(torch.full((1, 3, 8, 8), math.nan))
