#!/usr/bin/env bash
# torchvision 0.29.2: masks_to_boxes gives boxes one pixel less wide and high than the masks: x2 and y2 are the last pixels inside,
# while box_area, box_iou, all detectors of torchvision and COCO's files take x2 - x1 for the width. Large things hide it; of a
# mask of 10 x 10 pixels the box has an area of 81, and its overlap with COCO's box of the same mask is 0.81: with perfect masks
# three of COCO's ten thresholds (0.85, 0.9, 0.95) count it as missed. Its documentation says "(x1, y1, x2, y2) format", and warns
# of x1 = x2 for masks of one column, and of y1 = y2 for those of one row.
# Add 1 to x2 and y2, or take pycocotools.mask.toBbox.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 torchvision==0.29.2 pycocotools==2.0.11
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import torch
import torchvision
from pycocotools import mask as coco_masks
from torchvision.ops import box_area, box_convert, box_iou, masks_to_boxes

seen = {}
for size in (10, 100):
    mask = torch.zeros(1, 128, 128, dtype=torch.uint8)
    mask[:, 5 : 5 + size, 5 : 5 + size] = 1
    box = masks_to_boxes(mask)
    of_coco = torch.as_tensor(coco_masks.toBbox(coco_masks.encode(np.asfortranarray(mask[0].numpy()))), dtype=torch.float32)
    of_coco = box_convert(of_coco[None], "xywh", "xyxy")
    overlap = box_iou(box, of_coco).item()
    seen[size] = (mask.sum().item(), box_area(of_coco).item(), box_area(box).item(), round(overlap, 3))
    print(f"{size} x {size} pixels: {seen[size][0]} are set; area of COCO's box {seen[size][1]}, of torchvision's {seen[size][2]}")
    print(f"  {box[0].tolist()} overlaps {of_coco[0].tolist()} by {overlap:.3f}")
print(f"torchvision {torchvision.__version__}, torch {torch.__version__}")
expected = {10: (100, 100.0, 81.0, 0.81), 100: (10000, 10000.0, 9801.0, 0.98)}
assert seen == expected, f"changed: {seen} instead of {expected}"
PYTHON
