"""From a recipe to a filled run folder: train, evaluate, picture, report. Everything here can be stopped and resumed.

RUN/run.json  recipe.yaml  results.jsonl  report.html  report.md  pictures.npz
RUN/discretizer/   log.jsonl  checkpoints/  discretizer.safetensors
RUN/<method>-seed<k>/   log.jsonl  checkpoints/
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from dat import measure, recipe_data, tested
from dat import recipe as recipes
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer, weight_file
from dat.engine import run_folder
from dat.engine.discretizer_health import reconstruction_quality
from dat.engine.discretizer_loop import train_discretizer
from dat.engine.distill import distill
from dat.engine.loop import train
from dat.nn.norm import without_auxiliary_norms
from dat.nn.weights import file_sha256
from dat.report.discretizer_page import write_discretizer_report
from dat.report.page import write_report
from dat.results import RESULTS, RUN, Row, write_rows, write_text
from dat.tasks.classification import Classification
from dat.types import Place

WEIGHT_FILES = ("weights", "linear_layers")
"""Keys of a recipe that name a file of weights which a training uses."""

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Context:
    """What every part of one run needs to know."""

    folder: Path
    recipe_hash: str
    place: Place
    cpu: bool
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a part to those it took before it was resumed."""
        start, seconds = time.monotonic(), self.facts["seconds"]
        try:
            yield
        finally:
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - start, 1)
            self.write()

    def write(self) -> None:
        """Write `run.json`, which holds what is known of the run so far."""
        if self.place.is_main:
            write_text(self.folder / RUN, json.dumps(self.facts, indent=1))


def run(recipe: recipes.Recipe, *, resume: bool = False, cpu: bool = False) -> Path:
    """Carry out a recipe; gives its folder. Nothing is written before the recipe and its pictures were found good.

    Raises:
        DatError: one of its kinds, each with a sentence for the user.
    """
    recipes.check(recipe)
    _open_weights(recipe)
    state = PartialState(cpu=cpu)
    place = Place(torch.device(state.device or "cpu"), state.process_index, state.num_processes)
    folder, identity = Path(recipe.out), recipes.recipe_hash(recipe)
    data = recipe_data.build_data(recipe.data, seed=0)
    if isinstance(recipe, recipes.DistillationRecipe):  # a teacher that none can learn from is to be named first, too
        recipes.build_student(recipe, load_discretizer(recipe.teacher.load).network, size=max(data.size))
    claim = run_folder.claimed(folder, recipe_hash=identity, resume=resume) if place.is_main else nullcontext()
    with claim:
        context = Context(folder, identity, place, cpu, _facts(recipe, identity, data, folder))
        if place.is_main:
            write_text(folder / "recipe.yaml", recipes.resolved(recipe))
            context.write()
        state.wait_for_everyone()
        if isinstance(recipe, recipes.ClassificationRecipe):
            _classification(context, recipe, data)
            if recipe.equal_time_as is not None:
                run(_equal_time(context, recipe), resume=True, cpu=cpu)
        else:
            with context.timed("discretizer"):
                if isinstance(recipe, recipes.DiscretizerRecipe):
                    _train_discretizer(context, recipe, data, folder)
                else:
                    _distill(context, recipe, data, folder)
            if place.is_main:
                write_discretizer_report(folder)
    return folder


def _open_weights(recipe: recipes.Recipe) -> None:
    """Read the weights that a recipe names, and let them go: what is missing is to be said before anything is written."""
    if isinstance(recipe, recipes.ClassificationRecipe):
        section = recipe.discretizer
        specs = [section.train] if section is not None and section.train is not None else []
        sources = [section.load] if section is not None and section.load is not None else []
    else:
        specs, sources = [recipe], []  # a teacher is opened where its student is tried
    for source in sources:
        load_discretizer(source)
    if isinstance(recipe, recipes.ClassificationRecipe) and (recipe.model.weights or recipe.model.discretizer):
        recipes.build_model(recipe.model, num_classes=10, seed=0)
    for spec in specs:
        recipes.build_perceptual(spec.perceptual)
        if isinstance(spec, recipes.DiscretizerSpec):
            recipes.build_frechet(spec.frechet)


