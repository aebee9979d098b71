"""A task of your own: depth of each pixel, with a network, a loss and data that the package knows nothing of.

    python examples/own_task.py FILE_OR_NAME_OF_A_DISCRETIZER

All that a method needs of a task is `losses`: one loss per image. The rest is your own loop, and its targets are a tensor.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import dat


class Depth:
    """Mean absolute error of the depth of each pixel, image by image."""

    def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """One loss per image."""
        return (model(images) - targets).abs().mean(dim=(1, 2, 3))


def scenes(count: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures of a slope, and their depth: what is near is bright."""
    numbers = torch.Generator().manual_seed(0)
    slope, across = torch.rand(count, 1, 1, 1, generator=numbers), torch.linspace(0, 1, 16)
    depth = (slope * across).expand(count, 1, 16, 16)
    return (1 - depth + 0.1 * torch.randn(count, 3, 16, 16, generator=numbers)).clamp(0, 1), depth


def main(discretizer: dat.Discretizer) -> None:
    """Train with every method, and say how wrong each model is."""
    methods = [dat.Standard(), dat.RandomCodes(discretizer, rate=0.1), dat.AT(steps=1), dat.DAT(discretizer, alpha=0.4)]
    (images, depth), task = scenes(16), Depth()
    for method in methods:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
        for step in range(8):
            rows = torch.arange(4 * step, 4 * step + 4) % len(images)
            for loss in method(model, dat.Batch(images[rows], depth[rows]), task):
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        error = task.losses(model, images, depth).mean().item()
        print(f"{type(method).__name__}: {100 * error:.1f} % of the depth wrong")


if __name__ == "__main__":
    main(dat.load_discretizer(sys.argv[1] if len(sys.argv) > 1 else "cifar-f2-1024-fast"))
