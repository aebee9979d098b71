"""Detection, the whole way: from files to a page, stopped and continued, and what cannot be is refused first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands.check_recipes import rehearse
from dat.errors import DatError
from dat.recipe import read
from dat.recipe.detection import open_detector
from dat.recipe.parts import OnDisk
from dat.results import Row, read_rows

MINI = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}


def write_set(folder: Path, name: str, count: int, *, names: tuple[str, ...] = ("bright", "dark")) -> Path:
    """Grey pictures with one bright and sometimes one dark rectangle."""
    numbers = np.random.default_rng(len(name))
    (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(count):
        picture = Image.new("RGB", (72, 48), (120, 120, 120))
        for category in range(1 + index % 2):
            x, y = int(numbers.integers(2, 40)), int(numbers.integers(2, 24))
            shade = (250, 20)[category]
            ImageDraw.Draw(picture).rectangle((x, y, x + 19, y + 15), fill=(shade, shade, shade))
            annotations.append({"id": len(annotations), "image_id": index, "category_id": category + 1, "bbox": [x, y, 20, 16]})
        picture.save(folder / name / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 72, "height": 48})
    categories = [{"id": place + 1, "name": label} for place, label in enumerate(names)]
    path = folder / f"instances_{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return {
        "kind": "detection",
        "title": "Two kinds of rectangles",
        "data": {"train": str(write_set(tmp_path, "train", 8)), "test": str(write_set(tmp_path, "test", 4)), "size": [64, 96]},
        "discretizer": {"load": "photos-f4-1024-fast"},
        "model": {"name": "fcos", "backbone": "resnet18", "options": {"width": 64, "convs": 1, "backbone_options": MINI}},
        "training": {"epochs": 1, "batch_size": 4, "lr": 1e-3, "optimizer": "adamw", "log_every": 1},
        "methods": {"standard": {}, "dat": {"alpha": 1.0}},
        "seeds": [0],
        "evaluation": {"c_pictures": 2, "c_severities": [3]},
        "out": str(tmp_path / "run"),
    }


def changed(values: Mapping[str, Any], **sections: Any) -> dict[str, Any]:
    return {key: {**value, **sections[key]} if key in sections else value for key, value in values.items()}


def test_a_comparison_of_detectors_from_files_to_a_page(values: dict[str, Any]) -> None:
    folder = dat.train(values, cpu=True)
    rows = read_rows(folder / "results.jsonl")
    found = {(row.method, row.suite, row.metric): row for row in rows}
    for method in ("standard", "dat"):
        assert 0 <= found[method, "clean", "ap"].value <= 100
        assert found[method, "clean", "ap"].n == 4
        assert found[method, "fgsm", "ap50"].protocol["loss"] == "all"
        assert found[method, "c", "mpc"].n == found[method, "c/fog/3", "ap"].n == 2
        assert found[method, "c", "mpc"].protocol["cells"] == 15
        cells = [row.value for row in rows if row.method == method and row.suite.startswith("c/") and row.metric == "ap"]
        assert found[method, "c", "mpc"].value == pytest.approx(np.mean(cells))
        assert {row.metric for row in rows if row.metric.startswith("ap/")} <= {"ap/bright", "ap/dark"}
        assert json.loads((folder / "detections" / f"{method}-seed0.json").read_text()) is not None
        said_of_words(found, method)
    page = (folder / "report.md").read_text()
    assert "| Method | AP (1 \N{MULTIPLICATION SIGN} 4 images) | AP50" in page
    assert "ccuracy" not in page.split("## Where the numbers come from")[0]
    assert "Codes changed" in page
    assert "Loss at Q(x + delta)" in page
    shows_pictures(
        folder, ["clean", "reconstruction", "adversarial"], {"models": ["standard, seed 0", "dat, seed 0"], "alpha": 1.0}
    )
    assert "AP by class, in percent, on clean pictures." in (folder / "report.html").read_text()
    again = CliRunner().invoke(app, ["report", str(folder)])
    assert (again.exit_code, again.stdout) == (0, f"{folder / 'report.html'}\n")


def said_of_words(found: Mapping[tuple[str, str, str], Row], method: str) -> None:
    """On the pictures that are corrupted, in the loss of an image that adversaries climb."""
    rate, blind = found[method, "codes", "modified_code_rate"], found[method, "codes/random", "modified_code_rate"]
    assert 0 < rate.value < 100
    assert 0 < blind.value < 100
    losses = [found[method, f"words/{shown}", "loss"] for shown in ("adversarial", "random", "reconstruction")]
    for row in (rate, blind, *losses):
        assert row.n == 2
        assert {key: row.protocol[key] for key in ("alpha", "precision", "loss")} == {
            "alpha": 1.0,
            "precision": "fp32",
            "loss": "all",
        }
    above = found[method, "words/adversarial", "loss_above_random"]
    assert above.value == pytest.approx(losses[0].value - losses[1].value)
    assert above.ci is not None
    assert (method, "words/adversarial", "accuracy") not in found


def shows_pictures(folder: Path, views: list[str], facts: dict[str, Any]) -> None:
    with np.load(folder / "pictures.npz") as file:
        assert file["views"].tolist() == views
        assert file["shown"].shape == (len(facts["models"]), len(views), 3, 64, 96, 3)
        assert file["names"].tolist() == ["0.png", "2.png", "3.png"]  # at equal distances
    assert json.loads((folder / "run.json").read_text())["pictures"] == facts
    assert (folder / "report.html").read_text().count("<img ") == len(facts["models"]) * len(views) * 3


def test_without_a_discretizer_the_page_shows_the_attack_on_pixels(values: dict[str, Any]) -> None:
    at = {"epsilon": 0.01, "step_size": 0.01, "steps": 1}
    recipe = {**values, "discretizer": None, "methods": {"at": at, "standard": {}}, "evaluation": {"suites": ["fgsm"]}}
    folder = dat.train(recipe, cpu=True)
    shows_pictures(folder, ["clean", "fgsm"], {"models": ["standard, seed 0", "at, seed 0"], "fgsm_epsilon_255": 1.0})
    assert not any(row.suite.startswith(("codes", "words")) for row in read_rows(folder / "results.jsonl"))
    assert "adversary" not in json.loads((folder / "run.json").read_text())
    page = (folder / "report.html").read_text()
    assert "After FGSM" in page
    assert "Q(x" not in page


def test_an_adversary_that_may_be_none_is_named_on_the_page(values: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Of a step far too short for a code."""
    folder = dat.train({**values, "methods": {"dat": {"alpha": 1e-6}}, "evaluation": {"suites": ["clean"]}}, cpu=True)
    (said,) = json.loads((folder / "run.json").read_text())["adversary"]
    assert said.startswith("dat, seed 0: The adversary's loss is")
    assert f"Note: {said}" in capsys.readouterr().err
    assert said in (folder / "report.md").read_text()


