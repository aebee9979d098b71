"""The whole evaluation on small pictures whose class is written into them: rows, files, stops and resumes, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands import evaluate as assess
from dat.commands import subject
from dat.commands.evaluate import evaluate
from dat.commands.evaluation_plan import Plan, parse_settings, settings_of
from dat.commands.report import write_all
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.engine import run_folder
from dat.errors import DataError, DatError, RunFolderError, UsageError
from dat.evaluation import store
from dat.evaluation.cells import all_classes
from dat.evaluation.predict import Classifier, predict
from dat.evaluation.suites import Clean
from dat.nn.norm import Normalized
from dat.report.scorecard.page import write_scorecard
from dat.results import Row, read_rows, write_rows
from dat.types import Place

pytestmark = pytest.mark.usefixtures("all_undrawn")

CLASSES = ("ant", "bee", "cow", "dog")
PER_CLASS = 6


class Reader(nn.Module):
    """Reads the class that is written into a picture as its brightness, with a gradient; never draws, never trains."""

    def forward(self, images: Tensor) -> Tensor:
        written = images.mean(dim=(1, 2, 3))[:, None] * 4 - 0.5
        return -((written - torch.arange(4)) ** 2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 grainy pictures of 16 pixels; in the first of each class another class is written."""
    numbers = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(PER_CLASS):
            level = (label + (number == 0)) % 4
            grain = numbers.integers(-9, 10, (16, 16, 3))
            Image.fromarray((32 + 64 * level + grain).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def rows_by_suite(rows: list[Row]) -> dict[tuple[str, str], Row]:
    return {(row.suite, row.metric): row for row in rows}


SETTINGS: dict[str, Any] = {"severities": [1, 5], "corruptions": ["brightness", "gaussian_noise"], "batch_size": 5}
ARGUMENTS: dict[str, Any] = {
    "suites": ["clean", "fgsm", "c-generated"],
    "classes": CLASSES,
    "size": 16,
    "cpu": True,
    **SETTINGS,
}
CELLS = 2 + 2 * 2
BESIDE = 2
"""Rows beside a clean accuracy."""


def test_rows_say_what_was_measured_and_how(photos: Path) -> None:
    rows = rows_by_suite(evaluate(Reader(), data=photos, **ARGUMENTS))
    clean = rows["clean", "accuracy"]
    assert clean.value == pytest.approx(100 * 20 / 24)
    assert clean.n == 24
    assert clean.ci is not None
    assert clean.ci[0] < clean.value < clean.ci[1]
    assert clean.protocol["resize"] == 18
    assert clean.protocol["width"] == 16
    assert len(clean.checkpoint) == 64
    assert rows["fgsm", "accuracy"].protocol["epsilon_255"] == 1
    cell = rows["c-generated/gaussian_noise/5", "accuracy"]
    assert cell.protocol["generated"] is True
    assert cell.protocol["corruption_parameters"] == "cifar-10-c"
    means = [row.value for (suite, _), row in rows.items() if suite.startswith("c-generated/")]
    assert rows["c-generated", "accuracy"].value == pytest.approx(np.mean(means))
    assert ("c-generated", "mce") not in rows
    assert rows["c-generated/brightness/5", "accuracy"].value < 50  # it reads brightness


def test_whose_severities_are_meant_can_be_named(photos: Path) -> None:
    rows = rows_by_suite(evaluate(Reader(), data=photos, **{**ARGUMENTS, "size": 48}))
    assert rows["c-generated/brightness/5", "accuracy"].protocol["corruption_parameters"] == "tiny-imagenet-c"
    named = rows_by_suite(evaluate(Reader(), data=photos, **{**ARGUMENTS, "size": 48, "c_parameters": "imagenet-c"}))
    assert named["c-generated/brightness/5", "accuracy"].protocol["corruption_parameters"] == "imagenet-c"


def test_a_library_call_leaves_model_and_streams_as_they_were(photos: Path) -> None:
    model = nn.Sequential(Reader(), nn.Dropout(0.5)).train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    dat.evaluate(model, data=photos, **ARGUMENTS)
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())


