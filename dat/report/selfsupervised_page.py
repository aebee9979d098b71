"""The page of a comparison of methods on self-supervised learning: what frozen features are worth, judged as accuracies are.

Reads files only, as `dat.report.page` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np

from dat.errors import DataError
from dat.report import figures
from dat.report.later import later_table
from dat.report.origins import short
from dat.report.page import (
    Facts,
    Gallery,
    Report,
    alarms_of,
    attempt,
    data_words,
    in_order,
    odd_pictures,
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
from dat.report.reading import called, chance, cost, lead, on_suite, opening, seeds
from dat.report.tables import Comparison, Table, accuracy_table, all_tables, comparison_table, plain_table
from dat.results import RESULTS, RUN, Row, read_rows

COLUMNS = {
    ("clean", "knn"): "k-NN",
    ("clean", "probe"): "Probe",
    ("fgsm", "knn"): "k-NN, FGSM",
    ("fgsm", "probe"): "Probe, FGSM",
    ("c", "knn"): "k-NN, corr.",
    ("c", "probe"): "Probe, corr.",
}
"""Suites and metrics that methods are compared by, and what they are called."""
JUDGE, ROBUST = "k-NN", ("k-NN, corr.", "k-NN, FGSM")
"""Columns of which the page speaks first: neighbours, which fit nothing."""
RAW = "raw-pixels"
"""What stands in the place of a method where the pictures themselves are the features."""
WHERE = {"clean": "on clean pictures", "c": "on corrupted ones"}
"""Suites that raw pixels are measured on."""
WORDS = (
    "Features are frozen. k-NN: the nearest labelled pictures vote; probe: one linear layer, fitted to the labelled pictures. "
    "FGSM: one step through the probe, of which the neighbours are asked as well; corr.: the 15 corruptions."
)
PARTS = {
    "Pictures with hidden patches": ("original", "masked", "filled"),
    "Nearest labelled pictures": ("original", "neighbours"),
    "Nearest labelled pictures of attacked ones": ("attacked", "neighbours_attacked"),
}
"""What `pictures.npz` holds, by the title under which it is shown."""


def write_selfsupervised_report(run: Path, *, mixed: bool = False) -> Path:
    """Write `report.md`, `report.html` and `tables/` into the folder of a comparison of pre-trainings; the path of the page.

    Raises:
        DataError: there are no results, or a line of them is damaged.
        UsageError: rows of one suite were measured in different ways, and `mixed` is off.
    """
    return write_pages(run, gather(run, mixed=mixed))


def selfsupervised_outcome(run: Path) -> str:
    """The table of methods as plain text, what raw pixels give, and where the page is."""
    rows = read_rows(run / RESULTS)
    comparison = _compared(rows)
    said = [features_table(rows), *of_pixels(rows, comparison), f"Report: {run / 'report.html'}"]
    return "\n\n".join(said)


def features_table(rows: Iterable[Row]) -> str:
    """Methods by what their features are worth on each set, over seeds, as plain text.

    Raises:
        DataError, UsageError: as `write_selfsupervised_report`.
    """
    return plain_table(accuracy_table(_compared(rows)))


def gather(run: Path, *, mixed: bool = False) -> Report:
    """Everything that the page will show.

    Raises:
        DataError, UsageError: as `write_selfsupervised_report`.
    """
    rows, left_out = read_rows(run / RESULTS), list[str]()
    facts = attempt("The facts of the run", partial(read_facts, run / RUN), left_out) or {}
    rows = in_order(rows, facts)
    comparison = _compared(rows, mixed=mixed)
    plots = {
        "Clean against robust features": partial(trade_plot, clean=JUDGE, robust=ROBUST),
        "The overview": overview_plot,
        "The training curves": training_plot,
    }
    drawn = [attempt(what, partial(draw, run, comparison), left_out) for what, draw in plots.items()]
    later = attempt("What was evaluated later", partial(_later_table, run, rows, comparison, left_out), left_out)
    recipe = attempt("The recipe", partial(read_file, run / "recipe.yaml"), left_out) or ""
    return Report(
        title=str(facts.get("title") or run.name),
        subtitle=_subtitle(facts, comparison),
        methods=comparison.methods,
        opening=opening(comparison, [suite for suite in comparison.suites if suite in (JUDGE, *ROBUST)]),
        reading=(*odd_pictures(facts), *_sentences(comparison), *of_pixels(rows, comparison), WORDS),
        tables={table.name: table for table in (*all_tables(comparison), later) if table},
        plots={plot.name: plot for plot in drawn if plot},
        pictures=None,
        provenance=provenance(facts, rows),
        protocols=protocols(_renamed(rows), comparison),
        recipe=recipe,
        alarms=tuple(alarms_of(run, facts, RUN)),
        left_out=tuple(left_out),
        galleries=tuple(attempt("The pictures", partial(galleries, run, facts), left_out) or ()),
    )


def of_pixels(rows: Iterable[Row], comparison: Comparison) -> list[str]:
    """What nearest neighbours of the pixels themselves give, and whose features give no more; nothing where not measured."""
    measured = {row.suite: row.value for row in rows if row.method == RAW and row.metric == "knn"}
    found = {suite: measured[suite] for suite in WHERE if suite in measured}
    if not found:
        return []
    said = " and ".join(f"{value:.1f} % {WHERE[suite]}" for suite, value in found.items())
    below = [text for suite, value in found.items() if (text := _no_better(comparison, suite, value))]
    return [f"Raw pixels: k-NN on the pictures themselves, without any network, gives {said}.", *below]


def _no_better(comparison: Comparison, suite: str, pixels: float) -> str:
    """Whose mean is not above that of raw pixels."""
    scores = comparison.scores.get(COLUMNS[suite, "knn"], {})
    values = {method: fmean(by_seed.values()) for method in comparison.methods if (by_seed := scores.get(method))}
    named = [f"{called(method)} ({value:.1f} %)" for method, value in values.items() if value <= pixels]
    if not named:
        return ""
    return f"No better than raw pixels {WHERE[suite]}, by k-NN: {', '.join(named)}; by this judge the training added nothing."


def galleries(run: Path, facts: Facts) -> list[Gallery]:
    """The pictures of a run.

    Raises:
        DataError: there are none, or they are damaged.
    """
    path = run / "pictures.npz"
    if not path.is_file():
        raise DataError("The run holds no pictures.npz.")
    arrays, shown = figures.read_arrays(path), section(facts, "pictures")
    missing = {"original", "labels", "attacked", "neighbours", "neighbours_labels"} - arrays.keys()
    if missing or any(arrays[name].dtype != np.uint8 for names in PARTS.values() for name in names if name in arrays):
        raise DataError(f"{path.name} holds no pictures of a pre-training ({', '.join(sorted(missing)) or 'other types'}).")
    captions = (
        "Patches that are hidden in grey, and as the network predicts them from the others.",
        "The labelled pictures whose features are most alike, the most alike first.",
        f"The same after one step of {short(shown.get('epsilon_255', '?'))}/255 through the probe.",
    )
    said = f" Network: {shown.get('model', '?')}."
    present = [(title, names, caption) for (title, names), caption in zip(PARTS.items(), captions, strict=True)]
    return [_gallery(arrays, title, names, caption + said) for title, names, caption in present if {*names} <= arrays.keys()]


def _gallery(arrays: dict[str, np.ndarray], title: str, names: Sequence[str], caption: str) -> Gallery:
    rows, headings = [], list[str]()
    for index, label in enumerate(arrays["labels"]):
        pictures, headings = list[np.ndarray](), []
        for name in names:
            several = arrays[name][index] if arrays[name].ndim == 5 else arrays[name][index : index + 1]
            pictures += [*several]
            numbers = [f" {place}" for place in range(1, len(several) + 1)] if arrays[name].ndim == 5 else [""]
            headings += [f"{'Neighbour' if arrays[name].ndim == 5 else name.capitalize()}{number}" for number in numbers]
        near = [str(other) for name in names if f"{name}_labels" in arrays for other in arrays[f"{name}_labels"][index]]
        words = f"Label {label}" + f"; neighbours: {', '.join(near)}" * bool(near)
        rows.append((tuple(figures.png_address(figures.enlarged(picture)) for picture in pictures), words))
    return Gallery(title, tuple(headings), tuple(rows), caption, stops=len(names) if len(names) == len(headings) else 0)


def _compared(rows: Iterable[Row], *, mixed: bool = False) -> Comparison:
    """Methods by columns; each is a suite of its own, in percent."""
    renamed = _renamed(rows)
    if not any(row.metric == "accuracy" for row in renamed):
        raise DataError("The results hold nothing of features; go on with the run (--resume).")
    return comparison_table(renamed, mixed=mixed)


def _renamed(rows: Iterable[Row]) -> list[Row]:
    order = {name: place for place, name in enumerate(COLUMNS.values())}
    rows = [row for row in rows if row.method != RAW]
    chosen = [
        replace(row, suite=COLUMNS[key], metric="accuracy") for row in rows if (key := (row.suite, row.metric)) in COLUMNS
    ]
    costs = [row for row in rows if row.suite == "cost"]
    return [*sorted(chosen, key=lambda row: order[row.suite]), *costs]


def _later_table(run: Path, rows: Iterable[Row], comparison: Comparison, left_out: list[str]) -> Table | None:
    """Raises: DataError: rows are damaged, or cannot be put beside each other."""
    clean = [title for (suite, _), title in COLUMNS.items() if suite == "clean"]
    return later_table(run, _renamed(rows), comparison, left_out, clean=clean, renamed=_renamed)


def _sentences(comparison: Comparison) -> list[str]:
    found = [on_suite(comparison, suite) for suite in comparison.suites]
    said = (*lead(comparison), *found, cost(comparison), seeds(comparison), chance(comparison))
    return [text for text in said if text]


def _subtitle(facts: Facts, comparison: Comparison) -> str:
    data = section(facts, "data")
    bank = [f"{data['bank_images']} labelled images"] if "bank_images" in data else []
    task = [str(facts["task"])] if "task" in facts else []
    count = len(comparison.methods)
    methods = f"{count} method{'s' * (count != 1)}"
    return " \N{MIDDLE DOT} ".join([*task, methods, *data_words(data), *bank])
