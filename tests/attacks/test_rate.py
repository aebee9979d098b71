"""The length of a step that changes a wanted share of the codes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dat.analysis.codes import discrete_change
from dat.attacks.discrete import discrete_adversary
from dat.attacks.rate import Rate, Step, check_rate, gain_of, length_for, searched
from dat.discretizers.codes import modified_code_rate
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.errors import UsageError
from dat.tasks.classification import Classification
from dat.types import LossFn

torch.set_num_threads(1)  # the tensors are tiny


class Grid:
    """Each pixel's first channel, in `levels` equal steps, is its code: what a shift changes can be counted by hand."""

    stride = 1

    def __init__(self, levels: int) -> None:
        self.codebook_size, self.asked = levels, 0

    def encode(self, images: Tensor) -> Tensor:
        self.asked += 1
        return (images[:, 0] * self.codebook_size).long().clamp(max=self.codebook_size - 1)

    def decode(self, codes: Tensor) -> Tensor:
        return ((codes + 0.5) / self.codebook_size)[:, None].expand(-1, 3, -1, -1).float()

    def __call__(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def brightness(shown: Tensor) -> Tensor:
    return shown[:, 0].mean(dim=(1, 2))


def shifted(shown: Tensor, loss_fn: LossFn = brightness) -> Step:
    return Step(shown, lambda length: (shown + length).clamp(0, 1), loss_fn, 1.0)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.4, 0.7])
@pytest.mark.parametrize("start", [None, 1e-4, 0.9])
def test_a_shift_is_as_long_as_the_share_of_a_cell_says(rate: float, start: float | None) -> None:
    """A shift by s of a cell's width changes a share s of uniform values, but of those in the last cell."""
    grid, parts = Grid(64), images(64).split(16)
    length, share = length_for(rate, [shifted(part) for part in parts], grid, start=start)
    assert share == pytest.approx(rate, rel=0.021)
    assert length * 63 == pytest.approx(rate, abs=0.02 * rate + 3 * math.sqrt(rate / 64 / 256))  # three standard errors
    met = torch.cat([modified_code_rate(grid.encode(part), grid.encode((part + length).clamp(0, 1))) for part in parts])
    assert float(met.mean()) == pytest.approx(share, abs=1e-6)


def test_a_good_start_costs_little() -> None:
    grid = Grid(64)
    length, _ = length_for(0.1, [shifted(images())], grid)
    before = grid.asked
    assert length_for(0.1, [shifted(images())], grid, start=length)[0] == length
    assert grid.asked - before == 2  # the pictures, and one trial


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("start", [1e-9, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_any_curve_is_climbed_from_anywhere_in_few_trials(rate: float, start: float, power: float) -> None:
    trials: list[float] = []

    def share(length: float) -> float:
        trials.append(length)
        return 1 - math.exp(-(length**power))

    length, met = searched(share, rate, start=start, longest=100.0, grain=1e-6)
    assert met == pytest.approx(rate, rel=0.02)
    assert 1 - math.exp(-(length**power)) == met
    assert len(trials) <= 30


def test_what_no_step_reaches_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"A rate of 0\.9 is out of reach: a step of alpha 1 changes 0\.5 of the codes"):
        length_for(0.9, [shifted(images())], Grid(2))


def test_less_than_a_code_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"A rate of 0\.001 is less than one of the 256 codes .* write 0\.0039 or more"):
        length_for(0.001, [shifted(images(1))], Grid(16))


def test_a_share_that_is_passed_over_is_a_sentence() -> None:
    """All pixels lie in one place: all codes change at once."""
    with pytest.raises(UsageError, match=r"A rate of 0\.1 is passed over: just below alpha 0\.25 .* changes 0 .* there 1;"):
        length_for(0.1, [shifted(torch.full((2, 3, 8, 8), 0.25))], Grid(2))


def test_the_nearest_share_of_few_codes_is_taken() -> None:
    """Ten codes change one after the other: of 0.23 the nearest is 0.2."""
    assert searched(lambda length: math.floor(10 * length) / 10, 0.23, start=0.5, longest=1.0, grain=0.1)[1] == 0.2


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_rates_that_are_none_are_sentences(rate: float) -> None:
    with pytest.raises(UsageError, match=f"rate is {rate}, but it is the share of the codes"):
        Rate(rate)
    with pytest.raises(UsageError, match=f"rate is {rate}"):
        length_for(rate, [shifted(images())], Grid(4))
    with pytest.raises(UsageError, match="pictures is 0"):
        Rate(0.1, pictures=0)


