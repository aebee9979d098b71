#!/usr/bin/env bash
# torch 2.15.0: len(batch) inside a model makes the batch a constant for torch.export (and so for torch.onnx.export), although two
# images were given and the dimension is named as dynamic. len() of Python has to give a whole number, so the symbol is replaced
# by the number of the example; batch.shape[0] stays a symbol. The message names the dimension, not the line. With Dim.AUTO it is
# worse: the export passes, and the program refuses every other batch later.
# Write batch.shape[0], or -1 in view and expand.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0
"$folder/env/bin/python" - <<'PYTHON'
import logging

import torch
from torch import nn

logging.disable(logging.CRITICAL)


class ByLen(nn.Module):
    def forward(self, batch):
        return batch.view(len(batch), -1)


class ByShape(nn.Module):
    def forward(self, batch):
        return batch.view(batch.shape[0], -1)


def outcome(model, dim):
    try:
        program = torch.export.export(model, (torch.rand(2, 3, 4),), dynamic_shapes={"batch": {0: dim}}).module()
    except Exception as error:
        return type(error).__name__
    try:
        return tuple(program(torch.rand(5, 3, 4)).shape)
    except Exception as error:
        return f"exports, then {type(error).__name__} at 5"


seen = {}
for model in (ByLen(), ByShape()):
    for name, dim in {"Dim": torch.export.Dim("batch"), "AUTO": torch.export.Dim.AUTO}.items():
        seen[type(model).__name__, name] = found = outcome(model, dim)
        print(f"{type(model).__name__} with {name}: {found}")
print(f"torch {torch.__version__}")
expected = {
    ("ByLen", "Dim"): "UserError",
    ("ByLen", "AUTO"): "exports, then AssertionError at 5",
    ("ByShape", "Dim"): (5, 12),
    ("ByShape", "AUTO"): (5, 12),
}
assert seen == expected, f"changed: {seen} instead of {expected}"
PYTHON
