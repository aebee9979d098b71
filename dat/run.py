"""From a recipe to a filled run folder: train, evaluate, picture, report. Everything here can be stopped and resumed.

RUN/run.json  recipe.yaml  results.jsonl  report.html  report.md  pictures.npz
RUN/discretizer/   log.jsonl  checkpoints/  discretizer.safetensors
RUN/<method>-seed<k>/   log.jsonl  checkpoints/
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from dat import recipe as recipes
from dat.analysis.codes import Change, discrete_change, mean_rate
from dat.data.pipeline import ImageDataset, evaluation_batches
from dat.data.subset import Subset, first_per_class
from dat.discretizers.frozen import FrozenVQGAN
from dat.discretizers.pretrained import load_discretizer
from dat.engine import checkpoint, run_folder
from dat.engine.discretizer_loop import reconstruction_quality, train_discretizer
from dat.engine.loop import train
from dat.errors import CheckpointError
from dat.evaluation.evaluate import Outcome, evaluate
from dat.evaluation.metrics import accuracy_rows
from dat.evaluation.suites import Suite
from dat.report.page import write_report
from dat.results import Row, write_bytes, write_rows, write_text
from dat.tasks.classification import Classification
from dat.types import Place

PICTURES = 8
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Context:
    """What every part of one run needs to know."""

    folder: Path
    recipe_hash: str
    place: Place
    cpu: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a part to those it took before it was resumed."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 1)


def run(recipe: recipes.Recipe, *, resume: bool = False, cpu: bool = False) -> Path:
    """Carry out a recipe; gives its folder.

    Raises:
        DatError: one of its kinds, each with a sentence for the user.
    """
    state = PartialState(cpu=cpu)
    place = Place(torch.device(state.device or "cpu"), state.process_index, state.num_processes)
    folder, identity = Path(recipe.out), recipes.recipe_hash(recipe)
    claim = run_folder.claimed(folder, recipe_hash=identity, resume=resume) if place.is_main else nullcontext()
    with claim:
        context = Context(folder, identity, place, cpu, _seconds_so_far(folder))
        if place.is_main:
            write_text(folder / "recipe.yaml", recipes.resolved(recipe))
            _write_run(context, recipe, {})
        state.wait_for_everyone()
        if isinstance(recipe, recipes.DiscretizerRecipe):
            _train_discretizer(context, recipe, recipes.build_data(recipe.data, seed=recipe.seed), folder)
        else:
            _classification(context, recipe)
    return folder


def _classification(context: Context, recipe: recipes.ClassificationRecipe) -> None:
    data = recipes.build_data(recipe.data, seed=recipe.seeds[0])
    discretizer = _discretizer(context, recipe, data)
    models: dict[tuple[str, int], nn.Module] = {}
    jobs = [(label, seed) for seed in recipe.seeds for label in recipe.methods]
    for number, (label, seed) in enumerate(jobs, start=1):
        with context.timed("train"):
            title = f"[{number}/{len(jobs)}] {label}, seed {seed}"
            models[label, seed] = _train_one(context, recipe, discretizer, label, seed, title)
    with context.timed("evaluate"):
        rows = _evaluate(context, recipe, data, models)
    if not context.place.is_main:
        return
    if discretizer is not None:
        with context.timed("analyse"):
            rows += _code_rows(context, recipe, data, models, discretizer)
            _write_pictures(context, recipe, data, models, discretizer)
    write_rows(context.folder / "results.jsonl", [*rows, *_cost_rows(context, recipe)])
    _write_run(context, recipe, _facts(context, recipe, data, discretizer))
    write_report(context.folder)


def _discretizer(context: Context, recipe: recipes.ClassificationRecipe, data: recipes.Data) -> FrozenVQGAN | None:
    """Load or train the discretizer; its quality on the test pictures is measured once and kept beside it."""
    section = recipe.discretizer
    if section is None:
        return None
    folder = context.folder / "discretizer"
    if section.train is not None:
        with context.timed("discretizer"):
            path = _train_discretizer(context, section.train, data, folder)
    else:
        path = Path(str(section.load))
    discretizer = load_discretizer(path, dtype=PRECISIONS[section.precision]).to(context.place.device)
    if context.place.is_main and not (folder / "quality.json").is_file():
        write_text(folder / "quality.json", json.dumps(reconstruction_quality(discretizer, data.test, context.place)))
    return discretizer


def _train_discretizer(context: Context, spec: recipes.DiscretizerSpec, data: recipes.Data, folder: Path) -> Path:
    path = folder / "discretizer.safetensors"
    if path.is_file():
        return path
    made_by = {
        "recipe_hash": context.recipe_hash,
        "data": data.fingerprint,
        "objective": asdict(spec.objective),
        "perceptual": spec.perceptual.model_dump(),
        "seed": spec.seed,
        "versions": versions(),
    }
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
        cpu=context.cpu,
    )
    return path


def _train_one(
    context: Context, recipe: recipes.ClassificationRecipe, discretizer: FrozenVQGAN | None, label: str, seed: int, title: str
) -> nn.Module:
    """The trained model of one method and seed: trained to its end, or read back if it is there already."""
    data = recipes.build_data(recipe.data, seed=seed)
    return train(
        recipes.build_model(recipe.model, num_classes=len(data.classes), seed=seed),
        recipes.build_method(recipe.methods[label], discretizer),
        Classification(recipe.training.smoothing),
        data.train,
        recipe.training,
        seed=seed,
        folder=context.folder / f"{label}-seed{seed}",
        title=title,
        num_classes=len(data.classes),
        cpu=context.cpu,
    )


def _evaluate(
    context: Context, recipe: recipes.ClassificationRecipe, data: recipes.Data, models: Mapping[tuple[str, int], nn.Module]
) -> list[Row]:
    """Rows of all models on all suites; the corrupted pictures may be fewer than the clean ones."""
    section = recipe.evaluation
    corrupted = data.test
    if section.c_per_class is not None:
        corrupted = ImageDataset(first_per_class(data.test.source, section.c_per_class), data.test.transform, seed=0)
    named = {f"{label}/{seed}": model for (label, seed), model in models.items()}
    outcomes: dict[tuple[str, str], Outcome] = {}
    for title, dataset, suites in (
        ("evaluate", data.test, section.build()),
        ("evaluate corruptions", corrupted, section.build_corruptions()),
    ):
        if suites:
            settings = {"place": context.place, "batch_size": section.batch_size, "title": title}
            outcomes |= evaluate(named, Classification(), dataset, suites, **settings)
    suites = [*section.build(), *section.build_corruptions()]
    return [row for label, seed in models for row in _rows_of(context, recipe, data, suites, outcomes, label, seed)]


def _rows_of(
    context: Context,
    recipe: recipes.ClassificationRecipe,
    data: recipes.Data,
    suites: Sequence[Suite],
    outcomes: Mapping[tuple[str, str], Outcome],
    label: str,
    seed: int,
) -> list[Row]:
    height, width = data.size
    return accuracy_rows(
        {suite.name: outcomes[f"{label}/{seed}", suite.name] for suite in suites},
        suites,
        height=height,
        width=width,
        method=label,
        seed=seed,
        recipe_hash=context.recipe_hash,
        protocol={"data": data.fingerprint, "height": height, "width": width, "crop_pct": _crop_pct(recipe)},
        versions=versions(),
    )


def _crop_pct(recipe: recipes.ClassificationRecipe) -> float | None:
    """How the test pictures were cropped; None where they keep their own size."""
    section = recipe.data
    return section.crop_pct if isinstance(section, recipes.FolderData) and section.size is not None else None


def _changes(
    context: Context, recipe: recipes.ClassificationRecipe, data: recipes.Data, model: nn.Module, discretizer: FrozenVQGAN
) -> Iterator[tuple[Change, torch.Tensor]]:
    """What the recipe's DAT adversary does to the test pictures, batch by batch, with their targets."""
    for fetched in evaluation_batches(data.test, recipe.evaluation.batch_size):
        images, targets, _ = (tensor.to(context.place.device) for tensor in fetched)
        yield discrete_change(model, Classification(), discretizer, images, targets, alpha=_alpha(recipe)), targets


