"""`dat reproduce`: which runs it finds, trains, continues and refuses, and what it makes of them."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dat.cli import app
from dat.commands import reproduce as reproduction
from dat.commands import train
from dat.commands.pace import plain_step_s
from dat.commands.reproduce import Reproduction, as_needs, open_reproduction
from dat.engine import run_folder
from dat.errors import DataError, RunFolderError, UsageError
from dat.progress import Bar, followed_by
from dat.recipe import table_plan
from dat.recipe.header import recipe_hash
from dat.results import Row, read_rows, write_rows
from tests.report.synthetic_run import row

pytestmark = pytest.mark.usefixtures("all_undrawn")

RECIPE = """# dat train it
base: demo
training: {epochs: 1}
methods: {%s}
seeds: [0, 1, 2]
"""
PLAN = """title: "Table 8: in small"
baseline: alpha-0
rows:
  alpha-0: {title: "Adv., alpha 0", recipe: imagenet/table8/alpha-0, gpu_hours: 354, codes: 0}
  random: {title: Random, recipe: imagenet/table8/random, gpu_hours: 178, codes: 3.8}
  alpha-0.4: {title: "Adv., alpha 0.4", recipe: imagenet/table8/alpha-0.4, gpu_hours: 354, codes: 13}
scales:
  demo:
    runs: {%s: 1200, %s: 2400}
    note: Invented.
"""
GAIN = {"alpha-0": 0.0, "random": 3.0, "alpha-0.4": 10.0}
CODES = {"alpha-0": 0.0, "random": 3.8, "alpha-0.4": 12.0}


class Trained:
    """Trainings that invent their results, and remember how they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool, tuple[str, ...]]] = []
        self.following: list[float | None] = []

    def __call__(self, name: str, overrides: Any, *, out: Path, resume: bool, cpu: bool) -> Path:
        self.asked.append((out.name, resume, tuple(overrides)))
        self.following.append(Bar("", 1, shown=False).following)
        finish(out, table_plan.classification(name, overrides))
        return out


def finish(folder: Path, recipe: Any, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    begin(folder, recipe)
    rows = list[Row]()
    for label in recipe.methods:
        gain = next((GAIN[key] for key in GAIN if key == label), 10.0)
        for seed in seeds:
            rows.append(row("clean", 97 - gain / 10 + seed / 10, method=label, seed=seed))
            rows.append(row("fgsm", 40 + gain + seed * (1 + gain / 20), method=label, seed=seed))
            rows.append(row("codes", 55.0, method=label, seed=seed))
    write_rows(
        folder / "results.jsonl", [*rows, row("clean", 76.5, method=next(iter(recipe.methods)), seed=None, source="paper")]
    )


def begin(folder: Path, recipe: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"recipe_hash": recipe_hash(recipe), "seconds": {"train": 250.0, "evaluate": 50.4}, "machine": "an abacus"}
    (folder / "run.json").write_text(json.dumps(facts))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """A plan with two runs, whose trainings are invented."""
    methods = {"first": "alpha-0: {method: dat, alpha: 0.0}, random: {method: random-codes, rate: 0.038}"}
    methods["second"] = "alpha-0.4: {method: dat, alpha: 0.4}"
    for name, section in methods.items():
        (tmp_path / f"{name}.yaml").write_text(RECIPE % section)
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "_table8.yaml").write_text(PLAN % (tmp_path / "first.yaml", tmp_path / "second.yaml"))
    monkeypatch.setattr(table_plan, "PLANS", tmp_path / "plans")
    fake = Trained()
    monkeypatch.setattr(train, "train", fake)
    monkeypatch.setattr(reproduction, "plain_step_s", lambda recipe, device: 0.1)
    monkeypatch.setattr(reproduction, "_rate", lambda run, job, out, bar, *, cpu: CODES[run.rows[job.label]])
    return fake


def opened(tmp_path: Path, *overrides: str, scale: str = "demo") -> Reproduction:
    return open_reproduction("table8", overrides, scale=scale, out=tmp_path / "out")


