"""What is odd about pictures, and no fault: said once before a training, and kept with its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from dat.data.folders import ImageSource
from dat.data.overlap import Held, files_of, shared_pictures
from dat.data.pipeline import CenterCrop
from dat.data.subset import spread
from dat.errors import DataError

LOOKED_AT = 2000
"""So many pictures of a set, at even distances, are asked for their size."""
ENLARGED = 2.0
"""More than this is said: from there on a picture holds less than half of what its side could."""
NAMED = 3


def leftovers(train: ImageSource, tests: Mapping[str, ImageSource]) -> Iterator[str]:
    """A sentence for each test set that shares pictures with the training pictures.

    It is no refusal: published sets hold such pictures, too, and whoever tests on them must be able to.

    Raises:
        DataError: a file cannot be read.
    """
    advice = "or the accuracy is partly of pictures that were trained on."
    for said in _shared(train, tests, of="training"):
        yield f"{said}, {advice}"


def begun_on(
    pictures: ImageSource, tests: Mapping[str, ImageSource], *, weights: str, train: ImageSource | None
) -> Iterator[str]:
    """A sentence for each test set that shares pictures with those that the `weights` of the beginning were trained on.

    Those that are among the training pictures `train`, too, are not counted: `leftovers` tells them.

    Raises:
        DataError: a file cannot be read.
    """
    for name, test in tests.items():
        told = {ours.path for ours, _ in shared_pictures(train, test)} if train is not None else set()
        if found := [pair for pair in shared_pictures(pictures, test) if pair[0].path not in told]:
            yield (
                f"{len(found)} of the {len(test)} {_called('test', name)} are among those that {weights}, which the model "
                f"begins with, was trained on: {_pairs(found, of='its training')}; take them out of the test pictures, or the "
                "accuracy is partly of pictures that were trained on."
            )


def judged_by(judged: ImageSource, train: ImageSource, tests: Mapping[str, ImageSource], *, may_be: bool) -> Iterator[str]:
    """A sentence for each set that shares pictures with those of validation: training pictures, and the test sets.

    `may_be`: these are held out of the training pictures, which published sets share with their tests; else it is a mistake.

    Raises:
        DataError: a file cannot be read; or test pictures are among those of validation, and none may be.
    """
    for said in _shared(train, {"": judged}, of="training", kind="validation"):
        yield f"{said}, or their accuracy is that of pictures that were trained on."
    for said in _shared(judged, tests, of="validation"):
        if not may_be:
            raise DataError(f"{said}, or hold training pictures out: data.validation=0.1.")
        yield f"{said}, or weights that are kept by validation are chosen by test pictures."


def repeated(bank: ImageSource, tests: Mapping[str, ImageSource]) -> Iterator[str]:
    """A sentence for each test set that shares pictures with those that features are judged by; no refusal either.

    Raises:
        DataError: a file cannot be read.
    """
    advice = "or the nearest neighbour of such a picture is the picture itself, and says its class."
    for said in _shared(bank, tests, of="labelled"):
        yield f"{said}, {advice}"


def enlarged(view: CenterCrop, sets: Mapping[str, ImageSource]) -> Iterator[str]:
    """A sentence, where there are pictures that are shown at more than twice their size; a sample is looked at."""
    if view.size is None:
        return
    sides = [(file, side) for source in sets.values() for file, side in _short_sides(source)]
    small = [(file, side) for file, side in sides if view.short_side > ENLARGED * side]
    if small:
        file, side = min(small, key=lambda pair: pair[1])
        yield (
            f"{len(small)} of {len(sides)} pictures that were looked at are enlarged by more than two, {file.path} by "
            f"{view.short_side / side:.1f} (its short side has {side} pixels and is shown with {view.short_side}); a smaller "
            "data.size shows as much, and is faster."
        )


def _shared(pictures: ImageSource, tests: Mapping[str, ImageSource], *, of: str, kind: str = "test") -> Iterator[str]:
    for name, test in tests.items():
        if found := shared_pictures(pictures, test):
            which, named = _called(kind, name), _pairs(found, of=of)
            yield f"{len(found)} of the {len(test)} {which} are {of} pictures, too: {named}; take them out of one of the two"


def _called(kind: str, name: str) -> str:
    return f"{kind} pictures of {name}" if name else f"{kind} pictures"


def _pairs(found: Sequence[tuple[Held, Held]], *, of: str) -> str:
    """The first of them."""
    pairs = [f"{ours.path} (in {of} {theirs.path})" for ours, theirs in found[:NAMED]]
    return ", ".join(pairs) + ", ..." * (len(found) > NAMED)


def _short_sides(source: ImageSource) -> Iterator[tuple[Held, int]]:
    files = files_of(source)
    for position in spread(source, LOOKED_AT).positions.tolist() if files else ():
        with suppress(DataError):  # what cannot be read is told by who reads it
            yield files[position], min(files[position].size())
