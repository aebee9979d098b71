#!/usr/bin/env bash
# accelerate 1.15.0: gather_for_metrics cuts what it is given on ONE process, too, where nothing is gathered and no picture is there
# twice. In the last batch of a loader, if that is a short one, it keeps as many rows as pictures are left, of any tensor: it takes
# the first dimension for the pictures of the batch. So boxes of all pictures in one tensor lose rows, and of a matrix of confusions
# one row is left, which `total += ...` then spreads over all rows without an error. (With no short batch nothing is seen.) Its
# documentation says that it "potentially drops duplicates in the last batch if on a distributed system".
# Give it one row a picture (labels, not their matrix), or a list of one object a picture with use_gather_object=True.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 torch==2.15.0 accelerate==1.15.0
"$folder/env/bin/python" - <<'PYTHON'
import accelerate
import torch
from torch.utils.data import DataLoader

CLASSES, BOXES = 3, 4  # of a picture
accelerator = accelerate.Accelerator(cpu=True)
loader = accelerator.prepare(DataLoader(torch.tensor([0, 1, 2, 0, 1, 2, 0]), batch_size=3))
confusions, right_confusions = torch.zeros(2, CLASSES, CLASSES, dtype=torch.long)
boxes = objects = 0
for labels in loader:
    found = labels  # a model that is always right
    matrix = torch.zeros(CLASSES, CLASSES, dtype=torch.long).index_put_((labels, found), torch.tensor(1), accumulate=True)
    confusions += accelerator.gather_for_metrics(matrix)
    boxes += len(accelerator.gather_for_metrics(torch.rand(BOXES * len(labels), 4)))
    objects += len(accelerator.gather_for_metrics([{"boxes": torch.rand(BOXES, 4)} for _ in labels], use_gather_object=True))
    rows = accelerator.gather_for_metrics((labels, found))  # one row a picture
    right_confusions.index_put_(rows, torch.tensor(1), accumulate=True)
print(f"processes: {accelerator.num_processes}; pictures: 7, boxes: {7 * BOXES}")
print(f"matrices of confusions, summed: {confusions.tolist()}")
print(f"matrix of the gathered labels:  {right_confusions.tolist()}")
print(f"boxes of one tensor a batch: {boxes}; objects of a list, one a picture: {objects}")
print(f"accelerate {accelerate.__version__}, torch {torch.__version__}")
seen = (accelerator.num_processes, confusions.tolist(), right_confusions.tolist(), boxes, objects)
expected = (1, [[3, 0, 0], [1, 2, 0], [1, 0, 2]], [[3, 0, 0], [0, 2, 0], [0, 0, 2]], 25, 7)
assert seen == expected, f"changed: {seen} instead of {expected}"
PYTHON
