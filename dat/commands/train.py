"""From a recipe to a filled run folder: train, measure, show. Everything here can be stopped and resumed.

RUN/run.json  recipe.yaml  results.jsonl  report.html  report.md  pictures.npz
RUN/<method>-seed<k>/   log.jsonl  checkpoints/
RUN/discretizer/   log.jsonl  checkpoints/  discretizer.safetensors  reconstructions.npz   (of its own recipe: in RUN itself)
RUN/equal-time.yaml  equal-time/   what follows a comparison in equal steps, if its recipe says so
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from dat.commands import report
from dat.engine import run_folder
from dat.engine.processes import joined, on_cpu
from dat.engine.run_folder import Run
from dat.errors import DatError, RunFolderError, UsageError
from dat.recipe import file, read
from dat.recipe.header import Header, Recipe, recipe_hash
from dat.recipe.inputs import inputs_of
from dat.recipe.parts import OnDisk, Parts
from dat.results import RESULTS, RUN, hashes_of, machine, versions, write_rows, write_text
from dat.studies.study import Study
from dat.studies.table import STUDIES
from dat.types import Place

SHOWN = (RESULTS, "recipe.yaml", "pictures.npz", "reconstructions.npz", "log.jsonl", "*/log.jsonl")
"""What the page of a run is made from, beside `run.json`, which keeps their hashes, and weights, which have their own."""
RECIPE = "recipe.yaml"


def train(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    cpu: bool = False,
) -> Path:
    """Carry out a recipe; gives the folder of the run. Nothing is written before all that it names was found good.

    Args:
        recipe: a YAML file, the name of a recipe that comes with the package, or its values as a mapping.
        overrides: `key.sub=value`, as on the command line.
        out: the folder of the run; by default what the recipe says, or `runs/NAME` of a file or a name.
        resume: go on with the run that is in the folder; `evaluation` may be another than it was.
        cpu: use no GPU, even if there is one.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    values = _values_of(recipe)
    file.check_overrides(overrides)
    for text in overrides:
        file.override(values, text)
    if out is not None:
        values["out"] = str(out)
    if not values.get("out"):
        raise UsageError("The recipe names no folder for its run; give out=FOLDER.")
    where = str(recipe) if isinstance(recipe, str | Path) else "the recipe"
    return carry_out(read.parse(values, where=where), OnDisk(), resume=resume, cpu=cpu)


def _values_of(recipe: object) -> dict[str, Any]:
    if isinstance(recipe, str | Path):
        return file.read(file.find(str(recipe)), ())
    if not isinstance(recipe, Mapping):
        raise UsageError(f"A recipe is a file, a name or a mapping, not {type(recipe).__name__}; write e.g. dat.train('demo').")
    if "base" in recipe:
        raise UsageError("A recipe that is given as a mapping takes no base; write its file, or all of its values.")
    return copy.deepcopy(dict(recipe))


def carry_out(recipe: Recipe, parts: Parts, *, resume: bool = False, cpu: bool = False) -> Path:
    """Carry out a recipe that was read; gives the folder of the run.

    Raises:
        DatError: one of its kinds, each with a sentence for the user.
    """
    state, cpu = joined(cpu=cpu), on_cpu(cpu)  # first: whether a batch can be shared depends on the number of processes
    with torch.random.fork_rng(devices=[]):  # models are tried, from streams of their own
        opened = recipe.open(parts)
    header = opened.header
    place = Place(torch.device(state.device or "cpu"), state.process_index, state.num_processes)
    with _claimed(header, recipe, parts, resume=resume) if place.is_main else nullcontext({}) as inputs:
        run = Run(header.folder, place, cpu, {**_facts(header), "inputs": inputs})
        if place.is_main:
            write_text(header.folder / RECIPE, header.text)
            run.write()
        state.wait_for_everyone()
        study = STUDIES[header.kind](opened, run)
        with _noticing_removal(run):
            _finish(study, run)
        if (path := study.following()) is not None:
            again = read.load(str(path))
            carry_out(again, parts, resume=run_folder.holds_run(Path(again.out)), cpu=cpu)
    return header.folder


@contextmanager
def _claimed(header: Header, recipe: Recipe, parts: Parts, *, resume: bool) -> Iterator[dict[str, str]]:
    """Hold the folder of a run that may go on there; gives the hashes of what it begins with."""
    if resume and not run_folder.holds_run(header.folder):
        print(f"There is no run in {header.folder} yet; beginning anew.", file=sys.stderr)
    inputs = inputs_of(recipe, parts.data(recipe.data))
    settings = recipe.model_dump(mode="json")
    known = _known_as(recipe, header)
    with run_folder.claimed(header.folder, recipe_hash=known, resume=resume, settings=settings, inputs=inputs):
        yield inputs


def _finish(study: Study, run: Run) -> None:
    jobs, models = study.jobs(), {}
    for number, job in enumerate(jobs, start=1):
        models[job] = study.train(job, f"[{number}/{len(jobs)}] {job}")
        _refuse_removal(run)
    rows = study.rows(models)
    if run.place.is_main:
        study.pictures(models)
        if rows:
            write_rows(run.folder / RESULTS, rows)
        run.facts["files"] = hashes_of(run.folder, SHOWN)
        run.write()
        report.write(run.folder)


@contextmanager
def _noticing_removal(run: Run) -> Iterator[None]:
    """A file that is gone because its folder is, in a sentence."""
    try:
        yield
    except FileNotFoundError:
        _refuse_removal(run)
        raise


def _refuse_removal(run: Run) -> None:
    """The recipe is written once; other files of a run come back when they are written again.

    Raises:
        RunFolderError: it is gone.
    """
    if run.place.is_main and not (run.folder / RECIPE).is_file():
        raise RunFolderError(f"{run.folder} was taken away while it was filled; train again, it cannot be continued.")


def _known_as(recipe: Recipe, header: Header) -> str:
    """By which hash the folder knows the recipe: that of its run, where no more than what is measured has changed since."""
    stored = header.folder / RECIPE
    if not stored.is_file():
        return header.recipe_hash
    try:
        before = read.load(str(stored))
    except DatError:
        return header.recipe_hash
    is_same = recipe_hash(before, without="evaluation") == recipe_hash(recipe, without="evaluation")
    return recipe_hash(before) if is_same else header.recipe_hash


def _facts(header: Header) -> dict[str, Any]:
    """What the report says beside the rows, and what a later evaluation needs; the rest is added as it is found."""
    known = run_folder.read_run(header.folder) if (header.folder / RUN).is_file() else {}
    kept = {key: known[key] for key in ("discretizer",) if key in known}
    return {
        "kind": header.kind,
        "name": header.folder.name,
        "title": header.title,
        "recipe_hash": header.recipe_hash,
        "versions": versions(),
        "machine": machine(),
        "seconds": known.get("seconds", {}),
        **kept,
        **header.facts,
    }
