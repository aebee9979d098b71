"""From a recipe to a filled run folder: train, measure, show. Everything here can be stopped and resumed.

RUN/run.json  recipe.yaml  results.jsonl  report.html  report.md  pictures.npz  mistakes.npz
RUN/right/<method>-seed<k>.npz   which pictures each model got right, and what it said of those that were shown as they are
RUN/<method>-seed<k>/   settings.json  log.jsonl  checkpoints/
RUN/discretizer/   settings.json  log.jsonl  checkpoints/  discretizer.safetensors  reconstructions.npz
                   (of a recipe of its own: in RUN itself)
RUN/equal-time.yaml  equal-time/   what follows a comparison in equal steps, if its recipe says so
RUN/tensorboard/<method>-seed<k>/   RUN/tensorboard/results/   events for TensorBoard, where its package is there
RUN/earlier/<recipe hash>/   what a recipe ended with that was changed since
"""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dat.engine import dependence, run_folder
from dat.engine.dependence import Dependence
from dat.engine.processes import joined, on_cpu
from dat.engine.run_folder import Run
from dat.engine.trackers import Trackers, tracked
from dat.errors import DatError, RunFolderError, UsageError
from dat.evaluation.identity import checkpoint_hash, detector_hash
from dat.evaluation.right import RIGHT
from dat.progress import warn
from dat.recipe import file, read
from dat.recipe.header import Header, Recipe, Sets, recipe_hash, resolved
from dat.recipe.inputs import dependences, inputs_of
from dat.recipe.older import as_it_was_meant, drawing_as
from dat.recipe.parts import OnDisk, Parts
from dat.recipe.strength import note_on_alpha
from dat.results import MISTAKES, RESULTS, RUN, Row, hashes_of, machine, versions, write_rows, write_text
from dat.studies.study import Job, Study
from dat.studies.table import STUDIES
from dat.types import Place

