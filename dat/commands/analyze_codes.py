"""`dat analyze codes`: which share of the codes an adversary modifies, by the length of its step, and what it does beyond that.

OUT/codes.html  codes.jsonl  codes.csv  codes.png
OUT/measured/*.npz   what is kept of each model, discretizer and alpha: a call goes on
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from dat.analysis.codes import COMPARED, DISCRETE, RANDOM_CODES, RANDOM_STEP, Modified, codes
from dat.attacks.gradient import evaluating
from dat.commands.specimens import Arrays, Options, Specimen, measured_once, open_specimens, words_hash
from dat.discretizers.listing import in_columns
from dat.engine import run_folder
from dat.errors import UsageError
from dat.evaluation.intervals import METHOD, PERCENT
from dat.nn.outputs import logits_of
from dat.progress import Bar
from dat.report.codes_figure import LOOKS, Sweep, codes_figure
from dat.report.figures import png_of
from dat.report.sheet import Sheet, plots_of, rows_table, sheet_page, tally
from dat.report.tables import Column
from dat.results import INTERVAL, UNBOUNDED, Row, mean_interval, write_bytes, write_csv, write_rows, write_text
from dat.types import Batch, ClassifyingTask, Task, climbed_losses

PICTURE, ROWS, SHEET, PAGE = "codes.png", "codes.jsonl", "codes.csv", "codes.html"
ALPHAS = (0.0, 0.1, 0.2, 0.4)
"""Those of Table 8."""
OWN = "its own"
"""The discretizer of the run."""
METRICS = {"modified_code_rate": "rates", "loss": "losses", "l2": "l2", "same_answer": "same"}
"""Metrics of rows, and the arrays that are kept: percent, the loss that the adversary climbs, pixels from Q(x), percent."""
SHARES = ("modified_code_rate", "same_answer")
BLIND = (RANDOM_STEP, RANDOM_CODES)
COLUMNS = {
    "modified_code_rate": Column("Modified codes", "%"),
    "loss": Column("Loss"),
    "same_answer": Column("Same answer", "%"),
    "l2": Column("l2", "from Q(x)"),
}


def sweep(
    places: Sequence[Path], out: Path, options: Options, *, alphas: Sequence[float] = (), sources: Sequence[str] = ()
) -> list[Row]:
    """Attack pictures with steps of several lengths and write rows, a sheet and a picture into a folder.

    Without `alphas` those of Table 8 and the run's own, without `sources` the run's discretizer. Progress goes to stderr. What
    is done of each model, discretizer and alpha is kept, so that a call that was stopped goes on.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    for alpha in alphas:
        replace(options, alpha=alpha)  # refuses what is no length
    for name, values in {"--alpha": alphas, "--with": sources}.items():
        if len(set(values)) < len(values):
            raise UsageError(f"{name} names one twice ({', '.join(map(str, values))}); name each once.")
    with run_folder.locked(out, elsewhere="--out ANOTHER_FOLDER"):
        opened = {name: open_specimens(places, replace(options, source=name)) for name in sources or (None,)}
        steps = [
            (name or OWN, replace(specimen, alpha=alpha))
            for name, specimens in opened.items()
            for specimen in specimens
            for alpha in sorted({*alphas} or {*ALPHAS, specimen.alpha})
        ]
        with Bar("codes", sum(len(specimen.pictures) for _, specimen in steps)) as bar:
            found = [(name, specimen, measured(specimen, out, bar)) for name, specimen in steps]
        rows = [row for one in found for row in _rows(*one)]
        write_rows(out / ROWS, rows)
        write_csv(out / SHEET, _sheet(rows))
        figure = codes_figure(_drawn(found))
        write_bytes(out / PICTURE, png_of(figure))
        write_text(out / PAGE, sheet_page(_page(rows, figure)))
    return rows