def evaluate_again(path: Path, overrides: Sequence[str] = (), *, cpu: bool = False) -> list[Row]:
    """Rows of one trained model: `path` is the folder `<method>-seed<k>` of a run, or a checkpoint in it.

    `overrides` change the recipe of the run, e.g. `data.test=FOLDER` or `evaluation.suites=[clean]`. The training pictures
    need not be there.

    Raises:
        CheckpointError: no whole checkpoint is there.
        DataError: the test pictures have other classes than those the model was trained on.
    """
    found = tested.read_trained(path, overrides)
    place = Place(torch.device(PartialState(cpu=cpu).device or "cpu"))
    subject = measure.Subject(found.recipe, recipes.recipe_hash(found.recipe), found.test, found.size, place)
    return measure.accuracies(subject, {(found.label, found.seed): found.model})


def _classification(context: Context, recipe: recipes.ClassificationRecipe, data: recipe_data.Data) -> None:
    discretizer = _discretizer(context, recipe, data)
    models: dict[tuple[str, int], nn.Module] = {}
    jobs = [(label, seed) for seed in recipe.seeds for label in recipe.methods]
    for number, (label, seed) in enumerate(jobs, start=1):
        with context.timed("train"):
            title = f"[{number}/{len(jobs)}] {label}, seed {seed}"
            models[label, seed] = _train_one(context, recipe, data.seeded(seed), discretizer, (label, seed), title)
    subject = measure.Subject(recipe, context.recipe_hash, data.test, data.size, context.place)
    with context.timed("evaluate"):
        rows = measure.accuracies(subject, models)
    if not context.place.is_main:
        return
    if discretizer is not None:
        with context.timed("analyse"):
            rows += measure.modified_codes(subject, models, discretizer)
            context.facts["pictures"] = measure.pictures(subject, models, discretizer, context.folder / "pictures.npz")
    rows += measure.costs(subject, context.folder) + measure.expectations(subject)
    write_rows(context.folder / RESULTS, rows)
    context.write()
    write_report(context.folder)


def _equal_time(context: Context, recipe: recipes.ClassificationRecipe) -> recipes.Recipe:
    """The recipe again, with the epochs of each method that fit into the time of one of them; written once, then read.

    The time of an epoch is the median of what the logs of the first round say, so it is right on a machine that did
    nothing else.
    """
    path = context.folder / "equal-time.yaml"
    if context.place.is_main and not path.is_file():
        epochs = measure.epochs_of_equal_time(recipe, context.folder)
        values = recipe.model_dump(mode="json") | {"equal_time_as": None, "out": str(context.folder / "equal-time")}
        values["title"] += ", equal time"
        for label, count in epochs.items():
            values["methods"][label]["training"]["epochs"] = count
        if recipe.discretizer is not None and recipe.discretizer.train is not None:
            weights = context.folder / "discretizer" / "discretizer.safetensors"
            values["discretizer"] |= {"train": None, "load": str(weights)}
        write_text(path, recipes.resolved(recipes.parse(values)))
    PartialState().wait_for_everyone()
    return recipes.load(str(path))


def _discretizer(context: Context, recipe: recipes.ClassificationRecipe, data: recipe_data.Data) -> FrozenDiscretizer | None:
    """Load or train the discretizer, and measure its reconstructions of the test pictures."""
    section = recipe.discretizer
    if section is None:
        return None
    folder = context.folder / "discretizer"
    if section.train is not None:
        with context.timed("discretizer"):
            path = _train_discretizer(context, section.train, data, folder)
    else:
        path = str(section.load)
    discretizer = load_discretizer(path, dtype=PRECISIONS[section.precision]).to(context.place.device)
    if section.compile:
        discretizer.compile_networks()
    context.facts["discretizer"] = {
        "codebook_size": discretizer.codebook_size,
        "stride": discretizer.stride,
        **reconstruction_quality(discretizer, data.test, context.place),
    }
    if section.train is not None:
        context.facts["discretizer"]["perceptual"] = section.train.perceptual.kind
    return discretizer