RECIPE = "recipe.yaml"
SHOWN = (RESULTS, RECIPE, "pictures.npz", "reconstructions.npz", MISTAKES, f"{RIGHT}/*.npz")
"""What the page of a run is made from, beside `run.json`, which keeps their hashes, logs, and weights, which have their own."""
OUTCOME = ("report.html", "report.md", "tables", "pictures.npz", "equal-time.yaml", MISTAKES, RESULTS)
"""What a run ends with: of one recipe, never of two."""
HASHES = {"detection": detector_hash}
"""Of models, by the kind of a recipe, where it is not `checkpoint_hash`; as `dat eval` has them."""
KEPT = ("discretizer",)
"""Facts that a run goes on with."""


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
        resume: go on with the run that is in the folder; all may be another that no training which has begun depends on.
        cpu: use no GPU, even if there is one.

    Raises:
        DatError: one of its kinds, each with a sentence.
    """
    values = _values_of(recipe)
    stated = copy.deepcopy(values)
    file.check_overrides(overrides)
    for text in overrides:
        file.override(values, text)
    if out is not None:
        values["out"] = str(out)
    if not values.get("out"):
        raise UsageError("The recipe names no folder for its run; give out=FOLDER.")
    where = str(recipe) if isinstance(recipe, str | Path) else "the recipe"
    parsed = read.parse(values, where=where)
    if (note := note_on_alpha(stated, parsed, overrides)) is not None:
        warn(note)
    return carry_out(parsed, OnDisk(), resume=resume, cpu=cpu)


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
    with _claimed(header, recipe, opened.data, resume=resume) if place.is_main else nullcontext({}) as inputs:
        run = Run(header.folder, place, cpu, {**_facts(header), "inputs": inputs})
        if place.is_main:
            write_text(header.folder / RECIPE, header.text)
            run.write()
        state.wait_for_everyone()
        study = STUDIES[header.kind](opened, run)
        with _noticing_removal(run), _tracked(recipe, run) as trackers:
            _finish(study, run, recipe.depends_on(), trackers)
        if (path := study.following()) is not None:
            again = read.load(str(path))
            carry_out(again, parts, resume=run_folder.holds_run(Path(again.out)), cpu=cpu)
    return header.folder


@contextmanager
def _claimed(header: Header, recipe: Recipe, data: Sets, *, resume: bool) -> Iterator[dict[str, str]]:
    """Hold the folder of a run that may go on there; gives the hashes of what it begins with."""
    if resume and not run_folder.holds_run(header.folder):
        print(f"There is no run in {header.folder} yet; beginning anew.", file=sys.stderr)
    inputs = inputs_of(recipe, data)
    wanted = dependences(recipe.depends_on(), inputs)
    with run_folder.claimed(header.folder, resume=resume):
        stored = _stored(header.folder)
        before = _as_it_began(header, wanted, stored) if run_folder.holds_run(header.folder) else {}
        advice = _on_its_draw(stored, recipe)
        dependence.check(header.folder, wanted, before, advice=advice)
        dependence.keep(header.folder, wanted, before)
        if run_folder.holds_run(header.folder):
            _put_aside(header, [name for name in wanted if dependence.has_begun(header.folder / name)], advice)
        yield inputs


def _stored(folder: Path) -> Recipe | None:
    """The recipe of the run that is there, if it can be read."""
    try:
        return read.load(str(folder / RECIPE)) if run_folder.holds_run(folder) else None
    except DatError:
        return None


def _on_its_draw(stored: Recipe | None, recipe: Recipe) -> str:
    """What to write to go on with the pictures of a run that took the first of each class; nothing, where they are the same."""
    keys = drawing_as(stored.model_dump(mode="json"), recipe.model_dump(mode="json")) if stored is not None else []
    return f"To go on with the pictures that it took, so that its rows stay comparable, add {' '.join(keys)}." if keys else ""


def _as_it_began(header: Header, wanted: Mapping[str, Dependence], stored: Recipe | None) -> dict[str, Dependence]:
    """What the parts of the run depend on by its own recipe; nothing, where that cannot be told.

    Raises:
        RunFolderError: it is a run of another kind, or damaged.
    """
    known = run_folder.read_run(header.folder)
    if known.get("kind", header.kind) != header.kind:
        raise RunFolderError(
            f"{header.folder} holds a run of kind {known['kind']}, not {header.kind}; write out=ANOTHER_FOLDER."
        )
    inputs = known.get("inputs") or {}
    if known["recipe_hash"] == header.recipe_hash:
        return dependences({name: as_it_was_meant(part.settings) for name, part in wanted.items()}, inputs)
    if stored is None or recipe_hash(stored) != known["recipe_hash"]:
        return {}
    return dependences({name: as_it_was_meant(part) for name, part in stored.depends_on().items()}, inputs)


def _put_aside(header: Header, begun: Sequence[str], advice: str) -> None:
    """What another recipe ended with goes to a folder of its own, so that its numbers and those to come never mix.

    `advice` is added to what is said then.
    """
    folder, before = header.folder, run_folder.read_run(header.folder)["recipe_hash"]
    if before == header.recipe_hash:
        return
    aside = folder / "earlier" / before
    if found := [name for name in OUTCOME if (folder / name).exists()]:
        aside.mkdir(parents=True, exist_ok=True)
        if (folder / RECIPE).is_file():
            shutil.copyfile(folder / RECIPE, aside / RECIPE)
        for name in found:
            if (aside / name).is_dir():  # of the same recipe, an earlier time
                shutil.rmtree(aside / name)
            (folder / name).replace(aside / name)
    used = f"; it uses what has begun: {', '.join(begun)}" if begun else ""
    kept = f"; its results so far are in {aside}" if (aside / RESULTS).is_file() else ""
    warn(" ".join(filter(None, (f"{folder} goes on with a changed recipe{used}{kept}.", advice))))


def _tracked(recipe: Recipe, run: Run) -> AbstractContextManager[Trackers | None]:
    """The trackers of the main process; the others have none."""
    if not run.place.is_main:
        return nullcontext()
    return tracked(recipe.trackers, run.folder, resolved(recipe), recipe.model_dump(mode="json"))


def _finish(study: Study, run: Run, parts: Iterable[str], trackers: Trackers | None) -> None:
    jobs, models = study.jobs(), {}
    for number, job in enumerate(jobs, start=1):
        models[job] = study.train(job, f"[{number}/{len(jobs)}] {job}")
        _refuse_removal(run)
    rows = study.rows(models)
    if run.place.is_main:
        study.pictures(models)
        if rows:
            write_rows(run.folder / RESULTS, _of_weights(rows, models, HASHES.get(str(run.facts["kind"]), checkpoint_hash)))
        run.facts["files"] = hashes_of(run.folder, [*SHOWN, *(f"{part}/log.jsonl" for part in parts)])
        run.write()
        from dat.commands import report  # draws, and takes a tenth of the start to import
        from dat.report.on_trackers import show

        report.write(run.folder)
        if trackers is not None:
            show(trackers, run.folder)


def _of_weights(rows: Iterable[Row], models: Mapping[Job, Any], hash_of: Callable[[nn.Module], str]) -> Iterator[Row]:
    """Rows of ours with the hash of the model that each was measured of."""
    hashes: dict[tuple[str, int | None], str] = {
        (job.label, job.seed): hash_of(model) for job, model in models.items() if isinstance(model, nn.Module)
    }
    for row in rows:
        yield replace(row, checkpoint=hashes.get((row.method, row.seed), "")) if row.source == "ours" else row


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


def _facts(header: Header) -> dict[str, Any]:
    """What the report says beside the rows, and what a later evaluation needs; the rest is added as it is found."""
    known = run_folder.read_run(header.folder) if (header.folder / RUN).is_file() else {}
    kept = {key: known[key] for key in KEPT if key in known}
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
