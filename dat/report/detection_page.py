"""The page of a comparison of methods on object detection: COCO's numbers beside each other, judged as accuracies are.

Reads files only, as `dat.report.page` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dat.errors import DataError
from dat.report.boxed_pictures import read_boxed_pictures
from dat.report.origins import short
from dat.report.page import (
    Facts,
    Report,
    alarms_of,
    attempt,
    data_words,
    in_order,
    no_adversaries,
    overview_plot,
    protocols,
    provenance,
    read_facts,
    read_file,
    section,
    trade_plot,
    training_plot,
    write_pages,
)
from dat.report.reading import chance, changed_words, cost, lead, modified_codes, on_suite, opening, seeds
from dat.report.tables import METRICS, Comparison, Table, accuracy_table, all_tables, comparison_table, plain_table
from dat.results import RESULTS, RUN, Row, read_rows

COLUMNS = {
    ("clean", "ap"): "AP",
    ("clean", "ap50"): "AP50",
    ("clean", "ap75"): "AP75",
    ("fgsm", "ap"): "FGSM, AP",
    ("fgsm", "ap50"): "FGSM, AP50",
    ("c", "ap_clean"): "AP of those corrupted",
    ("c", "mpc"): "mPC",
    ("c", "rpc"): "rPC",
}
"""Suites and metrics that methods are compared by, and what they are called."""
SIZES = {"ap_small": "Small", "ap_medium": "Medium", "ap_large": "Large"}
SAID, ROBUST = ("AP", "FGSM, AP", "mPC"), ("mPC", "FGSM, AP")
"""Columns of which the text speaks, and of which the plane of clean against robust precision is."""
WORDS = (
    "AP: COCO's average precision, mean over overlaps from 0.50 to 0.95; AP50 and AP75: at one overlap. mPC: mean AP over "
    "the corruptions, of the pictures of the column before it; rPC: its percentage of these pictures' clean AP."
)


def write_detection_report(run: Path, *, mixed: bool = False) -> Path:
    """Write `report.md`, `report.html` and `tables/` into the folder of a comparison of detectors; the path of the page.

    Raises:
        DataError: there are no results, or a line of them is damaged.
        UsageError: rows of one suite were measured in different ways, and `mixed` is off.
    """
    return write_pages(run, gather(run, mixed=mixed))


def detection_outcome(run: Path) -> str:
    """The table of methods as plain text, and where the page is."""
    comparison = _compared(read_rows(run / RESULTS), COLUMNS)
    return f"{plain_table(_of_precision(accuracy_table(comparison)))}\n\nReport: {run / 'report.html'}"


def gather(run: Path, *, mixed: bool = False) -> Report:
    """Everything that the page will show.

    Raises:
        DataError, UsageError: as `write_detection_report`.
    """
    rows, left_out = read_rows(run / RESULTS), list[str]()
    facts = attempt("The facts of the run", partial(read_facts, run / RUN), left_out) or {}
    rows = in_order(rows, facts)
    comparison = _compared(rows, COLUMNS, mixed=mixed)
    plots = {
        "Clean against robust precision": partial(trade_plot, measure="average precision", clean="AP", robust=ROBUST),
        "The overview": partial(overview_plot, measure="average precision"),
        "The training curves": training_plot,
    }
    drawn = [attempt(what, partial(draw, run, comparison), left_out) for what, draw in plots.items()]
    boxed = attempt("The pictures", partial(read_boxed_pictures, run / "pictures.npz", adversary=_adversary(facts)), left_out)
    recipe = attempt("The recipe", partial(read_file, run / "recipe.yaml"), left_out) or ""
    return Report(
        title=str(facts.get("title") or run.name),
        subtitle=_subtitle(facts, comparison),
        methods=comparison.methods,
        opening=opening(comparison, _of_text(comparison)),
        reading=(*_sentences(comparison), *no_adversaries(facts), WORDS),
        tables={table.name: table for table in _tables(rows, comparison, facts)},
        plots={plot.name: replace(plot, caption=_precision(plot.caption)) for plot in drawn if plot},
        pictures=None,
        provenance=provenance(facts, rows),
        protocols=protocols(_renamed(rows, COLUMNS), comparison),
        recipe=recipe,
        alarms=tuple(alarms_of(run, facts, RUN)),
        left_out=tuple(left_out),
        boxed=boxed,
    )


def _compared(rows: Iterable[Row], columns: dict[tuple[str, str], str], *, mixed: bool = False) -> Comparison:
    """Methods by columns; each is a suite of its own, in percent."""
    renamed = _renamed(rows, columns)
    if not any(row.metric == "accuracy" for row in renamed):
        raise DataError("The results hold no average precision; go on with the run (--resume).")
    return comparison_table(renamed, mixed=mixed)


def _renamed(rows: Iterable[Row], columns: dict[tuple[str, str], str]) -> list[Row]:
    order = {name: place for place, name in enumerate(columns.values())}
    chosen = [
        replace(row, suite=columns[key], metric="accuracy") for row in rows if (key := (row.suite, row.metric)) in columns
    ]
    return [*sorted(chosen, key=lambda row: order[row.suite]), *_beside(rows)]


def _beside(rows: Iterable[Row]) -> list[Row]:
    """What is no score: codes and losses under an adversary of words, and costs."""
    return [row for row in rows if row.suite in METRICS]


def _tables(rows: Sequence[Row], comparison: Comparison, facts: Facts) -> list[Table]:
    named = facts.get("class_names")
    classes = [str(name) for name in named] if isinstance(named, list) else []
    tables = [_of_precision(table) for table in all_tables(comparison)]
    for name, caption, columns in (
        ("sizes", "AP by the size of the things", {("clean", metric): title for metric, title in SIZES.items()}),
        ("classes", "AP by class", {("clean", f"ap/{label}"): label for label in classes}),
    ):
        if any((row.suite, row.metric) in columns for row in rows):
            of_parts = accuracy_table(_compared([row for row in rows if row.suite not in METRICS], columns))
            tables.append(replace(of_parts, name=name, caption=f"{caption}, in percent, on clean pictures."))
    return tables


def _of_precision(table: Table) -> Table:
    return replace(table, caption=_precision(table.caption))


def _precision(text: str) -> str:
    return text.replace("Accuracy", "Average precision").replace("accuracy", "average precision")


def _sentences(comparison: Comparison) -> list[str]:
    suites = _of_text(comparison)
    found = [*lead(comparison, suites), *(on_suite(comparison, suite) for suite in suites)]
    words = modified_codes(comparison), changed_words(comparison)
    said = (*found, *words, cost(comparison), seeds(comparison), chance(comparison))
    return [_precision(text) for text in said if text]


def _of_text(comparison: Comparison) -> list[str]:
    return [suite for suite in comparison.suites if suite in SAID]


def _adversary(facts: Facts) -> str:
    """What changed the pictures that are shown."""
    of = section(facts, "pictures")
    if "alpha" in of:
        step = f"Q(x + \N{GREEK SMALL LETTER DELTA}) is made by a step of L2 length {short(of['alpha'])}"
        return f"{step} against the model that is shown it"
    if "fgsm_epsilon_255" in of:
        return f"FGSM is one step of {short(of['fgsm_epsilon_255'])}/255 against the model that is shown it"
    return ""


def _subtitle(facts: Facts, comparison: Comparison) -> str:
    counts = f"{len(comparison.methods)} methods"
    data = section(facts, "data")
    boxes = [
        f"{data[key]} boxes {where}"
        for key, where in (("train_boxes", "to train on"), ("test_boxes", "to find"))
        if key in data
    ]
    return " \N{MIDDLE DOT} ".join([counts, *data_words(data), *boxes])
