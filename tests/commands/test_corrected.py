"""A corrected recipe uses what a run has finished, where its own settings did not change; nothing saved is lost or mixed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import dat
from dat.commands import train
from dat.engine import dependence, run_folder
from dat.errors import RunFolderError
from dat.results import read_rows
from dat.studies.classification import ClassificationStudy
from dat.studies.study import Job

pytestmark = pytest.mark.usefixtures("all_undrawn")

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


def paced(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "save_minutes": 0.5, "log_every": 7, "workers": 1}


def test_what_no_weight_follows_from_may_be_another(run: Path) -> None:
    before = tree(run, "discretizer", *BEGUN)
    spec = {**SPEC, "training": paced(SPEC["training"])}
    with killed_at(Job("at", 0)):
        again({**RECIPE, "training": paced(RECIPE["training"]), "discretizer": {"train": spec}}, run)
    after = tree(run, "discretizer", *BEGUN)
    assert {path for path in after if after[path] != before[path]} == {
        str(run / name / "settings.json") for name in ("discretizer", *BEGUN)
    }


def pictures(root: Path, *, per_class: int, seed: int) -> str:
    draw = np.random.default_rng(seed)
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return str(root)


@pytest.fixture(scope="module")
def on_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The recipe of a small run that is done, on pictures in files, with a discretizer of its own."""
    root = tmp_path_factory.mktemp("folders")
    data = {
        "source": "folder",
        "train": pictures(root / "train", per_class=4, seed=0),
        "test": pictures(root / "test", per_class=3, seed=1),
        "augment": {"kind": "none"},
    }
    spec = {**SPEC, "training": {**SPEC["training"], "batch_size": 4}}
    changes = {"data": data, "discretizer": {"train": spec}, "training": {**RECIPE["training"], "batch_size": 4}}
    recipe = {**without("at"), **changes, "seeds": [0], "out": str(root / "run")}
    dat.train(recipe, cpu=True)
    return recipe


def weights_of(run: Path) -> dict[str, Tensor]:
    return load_file(run / "discretizer" / "discretizer.safetensors")


def test_other_test_pictures_leave_the_discretizer_and_its_quality_is_measured_on_them(
    on_folders: dict[str, Any], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(on_folders["out"], tmp_path / "run"))
    older = json.loads((run / "discretizer" / "settings.json").read_text())
    older["settings"]["data"] |= {key: on_folders["data"].get(key) for key in ("test", "test_per_class")}
    (run / "discretizer" / "settings.json").write_text(json.dumps(older))  # as versions wrote them that asked for the same
    first = json.loads((run / "run.json").read_text())["discretizer"]
    other = {**on_folders["data"], "test": pictures(tmp_path / "other", per_class=2, seed=2), "test_per_class": 1}
    before = tree(run, "discretizer")
    facts = again({**on_folders, "data": other}, run)
    after = tree(run, "discretizer")
    assert {Path(path).name for path in after if after[path] != before[path]} == {"settings.json"}
    assert facts["discretizer"]["quality_of"]["data"] != first["quality_of"]["data"]
    assert facts["discretizer"]["psnr_db"] != first["psnr_db"]
    anew = dat.train({**on_folders, "data": other}, out=tmp_path / "anew", cpu=True)
    assert weights_of(anew).keys() == weights_of(run).keys()
    assert all(torch.equal(tensor, weights_of(run)[name]) for name, tensor in weights_of(anew).items())
    refused(
        {**on_folders, "data": {**other, "train_per_class": 3}}, run, r"data\.train_per_class was None, is 3.*run/discretizer, "
    )


def test_pictures_may_be_held_in_memory_or_not_and_are_the_same(on_folders: dict[str, Any], tmp_path: Path) -> None:
    run = Path(shutil.copytree(on_folders["out"], tmp_path / "run"))
    data = {part: shutil.copytree(on_folders["data"][part], tmp_path / part) for part in ("train", "test")}
    recipe = {**on_folders, "data": {**on_folders["data"], **{part: str(folder) for part, folder in data.items()}}}
    shutil.rmtree(run)
    dat.train(recipe, out=run, cpu=True)
    in_memory = {**recipe, "data": {**recipe["data"], "in_memory": True}}
    before = {path: state for path, state in tree(run, "discretizer", "standard-seed0").items() if "settings" not in path}
    for wanted in (in_memory, recipe, in_memory):
        again(wanted, run)
    noted = json.loads((run / "standard-seed0" / "settings.json").read_text())
    files, pixels = noted["inputs"]["data.train"].split("/")
    (run / "standard-seed0" / "settings.json").write_text(
        json.dumps({**noted, "inputs": {"data.train": pixels}})  # as versions noted them that knew pixels only
    )
    again(in_memory, run)
    assert json.loads((run / "standard-seed0" / "settings.json").read_text())["inputs"]["data.train"].startswith(files)
    after = tree(run, "discretizer", "standard-seed0")
    assert {path: after[path] for path in before} == before
    Image.new("RGB", (8, 8)).save(data["train"] / "ant" / "0.png")
    for wanted in (in_memory, recipe):
        refused(wanted, run, r"^What data\.train of the recipe names is not what the run")


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


def make_faster(log: Path) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps({**line, "images_per_s": 9 * line["images_per_s"]}) + "\n" for line in lines))


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
    before = tree(run, *names, "equal-time/standard-seed1", "equal-time/at-seed1")
    make_faster(run / "standard-seed1" / "log.jsonl")  # alone, this seed would give standard training other epochs
    again({**recipe, "seeds": [1]}, run)
    assert models_in(run / "equal-time") == {("standard", 1), ("at", 1)}
    again({**recipe, "seeds": [1, 0]}, run)
    assert tree(run, *names, "equal-time/standard-seed1", "equal-time/at-seed1") == before
    said = rf"remove {run}/at-seed0, {run}/at-seed1, {run}/equal-time/at-seed0, {run}/equal-time/at-seed1 to train"
    refused({**recipe, "seeds": [0, 1], "methods": {"standard": {}, "at": {"epsilon": 0.1}}}, run, said)