def files(folder: Path) -> dict[str, bytes]:
    kept = [*folder.glob("predictions/*"), *folder.glob("pictures/*"), folder / "results.jsonl"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


@pytest.mark.parametrize("stopped_at", [0, 2, CELLS - 1])
def test_killed_in_any_cell_it_repeats_only_that_one_and_ends_with_the_same_bytes(
    photos: Path, tmp_path: Path, stopped_at: int
) -> None:
    evaluate(Reader(), data=photos, out=tmp_path / "whole", **ARGUMENTS)
    with patch.object(assess, "predict", dying(stopped_at)), pytest.raises(KeyboardInterrupt):
        evaluate(Reader(), data=photos, out=tmp_path / "killed", **ARGUMENTS)
    assert len([*(tmp_path / "killed").glob("predictions/*")]) == stopped_at
    with patch.object(assess, "predict", side_effect=predict) as resumed:
        evaluate(Reader(), data=photos, out=tmp_path / "killed", **ARGUMENTS)
    assert resumed.call_count == CELLS - stopped_at
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def dying(number: int) -> Callable[..., object]:
    """`predict` that is killed in the middle of its call of that number."""
    calls = iter(range(CELLS))

    def predict_or_die(classifiers, cell, shelf, *, advance):
        if next(calls) < number:
            return predict(classifiers, cell, shelf, advance=advance)

        def die(count: int) -> None:
            raise KeyboardInterrupt

        return predict(classifiers, cell, shelf, advance=die)

    return predict_or_die


@pytest.mark.parametrize("change", ["weights", "pictures", "epsilon", "damage"])
def test_what_is_kept_counts_only_for_the_same_weights_pictures_and_protocol(photos: Path, tmp_path: Path, change: str) -> None:
    class Weighted(Reader):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * self.scale

    arguments = {**ARGUMENTS, "suites": ["clean", "fgsm"], "data": photos, "out": tmp_path / "out"}
    evaluate(Weighted(1.0), **arguments)
    if change == "pictures":
        (photos / "ant" / "5.png").unlink()
    if change == "damage":
        path = store.path_of(tmp_path / "out", "clean")
        path.write_bytes(path.read_bytes()[:100])
    scale = 2.0 if change == "weights" else 1.0
    epsilon: dict[str, Any] = {"fgsm_epsilon_255": 2} if change == "epsilon" else {}
    with patch.object(assess, "predict", side_effect=predict) as again:
        evaluate(Weighted(scale), **arguments, **epsilon)
    assert [call.args[1].name for call in again.call_args_list] == {
        "weights": ["clean", "fgsm"],
        "pictures": ["clean", "fgsm"],
        "epsilon": ["fgsm"],
        "damage": ["clean"],
    }[change]


def test_a_broken_picture_is_named_and_nothing_is_lost(photos: Path, tmp_path: Path) -> None:
    (photos / "bee" / "3.png").write_bytes(b"no picture")
    arguments = {**ARGUMENTS, "data": photos, "out": tmp_path / "out", "suites": ["clean", "fgsm"]}
    with pytest.raises(DataError, match=r"1 of 24 pictures of clean cannot be read.*--allow-bad 1.*\n.*bee/3.png"):
        evaluate(Reader(), **arguments)
    with patch.object(assess, "predict", side_effect=predict) as again:
        rows = rows_by_suite(evaluate(Reader(), **arguments, allow_bad=1))
    assert again.call_count == 1
    assert rows["clean", "accuracy"].n == 23
    assert rows["clean", "accuracy"].protocol["bad"] == 1


def test_a_second_call_for_other_suites_keeps_the_rows_of_the_first(photos: Path, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "data": photos, "out": tmp_path / "out"}
    evaluate(Reader(), **{**arguments, "suites": ["clean", "fgsm"]})
    evaluate(Reader(), **{**arguments, "suites": ["pgd", "fgsm"], "fgsm_epsilon_255": 2})
    rows = rows_by_suite(read_rows(tmp_path / "out" / "results.jsonl"))
    beside = {("clean", "accuracy_macro"), ("clean", "ece")}
    assert {*rows} == {("clean", "accuracy"), *beside, ("fgsm", "accuracy"), ("pgd", "accuracy")}
    assert rows["fgsm", "accuracy"].protocol["epsilon_255"] == 2


def test_rows_of_two_sets_stay_and_say_which(photos: Path, tmp_path: Path) -> None:
    sets = {name: tmp_path / name / "val" for name in ("art", "sketch")}
    for name, place in sets.items():
        shutil.copytree(photos, place)
        for path in place.glob(f"{CLASSES[len(name) % 4]}/[3-5].png"):
            path.unlink()
    arguments = {**ARGUMENTS, "out": tmp_path / "out"}
    for place in sets.values():
        evaluate(Reader(), **arguments, data=place)
    rows = [row for row in read_rows(tmp_path / "out" / "results.jsonl") if (row.suite, row.metric) == ("clean", "accuracy")]
    assert [row.protocol["set"] for row in rows] == ["art-val", "sketch-val"]
    assert len({row.protocol["data"] for row in rows}) == 2
    text, page = write_all([tmp_path / "out"])
    assert "Clean (art-val)" in text
    assert "C accuracy (sketch-val)" in text
    assert "severity-c-generated@art-val" in page.read_text()
    with patch.object(assess, "predict", side_effect=AssertionError):  # what was said of each is still there
        evaluate(Reader(), **arguments, data=sets["art"])
    assert len(read_rows(tmp_path / "out" / "results.jsonl")) == 2 * (CELLS + 1 + BESIDE)


def test_what_is_kept_from_before_sets_were_named_is_used_and_replaced(photos: Path, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "suites": ["clean"], "data": photos, "out": tmp_path / "out"}
    row, *beside = evaluate(Reader(), **arguments)
    assert [(one.suite, one.metric) for one in beside] == [("clean", "accuracy_macro"), ("clean", "ece")]
    path = store.path_of(tmp_path / "out", "clean")
    with np.load(path) as kept:
        arrays = dict(kept)
    arrays["protocol"] = np.array(json.dumps({key: value for key, value in row.protocol.items() if key != "set"}))
    np.savez_compressed(path, **arrays)
    old = replace(row, protocol={key: value for key, value in row.protocol.items() if key != "set"})
    write_rows(tmp_path / "out" / "results.jsonl", [old])
    assert "Clean" in write_all([tmp_path / "out"])[0]
    with patch.object(assess, "predict", side_effect=AssertionError):
        evaluate(Reader(), **arguments)
    assert read_rows(tmp_path / "out" / "results.jsonl") == [row, *beside]


def test_other_pictures_under_the_name_of_a_set_are_spoken_of(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {**ARGUMENTS, "suites": ["clean"], "data": photos, "out": tmp_path / "out"}
    evaluate(Reader(), **arguments)
    (photos / "ant" / "5.png").unlink()
    capsys.readouterr()
    evaluate(Reader(), **arguments)
    assert "The pictures of clean in photos are others than those of the stored rows" in capsys.readouterr().err
    assert [row.n for row in read_rows(tmp_path / "out" / "results.jsonl")] == [23] * (1 + BESIDE)


@pytest.mark.parametrize("listed", [False, True])
def test_pictures_of_fewer_classes_than_the_models_are_refused(photos: Path, listed: bool) -> None:
    for name in ("bee", "dog"):
        shutil.rmtree(photos / name)
    if listed:
        lines = [f"{path.relative_to(photos)},{path.parent.name}\n" for path in sorted(photos.glob("*/*.png"))]
        (photos / "labels.csv").write_text("path,class\n" + "".join(lines))
    with pytest.raises(DataError, match=r"photos has pictures of 2 of the model's 4 classes, none of bee, dog; name a folder"):
        evaluate(Reader(), data=photos, **ARGUMENTS)


def test_a_model_with_other_outputs_than_classes_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="gives 4 logits, but 5 classes are named"):
        evaluate(Reader(), data=photos, **{**ARGUMENTS, "classes": (*CLASSES, "emu")})


def test_a_defect_stops_the_evaluation_before_the_first_number(photos: Path, tmp_path: Path) -> None:
    shifted = nn.Sequential(Reader(), nn.Softmax(dim=1))
    arguments = {**ARGUMENTS, "data": photos, "out": tmp_path / "out"}
    with pytest.raises(UsageError, match="probabilities"):
        evaluate(shifted, **arguments)
    assert [*(tmp_path / "out").glob("predictions/*")] == []
    assert evaluate(shifted, **arguments, self_test=False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"suites": ["claen"]}, "claen"),
        ({"suites": []}, "No suite is named"),
        ({"suites": ["a"]}, "1000 classes but the model has 4"),
        ({"classes": ("ant", "bee", "cow", "emu")}, "dog"),
        ({"data": "nowhere"}, "nowhere"),
        ({"fgsm_epsilon": 4}, "fgsm_epsilon_255"),
        ({"corruptions": ["fogg"]}, "fog"),
        ({"severities": [6]}, "1, 2, 3, 4 or 5"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_sentence(photos: Path, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatError, match=sentence):
        evaluate(Reader(), **{"data": photos, **ARGUMENTS, **change})


def test_settings_are_read_strictly() -> None:
    assert settings_of(["fgsm_epsilon_255=4", "precision=bf16"]) == parse_settings(
        {"fgsm_epsilon_255": 4.0, "precision": "bf16"}
    )
    with pytest.raises(UsageError, match=r"seed.*\n.*precision"):
        settings_of(["precision=half", "seed=-1"])


def test_a_folder_in_use_is_not_written_to(photos: Path, tmp_path: Path) -> None:
    with run_folder.locked(tmp_path / "out", elsewhere=""), pytest.raises(RunFolderError, match="in use by process"):
        evaluate(Reader(), data=photos, out=tmp_path / "out", **ARGUMENTS)


def test_fewer_pictures_for_corruptions_are_spread_over_the_set(photos: Path, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "data": photos, "out": tmp_path / "out"}
    for count in (6, 8):  # the second is not taken for the first
        rows = rows_by_suite(evaluate(Reader(), **arguments, c_pictures=count))
    assert rows["clean", "accuracy"].n == 24
    corrupted, same = rows["c-generated/brightness/1", "accuracy"], rows["clean-c-generated", "accuracy"]
    assert (corrupted.n, same.n) == (8, 8)
    assert same.protocol["data"] == corrupted.protocol["data"] != rows["clean", "accuracy"].protocol["data"]
    assert len([*(tmp_path / "out" / "pictures").iterdir()]) == 3
    page, _ = write_scorecard([tmp_path / "out"])
    assert re.search(r"Clean, the corrupted pictures \(n 8\)", page)
    rows = rows_by_suite(evaluate(Reader(), **{**arguments, "out": None}))
    assert ("clean-c-generated", "accuracy") not in rows


def test_given_frost_is_named_by_its_hash_and_made_frost_as_made(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "frost").mkdir()
    for number in range(1, 7):
        texture = np.random.default_rng(number).integers(0, 256, (300, 300, 3)).astype(np.uint8)
        Image.fromarray(texture).save(tmp_path / "frost" / f"frost{number}.png")
    arguments = {**ARGUMENTS, "data": photos, "suites": ["c-generated"], "corruptions": ["frost"], "severities": [1]}
    made, *_ = evaluate(Reader(), **arguments)
    given, *_ = evaluate(Reader(), **{**arguments, "frost": str(tmp_path / "frost"), "out": tmp_path / "out"})
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["settings"]["frost"] == "frost"
    assert made.protocol["frost_textures"] == "procedural"
    assert (given.protocol["frost_textures"], len(str(given.protocol["frost_sha256"]))) == ("given", 12)
    with pytest.raises(UsageError, match=r"Severity is 9"):
        evaluate(Reader(), **{**arguments, "severities": [9]})


def test_the_model_of_a_run_is_tested_on_the_pictures_of_its_recipe(tmp_path: Path) -> None:
    values = {
        "kind": "classification",
        "title": "tiny",
        "out": str(tmp_path / "run"),
        "data": {"source": "digits", "size": 8, "augment": {"kind": "none"}},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 1, "batch_size": 449, "lr": 0.01},
        "methods": {"standard": {}},
        "evaluation": {"suites": ["clean"]},
    }
    dat.train(values, cpu=True)
    (trained,) = read_rows(tmp_path / "run" / "results.jsonl")[:1]
    model = str(tmp_path / "run" / "standard-seed0")
    done = CliRunner().invoke(app, ["eval", model, "--suites", "clean,pgd", "--cpu", "--json"])
    assert done.exit_code == 0, done.output
    clean, attacked, *beside = (json.loads(line) for line in done.stdout.splitlines())
    of_run = {row.metric: row for row in read_rows(tmp_path / "run" / "results.jsonl") if row.suite == "clean"}
    assert {row["metric"]: row["value"] for row in beside} == {
        metric: pytest.approx(of_run[metric].value, abs=1e-3) for metric in ("accuracy_macro", "ece")
    }
    assert clean["value"] == trained.value
    assert clean["recipe_hash"] == trained.recipe_hash
    assert attacked["value"] <= clean["value"]
    assert (tmp_path / "run" / "standard-seed0" / "evaluation" / "report.md").is_file()


