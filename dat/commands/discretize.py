"""Pictures through `Q` onto the disk: reconstructions, codes, numbers, and one picture to look at.

Knows no command line: paths and settings come in, files and outcomes go out.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dat.data.images import decode
from dat.data.pipeline import CenterCrop
from dat.discretizers import codes as code_space
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.listing import in_columns
from dat.discretizers.quality import psnr_db
from dat.engine.staging import staged
from dat.errors import DataError, UsageError
from dat.progress import Bar
from dat.report.figures import INK, MUTED, PAPER
from dat.results import write_arrays, write_bytes

Picture = Float[Tensor, "1 3 _ _"]
PictureCodes = Int[Tensor, "1 *_"]
Pair = tuple[Picture, Picture]
"""A picture and its reconstruction. Pictures have sizes of their own, so these sizes have no names."""

PICTURE, CODES, RECONSTRUCTIONS = "picture.png", "codes.npz", "reconstructions"
MOST_SHOWN, CELL, CAPTION, GAP, LINE, MARGIN = 8, 256, 160, 8, 18, 116


@dataclass(frozen=True)
class RandomCodes:
    """Replace codes blindly at a rate before decoding; the same seed gives the same codes."""

    rate: float
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """One picture through `Q`: its size in pixels, the shape of its codes, how many are distinct, and its PSNR in dB."""

    image: str
    width: int
    height: int
    grid: tuple[int, ...]
    distinct: int
    psnr_db: float


@dataclass(frozen=True)
class Total:
    """All pictures together. `fraction` of the codebook that occurs, `perplexity` the effective number of codes.

    `psnr_db`: of the mean squared error over all pixels of all pictures, as trainings, their pages and the cards of weights
    have it; `mean_psnr_db`: the mean of the pictures' own. `left_out`: how many could not be read.
    """

    images: int
    codebook_size: int
    used: int
    fraction: float
    perplexity: float
    psnr_db: float
    mean_psnr_db: float
    left_out: int = 0


def discretize(
    paths: Sequence[Path],
    discretizer: FrozenDiscretizer,
    out: Path,
    *,
    size: int | None = None,
    random_codes: RandomCodes | None = None,
    allow_bad: int = 0,
) -> tuple[list[Outcome], Total]:
    """Reconstruct pictures one by one; writes each as PNG, all codes (`codes.npz`), and one picture of the first eight.

    `size`: the short side is resized to it and the centre cut out; None keeps every picture as it is. What an earlier call
    left in `out` is replaced at the end, by all of it or, where something fails or stops it, by nothing. So many as
    `allow_bad` that cannot be read are left out, each with a line on stderr.

    Raises:
        DataError: more pictures cannot be read; the message names the one too many. Or none can.
        UsageError: `size` or the rate is out of range, the discretizer takes pictures of another size only, or a file in
            `out` that would be replaced is of something else, or one of the pictures.
        RunFolderError: `out` cannot be written.
    """
    crop = CenterCrop(size, crop_pct=1.0)
    device = next(discretizer.parameters()).device
    generator = torch.Generator().manual_seed(random_codes.seed if random_codes else 0)
    outcomes: list[Outcome] = []
    found: dict[str, PictureCodes] = {}
    squared_error, numbers = 0.0, 0
    shown: list[Pair] = []
    earlier = _earlier(out)
    _refuse_to_replace(paths, out, earlier)
    with staged(out) as stage, Bar("discretize", len(paths)) as bar:
        for name, path, picture in _readable(paths, allow_bad):
            images = _tensor(crop(picture))
            codes = discretizer.encode(images.to(device)).cpu()
            codes = codes if random_codes is None else _resampled(codes, discretizer.codebook_size, random_codes, generator)
            decoded = discretizer.decode(codes.to(device)).cpu().float()[..., : images.shape[2], : images.shape[3]]
            write_bytes(stage / RECONSTRUCTIONS / f"{name}.png", _png(_picture(decoded)))
            outcomes.append(_outcome(path, images, decoded, codes))
            squared_error += _squared_error(images, decoded)
            numbers += images.numel()
            found[name] = codes
            shown += [(images, decoded)] if len(shown) < MOST_SHOWN else []
            bar.advance(len(outcomes), "")
        if not outcomes:
            raise DataError(f"None of the {len(paths)} pictures can be read; name others.")
        write_arrays(stage / CODES, **{name: codes[0].int().numpy() for name, codes in found.items()})
        write_bytes(stage / PICTURE, _png(draw(shown, outcomes[: len(shown)])))
        _put_in_place(stage, out, earlier)
    total = _total(outcomes, found.values(), discretizer.codebook_size, psnr_db(squared_error / numbers))
    return outcomes, replace(total, left_out=len(paths) - len(outcomes))


def _readable(paths: Sequence[Path], allow_bad: int) -> Iterator[tuple[str, Path, Image.Image]]:
    """Each picture that can be read, with a name of its own."""
    bad = 0
    for name, path in zip(distinct_names(paths), paths, strict=True):
        try:
            yield name, path, decode(path)
        except DataError as error:
            bad += 1
            if bad > allow_bad:
                raise DataError(f"{error} To leave it out, add --allow-bad {bad} or more.") from error
            print(f"Left out: {error}", file=sys.stderr)


def _earlier(out: Path) -> list[Path]:
    """The files of an earlier call. Raises: UsageError: those that are there are not all that a call writes."""
    try:
        with np.load(out / CODES) as codes:
            written = [_reconstruction(out, Path(name).name) for name in codes.files]
    except (FileNotFoundError, NotADirectoryError):
        written = []
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(_none_of_ours(out / CODES)) from error
    files = [*written, out / PICTURE, out / CODES]
    there = [path for path in files if path.exists()]
    if there and there != files:
        raise UsageError(_none_of_ours(there[-1]))
    return there


def _refuse_to_replace(paths: Sequence[Path], out: Path, earlier: Sequence[Path]) -> None:
    """Raises: UsageError: a picture is where a file will be written or deleted, or something that is none of ours is there."""
    written = [_reconstruction(out, name) for name in distinct_names(paths)]
    inputs = {path.resolve(): path for path in paths}
    if lost := [inputs[path.resolve()] for path in (*earlier, *written) if path.resolve() in inputs]:
        raise UsageError(f"{lost[0]} would be replaced by what is made of the pictures; name another folder than {out}.")
    if foreign := [path for path in {*written} - {*earlier} if path.exists()]:
        raise UsageError(_none_of_ours(min(foreign)))


def _put_in_place(stage: Path, out: Path, earlier: Iterable[Path]) -> None:
    """Move what was written to where it belongs, the codes last, and delete what an earlier call made of other pictures."""
    (out / RECONSTRUCTIONS).mkdir(exist_ok=True)
    moved = {file: out / file.relative_to(stage) for file in (*sorted((stage / RECONSTRUCTIONS).iterdir()), stage / PICTURE)}
    moved[stage / CODES] = out / CODES
    for file, place in moved.items():
        file.replace(place)
    for path in {*earlier} - {*moved.values()}:
        path.unlink()


def _reconstruction(out: Path, name: str) -> Path:
    return out / RECONSTRUCTIONS / f"{name}.png"


def _none_of_ours(path: Path) -> str:
    return f"{path} is none of ours, and would be replaced; name another folder."


def distinct_names(paths: Iterable[Path]) -> list[str]:
    """A name for each file: its own without suffix, numbered where it was given already."""
    given: dict[str, None] = {}
    for path in paths:
        numbered = (f"{path.stem}-{number}" for number in range(2, len(given) + 3))
        given[path.stem if path.stem not in given else next(name for name in numbered if name not in given)] = None
    return [*given]


def _tensor(picture: Image.Image) -> Picture:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).unsqueeze(0) / 255


def _picture(images: Picture) -> Image.Image:
    return Image.fromarray((255 * images[0]).round().byte().permute(1, 2, 0).numpy())


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _resampled(codes: PictureCodes, codebook_size: int, settings: RandomCodes, generator: torch.Generator) -> PictureCodes:
    chance, choice = (torch.rand(codes.shape, generator=generator) for _ in range(2))
    return code_space.resample(codes, codebook_size, settings.rate, chance, choice)


def _outcome(path: Path, images: Picture, decoded: Picture, codes: PictureCodes) -> Outcome:
    psnr = round(psnr_db(_squared_error(images, decoded) / images.numel()), 2)
    height, width = images.shape[2:]
    return Outcome(str(path), width, height, tuple(codes.shape[1:]), len(codes.unique()), psnr)


def _squared_error(images: Picture, decoded: Picture) -> float:
    return float((decoded.double() - images.double()).square().sum())


def _total(outcomes: Sequence[Outcome], codes: Iterable[PictureCodes], codebook_size: int, psnr: float) -> Total:
    usage = code_space.usage(torch.cat([one.flatten() for one in codes]).unsqueeze(0), codebook_size)
    mean_psnr = sum(outcome.psnr_db for outcome in outcomes) / len(outcomes)
    used, perplexity = codebook_size - len(usage.dead), round(usage.perplexity, 2)
    return Total(len(outcomes), codebook_size, used, usage.fraction, perplexity, round(psnr, 2), round(mean_psnr, 2))


def as_table(outcomes: Sequence[Outcome], total: Total) -> str:
    """Outcomes in columns, and what the pictures use of the codebook."""
    rows = [("picture", "pixels", "codes", "distinct", "PSNR, dB")]
    rows += [
        (one.image, f"{one.width} x {one.height}", " x ".join(map(str, one.grid)), str(one.distinct), f"{one.psnr_db:.2f}")
        for one in outcomes
    ]
    use = f"{total.used} of {total.codebook_size} codes used ({total.fraction:.1%}), perplexity {total.perplexity:.1f}"
    psnr = f"PSNR of the mean error {total.psnr_db:.2f} dB, mean of the pictures' PSNR {total.mean_psnr_db:.2f} dB"
    return f"{in_columns(rows)}\n\n{use}; {psnr}"


# ---- one picture of originals, reconstructions and differences


def draw(shown: Sequence[Pair], outcomes: Sequence[Outcome]) -> Image.Image:
    """Rows: original, reconstruction, difference around grey, amplified alike for all; below each column its numbers."""
    factor = amplification(shown)
    kinds = ("original", "reconstruction", f"difference x {factor}")
    columns = [[_fitted(_picture(view)) for view in _views(*pair, factor)] for pair in shown]
    widths = [max(column[0].width, CAPTION) for column in columns]
    height = max(column[0].height for column in columns)
    size = (MARGIN + sum(widths) + GAP * (len(widths) + 1), (height + GAP) * len(kinds) + GAP + 2 * LINE + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 11)
    for row, kind in enumerate(kinds):
        pen.text((GAP, GAP + row * (height + GAP) + height // 2), kind, MUTED, font, anchor="lm")
    left = MARGIN + GAP
    for column, width, outcome in zip(columns, widths, outcomes, strict=True):
        for row, view in enumerate(column):
            sheet.paste(view, (left, GAP + row * (height + GAP)))
        caption = f"{outcome.psnr_db:.1f} dB\n{np.prod(outcome.grid)} codes, {outcome.distinct} distinct"
        pen.multiline_text((left, size[1] - GAP - 2 * LINE), caption, INK, font)
        left += width + GAP
    return sheet


def amplification(shown: Sequence[Pair]) -> int:
    """Largest whole factor that keeps 99 % of all differences between black and white; at least 1."""
    differences = torch.cat([(decoded - images).abs().flatten() for images, decoded in shown])
    rank = max(1, round(0.99 * len(differences)))
    return max(1, int(0.5 / max(differences.kthvalue(rank).values.item(), 1 / 255)))


def _views(images: Picture, decoded: Picture, factor: int) -> Iterator[Picture]:
    yield from (images, decoded, (0.5 + factor * (decoded - images)).clamp(0, 1))


def _fitted(picture: Image.Image) -> Image.Image:
    """Small pictures with each pixel repeated, so that none is blurred; large ones made smaller."""
    longest = max(picture.size)
    if longest > CELL:
        return picture.resize([max(1, round(side * CELL / longest)) for side in picture.size], Image.Resampling.LANCZOS)
    scale = max(1, CELL // longest)
    return picture.resize([side * scale for side in picture.size], Image.Resampling.NEAREST)
