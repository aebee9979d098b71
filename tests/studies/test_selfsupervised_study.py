"""Self-supervised learning, the whole way: from folders to a page, gone on with, tuned further, and refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands.check_recipes import rehearse
from dat.engine import checkpoint
from dat.errors import DatError, UsageError
from dat.nn.mae import MaskedAutoencoder
from dat.recipe import read
from dat.recipe.parts import OnDisk
from dat.report.selfsupervised_page import gather
from dat.results import read_rows

ENCODER: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
RESNET = {"name": "small_resnet", "options": {"depth": 8, "width": 4}}


def write_pictures(folder: Path, count: int, *, classes: bool = True) -> Path:
    """Noise around a colour, which is the class."""
    numbers = np.random.default_rng(count)
    for index in range(count):
        label = index % 2
        noise = numbers.integers(0, 120, (32, 32, 3)) + np.array([(100, 0, 0), (0, 0, 100)])[label]
        place = folder / ("red", "blue")[label] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.astype(np.uint8)).save(place / f"{index:02}.png")
    return folder


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return {
        "kind": "selfsupervised",
        "title": "Two colours",
        "data": {
            "source": "folder",
            "train": str(write_pictures(tmp_path / "flat", 8, classes=False)),
            "labelled": str(write_pictures(tmp_path / "labelled", 10)),
            "test": str(write_pictures(tmp_path / "test", 12)),
            "size": 32,
            "augment": {"kind": "crop-flip", "padding": 1},
        },
        "task": {"kind": "mae"},
        "discretizer": {"load": "cifar-f2-1024-fast"},
        "model": {"name": "mae", "options": {**ENCODER, **DECODER}},
        "training": {"epochs": 2, "batch_size": 4, "lr": 1e-3, "optimizer": "adamw", "log_every": 1},
        "methods": {"standard": {}, "dat": {"alpha": 0.4}},
        "evaluation": {"k": 3, "c_per_class": 2, "c_severities": [3], "probe_iterations": 20},
        "out": str(tmp_path / "run"),
    }


def changed(values: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    """With keys of sections replaced; the methods, and what is no section, wholly."""
    merged = {
        key: {**values[key], **new} if isinstance(new, dict) and key in values and key != "methods" else new
        for key, new in sections.items()
    }
    return {**values, **merged}


def by_contrast(values: Mapping[str, Any], kind: str, **sections: Any) -> dict[str, Any]:
    augment = {"kind": "simclr"}
    of_kind = {"task": {"kind": kind, "projection": [8, 4]}, "model": RESNET, "data": {**values["data"], "augment": augment}}
    return {**changed(values, **sections), **of_kind}


def test_masked_autoencoders_from_a_flat_folder_to_a_page(values: dict[str, Any]) -> None:
    folder = dat.train(values, cpu=True)
    rows = read_rows(folder / "results.jsonl")
    found = {(row.method, row.suite, row.metric): row for row in rows}
    for method in ("standard", "dat"):
        for metric in ("knn", "probe"):
            assert found[method, "clean", metric].n == found[method, "fgsm", metric].n == 12
            cells = [row.value for row in rows if (row.method, row.metric) == (method, metric) and row.suite.startswith("c/")]
            assert len(cells) == 15
            assert found[method, "c", metric].value == pytest.approx(np.mean(cells))
            assert found[method, "c", metric].n == found[method, "clean-c", metric].n == 4
        assert found[method, "fgsm", "probe"].protocol["epsilon_255"] == 1
        assert found[method, "clean", "knn"].protocol["k"] == 3
        assert found[method, "clean", "knn"].protocol["bank"] == 10
    assert found["raw-pixels", "clean", "knn"].value == 100
    assert {(row.suite, row.metric) for row in rows if row.method == "raw-pixels"} >= {("c", "knn"), ("clean-c", "knn")}
    assert not any(row.metric == "probe" or row.suite == "fgsm" for row in rows if row.method == "raw-pixels")
    page = (folder / "report.md").read_text()
    assert "| Method | k-NN (1 \N{MULTIPLICATION SIGN} 12 images) | Probe" in page
    assert "Raw pixels: k-NN on the pictures themselves, without any network, gives 100.0 % on clean pictures" in page
    assert "No better than raw pixels on clean pictures, by k-NN: standard (" in page
    shown = gather(folder).galleries
    assert [gallery.title for gallery in shown][:2] == ["Pictures with hidden patches", "Nearest labelled pictures"]
    assert [len(gallery.rows) for gallery in shown] == [6, 6, 6]
    assert shown[0].headings == ("Original", "Masked", "Filled")
    assert len(shown[2].rows[0][0]) == len(shown[2].headings) == 4
    html = (folder / "report.html").read_text()
    assert html.count("<img src=") == 6 * (3 + 4 + 4)
    assert "<b>k-NN, corr.</b>" in html
    again = CliRunner().invoke(app, ["report", str(folder)])
    assert (again.exit_code, again.stdout) == (0, f"{folder / 'report.html'}\n")
    with pytest.raises(DatError, match=r"which trains no classifier .*, or tune its encoder .*model\.weights=.*standard-seed0"):
        dat.load_run(folder / "standard-seed0")


def test_what_is_judged_is_the_pictures_of_the_page(values: dict[str, Any]) -> None:
    """Hidden patches are grey in one picture and predicted in the next; what is seen is the same in all three."""
    folder = dat.train(changed(values, methods={"standard": {}}, discretizer=None, evaluation={"suites": ["clean"]}), cpu=True)
    with np.load(folder / "pictures.npz") as stored:
        arrays = dict(stored)
    hidden = (arrays["masked"] == 128).all(axis=-1)
    blocks = hidden.reshape(6, 4, 8, 4, 8)
    assert np.array_equal(blocks.all(axis=(2, 4)), blocks.any(axis=(2, 4)))
    assert blocks.all(axis=(2, 4)).sum(axis=(1, 2)).tolist() == [12] * 6
    assert np.array_equal(arrays["masked"][~hidden], arrays["original"][~hidden])
    assert np.abs(arrays["filled"][~hidden].astype(int) - arrays["original"][~hidden]).max() <= 1
    assert np.abs(arrays["attacked"].astype(int) - arrays["original"]).max() == 8
    assert arrays["neighbours"].shape == (6, 3, 32, 32, 3)
    assert set(arrays["neighbours_labels"].flat) <= {"red", "blue"}


def test_a_run_of_contrast_ends_the_same_however_often_it_begins(values: dict[str, Any], tmp_path: Path) -> None:
    """Stopped after the first epoch by a shorter recipe's checkpoint, the momentum encoder goes on where it was."""
    recipe = by_contrast(values, "moco-v3", methods={"dat": {"alpha": 0.4}}, evaluation={"suites": ["clean"]})
    whole = dat.train({**recipe, "training": {**recipe["training"], "save_minutes": 0.0}}, cpu=True)
    before = [(row.suite, row.metric, row.value) for row in read_rows(whole / "results.jsonl") if row.suite != "cost"]
    states = checkpoint.list_checkpoints(whole / "dat-seed0" / "checkpoints")
    last = checkpoint.load(states[-1]).tensors["model"]
    assert any(key.startswith("network.momentum.") for key in last)
    for its, own in (("momentum.1", "projector"), ("momentum.0.bn1", "backbone.bn1")):  # its batches are normalised, too
        layer = ".1" if own == "projector" else ""
        assert last[f"network.{its}{layer}.num_batches_tracked"] == last[f"network.{own}{layer}.num_batches_tracked"] > 0
        assert last[f"network.{its}{layer}.running_var"].ne(1).all()
    for file in states[-1].iterdir():
        file.unlink()
    states[-1].rmdir()
    again = dat.train({**recipe, "training": {**recipe["training"], "save_minutes": 0.0}}, resume=True, cpu=True)
    assert [(row.suite, row.metric, row.value) for row in read_rows(again / "results.jsonl") if row.suite != "cost"] == before
    resumed = checkpoint.load(checkpoint.list_checkpoints(whole / "dat-seed0" / "checkpoints")[-1]).tensors["model"]
    assert {*resumed} == {*last}
    assert all(torch.equal(resumed[key], last[key]) for key in last)