def _page(rows: Sequence[Row], figure: Figure) -> Sheet:
    """What came of it, the figure, and a line for each model, discretizer, alpha and way."""
    stepped = [row for row in rows if row.protocol["alpha"]]
    found = [tally(stepped, f"codes/{DISCRETE}-minus-{way}", "loss") for way in BLIND]
    said = (
        "Does the adversary do more than change codes? By models, discretizers and alphas above 0, its loss is, against a "
        f"random step as long, {found[0]}; against as many random codes, {found[1]}."
    )
    lines = {f"codes/{way}": LOOKS[way][0] for way in COMPARED}
    lines |= {f"codes/{DISCRETE}-minus-{way}": f"adversary minus {LOOKS[way][0].split(',')[0]}, paired" for way in BLIND}
    caption = "What steps of several lengths do: mean over the pictures, with half of its 95 % interval."
    groups = ["model", "discretizer", "alpha"]
    table = rows_table(rows, caption=caption, lines=lines, metrics=COLUMNS, groups=groups)
    shown = "Modified codes, loss, answers and distance in pixels by the length of the step."
    subtitle = f"Modified codes, as in Table 8 of the paper \N{MIDDLE DOT} {rows[0].n} pictures"
    plots = plots_of({"codes": figure}, {"codes": shown})
    return Sheet("Modified codes by alpha", subtitle, (said,), {table.name: table}, plots, (ROWS, SHEET, PICTURE))


def measured(specimen: Specimen, out: Path, bar: Bar) -> Arrays:
    """By way of `COMPARED` and picture what the step of a model does (`METRICS`); what is kept of it in a folder is taken."""
    verb = f"codes-{words_hash(specimen.discretizer)[:8]}-{specimen.alpha:g}"
    return measured_once(out, specimen, verb, partial(_arrays, specimen, bar), bar)


def _arrays(specimen: Specimen, bar: Bar) -> Arrays:
    """By way and picture."""
    parts: list[Arrays] = []
    count = len(specimen.pictures)
    for first in range(0, count, specimen.batch_size):
        batch, task = specimen.batch(first, min(specimen.batch_size, count - first))
        parts.append(_of_batch(specimen, batch, task))
        bar.add(f"{specimen.name}, alpha {specimen.alpha:g}", len(batch.images))
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _of_batch(specimen: Specimen, batch: Batch, task: Task) -> Arrays:
    with evaluating(specimen.run.model) as model:
        found = codes(
            batch.images,
            lambda shown: climbed_losses(task, model, shown, batch.targets),
            specimen.discretizer,
            alpha=specimen.alpha,
            generator=batch.generator,
        )
    whole = {"rates": found.rates, "losses": found.losses, "l2": found.l2}
    arrays = {name: np.stack([of[way].double().cpu().numpy() for way in COMPARED]) for name, of in whole.items()}
    return arrays | ({"same": _same(specimen, batch, found)} if isinstance(task, ClassifyingTask) else {})


def _same(specimen: Specimen, batch: Batch, found: Modified) -> np.ndarray:
    """100 where the model still says what it said of the picture, else 0."""
    with torch.no_grad():
        said = [logits_of(specimen.run.model, found.images[way]).argmax(dim=1) == batch.targets for way in COMPARED]
    return 100 * torch.stack(said).double().cpu().numpy()


def _rows(name: str, specimen: Specimen, arrays: Arrays) -> Iterator[Row]:
    """Of each way the means over the pictures; and by how much the loss after the adversary is above those of the blind."""
    for place, way in enumerate(COMPARED):
        for metric, array in METRICS.items():
            if array in arrays:
                yield _row(name, specimen, way, metric, arrays[array][place])
    losses = dict(zip(COMPARED, arrays["losses"], strict=True))
    for way in BLIND:
        yield _row(name, specimen, f"{DISCRETE}-minus-{way}", "loss", losses[DISCRETE] - losses[way])


