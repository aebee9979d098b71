"""What the runs behind the tables of the paper are worth, in plain training steps of their networks: what each method of each
recipe takes by step and epoch, measured on four steps, then the whole.

A plain step is timed just before and after all that is measured, so that a machine which does other work, too, slows both.
Processor time of one thread. The plans have these numbers, and `dat reproduce` multiplies them by the plain step where it runs.
Example: `python benchmarks/reproduce.py --data data/cifar10 --output costs.json`
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dat.commands.pace import plain_step_s
from dat.data.pipeline import ImageDataset
from dat.data.subset import Subset
from dat.engine.loop import train
from dat.engine.run_folder import Run
from dat.nn.norm import without_auxiliary_norms
from dat.recipe.classification import ClassificationRecipe, Comparison
from dat.recipe.parts import OnDisk
from dat.recipe.table_plan import classification, load_plan, tables
from dat.results import machine, versions, write_text
from dat.studies import discretizer, measured
from dat.studies.study import Job
from dat.tasks.classification import Classification
from dat.types import Place

FEW, MORE = 1, 5
"""Steps of the two trainings whose difference is four steps; what is left of the shorter one is of its epoch."""
PART = 10
"""One of so many test pictures is shown."""
ALL_OF_CIFAR = 50_000
ITSELF = Place(torch.device("cpu"))


@dataclass(frozen=True)
class Opened:
    """A recipe, opened, with its discretizer, what its evaluation depends on, and as many training pictures as are counted."""

    name: str
    written: ClassificationRecipe
    recipe: Comparison
    discretizer: Any
    of_discretizer: float
    evaluation: str
    pictures: int


@dataclass(frozen=True)
class Known:
    """What recipes have in common, by settings: a discretizer with what its training takes, what an evaluation takes."""

    discretizers: dict[str, tuple[Any, float]]
    evaluations: dict[str, float]


def main() -> None:
    """Measure the recipes that the command line names and print what they are worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[*all_recipes()], help="names; without it those of all tables")
    parser.add_argument("--data", type=Path, default=Path("data/cifar10"), help="folder of CIFAR-10, with train and test in it")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known, found = Known({}, {}), dict[str, dict[str, Any]]()
    for name in options.recipes:
        found[name] = worth_of(opened_of(name, options.data, known), known)
        print(f"{name:<32}{found[name]['plain_steps']:>10,.0f} plain steps", flush=True)
        if options.output:
            setting = {"threads": 1, "clock": "cpu", "unit": "plain step"}
            around = {"machine": machine(), "versions": versions()}
            write_text(options.output, json.dumps({"recipes": found, "setting": setting, "machine": around}, indent=1) + "\n")


def all_recipes() -> list[str]:
    """Those of the scales that are trained here."""
    return [name for table in tables() for scale in load_plan(table).scales.values() for name in scale.runs]


def opened_of(name: str, data: Path, known: Known) -> Opened:
    """The recipe with its pictures and discretizer, which is trained for an epoch where the recipe says so."""
    is_cifar = "cifar" in name
    changes = [f"data.train={data}/train", f"data.test={data}/test"] if is_cifar else []
    recipe = classification(name, changes)
    opened = recipe.open(OnDisk())
    made, of_training = discretizer_of(opened, recipe, known.discretizers)
    key = f"{unit_of(recipe)} {recipe.evaluation.model_dump_json()}"
    return Opened(name, recipe, opened, made, of_training, key, ALL_OF_CIFAR if is_cifar else len(opened.data.train))


def unit_of(recipe: ClassificationRecipe) -> str:
    """What a plain step depends on."""
    return f"{recipe.model.model_dump_json()} {recipe.training.batch_size} {recipe.data.size}"


def discretizer_of(opened: Comparison, recipe: ClassificationRecipe, known: dict[str, tuple[Any, float]]) -> tuple[Any, float]:
    """After an epoch, with what all of its epochs take."""
    if opened.plan is None:
        return opened.discretizer, 0.0
    assert recipe.discretizer is not None
    key = f"{recipe.discretizer.model_dump_json()} {unit_of(recipe)}"
    if key not in known:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder), ITSELF, cpu=True, facts={"seconds": {}})
            plan = replace(opened.plan, training=replace(opened.plan.training, epochs=1))
            taken = in_steps(recipe, lambda: discretizer.trained(plan, opened.data, run, Path(folder)))
            known[key] = opened.load_trained(Path(folder) / discretizer.WEIGHTS), taken * opened.plan.training.epochs
    return known[key]


