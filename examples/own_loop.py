"""DAT in a training loop of one's own: a classifier of handwritten digits.

python examples/own_loop.py runs/demo/discretizer        (after `dat demo`)
"""

import argparse

import torch
from torch import nn

import dat
from dat.data.embedded import ArraySource, digits


def tensors(source: ArraySource) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1] and labels."""
    return torch.from_numpy(source.images).float() / 255, torch.from_numpy(source.targets)


def classifier() -> dat.Normalized:
    """A small network; the normalisation is inside, so that everything outside sees images in [0, 1]."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 128), nn.ReLU(), nn.Linear(128, 10))
    return dat.Normalized(network, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])


def train(model: nn.Module, discretizer: dat.Discretizer, *, alpha: float, epochs: int, pictures: int) -> None:
    """Algorithm 1 of the paper, in a plain loop."""
    images, labels = (tensor[:pictures] for tensor in tensors(digits("train")))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            x, y = images[rows], labels[rows]

            def loss_fn(x: torch.Tensor, y: torch.Tensor = y) -> torch.Tensor:
                return dat.cross_entropy(model(x), y)

            adversarial = dat.discrete_adversary(x, loss_fn, discretizer, alpha=alpha)
            optimizer.zero_grad()
            loss_fn(adversarial).mean().backward()
            optimizer.step()


def main() -> None:
    """Train, then say how often the classifier is right on test pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("discretizer", help="file or folder of a trained discretizer")
    parser.add_argument("--alpha", type=float, default=0.4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=1347, help="how many to train on")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = classifier()
    settings = {"alpha": options.alpha, "epochs": options.epochs, "pictures": options.pictures}
    train(model, dat.load_discretizer(options.discretizer), **settings)
    images, labels = tensors(digits("test"))
    with torch.inference_mode():
        right = (model(images).argmax(1) == labels).float().mean()
    print(f"{100 * right:.1f} % of {len(images)} test digits are right")


if __name__ == "__main__":
    main()
