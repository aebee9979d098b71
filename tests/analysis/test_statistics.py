"""Correlations of the statistics at normalisation layers: against SciPy and plain arithmetic, and what must not count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from timm.layers.norm import LayerNorm2d as TimmLayerNorm2d
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FrozenBatchNorm2d

import dat
from dat.analysis.statistics import channel_axis, channel_statistics, likeness, pearson, statistics
from dat.errors import UsageError
from dat.nn.zoo import create_network


def images(count: int = 8, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def scipys(first: Any, second: Any) -> float:
    found: Any = scipy.stats.pearsonr(first, second)
    return float(found.statistic)


class Shifted(nn.Module):
    """Three fixed maps of the images, then a norm: what the layer is shown is known."""

    def __init__(self, channels: int = 6, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, channels, 3)
        self.norm = norm or nn.BatchNorm2d(channels)

    def forward(self, shown: Tensor) -> Tensor:
        return self.norm(self.convolution(shown))


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_the_correlation_is_scipys(scale: float) -> None:
    numbers = np.random.default_rng(0)
    first = numbers.normal(size=50)
    second = 0.7 * first + numbers.normal(size=50)
    expected = scipys(first, second)
    assert pearson(torch.tensor(scale * first), torch.tensor(second)) == pytest.approx(expected, abs=1e-12)
    assert pearson(torch.tensor(first), torch.tensor(-first)) == pytest.approx(-1, abs=1e-15)


def test_a_small_spread_in_float32_is_correlated_in_float64() -> None:
    numbers = np.random.default_rng(1)
    first, second = ((1 + 1e-6 * numbers.normal(size=30)).astype(np.float32) for _ in range(2))
    expected = scipys(first.astype(np.float64), second.astype(np.float64))
    assert pearson(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected, abs=1e-9)


def test_constant_vectors_and_pairs_have_no_correlation() -> None:
    flat, steep = torch.full((30,), 0.1, dtype=torch.float64), torch.linspace(0, 1, 30)
    assert np.corrcoef(flat.numpy(), flat.numpy())[0, 1] == 1.0  # which is why it is not asked
    assert all(math.isnan(pearson(*pair)) for pair in ((flat, flat), (flat, steep), (steep, flat)))
    flats = [torch.full((length,), 0.1, dtype=torch.float64) for length in range(3, 200)]  # of some the mean is not exactly 0.1
    assert all(math.isnan(pearson(one, one)) for one in flats)
    assert math.isnan(pearson(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 9.0])))


def test_statistics_are_those_that_batch_norm_takes() -> None:
    model, clean, other = Shifted(), images(), images(seed=1)
    found = statistics(model, clean, other)
    seen = []
    for shown in (clean, other):
        norm = nn.BatchNorm2d(6, momentum=1.0)
        norm(model.convolution(shown))
        seen.append((norm.running_mean, norm.running_var))
    assert norm.running_mean is not None
    for name, (first, second) in zip(("mean", "variance"), zip(*seen, strict=True), strict=True):
        expected = scipys(first.double(), second.double())
        assert getattr(found["norm"], name) == pytest.approx(expected, abs=1e-5)
    assert (found["norm"].channels, found["norm"].left_out) == (6, 0)


def test_the_variance_is_that_by_which_batch_norm_normalises() -> None:
    model, shown = Shifted(), images()
    found = channel_statistics(model, shown)["norm"]
    features = model.convolution(shown).detach().double().movedim(1, 0).flatten(1)
    assert found.variance.dtype == torch.float64
    torch.testing.assert_close(found.variance, features.var(dim=1, correction=0))
    torch.testing.assert_close(found.mean, features.mean(dim=1))


def test_a_constant_channel_is_left_out_and_counted() -> None:
    model, clean, other = Shifted(channels=8), images(), images(seed=1)
    whole = statistics(model, clean, other)["norm"]
    with torch.no_grad():
        model.convolution.weight[[2, 5]] = 0
        assert model.convolution.bias is not None
        model.convolution.bias[2], model.convolution.bias[5] = 50.0, -50.0  # two far points would correlate all by themselves
    found = statistics(model, clean, other)["norm"]
    assert (found.channels, found.left_out) == (8, 2)
    kept = [channel for channel in range(8) if channel not in (2, 5)]
    first, second = (channel_statistics(model, shown)["norm"].mean[kept] for shown in (clean, other))
    assert found.mean == pytest.approx(scipys(first, second), abs=1e-12)
    assert whole.left_out == 0


def test_a_channel_that_is_constant_in_one_batch_is_left_out() -> None:
    class Gate(nn.Module):
        """Channels are the red, green, blue and grey of the images."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, shown: Tensor) -> Tensor:
            return self.norm(torch.cat([shown, shown.mean(dim=1, keepdim=True)], dim=1))

    clean, other = images(), images(seed=1)
    other[:, 1] = 0.5
    found = statistics(Gate(), clean, other)["norm"]
    assert (found.channels, found.left_out) == (4, 1)