def _alpha(recipe: recipes.ClassificationRecipe) -> float:
    """The step of the recipe's first method that has one; the paper's 0.1 otherwise."""
    return next((alpha for section in recipe.methods.values() if (alpha := getattr(section, "alpha", None)) is not None), 0.1)


def _code_rows(
    context: Context,
    recipe: recipes.ClassificationRecipe,
    data: recipes.Data,
    models: Mapping[tuple[str, int], nn.Module],
    discretizer: FrozenVQGAN,
) -> list[Row]:
    """How many codes of the test pictures the DAT adversary modifies, per model."""
    protocol: dict[str, object] = {"data": data.fingerprint, "alpha": _alpha(recipe)}

    def row(label: str, seed: int, model: nn.Module) -> Row:
        changes = [change for change, _ in _changes(context, recipe, data, model, discretizer)]
        n, rate = len(data.test), mean_rate(changes)
        return Row("codes", "modified_code_rate", rate, n, None, seed, label, context.recipe_hash, protocol, versions())

    return [row(label, seed, model) for (label, seed), model in models.items()]


def _cost_rows(context: Context, recipe: recipes.ClassificationRecipe) -> list[Row]:
    """Seconds per step, the median over the log of each training."""
    rows = []
    for label in recipe.methods:
        for seed in recipe.seeds:
            log = (context.folder / f"{label}-seed{seed}" / "log.jsonl").read_text().splitlines()
            speeds = [json.loads(line)["images_per_s"] for line in log]
            value = recipe.training.batch_size / float(np.median(speeds))
            protocol: dict[str, object] = {"machine": machine(), "batch_size": recipe.training.batch_size}
            rows.append(
                Row(
                    "cost", "seconds_per_step", value, len(speeds), None, seed, label, context.recipe_hash, protocol, versions()
                )
            )
    return rows


