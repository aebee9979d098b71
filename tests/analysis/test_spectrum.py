"""Frequencies, sizes and colours of perturbations: against known signals, NumPy and counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import dat
from dat.analysis.spectrum import (
    colours,
    patch_of,
    power,
    radial_curve,
    radii,
    ring_centres,
    share_above,
    spectrum,
    white_share,
)
from dat.errors import UsageError


def noise(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wave(height: int, width: int, down: int, right: int) -> Tensor:
    """So many whole waves along each side, grey."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phase = 2 * math.pi * (down * rows / height + right * columns / width)
    return phase.double().cos().expand(1, 3, height, width)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (15, 20), (33, 7)])
def test_energy_is_that_of_the_pixels(height: int, width: int) -> None:
    delta = noise(4, height, width)
    torch.testing.assert_close(power(delta).sum(dim=(1, 2)), delta.square().sum(dim=(1, 2, 3)))  # Parseval
    expected = np.abs(np.fft.fftshift(np.fft.fft2(delta.numpy()), axes=(2, 3))) ** 2 / (height * width)
    np.testing.assert_allclose(power(delta).numpy(), expected.sum(axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (15, 20)])
@pytest.mark.parametrize(("down", "right"), [(3, 0), (0, 5), (2, -4), (7, 7)])
def test_a_wave_lands_in_its_bin(height: int, width: int, down: int, right: int) -> None:
    energy = power(wave(height, width, down, right))[0]
    centre = (height // 2, width // 2)
    places = {(centre[0] + sign * down, centre[1] + sign * right) for sign in (1, -1)}
    found = {(int(row), int(column)) for row, column in (energy > 1e-9 * energy.max()).nonzero()}
    assert found == places
    radius = math.hypot(down / height, right / width)
    assert [float(radii(height, width)[place]) for place in places] == pytest.approx([radius] * 2)
    curve = radial_curve(energy[None])[0]
    assert int(curve.argmax()) == round(radius * min(height, width))
    assert ring_centres(height, width)[int(curve.argmax())] == pytest.approx(radius, abs=0.5001 / min(height, width))
    assert float(share_above(energy[None], 0.25)) == pytest.approx(float(radius > 0.25), abs=1e-9)


def test_shares_are_of_energy_and_not_of_amplitude() -> None:
    both = wave(32, 32, 2, 0) + 3 * wave(32, 32, 0, 12)
    assert float(share_above(power(both), 0.25)) == pytest.approx(9 / 10)
    found = spectrum(torch.full((1, 3, 32, 32), 0.5, dtype=torch.float64), 0.5 + both / 10)
    assert float(found.above_half_nyquist) == pytest.approx(90)


def test_a_constant_shift_is_frequency_0() -> None:
    energy = power(torch.full((1, 3, 16, 16), 0.1, dtype=torch.float64))[0]
    assert (energy > 1e-12).nonzero().tolist() == [[8, 8]]
    assert radii(16, 16)[8, 8] == 0


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_white_noise_is_flat(height: int, width: int) -> None:
    energy = power(noise(400, height, width))
    curve = radial_curve(energy)
    assert len(curve[0]) == len(ring_centres(height, width))
    torch.testing.assert_close(curve.mean(dim=0), torch.ones_like(curve[0]), atol=0.08, rtol=0)
    counted = sum(
        math.hypot(down, right) > 0.25 for down in np.fft.fftfreq(height).tolist() for right in np.fft.fftfreq(width).tolist()
    ) / (height * width)
    assert white_share(height, width, 0.25) == pytest.approx(counted, abs=1e-12)
    assert float(share_above(energy, 0.25).mean()) == pytest.approx(counted, abs=0.002)


def test_the_curve_is_a_plain_loop_over_rings() -> None:
    energy, side = power(noise(1, 12, 18)), 12
    ring = np.rint(radii(12, 18).numpy() * side).astype(int)
    values = energy[0].numpy()
    expected = [values[ring == k].mean() / values.mean() for k in range(ring.max() + 1)]
    np.testing.assert_allclose(radial_curve(energy)[0].numpy(), expected)


def test_sizes_and_colours_are_counted() -> None:
    images = torch.full((2, 3, 28, 28), 0.5)
    perturbed = images.clone()
    perturbed[0, 1, 3, 4] += 0.1
    perturbed[0, 0, 3, 4] -= 0.2
    perturbed[0, :, 5, 6] += 0.001  # less than half a step of 8 bits
    perturbed[1, :, 12:16, 12:16] = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = spectrum(images, perturbed)
    assert found.l0.tolist() == pytest.approx([100 / 784, 1600 / 784])
    assert float(found.l2[0]) == pytest.approx(math.sqrt(0.05 + 3e-6), abs=1e-6)
    assert float(found.linf[0]) == pytest.approx(0.2, abs=1e-6)
    assert found.colours_before.tolist() == [1, 1]
    energy = power(perturbed.double() - images.double())
    torch.testing.assert_close(found.above_half_nyquist, 100 * share_above(energy, 0.25))
    assert found.white == 100 * white_share(28, 28, 0.25)
    assert found.colours.tolist() == [1, 17]


@pytest.mark.parametrize(("side", "patch"), [(224, 32), (32, 8), (28, 8), (3, 3)])
def test_the_patch_is_in_the_middle(side: int, patch: int) -> None:
    picture = torch.zeros(1, 3, side, side)
    assert patch_of(picture).shape[2:] == (patch, patch)
    first = (side - patch) // 2
    picture[..., first : first + patch, first : first + patch] = 1
    assert patch_of(picture).min() == 1
    assert colours(picture).tolist() == [1]


def test_colours_that_share_sums_are_told_apart() -> None:
    picture = torch.zeros(1, 3, 4, 4)
    for colour in range(3):
        picture[0, colour, 0, colour] = 1 / 255
    assert colours(picture).tolist() == [4]


def test_nothing_changed_has_no_frequencies() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = spectrum(images, images)
    assert found.above_half_nyquist.isnan().all()
    assert found.curve.isnan().all()
    assert found.l0.tolist() == found.l2.tolist() == found.linf.tolist() == [0, 0]


def test_pictures_of_other_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(1, 3, 8, 8\), perturbed ones \(1, 3, 9, 8\)"):
        spectrum(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 9, 8))
    with pytest.raises(UsageError, match="must lie in"):
        spectrum(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 2.0))


def test_it_is_public() -> None:
    assert dat.spectrum is spectrum
