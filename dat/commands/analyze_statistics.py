"""`dat analyze statistics`: how alike clean and adversarial pictures are to the normalisation layers of models.

OUT/statistics.html  statistics.jsonl  statistics.png  measured/*.npz   what is kept of each model, so that a call goes on
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dat.analysis.adversaries import ADVERSARIES, DISCRETE, PIXEL
from dat.analysis.statistics import POSSIBLE, Likeness, channel_statistics, likenesses
from dat.commands.specimens import Arrays, Options, Specimen, measured_once, open_specimens
from dat.discretizers.listing import in_columns
from dat.engine import run_folder
from dat.errors import UsageError
from dat.progress import Bar
from dat.report.figures import png_of
from dat.report.sheet import Sheet, plots_of, rows_table, sheet_page, tally
from dat.report.statistics_figure import LABELS, Correlations, statistics_figure
from dat.report.tables import Column
from dat.results import INTERVAL, UNBOUNDED, Row, mean_interval, write_bytes, write_rows, write_text

PICTURE, ROWS, PAGE = "statistics.png", "statistics.jsonl", "statistics.html"
COLUMNS = (Column("Means", "correlation"), Column("Variances", "correlation"))
METRICS = ("correlation_of_means", "correlation_of_variances")
"""In the order of the last axis of `Correlations.values`."""
OVER_BATCHES = "Student over batches"
DIFFERENCE = f"{DISCRETE}-minus-{PIXEL}"


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found of one model; the channels that were left out, by adversary, batch and layer."""

    specimen: Specimen
    found: Correlations
    left_out: np.ndarray
    channels: np.ndarray
    modified: np.ndarray


