"""Figures: plots as inline SVG that takes its colours from the page, pictures as enlarged PNG.

Every plot is drawn in the light colours; `svg_text` replaces each by a variable of the page, so that one figure
serves light and dark. The same input gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw

from dat.errors import DataError
from dat.report.tables import CLEAN_OF_C, Comparison, Estimate, method_title

INK, MUTED, GRID, PAPER = "#1f2329", "#656d77", "#d9dde2", "#fffefc"
PAGE_COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
MARKERS = "osD^vPX*"
LETTERS, NARROWEST = 96, 9
"""So many of a title go beside each other over all panels of a figure, and at least over one."""

# Light and dark. Told apart under the common colour blindnesses (Okabe and Ito, 2008, darkened for contrast on white).
METHOD_COLOURS = {
    "standard": ("#6e7681", "#a3acb8"),
    "at": ("#0067a5", "#5cb6f2"),
    "random-codes": ("#00805f", "#2fc59b"),
    "dat": ("#cc4e00", "#ff8c42"),
    "dat-official": ("#a33300", "#ff7a59"),
    "dat-free": ("#d97a00", "#ffb066"),
    "dat-fast": ("#b5542e", "#ff9a6b"),
    "dat-codes": ("#8c3b00", "#e08a4d"),
    "advprop": ("#4a3f94", "#9d90f0"),
    "fast-advprop": ("#8468cf", "#c9bcff"),
    "pyramid-at": ("#2b87a8", "#7fd0ea"),
    "debiased": ("#8a6500", "#e0b030"),
    "augmix": ("#a64a86", "#e48fc2"),
    "deepaugment": ("#70352a", "#d08a7a"),
    "deepaugment-decoder": ("#9c5c46", "#e6ae9c"),
    "deepaugment-augmix-dat": ("#5a7600", "#b0ce48"),
}
OTHER_COLOURS = (("#a8508a", "#e79ac6"), ("#946c00", "#e8b93c"), ("#5b4fa2", "#ab9ff2"), ("#7a3b2e", "#d99484"))

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}

Log = list[dict[str, object]]
"""Lines of a training log, in order."""


def method_colours(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Light and dark colour of each method; a known method keeps its own in every report."""
    others = [method for method in methods if method not in METHOD_COLOURS]
    spare = {method: OTHER_COLOURS[index % len(OTHER_COLOURS)] for index, method in enumerate(others)}
    return {method: (METHOD_COLOURS | spare)[method] for method in methods}


@dataclass(frozen=True)
class Look:
    """Colour and marker of a method, so that neither alone carries the meaning."""

    color: str
    marker: str


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """How each method is drawn."""
    colours = method_colours(methods)
    return {method: Look(colours[method][0], MARKERS[i % len(MARKERS)]) for i, method in enumerate(methods)}


def svg_text(figure: Figure, *, name: str, label: str, methods: Sequence[str] = ()) -> str:
    """An `<svg>` element to stand in a page: colours by variable, identifiers prefixed with `name`, nothing outside."""
    file = io.StringIO()
    with mpl.rc_context(STYLE), mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})  # savefig draws twice, once to no end
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{label}"', text, count=1)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    colours = [light for light, _ in method_colours(methods).values()]
    variables = PAGE_COLOURS | {colour: f"method-{index}" for index, colour in enumerate(colours)}
    for colour, variable in variables.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.strip()


def panels(count: int, *, width: float, height: float, same_height: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in a row, with one vertical axis for all or one each; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=same_height)[0])


def not_below_0(axes: Axes) -> None:
    """Where all that is drawn is 0 its axis goes to 1: matplotlib's would have numbers below 0, which no share is."""
    low = -0.08
    if not any(axes.dataLim.intervalx):
        axes.set_xlim(low, 1)
    if not any(axes.dataLim.intervaly):
        axes.set_ylim(low, 1)


def add_legend(figure: Figure, shown: dict[str, Look]) -> None:
    """One legend above all panels."""
    add_titled_legend(figure, {method_title(method): (look.color, look.marker) for method, look in shown.items()})


def add_titled_legend(figure: Figure, shown: Mapping[str, tuple[str, str]]) -> None:
    """One legend above all panels, of a colour and a marker for each name."""
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=5, label=label) for label, (colour, marker) in shown.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6), handlelength=1.8)


def png_of(figure: Figure, *, dpi: int = 130) -> bytes:
    """A figure as a picture on the paper of pages; the same figure gives the same bytes."""
    file = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="png", dpi=dpi, facecolor=PAPER, metadata={"Software": None})
    return file.getvalue()