def test_a_stopped_comparison_goes_on_and_ends_the_same(values: dict[str, Any], tmp_path: Path) -> None:
    def measured(folder: Path) -> list[tuple[str, str, str, float]]:
        rows: list[Row] = read_rows(folder / "results.jsonl")
        return [(row.method, row.suite, row.metric, row.value) for row in rows if row.suite != "cost"]

    whole = dat.train(changed(values, evaluation={"suites": ["clean"]}), cpu=True)
    (whole / "results.jsonl").rename(tmp_path / "before.jsonl")
    (whole / "pictures.npz").rename(tmp_path / "before.npz")
    for path in (whole / "dat-seed0" / "checkpoints").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    again = dat.train(changed(values, evaluation={"suites": ["clean"]}), resume=True, cpu=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "before.jsonl").rename(tmp_path / "other" / "results.jsonl")
    assert measured(again) == measured(tmp_path / "other")
    assert (again / "pictures.npz").read_bytes() == (tmp_path / "before.npz").read_bytes()


REFUSED = {
    "classes": ({"methods": {"debiased": {}}}, "debiased aims at a class of each image"),
    "aims": ({"methods": {"advprop": {}}}, "write targeted: false"),
    "pyramid": ({"methods": {"pyramid-at": {}}}, "write targeted: false"),
    "jsd": ({"methods": {"augmix": {}}}, "write jsd_weight: 0"),
    "mixup": ({"training": {"mixup": 0.2}}, "mixup and cutmix mix the classes of whole images"),
    "gradient": ({"climbed": "boxes", "methods": {"dat-free": {}}}, "write climbed: all"),
    "backbone": ({"model": {"backbone": "resnet5"}}, "There is no backbone 'resnet5'; did you mean"),
    "name": ({"model": {"name": "fco"}}, "There is no detector 'fco'; did you mean fcos"),
    "frame": ({"data": {"size": [4, 8]}}, "corruptions need 8"),
    "batch": ({"training": {"batch_size": 16}}, "8 pictures, fewer than one batch of 16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(case: str, values: dict[str, Any]) -> None:
    sections, said = REFUSED[case]
    merged = {key: {**values[key], **sections[key]} for key in ("training", "model", "data") if key in sections}
    given = {**values, **sections, **merged}
    with pytest.raises(DatError, match=said):
        dat.train(given, cpu=True)
    assert not Path(values["out"]).exists()


def test_test_pictures_need_the_categories_of_the_training(values: dict[str, Any], tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", "test", 2, names=("bright", "grey"))
    with pytest.raises(DatError, match=r"has grey, which training has not, and lacks dark|has grey.*lacks dark"):
        dat.train(changed(values, data={"test": str(other)}), cpu=True)


def test_corrupted_pictures_without_a_thing_are_refused(values: dict[str, Any]) -> None:
    path = Path(values["data"]["test"])
    record = json.loads(path.read_text())
    record["annotations"] = [one for one in record["annotations"] if one["image_id"] not in (0, 3)]
    path.write_text(json.dumps(record))
    with pytest.raises(DatError, match=r"in the 2 test pictures that are corrupted .* nothing to find but crowds"):
        dat.train(values, cpu=True)


def test_a_detector_of_a_run_begins_the_next_for_other_classes_too(values: dict[str, Any]) -> None:
    run = dat.train(changed(values, evaluation={"suites": ["clean"]}) | {"methods": {"standard": {}}}, cpu=True)
    section = read.parse(changed(values, model={"weights": str(run / "standard-seed0")})).model  # pyright: ignore[reportAttributeAccessIssue]  # of this kind
    same, other = (open_detector(section, OnDisk(), num_classes=count).untrained(1).state_dict() for count in (2, 5))
    body = [key for key in same if ".body." in key and same[key].is_floating_point()]
    assert body
    assert all(torch.equal(same[key], other[key]) for key in body)


@pytest.mark.slow  # that of the shipped recipe is rehearsed always
def test_a_detection_recipe_is_rehearsed(values: dict[str, Any]) -> None:
    at = {"epsilon": 0.01, "step_size": 0.01, "steps": 1}
    more = {
        "at": at,
        "advprop": {"targeted": False},
        "pyramid-at": {"targeted": False},
        "dat-free": {},
        "augmix": {"jsd_weight": 0.0},
    }
    more |= {name: {} for name in ("fast-advprop", "dat-official", "dat-codes", "deepaugment", "deepaugment-decoder")}
    rehearse(read.parse({**values, "methods": more}))
