"""Test pictures of which two models of a run say different things, one of them what is right: for its page."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from dat.data.pipeline import ImageDataset, evaluation_batches
from dat.data.subset import Subset
from dat.evaluation.mistakes import Answered
from dat.report.tables import BASELINE
from dat.results import write_bytes
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


def write(path: Path, sets: Sequence[SetOfAnswers], pair: tuple[Job, Job]) -> None:
    """Write the pictures, as the models were shown them, with what both say; the surest mistakes first.

    Raises:
        DataError: a picture cannot be read.
    """
    found = [
        one for place, (_, shown, said) in enumerate(sets) for one in _of_set(place, shown, [said.get(job) for job in pair])
    ]
    content = BytesIO()
    np.savez_compressed(
        content,
        allow_pickle=False,
        methods=np.array([job.label for job in pair]),
        seeds=np.array([job.seed for job in pair]),
        sets=np.array([name for name, *_ in sets], np.str_),
        set=np.array([one.place for one in found], np.int64),
        right=np.array([one.right for one in found], np.int64),
        names=np.array([one.name for one in found], np.str_),
        labels=np.array([one.label for one in found], np.str_),
        said=np.array([one.said for one in found], np.str_).reshape(-1, 2),
        sure=np.array([one.sure for one in found], np.float32).reshape(-1, 2),
        **{f"picture.{number}": one.picture for number, one in enumerate(found)},
    )
    write_bytes(path, content.getvalue())


@dataclass(frozen=True, eq=False)
class _Mistaken:
    """A picture of a set by its place among them, which of the two models is right (0, 1), and what each says, how surely."""

    place: int
    right: int
    name: str
    label: str
    said: tuple[str, ...]
    sure: tuple[float, ...]
    picture: np.ndarray


def _of_set(place: int, dataset: ImageDataset, both: Sequence[Answered | None]) -> Iterator[_Mistaken]:
    pair = [answered for answered in both if answered is not None]
    if len(pair) < 2:
        return
    chosen = [(right, position) for right in (0, 1) for position in differing(pair[right], pair[1 - right])]
    for (right, position), picture in zip(chosen, _pictures(dataset, [position for _, position in chosen]), strict=True):
        yield _Mistaken(
            place,
            right,
            dataset.source.name(position),
            dataset.source.classes[dataset.source.targets[position]],
            tuple(answered.classes[answered.said[position]] for answered in pair),
            tuple(float("nan") if answered.sure is None else float(answered.sure[position]) for answered in pair),
            picture,
        )


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
