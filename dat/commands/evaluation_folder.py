"""The folder of an evaluation, whatever it evaluates: where it is, who holds it, which rows stay in it, and what is said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn

from dat.engine import run_folder
from dat.engine.processes import joined
from dat.errors import UsageError
from dat.evaluation import identity, store
from dat.evaluation.predict import Classifier
from dat.evaluation.selftest import Alarm
from dat.progress import warn
from dat.results import SET, Row, read_rows
from dat.types import Place


def default_folder(target: str) -> Path:
    """Where an evaluation goes if nobody says: into the folder of a trained model, else below `runs/`."""
    if Path(target).exists():
        return Path(target) / "evaluation"
    return Path("runs") / f"evaluation-{re.sub('[^A-Za-z0-9._-]+', '-', target)}"


def known_as(model: nn.Module, place: Place, folder: Path | None, size: tuple[int, int]) -> str:
    """What the model is called in the folder, whose first process notes what it answers before it keeps anything of it.

    `size`: width and height of what it is shown.
    """
    checkpoint = identity.checkpoint_hash(model)
    if folder is None:
        return checkpoint
    width, height = size
    answers = identity.answers_of(Classifier(model, place.device), height, width)
    before = store.read_answers(folder)
    name = identity.known_as(before, checkpoint, answers)
    PartialState().wait_for_everyone()  # all have read before one of them writes
    if place.is_main and name not in before:
        store.write_answers(folder, {**before, name: answers})
    return name


def other_rows(path: Path, rows: Sequence[Row]) -> list[Row]:
    """What there is already of the same model on other suites and sets; what is of another, or of other pictures, is told."""
    if not path.is_file():
        return []
    new = {(row.suite, row.metric): row for row in rows}
    there = read_rows(path)
    stored = [row for row in there if row.checkpoint == rows[0].checkpoint]
    if foreign := len(there) - len(stored):
        warn(f"{path}: {foreign} rows of another model (other weights, code or answers) are taken out.")
    replaced = [row for row in stored if _is_replaced(row, new.get((row.suite, row.metric)))]
    entries = [(row, row.protocol.get("data"), new[row.suite, row.metric].protocol.get("data")) for row in replaced]
    if changed := [row for row, before, now in entries if before and now and before != now]:
        where = changed[0].protocol.get(SET, "the folder")
        warn(f"The pictures of {changed[0].suite} in {where} are others than those of the stored rows, which are replaced.")
    return [row for row in stored if row not in replaced]


def _is_replaced(row: Row, new: Row | None) -> bool:
    """Rows that do not name their set are from before sets were named."""
    return new is not None and row.protocol.get(SET) in (None, new.protocol.get(SET))


def said_alarms(alarms: Sequence[Alarm]) -> list[str]:
    """The sentences of those that do not stop an evaluation; they are kept beside its numbers.

    Raises:
        UsageError: with those that do.
    """
    if stopping := [alarm for alarm in alarms if alarm.stops]:
        lines = "".join(f"\n  {alarm.name}: {alarm.sentence}" for alarm in stopping)
        raise UsageError(
            f"The self-test found what would make the numbers wrong (--no-self-test evaluates all the same):{lines}"
        )
    return told([alarm.sentence for alarm in alarms])


def told(notes: list[str]) -> list[str]:
    """Say each on stderr; they are kept beside the numbers."""
    for note in notes:
        warn(note)
    return notes


def held(folder: Path | None, place: Place) -> AbstractContextManager[None]:
    """The lock of an evaluation folder, which the first process holds for all."""
    if folder is None or not place.is_main:
        return nullcontext()
    return run_folder.locked(folder, elsewhere="--out ANOTHER_FOLDER")


def place_of(cpu: bool) -> Place:
    """Where an evaluation works, and its share of the work."""
    state = joined(cpu=cpu)
    return Place(torch.device(state.device or "cpu"), state.process_index, state.num_processes)
