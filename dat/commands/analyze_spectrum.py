"""`dat analyze spectrum`: what a perturbation of visual words looks like beside one of pixels, on the same pictures.

OUT/spectrum.html  spectrum.jsonl  spectrum.png (spectrum-<model>.png of several)
OUT/measured/*.npz   what is kept of each model
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from dat.analysis.adversaries import ADVERSARIES, DISCRETE, PIXEL, Shown
from dat.analysis.spectrum import HALF_NYQUIST, colours, patch_place, power, ring_centres, spectrum, white_share
from dat.commands.specimens import Arrays, Options, Specimen, measured_once, open_specimens
from dat.discretizers.listing import in_columns
from dat.engine import run_folder
from dat.evaluation.intervals import METHOD
from dat.progress import Bar
from dat.report.figures import png_of
from dat.report.sheet import Sheet, plots_of, rows_table, sheet_page, tally
from dat.report.spectrum_figure import Perturbations, spectrum_figure
from dat.report.statistics_figure import LABELS
from dat.report.tables import Column
from dat.results import INTERVAL, Row, mean_interval, write_bytes, write_rows, write_text
from dat.types import Images

PICTURE, ROWS, PAGE = "spectrum.png", "spectrum.jsonl", "spectrum.html"
CLEAN = "clean"
MEASURES = {
    "energy_above_half_nyquist": "above_half_nyquist",
    "l0": "l0",
    "l2": "l2",
    "linf_255": "linf",
    "colours_in_patch": "colours",
}
"""Metrics of rows, and the entries of `Spectrum`."""
DIFFERENCE = f"{DISCRETE}-minus-{PIXEL}"
COLUMNS = {
    "energy_above_half_nyquist": Column("Above half Nyquist", "% of the energy"),
    "l0": Column("l0", "% of the pixels"),
    "l2": Column("l2"),
    "linf_255": Column("linf", "255ths"),
    "colours_in_patch": Column("Colours", "in the middle patch"),
}


def spectra(places: Sequence[Path], out: Path, options: Options) -> list[Row]:
    """Measure what adversaries of models of runs do to pictures, and write rows and a picture for each model into a folder.

    Progress goes to stderr. Each model that is done is kept, so that a call that was stopped goes on.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    with run_folder.locked(out, elsewhere="--out ANOTHER_FOLDER"):
        specimens = open_specimens(places, options)
        rows, figures = list[Row](), dict[str, Figure]()
        with Bar("spectrum", sum(len(one.pictures) for one in specimens)) as bar:
            for specimen in specimens:
                arrays = measured_once(out, specimen, "spectrum", partial(_arrays, specimen, bar), bar)
                rows += _rows(specimen, arrays)
                figures[specimen.name] = spectrum_figure(_drawn(specimen, arrays))
                write_bytes(out / picture_of(specimen.name, len(specimens)), png_of(figures[specimen.name]))
        write_rows(out / ROWS, rows)
        write_text(out / PAGE, sheet_page(_sheet(rows, figures)))
    return rows


def _sheet(rows: Sequence[Row], figures: Mapping[str, Figure]) -> Sheet:
    """What came of it, a figure for each model, and a line for each model and adversary."""
    gap, first = f"spectrum/{DIFFERENCE}", max(rows, key=lambda row: row.n)
    said = (
        "Has what DAT's adversary changes more energy in high frequencies than what AT's changes, and is it larger? By models, "
        f"DAT's share above half of Nyquist's frequency is {tally(rows, gap, 'energy_above_half_nyquist')}; its largest "
        f"change, linf, {tally(rows, gap, 'linf_255')}; its length, l2, {tally(rows, gap, 'l2')}."
    )
    caption = "What each adversary does to the pictures: mean over them, with half of its 95 % interval."
    lines = {f"spectrum/{CLEAN}": "no change"} | {f"spectrum/{name}": LABELS[name] for name in ADVERSARIES}
    table = rows_table(
        rows, caption=caption, lines=lines | {gap: "words minus pixels, paired"}, metrics=COLUMNS, groups=["model"]
    )
    captions = {
        name: f"{name}: one picture after each adversary, and spectra as means over {first.n} pictures." for name in figures
    }
    size = f"{first.protocol['width']} x {first.protocol['height']} pixels"
    subtitle = f"Figure 3 of the paper \N{MIDDLE DOT} {first.n} pictures of {size}"
    pictures = tuple(picture_of(name, len(figures)) for name in figures)
    return Sheet(
        "Spectra of perturbations", subtitle, (said,), {table.name: table}, plots_of(figures, captions), (ROWS, *pictures)
    )


def picture_of(name: str, models: int) -> str:
    """What the picture of a model is called, beside those of others."""
    return PICTURE if models == 1 else f"spectrum-{name.replace('/', '-')}.png"


def _arrays(specimen: Specimen, bar: Bar) -> Arrays:
    """Of each adversary and picture what it does to it; maps of energy are means over the pictures."""
    parts: list[Arrays] = []
    sums: dict[str, np.ndarray] = {}
    count, example = len(specimen.pictures), dict[str, np.ndarray]()
    for first in range(0, count, specimen.batch_size):
        images, shown = specimen.attacked(first, min(specimen.batch_size, count - first))
        example = example or _example(images, shown)
        parts.append(_per_picture(images, shown))
        for name, energy in _energies(images, shown).items():
            sums[name] = sums.get(name, 0) + energy.sum(dim=0).numpy() / count
        bar.add(specimen.name, len(images))
    joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
    return {**joined, **sums, **example}


