from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dat.errors import UsageError
from dat.nn.patch_discriminator import PatchDiscriminator, smallest_side

Golden = Callable[[str], Path]


@pytest.mark.shared
def test_is_tamings_network(golden: Golden) -> None:
    folder = golden("patchgan")
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    discriminator = PatchDiscriminator(layers=3, width=4)
    discriminator.load_state_dict(weights)
    torch.testing.assert_close(discriminator(io["real"]), io["logits_real_train"], atol=1e-4, rtol=0)
    torch.testing.assert_close(discriminator(io["fake"]), io["logits_fake_train"], atol=1e-4, rtol=0)
    # The stored statistics are those after both forward passes, whatever their name says.
    for key, value in io.items():
        if key.startswith("after_first_train_forward."):
            given = discriminator.state_dict()[key.removeprefix("after_first_train_forward.")]
            torch.testing.assert_close(given, value, atol=1e-5, rtol=0)
    discriminator.load_state_dict(weights)
    discriminator.eval()
    for name in ("real", "fake"):
        torch.testing.assert_close(discriminator(io[name]), io[f"logits_{name}_eval"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_image_has_one_patch_and_a_smaller_one_is_refused(layers: int) -> None:
    discriminator, side = PatchDiscriminator(layers=layers, width=4).eval(), smallest_side(layers)
    assert discriminator(torch.rand(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(UsageError, match=f"{side - 1}x{side} are too small.*{side} pixels"):
        discriminator(torch.rand(1, 3, side - 1, side))


def test_widths_double_up_to_eight_times() -> None:
    network = PatchDiscriminator(layers=5, width=2)
    assert [part.out_channels for part in network.main if isinstance(part, nn.Conv2d)] == [2, 4, 8, 16, 16, 16, 1]


def test_starts_from_the_published_distribution() -> None:
    network = PatchDiscriminator(layers=3, width=64)
    convolution, norm = network.main[8], network.main[9]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.weight.mean().item() == pytest.approx(1.0, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not norm.bias.any()


def test_no_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="with 0 layers"):
        PatchDiscriminator(layers=0)
