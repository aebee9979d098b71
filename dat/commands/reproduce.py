"""`dat reproduce TABLE`: the runs behind a table of the paper, those that are missing, and its numbers beside ours.

OUT/<recipe>/   a run of `dat train` each (of the paper's scale: one a row, with evaluation/ of `dat eval` in it)
OUT/codes/measured/   what was measured of the modified codes of each model
OUT/table8.html  table8.md  table8.csv  table8.tex
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from dat.analysis.codes import COMPARED, DISCRETE
from dat.attacks.rate import Length, Rate
from dat.commands import analyze_codes, train
from dat.commands.pace import plain_step_s
from dat.commands.specimens import Options, open_specimens
from dat.data.testsets import layouts
from dat.discretizers import names
from dat.discretizers.listing import in_columns
from dat.engine import run_folder
from dat.engine.processes import joined, on_cpu
from dat.errors import RunFolderError, UsageError
from dat.evaluation.right import Kept, Model
from dat.progress import Bar, followed_by, warn
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.contest import contestant, training_of
from dat.recipe.header import recipe_hash
from dat.recipe.parts import OnDisk
from dat.recipe.table_plan import TablePlan, check_scale, classification, load_plan
from dat.report.answered import kept_answers, right_of
from dat.report.formats import latex_text, markdown_table
from dat.report.reproduced import CODES, ITSELF, MCE, ORIENTATION, Beside, beside, sheet, table_of
from dat.report.sheet import Sheet, sheet_page
from dat.report.tables import Comparison, Table, comparison_table, plain_table
from dat.results import RESULTS, Row, read_rows, write_csv, write_text
from dat.studies.study import Job
from dat.studies.words import alpha_sought

PAPERS = "imagenet"
EVALUATION = "evaluation"
SUITES = "clean,fgsm,damagenet,a,c,v2,r,sketch,stylized"
GIB = 2**30
WORDS = ("codes", "words")
"""Suites that a run measures of all models at one alpha; here each model has its own."""
ELSEWHERE = "--out ANOTHER_FOLDER"
ESTIMATED = "estimated"
BY_FLOPS = "what the paper's experiments should take, by their FLOPs at 100 TFLOP/s; none was run"


@dataclass(frozen=True)
class Planned:
    """One run: a recipe, its folder, and the rows of the table by its methods.

    `plain_steps`: as many of them as it should take as long as; of the paper's experiment `gpu_hours`. 0: not known.
    """

    name: str
    recipe: ClassificationRecipe
    overrides: tuple[str, ...]
    folder: Path
    rows: Mapping[str, str]
    device: torch.device
    plain_steps: float = 0.0
    gpu_hours: float = 0.0

    @cached_property
    def step_s(self) -> float:
        """Seconds of a plain step of it where it is asked."""
        return plain_step_s(self.recipe, self.device)

    @property
    def seconds(self) -> float:
        """What it should take here; 0 where that is not known."""
        return self.plain_steps * self.step_s if self.plain_steps else 0.0

    @property
    def cost(self) -> str:
        """What it took, or should take, and which of the two."""
        if self.state == "done":
            taken = sum(dict(self._facts.get("seconds") or {}).values())
            return f"{_span(taken)} (measured on {self._facts.get('machine')})" if taken else "not noted"
        if not self.plain_steps and not self.gpu_hours:
            return "not measured"
        return (
            f"about {_span(self.seconds)} ({ESTIMATED})"
            if self.plain_steps
            else f"about {self.gpu_hours:,.0f} GPU hours ({ESTIMATED})"
        )

    @property
    def ground(self) -> str:
        """What its cost was estimated from; empty where it was not."""
        if not self.plain_steps:
            return BY_FLOPS if self.gpu_hours else ""
        scaled = ", scaled to the seeds, methods and epochs that were written here" * self._is_scaled
        return (
            f"{self.name} takes as long as {self.plain_steps:,.0f} plain training steps of its network (by a few timed steps "
            f"of each of its methods on a CPU{scaled}), and one takes {1000 * self.step_s:.3g} ms here, timed just now"
        )

    @property
    def _is_scaled(self) -> bool:
        return _budget(self.recipe) != _budget(classification(self.name))

    @property
    def state(self) -> str:
        """`done`, `begun` or `missing`.

        Raises:
            RunFolderError: another recipe made what is there.
        """
        if not run_folder.holds_run(self.folder):
            return "missing"
        made, wanted = self._facts["recipe_hash"], recipe_hash(self.recipe)
        if made != wanted:
            raise RunFolderError(
                f"{self.folder} was made by another recipe ({made}) than {self.name} with what was written here ({wanted}); "
                f"write {ELSEWHERE}, or the same settings again."
            )
        return "done" if (self.folder / RESULTS).is_file() else "begun"

    @property
    def _facts(self) -> dict[str, Any]:
        return run_folder.read_run(self.folder, elsewhere=ELSEWHERE)

    @property
    def command(self) -> str:
        """What trains it alone."""
        words = shlex.join([self.name, f"out={self.folder}", *self.overrides])
        return f"accelerate launch -m dat train {words}" + " --resume" * run_folder.holds_run(self.folder)


@dataclass(frozen=True)
class Reproduction:
    """A table at a scale, with its runs."""

    name: str
    scale: str
    plan: TablePlan
    folder: Path
    runs: tuple[Planned, ...]
    data: str | None

    @property
    def is_papers(self) -> bool:
        """Whether it is the experiment of the paper."""
        return self.scale == PAPERS

    @cached_property
    def left(self) -> list[Planned]:
        """Runs that are missing or half finished."""
        return [run for run in self.runs if run.state != "done"]

    def listing(self) -> str:
        """The runs behind the table with their cost, what is there of them, and what trains each alone."""
        lines = [
            ("run", "cost", "state", "rows"),
            *((run.name, run.cost, run.state, ", ".join(run.rows.values())) for run in self.runs),
        ]
        grounds = "; ".join(dict.fromkeys(run.ground for run in self.left if run.ground))
        why = f"\n\n{ESTIMATED.capitalize()}: {grounds}." if grounds else ""
        commands = "\n".join(f"  {run.command}" for run in self.left)
        alone = f"\n\nEach of those that are left can be started alone, also on several nodes:\n{commands}" if self.left else ""
        return f"{self.plan.title}, scale {self.scale}, in {self.folder}\n\n{in_columns(lines)}{why}{alone}"

    def missing(self) -> list[tuple[str, str, bool]]:
        """What the paper's scale needs: what, which, and whether it is here."""
        needs = dict.fromkeys(need for run in self.runs for need in _needs(run.recipe))
        return [*needs, *_test_sets(self.data), *_machine()]

    def held(self) -> AbstractContextManager[None]:
        """Hold the folder of the table for this process. Raises: RunFolderError: another has it, or it cannot be written."""
        return run_folder.locked(self.folder, elsewhere=ELSEWHERE)

    def carry_out(self, *, cpu: bool = False) -> None:
        """Train what is left, one run after the other; bars say the time left of all of them.

        Raises:
            DatError: one of its kinds; all that the recipes name, and their folders, were looked at before the first one.
        """
        state, left = joined(cpu=cpu), self.left
        state.wait_for_everyone()
        for run in left:
            run.recipe.open(OnDisk())
        if state.is_main_process:
            _refuse_taken(left)
        pace = 1.0
        for number, run in enumerate(left, start=1):
            after = pace * sum(one.seconds for one in left[number:]) if state.is_main_process else 0.0
            if state.is_main_process:
                warn(f"run {number} of {len(left)}, {run.name}, {run.cost}{_following(after)}.")
            began = time.monotonic()
            with followed_by(after):
                resume = run_folder.holds_run(run.folder)
                train.train(run.name, run.overrides, out=run.folder, resume=resume, cpu=cpu)
            if state.is_main_process and not resume and run.seconds:
                pace = (time.monotonic() - began) / run.seconds

    def numbers(self, *, cpu: bool = False) -> list[Beside]:
        """Every number of the table, with those of the runs that are done."""
        rows, answers = list[Row](), dict[Model, Kept]()
        for run in self.runs:
            if run.state == "done":
                found = read_rows(run.folder / RESULTS)
                renamed = {(run.rows[label], seed): kept for (label, seed), kept in kept_answers(run.folder, found).items()}
                rows += _counted(run, [*found, *_evaluated(run)])
                answers |= renamed
        if rows and any(row.codes is not None for row in self.plan.rows.values()):
            rows += self._codes(rows, cpu=cpu)
        comparison = comparison_table(rows, answers=right_of(answers)) if rows else None
        return beside(self._compared(comparison), self.plan.quoted(), comparison, is_same=self.is_papers)

    def _compared(self, comparison: Comparison | None) -> dict[str, str]:
        """Rows of this scale, with those that they are compared with."""
        known = {row for run in self.runs for row in run.rows.values()}
        return {row: self.plan.compared_with(row) for row in self.plan.rows if row in known}

    def _codes(self, rows: Sequence[Row], *, cpu: bool) -> Iterator[Row]:
        """Modified codes of every model, at its own alpha, on its own test pictures; of random codes the rate of the recipe."""
        clean = {(row.method, row.seed): row for row in rows if row.suite == "clean" and row.metric == "accuracy"}
        done = [run for run in self.runs if run.state == "done"]
        jobs = [(run, Job(label, seed)) for run in done for label in run.rows for seed in run.recipe.seeds]
        with Bar("modified codes", 0, shown=False) as bar:
            for run, job in jobs:
                example = clean[run.rows[job.label], job.seed]
                rate = _rate(run, job, self.folder / "codes", bar, cpu=cpu)
                protocol: dict[str, object] = {"alpha": "that of each row"}
                yield replace(example, suite=CODES, metric="modified_code_rate", value=rate, ci=None, protocol=protocol)

    def alphas(self) -> str:
        """The steps that were sought, by row, as means over seeds; empty where none was."""
        found: dict[str, list[float]] = {}
        for run in self.runs if not self.is_papers else ():
            sought = [label for label in run.rows if isinstance(_alpha(run, label), Rate)] if run.state == "done" else []
            found |= {
                run.rows[label]: [alpha_sought(run.folder, Job(label, seed)) for seed in run.recipe.seeds] for label in sought
            }
        said = [f"{self.plan.rows[row].title}: {fmean(values):.3g}" for row, values in found.items()]
        return f"Alpha at the end of the trainings, mean over seeds: {'; '.join(said)}." if said else ""

    def table(self, found: Sequence[Beside]) -> Table:
        """As it is shown."""
        notes = [] if self.is_papers else [self.plan.scales[self.scale].note]  # pyright: ignore[reportArgumentType]  # checked
        left_out = [row.title for key, row in self.plan.rows.items() if key not in {one.row for one in found}]
        notes += [f"Not at this scale: {', '.join(left_out)}."] * bool(left_out)
        notes += filter(None, [self.alphas()])
        seeds = {one.ours.seeds for one in found if one.ours is not None}
        if seeds and max(seeds) < 3:
            notes.append("Intervals (95 %) are over pictures: they hold for these models, and say nothing of the next seed.")
        elif seeds:
            notes.append("Intervals (95 %) are over seeds and pictures, and those of differences hold for all pairs at once.")
        titles = {key: row.title for key, row in self.plan.rows.items()}
        return table_of(self.name, f"{self.plan.title}. Scale {self.scale}, in percent.", found, titles, notes)

    def write(self, found: Sequence[Beside]) -> tuple[str, Path]:
        """Write the table as a page, Markdown, CSV and LaTeX; its text, and the page."""
        table, place = self.table(found), self.folder / self.name
        write_text(place.with_suffix(".md"), f"# {self.plan.title}\n\n{markdown_table(table)}\n")
        write_csv(place.with_suffix(".csv"), sheet(found))
        write_text(place.with_suffix(".tex"), latex_text(table))
        files = tuple(place.with_suffix(ending).name for ending in (".md", ".csv", ".tex"))
        subtitle = (
            f"Scale {self.scale} \N{MIDDLE DOT} {', '.join(f'{run.name} (seeds {run.recipe.seeds})' for run in self.runs)}"
        )
        lead = ITSELF if self.is_papers else ORIENTATION
        sheet_of = Sheet(self.plan.title, subtitle, (lead,), {table.name: table}, {}, files)
        write_text(place.with_suffix(".html"), sheet_page(sheet_of))
        return plain_table(table), place.with_suffix(".html")


