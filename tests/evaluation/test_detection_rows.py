"""Numbers under corruption, and intervals: as by a plain loop, of the same drawn pictures in all cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dat.boxes import Found
from dat.data.annotated import AnnotatedPictures, Things
from dat.data.boxed import Letterbox
from dat.evaluation.coco_scores import CocoScores, coco_scores
from dat.evaluation.detection_rows import Bootstrap, BoxedCell, intervals_of, protocol_of, under_corruption
from dat.evaluation.suites import FGSM, Corruption


def source(count: int, sizes: list[tuple[int, int]] | None = None) -> AnnotatedPictures:
    """Pictures that nobody opens, with one thing each."""
    thing = Things(np.array([[10.0, 10, 60, 60]]), np.array([0]), np.array([2500.0]), np.array([False]), (1,))
    names, sides = [f"{number}.png" for number in range(count)], sizes or [(300, 300)] * count
    return AnnotatedPictures(Path("made.json"), Path(), names, sides, [thing] * count, ("box",), [*range(count)], [1])


def scores(hits: list[bool]) -> CocoScores:
    """The thing is found in some pictures, and elsewhere nothing."""
    right, wrong = torch.tensor([[10.0, 10, 60, 60]]), torch.zeros(0, 4)
    found = [Found(right if hit else wrong, torch.ones(int(hit)), torch.zeros(int(hit), dtype=torch.int64)) for hit in hits]
    return coco_scores(source(len(hits)), found)


def test_mean_performance_under_corruption_is_of_pairs() -> None:
    clean, worse = scores([True] * 15), scores([True] * 9 + [False] * 6)
    bootstrap = Bootstrap(200, seed=1)
    drawn = [bootstrap.drawn(one)["ap"] for one in (clean, worse, worse)]
    numbers = under_corruption(clean.numbers["ap"], [one.numbers["ap"] for one in (worse, worse)])
    together = under_corruption(drawn[0], drawn[1:])
    assert numbers["rpc"] == pytest.approx(100 * numbers["mpc"] / numbers["ap_clean"])
    np.testing.assert_allclose(together["mpc"], drawn[1])
    intervals = intervals_of(together)
    expected = np.percentile(drawn[1], [2.5, 97.5])
    assert intervals["mpc"] == pytest.approx(tuple(expected))
    share = np.array([weights[:9].sum() / 15 for weights in bootstrap.weights(15)])
    np.testing.assert_allclose(drawn[1], np.ceil(np.floor(share * 100 + 1e-9) + 1) / 101 * 100, atol=1e-9)


def test_there_is_no_share_of_nothing() -> None:
    assert set(under_corruption(0.0, [0.0])) == {"ap_clean", "mpc"}


def test_too_few_pictures_and_no_draws_give_no_interval_and_say_so() -> None:
    assert Bootstrap(50).drawn(scores([True] * 9)) == {}
    assert Bootstrap(0).drawn(scores([True] * 12)) == {}
    assert (Bootstrap().words(9), Bootstrap(0).words(12)) == ("none: fewer than 10 pictures", "none: no draws")
    assert intervals_of({"ap": np.full(3, np.nan), "ap50": np.array([np.nan, 2.0])}) == {"ap50": (2.0, 2.0)}


def test_a_protocol_says_what_was_climbed_and_whose_severities_pictures_of_several_sizes_have() -> None:
    frame = Letterbox(300, 320, squash=True)
    attacked = protocol_of(BoxedCell("fgsm", source(1), FGSM(2 / 255)), frame, "boxes")
    assert attacked == {
        "height": 300,
        "width": 320,
        "squash": True,
        "epsilon_255": 2,
        "norm": "linf",
        "steps": 1,
        "loss": "boxes",
    }
    fog = Corruption("fog", 2)
    alike = protocol_of(BoxedCell("c/fog/2", source(2), fog), frame, "all")
    mixed = protocol_of(BoxedCell("c/fog/2", source(2, [(300, 300), (40, 40)]), fog), frame, "all")
    assert alike["corruption_parameters"] == "imagenet-c"
    assert mixed["corruption_parameters"] == "cifar-10-c and imagenet-c"
    assert "loss" not in mixed
