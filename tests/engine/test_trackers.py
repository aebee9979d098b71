"""Trackers get every number of a run, and end none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dat
from dat.commands import train as command
from dat.engine import trackers
from dat.engine.run_folder import Run
from dat.engine.trackers import as_number, curves, flat, tracked
from dat.errors import UsageError
from dat.recipe import read
from dat.recipe.header import recipe_hash
from dat.report.on_trackers import name_of, pictures_of, show
from dat.results import Row
from dat.types import Place

accumulators = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra: pip install '.[trackers]'"
)

NONE = {"kind": "none"}


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe of four steps of standard training."""
    folder, numbers = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{index}.png")
    return {
        "kind": "classification",
        "title": "tiny",
        "data": {
            "source": "folder",
            "train": f"{folder}/train",
            "test": f"{folder}/test",
            "size": 8,
            "augment": {"kind": "none"},
        },
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 2, "batch_size": 4, "lr": 0.01, "log_every": 1},
        "methods": {"standard": {}},
        "evaluation": {"suites": ["clean"]},
    }


def events(folder: Path) -> Any:
    found = accumulators.EventAccumulator(str(folder))
    found.Reload()
    return found


@pytest.fixture(scope="module")
def run(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dat.train(values, out=tmp_path_factory.mktemp("tracked") / "run", cpu=True)


def test_tensorboard_shows_by_default_what_the_log_says(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "standard-seed0" / "log.jsonl").read_text().splitlines()]
    found = events(run / "tensorboard" / "standard-seed0")
    assert len(lines) == 4
    for name in ("loss", "lr", "images_per_s", "epoch"):
        scalars = found.Scalars(name)
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4]
        assert [scalar.value for scalar in scalars] == pytest.approx([line[name] for line in lines], rel=1e-6)
    text = found.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "```yaml\n" + (run / "recipe.yaml").read_text() + "```"


def test_the_results_are_there_as_numbers_and_as_the_page(run: Path) -> None:
    found = events(run / "tensorboard" / "results")
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if (row["suite"], row["metric"]) == ("clean", "accuracy")]
    (scalar,) = found.Scalars("clean/accuracy/standard-seed0")
    assert scalar.value == pytest.approx(row["value"])
    page = found.Tensors("report/text_summary")[0].tensor_proto.string_val[0].decode()
    assert page == (run / "report.md").read_text()