def open_reproduction(
    table: str, overrides: Sequence[str] = (), *, scale: str = "demo", out: Path | None = None, cpu: bool = False
) -> Reproduction:
    """The runs of a table at a scale. `overrides`: keys of all recipes, and `data=FOLDER` of `train` and `test` (`val`).

    What they should take is told of the device that they would run on, or with `cpu` of the processor.

    Raises:
        UsageError: no such table or scale, or an override that does not fit.
    """
    plan = load_plan(table)
    check_scale(scale)
    folder = out or Path("runs") / f"reproduce-{table}-{scale}"
    data = next((text.removeprefix("data=") for text in overrides if text.startswith("data=")), None)
    if data is not None and scale == "demo":
        raise UsageError(f"data is {data}, but the demo's digits come with scikit-learn; leave it out, or add --scale cifar.")
    if out_key := [text for text in overrides if text.startswith("out=")]:
        raise UsageError(f"{out_key[0]} names one folder for all runs; write --out {out_key[0].removeprefix('out=')}.")
    test = "val" if scale == PAPERS else "test"
    own = [text for text in overrides if not text.startswith("data=")]
    changes = (*([f"data.train={data}/train", f"data.test={data}/{test}"] if data is not None else []), *own)
    device = torch.device("cpu") if on_cpu(cpu) else torch.accelerator.current_accelerator()
    assert device is not None, "on_cpu has looked"
    planned = _papers(plan, folder, changes, device) if scale == PAPERS else _scaled(plan, scale, folder, changes, device)
    found = Reproduction(table, scale, plan, folder, tuple(planned), data)
    _refuse_other_rows(found)
    return found


