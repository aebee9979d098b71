"""What went wrong where, for pages: the worst classes, what is taken for what, calibration, pictures that methods differ on.

Knows what was said of pictures, and files of a run; no HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from dat.errors import DataError
from dat.evaluation.mistakes import ANOTHER, BINS, CALIBRATION, CLASS_MEAN, Answered, reliability
from dat.evaluation.right import Model
from dat.report import figures
from dat.report.answered import Clean, rows_of_class
from dat.report.figures import GRID, INK, MUTED, STYLE, Look, looks, png_address, read_arrays, scale_of
from dat.report.tables import (
    ABSENT,
    BASELINE,
    Cell,
    Column,
    Comparison,
    Line,
    Table,
    accuracy_cells,
    cell,
    comparison_table,
    cut_notes,
    method_title,
    number,
    ranking_notes,
    spread_words,
)
from dat.results import Row

Rates = Float64[np.ndarray, "classes said"]
"""Share of the pictures of each class (rows) that are said to be of each (columns; the last: of none), mean over seeds."""

Chosen = Float64[np.ndarray, "chosen chosen_said"]
"""The same of some of the classes."""

BESIDE = {CLASS_MEAN: "Class-mean accuracy", CALIBRATION: "Calibration error \N{DOWNWARDS ARROW}"}
"""What stands beside an accuracy, with its heading."""
WORST = 10
"""So many classes are in the table."""
PANELS, IN_A_ROW = 6, 3
"""So many methods have a matrix of their own, and so many of these stand beside each other."""
NUMBERED, WHOLE, CHOSEN = 12, 40, 30
"""Matrices of at most so many classes say each number; of at most so many are whole; of more, so many are chosen."""
LETTERS = 12
"""So many of the name of a class are beside a matrix."""
FEWEST = 10
"""Pictures of a bin; the mean over fewer is not drawn."""
THUMBNAIL = 128
RIGHT, WRONG = "#0067a5", "#cc4e00"


@dataclass(frozen=True)
class Mistaken:
    """A picture of which one model alone says what is right, as a data address, and the words below it."""

    address: str
    alt: str
    label: str
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Strip:
    """Pictures under a heading; how many of the set are like them is not said, as only some were stored."""

    title: str
    pictures: tuple[Mistaken, ...]


@dataclass(frozen=True)
class SetOfMistakes:
    """What the page shows of one test set: its name (empty where there is but one), parts by their names, and strips."""

    title: str
    worst: str
    classes: str
    confusion: str
    reliability: str
    strips: tuple[Strip, ...] = ()


def of_methods(said: Mapping[Model, Answered]) -> dict[str, list[Answered]]:
    """What the models of each method said, seed by seed."""
    found: dict[str, list[Answered]] = {}
    for (method, _), answered in said.items():
        found.setdefault(method, []).append(answered)
    return found


def rates_of(models: Sequence[Answered]) -> Rates:
    """Mean over seeds; of a class without pictures NaN."""
    confusions = [answered.confusion.astype(np.float64) for answered in models]
    counts = [confusion.sum(axis=1, keepdims=True) for confusion in confusions]
    shares = [
        np.divide(confusion, count, out=np.full_like(confusion, np.nan), where=count > 0)
        for confusion, count in zip(confusions, counts, strict=True)
    ]
    return np.mean(shares, axis=0)


def over_seeds(said: Mapping[Model, Answered]) -> str:
    """What captions say of numbers of several seeds."""
    return ", mean over seeds" * (len({seed for _, seed in said}) > 1)


# Tables.


def balance_table(rows: Iterable[Row]) -> Table | None:
    """Class-mean accuracy and calibration error on clean pictures, by method and test set; None where nothing was measured."""
    clean = [row for row in rows if row.suite == "clean" and row.source == "ours"]
    means, errors = (_beside(clean, metric, title) for metric, title in BESIDE.items())
    if means is None:
        return None
    lines = [
        Line(method_title(method), (*accuracy_cells(means, method, means.suites), *_plain_cells(errors, method)), method)
        for method in means.methods
    ]
    return Table(
        name="balance",
        caption="Beside the accuracy on clean pictures: its mean over the classes, each counting alike, and the expected "
        f"calibration error, by how much a model is surer or less sure than right ({BINS} bins): mean over seeds"
        f"{spread_words(means, means.suites)}.",
        corner="Method",
        columns=tuple(Column(told.title(suite), "%") for told in (means, errors) if told for suite in told.suites),
        lines=tuple(lines),
        notes=(
            *["\N{DOWNWARDS ARROW}: less is better."] * bool(errors),
            *ranking_notes(means, means.suites),
            *cut_notes(lines),
        ),
    )


def _beside(clean: Sequence[Row], metric: str, title: str) -> Comparison | None:
    """The rows of one metric as those of a suite with its title; None where there are none."""
    found = [replace(row, suite=title, metric="accuracy") for row in clean if row.metric == metric]
    return comparison_table(found, mixed=True) if found else None


def _plain_cells(comparison: Comparison | None, method: str) -> list[Cell]:
    """Means without marks: there is no contest."""
    return [cell(comparison.estimate(suite, method)) for suite in comparison.suites] if comparison else []


def worst_table(said: Mapping[Model, Answered], *, name: str, title: str = "", clean: Clean | None = None) -> Table:
    """Classes with the lowest accuracy, the mean over methods, and what the most of their other pictures are taken for.

    `clean`: rows of the models, of which the numbers say that they are made.
    """
    methods = {method: rates_of(models) for method, models in of_methods(said).items()}
    _classes_of(said)
    first = next(iter(said.values()))
    right = np.mean([np.diagonal(rates) for rates in methods.values()], axis=0)
    shown = [place for place in np.argsort(right, kind="stable").tolist() if first.counts[place]][:WORST]
    total = int((first.counts > 0).sum())
    few = f"the {len(shown)} lowest of {total} classes" if total > len(shown) else "the lowest first"
    return Table(
        name=name,
        caption=f"Accuracy by class in percent{f' on {title}' * bool(title)}{over_seeds(said)}; {few}, by the mean of all. "
        "Beside it: what is said most often instead, and of how many of the pictures of the class.",
        corner="Class",
        columns=tuple(Column(method_title(method), method=method) for method in methods),
        lines=tuple(
            Line(
                f"{first.classes[place]} ({first.counts[place]})",
                tuple(
                    _class_cell(rates[place], place, first.classes, rows_of_class(clean or {}, said, place, method))
                    for method, rates in methods.items()
                ),
            )
            for place in shown
        ),
        notes=("In brackets: pictures of the class. Single classes have few pictures: their numbers say where to look.",),
    )


def _class_cell(shares: np.ndarray, place: int, classes: Sequence[str], rows: tuple[Row, ...]) -> Cell:
    if np.isnan(shares).any():
        return ABSENT
    wrong = shares.copy()
    wrong[place] = 0
    most = int(wrong.argmax())
    taken = ANOTHER if most == len(classes) else classes[most]
    return Cell(number(100 * shares[place]), f"{taken} {100 * wrong[most]:.0f} %" if wrong[most] > 0 else "", quoted=rows)


# Figures.


def panels_of(methods: Sequence[str]) -> list[str]:
    """Which methods have a matrix: all, or of too many the baseline, DAT and the first others, in their order."""
    first = [method for method in (BASELINE, "dat") if method in methods]
    return [method for method in methods if method in [*first, *(m for m in methods if m not in first)][:PANELS]]


@mpl.rc_context(STYLE)
def confusion_figure(said: Mapping[Model, Answered]) -> Figure:
    """A matrix for each method: what pictures of each class (lines) are said to be (columns). Mistakes share one scale."""
    found = {method: rates_of(models) for method, models in of_methods(said).items()}
    rates, classes = most_mistaken({method: found[method] for method in panels_of(list(found))}, _classes_of(said))
    if not any(np.nansum(shares[:, -1]) for shares in rates.values()):
        rates = {method: shares[:, :-1] for method, shares in rates.items()}
    scale = max(float(np.nanmax(_mistakes(shares))) for shares in rates.values()) or 1.0
    columns, lines = min(IN_A_ROW, len(rates)), -(-len(rates) // IN_A_ROW)
    figure = Figure(figsize=(max(4.2, 3.3 * columns), 0.5 + 3.4 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for place, (panel, (method, shares)) in enumerate(zip(axes, rates.items(), strict=False)):
        _draw_matrix(panel, shares, classes, scale, names_lines=place % columns == 0)
        panel.set_title(method_title(method), loc="left", fontweight="bold")
    for panel in axes[len(rates) :]:
        panel.set_visible(False)
    figure.supxlabel("said", fontsize=9)
    figure.supylabel("class", fontsize=9)
    return figure


def most_mistaken(rates: Mapping[str, Rates], classes: Sequence[str]) -> tuple[dict[str, Chosen], list[str]]:
    """The matrices themselves, or of many classes those of the ones most often mistaken; the rest is `OTHER`."""
    if len(classes) <= WHOLE:
        return dict(rates), [*classes]
    wrong = np.nan_to_num(np.mean([_mistakes(shares).sum(axis=1) for shares in rates.values()], axis=0))
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:CHOSEN])
    smaller: dict[str, Chosen] = {}
    for method, shares in rates.items():
        among = shares[np.ix_(chosen, chosen)]
        smaller[method] = np.column_stack([among, shares[chosen].sum(axis=1) - among.sum(axis=1)])
    return smaller, [classes[int(place)] for place in chosen]


def _classes_of(said: Mapping[Model, Answered]) -> tuple[str, ...]:
    """Raises: DataError: models with different classes."""
    first, *others = [answered.classes for answered in said.values()]
    if any(other != first for other in others):
        raise DataError("The models were asked for different classes.")
    return first


def _mistakes(shares: Rates) -> Rates:
    """The same without what is right."""
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    return wrong


def _draw_matrix(axes: Axes, shares: Rates, classes: Sequence[str], scale: float, *, names_lines: bool) -> None:
    """Right in blue, wrong in orange: both as a veil over the paper, so that one picture serves light and dark pages."""
    wrong, right = np.nan_to_num(_mistakes(shares)), np.nan_to_num(np.diagonal(shares))
    image = np.zeros((*shares.shape, 4))
    image[..., :3], image[..., 3] = to_rgb(WRONG), 0.9 * wrong / scale
    places = np.arange(len(classes))
    image[places, places, :3], image[places, places, 3] = to_rgb(RIGHT), 0.45 * right
    axes.imshow(image, interpolation="none", aspect="equal")
    axes.grid(visible=False)
    said = [*classes, ANOTHER][: shares.shape[1]]
    short = [tick_of(name) for name in said]
    axes.set_xticks(range(len(said)), short, rotation=90, fontsize=7)
    axes.set_yticks(places, short[: len(classes)] if names_lines else [""] * len(classes))
    axes.tick_params(axis="y", labelsize=7)
    for line, column in np.argwhere(np.nan_to_num(shares) >= 0.005).tolist() if len(classes) <= NUMBERED else ():
        axes.text(column, line, f"{100 * shares[line, column]:.0f}", ha="center", va="center", fontsize=6.5, color=INK)


def tick_of(name: str) -> str:
    """The name of a class beside a matrix: its first letters, none of them a sign of mathematics."""
    words = name.replace("_", " ")
    return (words if len(words) <= LETTERS else f"{words[: LETTERS - 1]}…").replace("$", r"\$")


@mpl.rc_context(STYLE)
def reliability_figure(said: Mapping[Model, Answered]) -> Figure:
    """How often a model is right against how sure it is, and below how many pictures that is; seeds are pooled.

    Raises:
        DataError: it is not known how sure the models were.
    """
    known = {method: models for method, models in of_methods(said).items() if all(one.sure is not None for one in models)}
    if not known:
        raise DataError("How sure the models were was not kept.")
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], color=MUTED, lw=1, ls="--")
    for method, look in looks(list(known)).items():
        _draw_reliability(upper, lower, known[method], look)
    upper.set_ylabel("right, %")
    upper.set_ylim(-3, 103)
    lower.set_ylabel("pictures, %")
    lower.set_xlabel("probability of what is said, %")
    lower.set_xlim(0, 100)
    figures.add_legend(figure, looks(list(known)))
    return figure


def _draw_reliability(upper: Axes, lower: Axes, models: Sequence[Answered], look: Look) -> None:
    sure = np.concatenate([one.sure for one in models if one.sure is not None])
    found = reliability(sure, np.concatenate([one.correct for one in models]))
    enough = found.counts >= FEWEST
    drawn = {"color": look.color, "marker": look.marker, "ms": 5}
    upper.plot(100 * found.sure[enough], 100 * found.right[enough], **drawn)
    centres = 100 * (np.arange(BINS) + 0.5) / BINS
    lower.plot(centres, 100 * found.counts / found.counts.sum(), **{**drawn, "ms": 3}, drawstyle="steps-mid", lw=1.1)
    lower.grid(axis="x", color=GRID)


# Pictures.


def read_strips(path: Path) -> dict[str, tuple[Strip, ...]]:
    """Pictures on which two models differ, by the name of their test set.

    Raises:
        DataError: there are none, or the file is damaged.
    """
    if not path.is_file():
        raise DataError(f"The run holds no {path.name}: it has a single method, or an older version made it.")
    arrays = read_arrays(path)
    try:
        titles = [method_title(str(method)) for method in arrays["methods"]]
        models = [f"{title}, seed {seed}" for title, seed in zip(titles, arrays["seeds"].tolist(), strict=True)]
        found = [
            (int(arrays["set"][k]), int(arrays["right"][k]), _mistaken(arrays, k, titles)) for k in range(len(arrays["set"]))
        ]
        return {str(name): tuple(_strips(found, place, models)) for place, name in enumerate(arrays["sets"])}
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(f"{path.name} does not hold pictures with what two models say ({error}).") from error


def _strips(found: Sequence[tuple[int, int, Mistaken]], place: int, models: Sequence[str]) -> list[Strip]:
    strips = []
    for right in (0, 1):
        title = f"{models[right]} is right, {models[1 - right]} is not"
        pictures = tuple(mistaken for of_set, who, mistaken in found if (of_set, who) == (place, right))
        strips += [Strip(title, pictures)] * bool(pictures)
    return strips


def _mistaken(arrays: Mapping[str, np.ndarray], place: int, titles: Sequence[str]) -> Mistaken:
    label = str(arrays["labels"][place])
    said = [
        (title, str(word) + (f" {100 * sure:.0f} %" if np.isfinite(sure) else ""))
        for title, word, sure in zip(titles, arrays["said"][place], arrays["sure"][place].tolist(), strict=True)
    ]
    pixels = arrays[f"picture.{place}"]
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"picture {place} is {pixels.dtype} of shape {pixels.shape}")
    alt = f"{arrays['names'][place]}, label {label}"
    return Mistaken(png_address(_thumbnail(pixels)), alt, label, tuple(said))


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    """A small picture with whole pixels repeated, a large one made smaller."""
    scale = max(1, THUMBNAIL // max(pixels.shape[:2])) if scale_of(*pixels.shape[:2]) > 1 else 1
    image = Image.fromarray(pixels.repeat(scale, axis=0).repeat(scale, axis=1))
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return image
