#!/usr/bin/env bash
# numpy 2.3.5, torch 2.13.0: an array indexed by an integer tensor of ONE element gives a scalar, of two or more an array.
# NumPy sees no array in a tensor before it asks for a whole number (__index__), which torch gives for any tensor of one
# element, of whatever shape. So code that is right for every batch is wrong for a last batch of one picture.
# Write array[tensor.numpy()], or index a tensor with a tensor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.3.5 torch==2.13.0
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import torch

labels = np.array([10, 20, 30])
seen = {}
for rows in ([1], [1, 2], [[1]]):
    index = torch.tensor(rows)
    seen[str(rows)] = (np.shape(labels[index]), np.shape(labels[index.numpy()]))
    print(f"index {rows}: by the tensor {labels[index]!r}, by its array {labels[index.numpy()]!r}")
expected = {"[1]": ((), (1,)), "[1, 2]": ((2,), (2,)), "[[1]]": ((), (1, 1))}
print(f"numpy {np.__version__}, torch {torch.__version__}")
assert seen == expected, f"changed: {seen} instead of {expected}"
PYTHON