def _refuse_other_rows(found: Reproduction) -> None:
    """Raises: UsageError: a method of a run is no row of the table."""
    rows = found.plan.rows
    for run in found.runs:
        if others := [label for label in run.recipe.methods if run.rows.get(label) not in rows]:
            raise UsageError(
                f"Method {others[0]} of {run.name} is no row of {found.name} ({', '.join(rows)}); leave it out, or train it by "
                "`dat train`."
            )


def _refuse_taken(runs: Sequence[Planned]) -> None:
    """Raises: RunFolderError: another process trains in the folder of a run, or it cannot be written."""
    for run in runs:
        with run_folder.locked(run.folder, elsewhere=ELSEWHERE):
            pass


def _scaled(plan: TablePlan, scale: Any, folder: Path, changes: Sequence[str], device: torch.device) -> Iterator[Planned]:
    for name, plain_steps in plan.scales[scale].runs.items():
        recipe = classification(name, changes)
        rows, part = {label: label for label in recipe.methods}, _budget(recipe) / _budget(classification(name))
        place = folder / Path(name).stem
        yield Planned(name, recipe, tuple(changes), place, rows, device, plain_steps=part * (plain_steps or 0))


def _papers(plan: TablePlan, folder: Path, changes: Sequence[str], device: torch.device) -> Iterator[Planned]:
    for key, row in plan.rows.items():
        recipe = classification(row.recipe, changes)
        rows = {next(iter(recipe.methods)): key}
        yield Planned(row.recipe, recipe, tuple(changes), folder / key, rows, device, gpu_hours=row.gpu_hours)


