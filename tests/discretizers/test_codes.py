import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dat.discretizers.codes import changed, modified_code_rate, resample, usage
from dat.errors import UsageError


def test_modified_codes_are_counted_per_image() -> None:
    before = torch.zeros(2, 2, 5, dtype=torch.int64)
    after = before.clone()
    after[1, 0, :3] = 7
    assert changed(before, after).sum().item() == 3
    assert modified_code_rate(before, after).tolist() == pytest.approx([0.0, 0.3])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 50), rate=st.floats(0, 1))
def test_resampled_codes_differ_exactly_where_chance_says(seed: int, size: int, rate: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(size, (2, 5, 4), generator=generator)
    chance, choice = torch.rand(2, 2, 5, 4, generator=generator)
    after = resample(codes, size, rate, chance, choice)
    assert torch.equal(changed(codes, after), chance < rate)
    assert after.min() >= 0
    assert after.max() < size


def test_the_other_codes_are_equally_likely_and_the_rate_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.full((1, 300, 300), 2)
    chance, choice = torch.rand(2, 1, 300, 300, generator=generator)
    after = resample(codes, 5, 0.4, chance, choice)
    assert modified_code_rate(codes, after).item() == pytest.approx(0.4, abs=0.01)
    counts = torch.bincount(after.flatten(), minlength=5) / after.numel()
    assert counts.tolist() == pytest.approx([0.1, 0.1, 0.6, 0.1, 0.1], abs=0.005)


def test_the_largest_number_below_one_is_a_code_of_a_huge_codebook() -> None:
    codes, size = torch.zeros(1, 1, 1, dtype=torch.int64), 2**18
    last = torch.full((1, 1, 1), 1.0).nextafter(torch.zeros(()))
    assert 0 < resample(codes, size, 1.0, last, last).item() < size


@pytest.mark.parametrize(("size", "rate", "message"), [(5, 1.5, "1.5"), (5, -0.1, "-0.1"), (1, 0.5, "codebook of 1")])
def test_impossible_rates_are_refused(size: int, rate: float, message: str) -> None:
    numbers = torch.zeros(1, 1, 1)
    with pytest.raises(UsageError, match=message):
        resample(torch.zeros(1, 1, 1, dtype=torch.int64), size, rate, numbers, numbers)


def test_usage_of_known_codes() -> None:
    even = usage(torch.arange(8).view(1, 2, 4), 8)
    assert (even.fraction, even.dead) == (1.0, ())
    assert even.perplexity == pytest.approx(8)
    single = usage(torch.full((2, 3, 3), 1), 4)
    assert (single.fraction, single.dead) == (0.25, (0, 2, 3))
    assert single.perplexity == pytest.approx(1)
    skewed = usage(torch.tensor([[[0, 0, 0, 1]]]), 2)
    assert skewed.perplexity == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
