"""Validation from recipe to page: which pictures, what is kept, what is shown; never the test pictures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dat
from dat.commands.check_recipes import rehearse
from dat.commands.trained import load_classifier
from dat.data.overlap import files_of
from dat.engine import checkpoint
from dat.engine.validation import weights_of
from dat.errors import DataError, UsageError
from dat.recipe import read
from dat.recipe.header import recipe_hash
from dat.recipe.inputs import dependences, inputs_of
from dat.recipe.parts import OnDisk
from dat.results import read_rows
from dat.studies import measured

CLASSES = ("cat", "dog", "fox")


def recipe(out: Path, data: dict[str, Any], **training: Any) -> dict[str, Any]:
    return {
        "kind": "classification",
        "title": "judged",
        "out": str(out),
        "data": {"augment": {"kind": "none"}, **data},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 3, "batch_size": 300, "lr": 0.05, **training},
        "methods": {"standard": {}},
        "evaluation": {"suites": ["clean"]},
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3), ("val", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                picture.save(root / part / name / f"{number}.png")
    return root


def section(photos: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": "folder",
        "train": str(photos / "train"),
        "test": str(photos / "test"),
        "size": 8,
        "crop_pct": 1.0,
        **more,
    }


def test_from_the_recipe_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[set[str]] = []
    original = measured.validated

    def validated(subject: measured.Subject, model: Any) -> dict[str, float]:
        shown.append({subject.test.source.name(index) for index in range(len(subject.test))})
        return original(subject, model)

    monkeypatch.setattr(measured, "validated", validated)
    folder = dat.train(recipe(tmp_path / "run", {"source": "digits", "validation": 0.1}, keep="best"), cpu=True)
    part = folder / "standard-seed0"
    lines = [json.loads(line) for line in (part / "log.jsonl").read_text().splitlines()]
    values = [line["validation_accuracy"] for line in lines if "validation_accuracy" in line]
    assert len(values) == len(shown) == 3
    loaded = load_classifier(part)
    source = loaded.test_pictures()[0].source
    tested = {source.name(index) for index in range(len(source))}
    assert len(shown[0]) == 136  # a tenth of each class, rounded
    assert shown[0].isdisjoint(tested)
    facts = json.loads((folder / "run.json").read_text())["data"]
    assert (facts["train_images"], facts["validation_images"]) == (1347 - 136, 136)
    state = checkpoint.load(checkpoint.list_checkpoints(part / "checkpoints")[-1])
    assert state.numbers["judged"]["highest"] == max(values)
    weights = loaded.model.state_dict()
    assert all(weights[name].equal(tensor) for name, tensor in weights_of(state.tensors).items())
    page = (folder / "report.html").read_text()
    assert "validation accuracy, %" in page
    assert "which are no test pictures" in page
    assert {row.n for row in read_rows(folder / "results.jsonl") if row.metric == "accuracy"} == {450}


def test_a_share_of_a_folder_is_not_trained_on(photos: Path) -> None:
    found = OnDisk().data(read.parse(recipe(photos, section(photos, validation=0.2))).data)
    assert found.validation is not None
    held, trained = (set(files_of(part.source)) for part in (found.validation, found.train))
    assert (len(held), len(trained), held & trained) == (4, 16, set())
    again = OnDisk().data(read.parse(recipe(photos, section(photos, validation=0.2, in_memory=True))).data)
    assert again.validation is not None
    assert set(files_of(again.validation.source)) == held


def test_a_folder_of_validation_is_an_input_and_leaves_the_training_pictures(photos: Path) -> None:
    parsed = read.parse(recipe(photos, section(photos, validation=str(photos / "val"))))
    found = OnDisk().data(parsed.data)
    assert found.validation is not None
    assert (len(found.train), len(found.validation)) == (20, 4)
    inputs = inputs_of(parsed, found)
    assert inputs["data.validation"] == found.validation.source.fingerprint()[:12]
    assert "data.validation" in dependences(parsed.depends_on(), inputs)["standard-seed0"].inputs


def test_what_there_was_before_validation_has_the_same_hash_and_settings(photos: Path) -> None:
    values = recipe(photos, {"source": "digits"})
    plain = read.parse(values)
    assert recipe_hash(read.parse({**values, "training": {**values["training"], "keep": "last"}})) == recipe_hash(plain)
    assert "keep" not in plain.depends_on()["standard-seed0"]["training"]
    hashes = {recipe_hash(read.parse(recipe(photos, {"source": "digits", "validation": share}))) for share in (0.1, 0.2)}
    hashes.add(recipe_hash(read.parse(recipe(photos, {"source": "digits", "validation": 0.1}, keep="best"))))
    assert len(hashes | {recipe_hash(plain)}) == 4


@pytest.mark.parametrize(
    ("data", "training", "said"),
    [
        (
            {},
            {"keep": "best"},
            r"training of standard has keep: best, which needs pictures of validation; add data\.validation",
        ),
        ({}, {"patience": 2}, r"has patience: 2, which needs pictures of validation"),
        ({"validation": 0.1}, {"patience": 0}, r"patience is 0, write 1 or more"),
        ({"validation": 1.5}, {}, r"data\.validation: is 1\.5; write a share of the training pictures between 0 and 1"),
        ({"validation": 0.1}, {"keep": "first"}, r"training\.keep: must be 'last' or 'best', not 'first'"),
    ],
)
def test_what_no_validation_can_be_is_refused(data: Any, training: Any, said: str, photos: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read.parse(recipe(photos, section(photos, **data), **training))


@pytest.mark.parametrize("name", ["detection/small", "selfsupervised/mae-small"])
def test_other_kinds_say_that_they_have_none(name: str) -> None:
    with pytest.raises(UsageError, match=r"keep: best, which needs pictures of validation; only recipes of classification"):
        read.load(name, ["training.keep=best"])


def test_a_discretizer_has_none() -> None:
    with pytest.raises(UsageError, match="validation is of recipes of classification alone"):
        read.load("discretizer/digits", ["data.validation=0.1"])


def test_a_folder_of_validation_with_other_classes_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "val" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat" / "0.png").write_bytes((photos / "val" / "cat" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"1 missing \('dog'\)"):
        OnDisk().data(read.parse(recipe(photos, section(photos, validation=str(tmp_path / "val")))).data)


def test_pictures_to_judge_by_are_no_test_pictures(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by their path: what the files hold counts, in one set of several, too."""
    shutil.copytree(photos / "test", tmp_path / "copied")
    sets = {"art": str(photos / "val"), "photo": str(photos / "test")}
    said = r"^6 of the 6 test pictures of photo are validation pictures, too: .*\(in validation .*data\.validation=0\.1\.$"
    mistaken = read.parse(recipe(photos, section(photos, test=sets, validation=str(tmp_path / "copied"))))
    with pytest.raises(DataError, match=said):
        OnDisk().data(mistaken.data)
    found = OnDisk().data(read.parse(recipe(photos, section(photos, test=str(photos / "train"), validation=0.2))).data)
    whole = OnDisk().data(read.parse(recipe(photos, section(photos, validation=str(photos / "train")))).data)
    notes = [*found.notes, *whole.notes]
    assert [note.split(", too:")[0] for note in notes if "pictures, too" in note] == [
        "16 of the 20 test pictures are training pictures",
        "4 of the 20 test pictures are validation pictures",
        "20 of the 20 validation pictures are training pictures",
    ]
    assert all(note in capsys.readouterr().err for note in notes[:1])


