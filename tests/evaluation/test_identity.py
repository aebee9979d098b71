"""Which model it is: its form, its tensors, also those that no file keeps, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dat.evaluation.identity import TOLERANCE, answers_of, are_alike, checkpoint_hash, known_as
from dat.evaluation.predict import Classifier
from dat.nn.norm import Normalized

HALF = (0.5, 0.5, 0.5)


def network(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


class Drawing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) + torch.rand(len(images), 3)


def classifier(model: nn.Module) -> Classifier:
    return Classifier(model, torch.device("cpu"))


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "weights": lambda: Normalized(nn.Sequential(network(nn.ReLU()), nn.Linear(5, 5)), mean=HALF, std=HALF),
    "architecture": lambda: Normalized(network(nn.GELU()), mean=HALF, std=HALF),
    "mean": lambda: Normalized(network(nn.ReLU()), mean=(0.4, 0.5, 0.5), std=HALF),
    "std": lambda: Normalized(network(nn.ReLU()), mean=HALF, std=(0.5, 0.5, 0.2)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_model_has_another_hash(what: str) -> None:
    hashes = [checkpoint_hash(Normalized(network(nn.ReLU()), mean=HALF, std=HALF)) for _ in range(2)]
    assert hashes[0] == hashes[1] != checkpoint_hash(OTHERS[what]())


def test_an_address_in_its_description_is_no_part_of_a_model() -> None:
    class Described(nn.Module):
        def extra_repr(self) -> str:
            return f"{partial(F.relu)} {object()}"

    assert checkpoint_hash(Described()) == checkpoint_hash(Described())


def test_rounding_is_the_same_model_and_changed_code_is_not() -> None:
    model = network(nn.ReLU())
    answers = answers_of(classifier(model), 8, 9)
    assert answers.shape == (4, 5)
    assert are_alike(answers, answers_of(classifier(model), 8, 9))
    assert are_alike(answers, answers * np.float32(1 + 1e-5))
    assert not are_alike(answers, answers + np.float32(2 * TOLERANCE * answers.std()))
    assert not are_alike(answers, answers[:, :4])
    wrong = np.where(answers == answers.max(), np.nan, answers).astype(np.float32)
    assert are_alike(wrong, wrong)
    assert not are_alike(wrong, answers)
    assert not are_alike(answers, wrong)


def test_a_model_that_draws_answers_alike_and_takes_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    first, second = (answers_of(classifier(Drawing()), 8, 8) for _ in range(2))
    assert are_alike(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_model_keeps_its_name_and_another_gets_one_of_its_own() -> None:
    one, two, three = (np.random.default_rng(seed).normal(size=(4, 5)).astype(np.float32) for seed in range(3))
    known = {"abc": one}
    assert known_as({}, "abc", one) == known_as(known, "abc", one) == "abc"
    known[name := known_as(known, "abc", two)] = two
    assert known_as(known, "abc", two) == name != "abc"
    assert known_as(known, "abc", one) == "abc"
    assert known_as(known, "abc", three) not in known
    assert known_as(known, "def", two) == "def"