def statistics(places: Sequence[Path], out: Path, options: Options) -> list[Row]:
    """Measure models of runs on batches of pictures, and write rows and one picture into a folder.

    Progress goes to stderr. Each model that is done is kept, so that a call that was stopped goes on.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    with run_folder.locked(out, elsewhere="--out ANOTHER_FOLDER"):
        specimens = open_specimens(places, options)
        for specimen in specimens:
            _refuse_few(specimen)
        with Bar("statistics", sum(len(one.pictures) for one in specimens)) as bar:
            measured = [_measured(specimen, out, bar) for specimen in specimens]
        rows = [row for one in measured for row in _rows(one)]
        write_rows(out / ROWS, rows)
        found = {one.specimen.name: one.found for one in measured}
        write_bytes(out / PICTURE, png_of(statistics_figure(found)))
        write_text(out / PAGE, sheet_page(_sheet(rows, {name: statistics_figure({name: one}) for name, one in found.items()})))
    return rows


def _sheet(rows: Sequence[Row], figures: Mapping[str, Figure]) -> Sheet:
    """What came of it, a figure for each model, and a line for each model and adversary."""
    of_models = [row for row in rows if row.suite.count("/") == 1]
    gap = f"statistics/{DIFFERENCE}"
    said = (
        "To the normalisation layers, is what DAT's adversary makes of a picture closer to it than what AT's makes? By models, "
        f"DAT's correlation of means is {tally(rows, gap, METRICS[0])}; of variances, {tally(rows, gap, METRICS[1])}."
    )
    caption = (
        "Pearson's correlation of the channels' means and variances between a batch and what an adversary makes of it: mean "
        "over layers and batches, with half of its 95 % interval over batches."
    )
    lines = {f"statistics/{name}": LABELS[name] for name in ADVERSARIES} | {gap: "words minus pixels, paired"}
    table = rows_table(
        of_models, caption=caption, lines=lines, metrics=dict(zip(METRICS, COLUMNS, strict=True)), groups=["model"]
    )
    shown = (
        "left, how often which correlation was met, over batches and layers; right, mean over batches at each layer, with its "
        "95 % interval."
    )
    subtitle = f"Figure 2 of the paper \N{MIDDLE DOT} {rows[0].n} pictures in batches of {rows[0].protocol['batch_size']}"
    plots = plots_of(figures, {name: f"{name}: {shown}" for name in figures})
    return Sheet("Statistics at normalisation layers", subtitle, (said,), {table.name: table}, plots, (ROWS, PICTURE))


def _refuse_few(specimen: Specimen) -> None:
    """Raises: UsageError: there are not two whole batches."""
    count, size = len(specimen.pictures), specimen.batch_size
    if count // size < 2 or size < 2:
        smaller = f", or write --batch-size, e.g. {max(2, min(size, count // 2))}" * (count >= 4)
        raise UsageError(
            f"{count} pictures make {count // size} whole batches of {size}, and an interval over batches needs 2 or more of 2 "
            f"pictures or more; give more pictures{smaller}."
        )


def _measured(specimen: Specimen, out: Path, bar: Bar) -> Measured:
    arrays = measured_once(out, specimen, "statistics", partial(_arrays, specimen, bar), bar)
    found = Correlations(tuple(arrays["layers"].tolist()), ADVERSARIES, arrays["values"], specimen.own)
    return Measured(specimen, found, arrays["left_out"], arrays["channels"], arrays["modified"])


def _arrays(specimen: Specimen, bar: Bar) -> Arrays:
    batches: list[list[dict[str, Likeness]]] = []
    modified: list[float] = []
    for images, shown in specimen.whole_batches():
        clean = channel_statistics(specimen.shown, images)
        seen = [channel_statistics(specimen.shown, shown.images[name]) for name in ADVERSARIES]
        batches.append([likenesses(clean, one) for one in seen])
        modified.append(shown.modified)
        bar.add(specimen.name, len(images))
    layers = list(batches[0][0])
    table = [[[batch[kind].get(name, _ABSENT) for name in layers] for batch in batches] for kind in range(len(ADVERSARIES))]
    return {
        "layers": np.array(layers),
        "values": np.array([[[(one.mean, one.variance) for one in row] for row in rows] for rows in table]),
        "left_out": np.array([[[one.left_out for one in row] for row in rows] for rows in table]),
        "channels": np.array([one.channels for one in table[0][0]]),
        "modified": np.array(modified),
    }


_ABSENT = Likeness(np.nan, np.nan, 0, 0)


def _rows(one: Measured) -> Iterator[Row]:
    """Of one model: by adversary, over all layers and of each; and by how much the discrete one is above that of pixels."""
    batches = one.found.values.shape[1]
    for place, adversary in enumerate(ADVERSARIES):
        left_out, channels = int(one.left_out[place].sum()), int(one.channels.sum() * batches)
        more = {"left_out": left_out, "of_channels": channels, "trained_with": adversary == one.specimen.own}
        yield from _both(one, adversary, one.found.over_layers(adversary), **more)
        for layer, name in enumerate(one.found.layers):
            yield from _both(one, f"{adversary}/{name}", one.found.of(adversary)[:, layer])
    yield from _both(one, DIFFERENCE, one.found.gaps(DISCRETE, PIXEL))
    yield _row(one, "codes", "modified_code_rate", one.modified)


def _both(one: Measured, suite: str, of_batches: np.ndarray, **more: object) -> Iterator[Row]:
    """Of means and of variances; none of what no batch has."""
    for which, metric in enumerate(METRICS):
        if not np.isnan(of_batches[:, which]).all():
            yield _row(one, suite, metric, of_batches[:, which], **more)


def _row(one: Measured, suite: str, metric: str, of_batches: np.ndarray, **more: object) -> Row:
    known = of_batches[~np.isnan(of_batches)].tolist()
    mean, interval = mean_interval(known, bounds=POSSIBLE if metric in METRICS and suite != DIFFERENCE else UNBOUNDED)
    size, whole = one.specimen.batch_size, len(of_batches)
    how: dict[str, object] = {
        "model": one.specimen.name,
        "batch_size": size,
        "batches": len(known),
        "undefined": whole - len(known),
        INTERVAL: OVER_BATCHES,
    }
    return one.specimen.row(f"statistics/{suite}", metric, mean, size * whole, ci=interval, **how, **more)


def as_table(rows: Sequence[Row]) -> str:
    """A line for each model and adversary, over all layers; with how many channels were left out."""
    shown = {(row.protocol["model"], row.suite.removeprefix("statistics/"), row.metric): row for row in rows}
    lines: list[Sequence[str]] = [("model", "pictures after", "means", "variances", "constant channels")]
    for model, suite in dict.fromkeys((model, suite) for model, suite, _ in shown if suite in (*ADVERSARIES, DIFFERENCE)):
        found = [shown.get((model, suite, metric)) for metric in METRICS]
        first = next(row for row in found if row is not None)
        title = f"{suite}{' (own)' if first.protocol.get('trained_with') else ''}"
        left_out = f"{first.protocol['left_out']} of {first.protocol['of_channels']}" if "left_out" in first.protocol else ""
        lines.append((str(model), title, *map(_with_interval, found), left_out))
    return in_columns(lines)


def _with_interval(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row.value:.4f}" + (f" [{row.ci[0]:.4f}, {row.ci[1]:.4f}]" if row.ci else "")
