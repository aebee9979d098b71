"""A corrected recipe uses what a run has finished, where its own settings did not change; nothing saved is lost or mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import dat
from dat.commands import train
from dat.engine import dependence, run_folder
from dat.errors import RunFolderError
from dat.results import read_rows
from dat.studies.classification import ClassificationStudy
from dat.studies.study import Job

SPEC = {
    "network": {
        "n_embed": 16,
        "embed_dim": 4,
        "z_channels": 4,
        "ch": 32,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "attn_type": "none",
    },
    "objective": {"perceptual_weight": 0.0, "disc_factor": 0.0},
    "training": {"epochs": 1, "batch_size": 449, "lr": 0.001, "disc_layers": 0},
    "perceptual": {"kind": "none"},
}
RECIPE: dict[str, Any] = {
    "kind": "classification",
    "title": "tiny",
    "data": {"source": "digits", "augment": {"kind": "none"}},
    "discretizer": {"train": SPEC},
    "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
    "training": {"epochs": 1, "batch_size": 449, "lr": 0.01},
    "methods": {"standard": {}, "random-codes": {}, "at": {"epsilon": 0.9}},
    "seeds": [0, 1],
    "evaluation": {"suites": ["clean"], "c_per_class": 2},
}
BEGUN = [f"{label}-seed{seed}" for seed in (0, 1) for label in ("standard", "random-codes")]
Tree = dict[str, tuple[int, bytes]]


def with_methods(**changes: Any) -> dict[str, Any]:
    return {**RECIPE, "methods": {**RECIPE["methods"], **changes}}


def without(label: str) -> dict[str, Any]:
    return {**RECIPE, "methods": {name: section for name, section in RECIPE["methods"].items() if name != label}}


def tree(run: Path, *names: str) -> Tree:
    """Of all files of trainings, when they were written, and what they hold; logs are written again, as they were."""
    paths = [path for name in names for path in sorted((run / name).rglob("*")) if path.is_file()]
    assert len(paths) > 2 * len(names)
    return {str(path): (path.stat().st_mtime_ns * (path.name != "log.jsonl"), path.read_bytes()) for path in paths}


def hashes_in(run: Path) -> set[str]:
    return {row.recipe_hash for row in read_rows(run / "results.jsonl")}


def models_in(run: Path) -> set[tuple[str, int | None]]:
    return {(row.method, row.seed) for row in read_rows(run / "results.jsonl")}


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_at(job: Job) -> Iterator[None]:
    """A run that ends before this training; earlier ones of its method are passed over."""
    original = ClassificationStudy.train

    def until(study: ClassificationStudy, now: Job, title: str) -> Any:
        if now == job:
            raise Killed
        return original(study, now, title) if now.label != job.label else None

    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        patch.setattr(ClassificationStudy, "train", until)
        yield
        raise AssertionError("it did not come that far")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A discretizer and two finished methods; nothing of the third."""
    run = tmp_path_factory.mktemp("first") / "run"
    with killed_at(Job("at", 1)):
        dat.train(RECIPE, out=run, cpu=True)
    return run


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    """A copy of its own, times of files included."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def again(recipe: dict[str, Any], run: Path) -> dict[str, Any]:
    """The facts of the run after it went on with this recipe."""
    dat.train(recipe, out=run, resume=True, cpu=True)
    return json.loads((run / "run.json").read_text())


def refused(recipe: dict[str, Any], run: Path, said: str) -> None:
    """In a sentence, and nothing is written."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")}
    with pytest.raises(RunFolderError, match=said):
        again(recipe, run)
    assert {path: path.read_bytes() for path in before} == before