def _row(name: str, specimen: Specimen, suite: str, metric: str, of_pictures: np.ndarray) -> Row:
    bounds = PERCENT if metric in SHARES else UNBOUNDED
    mean, interval = mean_interval(of_pictures.tolist(), bounds=bounds)
    more = {"model": specimen.name, "discretizer": name, INTERVAL: METHOD}
    row = specimen.row(f"codes/{suite}", metric, mean, len(of_pictures), ci=interval, **more)
    return replace(row, protocol={key: value for key, value in row.protocol.items() if key != "pixel"})


def _sheet(rows: Sequence[Row]) -> Iterator[Sequence[object]]:
    yield ("model", "discretizer", "alpha", "pictures_after", "metric", "value", "low", "high", "n")
    for row in rows:
        low, high = row.ci or (None, None)
        said = [row.protocol[key] for key in ("model", "discretizer", "alpha")]
        yield (*said, row.suite.removeprefix("codes/"), row.metric, row.value, low, high, row.n)


def _drawn(found: Sequence[tuple[str, Specimen, Arrays]]) -> list[Sweep]:
    """One of each model and discretizer, with all its alphas."""
    kinds = dict.fromkeys((specimen.name, name) for name, specimen, _ in found)
    of = {kind: [(one.alpha, arrays) for name, one, arrays in found if (one.name, name) == kind] for kind in kinds}
    return [
        Sweep(
            model if name == OWN else f"{model}, {name}",
            COMPARED,
            tuple(alpha for alpha, _ in steps),
            {array: np.stack([arrays[array] for _, arrays in steps]) for array in steps[0][1]},
        )
        for (model, name), steps in of.items()
    ]


TITLES = ("modified codes", "by a random step", "loss: Q(x)", "adversary", "random step", "random codes", "above random codes")
ANSWERS = ("same answer: adversary", "random codes")
PIXELS = ("l_2 from Q(x): adversary", "random codes")


def as_table(rows: Sequence[Row]) -> str:
    """A line for each model, discretizer and alpha: what the adversary does beside steps and codes that know no loss."""
    shown = {(*_step_of(row), row.suite.removeprefix("codes/"), row.metric): row for row in rows}
    answered = any(row.metric == "same_answer" for row in rows)
    lines: list[Sequence[str]] = [("model", "with", "alpha", *TITLES, *ANSWERS * answered, *PIXELS)]
    for step in dict.fromkeys(map(_step_of, rows)):
        model, name, alpha = step
        cells = [shown.get((*step, *key)) for key in _cells(answered)]
        lines.append((model, name, f"{alpha:g}", *map(_cell, cells)))
    return in_columns(lines)


def _step_of(row: Row) -> tuple[str, str, float]:
    model, name, alpha = (row.protocol[key] for key in ("model", "discretizer", "alpha"))
    return str(model), str(name), float(str(alpha))


def _cells(answered: bool) -> Iterator[tuple[str, str]]:
    """Way and metric of each column of the table."""
    yield from ((way, "modified_code_rate") for way in (DISCRETE, RANDOM_STEP))
    yield from ((way, "loss") for way in (*COMPARED, f"{DISCRETE}-minus-{RANDOM_CODES}"))
    yield from ((way, "same_answer") for way in (DISCRETE, RANDOM_CODES) * answered)
    yield from ((way, "l2") for way in (DISCRETE, RANDOM_CODES))


def _cell(row: Row | None) -> str:
    """With the interval where it answers what the table asks: the rate, and whether the adversary is more than it."""
    if row is None:
        return "-"
    unit, digits = (" %", 1) if row.metric in SHARES else ("", 3)
    is_answer = row.suite in (f"codes/{DISCRETE}", f"codes/{DISCRETE}-minus-{RANDOM_CODES}") and row.metric in ANSWERED
    ends = f" [{row.ci[0]:.{digits}f}, {row.ci[1]:.{digits}f}]" if row.ci and is_answer else ""
    return f"{row.value:.{digits}f}{unit}{ends}"


ANSWERED = ("modified_code_rate", "loss")