def test_what_is_missing_is_trained_and_what_was_begun_goes_on(trained: Trained, tmp_path: Path) -> None:
    found = opened(tmp_path)
    assert [run.state for run in found.runs] == ["missing", "missing"]
    begin(tmp_path / "out" / "first", found.runs[0].recipe)
    assert [run.state for run in found.runs] == ["begun", "missing"]
    listing = found.listing()
    assert "about 2 minutes (estimated)" in listing
    assert "about 4 minutes (estimated)" in listing
    assert f"{tmp_path}/first.yaml takes as long as 1,200 plain training steps of its network" in listing
    assert "and one takes 100 ms here, timed just now" in listing
    assert "scaled to" not in listing
    assert f"accelerate launch -m dat train {tmp_path}/first.yaml out={tmp_path}/out/first --resume" in listing
    found.carry_out(cpu=True)
    assert trained.asked == [("first", True, ()), ("second", False, ())]
    assert trained.following == [240, 0], "the minutes of the second run follow the first"
    again = opened(tmp_path)
    again.carry_out(cpu=True)
    assert len(trained.asked) == 2
    assert "can be started alone" not in again.listing()
    assert again.listing().count("5 minutes (measured on an abacus)") == 2
    assert "estimated" not in again.listing().lower()


def test_what_is_estimated_follows_the_seeds_methods_and_epochs(trained: Trained, tmp_path: Path) -> None:
    found = opened(tmp_path, "seeds=[0]", "training.epochs=5")
    assert [run.seconds for run in found.runs] == pytest.approx([120 * 5 / 3, 240 * 5 / 3])
    assert "scaled to the seeds, methods and epochs that were written here" in found.listing()
    assert "scaled" not in opened(tmp_path, "evaluation.suites=[clean]").listing()
    found.carry_out(cpu=True)
    assert trained.following[0] == pytest.approx(400)


@pytest.mark.usefixtures("trained")
def test_what_was_not_measured_is_not_guessed(tmp_path: Path) -> None:
    plan = tmp_path / "plans" / "_table8.yaml"
    plan.write_text(plan.read_text().replace(": 1200", ": null"))
    listing = opened(tmp_path).listing()
    assert re.search(r"first\.yaml +not measured", listing)
    assert "about 4 minutes (estimated)" in listing
    assert "first.yaml takes as long" not in listing
    assert opened(tmp_path).runs[0].seconds == 0


def test_a_plain_step_is_timed_by_the_clock() -> None:
    ticks = itertools.count(0.0, 3.0)
    taken = plain_step_s(table_plan.classification("demo"), torch.device("cpu"), lambda: next(ticks))
    assert taken == 3
    assert 1e-5 < plain_step_s(table_plan.classification("demo"), torch.device("cpu")) < 60


def test_the_table_is_made_of_all_runs(trained: Trained, tmp_path: Path) -> None:
    command = ["reproduce", "table8", "--out", str(tmp_path / "out"), "--cpu"]
    printed = CliRunner().invoke(app, command, catch_exceptions=False)
    assert printed.exit_code == 0
    assert "is for orientation" in printed.stdout
    assert "Invented." in printed.stdout
    lines = {(line["row"], line["measure"]): line for line in sheet_of(tmp_path)}
    assert set(lines) == {(key, measure) for key in GAIN for measure in ("codes", "clean", "fgsm")}
    strong = lines["alpha-0.4", "fgsm"]
    assert float(strong["ours"]) == pytest.approx(51.5)
    assert float(strong["our_difference"]) == pytest.approx(10.5), "over the seeds of two runs"
    assert float(strong["difference_low"]) < 10.5 < float(strong["difference_high"])
    assert float(strong["paper_difference"]) == pytest.approx(36.2 - 23.94)
    assert float(strong["delta"]) == pytest.approx(10.5 - (36.2 - 23.94))
    assert (strong["pictures"], strong["seeds"], strong["baseline"]) == ("450", "3", "alpha-0")
    assert float(lines["alpha-0.4", "codes"]["ours"]) == 12, "at its own alpha, not at that of the run"
    assert (tmp_path / "out" / "table8.md").read_text().startswith("# Table 8: in small")
    page = (tmp_path / "out" / "table8.html").read_text()
    assert "Adv., alpha 0.4" in page
    assert len(re.findall(r'popovertarget="from-', page)) > 20
    assert r"\begin{tabular}" in (tmp_path / "out" / "table8.tex").read_text()
    as_json = CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False)
    objects = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert len(objects) == len(lines)
    assert next(one for one in objects if (one["row"], one["measure"]) == ("alpha-0.4", "fgsm"))["delta"] == pytest.approx(
        float(strong["delta"])
    )