def test_layers_without_two_points_have_none() -> None:
    clean = channel_statistics(Shifted(channels=2), images())
    assert math.isnan(likeness(clean["norm"], clean["norm"]).mean)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.BatchNorm1d(5), (4, 5, 7), 1),
        (nn.BatchNorm2d(5), (4, 5, 7, 7), 1),
        (nn.GroupNorm(1, 5), (4, 5, 7, 7), 1),
        (nn.LayerNorm(5), (4, 7, 5), 2),
        (nn.LayerNorm(5), (4, 5), 1),
        (nn.LayerNorm(5), (4, 7, 7, 5), 3),
        (nn.LayerNorm([5, 7, 7]), (4, 5, 7, 7), 1),
        (nn.RMSNorm(5), (4, 7, 5), 2),
        (LayerNorm2d(5), (4, 5, 7, 7), 1),
        (TimmLayerNorm2d(5), (4, 5, 7, 7), 1),
        (FrozenBatchNorm2d(5), (4, 5, 7, 7), 1),
    ],
)
def test_channels_of_each_kind_of_layer(layer: nn.Module, shape: tuple[int, ...], axis: int) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert channel_axis(layer, features) == axis
    found = channel_statistics(nn.Sequential(nn.Identity(), layer), features)["1"]
    torch.testing.assert_close(found.mean, features.double().movedim(axis, 0).flatten(1).mean(dim=1))


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 20), ("vit_tiny_patch16_224", 25), ("convnext_atto", 17)])
def test_every_norm_of_networks_is_found(name: str, layers: int) -> None:
    options = {"img_size": 32} if name.startswith("vit") else {}
    model = create_network(name, num_classes=10, options=options)
    found = statistics(model, images(4, 32), images(4, 32, seed=1))
    assert len(found) == layers
    assert all(-1 <= one.mean <= 1 for one in found.values() if not math.isnan(one.mean))


def test_a_layer_that_runs_on_several_levels_counts_as_one() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(1, 3)

        def forward(self, shown: Tensor) -> list[Tensor]:
            return [self.norm(shown), self.norm(shown[..., ::2, ::2])]

    shown = images()
    found = channel_statistics(Levels(), shown)["norm"]
    values = torch.cat([part.double().movedim(1, 0).flatten(1) for part in (shown, shown[..., ::2, ::2])], dim=1)
    torch.testing.assert_close(found.mean, values.mean(dim=1))
    torch.testing.assert_close(found.variance, values.var(dim=1, correction=0))


def test_nothing_of_the_model_changes() -> None:
    model = Shifted().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    statistics(model, images(), images(seed=1))
    assert model.training
    assert model.norm.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.norm._forward_pre_hooks


def test_a_model_without_norms_is_refused() -> None:
    with pytest.raises(UsageError, match="Sequential has no normalisation layer"):
        statistics(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), images(), images())

    class Idle(Shifted):
        def forward(self, shown: Tensor) -> Tensor:
            return self.convolution(shown)

    with pytest.raises(UsageError, match="None of the normalisation layers of Idle runs"):
        statistics(Idle(), images(), images())


def test_it_is_public() -> None:
    assert dat.statistics is statistics
