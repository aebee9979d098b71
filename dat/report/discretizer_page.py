"""The page of a run that trained a discretizer: quality, reconstructions and health, in one file that needs no other.

Reads files only, as `dat.report.page` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dat.discretizers.pretrained import FILE_NAME, read_extra
from dat.errors import CheckpointError, DataError
from dat.report import figures
from dat.report.origins import short, spelled
from dat.report.page import (
    Facts,
    alarms_of,
    attempt,
    data_words,
    provenance,
    read_facts,
    read_file,
    read_log,
    render,
    section,
    tell,
)
from dat.results import RUN, write_text

RECONSTRUCTIONS = "reconstructions.npz"

QUALITY_WORDS = {
    "psnr_db": "PSNR of the mean error in dB",
    "ssim": "SSIM",
    "codes_used": "share of codes used",
    "perplexity": "perplexity of the codes",
    "dead_codes": "codes never used",
    "code_agreement": "share of codes equal to the teacher's",
    "psnr_to_teacher_db": "PSNR of the mean error to the teacher's output in dB",
    "decoder_psnr_to_teacher_db": "PSNR of the mean error to the teacher's output in dB, of the same codes",
    "teacher_psnr_db": "PSNR of the mean error of the teacher in dB",
    "flops": "MFLOP an image",
    "teacher_flops": "MFLOP an image of the teacher",
    "flops_ratio": "FLOPs over the teacher's",
    "size": "side of an image in pixels",
}


@dataclass(frozen=True)
class DiscretizerPage:
    """All that the page shows. `alarm` is one of the training, `alarms` say what is not as it was written.

    `pictures`: rows of PNG data addresses by name, the originals first.
    """

    title: str
    subtitle: str
    alarm: str
    alarms: tuple[str, ...]
    quality: dict[str, str]
    pictures: dict[str, list[str]]
    health: str
    provenance: dict[str, str]
    recipe: str
    left_out: tuple[str, ...]


def write_discretizer_report(run: Path) -> Path:
    """Write `report.html` into the folder of a run that trained a discretizer; the path of the page.

    Raises:
        DataError: the folder holds no trained discretizer.
    """
    page = gather(run)
    tell(page.alarms)
    write_text(run / "report.html", render("discretizer.html.j2", page=page))
    return run / "report.html"


def gather(run: Path) -> DiscretizerPage:
    """Everything that the page will show.

    Raises:
        DataError: as `write_discretizer_report`.
    """
    left_out: list[str] = []
    facts = attempt("The facts of the run", partial(read_facts, run / RUN), left_out) or {}
    made_by = read_provenance(run)
    quality = section(made_by, "quality")
    keeps_pictures = "teacher" not in made_by  # a student's run writes none
    pictures = (
        attempt("The reconstructions", partial(read_reconstructions, run / RECONSTRUCTIONS), left_out)
        if keeps_pictures
        else None
    )
    return DiscretizerPage(
        title=str(facts.get("title") or run.name),
        subtitle=subtitle(facts),
        alarm=str(made_by.get("alarm") or ""),
        alarms=tuple(alarms_of(run, facts, RUN)),
        quality={title: measured(key, quality[key]) for key, title in titles(quality).items()},
        pictures=pictures or {},
        health=attempt("The curves", partial(health_svg, run / "log.jsonl"), left_out) or "",
        provenance=origin(facts, made_by),
        recipe=attempt("The recipe", partial(read_file, run / "recipe.yaml"), left_out) or "",
        left_out=tuple(left_out),
    )


def read_provenance(run: Path) -> dict[str, object]:
    """What the weights say of themselves.

    Raises:
        DataError: there are none yet, or they are damaged.
    """
    try:
        return dict(read_extra(run / FILE_NAME))
    except CheckpointError as error:
        raise DataError(f"{run} holds no trained discretizer ({error}); go on with `dat train ... --resume`.") from error


def measured(key: str, value: object) -> str:
    """A measure as text; FLOPs in millions."""
    if key.endswith("flops") and isinstance(value, int):
        return f"{value / 1e6:,.1f}"
    return short(value)


def titles(quality: Mapping[str, object]) -> dict[str, str]:
    """What was measured, in words: the known measures in their order, then distances, then the rest by its key."""
    distances = {key: figures.distance_title(key) for key in sorted(quality) if figures.DISTANCES.fullmatch(key)}
    found = {key: title for key, title in (QUALITY_WORDS | distances).items() if key in quality}
    return found | {key: key.replace("_", " ") for key in quality if key not in found}


def origin(facts: Facts, made_by: Mapping[str, object]) -> dict[str, str]:
    """What the run says of itself, then what the weights add to it."""
    run = provenance({**facts, "discretizer": {}}, [])
    del run["Page"]  # a comparison's: this page is made of other files
    added = {key: words(value) for key, value in made_by.items() if key not in ("quality", "alarm", "recipe_hash", "versions")}
    return run | {"Pictures" if key == "data" else key.capitalize(): text for key, text in added.items()}


def words(value: object) -> str:
    """A setting, or several of them, as text."""
    return spelled(value) if isinstance(value, Mapping) else short(value)


def subtitle(facts: Facts) -> str:
    """The data in words."""
    data = facts.get("data")
    return ", ".join(data_words(data)) if isinstance(data, Mapping) else ""


def health_svg(path: Path) -> str:
    """The curves of a log."""
    return figures.svg_text(figures.health_figure(read_log(path)), name="health", label="health of the discretizer")


def read_reconstructions(path: Path) -> dict[str, list[str]]:
    """Rows of pictures, the originals first, then one row per epoch that was kept.

    Raises:
        DataError: the file is missing, damaged, or holds no pictures.
    """
    arrays = figures.read_arrays(path)
    if any(array.ndim != 4 or array.dtype != np.uint8 for array in arrays.values()) or "original" not in arrays:
        raise DataError(f"{path.name} holds no pictures (n, h, w, 3) of 8 bits.")
    return {
        name.replace("_", " "): [figures.png_address(figures.enlarged(picture)) for picture in array]
        for name, array in arrays.items()
    }