def _budget(recipe: ClassificationRecipe) -> int:
    """Epochs of all of its trainings."""
    return len(recipe.seeds) * sum(training_of(recipe, label).epochs for label in recipe.methods)


def _span(seconds: float) -> str:
    """As people say it."""
    minutes = seconds / 60
    if minutes >= 120:
        return f"{minutes / 60:.0f} hours"
    return f"{minutes:.0f} minutes" if minutes >= 2 else "2 minutes or less"


def _following(seconds: float) -> str:
    return f"; about {_span(seconds)} follow it" if seconds else ""


def _counted(run: Planned, rows: Sequence[Row]) -> Iterator[Row]:
    """Ours, under the names of the table's rows; what was measured at another alpha than the model's own, is left out."""
    for row in rows:
        if row.source == "ours" and row.method in run.rows and row.suite.split("/")[0] not in WORDS:
            named = replace(row, method=run.rows[row.method])
            yield replace(named, suite=MCE, metric="accuracy") if row.metric == "mce" and row.suite == "c" else named


def _evaluated(run: Planned) -> list[Row]:
    """What `dat eval` measured later of test sets that the run itself has not, under the method of the run."""
    path = run.folder / EVALUATION / RESULTS
    if not path.is_file():
        return []
    own = {row.suite for row in read_rows(run.folder / RESULTS)}
    label, seed = next(iter(run.rows)), run.recipe.seeds[0]
    found = [row for row in read_rows(path) if "/" not in row.suite and row.metric in ("accuracy", "mce")]
    return [replace(row, method=label, seed=seed) for row in found if row.suite not in own or row.metric == "mce"]