def _per_picture(images: Images, shown: Shown) -> Arrays:
    found = [spectrum(images, shown.images[name]) for name in ADVERSARIES]
    names = {*MEASURES.values(), "curve", "colours_before"}
    return {name: np.stack([getattr(one, name).numpy() for one in found]) for name in sorted(names)}


def _energies(images: Images, shown: Shown) -> dict[str, Tensor]:
    """Of the pictures themselves, of those after each adversary, and of what it did."""
    clean = images.double().cpu()
    after = {name: shown.images[name].double().cpu() for name in ADVERSARIES}
    pictures = {f"picture/{name}": power(one) for name, one in {CLEAN: clean, **after}.items()}
    return {**pictures, **{f"delta/{name}": power(one - clean) for name, one in after.items()}}


def _example(images: Images, shown: Shown) -> Arrays:
    """The first picture and what becomes of it."""
    return {f"example/{name}": one[0].float().cpu().numpy() for name, one in {CLEAN: images, **shown.images}.items()}


def _drawn(specimen: Specimen, arrays: Arrays) -> Perturbations:
    height, width = specimen.pictures.pixels.shape[2:]
    return Perturbations(
        specimen.name,
        {name: arrays[f"example/{name}"] for name in (CLEAN, *ADVERSARIES)},
        {name: _colours(arrays[f"example/{name}"]) for name in (CLEAN, *ADVERSARIES)},
        patch_place(height, width),
        {name: arrays[f"picture/{name}"] for name in (CLEAN, *ADVERSARIES)},
        {name: arrays[f"delta/{name}"] for name in ADVERSARIES},
        dict(zip(ADVERSARIES, arrays["curve"], strict=True)),
        ring_centres(height, width).numpy(),
        {name: _said(specimen, arrays, place) for place, name in enumerate(ADVERSARIES)},
        100 * white_share(height, width, HALF_NYQUIST),
    )


def _colours(picture: np.ndarray) -> int:
    return int(colours(torch.from_numpy(picture)[None])[0])


def _said(specimen: Specimen, arrays: Arrays, place: int) -> dict[str, float]:
    return {row.metric: row.value for row in _rows_of(specimen, arrays, place)}


def _rows(specimen: Specimen, arrays: Arrays) -> Iterator[Row]:
    """Of one model, each a mean over pictures; and by how much words do more than pixels, picture by picture."""
    for place in range(len(ADVERSARIES)):
        yield from _rows_of(specimen, arrays, place)
    yield _row(specimen, CLEAN, "colours_in_patch", arrays["colours_before"][0])
    words, pixels = map(ADVERSARIES.index, (DISCRETE, PIXEL))
    for metric, name in MEASURES.items():
        gaps = _values(arrays, metric, name, words) - _values(arrays, metric, name, pixels)
        if not np.isnan(gaps).all():
            yield _row(specimen, DIFFERENCE, metric, gaps)


def _rows_of(specimen: Specimen, arrays: Mapping[str, np.ndarray], place: int) -> Iterator[Row]:
    """Of one adversary; none of what no picture has: of one that changes nothing there are no frequencies."""
    for metric, name in MEASURES.items():
        values = _values(arrays, metric, name, place)
        if not np.isnan(values).all():
            yield _row(specimen, ADVERSARIES[place], metric, values)


def _values(arrays: Mapping[str, np.ndarray], metric: str, name: str, place: int) -> np.ndarray:
    """Of each picture, in the unit of the metric."""
    return arrays[name][place] * (255.0 if metric == "linf_255" else 1.0)


def _row(specimen: Specimen, suite: str, metric: str, of_pictures: np.ndarray) -> Row:
    known = of_pictures[~np.isnan(of_pictures)].astype(np.float64).tolist()
    mean, interval = mean_interval(known)
    more = {"undefined": len(of_pictures) - len(known), "model": specimen.name, INTERVAL: METHOD}
    if metric == "energy_above_half_nyquist":
        height, width = specimen.pictures.pixels.shape[2:]
        more["white_noise"] = round(100 * white_share(height, width, HALF_NYQUIST), 2)
    return specimen.row(f"spectrum/{suite}", metric, mean, len(known), ci=interval, **more)


TITLES = ("energy above half Nyquist", "l_0, pixels", "l_2", "l_inf, 255ths", "colours in a patch")


def as_table(rows: Sequence[Row]) -> str:
    """A line for each model and adversary."""
    shown = {(row.protocol["model"], row.suite.removeprefix("spectrum/"), row.metric): row for row in rows}
    lines: list[Sequence[str]] = [("model", "pictures after", *TITLES)]
    for model, suite in dict.fromkeys((model, suite) for model, suite, _ in shown):
        lines.append((str(model), suite, *(_cell(shown.get((model, suite, metric)), metric) for metric in MEASURES)))
    return in_columns(lines)


def _cell(row: Row | None, metric: str) -> str:
    if row is None:
        return "-"
    unit, digits = (" %" if metric in ("energy_above_half_nyquist", "l0") else ""), 2 if metric == "l2" else 1
    ends = f" [{row.ci[0]:.{digits}f}, {row.ci[1]:.{digits}f}]" if row.ci else ""
    return f"{row.value:.{digits}f}{unit}{ends}"