def _write_pictures(
    context: Context,
    recipe: recipes.ClassificationRecipe,
    data: recipes.Data,
    models: Mapping[tuple[str, int], nn.Module],
    discretizer: FrozenVQGAN,
) -> None:
    """Some test pictures on their way through the adversary, for the report; one of each class first."""
    attacked = next((key for key in models if hasattr(recipe.methods[key[0]], "alpha")), next(iter(models)))
    chosen = first_per_class(data.test.source, -(-PICTURES // len(data.classes)))
    shown = ImageDataset(Subset(chosen, np.arange(min(PICTURES, len(chosen)))), data.test.transform, seed=0)
    images, targets, _ = next(iter(evaluation_batches(shown, PICTURES)))
    images, targets = images.to(context.place.device), targets.to(context.place.device)
    model = models[attacked]
    change = discrete_change(model, Classification(), discretizer, images, targets, alpha=_alpha(recipe))
    content = BytesIO()
    np.savez_compressed(
        content,
        original=_bytes(change.original),
        reconstruction=_bytes(change.reconstruction),
        adversarial=_bytes(change.adversarial),
        changed=change.changed.cpu().numpy(),
        labels=np.array([data.classes[label] for label in targets.tolist()]),
        predicted_original=_predicted(model, change.original, data.classes),
        predicted_adversarial=_predicted(model, change.adversarial, data.classes),
    )
    write_bytes(context.folder / "pictures.npz", content.getvalue())


def _bytes(images: torch.Tensor) -> np.ndarray:
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.inference_mode()
def _predicted(model: nn.Module, images: torch.Tensor, classes: Sequence[str]) -> np.ndarray:
    return np.array([classes[label] for label in model(images).argmax(dim=1).tolist()])


def _facts(
    context: Context, recipe: recipes.ClassificationRecipe, data: recipes.Data, discretizer: FrozenVQGAN | None
) -> dict[str, Any]:
    """What the report says beside the rows."""
    quality = context.folder / "discretizer" / "quality.json"
    facts: dict[str, Any] = {
        "data": {
            "name": recipe.data.source,
            "train_images": len(data.train),
            "test_images": len(data.test),
            "classes": len(data.classes),
            "image_size": list(data.size),
        },
        "methods": list(recipe.methods),
        "seeds": recipe.seeds,
    }
    if discretizer is not None:
        facts["discretizer"] = {
            "codebook_size": discretizer.codebook_size,
            "stride": discretizer.stride,
            **json.loads(quality.read_text()),
        }
    return facts


def evaluate_again(path: Path, overrides: Sequence[str] = (), *, cpu: bool = False) -> list[Row]:
    """Rows of one trained model: `path` is the folder `<method>-seed<k>` of a run, or a checkpoint in it.

    `overrides` change the recipe of the run, e.g. `data.test=FOLDER` or `evaluation.suites=[clean]`.

    Raises:
        CheckpointError: no whole checkpoint is there.
        DataError: the test pictures have other classes than those the model was trained on.
    """
    folder = path.parent.parent if path.name.startswith("step-") else path
    label, _, seed = folder.name.rpartition("-seed")
    if not (folder.parent / "recipe.yaml").is_file() or not seed.isdigit():
        raise CheckpointError(
            f"{path} is not the folder of a trained model; give RUN/<method>-seed<k>, e.g. runs/demo/dat-seed0."
        )
    recipe = recipes.load(str(folder.parent / "recipe.yaml"), overrides)
    assert isinstance(recipe, recipes.ClassificationRecipe)
    data = recipes.build_data(recipe.data, seed=int(seed))
    model = recipes.build_model(recipe.model, num_classes=len(data.classes), seed=int(seed))
    found = (path, checkpoint.load(path), []) if folder != path else checkpoint.newest_valid(folder / "checkpoints")
    if found is None:
        raise CheckpointError(f"{folder} holds no checkpoint; train it first.")
    tensors = found[1].tensors
    model.load_state_dict(dict(tensors.get("ema", tensors["model"])))
    place = Place(torch.device(PartialState(cpu=cpu).device or "cpu"))
    context = Context(folder.parent, recipes.recipe_hash(recipe), place, cpu)
    return _evaluate(context, recipe, data, {(label, int(seed)): model})


def _write_run(context: Context, recipe: recipes.Recipe, facts: Mapping[str, Any]) -> None:
    content = {
        "kind": recipe.kind,
        "name": context.folder.name,
        "title": recipe.title,
        "recipe_hash": context.recipe_hash,
        "versions": versions(),
        "machine": machine(),
        "seconds": context.seconds,
        **facts,
    }
    if context.place.is_main:
        write_text(context.folder / run_folder.RUN, json.dumps(content, indent=1))


def _seconds_so_far(folder: Path) -> dict[str, float]:
    """Of a run that is resumed."""
    path = folder / run_folder.RUN
    return json.loads(path.read_text())["seconds"] if path.is_file() else {}


def versions() -> dict[str, str]:
    """Of what a number depends on."""
    names = {"dat": "discrete-adversarial-training", "torch": "torch", "timm": "timm", "numpy": "numpy"}
    return {name: version(package) for name, package in names.items()}


def machine() -> str:
    """Where it ran, without names."""
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} CPU cores, {platform.machine()}" + "".join(f", {name}" for name in devices)
