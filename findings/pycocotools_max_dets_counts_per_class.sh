#!/usr/bin/env bash
# pycocotools 2.0.11: maxDets limits the detections of one class in one picture, not those of a picture. COCO's description says
# "at most 100 top-scoring detections per image (across all categories)", COCOeval's own "thresholds on max detections per image".
# So AR with maxDets=1 is 1.0 for a picture with three things of three classes, which takes three detections, and 5 classes x 60
# detections are all counted at maxDets=100. A detector that keeps 100 boxes of every class may be compared with one that keeps 100
# of the picture, and only the first gains. faster-coco-eval and torchmetrics (mar_1: "1 detection per image") do the same.
# For a limit per picture, keep the 100 best scores of every picture before loadRes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.4.6 pycocotools==2.0.11
"$folder/env/bin/python" - <<'PYTHON'
import contextlib
import importlib.metadata
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def scored(classes, found_a_class):
    """AR with maxDets=1, and how many detections were counted with maxDets=100; one thing a class, in one picture."""
    things = [{"image_id": 1, "category_id": label, "bbox": [20 * label, 0, 10, 10]} for label in range(1, classes + 1)]
    source = COCO()
    source.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 200, "height": 200}],
        "categories": [{"id": thing["category_id"], "name": str(thing["category_id"])} for thing in things],
        "annotations": [{**thing, "id": number, "area": 100, "iscrowd": 0} for number, thing in enumerate(things, start=1)],
    }
    detections = [{**thing, "score": 1 - rank / 100} for thing in things for rank in range(found_a_class)]
    with contextlib.redirect_stdout(io.StringIO()):
        source.createIndex()
        scorer = COCOeval(source, source.loadRes(detections), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    of_any_size = [one for one in scorer.evalImgs if one and one["aRng"] == scorer.params.areaRng[0]]
    return round(float(scorer.stats[6]), 3), sum(len(one["dtIds"]) for one in of_any_size), len(detections)


seen = {"three things of three classes": scored(3, 1), "5 classes, 60 detections of each": scored(5, 60)}
for name, (recall, counted, given) in seen.items():
    print(f"one picture, {name}: AR with maxDets=1 {recall}; counted with maxDets=100: {counted} of {given} detections")
print(f"pycocotools {importlib.metadata.version('pycocotools')}")
expected = {"three things of three classes": (1.0, 3, 3), "5 classes, 60 detections of each": (1.0, 300, 300)}
assert seen == expected, f"changed: {seen} instead of {expected}"
PYTHON
