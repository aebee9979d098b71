"""Names beside marks of a plot, none over another: where each stands, in points; knows rectangles only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

Box = Float64[np.ndarray, "4"]
"""Left, bottom, right and top of a rectangle, in points."""
Marks = Float64[np.ndarray, "names 4"]
Lines = Float64[np.ndarray, "lines 4"]
Boxes = Float64[np.ndarray, "boxes 4"]
Others = Float64[np.ndarray, "others 4"]
Size = Float64[np.ndarray, "2"]
Sizes = Float64[np.ndarray, "names 2"]
Areas = Float64[np.ndarray, "boxes others"]
Distances = Float64[np.ndarray, " boxes"]

DISTANCES = (2.0, 8.0, 16.0, 26.0, 38.0, 52.0, 68.0, 86.0)
"""From the edge of a mark to its name, in points."""
DIRECTIONS = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)], float)
DIAGONAL = 0.75
"""So much of a distance along each axis, where a name is away along both."""
GAP = 1.5
"""Between two names at least, in points."""
FAR, CROSSED, OUTSIDE = 0.15, 0.1, 4.0
"""What a point of distance, and a square point over a line and outside the frame count; one over a mark or a name counts 1."""


def named_apart(marks: Marks, sizes: Sizes, frame: Box, lines: Lines) -> Marks:
    """Where the name of each mark stands: near it, on no mark and no other name, within `frame`, and on few `lines`.

    `sizes`: width and height of each. Names at the edges come first; where there is no room, as little as possible is hit.
    """
    blocks, found = marks, np.zeros_like(marks)
    for index in np.argsort(-abs(marks[:, 1] - frame[1::2].mean()), kind="stable"):
        places, distances = _around(marks[index], sizes[index])
        outside = sizes[index].prod() - overlaps(places, frame[None])[:, 0]
        hit = overlaps(places + GAP * np.array([-1, -1, 1, 1]), blocks).sum(axis=1)
        costs = FAR * distances + hit + CROSSED * overlaps(places, lines).sum(axis=1) + OUTSIDE * outside
        found[index] = places[costs.argmin()]
        blocks = np.vstack([blocks, found[index]])
    return found


def overlaps(boxes: Boxes, others: Others) -> Areas:
    """The area that each of the boxes shares with each of the others."""
    low, high = (pick(boxes[:, None, k : k + 2], others[None, :, k : k + 2]) for pick, k in ((np.maximum, 0), (np.minimum, 2)))
    return np.clip(high - low, 0, None).prod(axis=-1)


def away(box: Box, other: Box) -> float:
    """The larger of the gaps between two rectangles along both axes; below 0 where they overlap."""
    return float(np.maximum(box[:2] - other[2:], other[:2] - box[2:]).max())


def _around(mark: Box, size: Size) -> tuple[Boxes, Distances]:
    """Places for a name, the nearest first, and how far each is from the mark."""
    radius, centre = (mark[2] - mark[0]) / 2, (mark[:2] + mark[2:]) / 2
    near = np.repeat(DISTANCES, len(DIRECTIONS))
    towards = np.tile(DIRECTIONS, (len(DISTANCES), 1))
    reach = (radius + near) * np.where(towards.all(axis=1), DIAGONAL, 1.0)
    corners = centre + reach[:, None] * towards - size * (1 - towards) / 2
    return np.hstack([corners, corners + size]), near