KILLED = """
import json, os, signal, sys
import dat
from dat.engine.loop import SupervisedLearner
from dat.studies import selfsupervised
places = {"step": (SupervisedLearner, "step", 7), "judging": (selfsupervised, "answers", 2)}
owner, name, count = places.get(sys.argv[2], (selfsupervised, "answers", 0))
whole, calls = getattr(owner, name), []
def counted(*arguments, **settings):
    calls.append(1)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **settings)
setattr(owner, name, counted)
dat.train(json.loads(sys.argv[1]), resume=sys.argv[2] in ("judging", "rest"), cpu=True)
"""
"""Trains a recipe until its seventh step, of the second method, or goes on until the attacked pictures are to be judged."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mae", "moco-v3"])
def test_a_run_that_is_killed_in_a_method_and_while_it_judges_ends_as_another(
    values: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    """All in processes of their own: where tests check shapes, the checks draw from Python's stream, and so change crops."""
    recipe = values if kind == "mae" else by_contrast(values, kind)
    recipe = changed(recipe, training={"save_minutes": 0.0}, evaluation={"suites": ["clean", "fgsm"], "k": 3})
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for place, out in {"whole": whole, "step": folder, "judging": folder, "rest": folder}.items():
        words = [sys.executable, "-c", KILLED, json.dumps({**recipe, "out": str(out)}), place]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == (-signal.SIGKILL if place in ("step", "judging") else 0), done.stderr
        assert (out / "results.jsonl").exists() == (place in ("whole", "rest"))
    found, expected = ([row for row in read_rows(run / "results.jsonl") if row.suite != "cost"] for run in (folder, whole))
    assert found == expected
    for label in ("standard", "dat"):
        last, other = (
            checkpoint.load(checkpoint.list_checkpoints(run / f"{label}-seed0" / "checkpoints")[-1]) for run in (folder, whole)
        )
        assert last.numbers["step"] == other.numbers["step"] == 4
        assert all(torch.equal(tensor, other.tensors["model"][key]) for key, tensor in last.tensors["model"].items())
        assert any(".momentum." in key for key in last.tensors["model"]) == (kind == "moco-v3")
    assert (folder / "pictures.npz").read_bytes() == (whole / "pictures.npz").read_bytes()


