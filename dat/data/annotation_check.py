"""What is in a set of pictures with boxes, and what is wrong with it: every picture is read, every entry looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dat.data.annotated import AnnotatedPictures
from dat.data.annotations import examinations
from dat.data.boxed import counted
from dat.errors import DataError
from dat.progress import Bar

Findings = dict[str, Any]

BINS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""COCO's sizes: areas in square pixels, from the first to below the second."""


def check_annotated(source: str | Path, *, pictures: str | Path | None = None) -> Findings:
    """Facts of each split, and under `faults` a sentence for each entry and each picture that is not as it should be.

    `pictures`: the folder that the names in a COCO file begin in.
    """
    findings: Findings = {"source": str(source), "parts": [], "faults": []}
    try:
        parts = examinations(source, pictures=pictures)
    except DataError as error:
        return findings | {"faults": [str(error)]}
    for name, examine in parts.items():
        try:
            found, faults, notes = examine()
        except DataError as error:
            findings["faults"].append(str(error))
            continue
        findings["parts"].append({"name": name, **facts(found), "notes": notes})
        findings["faults"] += [*faults, *_bad_pictures(found, name)]
    return findings


def facts(found: AnnotatedPictures) -> Findings:
    """Counts of pictures and boxes; sizes are those of boxes that are no crowds."""
    counts = counted(found)
    things = found.things
    labels = np.concatenate([each.labels for each in things])
    areas = np.concatenate([each.areas[~each.crowd] for each in things])
    per_class = np.bincount(labels, minlength=len(found.classes)).tolist()
    return {
        "pictures": len(found),
        "pictures_without_boxes": sum(len(each) == 0 for each in things),
        "boxes": counts.boxes,
        "classes": len(found.classes),
        "boxes_per_class": dict(zip(found.classes, per_class, strict=True)),
        "boxes_per_size": {name: int(((areas >= low) & (areas < high)).sum()) for name, (low, high) in BINS.items()},
        "crowds": counts.crowds,
        "boxes_without_area": counts.flat,
        "boxes_cut_at_edges": counts.cut,
    }


def as_text(findings: Findings) -> str:
    """Facts of each split, then the faults, a line each, and how many there are."""
    lines = [line for part in findings["parts"] for line in _part_lines(part)]
    lines += [f"fault: {fault}" for fault in findings["faults"]]
    count = len(findings["faults"])
    return "\n".join([*lines, f"{findings['source']}: {f'{count} faults' if count else 'no faults'}"])


def _part_lines(part: Mapping[str, Any]) -> list[str]:
    return [
        f"{part['name']}: {part['pictures']} pictures ({part['pictures_without_boxes']} without boxes), "
        f"{part['boxes']} boxes of {part['classes']} classes",
        f"  boxes per class: {_listed(part['boxes_per_class'])}",
        f"  boxes per size (below 32 x 32, below 96 x 96 and above): {_listed(part['boxes_per_size'])}",
        f"  left out of a training: {part['crowds']} crowds, {part['boxes_without_area']} boxes without area; "
        f"cut at the edges of their pictures: {part['boxes_cut_at_edges']}",
        *(f"  {note}" for note in part["notes"]),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _bad_pictures(found: AnnotatedPictures, title: str) -> list[str]:
    faults: list[str] = []
    with Bar(f"read {title}", len(found)) as bar:
        for index in range(len(found)):
            try:
                found.read(index)
            except DataError as error:
                faults.append(str(error))
            bar.add(f"{len(faults)} damaged", 1)
    return faults
