#!/usr/bin/env bash
# torch 2.15.0: inside one `with torch.autocast(...)` block a model goes on with the weights of its first forward pass, whatever is
# done to them in between. Autocast keeps its bfloat16 copy of every float32 weight that wants a gradient until the outermost block
# ends, and does not see that the weight has changed; under no_grad, too. So raw and averaged weights, loaded one after the other,
# get the same score, and what moves weights between two passes of a step (sharpness-aware minimisation, adversarial weight
# perturbation) does nothing. No error, no warning, and in float32 (or inference_mode) all is well, so that tests show nothing.
# Write one block for each forward pass, or autocast(..., cache_enabled=False).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0
"$folder/env/bin/python" - <<'PYTHON'
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

torch.manual_seed(0)
low_precision = partial(torch.autocast, "cpu", torch.bfloat16)


def loads(around_all, around_each):
    """Does a model say something else once other weights are loaded? As where raw and averaged weights are compared."""
    model, inputs, logits = nn.Linear(8, 3), torch.randn(4, 8), []
    with torch.no_grad(), around_all():
        for other in (model.state_dict(), nn.Linear(8, 3).state_dict()):
            model.load_state_dict(other)
            with around_each():
                logits.append(model(inputs))
    return not torch.equal(*logits)


def moves(around_all, around_each):
    """Is the gradient at moved weights another than before? As in sharpness-aware minimisation."""
    model, inputs, gradients = nn.Linear(8, 3), torch.randn(4, 8), []
    with around_all():
        for _ in range(2):
            with around_each():
                loss = nn.functional.cross_entropy(model(inputs), torch.arange(4) % 3)
            gradients.append(*torch.autograd.grad(loss, model.weight))
            model.weight.data += 10 * gradients[-1]  # uphill, far
    return not torch.equal(*gradients)


blocks = {
    "float32": (nullcontext, nullcontext),
    "one block for all passes": (low_precision, nullcontext),
    "one block for each pass": (nullcontext, low_precision),
    "one block, cache_enabled=False": (partial(low_precision, cache_enabled=False), nullcontext),
}
seen = {name: (loads(*around), moves(*around)) for name, around in blocks.items()}
for name, changed in seen.items():
    print(f"{name}: other logits of other weights, other gradient at moved weights: {changed}")
print(f"torch {torch.__version__}")
assert seen == {name: (name != "one block for all passes",) * 2 for name in blocks}, f"changed: {seen}"
PYTHON
