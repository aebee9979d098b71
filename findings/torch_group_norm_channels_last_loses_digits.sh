#!/usr/bin/env bash
# torch 2.15.0 on a CPU: group_norm in float32 gives other digits for the same tensor in the memory format channels_last. Against
# float64 the error is hundreds of times that of the contiguous one once the mean of the values is some standard deviations away
# from 0 (at mean 20 and deviation 1 about 1e-3 instead of 3e-6), as if the variance were E[x^2] - E[x]^2. Features of
# autoencoders are like that, so a network that was moved to channels_last for speed is not the same to float32's rounding.
# Compare in float64, or contiguous.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0
"$folder/env/bin/python" - <<'PYTHON'
import torch
from torch.nn.functional import group_norm

torch.manual_seed(0)
ratios = {}
for mean in (0, 20):
    features = torch.randn(2, 128, 32, 32) + mean
    exact = group_norm(features.double(), 32)
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    errors = {
        name: (group_norm(features.contiguous(memory_format=kind), 32) - exact).abs().max().item() for name, kind in formats.items()
    }
    ratios[mean] = errors["channels_last"] / errors["contiguous"]
    print(f"mean {mean}, deviation 1: largest error", {name: f"{error:.1e}" for name, error in errors.items()})
print(f"torch {torch.__version__}: channels_last / contiguous", {mean: round(ratio) for mean, ratio in ratios.items()})
assert ratios[0] < 30 < 100 < ratios[20], f"changed: {ratios}"
PYTHON
