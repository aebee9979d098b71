"""Pictures as the slides of the paper show them: several discretizers side by side, and Q(x + delta) for several alphas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dat.analysis.codes import Change, discrete_change
from dat.commands.asked import Trained, asked
from dat.commands.discretize import MOST_SHOWN
from dat.commands.specimens import open_run, source_of, view_of_run
from dat.commands.trained import TrainedNetwork
from dat.data.images import decode
from dat.data.picture_files import as_batch
from dat.data.pipeline import CenterCrop
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.listing import in_columns
from dat.discretizers.pretrained import load_discretizer
from dat.discretizers.quality import psnr_db
from dat.engine import run_folder
from dat.errors import UsageError
from dat.progress import Bar
from dat.report.figures import code_side, enlarged, mark_codes
from dat.report.strips import beside, captioned, pixels_of, png, stacked
from dat.results import write_bytes
from dat.tasks.contrastive import Contrastive, MomentumContrastive
from dat.types import Images

ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Those of the slides."""
ELSEWHERE = "--out ANOTHER_FOLDER"
COMPARISON, STEPS = "comparison.png", "alphas.png"


@dataclass(frozen=True)
class Rebuilt:
    """A picture through one of several discretizers: the PSNR in dB."""

    image: str
    discretizer: str
    psnr_db: float


@dataclass(frozen=True)
class Stepped:
    """A picture after a step: its length, and how many codes it changed, in percent."""

    image: str
    alpha: float
    modified_codes: float


def compare(paths: Sequence[Path], sources: Sequence[str], out: Path, *, size: int | None, device: str) -> list[Rebuilt]:
    """Write the first pictures beside what each discretizer gives for them, as `comparison.png`.

    Raises:
        DataError: a picture cannot be read. CheckpointError, UsageError: as `load_discretizer`; a discretizer is named twice.
    """
    if len(set(sources)) < len(sources):
        raise UsageError(f"--with names a discretizer twice ({', '.join(sources)}); name each once.")
    loaded = {source: load_discretizer(source).exact().to(device) for source in sources}
    crop, shown = CenterCrop(size, crop_pct=1.0), paths[:MOST_SHOWN]
    found, strips = list[Rebuilt](), list[Image.Image]()
    with Bar("discretize", len(shown)) as bar:
        for path in shown:
            images = as_batch([crop(decode(path))]).to(device)
            rebuilt = {name: discretizer(images) for name, discretizer in loaded.items()}
            rows = [Rebuilt(str(path), name, round(_psnr(images, one), 2)) for name, one in rebuilt.items()]
            titles = ["original", *(f"{row.discretizer}\n{row.psnr_db:.1f} dB" for row in rows)]
            views = [enlarged(pixels_of(one)) for one in (images, *rebuilt.values())]
            strips.append(beside([captioned(view, title) for view, title in zip(views, titles, strict=True)]))
            found += rows
            bar.add("", 1)
    run_folder.make(out, elsewhere=ELSEWHERE)
    write_bytes(out / COMPARISON, png(stacked(strips)))
    return found


def _psnr(images: Images, rebuilt: Images) -> float:
    return psnr_db(float((rebuilt.double() - images.double()).square().mean()))


def step_through(
    paths: Sequence[Path], model: Path, out: Path, *, alphas: Sequence[float], source: str | None, device: str
) -> list[Stepped]:
    """Write the first pictures after a step of each length by an adversary of a trained model, as `alphas.png`.

    Below each the codes that changed, marked on the grid. The step raises the loss of what the model says of the picture.

    Raises:
        DataError: a picture cannot be read. CheckpointError: there is no such model, or no discretizer.
        UsageError: a length that is none; or one picture, of a model that learned to tell pictures apart.
        RunFolderError: `out` cannot be written.
    """
    if bad := [alpha for alpha in alphas if not 0 <= alpha < float("inf")]:
        raise UsageError(f"--alpha is {bad[0]}, the L2 length of a step; write 0 or more.")
    run = open_run(model)
    run.model.to(device)
    discretizer = load_discretizer(source_of(run, model, source)).exact().to(device)
    view, shown = view_of_run(run, None), paths[:MOST_SHOWN]
    found, strips = list[Stepped](), list[Image.Image]()
    with Bar("discretize", len(shown)) as bar:
        for together in _together(run, shown):
            images = as_batch([view(decode(path)) for path in together]).to(device)
            changes = {alpha: _change(run, discretizer, images, alpha) for alpha in alphas}
            for place, path in enumerate(together):
                of = {alpha: _one(change, place) for alpha, change in changes.items()}
                found += [Stepped(str(path), alpha, round(one.rate, 2)) for alpha, one in of.items()]
                strips.append(_strip(of, discretizer.stride))
                bar.add("", 1)
    run_folder.make(out, elsewhere=ELSEWHERE)
    write_bytes(out / STEPS, png(stacked(strips)))
    return found


def _together(run: Trained, shown: Sequence[Path]) -> list[Sequence[Path]]:
    """Pictures that are attacked at once: one by one, but where a picture is to be told from others, all of them.

    Raises:
        UsageError: there are no others.
    """
    if not isinstance(run, TrainedNetwork) or not isinstance(run.task, Contrastive | MomentumContrastive):
        return [[path] for path in shown]
    if len(shown) < 2:
        raise UsageError(
            f"{run.label}-seed{run.seed} learned to tell a picture from others, and there is one, {shown[0]}; name 2 or more."
        )
    return [shown]


def _one(change: Change, place: int) -> Change:
    parts = (change.original, change.reconstruction, change.adversarial, change.changed)
    return Change(*(part[place : place + 1] for part in parts))


def _change(run: Trained, discretizer: FrozenDiscretizer, images: Images, alpha: float) -> Change:
    of = asked(run, images)
    return discrete_change(run.model, of.task, discretizer, images, of.batch().targets, alpha=alpha)


def _strip(changes: Mapping[float, Change], stride: int) -> Image.Image:
    first = next(iter(changes.values()))
    return beside([captioned(enlarged(pixels_of(first.original)), "original"), *_columns(changes, stride)])


def _columns(changes: Mapping[float, Change], stride: int) -> Iterator[Image.Image]:
    """Of each alpha the picture, and below it the codes that changed where they have places in it."""
    for alpha, change in changes.items():
        pixels, changed = pixels_of(change.adversarial), change.changed[0].cpu().numpy()
        parts = [captioned(enlarged(pixels), f"alpha = {alpha:g}, {change.rate:.1f} % of codes")]
        if changed.ndim == 2:
            parts.append(mark_codes(enlarged(pixels), changed, side=code_side(pixels, changed, stride)))
        yield stacked(parts)


def as_table(rows: Sequence[Rebuilt] | Sequence[Stepped]) -> str:
    """A line for each picture, a column for each discretizer or alpha."""
    cells = {_key(row): row for row in rows}
    columns = list(dict.fromkeys(column for _, column in cells))
    lines = [["picture", *columns]]
    for image in dict.fromkeys(row.image for row in rows):
        lines.append([image, *(_cell(cells[image, column]) for column in columns)])
    return in_columns(lines)


def _key(row: Rebuilt | Stepped) -> tuple[str, str]:
    return row.image, row.discretizer if isinstance(row, Rebuilt) else f"alpha {row.alpha:g}"


def _cell(row: Rebuilt | Stepped) -> str:
    return f"{row.psnr_db:.2f} dB" if isinstance(row, Rebuilt) else f"{row.modified_codes:.1f} %"