@pytest.mark.parametrize("rate", ["0.1", True])
def test_a_rate_that_is_no_number_is_a_sentence(rate: Any) -> None:
    unchecked: Any = getattr(check_rate, "__wrapped__", check_rate)  # types are checked while tests run
    with pytest.raises(UsageError, match=f"modified is {rate!r}, but it is the share of the codes"):
        unchecked(rate, "modified")


def test_the_gain_is_that_of_the_loss_after_the_discretizer() -> None:
    grid, shown = Grid(64), images()
    expected = (brightness(grid((shown + 0.1).clamp(0, 1))) - brightness(grid(shown))).mean()
    assert gain_of(0.1, [shifted(part) for part in shown.split((3, 5))], grid) == pytest.approx(float(expected), rel=1e-5)


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()


def losses_of(model: nn.Module, labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda shown: nn.functional.cross_entropy(model(shown), labels, reduction="none")


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_discrete_adversary_changes_the_share_that_is_asked_for(rate: float) -> None:
    model, labels, grid, given = classifier(), torch.arange(8) % 5, Grid(32), []

    def loss_fn(shown: Tensor) -> Tensor:
        given.append(shown)
        return losses_of(model, labels)(shown)

    state = torch.get_rng_state()
    found = discrete_adversary(images(), loss_fn, grid, modified=rate)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(given) == 1  # one gradient, whatever is tried
    met = modified_code_rate(grid.encode(images()), grid.encode(found))
    assert float(met.mean()) == pytest.approx(rate, rel=0.05)
    by_hand = discrete_change(model, Classification(), grid, images(), labels, alpha=length_of(model, labels, grid, rate))
    assert by_hand.rate == pytest.approx(100 * rate, rel=0.05)


def length_of(model: nn.Module, labels: Tensor, grid: Grid, rate: float) -> float:
    """By halves, with `discrete_adversary` as it is called with an alpha."""
    low, high = 0.0, 30.0
    for _ in range(30):
        middle = (low + high) / 2
        stepped = discrete_adversary(images(), losses_of(model, labels), grid, alpha=middle)
        met = float(modified_code_rate(grid.encode(images()), grid.encode(stepped)).mean())
        low, high = (middle, high) if met < rate else (low, middle)
    return high


def test_several_steps_are_sought_as_well() -> None:
    model, labels, grid = classifier(), torch.arange(8) % 5, Grid(32)
    found = discrete_adversary(images(), losses_of(model, labels), grid, modified=0.1, steps=3)
    assert float(modified_code_rate(grid.encode(images()), grid.encode(found)).mean()) == pytest.approx(0.1, rel=0.05)


def test_codes_are_counted_in_float32() -> None:
    """In bfloat16 rounding changes codes on its own; the share is that of the step."""
    network = load_discretizer("cifar-f2-1024-fast").network
    exact, shown, seen = FrozenDiscretizer(network), images(4), list[Tensor]()

    class Recording(FrozenDiscretizer):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    discrete_adversary(shown, brightness, Recording(network, precision=torch.bfloat16), modified=0.1)
    met = modified_code_rate(exact.encode(shown), exact.encode(seen[-1]))
    assert float(met.mean()) == pytest.approx(0.1, abs=0.004)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "alpha is None and modified is None; write one of them"),
        ({"alpha": 0.1, "modified": 0.1}, r"alpha is 0\.1 and modified is 0\.1; write one of them"),
        ({"modified": 0.0}, r"modified is 0\.0, but it is the share of the codes"),
        ({"modified": 1.0}, r"modified is 1\.0, but it is the share of the codes"),
        ({"modified": 0.1, "gradient_scale": "raw"}, "gradient_scale is 'raw', whose alpha is a factor"),
        ({"modified": 0.1, "step_size": 0.1}, r"step_size is 0\.1, a length, but alpha is sought"),
    ],
)
def test_settings_without_a_meaning_are_sentences(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        discrete_adversary(images(), brightness, Grid(32), **settings)
