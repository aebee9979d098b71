from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.augment import noise2net
from dat.augment.noise2net import Block, Shape

SHAPES = [[Shape(3, 2), Shape(1, 1), Shape(3, 1)]] * noise2net.BLOCKS


@pytest.mark.shared
def test_it_equals_the_source(golden: Callable[[str], Path]) -> None:
    folder = golden("noise2net")
    settings = json.loads((folder / "config.json").read_text())
    weights, stored = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")

    def kernels(name: str) -> Tensor:
        return weights[f"{name}.weight"].unflatten(0, (settings["batch_size"], -1))

    blocks = [
        Block(
            kernels(f"{name}.conv1"),
            tuple(kernels(f"{name}.convs.{place}") for place in range(3)),
            tuple(choice["dilation"] for choice in choices),
            kernels(f"{name}.conv3"),
        )
        for name, choices in settings["conv_choices"].items()
    ]
    torch.testing.assert_close(noise2net.bottleneck(stored["x"], blocks[0]), stored["block1_out"], atol=1e-5, rtol=1e-5)
    ours = noise2net.noise2net(stored["x"], blocks, epsilon=settings["epsilon"])
    torch.testing.assert_close(ours, stored["out"], atol=1e-5, rtol=1e-5)


def kernels_for(count: int) -> Tensor:
    return torch.rand(count, noise2net.count_of_numbers(SHAPES), generator=torch.Generator().manual_seed(0))


def test_kernels_are_distributed_as_pytorch_begins() -> None:
    """By the layer whose initialisation the source calls: same bound, same deviation, all numbers used once."""
    blocks = noise2net.random_blocks(kernels_for(4), SHAPES)
    for kernels, layer in [
        (blocks[0].squeeze, nn.Conv2d(3, 64, 1)),
        (blocks[1].hidden[0], nn.Conv2d(16, 16, 3)),
        (blocks[2].hidden[1], nn.Conv2d(16, 16, 1)),
        (blocks[3].expand, nn.Conv2d(64, 3, 1)),
    ]:
        assert kernels.shape[1:] == layer.weight.shape
        bound = (1 / layer.weight[0].numel()) ** 0.5
        assert layer.weight.abs().max() <= bound
        assert 0.95 * bound < kernels.abs().max() <= bound
        assert abs(kernels.std().item() - bound / 3**0.5) < 0.1 * bound
    used = sum(part.numel() for block in blocks for part in (block.squeeze, *block.hidden, block.expand))
    assert used == 4 * noise2net.count_of_numbers(SHAPES)


def test_shapes_are_drawn_from_both_kernels_and_three_dilations() -> None:
    numbers = torch.rand(24, generator=torch.Generator().manual_seed(0)).tolist()
    shapes = noise2net.random_shapes(numbers)
    assert [len(block) for block in shapes] == [3, 3, 3, 3]
    assert {shape.kernel for block in shapes for shape in block} == {1, 3}
    assert {shape.dilation for block in shapes for shape in block} == {1, 2, 3}
    assert noise2net.random_shapes([0.5, 0.99, 0.49, 0.0, 0.0, 0.34])[0] == [Shape(3, 3), Shape(1, 1), Shape(1, 2)]


def test_images_are_distorted_each_by_its_own_network() -> None:
    images = torch.rand(1, 3, 12, 10).expand(3, -1, -1, -1)
    result = noise2net.distorted(images, kernels_for(3), SHAPES, epsilon=0.5)
    assert result.shape == images.shape
    assert 0 <= result.min() <= result.max() <= 1
    assert (result[0] - result[1]).abs().mean() > 0.02
    alone = noise2net.distorted(images[1:2], kernels_for(3)[1:2], SHAPES, epsilon=0.5)
    torch.testing.assert_close(alone[0], result[1])
    torch.testing.assert_close(noise2net.distorted(images, kernels_for(3), SHAPES, epsilon=0.0), images)


def test_autocast_changes_nothing() -> None:
    images = torch.rand(2, 3, 12, 10)
    expected = noise2net.distorted(images, kernels_for(2), SHAPES, epsilon=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(noise2net.distorted(images, kernels_for(2), SHAPES, epsilon=0.5), expected)
