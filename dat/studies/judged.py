"""What is measured on frozen features, by a study and by `dat eval`: which pictures are shown, and rows of what judges said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import nn

from dat.data.pipeline import ImageDataset
from dat.evaluation.cells import Cell, Predictions, View, all_classes
from dat.evaluation.features import KINDS, Judge, NearestNeighbours, features_of, fit_probe
from dat.evaluation.metrics import accuracy_rows
from dat.evaluation.predict import Shelf
from dat.evaluation.suites import Clean, Suite, clean_beside
from dat.progress import Bar
from dat.recipe.selfsupervised import Judging
from dat.recipe.unlabelled import fingerprint_of
from dat.results import SET, Row, versions
from dat.studies.measured import KEPT_BYTES
from dat.types import Place

Said = Mapping[str, Predictions]
"""What the judges of one network said, by suite."""


@dataclass(frozen=True, eq=False)
class Subject:
    """How features are judged, by which bank, on which pictures, and where; `name` is that of the pictures, if any."""

    judging: Judging
    bank: ImageDataset
    test: ImageDataset
    size: tuple[int, int]
    recipe_hash: str
    place: Place
    name: str = ""

    @property
    def classes(self) -> int:
        """How many the bank and the pictures have."""
        return len(self.bank.source.classes)

    @cached_property
    def parts(self) -> list[tuple[ImageDataset, tuple[Suite, ...]]]:
        """Pictures and what is done to them; those that are corrupted, if they are fewer, are also shown as they are."""
        judging, test = self.judging, self.test
        if not judging.corruptions:
            return [(test, judging.suites)]
        few = judging.corrupted(test)
        unchanged = () if few is test else (Clean(clean_beside("c")),)
        return [(test, judging.suites), (few, (*unchanged, *judging.corruptions))]

    @cached_property
    def cells(self) -> list[Cell]:
        """What is shown at once, in order; a view for each judge."""
        whole = all_classes(self.classes)
        views = tuple(View(kind, whole.groups, whole.labels) for kind in KINDS)
        shown = [(dataset, suite) for dataset, suites in self.parts for suite in suites]
        return [Cell(suite.name, dataset, suite, views, self._made(dataset, suite)) for dataset, suite in shown]

    def shelf(self) -> Shelf:
        """Where batches come from: of the bank, for one encoder after another, then of the pictures."""
        return Shelf(batch_size=self.judging.batch_size, place=self.place, strict=True, limit_bytes=KEPT_BYTES)

    def judge(self, encoder: nn.Module, shelf: Shelf, *, probed: bool) -> Judge:
        """An encoder with its bank, and with a probe on it."""
        judging = self.judging
        with Bar("features of the bank", len(shelf.share(self.bank)), shown=self.place.is_main) as bar:
            bank, labels = features_of(encoder, self.bank, shelf, advance=partial(bar.add, ""))
        probe = None
        if probed:
            probe = fit_probe(bank, labels, self.classes, decay=judging.probe_decay, iterations=judging.probe_iterations)
        return Judge(encoder, NearestNeighbours(bank, labels, self.classes, judging.k, judging.temperature), probe)

    def rows(self, said: Said, *, method: str, seed: int | None) -> list[Row]:
        """Accuracies of one network by each of its judges, which the metric says; of the suites that it was shown."""
        rows = list[Row]()
        for dataset, suites in self.parts:
            asked = [suite for suite in suites if suite.name in said]
            for kind in said[asked[0].name].outputs if asked else ():
                rows += self._rows_of(kind, dataset, asked, said, method=method, seed=seed)
        return rows

    def _rows_of(
        self, kind: str, dataset: ImageDataset, suites: list[Suite], said: Said, *, method: str, seed: int | None
    ) -> list[Row]:
        height, width = self.size
        found = accuracy_rows(
            {suite.name: said[suite.name].outputs[kind] == said[suite.name].targets for suite in suites},
            suites,
            height=height,
            width=width,
            method=method,
            seed=seed,
            recipe_hash=self.recipe_hash,
            protocol={**self._shown(dataset), **self._judged_by[kind]},
            versions=versions(),
        )
        return [replace(row, metric=kind) for row in found]

    def _made(self, dataset: ImageDataset, suite: Suite) -> dict[str, object]:
        """All that what is said of a cell depends on, beside the network."""
        return {**self._shown(dataset), **self._judged_by, **suite.protocol(*self.size)}

    def _shown(self, dataset: ImageDataset) -> dict[str, object]:
        (height, width), named = self.size, {SET: self.name} if self.name else {}
        pictures = self._fingerprints[id(dataset)]
        return {**named, "data": pictures, "bank": len(self.bank), "height": height, "width": width}

    @cached_property
    def _fingerprints(self) -> dict[int, str]:
        return {id(dataset): fingerprint_of(dataset, self.bank) for dataset, _ in self.parts}

    @property
    def _judged_by(self) -> dict[str, dict[str, Any]]:
        judging = self.judging
        return {
            "knn": {"k": judging.k, "temperature": judging.temperature},
            "probe": {"decay": judging.probe_decay, "iterations": judging.probe_iterations},
        }