def test_a_corrected_method_is_trained_and_the_others_are_used(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(run, "discretizer", *BEGUN)
    facts = again(with_methods(at={"epsilon": 0.1}), run)
    assert tree(run, "discretizer", *BEGUN) == before
    assert (run / "at-seed1" / "checkpoints").is_dir()
    assert "epsilon: 0.1" in (run / "recipe.yaml").read_text()
    assert hashes_in(run) == {facts["recipe_hash"]}
    assert models_in(run) == {(label, seed) for label in RECIPE["methods"] for seed in (0, 1)}
    said = f"Note: {run} goes on with a changed recipe; it uses what has begun: discretizer, standard-seed0, standard-seed1, "
    assert said in capsys.readouterr().err
    both = rf"{run}/at-seed0, {run}/at-seed1"
    refused(
        RECIPE, run, rf"\(methods\.at\.epsilon was 0\.1, is 0\.9\); put those back, remove {both} to train anew, or write out="
    )
    shutil.rmtree(run / "at-seed0")
    refused(RECIPE, run, rf"remove {run}/at-seed1 to train")


def test_methods_and_seeds_come_and_go_and_results_do_not_mix(run: Path) -> None:
    before = tree(run, "discretizer", *BEGUN)
    first = again(without("at"), run)["recipe_hash"]
    rows = (run / "results.jsonl").read_bytes()
    facts = again({**without("random-codes"), "seeds": [2, 0]}, run)
    assert tree(run, "discretizer", *BEGUN) == before
    assert hashes_in(run) == {facts["recipe_hash"]}
    assert models_in(run) == {(label, seed) for label in ("standard", "at") for seed in (0, 2)}
    assert "random-codes" not in (run / "report.md").read_text()
    logs = [f"{name}/log.jsonl" for name in ("standard-seed0", "standard-seed2", "at-seed0", "at-seed2", "discretizer")]
    assert {name for name in facts["files"] if name.endswith("log.jsonl")} == {*logs}
    aside = run / "earlier" / first
    assert (aside / "results.jsonl").read_bytes() == rows
    assert "random-codes" in (aside / "recipe.yaml").read_text()
    assert (aside / "report.html").is_file()
    refused(with_methods(**{"random-codes": {"rate": 0.3}}), run, r"random-codes\.rate was 0\.\d+, is 0\.3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"training": {**RECIPE["training"], "lr": 0.02}},
            r"\(training\.lr was 0\.01, is 0\.02\).*standard-seed0, .*codes-seed1 to",
        ),
        ({"model": {**RECIPE["model"], "options": {"depth": 8, "width": 8}}}, r"\(model\.options\.width was 4, is 8\)"),
        ({"data": {**RECIPE["data"], "size": 9}}, r"data\.size was 8, is 9"),
        (
            {"discretizer": {"train": {**SPEC, "seed": 1}}},
            r"\(discretizer\.train\.seed was 0, is 1\).*remove \S+run/discretizer, \S+/random-codes-seed0, \S+codes-seed1 to",
        ),
    ],
)
def test_what_finished_trainings_depend_on_is_refused_by_its_key(run: Path, changes: dict[str, Any], said: str) -> None:
    refused(RECIPE | changes, run, said)


def test_a_run_of_another_kind_is_refused(run: Path) -> None:
    recipe = {"kind": "discretizer", "title": "q", "data": RECIPE["data"], **SPEC}
    refused(recipe, run, "holds a run of kind classification, not discretizer; write out=ANOTHER_FOLDER")


def test_a_discretizer_that_has_not_begun_may_be_another(run: Path) -> None:
    for name in ("discretizer", "random-codes-seed0", "random-codes-seed1"):
        shutil.rmtree(run / name)
    before = tree(run, "standard-seed0", "standard-seed1")
    again({**without("at"), "discretizer": {"train": {**SPEC, "seed": 1}}}, run)
    assert tree(run, "standard-seed0", "standard-seed1") == before
    assert (run / "discretizer" / "discretizer.safetensors").is_file()


def test_a_discretizer_of_its_own_goes_on_with_its_settings_only(tmp_path: Path) -> None:
    recipe = {"kind": "discretizer", "title": "q", "data": RECIPE["data"], **SPEC}
    run = dat.train(recipe, out=tmp_path / "q", cpu=True)
    before = (run / "discretizer.safetensors").read_bytes()
    again({**recipe, "title": "another"}, run)
    refused({**recipe, "seed": 1}, run, rf"\(seed was 0, is 1\); put those back, remove {run} to train anew")
    shutil.rmtree(run / "checkpoints")
    refused({**recipe, "seed": 1}, run, r"\(seed was 0, is 1\)")
    (run / "discretizer.safetensors").unlink()
    again({**recipe, "seed": 1}, run)
    assert (run / "discretizer.safetensors").read_bytes() != before


