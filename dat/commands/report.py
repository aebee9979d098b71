"""The page of any run, whatever it trained, and of evaluations, one or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dat.errors import DataError, UsageError
from dat.report.page import read_facts, terminal_page, write_report
from dat.results import BOXES, EVALUATION, FEATURES, RESULTS, RUN

EVALUATED = {BOXES: "detectors", FEATURES: "features", "": "classifiers"}
"""What evaluations are of, by their kind."""


def write_all(folders: Sequence[Path], *, mixed: bool = False) -> tuple[str, Path]:
    """Write the page of one run, or of one or more evaluations; the tables of evaluations as plain text, and its path.

    `mixed` allows rows of one suite that were measured in different ways.

    Raises:
        UsageError: several folders that are not all evaluations, or rows that cannot be compared.
        DataError: a folder lacks what the page is made of, or a file of it is damaged.
    """
    others = [folder for folder in folders if not (folder / EVALUATION).is_file()]
    if not others:
        return _write_evaluations(folders, mixed=mixed)
    if len(folders) > 1:
        raise UsageError(
            f"{others[0]} is no evaluation (it holds no {EVALUATION}); name one run, or folders of `dat eval` only."
        )
    return "", write(folders[0], mixed=mixed)


def _write_evaluations(folders: Sequence[Path], *, mixed: bool) -> tuple[str, Path]:
    """Raises: UsageError: they are of several kinds."""
    from dat.report.scorecard.detectors import write_boxes_scorecard  # all wait for torch
    from dat.report.scorecard.features import write_features_scorecard
    from dat.report.scorecard.page import write_scorecard

    writers = {BOXES: write_boxes_scorecard, FEATURES: write_features_scorecard}
    kinds = dict.fromkeys(str(read_facts(folder / EVALUATION).get("kind")) for folder in folders)
    found = dict.fromkeys(kind if kind in writers else "" for kind in kinds)
    if len(found) > 1:
        words = " and others of ".join(EVALUATED[kind] for kind in found)
        raise UsageError(f"Some of the folders are of {words}; name those of one kind.")
    return writers.get(next(iter(found)), write_scorecard)(folders, mixed=mixed)


def write(run: Path, *, mixed: bool = False) -> Path:
    """Write the page that fits the kind of the run; its path. `mixed` as `write_all`.

    Raises:
        DataError: the folder lacks what the page is made of, or a file of it is damaged.
        UsageError: rows of one suite were measured in different ways.
    """
    return _page_of(run).write(run, mixed)


def outcome(run: Path) -> str:
    """What is said at the end of a training: its table where there is one, and where its page or its weights are."""
    return _page_of(run).outcome(run)


@dataclass(frozen=True)
class Page:
    """What shows a run of one kind: the function that writes its page, and what is said when it is done."""

    write: Callable[[Path, bool], Path]
    outcome: Callable[[Path], str]


def _page_of(run: Path) -> Page:
    facts = run / RUN
    kind = read_facts(facts).get("kind") if facts.is_file() else None
    if kind is None and facts.is_file() and not (run / RESULTS).is_file():
        raise DataError(f"{facts} does not say what was run, so it was emptied or damaged; go on with the run (--resume).")
    return PAGES.get(str(kind), PAGES["classification"])  # a folder that tells no kind may hold rows to compare


def _write_comparison(run: Path, mixed: bool) -> Path:
    return write_report(run, mixed=mixed)


def _comparison_outcome(run: Path) -> str:
    said = f"{terminal_page(run)}\n\nReport: {run / 'report.html'}"
    again = run / "equal-time"
    is_done_again = (run / "equal-time.yaml").is_file() and (again / RESULTS).is_file()
    return f"{said}\n\nThe same in equal time:\n\n{_comparison_outcome(again)}" if is_done_again else said


def _write_discretizer(run: Path, _: bool) -> Path:
    from dat.report.discretizer_page import write_discretizer_report  # reads weights, so it waits for torch

    return write_discretizer_report(run)


def _discretizer_outcome(run: Path) -> str:
    return str(run / "discretizer.safetensors")


def _write_detection(run: Path, mixed: bool) -> Path:
    from dat.report.detection_page import write_detection_report

    return write_detection_report(run, mixed=mixed)


def _detection_outcome(run: Path) -> str:
    from dat.report.detection_page import detection_outcome

    return detection_outcome(run)


def _write_selfsupervised(run: Path, mixed: bool) -> Path:
    from dat.report.selfsupervised_page import write_selfsupervised_report

    return write_selfsupervised_report(run, mixed=mixed)


def _selfsupervised_outcome(run: Path) -> str:
    from dat.report.selfsupervised_page import selfsupervised_outcome

    return selfsupervised_outcome(run)


PAGES: dict[str, Page] = {
    "classification": Page(_write_comparison, _comparison_outcome),
    "detection": Page(_write_detection, _detection_outcome),
    "discretizer": Page(_write_discretizer, _discretizer_outcome),
    "distillation": Page(_write_discretizer, _discretizer_outcome),
    "selfsupervised": Page(_write_selfsupervised, _selfsupervised_outcome),
}
"""By the kind of a run."""