def _alpha(run: Planned, label: str) -> Length | None:
    return contestant(run.recipe.methods[label], training_of(run.recipe, label)).alpha


def _rate(run: Planned, job: Job, out: Path, bar: Bar, *, cpu: bool) -> float:
    """Modified codes in percent, at the alpha with which a training ended; of random codes their rate."""
    alpha = _alpha(run, job.label)
    if alpha is None:
        return 100 * float(dict(run.recipe.methods[job.label]).get("rate", 0.0))
    own = alpha_sought(run.folder, job) if isinstance(alpha, Rate) else alpha
    (specimen,) = open_specimens([run.folder / f"{job.label}-seed{job.seed}"], Options(alpha=own, cpu=cpu))
    return float(analyze_codes.measured(specimen, out, bar)["rates"][COMPARED.index(DISCRETE)].mean())


def _needs(recipe: ClassificationRecipe) -> Iterator[tuple[str, str, bool]]:
    """What a recipe reads."""
    data = recipe.data.model_dump(mode="json")
    for folder in filter(None, (data.get("train"), data.get("test"), *data.get("extra_train", ()))):
        yield "pictures", str(folder), Path(str(folder)).is_dir()
    if recipe.discretizer is not None and recipe.discretizer.load is not None:
        yield "discretizer", str(recipe.discretizer.load), _is_here(str(recipe.discretizer.load))
    if recipe.model.weights is not None:
        yield "weights", str(recipe.model.weights), Path(str(recipe.model.weights)).is_file()


def _test_sets(root: str | None) -> Iterator[tuple[str, str, bool]]:
    """Those that the paper evaluates on, beside ImageNet's own, in the folder that was named."""
    for name in SUITES.split(",")[2:]:
        is_root = root is not None and Path(root).is_dir()
        yield "test set", name, is_root and any(place != Path(str(root)) for place in layouts.locate(name, str(root)))


def _is_here(source: str) -> bool:
    if source in names.PUBLIC:
        return names.stored(names.PUBLIC[source]) is not None
    return source in names.shipped() or Path(source).exists()


def _machine() -> list[tuple[str, str, bool]]:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    gpus = torch.cuda.device_count()
    disk = ("disk", f"200 GiB for pictures and checkpoints ({free:.0f} GiB are free here)", free >= 200)
    return [disk, ("GPUs", f"8 or more ({gpus} are here)", gpus >= 8)]


def as_needs(found: Reproduction) -> str:
    """What the paper's scale needs, whether it is here, and the commands for one and for many nodes."""
    lines = [
        ("needs", "which", "here"),
        *((what, which, "yes" if is_here else "MISSING") for what, which, is_here in found.missing()),
    ]
    nodes = (
        "accelerate launch --multi_gpu --num_machines N --num_processes 8N --machine_rank RANK --main_process_ip ADDRESS "
        "--main_process_port 29500 -m dat train ..."
    )
    judged = [
        f"  accelerate launch -m dat eval {run.folder}/{label}-seed{run.recipe.seeds[0]} --suites {SUITES} "
        f"--data {found.data or 'FOLDER'} --out {run.folder / EVALUATION}"
        for run in found.runs
        for label in run.rows
    ]
    text = in_columns(lines) + f"\n\nOn N nodes of 8 GPUs, on each of them, RANK from 0 on:\n  {nodes}"
    return text + "\n\nThen the test sets of the paper (`dat data list`):\n" + "\n".join(judged)