def replaced(path: Path, by: Path) -> None:
    """Another picture of the same size in bytes and of the same age."""
    status, content = path.stat(), by.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_pictures_replaced_in_place_are_evaluated_again(photos: Path, tmp_path: Path) -> None:
    for picture in photos.rglob("*.png"):
        with Image.open(picture) as opened:
            opened.save(picture.with_suffix(".bmp"))
        picture.unlink()
    arguments = {**ARGUMENTS, "suites": ["clean"], "data": photos, "out": tmp_path / "out", "self_test": False}
    before, *_ = evaluate(Reader(), **arguments)
    for number in range(PER_CLASS):
        replaced(photos / "ant" / f"{number}.bmp", photos / "dog" / "1.bmp")
    after, *_ = evaluate(Reader(), **arguments)
    assert (before.value, after.value) == (pytest.approx(100 * 20 / 24), pytest.approx(100 * 15 / 24))
    assert before.protocol["data"] != after.protocol["data"]


def test_the_pictures_of_a_cell_are_looked_at_when_its_turn_comes(photos: Path, tmp_path: Path) -> None:
    looked: list[str] = []
    fingerprint = ImageFolder.fingerprint

    def fingerprint_and_tell(source: ImageFolder) -> str:
        looked.append(f"look at {len(source)}")
        return fingerprint(source)

    def predict_and_tell(classifiers: Any, cell: Any, *others: Any, **more: Any) -> Any:
        looked.append(cell.name)
        return predict(classifiers, cell, *others, **more)

    tested = subject.Tested("reader", Reader(), CenterCrop(16), classes=CLASSES)
    plan, cells = Plan(tested, photos, parse_settings({}), 4), []
    for number in (1, 2, 3):
        dataset = ImageDataset(ImageFolder(photos, per_class=number), CenterCrop(16), seed=0)
        cells.append(plan._cell(f"c/fog/{number}", dataset, Clean(), (all_classes(4),)))
    with patch.object(ImageFolder, "fingerprint", fingerprint_and_tell), patch.object(assess, "predict", predict_and_tell):
        job = assess.Evaluating(plan, "0", Place(torch.device("cpu")), tmp_path / "out")
        job.predictions(cells, Classifier(tested.model, torch.device("cpu")), allow_bad=0)
    assert looked == ["look at 4", "c/fog/1", "look at 8", "c/fog/2", "look at 12", "c/fog/3"]


