#!/usr/bin/env bash
# torchmetrics 1.9.0: MeanAveragePrecision(average="micro") does not look at labels. Boxes in the right places that are all called
# by a wrong name have a mAP of 1. Elsewhere in the library (and in scikit-learn) "micro" pools what is right and wrong of all
# classes, and a wrong label is wrong: micro precision of the same labels is 0. Here all labels are set to one class before
# matching, so it is the class-agnostic average precision. The documentation says "Method for averaging scores over labels".
# Report "macro"; read "micro" as how well things are found, whatever they are called.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 torchvision==0.29.2 pycocotools==2.0.11 torchmetrics==1.9.0
"$folder/env/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import MulticlassPrecision
from torchmetrics.detection import MeanAveragePrecision

boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 90, 90]])
labels = torch.tensor([0, 1, 2])
scores = torch.tensor([0.9, 0.8, 0.7])
seen = {}
for name, found in {"right labels": labels, "wrong labels": labels.roll(1)}.items():
    for average in ("macro", "micro"):
        metric = MeanAveragePrecision(average=average)
        metric.update([{"boxes": boxes, "labels": found, "scores": scores}], [{"boxes": boxes, "labels": labels}])
        precision = MulticlassPrecision(num_classes=3, average=average)(found, labels)
        seen[name, average] = (round(metric.compute()["map"].item(), 3), precision.item())
        print(f"{name}, {average}: mAP {seen[name, average][0]}, precision of the labels alone {seen[name, average][1]}")
print(f"torchmetrics {torchmetrics.__version__}, torch {torch.__version__}")
expected = {
    ("right labels", "macro"): (1.0, 1.0),
    ("right labels", "micro"): (1.0, 1.0),
    ("wrong labels", "macro"): (0.0, 0.0),
    ("wrong labels", "micro"): (1.0, 0.0),
}
assert seen == expected, f"changed: {seen} instead of {expected}"
PYTHON
