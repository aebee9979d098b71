"""From a detector and the names of suites to a filled evaluation folder. It can be stopped at any time, and goes on.

OUT/evaluation.json  results.jsonl  report.md  report.html
OUT/detections/<set>/<cell>.json   what the detector found in every picture, as COCO's results format has it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import PartialState
from torch import nn

from dat.attacks.gradient import evaluating
from dat.boxes import Found
from dat.commands.detection_plan import DetectionPlan, DetectionSettings, without_places
from dat.commands.detector_subject import TestedDetector
from dat.commands.evaluation_folder import held, other_rows, place_of, said_alarms
from dat.errors import UsageError
from dat.evaluation import detection_store as store
from dat.evaluation.coco_scores import CocoScores, DrawnValues, coco_scores
from dat.evaluation.detected import detect
from dat.evaluation.detection_rows import BoxedCell, intervals_of, numbers_of, under_corruption
from dat.evaluation.detector_selftest import detector_selftest
from dat.evaluation.identity import detector_hash
from dat.progress import Bar
from dat.results import BOXES, EVALUATION, INTERVAL, RESULTS, Row, hashes_of, machine, versions, write_rows, write_text
from dat.tasks.detection import Detection
from dat.types import Place

NO_INTERVAL = "none: only AP, AP50, AP75 and AP by class have one"
Numbers = Mapping[str, float]


def assess_detector(
    tested: TestedDetector,
    suites: Sequence[str],
    *,
    data: Path | None,
    folder: Path,
    settings: DetectionSettings,
    self_test: bool = True,
    cpu: bool = False,
) -> list[Row]:
    """Evaluate a detector on suites; what `folder` holds already is not computed again, and rows of other suites stay there.

    On several processes each shows its share of every set; the first scores and writes, and gives the rows.

    Raises:
        DatError: one of its kinds, each with a sentence for the user. What was evaluated before stays.
    """
    if not suites:
        raise UsageError("No suite is named; write at least one, e.g. clean.")
    place = place_of(cpu)
    plan = DetectionPlan(tested, data, settings)
    cells = plan.cells(suites)
    with held(folder, place), evaluating(tested.model.to(place.device)):
        tried = cells[0].pictures
        shown = {"place": place, "batch_size": settings.batch_size}
        alarms = detector_selftest(tested.finding(tried.classes), tried, plan.frame, **shown) if self_test else []
        notes = said_alarms(alarms)
        job = _Job(plan, detector_hash(tested.model), place, folder)
        job.find(cells)
        return job.rows(cells, notes) if place.is_main else []


@dataclass(frozen=True, eq=False)
class _Measured:
    """Of a cell: its scores, and its numbers for drawn pictures."""

    scores: CocoScores
    drawn: Mapping[str, DrawnValues]


@dataclass(frozen=True, eq=False)
class _Job:
    """One evaluation at work: which detector, by its hash, where, and into which folder."""

    plan: DetectionPlan
    checkpoint: str
    place: Place
    folder: Path
    models: dict[tuple[str, ...], nn.Module] = field(default_factory=dict)

    def find(self, cells: Sequence[BoxedCell]) -> None:
        """Show every cell that is not kept yet, and keep what was found in it."""
        shares = [len(range(self.place.process, len(cell.pictures), self.place.processes)) for cell in cells]
        with Bar(self.plan.tested.name, sum(shares), shown=self.place.is_main) as bar:
            for cell, share in zip(cells, shares, strict=True):
                path, known = self._path(cell), self._identity(cell)
                if store.is_kept(path, known):
                    bar.skip(cell.name, share)
                    continue
                PartialState().wait_for_everyone()  # all have looked before one of them writes
                found = self._found(cell, bar)
                if self.place.is_main:
                    store.write_found(path, cell.pictures, found, known)

    def _found(self, cell: BoxedCell, bar: Bar) -> list[Found]:
        settings, classes = self.plan.settings, cell.pictures.classes
        if classes not in self.models:
            self.models[classes] = self.plan.tested.finding(classes)
        return detect(
            self.models[classes],
            cell.pictures,
            self.plan.frame,
            cell.change,
            task=Detection(self.plan.climbed),
            place=self.place,
            batch_size=settings.batch_size,
            workers=settings.workers,
            advance=partial(bar.add, cell.name),
        )

    def _path(self, cell: BoxedCell) -> Path:
        return store.path_of(self.folder, cell.name, self.plan.set_name(cell))

    def _identity(self, cell: BoxedCell) -> str:
        return store.identity(self.checkpoint, cell.pictures.classes, self.plan.protocol(cell))

    def rows(self, cells: Sequence[BoxedCell], notes: Sequence[str]) -> list[Row]:
        """Rows of results, from what is kept; written with the facts of the evaluation."""
        rows, measured = list[Row](), dict[str, _Measured]()
        for cell in cells:
            measured[cell.name] = self._measured(cell, store.read_found(self._path(cell), cell.pictures))
            rows += self._rows_of_cell(cell, measured[cell.name])
        rows += self._rows_of_corruptions(cells, measured)
        rows += self._rows_of_domains(cells, measured)
        write_rows(self.folder / RESULTS, [*other_rows(self.folder / RESULTS, rows), *rows])
        write_text(self.folder / EVALUATION, json.dumps(self._facts(cells, notes), indent=1))
        return rows

    def _measured(self, cell: BoxedCell, found: Sequence[Found]) -> _Measured:
        scores = coco_scores(cell.pictures, found)
        return _Measured(scores, self.plan.bootstrap.drawn(scores))

    def _rows_of_cell(self, cell: BoxedCell, measured: _Measured) -> list[Row]:
        numbers, n = numbers_of(measured.scores), len(cell.pictures)
        return self._rows(cell.name, numbers, measured.drawn, n, self.plan.protocol(cell))

    def _rows_of_corruptions(self, cells: Sequence[BoxedCell], measured: Mapping[str, _Measured]) -> list[Row]:
        """Those of all corruptions together, beside the clean pictures that they were made of."""
        corrupted = [cell for cell in cells if cell.name.startswith("c/")]
        if not corrupted:
            return []
        plan, fewer = self.plan, corrupted[0].pictures
        whole = next(cell for cell in cells if cell.name == "clean")
        found = store.read_found(self._path(whole), whole.pictures)
        clean = self._measured(replace(whole, pictures=fewer), [found[position] for position in plan.positions])
        all_of = [measured[cell.name] for cell in corrupted]
        numbers = under_corruption(clean.scores.numbers["ap"], [one.scores.numbers["ap"] for one in all_of])
        drawn = under_corruption(clean.drawn["ap"], [one.drawn["ap"] for one in all_of]) if clean.drawn else {}
        protocols = [plan.protocol(cell) for cell in corrupted]
        shared = {key: value for key, value in protocols[0].items() if all(one.get(key) == value for one in protocols)}
        done = {**shared, "cells": len(corrupted), **self._fewer_cells()}
        return self._rows("c", {name: float(value) for name, value in numbers.items()}, drawn, len(fewer), done)

    def _fewer_cells(self) -> dict[str, object]:
        """Which corruptions and severities a mean is of, where it is not of all."""
        chosen, usual = self.plan.settings, DetectionSettings()
        named = {"severities": chosen.severities, "corruptions": chosen.corruptions}
        return {key: list(values) for key, values in named.items() if values != getattr(usual, key)}

    def _rows_of_domains(self, cells: Sequence[BoxedCell], measured: Mapping[str, _Measured]) -> list[Row]:
        """The mean over COCO-O's domains, whose pictures are drawn independently of each other."""
        domains = [cell for cell in cells if cell.name.startswith("coco-o/")]
        if not domains:
            return []
        bootstrap = self.plan.bootstrap
        all_of = [measured[cell.name].scores for cell in domains]
        drawn = [replace(bootstrap, seed=bootstrap.seed + place).drawn(scores) for place, scores in enumerate(all_of)]
        together = {"ap": np.mean([one["ap"] for one in drawn], axis=0)} if all(drawn) else {}
        protocols = [self.plan.protocol(cell) for cell in domains]
        shown = {key: value for key, value in protocols[0].items() if key != "data"}
        data = hashlib.sha256("/".join(str(one["data"]) for one in protocols).encode()).hexdigest()[:12]
        value = sum(scores.numbers["ap"] for scores in all_of) / len(all_of)
        n = sum(scores.pictures for scores in all_of)
        return self._rows("coco-o", {"ap": value}, together, n, {**shown, "data": data, "domains": len(domains)})

    def _rows(
        self, suite: str, numbers: Numbers, drawn: Mapping[str, DrawnValues], n: int, protocol: Mapping[str, object]
    ) -> list[Row]:
        tested, intervals = self.plan.tested, intervals_of(drawn)
        words = self.plan.bootstrap.words(n)
        rows = []
        for metric, value in numbers.items():
            made = words if metric in intervals or not drawn else NO_INTERVAL
            shown = {**protocol, INTERVAL: made}
            of_tested = (tested.seed, tested.name, tested.recipe_hash)
            interval = intervals.get(metric)
            rows.append(Row(suite, metric, value, n, interval, *of_tested, shown, versions(), checkpoint=self.checkpoint))
        return rows

    def _facts(self, cells: Sequence[BoxedCell], notes: Sequence[str]) -> dict[str, object]:
        return {
            "kind": BOXES,
            "name": self.plan.tested.name,
            "checkpoint": self.checkpoint,
            "settings": without_places(self.plan.settings),
            "class_names": list(cells[0].pictures.classes),
            "cells": {cell.name: self.plan.fingerprint(cell.pictures) for cell in cells},
            "sets": sorted({self.plan.set_name(cell) for cell in cells}),
            "notes": list(notes),
            "versions": versions(),
            "machine": machine(),
            "files": hashes_of(self.folder, (RESULTS, f"{store.DETECTIONS}/*/*.json")),
        }
