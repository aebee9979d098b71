"""From what a detector found to numbers: of a cell, of all corruptions together, and how far other pictures would move them.

A cell is what is shown at once: a set of pictures, and one change of them. Runs and evaluations of detectors share this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dat.data.annotated import AnnotatedPictures
from dat.data.boxed import Letterbox
from dat.evaluation.coco_scores import CocoScores, DrawnValues, Draws
from dat.evaluation.intervals import FEWEST, TOO_FEW
from dat.evaluation.suites import Suite

Interval = tuple[float, float]


@dataclass(frozen=True, eq=False)
class BoxedCell:
    """`name` is the suite in result rows: `clean`, `c/fog/3`."""

    name: str
    pictures: AnnotatedPictures
    change: Suite


def protocol_of(cell: BoxedCell, frame: Letterbox, climbed: str) -> dict[str, object]:
    """How the pictures of a cell are made and shown; an attack climbs what `climbed` names.

    What a corruption is made with goes by the size of the picture itself: of pictures of several kinds all are named.
    """
    sizes = dict.fromkeys(cell.pictures.sizes)
    made = [cell.change.protocol(height, width) for width, height in sizes]
    done = {key: _all_of([protocol[key] for protocol in made]) for key in made[0]}
    attack = {"loss": climbed} if cell.change.depends_on_model else {}
    return {"height": frame.height, "width": frame.width, **frame.protocol(), **done, **attack}


def _all_of(values: Sequence[object]) -> object:
    kinds = list(dict.fromkeys(values))
    return kinds[0] if len(kinds) == 1 else " and ".join(sorted(map(str, kinds)))


def numbers_of(scores: CocoScores) -> dict[str, float]:
    """COCO's numbers, and average precision by class as `ap/<class>`; by metric, in percent."""
    return dict(scores.numbers) | {f"ap/{name}": value for name, value in scores.by_class.items()}


def under_corruption(clean: Any, cells: Sequence[Any]) -> dict[str, Any]:
    """Mean average precision under corruption, that of the same pictures as they are, and its percentage of it.

    Of numbers, or of arrays of draws. Without a percentage where nothing is found in the clean pictures.
    Source: Michaelis et al., "Benchmarking Robustness in Object Detection", 2019, section 3.1.
    """
    mean = np.mean(cells, axis=0)
    found = {"ap_clean": clean, "mpc": mean}
    return found | {"rpc": 100 * mean / clean} if np.all(clean > 0) else found


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals: pictures are drawn anew `count` times, as many as there are, the same ones in all cells."""

    count: int = 1000
    seed: int = 0

    def weights(self, pictures: int) -> Draws:
        """How often each picture is drawn, `(draws, pictures)`."""
        generator = np.random.default_rng(self.seed)
        return generator.multinomial(pictures, np.full(pictures, 1 / pictures), size=self.count).astype(np.float64)

    def words(self, pictures: int) -> str:
        """How an interval was made, for protocols; or why there is none."""
        if pictures < FEWEST:
            return f"none: {TOO_FEW}"
        return f"bootstrap over pictures, {self.count} draws, seed {self.seed}" if self.count else "none: no draws"

    def drawn(self, scores: CocoScores) -> dict[str, DrawnValues]:
        """As `CocoScores.drawn`; nothing where there are too few pictures for an interval."""
        if scores.pictures < FEWEST or not self.count:
            return {}
        return scores.drawn(self.weights(scores.pictures))


def intervals_of(drawn: Mapping[str, DrawnValues]) -> dict[str, Interval]:
    """The middle 95 % of the draws that hold something to find, by metric."""
    there = {metric: values[~np.isnan(values)] for metric, values in drawn.items()}
    return {metric: _middle(values) for metric, values in there.items() if len(values)}


def _middle(values: DrawnValues) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