def worth_of(found: Opened, known: Known) -> dict[str, Any]:
    """Of a recipe: what each method takes by step and epoch, what showing the test pictures to a model takes, and the sum."""
    opened, seeds = found.recipe, len(found.recipe.seeds)
    methods = {label: method_of(found, label) for label in opened.contestants}
    if found.evaluation not in known.evaluations:
        known.evaluations[found.evaluation] = evaluation_of(found)
    evaluation = known.evaluations[found.evaluation]
    training = sum(row["whole"] for row in methods.values()) * seeds
    return {
        "steps": MORE - FEW,
        "plain_steps": round(found.of_discretizer + training + evaluation * seeds * len(methods)),
        "plain_step_s": round(plain_step(found.written), 5),
        "pictures": found.pictures,
        "seeds": seeds,
        "discretizer": round(found.of_discretizer),
        "evaluation_of_a_model": round(evaluation, 1),
        "methods": methods,
    }


def method_of(found: Opened, label: str) -> dict[str, float]:
    """What a step takes, what comes once in an epoch, and a whole training."""
    training = found.recipe.contestants[label].training
    few, more = (trained_in(found, label, steps) for steps in (FEW, MORE))
    step = (more - few) / (MORE - FEW)
    epoch = max(0.0, few - FEW * step)
    steps = found.pictures // training.batch_size
    return {
        "a_step": round(step, 3),
        "an_epoch_beside": round(epoch, 2),
        "steps_per_epoch": steps,
        "epochs": training.epochs,
        "whole": round(training.epochs * (steps * step + epoch)),
    }


def trained_in(found: Opened, label: str, steps: int) -> float:
    """What a training of one epoch of so many steps takes."""
    opened, contestant = found.recipe, found.recipe.contestants[label]
    settings = replace(contestant.training, epochs=1, warmup_epochs=0)
    whole = opened.data.train
    some = np.random.default_rng(0).permutation(len(whole))[: steps * settings.batch_size]
    assert len(some) == steps * settings.batch_size
    pictures = ImageDataset(Subset(whole.source, some), whole.transform, seed=0)
    model = opened.model.untrained(0, auxiliary_norms=contestant.auxiliary_norms)
    task = Classification(settings.smoothing, len(opened.data.classes), settings.sigmoid)
    more: Mapping[str, Any] = {"num_classes": len(opened.data.classes), "cpu": True}
    with tempfile.TemporaryDirectory() as folder:
        method = contestant.method(found.discretizer)
        return in_steps(
            found.written, lambda: train(model, method, task, pictures, settings, seed=0, folder=Path(folder), **more)
        )


def evaluation_of(found: Opened) -> float:
    """What it takes to show one untrained model all that the recipe shows a trained one, by a part of the pictures."""
    opened = found.recipe
    whole, evaluation = opened.data.test, opened.evaluation
    some = ImageDataset(Subset(whole.source, np.arange(0, len(whole), PART)), whole.transform, seed=0)
    few = None if evaluation.c_per_class is None else evaluation.c_per_class // PART
    subject = measured.Subject(replace(evaluation, c_per_class=few), "", some, opened.data.size, ITSELF)
    model = without_auxiliary_norms(opened.model.untrained(0))
    return PART * in_steps(found.written, lambda: measured.answered(subject, {Job("one", 0): model}))


def in_steps(recipe: ClassificationRecipe, act: Callable[[], object]) -> float:
    """How many plain steps an act takes, by those before and after it."""
    before, began = plain_step(recipe), time.process_time()
    act()
    taken = time.process_time() - began
    return 2 * taken / (before + plain_step(recipe))


def plain_step(recipe: ClassificationRecipe) -> float:
    """Processor time of one."""
    return plain_step_s(recipe, ITSELF.device, time.process_time)


if __name__ == "__main__":
    main()
