"""How many visual words an adversary changes as alpha grows, on 32 test digits.

python examples/changed_codes.py runs/demo/discretizer        (after `dat demo`)
"""

import sys

import torch
from torch import nn

import dat
from dat.data.embedded import digits


def main() -> None:
    """Print a line for each alpha."""
    discretizer = dat.load_discretizer(sys.argv[1])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))  # any classifier will do: here one that has learned nothing
    source = digits("test")
    images, labels = torch.from_numpy(source.images[:32]).float() / 255, torch.from_numpy(source.targets[:32])
    for alpha in (0.0, 0.1, 0.2, 0.4, 0.8):
        change = dat.discrete_change(model, dat.Classification(), discretizer, images, labels, alpha=alpha)
        print(f"alpha {alpha:.1f}: {change.rate:5.2f} % of the codes changed")


if __name__ == "__main__":
    main()
