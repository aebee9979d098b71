"""Two steps of every training of a recipe with networks shrunk to nothing and made-up pictures: do its parts fit?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from dat.engine.run_folder import Run
from dat.errors import DatError, UsageError
from dat.recipe.header import Recipe
from dat.recipe.rehearsal import MadeUp
from dat.studies.table import STUDIES
from dat.types import Place


def check(recipe: Recipe) -> None:
    """Build the networks of a recipe, then rehearse it; no file that it names needs to be there.

    Raises:
        DatError: what would stop it.
    """
    recipe.check()
    rehearse(recipe)


def rehearse(recipe: Recipe) -> None:
    """Carry out two steps of every training of a recipe, in seconds; nothing is left behind.

    Raises:
        DatError: what would stop the training.
    """
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
        opened = recipe.rehearsal().open(MadeUp())
        header = opened.header
        run = Run(Path(folder), Place(torch.device("cpu")), cpu=True, facts={"seconds": {}})
        study = STUDIES[header.kind](opened, run)
        for job in study.jobs():
            with _faults_of(f"{job.label} with {header.about}"):
                study.train(job, str(job))


@contextmanager
def _faults_of(training: str) -> Iterator[None]:
    """What a network refuses in torch's words, e.g. the size of its images, as a sentence."""
    try:
        yield
    except (RuntimeError, AssertionError, ValueError) as error:
        if isinstance(error, DatError):
            raise
        said = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"Two steps of {training} do not run: {said}.") from error