def _train_discretizer(context: Context, spec: recipes.DiscretizerSpec, data: recipe_data.Data, folder: Path) -> Path:
    path = folder / "discretizer.safetensors"
    is_trained = path.is_file()
    PartialState().wait_for_everyone()  # all processes have looked before one of them writes it
    if is_trained:
        return path
    made_by = {
        "recipe_hash": context.recipe_hash,
        "data": data.fingerprint,
        "objective": asdict(spec.objective),
        "perceptual": _with_hashes(spec.perceptual.model_dump()),
        "frechet": _with_hashes(spec.frechet.model_dump()) if spec.frechet is not None else {"kind": "none"},
        "seed": spec.seed,
        "versions": measure.versions(),
    }
    if spec.init is not None:
        made_by["init"] = _source(spec.init)
    train_discretizer(
        recipes.build_vqgan(spec),
        spec.objective,
        recipes.build_perceptual(spec.perceptual),
        spec.training,
        data.train,
        data.test,
        seed=spec.seed,
        folder=folder,
        weights=path,
        provenance=made_by,
        features=recipes.build_frechet(spec.frechet),
        trained=spec.init is not None,
        title=f"train discretizer (perceptual: {spec.perceptual.kind})",
        cpu=context.cpu,
    )
    return path


def _distill(context: Context, recipe: recipes.DistillationRecipe, data: recipe_data.Data, folder: Path) -> None:
    """Train the student of a recipe; what was measured, seconds included, goes into `run.json`."""
    teacher = load_discretizer(recipe.teacher.load, dtype=PRECISIONS[recipe.teacher.precision]).to(context.place.device)
    student = recipes.build_student(recipe, teacher.network, size=max(data.size))
    made_by = {
        "recipe_hash": context.recipe_hash,
        "data": data.fingerprint,
        "teacher": {**_source(recipe.teacher.load), "precision": recipe.teacher.precision},
        "perceptual": _with_hashes(recipe.perceptual.model_dump()),
        "seed": recipe.seed,
        "versions": measure.versions(),
    }
    context.facts["distillation"] = distill(
        student,
        teacher,
        recipe.training,
        data.train,
        data.test,
        perceptual=recipes.build_perceptual(recipe.perceptual),
        seed=recipe.seed,
        folder=folder,
        weights=folder / "discretizer.safetensors",
        provenance=made_by,
        cpu=context.cpu,
    )


def _source(name: str) -> dict[str, str]:
    """Which weights a discretizer was made from."""
    return {"name": Path(name).stem, "sha256": file_sha256(weight_file(name))}


def _with_hashes(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a section in which a file of weights stands with its name and hash, not with its place."""
    files = {key: Path(settings[key]) for key in WEIGHT_FILES if settings.get(key) is not None}
    return settings | {key: f"{path.name} sha256:{file_sha256(path)}" for key, path in files.items()}


def _train_one(
    context: Context,
    recipe: recipes.ClassificationRecipe,
    data: recipe_data.Data,
    discretizer: FrozenDiscretizer | None,
    key: tuple[str, int],
    title: str,
) -> nn.Module:
    """The trained model of one method and seed: trained to its end, or read back if it is there already."""
    label, seed = key
    training = recipes.training_of(recipe, label)
    trained = train(
        tested.untrained(recipe, key, len(data.classes)),
        recipes.build_method(recipe.methods[label], discretizer),
        Classification(training.smoothing, len(data.classes), training.sigmoid),
        data.train,
        training,
        seed=seed,
        folder=context.folder / f"{label}-seed{seed}",
        title=title,
        num_classes=len(data.classes),
        cpu=context.cpu,
    )
    return without_auxiliary_norms(trained)


def _facts(recipe: recipes.Recipe, identity: str, data: recipe_data.Data, folder: Path) -> dict[str, Any]:
    """What the report says beside the rows, and what a later evaluation needs; the rest is added as it is found."""
    path = folder / RUN
    facts: dict[str, Any] = {
        "kind": recipe.kind,
        "name": folder.name,
        "title": recipe.title,
        "recipe_hash": identity,
        "versions": measure.versions(),
        "machine": measure.machine(),
        "seconds": run_folder.read_run(folder)["seconds"] if path.is_file() else {},
        "data": {
            "name": recipe.data.source,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "classes": len(data.classes),
            "image_size": list(data.size),
        },
        "class_names": data.classes,
    }
    if isinstance(recipe, recipes.ClassificationRecipe):
        facts |= {"methods": list(recipe.methods), "seeds": recipe.seeds}
    return facts
