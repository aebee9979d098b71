"""Test pictures of which two models of a run say different things, one of them what is right: for its page."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dat.data.pipeline import ImageDataset, evaluation_batches
from dat.data.subset import Subset
from dat.errors import DataError
from dat.evaluation.mistakes import ANOTHER, OTHER, Answered
from dat.report.figures import read_arrays
from dat.report.tables import BASELINE
from dat.results import write_arrays
from dat.studies.measured import as_bytes
from dat.studies.study import Job

PICTURES = 8
"""So many are shown where the first model alone is right, and where the second is."""


def pair_of(jobs: Sequence[Job], adversaries: Container[str]) -> tuple[Job, Job] | None:
    """Standard training, or else the first method, and the first of the others with an adversary of words, or else the next.

    Of one seed; None, where no two methods have one. `adversaries`: methods that have such an adversary.
    """
    methods = list(dict.fromkeys(job.label for job in jobs))
    first = BASELINE if BASELINE in methods else methods[0]
    others = [job for job in jobs if job.label != first and Job(first, job.seed) in jobs]
    if not others:
        return None
    second = next((job for job in others if job.label in adversaries), others[0])
    return Job(first, second.seed), second


SetOfAnswers = tuple[str, ImageDataset, Mapping[Job, Answered]]
"""A test set: its name, its pictures that were counted, and what each model said of them as they are."""


def write(path: Path, sets: Sequence[SetOfAnswers], pair: tuple[Job, Job], *, keep: Container[str] = ()) -> None:
    """Write the pictures, as the models were shown them, with what both say; the surest mistakes first.

    `keep`: names of other sets whose pictures stay, where the file has them of the same two models.

    Raises:
        DataError: a picture cannot be read.
    """
    found = {name: [*_of_set(shown, [said.get(job) for job in pair])] for name, shown, said in sets}
    earlier = {name: stored for name, stored in _stored(path, pair).items() if name in keep and name not in found}
    _save(path, {**earlier, **found}, pair)


def _save(path: Path, sets: Mapping[str, Sequence[_Mistaken]], pair: tuple[Job, Job]) -> None:
    found = [one for several in sets.values() for one in several]
    write_arrays(
        path,
        methods=np.array([job.label for job in pair]),
        seeds=np.array([job.seed for job in pair]),
        sets=np.array([*sets], np.str_),
        set=np.repeat(np.arange(len(sets)), [len(several) for several in sets.values()]),
        right=np.array([one.right for one in found], np.int64),
        names=np.array([one.name for one in found], np.str_),
        labels=np.array([one.label for one in found], np.str_),
        said=np.array([one.said for one in found], np.str_).reshape(-1, 2),
        sure=np.array([one.sure for one in found], np.float32).reshape(-1, 2),
        **{f"picture.{number}": one.picture for number, one in enumerate(found)},
    )


def _stored(path: Path, pair: tuple[Job, Job]) -> dict[str, list[_Mistaken]]:
    """What the file has of each set, if it is of these two models; nothing of one that is not whole, which is made anew."""
    if not path.is_file():
        return {}
    with suppress(DataError, KeyError, IndexError):
        arrays = read_arrays(path)
        names: list[str] = [*map(str, arrays["sets"])]
        found: dict[str, list[_Mistaken]] = {name: [] for name in names}
        for number, place in enumerate(arrays["set"].tolist()):
            found[names[place]].append(_stored_picture(arrays, number))
        models = zip(arrays["methods"].tolist(), arrays["seeds"].tolist(), strict=True)
        return found if [*models] == [(job.label, job.seed) for job in pair] else {}
    return {}


def _stored_picture(arrays: Mapping[str, np.ndarray], number: int) -> _Mistaken:
    said, sure = (tuple(arrays[key][number].tolist()) for key in ("said", "sure"))
    right, name, label = (arrays[key][number].item() for key in ("right", "names", "labels"))
    return _Mistaken(right, name, label, said, sure, arrays[f"picture.{number}"])


@dataclass(frozen=True, eq=False)
class _Mistaken:
    """A picture of a set, which of the two models is right (0, 1), and what each says, how surely."""

    right: int
    name: str
    label: str
    said: tuple[str, ...]
    sure: tuple[float, ...]
    picture: np.ndarray


def _of_set(dataset: ImageDataset, both: Sequence[Answered | None]) -> Iterator[_Mistaken]:
    pair = [answered for answered in both if answered is not None]
    if len(pair) < 2:
        return
    chosen = [(right, position) for right in (0, 1) for position in differing(pair[right], pair[1 - right])]
    for (right, position), picture in zip(chosen, _pictures(dataset, [position for _, position in chosen]), strict=True):
        yield _Mistaken(
            right,
            dataset.source.name(position),
            dataset.source.classes[dataset.source.targets[position]],
            tuple(_said(answered, position) for answered in pair),
            tuple(float("nan") if answered.sure is None else float(answered.sure[position]) for answered in pair),
            picture,
        )


def _said(answered: Answered, position: int) -> str:
    said = answered.said[position]
    return ANOTHER if said == OTHER else answered.classes[said]


def differing(right: Answered, wrong: Answered, *, count: int = PICTURES) -> list[int]:
    """Positions of pictures of which only the first says what is right; of many, those of the other's surest mistakes."""
    found = np.flatnonzero(right.correct & ~wrong.correct)
    if wrong.sure is not None:
        found = found[np.argsort(-wrong.sure[found], kind="stable")]
    return found[:count].tolist()


def _pictures(dataset: ImageDataset, positions: Sequence[int]) -> Iterator[np.ndarray]:
    """As models are shown them, `(height, width, 3)` of 8 bits."""
    subset = ImageDataset(Subset(dataset.source, np.array(positions, np.int64)), dataset.transform, seed=0)
    if positions:
        for images, *_ in evaluation_batches(subset, 1):
            yield from as_bytes(images)