def test_it_is_rehearsed() -> None:
    rehearse(read.load("demo", ["data.validation=0.1", "training.keep=best", "training.patience=1", "methods={standard: {}}"]))


@pytest.mark.slow  # two processes that import everything
def test_two_processes_are_judged_as_one_and_keep_the_same_weights(tmp_path: Path) -> None:
    """Without batch statistics, which depend on how a batch is divided; of 27 pictures one is shown 14, the other 13."""
    options, draws = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}, np.random.default_rng(1)
    for part, name, number in [*product(("train",), CLASSES, range(30)), *product(("test",), CLASSES, range(2))]:
        (folder := tmp_path / part / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    values = recipe(tmp_path / "one", section(tmp_path, validation=0.3), keep="best", epochs=4, batch_size=10, lr=0.1)
    values["model"] = {"name": "vit_tiny_patch16_224", "options": options}
    one = dat.train(values, cpu=True)
    (tmp_path / "two.yaml").write_text(json.dumps({**values, "out": str(tmp_path / "two")}))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, "-m", "dat", "train", str(tmp_path / "two.yaml"), "--cpu"]
    places = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env={**os.environ, **places}, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    parts = [folder / "standard-seed0" for folder in (one, tmp_path / "two")]
    logs = [[json.loads(line) for line in (part / "log.jsonl").read_text().splitlines()] for part in parts]
    said = [[line["validation_accuracy"] for line in log if "validation_accuracy" in line] for log in logs]
    assert len(said[0]) > 2
    assert said[0] == said[1]
    first, second = (checkpoint.load(checkpoint.list_checkpoints(part / "checkpoints")[-1]) for part in parts)
    assert first.numbers["judged"] == second.numbers["judged"]
    for name, tensor in first.tensors["best"].items():
        torch.testing.assert_close(second.tensors["best"][name], tensor, rtol=1e-3, atol=1e-4, msg=name)
