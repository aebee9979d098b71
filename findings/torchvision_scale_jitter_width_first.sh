#!/usr/bin/env bash
# torchvision 0.29.2: v2.ScaleJitter takes target_size as (width, height); all other sizes of its transforms are (height, width).
# Its docstring has the formula and no word on the order. For a square target both are the same, so that the mistake shows
# only where the frame is not: a picture of 100 x 100 pixels that has to fit into a frame 50 high and 200 wide becomes 50 x 50
# either way; one of 400 x 100 becomes 200 x 50 with (200, 50), and 50 x 12 with (50, 200).
# Write ScaleJitter((width, height)), and test with a frame that is not square and a picture that is neither.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 pillow torchvision==0.29.2
"$folder/env/bin/python" - <<'PYTHON'
import torch
import torchvision
from torchvision.transforms import v2

height, width = 50, 200
picture = torch.zeros(3, 100, 400)
seen = {}
for name, size in {"(height, width)": (height, width), "(width, height)": (width, height)}.items():
    seen[name] = tuple(v2.ScaleJitter(size, (1.0, 1.0))(picture).shape[1:])
    print(f"ScaleJitter({name} = {size}) of a picture of 100 x 400: {seen[name]}")
seen["RandomCrop"] = tuple(v2.RandomCrop((height, width))(picture).shape[1:])
print(f"RandomCrop((height, width) = {(height, width)}): {seen['RandomCrop']}")
expected = {"(height, width)": (12, 50), "(width, height)": (50, 200), "RandomCrop": (50, 200)}
print(f"torchvision {torchvision.__version__}, torch {torch.__version__}")
assert seen == expected, f"changed: {seen} instead of {expected}"
PYTHON