class Brighter(nn.Module):
    """Sees everything brighter than it is, as a model with a wrong normalisation does; the code of `forward` may change."""

    by = 0.25

    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader()

    def forward(self, images: Tensor) -> Tensor:
        return self.reader(images + self.by)


def test_changed_code_is_another_model_and_its_old_rows_go(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {**ARGUMENTS, "data": photos, "out": tmp_path / "out", "self_test": False}
    before = rows_by_suite(evaluate(Brighter(), **{**arguments, "suites": ["clean", "fgsm"]}))
    assert "rows of another model" not in capsys.readouterr().err
    monkeypatch.setattr(Brighter, "by", 0.0)
    after, *beside = evaluate(Brighter(), **{**arguments, "suites": ["clean"]})
    assert before["clean", "accuracy"].value < 50
    assert after.value == pytest.approx(100 * 20 / 24)
    assert after.checkpoint != before["clean", "accuracy"].checkpoint
    assert read_rows(tmp_path / "out" / "results.jsonl") == [after, *beside]
    assert "4 rows of another model" in capsys.readouterr().err
    monkeypatch.setattr(Brighter, "by", 0.25)  # back to what it was: known again
    assert evaluate(Brighter(), **{**arguments, "suites": ["clean"]})[0] == before["clean", "accuracy"]


def test_a_corrected_normalisation_is_another_model(photos: Path, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "suites": ["clean"], "data": photos, "out": tmp_path / "out", "self_test": False}
    models = [Normalized(Reader(), mean=(shift,) * 3, std=(1.0,) * 3) for shift in (-0.25, 0.0)]
    values = [evaluate(model, **arguments)[0].value for model in models]
    assert values[0] < 50
    assert values[1] == pytest.approx(100 * 20 / 24)


def test_without_the_answers_of_its_model_a_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "suites": ["clean"], "data": photos, "out": tmp_path / "out"}
    evaluate(Reader(), **arguments)
    path = tmp_path / "out" / "answers.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"answers\.npz is damaged"):
        evaluate(Reader(), **arguments)


def test_what_was_altered_in_an_evaluation_stands_on_its_page(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    evaluate(Reader(), **{**ARGUMENTS, "suites": ["clean", "fgsm"], "data": photos, "out": out})
    write_all([out])
    assert "Not as it was written" not in (out / "report.md").read_text() + (out / "report.html").read_text()
    rows = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(rows.replace('"value": 83.3', '"value": 93.3'))
    store.path_of(out, "fgsm").unlink()
    write_all([out])
    for text in ((out / "report.md").read_text(), (out / "report.html").read_text(), capsys.readouterr().err):
        assert "out/results.jsonl was changed or damaged after it was written" in text
        assert "out/predictions/fgsm.npz was written, but is not there any more" in text
    (out / "evaluation.json").write_text("{}")
    write_all([out])
    assert "out/evaluation.json says nothing of what was run" in (out / "report.md").read_text()