def test_test_pictures_that_the_weights_of_the_beginning_were_trained_on_are_told(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {**changed(values, evaluation={"suites": ["clean"]}), "methods": {"standard": {}}}
    weights = dat.train(bare, cpu=True) / "standard-seed0"
    left = tmp_path / "test" / "red" / "left.png"
    left.write_bytes((tmp_path / "flat" / "03.png").read_bytes())
    further = str(write_pictures(tmp_path / "further", 9, classes=False))
    begun = read.parse({**changed(bare, data={"train": further}, model={"weights": str(weights)}), "out": str(tmp_path / "on")})
    said = (
        f"1 of the 13 test pictures are among those that {weights}, which the model begins with, was trained on: {left} (in "
        f"its training {tmp_path}/flat/03.png); take them out of the test pictures"
    )
    assert any(note.startswith(said) for note in begun.open(OnDisk()).header.facts["data"]["notes"])
    assert capsys.readouterr().err.count(said) == 1
    shutil.rmtree(tmp_path / "flat")
    (note,) = begun.open(OnDisk()).header.facts["data"]["notes"]
    assert note.endswith(f"is not known: its training pictures, {tmp_path}/flat, are not there.")


def fine_tuning(values: Mapping[str, Any], model: Mapping[str, Any], weights: Path, out: Path) -> dict[str, Any]:
    data = {**values["data"], "train": values["data"]["labelled"]}
    return {
        "kind": "classification",
        "title": "Tuned",
        "data": {key: value for key, value in data.items() if key != "labelled"},
        "model": {**model, "weights": str(weights)},
        "training": {"epochs": 1, "batch_size": 4, "lr": 1e-3, "optimizer": "adamw"},
        "methods": {"standard": {}},
        "evaluation": {"suites": ["clean"]},
        "out": str(out),
    }


def test_an_encoder_is_tuned_further(values: dict[str, Any], tmp_path: Path) -> None:
    once: dict[str, Any] = {"methods": {"standard": {}}, "discretizer": None, "evaluation": {"suites": ["clean"]}}
    once["training"] = {"epochs": 1}
    masked = dat.train(changed(values, **once), cpu=True) / "standard-seed0"
    contrast = dat.train(by_contrast(values, "moco-v3", **once, out=str(tmp_path / "contrast")), cpu=True) / "standard-seed0"
    transformer = {"name": "vit_base_patch16_224", "options": {**ENCODER, "img_size": 32, "global_pool": "avg"}}
    for weights, model, prefix in ((masked, transformer, ""), (contrast, RESNET, "backbone.")):
        recipe = fine_tuning(values, model, weights, tmp_path / f"tuned-{weights.parent.name}")
        begun = read.parse(recipe).open(OnDisk()).model.untrained(0).network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]  # of a classification
        tensors = OnDisk().weights(str(weights))
        shared = [key for key in begun if not key.startswith(("head", "linear", "fc_norm")) and not key.endswith("tracked")]
        assert len(shared) > 10
        assert all(torch.equal(begun[key], tensors[f"network.{prefix}{key}"]) for key in shared)
        assert read_rows(dat.train(recipe, cpu=True) / "results.jsonl")
    other = {**transformer, "options": {**transformer["options"], "patch_size": 16}}
    said = rf"{masked} have patches of 8 pixels a side, and the recipe asks for 16; write model\.options\.patch_size=8, or"
    with pytest.raises(DatError, match=said) as caught:
        read.parse(fine_tuning(values, other, masked, tmp_path / "other")).open(OnDisk())
    assert "\n" not in str(caught.value)