def as_of_an_older_version(run: Path) -> Path:
    for path in run.rglob("settings.json"):
        path.unlink()
    return run


def test_a_run_of_an_older_version_goes_on(run: Path) -> None:
    before = tree(as_of_an_older_version(run), "discretizer", *BEGUN)
    refused({**RECIPE, "training": {**RECIPE["training"], "lr": 0.02}}, run, r"training\.lr was 0\.01, is 0\.02")
    with killed_at(Job("at", 0)):
        again(RECIPE, run)
    as_of_an_older_version(run)
    with killed_at(Job("at", 0)):
        again(with_methods(at={"epsilon": 0.1}), run)
    after = tree(run, "discretizer", *BEGUN)
    assert {path: after[path] for path in before} == before
    assert {Path(path).name for path in after.keys() - before.keys()} == {"settings.json"}
    as_of_an_older_version(run)
    (run / "recipe.yaml").write_text("kind: another")
    refused(RECIPE, run, r"Nothing in .*run says with which settings discretizer, standard-seed0, ")
    with killed_at(Job("at", 0)):
        again(with_methods(at={"epsilon": 0.1}), run)


def killed_at_write(number: int, recipe: dict[str, Any], run: Path) -> bool:
    """Go on until so many files were written or moved, at most until the first training; gives whether it came that far."""
    left = [number]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*arguments, **named)

        return write

    def reached(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        for module in (dependence, run_folder, train):
            patch.setattr(module, "write_text", counted(module.write_text))
        patch.setattr(shutil, "copyfile", counted(shutil.copyfile))
        patch.setattr(Path, "mkdir", counted(Path.mkdir))
        patch.setattr(train, "_finish", reached)
        with pytest.raises(Killed):
            dat.train(recipe, out=run, resume=True, cpu=True)
    return left[0] >= 0


@pytest.mark.parametrize(
    ("is_old", "every"),
    [(True, 5), pytest.param(True, 1, marks=pytest.mark.slow), pytest.param(False, 1, marks=pytest.mark.slow)],
)
def test_killed_at_any_write_it_goes_on_with_either_recipe(run: Path, tmp_path: Path, is_old: bool, every: int) -> None:
    again(without("at"), run)
    if is_old:
        as_of_an_older_version(run)
    corrected = {**without("random-codes"), "seeds": [0, 2]}
    whole = Path(shutil.copytree(run, tmp_path / "whole" / "run"))
    assert killed_at_write(1000, corrected, whole)
    number, reached = 0, False
    while not reached:
        folder = Path(shutil.copytree(run, tmp_path / f"killed-{number}" / "run"))
        reached = killed_at_write(number, corrected, folder)
        back = Path(shutil.copytree(folder, tmp_path / f"back-{number}" / "run"))
        assert killed_at_write(1000, without("at"), back)
        assert killed_at_write(1000, corrected, folder)
        assert contents(folder) == contents(whole)
        number += every
    assert number > 8
    assert any(path.startswith("earlier") and path.endswith("results.jsonl") for path in contents(whole))


def contents(run: Path) -> dict[str, bytes]:
    """By the name in the run; without its lock and where it lies."""
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name not in (".lock", ".owner.json")]
    return {str(path.relative_to(run)): path.read_bytes().replace(bytes(run), b"") for path in paths}


def test_equal_time_goes_on_with_an_added_seed_and_as_many_epochs(tmp_path: Path) -> None:
    recipe = {**without("random-codes"), "discretizer": None, "equal_time_as": "at", "seeds": [0]}
    run = dat.train(recipe, out=tmp_path / "run", cpu=True)
    names = ["equal-time/standard-seed0", "equal-time/at-seed0"]
    before = tree(run, *names)
    log = run / "at-seed0" / "log.jsonl"
    again({**recipe, "seeds": [0, 1]}, run)
    assert tree(run, *names) == before
    assert models_in(run / "equal-time") == {(label, seed) for label in ("standard", "at") for seed in (0, 1)}
    assert log.is_file()
    said = rf"remove {run}/at-seed0, {run}/at-seed1, {run}/equal-time/at-seed0, {run}/equal-time/at-seed1 to train"
    refused({**recipe, "seeds": [0, 1], "methods": {"standard": {}, "at": {"epsilon": 0.1}}}, run, said)