def sheet_of(tmp_path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((tmp_path / "out" / "table8.csv").read_text().splitlines()))


def test_a_run_of_another_recipe_is_refused_before_anything_is_trained(trained: Trained, tmp_path: Path) -> None:
    finish(tmp_path / "out" / "second", opened(tmp_path, "training.epochs=2").runs[1].recipe)
    with pytest.raises(
        RunFolderError, match=r"out/second was made by another recipe \(\w+\) than .*; write --out ANOTHER_FOLDER"
    ):
        opened(tmp_path).carry_out(cpu=True)
    assert not trained.asked
    assert opened(tmp_path, "training.epochs=2").runs[1].state == "done"


@pytest.mark.parametrize("scale", ["demo", "imagenet"])
def test_a_file_in_the_place_of_the_folder_is_told_with_the_flag(scale: str, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    command = ["reproduce", "table8", "--scale", scale, "--out", str(tmp_path / "taken"), "--cpu"]
    with pytest.raises(RunFolderError, match=r"taken cannot be written \(File exists\); write --out ANOTHER_FOLDER\.$"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not trained.asked
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_in_use_and_a_damaged_run_are_told_with_the_flag(trained: Trained, tmp_path: Path) -> None:
    found = opened(tmp_path)
    with found.held(), pytest.raises(RunFolderError, match=r"out is in use by process .*; wait for it, or write --out ANOTHER"):
        CliRunner().invoke(app, ["reproduce", "table8", "--out", str(tmp_path / "out"), "--cpu"], catch_exceptions=False)
    begin(tmp_path / "out" / "first", found.runs[0].recipe)
    (tmp_path / "out" / "first" / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"first/run.json is damaged .*; write --out ANOTHER_FOLDER and train again"):
        opened(tmp_path).carry_out(cpu=True)
    assert not trained.asked


def test_a_taken_folder_of_any_run_is_told_with_the_flag_before_the_first_training(trained: Trained, tmp_path: Path) -> None:
    command = ["reproduce", "table8", "--out", str(tmp_path / "out"), "--cpu"]
    place = tmp_path / "out" / "second"
    with (
        run_folder.claimed(place, resume=False),
        pytest.raises(RunFolderError, match=r"out/second is in use by process .*; wait for it, or write --out ANOTHER_FOLDER"),
    ):
        CliRunner().invoke(app, command, catch_exceptions=False)
    shutil.rmtree(place)
    place.write_text("mine")
    with pytest.raises(RunFolderError, match=r"out/second cannot be written \(File exists\); write --out ANOTHER_FOLDER\.$"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not trained.asked
    assert place.read_text() == "mine"


@pytest.mark.usefixtures("trained")
def test_folders_of_pictures_go_with_the_other_scales(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data is photos, but the demo's digits come with scikit-learn"):
        opened(tmp_path, "data=photos")


@pytest.mark.usefixtures("trained")
def test_a_method_that_is_no_row_and_a_folder_of_all_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Method mine of .*first.yaml is no row of table8 \(alpha-0, random, alpha-0.4\)"):
        opened(tmp_path, "methods.mine={method: standard}")
    with pytest.raises(UsageError, match="out=there names one folder for all runs; write --out there"):
        opened(tmp_path, "out=there")


def test_pictures_that_are_missing_are_told_before_the_first_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Trained()
    monkeypatch.setattr(train, "train", fake)
    found = open_reproduction("table1", [f"data={tmp_path}/none"], scale="cifar", out=tmp_path / "out")
    assert [run.overrides[0] for run in found.runs] == [f"data.train={tmp_path}/none/train"] * 2
    with pytest.raises(DataError, match=f"Cannot open the data folder {tmp_path}/none/train"):
        found.carry_out(cpu=True)
    assert not fake.asked


def test_at_the_papers_scale_needs_and_commands_are_told_and_nothing_is_trained(tmp_path: Path, monkeypatch: Any) -> None:
    fake = Trained()
    monkeypatch.setattr(train, "train", fake)
    for name in ("train", "val", "imagenet-a"):
        (tmp_path / "data" / name).mkdir(parents=True)
    command = ["reproduce", "table6", "--scale", "imagenet", "--out", str(tmp_path / "out"), f"data={tmp_path}/data", "--cpu"]
    printed = CliRunner().invoke(app, command, catch_exceptions=False)
    assert printed.exit_code == 1
    assert not fake.asked
    found = open_reproduction("table6", [f"data={tmp_path}/data"], scale="imagenet", out=tmp_path / "out")
    needs = {which: is_here for _, which, is_here in found.missing()}
    assert needs[f"{tmp_path}/data/train"]
    assert needs[f"{tmp_path}/data/val"]
    assert needs["a"]
    assert not needs["damagenet"]
    assert not needs["sketch"]
    text = as_needs(found)
    assert "--num_machines N" in text
    assert f"dat eval {tmp_path}/out/dat/dat-seed0 --suites clean,fgsm,damagenet,a,c,v2,r,sketch,stylized" in text
    assert "42 GPU hours (estimated)" in printed.stdout
    assert "by their FLOPs at 100 TFLOP/s; none was run" in printed.stdout
    assert (
        f"dat train imagenet/table6/pyramid-at out={tmp_path}/out/pyramid-at data.train={tmp_path}/data/train" in printed.stdout
    )


def test_at_the_papers_scale_what_was_evaluated_later_is_shown(tmp_path: Path) -> None:
    found = open_reproduction("table6", [], scale="imagenet", out=tmp_path / "out")
    for run in found.runs[:2]:
        finish(run.folder, run.recipe, seeds=(0,))
        rows = [row("a", 4.0, method="resnet", seed=None), row("c", 70.0, metric="mce", method="resnet", seed=None)]
        (run.folder / "evaluation").mkdir()
        write_rows(run.folder / "evaluation" / "results.jsonl", [*rows, row("clean", 1.0, method="resnet", seed=None)])
    numbers = {(one.row, one.measure): one for one in found.numbers(cpu=True)}
    shown = numbers["normal", "a"], numbers["advprop", "mce"]
    assert [one.ours.mean for one in shown if one.ours] == [4.0, 70.0]
    assert shown[1].delta == pytest.approx(70.0 - 70.53)
    clean = numbers["normal", "clean"].ours
    assert clean is not None
    assert clean.mean > 90, "the run's own number, where it has one"
    assert numbers["dat", "clean"].ours is None


def test_the_time_of_what_follows_adds_up() -> None:
    with followed_by(100.0):
        with followed_by(5.0):
            assert Bar("", 1, shown=False).following == 105
        with followed_by(None):
            assert Bar("", 1, shown=False).following is None
        assert Bar("", 1, shown=False).following == 100
    assert Bar("", 1, shown=False).following == 0


def test_what_is_only_skipped_tells_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("codes", 100)
    bar.last_line = -1e9  # a line is due
    bar.skip("kept", 50)
    assert capsys.readouterr().err == "codes: 50/100, 0 s  kept\n"
    bar.last_line = -1e9
    bar.add("made", 1)
    assert re.search(r"51/100, 0 s, \d+ s left", capsys.readouterr().err)


SHORT = ("seeds=[0]", "training.epochs=1", "discretizer.train.training.epochs=1", "evaluation.suites=[clean, fgsm]")


@pytest.mark.slow
def test_table_8_of_digits_from_nothing(tmp_path: Path) -> None:
    command = ["reproduce", "table8", "--out", str(tmp_path / "out"), "--cpu", *SHORT]
    printed = CliRunner().invoke(app, command, catch_exceptions=False)
    assert printed.exit_code == 0
    lines = {(line["row"], line["measure"]): line for line in sheet_of(tmp_path)}
    rates = {key: float(lines[key, "codes"]["ours"]) for key in ("alpha-0", "random", "alpha-0.1", "alpha-0.2", "alpha-0.4")}
    assert (rates["alpha-0"], rates["random"]) == (0, pytest.approx(3.8))
    assert 0 < rates["alpha-0.1"] < rates["alpha-0.2"] < rates["alpha-0.4"]
    assert "Alpha at the end of the trainings" in printed.stdout
    stamp = (tmp_path / "out" / "demo-table8" / "run.json").stat().st_mtime_ns
    again = CliRunner().invoke(app, command, catch_exceptions=False)
    assert again.stdout.split("Measure")[1] == printed.stdout.split("Measure")[1]
    assert (tmp_path / "out" / "demo-table8" / "run.json").stat().st_mtime_ns == stamp, "nothing was trained again"
    assert len(read_rows(tmp_path / "out" / "demo-table8" / "results.jsonl")) > 10