def test_an_unfinished_training_is_told_where_its_weights_are_used(
    values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    once: dict[str, Any] = {"methods": {"standard": {}}, "discretizer": None, "evaluation": {"suites": ["clean"]}}
    model = dat.train(changed(values, **once, training={"save_minutes": 0.0}), cpu=True) / "standard-seed0"
    judge = ["eval", str(model), "--suites", "clean", "--cpu"]
    OnDisk().weights(str(model))
    assert "unfinished" not in capsys.readouterr().err + CliRunner().invoke(app, judge).stderr
    before, last = checkpoint.list_checkpoints(model / "checkpoints")
    shutil.rmtree(last)
    said = f"Note: {model} has come to step 3 of 4; its weights are of an unfinished training, which --resume completes."
    OnDisk().weights(str(model))
    assert capsys.readouterr().err.count(said) == 1
    OnDisk().weights(str(before))  # asked for by name
    assert said not in capsys.readouterr().err
    assert CliRunner().invoke(app, judge).stderr.count(said) == 1


@pytest.mark.parametrize("kind", ["mae", "simclr", "moco-v3"])
def test_a_recipe_is_rehearsed(values: dict[str, Any], kind: str) -> None:
    recipe = values if kind == "mae" else by_contrast(values, kind)
    rehearse(read.parse({**recipe, "model": {**recipe["model"], "weights": "nowhere.pth"}}))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "mask ratio 0": ({"task": {"mask_ratio": 0.0}}, r"mask_ratio"),
    "mask ratio 1": ({"task": {"mask_ratio": 1.0}}, r"mask_ratio"),
    "all but none": ({"task": {"mask_ratio": 0.99}}, r"mask_ratio is 0\.99 of 16 patches; write a share that hides some"),
    "patch": ({"model": {"name": "mae", "options": {**ENCODER, "patch_size": 5}}}, "5 does not divide pictures of 32"),
    "no patch": ({"model": {"name": "mae", "options": {**ENCODER, "patch_size": 0}}}, "patch_size is 0; write the side"),
    "odd heads": (
        {"model": {"name": "mae", "options": {**ENCODER, "num_heads": 5}}},
        "num_heads 5 does not divide embed_dim 24",
    ),
    "no heads": ({"model": {"name": "mae", "options": {**ENCODER, "num_heads": 0}}}, "num_heads is 0; write a whole number"),
    "option": ({"model": {"name": "mae", "options": {"patch": 4}}}, "Model 'mae' cannot be made with .*'patch'"),
    "name": ({"model": {"name": "resnet18", "options": {}}}, "model.name is 'resnet18'; for task mae write mae, mae_base"),
    "k": ({"evaluation": {"k": 11}}, "k is 11, but the bank has 10 pictures; write 10 or less"),
    "k 0": ({"evaluation": {"k": 0}}, r"evaluation\.k"),
    "temperature": ({"evaluation": {"temperature": 0.0}}, r"evaluation\.temperature"),
    "classes": ({"methods": {"debiased": {}}}, "debiased aims at a class of each image, and here an image has none"),
    "targeted": ({"methods": {"advprop": {}}}, "targeted aims at a class .*; write targeted: false"),
    "mixup": ({"training": {"mixup": 0.2}}, "mixup is about classes, and here an image has none; leave it out"),
    "discretizer": ({"discretizer": None}, "method dat needs a discretizer"),
    "batch": ({"training": {"batch_size": 9}}, "fewer than one batch of 9"),
    "folder": ({"data": {"train": "nowhere"}}, r"Cannot open the data folder nowhere \(there is no such folder\)"),
    "weights": ({"model": {"weights": "nowhere.safetensors"}}, "nowhere.safetensors"),
}
CONTRAST_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "batch of one": ({"training": {"batch_size": 1}}, "a contrastive loss finds an image among others, and batch_size 1 with"),
    "accumulated": ({"training": {"batch_size": 4, "accumulate": 4}}, "accumulate 4 shows one at a time"),
    "temperature 0": ({"task": {"kind": "simclr", "temperature": 0.0}}, r"temperature"),
    "temperature": ({"task": {"kind": "simclr", "temperature": -0.5}}, r"temperature"),
    "backbone": ({"model": {"name": "resnet19", "options": {}}}, "There is no model 'resnet19'; did you mean"),
    "mae": ({"model": {"name": "mae", "options": {}}}, "which task mae trains; here write"),
    "size": ({"model": {"name": "vit_tiny_patch16_224", "options": {}}}, "'vit_tiny_patch16_224' cannot be made with"),
    "no heads": (
        {"model": {"name": "vit_tiny_patch16_224", "options": {"num_heads": 0}}},
        "_224' cannot be made with .*by zero",
    ),
}


