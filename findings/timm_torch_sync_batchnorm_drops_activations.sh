#!/usr/bin/env bash
# timm 1.0.31, torch 2.15.0, lightning 2.6.6: torch's SyncBatchNorm.convert_sync_batchnorm, and so Lightning's
# Trainer(sync_batchnorm=True), takes the activations out of EfficientNet, RegNet, MobileNetV3 and others of timm. Their layer
# BatchNormAct2d is a BatchNorm2d that calls an activation at its end; torch makes a plain SyncBatchNorm of it and copies the
# activation over as a child that nothing calls. Weights and their names are the same to the bit, print(model) still shows "act",
# and nothing is said. Models with separate activations (resnet18) are right, so that a test with one of them shows nothing.
# Write timm.layers.convert_sync_batchnorm(model), and not sync_batchnorm=True.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 torchvision==0.29.2 timm==1.0.31 lightning==2.6.6
"$folder/env/bin/python" - <<'PYTHON'
import copy
import warnings

import lightning
import timm
import torch
from lightning.pytorch.plugins import TorchSyncBatchNorm  # what Trainer(sync_batchnorm=True) applies
from timm.layers import convert_sync_batchnorm

warnings.simplefilter("error")
torch.manual_seed(0)
pictures = torch.rand(2, 3, 64, 64)
converters = {
    "torch": torch.nn.SyncBatchNorm.convert_sync_batchnorm,
    "lightning": TorchSyncBatchNorm().apply,
    "timm": convert_sync_batchnorm,
}
same = {}
for name in ("efficientnet_b0", "regnety_002", "mobilenetv3_small_050", "resnet18"):
    model = timm.create_model(name).eval()
    for whose, convert in converters.items():
        converted = convert(copy.deepcopy(model)).eval()
        pairs = zip(model.state_dict().items(), converted.state_dict().items(), strict=True)
        assert all(one == other and torch.equal(first, second) for (one, first), (other, second) in pairs)
        with torch.no_grad():
            logits, others = model(pictures), converted(pictures)
        same[name, whose] = torch.allclose(logits, others)
        sizes = f"{logits.abs().max():.1e} before, {others.abs().max():.1e} after"
        print(f"{name} converted by {whose}: largest logit {sizes}; same: {same[name, whose]}")
print(f"timm {timm.__version__}, torch {torch.__version__}, lightning {lightning.__version__}")
expected = {key: key[0] == "resnet18" or key[1] == "timm" for key in same}
assert same == expected, f"changed: {same} instead of {expected}"
PYTHON