def draw_interval(axes: Axes, value: Estimate, position: float, look: Look, *, horizontal: bool = True) -> None:
    """A mean with its interval; one that was altered may lie outside of it, and has a line to the other side only."""
    low, high = value.interval or (value.mean, value.mean)
    error = None if value.interval is None else [[max(0.0, value.mean - low)], [max(0.0, high - value.mean)]]
    x, y = (value.mean, position) if horizontal else (position, value.mean)
    errors = {"xerr" if horizontal else "yerr": error}
    drawn = {"color": look.color, "marker": look.marker, "markersize": 6.4, "markeredgecolor": PAPER}
    axes.errorbar(x, y, **errors, **drawn, markeredgewidth=0.8, elinewidth=1.6, capsize=0)


@mpl.rc_context(STYLE)
def overview_figure(comparison: Comparison, *, measure: str = "accuracy") -> Figure:
    """Every method on every whole test set: mean and interval of `measure`, the seeds as small dots below."""
    letters = max(NARROWEST, LETTERS // len(comparison.suites))
    figure, axes = panels(len(comparison.suites), width=9.0, height=0.9 + 0.42 * len(comparison.methods), same_height=True)
    for panel, suite in zip(axes, comparison.suites, strict=True):
        for row, (method, look) in enumerate(looks(comparison.methods).items()):
            values = list(comparison.scores[suite].get(method, {}).values())
            panel.plot(values, [row + 0.24] * len(values), "o", ms=2.6, color=look.color, alpha=0.6)
            if value := comparison.estimate(suite, method):
                draw_interval(panel, value, float(row), look)
        panel.set_title(textwrap.fill(comparison.title(suite), letters), loc="left", fontweight="bold")
        panel.grid(axis="y", visible=False)
        panel.margins(x=0.08)
        not_below_0(panel)
    axes[0].set_yticks(range(len(comparison.methods)), [method_title(method) for method in comparison.methods])
    axes[0].set_ylim(len(comparison.methods) - 0.45, -0.55)
    figure.supxlabel(f"{measure}, %", fontsize=9)
    return figure


@mpl.rc_context(STYLE)
def severity_figure(comparison: Comparison) -> Figure:
    """Accuracy against severity, over all corruptions and in each group; severity 0 is the same pictures as they are."""
    groups, severity_0 = ["", *(f"{group}/" for group in comparison.corruptions)], uncorrupted(comparison)
    figure, axes = panels(len(groups), width=9.6, height=3.1, same_height=True)
    for panel, group in zip(axes, groups, strict=True):
        suites = severity_0 + [f"severity/{group}{s}" for s in comparison.severities]
        for index, (method, look) in enumerate(looks(comparison.methods).items()):
            draw_severities(panel, comparison, method, look, suites, shift=shift(index, len(comparison.methods)))
        panel.set_title(group[:-1].capitalize() or "All corruptions", loc="left", fontweight="bold")
        panel.set_xticks(range(len(suites)), ["0" if suite in severity_0 else suite.split("/")[-1] for suite in suites])
        panel.grid(axis="x", visible=False)
    axes[0].set_ylabel("accuracy, %")
    figure.supxlabel("severity", fontsize=9)
    add_legend(figure, looks(comparison.methods))
    return figure


def uncorrupted(comparison: Comparison) -> list[str]:
    """The suite that shows the corrupted pictures as they are; none, where the clean pictures are more or fewer than these."""
    count = comparison.images[f"severity/{comparison.severities[0]}"]
    return [name for name in (CLEAN_OF_C, "clean") if comparison.images.get(name) == count][:1]


def shift(index: int, count: int) -> float:
    """Small offset that keeps the intervals of `count` methods apart."""
    return 0.11 * (index - (count - 1) / 2)


def draw_severities(
    axes: Axes, comparison: Comparison, method: str, look: Look, suites: Sequence[str], *, shift: float
) -> None:
    """One method's means against severity, joined, each with its interval."""
    found = [(x + shift, value) for x, suite in enumerate(suites) if (value := comparison.estimate(suite, method))]
    axes.plot([x for x, _ in found], [value.mean for _, value in found], color=look.color, lw=1.1, alpha=0.75)
    for x, value in found:
        draw_interval(axes, value, x, look, horizontal=False)


def series(log: Log, key: str, *, points: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a log; of a long one, means over stretches of equal length.

    Raises:
        DataError: no line holds both a step and the value.
    """
    lines = [(line["step"], line[key]) for line in log if is_number(line.get("step")) and is_number(line.get(key))]
    if not lines:
        raise DataError(f"No line of the log holds `step` and `{key}`.")
    steps, values = np.array(lines, dtype=float).T
    stretches = np.array_split(np.arange(len(steps)), min(points, len(steps)))
    steps, values = (np.array([part[stretch].mean() for stretch in stretches]) for part in (steps, values))
    return steps, values


def is_number(value: object) -> bool:
    """Whether a logged value can be drawn."""
    return isinstance(value, int | float)


def mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of several curves at the steps of the shortest one, by straight lines between their points."""
    steps = min((steps for steps, _ in curves), key=lambda steps: steps[-1])
    return steps, np.mean([np.interp(steps, *curve) for curve in curves], axis=0)


@mpl.rc_context(STYLE)
def training_figure(methods: Sequence[str], logs: dict[str, list[Log]]) -> Figure:
    """Training loss against step, and accuracy of validation where there is one: the mean over seeds, and each seed thin."""
    shown = {method: look for method, look in looks(methods).items() if logs.get(method)}
    titles = {"loss": "training loss", **({VALIDATED: "validation accuracy, %"} if is_validated(logs) else {})}
    figure, axes = panels(len(titles), width=8.2, height=3.4)
    for panel, (key, title) in zip(axes, titles.items(), strict=True):
        for method, look in shown.items():
            if curves := [series(log, key) for log in logs[method] if key == "loss" or is_validated({method: [log]})]:
                draw_curves(panel, curves, look)
        panel.set_xlabel("step")
        panel.set_ylabel(title)
    add_legend(figure, shown)
    return figure


VALIDATED = "validation_accuracy"


def is_validated(logs: dict[str, list[Log]]) -> bool:
    """Whether a training was judged while it went on."""
    return any(is_number(line.get(VALIDATED)) for of_method in logs.values() for log in of_method for line in log)


def draw_curves(axes: Axes, curves: Sequence[tuple[np.ndarray, np.ndarray]], look: Look) -> None:
    """Each seed thin, their mean thick."""
    for curve in curves:
        axes.plot(*curve, color=look.color, lw=0.6, alpha=0.45)
    axes.plot(*mean_curve(curves), color=look.color, marker=look.marker, markevery=0.12, ms=4.5)


HEALTH = {
    "loss": "loss",
    "psnr_db": "PSNR of the mean error, dB",
    "ssim": "SSIM",
    "codes_used": "share of codes used",
    "perplexity": "perplexity of the codes",
    "code_agreement": "codes as the teacher's",
    "psnr_to_teacher_db": "PSNR to the teacher, mean error, dB",
    "discriminator": "loss of the discriminator",
    "discriminator_accuracy": "discriminator right",
}
"""What the log of a discretizer tells of it, with the titles; distances, whose names tell the network, come after these."""

DISTANCES = re.compile(r"lpips_\w+|\w+_distance|frechet_\w+")
COLUMNS = 3


def distance_title(key: str) -> str:
    """`frechet_<network>`, `lpips_<network>` or `<network>_distance` in words."""
    kind, _, network = key.partition("_")
    words = {"frechet": "Fréchet distance", "lpips": "LPIPS"}.get(kind)
    return f"{words} ({network})" if words else f"perceptual distance ({key.removesuffix('_distance')})"


def health_keys(log: Log) -> dict[str, str]:
    """What can be drawn of a log, with titles."""
    logged = {key for line in log for key, value in line.items() if is_number(value)}
    distances = {key: distance_title(key) for key in sorted(logged) if DISTANCES.fullmatch(key)}
    return {key: title for key, title in (HEALTH | distances).items() if key in logged}


@mpl.rc_context(STYLE)
def health_figure(log: Log) -> Figure:
    """How a discretizer did while it was trained, against step: one panel for each measure of its log.

    Raises:
        DataError: the log holds none.
    """
    found = health_keys(log)
    if not found:
        raise DataError("The log of the discretizer holds no loss and no measure of its reconstructions.")
    columns = min(COLUMNS, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(8.2, 0.6 + 1.9 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, (key, title) in zip(axes, found.items(), strict=False):
        steps, values = series(log, key)
        panel.plot(steps, values, color=INK, marker="o" if len(steps) < 30 else "", ms=3)
        panel.set_title(title, loc="left", fontweight="bold")
        panel.set_xlabel("step")
    for panel in axes[len(found) :]:
        panel.set_visible(False)
    return figure


# Pictures.

SIDE = 192
MOST_PICTURES = 8
CHANGED, OUTLINE = (255, 92, 0), (255, 255, 255)
PLAIN = ("original", "reconstruction", "adversarial", "difference")
"""The views of a picture before that with the grid of codes."""


@dataclass(frozen=True)
class PictureRow:
    """One picture and what becomes of it: PNG data addresses, the words below them, and how many codes changed.

    Five addresses, or four where codes have no places in a picture, as of tokenizers that write a row of them.
    """

    images: tuple[str, ...]
    label: str
    predicted_original: str
    predicted_adversarial: str
    changed: int
    codes: int


@dataclass(frozen=True)
class Pictures:
    """Rows of pictures, how much the difference was amplified, how many the run holds, and which model was attacked."""

    rows: tuple[PictureRow, ...]
    factor: int
    total: int
    attacked: str = ""

    @property
    def marked(self) -> bool:
        """Whether each row ends with the grid of codes."""
        return all(len(row.images) > len(PLAIN) for row in self.rows)


def read_pictures(path: Path, *, stride: int | None = None) -> Pictures:
    """Pictures of a run; `stride` is the side of a code in pixels (from the sizes where it is not given).

    Raises:
        DataError: the file is damaged, or an array is missing or has another shape than the originals.
    """
    arrays = read_arrays(path)
    missing = {"original", "reconstruction", "adversarial", "changed", "labels"} - set(arrays)
    if missing or arrays["original"].ndim != 4:
        raise DataError(f"{path.name} holds no {' and no '.join(sorted(missing)) or 'pictures (n, h, w, 3)'}.")
    if any(arrays[name].shape != arrays["original"].shape for name in ("reconstruction", "adversarial")):
        raise DataError(f"The pictures in {path.name} differ in shape from the originals.")
    if any(len(array) != len(arrays["original"]) for array in arrays.values()):
        raise DataError(f"The arrays in {path.name} differ in length.")
    total = len(arrays["original"])
    shown = {name: array[:MOST_PICTURES] for name, array in arrays.items()}
    factor = amplification(shown["reconstruction"], shown["adversarial"])
    rows = tuple(picture_row(shown, index, factor, stride) for index in range(len(shown["original"])))
    return Pictures(rows, factor, total)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a file, tensors only; raises DataError where it is no such file."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, KeyError, NotImplementedError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path.name} is no file of arrays ({getattr(error, 'strerror', None) or error}).") from error


def amplification(reconstruction: np.ndarray, adversarial: np.ndarray) -> int:
    """Largest whole factor that keeps every difference between black and white; at least 1."""
    largest = int(np.abs(adversarial.astype(int) - reconstruction.astype(int)).max(initial=0))
    return max(1, 127 // max(largest, 1))


def picture_row(arrays: dict[str, np.ndarray], index: int, factor: int, stride: int | None) -> PictureRow:
    """The views of one picture."""
    original, reconstruction, adversarial, changed = (
        arrays[name][index] for name in ("original", "reconstruction", "adversarial", "changed")
    )
    difference = np.clip(128 + factor * (adversarial.astype(int) - reconstruction.astype(int)), 0, 255)
    plain = [enlarged(picture.astype(np.uint8)) for picture in (original, reconstruction, adversarial, difference)]
    if changed.ndim == 2:  # others have no places in the picture
        plain.append(mark_codes(enlarged(adversarial), changed.astype(bool), side=code_side(adversarial, changed, stride)))
    return PictureRow(
        images=tuple(png_address(picture) for picture in plain),
        label=str(arrays["labels"][index]),
        predicted_original=word(arrays, "predicted_original", index),
        predicted_adversarial=word(arrays, "predicted_adversarial", index),
        changed=int(changed.sum()),
        codes=int(changed.size),
    )


def word(arrays: dict[str, np.ndarray], name: str, index: int) -> str:
    """One entry of an optional array of words."""
    return str(arrays[name][index]) if name in arrays else ""


def scale_of(height: int, width: int) -> int:
    """Whole factor by which small pictures are enlarged."""
    return max(1, SIDE // max(height, width))


def enlarged(picture: np.ndarray) -> Image.Image:
    """A picture with each pixel repeated, so that none is blurred."""
    scale = scale_of(*picture.shape[:2])
    return Image.fromarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def code_side(picture: np.ndarray, changed: np.ndarray, stride: int | None) -> int:
    """Side of a code in pixels of the enlarged picture."""
    side = stride or -(-picture.shape[0] // changed.shape[0])
    return side * scale_of(*picture.shape[:2])


def mark_codes(picture: Image.Image, changed: np.ndarray, *, side: int) -> Image.Image:
    """Thin lines between the codes, and a frame inside each changed one; codes are `side` pixels wide."""
    veil = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(veil)
    for offset in range(side, max(picture.size), side):
        draw.line([(offset, 0), (offset, picture.height)], fill=(128, 128, 128, 150))
        draw.line([(0, offset), (picture.width, offset)], fill=(128, 128, 128, 150))
    width = max(2, side // 12)
    for row, column in np.argwhere(changed).tolist():
        left, top = column * side, row * side
        right, bottom = min(left + side, picture.width) - 1, min(top + side, picture.height) - 1
        draw.rectangle([left, top, right, bottom], outline=(*OUTLINE, 255), width=width + 1)
        draw.rectangle([left, top, right, bottom], outline=(*CHANGED, 255), width=width)
    return Image.alpha_composite(picture.convert("RGBA"), veil).convert("RGB")


def png_address(picture: Image.Image) -> str:
    """A picture as a `data:` address."""
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