def refused(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(DatError, match=said) as caught:
        dat.train(recipe, cpu=True)
    assert len(str(caught.value).split("fault:\n")[-1].strip().splitlines()) == 1
    assert not Path(recipe["out"]).exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_is_said_in_a_sentence(values: dict[str, Any], fault: str) -> None:
    sections, said = FAULTS[fault]
    refused(changed(values, **sections), said)


@pytest.mark.parametrize("fault", CONTRAST_FAULTS)
def test_what_no_contrast_can_be_is_said_in_a_sentence(values: dict[str, Any], fault: str) -> None:
    sections, said = CONTRAST_FAULTS[fault]
    recipe = by_contrast(values, "simclr")
    refused({**recipe, **{key: {**recipe[key], **new} for key, new in sections.items()}}, said)


def test_a_flat_folder_needs_labelled_pictures_to_judge_by(values: dict[str, Any], tmp_path: Path) -> None:
    data = {key: value for key, value in values["data"].items() if key != "labelled"}
    refused({**values, "data": data}, r"no class folders in .* needed to judge .*; write data\.labelled=FOLDER")
    refused({**values, "data": {**data, "labelled": data["train"]}}, r"There are no class folders")
    (tmp_path / "one").mkdir()
    (tmp_path / "labelled" / "red").rename(tmp_path / "one" / "red")
    refused(
        {**values, "data": {**data, "labelled": str(tmp_path / "one"), "test": str(tmp_path / "one")}}, "has one class, red"
    )


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    ("resized", "said"), [("test", r"labelled/.* but .*test/"), ("labelled/red/00", "labelled/.* but .*"), ("flat/00", "00")]
)
def test_pictures_of_several_sizes_are_refused_before_anything_is_trained(
    values: dict[str, Any], tmp_path: Path, in_memory: bool, resized: str, said: str
) -> None:
    """At their own size, what is judged has the size of what it is judged by."""
    for path in [path for path in tmp_path.rglob("*.png") if str(path.relative_to(tmp_path)).startswith(resized)]:
        Image.open(path).resize((40, 40)).save(path)
    recipe = by_contrast(values, "simclr", discretizer=None, methods={"standard": {}})
    own = {**values["data"], "size": None, "in_memory": in_memory}
    refused({**recipe, "data": own}, rf"{said}.*; set data\.size, so that they fit one batch")
    if in_memory and resized != "test":
        refused({**recipe, "data": {**own, "size": 32}}, r"; read them from disk \(in a recipe data\.in_memory=false\)")
    else:
        read.parse({**recipe, "data": {**own, "size": 32}}).open(OnDisk())


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("of", ["test", "labelled"])
def test_a_broken_picture_to_judge_by_is_told_before_a_training(
    values: dict[str, Any], tmp_path: Path, in_memory: bool, of: str
) -> None:
    path = tmp_path / of / "blue" / "07.png"
    path.write_bytes(path.read_bytes()[:1500])  # its head is whole
    said = rf"^1 of {len([*(tmp_path / of).rglob('*.png')])} {of} pictures cannot be read:\n  " * (not in_memory)
    recipe = changed(values, data={"in_memory": in_memory}, methods={"standard": {}}, discretizer=None)
    with pytest.raises(DatError, match=rf"{said}.*{of}/blue/07\.png \(1500 bytes\).*; fetch it again, or take it out"):
        dat.train(recipe, cpu=True)
    assert not (tmp_path / "run").exists()