class Noted:
    """A tracker of any name that keeps what it is told, or raises at some call."""

    def __init__(self, fails: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> None:
            self.calls.append((name, (arguments, named)))
            if name == self.fails:
                raise OSError("the server is gone\nand more")

        return call

    def told(self, name: str) -> list[Any]:
        return [what for called, what in self.calls if called == name]


def use(monkeypatch: pytest.MonkeyPatch, name: str, tracker: Noted) -> Noted:
    monkeypatch.setattr(trackers, "is_installed", lambda package: package == name)
    monkeypatch.setitem(trackers.OPENERS, name, lambda folder, part, done: tracker)
    return tracker


@pytest.mark.parametrize("fails", ["start", "log", "log_table"])
def test_a_tracker_that_fails_says_so_once_and_ends_no_run(
    fails: str, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = use(monkeypatch, "wandb", Noted(fails))
    folder = dat.train({**values, "trackers": ["wandb"]}, out=tmp_path / "run", cpu=True)
    said = capsys.readouterr().err
    assert (folder / "report.html").is_file()
    assert said.count("Nothing more goes to wandb, which failed (OSError: the server is gone); the run goes on") == 1
    assert len(tracker.told(fails)) == 1, "it is asked no more"


def test_one_that_fails_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = use(monkeypatch, "wandb", Noted("log")), Noted()
    monkeypatch.setitem(trackers.OPENERS, "aim", lambda folder, part, done: good)
    monkeypatch.setattr(trackers, "is_installed", lambda package: True)
    with tracked(("wandb", "aim"), tmp_path, "", {}), curves(tmp_path, done=0) as track:
        track({"loss": 1.0}, 1)
        track({"loss": 2.0}, 2)
    assert len(bad.told("log")) == 1
    assert [named["step"] for _, named in good.told("log")] == [1, 2]
    assert len(good.told("finish")) == 1


def test_one_that_is_missing_is_said_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda package: False)
    with tracked(None, tmp_path, "", {}), curves(tmp_path, done=0) as track:
        track({"loss": 1.0}, 1)
    assert capsys.readouterr().err == ""
    with tracked(("mlflow",), tmp_path, "", {}), curves(tmp_path, done=0), curves(tmp_path / "other", done=0):
        pass
    said = "Note: Nothing goes to mlflow, whose package is not installed; write pip install mlflow, or trackers: [].\n"
    assert capsys.readouterr().err == said
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_every_sort_arrive(tmp_path: Path) -> None:
    told = {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(2.0), "d": np.array(1.5), "e": 7}
    others = {"f": None, "g": [1], "h": "text"}
    with tracked(None, tmp_path, "seed: 0\n", {}), curves(tmp_path / "dat-seed0", done=0) as track:
        track({**told, **others}, 1)
    found = events(tmp_path / "tensorboard" / "dat-seed0")
    seen = {name: found.Scalars(name)[0].value for name in found.Tags()["scalars"]}
    assert seen == {"a": 0.5, "b": 3, "c": 2, "d": 1.5, "e": 7}
    assert [as_number(value) for value in (True, np.bool_(True), np.zeros(2), torch.zeros(1, 1))] == [True, True, None, None]


def test_a_resumed_training_shows_each_step_once(tmp_path: Path) -> None:
    for done, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        with tracked(None, tmp_path, "", {}), curves(tmp_path / "dat-seed0", done=done) as track:
            for step in steps:
                track({"loss": 10.0 * done + step}, step)
    found = [(scalar.step, scalar.value) for scalar in events(tmp_path / "tensorboard" / "dat-seed0").Scalars("loss")]
    assert found == [(1, 1), (2, 2), (3, 23), (4, 24)]
    with tracked(None, tmp_path, "", {}), curves(tmp_path / "dat-seed0", done=0) as track:
        track({"loss": 5.0}, 1)
    assert [scalar.value for scalar in events(tmp_path / "tensorboard" / "dat-seed0").Scalars("loss")] == [5.0], "it began anew"


def test_a_recipe_becomes_single_values() -> None:
    recipe = {"seeds": [0, 1], "discretizer": None, "training": {"lr": 0.1, "betas": [0.9, 0.95], "sigmoid": False}}
    expected = {"seeds": "[0, 1]", "discretizer": "null", "training.lr": 0.1, "training.betas": "[0.9, 0.95]"}
    assert flat(recipe) == {**expected, "training.sigmoid": False}


def results(folder: Path) -> Path:
    """A folder with what a run of pictures ends with."""
    pictures = np.arange(20 * 4 * 4 * 3, dtype=np.uint8).reshape(20, 4, 4, 3)
    np.savez(
        folder / "pictures.npz", original=pictures, changed=np.zeros((20, 2, 2), bool), stack=pictures.reshape(2, 10, 4, 4, 3)
    )
    (folder / "report.md").write_text("# Title")
    (folder / "report.html").write_text("<h1>Title</h1>")
    return folder


def test_pictures_are_the_first_of_each_array(tmp_path: Path) -> None:
    found = pictures_of(results(tmp_path) / "pictures.npz")
    assert {name: array.shape for name, array in found.items()} == dict.fromkeys(["original", "stack"], (16, 4, 4, 3))
    with tracked(None, tmp_path, "", {}) as here:
        show(here, tmp_path)
    shown = events(tmp_path / "tensorboard" / "results")
    assert shown.Tags()["images"] == ["original", "stack"]
    (image,) = shown.Images("original")  # TensorBoard puts those of one array side by side
    (tmp_path / "all.png").write_bytes(image.encoded_image_string)
    seen = np.asarray(Image.open(tmp_path / "all.png"))
    assert seen.size == found["original"].size
    np.testing.assert_array_equal(seen[:4, :4], found["original"][0])


@pytest.mark.parametrize(
    ("name", "forms"),
    [("wandb", {"log_images": 1}), ("mlflow", {"log_artifact": 2}), ("aim", {"log_images": 1})],
)
def test_each_tracker_is_told_in_its_form(
    name: Any, forms: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = use(monkeypatch, name, Noted())
    with tracked((name,), results(tmp_path), "", {"seeds": [0]}) as here:
        show(here, tmp_path)
    assert capsys.readouterr().err == ""
    assert tracker.told("store_init_configuration") == [(({"seeds": "[0]"},), {})]
    assert {form: len(tracker.told(form)) for form in ("log_images", "log_artifact") if tracker.told(form)} == forms


def test_names_are_such_as_every_tracker_takes() -> None:
    row = Row("clean@art", "accuracy", 50.0, 4, None, 0, "dat + at", "0123")
    assert name_of(row) == "clean_art/accuracy/dat _ at-seed0"


def test_a_damaged_picture_file_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results(tmp_path) / "pictures.npz").write_bytes(b"no arrays")
    with tracked(None, tmp_path, "", {}) as here:
        show(here, tmp_path)
    assert "Nothing more goes to tensorboard" in capsys.readouterr().err


def test_another_process_than_the_main_one_tracks_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    for process in (0, 1):
        with command._tracked(read.parse(values), Run(tmp_path, Place(torch.device("cpu"), process, 2), True, {})) as found:
            assert (found is None) == (process == 1)


def test_trackers_are_no_part_of_what_was_trained(values: dict[str, Any]) -> None:
    recipe = read.parse(values)
    assert recipe_hash(recipe) == recipe_hash(read.parse({**values, "trackers": ["wandb", "aim"]}))
    with pytest.raises(UsageError, match="trackers"):
        read.parse({**values, "trackers": ["tensorbord"]})