def test_labelled_pictures_among_the_test_pictures_are_counted_and_named(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "labelled" / "red" / "00.png"
    (tmp_path / "test" / "red" / "again.png").write_bytes(first.read_bytes())
    folder = dat.train(changed(values, methods={"standard": {}}, discretizer=None, evaluation={"suites": ["clean"]}), cpu=True)
    said = f"1 of the 13 test pictures are labelled pictures, too: {tmp_path}/test/red/again.png (in labelled {first})"
    assert capsys.readouterr().err.count(said) == 1
    assert said in (folder / "report.md").read_text()
    told = (
        CliRunner()
        .invoke(app, ["eval", str(folder), "--suites", "clean", "--data", f"odd={tmp_path / 'test'}", "--cpu"])
        .stderr
    )
    assert told.count("1 of the 13 test pictures of odd are labelled pictures, too") == 1
    (tmp_path / "flat" / "seen.png").write_bytes((tmp_path / "test" / "red" / "02.png").read_bytes())
    first.unlink()
    read.parse(values).open(OnDisk())
    assert "1 of the 13 test pictures are training pictures, too" in capsys.readouterr().err


def test_weights_of_another_patch_size_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(MaskedAutoencoder(img_size=32, **{**ENCODER, **DECODER, "patch_size": 16}).state_dict(), path)
    said = r"patches of 16 pixels a side, and the recipe asks for 8; write model\.options\.patch_size=16, or name weights"
    refused(changed(values, model={"weights": str(path)}), said)
    deeper = {**values["model"], "options": {**values["model"]["options"], "patch_size": 16, "depth": 2}, "weights": str(path)}
    refused({**values, "model": deeper}, r"12 missing \(blocks\.1\.")


@pytest.mark.parametrize("side", [8, 4])
def test_a_transformer_that_was_trained_by_contrast_is_tuned_with_its_own_patches(
    values: dict[str, Any], tmp_path: Path, side: int
) -> None:
    transformer = {"name": "vit_tiny_patch16_224", "options": {**ENCODER, "patch_size": side, "img_size": 32}}
    trained = by_contrast(values, "simclr", methods={"standard": {}}, discretizer=None, training={"epochs": 1})
    weights = tmp_path / "eight.safetensors"
    network = read.parse({**trained, "model": {**transformer, "options": {**transformer["options"], "patch_size": 8}}})
    save_file(network.open(OnDisk()).model.untrained(0).network.state_dict(), weights)  # pyright: ignore[reportAttributeAccessIssue]  # of a pre-training
    tuned = read.parse(fine_tuning(values, transformer, weights, tmp_path / "tuned"))
    again = read.parse({**trained, "model": {**transformer, "weights": str(weights)}})
    for recipe in (tuned, again):
        if side == 8:
            recipe.open(OnDisk())
            continue
        with pytest.raises(
            DatError, match=r"eight\.safetensors have patches of 8 pixels a side, and the recipe asks for 4; write"
        ):
            recipe.open(OnDisk())


def test_pictures_that_are_not_square_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    for path in [*tmp_path.glob("*/*.png"), *tmp_path.glob("*/*/*.png")]:
        Image.open(path).resize((32, 24)).save(path)
    with pytest.raises(UsageError, match=r"The pictures are 32 x 24 pixels; write data\.size"):
        read.parse(changed(values, data={"size": None})).open(OnDisk())
