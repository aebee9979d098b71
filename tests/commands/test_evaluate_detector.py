"""`dat eval` of detectors: rows and kept results, stops and resumes, torchvision's by name, COCO-O, and what is refused."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchvision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rectangles import CLASSES, FindsColours, write_rectangles
from safetensors.torch import save_file
from torchvision.models import WeightsEnum
from typer.testing import CliRunner, Result

import dat
from dat.cli import app
from dat.commands import evaluate_detector
from dat.commands.detection_plan import DOMAINS, IN_DOMAIN, DetectionPlan, DetectionSettings, detection_settings
from dat.commands.detector_subject import TestedDetector, open_detector
from dat.commands.evaluate_detector import assess_detector
from dat.commands.trained import load_classifier
from dat.data.boxed import Letterbox
from dat.errors import CheckpointError, DatError, UsageError
from dat.evaluation.coco_scores import NAMES
from dat.evaluation.detected import detect
from dat.nn.norm import Normalized
from dat.results import Row, read_rows

ROOT = Path(__file__).resolve().parents[2]
MINI = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
FEW = ["severities=[3]", "corruptions=[fog, shot_noise]", "c_pictures=10", "batch_size=4"]
Found = dict[tuple[str, str], Row]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rectangles(tmp_path_factory.mktemp("boxes"), "test", 12)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, boxes: Path) -> Path:
    """The folder of a detector that was hardly trained."""
    folder = tmp_path_factory.mktemp("run")
    values = {
        "kind": "detection",
        "title": "Rectangles",
        "data": {"train": str(write_rectangles(folder, "train", 8)), "test": str(boxes), "size": [64, 96]},
        "model": {"name": "fcos", "backbone": "resnet18", "options": {"width": 64, "convs": 1, "backbone_options": MINI}},
        "training": {"epochs": 1, "batch_size": 4, "lr": 1e-3, "optimizer": "adamw"},
        "methods": {"advprop": {"targeted": False}},
        "discretizer": {"load": "photos-f4-1024-fast"},
        "evaluation": {"suites": ["clean"]},
        "out": str(folder / "run"),
    }
    values["model"]["options"]["score_thresh"] = 0.0  # so that it finds something
    return dat.train(values, cpu=True) / "advprop-seed0"


def finder(**changed: Any) -> TestedDetector:
    """One that finds the rectangles by their colours."""
    model = Normalized(FindsColours(), mean=[0.5] * 3, std=[0.5] * 3).eval()
    return TestedDetector("finder", model, CLASSES, Letterbox(64, 96), finds_all=True, **changed)


def evaluated(
    folder: Path, data: Path, *overrides: str, suites: tuple[str, ...] = ("clean", "fgsm", "c"), **given: Any
) -> Found:
    settings = detection_settings([*FEW, *overrides])
    rows = assess_detector(
        given.pop("tested", None) or finder(), suites, data=data, folder=folder, settings=settings, cpu=True, **given
    )
    return {(row.suite, row.metric): row for row in rows}


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, words), "--cpu"])


def said(*words: object) -> str:
    with pytest.raises(DatError) as refused:
        raise command(*words).exception or AssertionError("it was not refused")
    return str(refused.value)


def scored_from_files(annotations: Path, results: Path) -> np.ndarray:
    """As anyone would."""
    with redirect_stdout(io.StringIO()):
        right = COCO(str(annotations))
        scorer = COCOeval(right, right.loadRes(str(results)), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer.stats


def files(folder: Path) -> dict[str, bytes]:
    kept = [*folder.glob("detections/*/*"), folder / "results.jsonl", folder / "evaluation.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_a_detector_of_a_run_from_the_command_line_to_a_page(run: Path, boxes: Path, tmp_path: Path) -> None:
    done = command(run, "--suites", "clean,fgsm,c", "--data", boxes, "--out", tmp_path / "out", *FEW)
    assert done.exit_code == 0, done.output
    assert re.search(r"mPC \(n 10\)", done.stdout)
    rows = {(row.suite, row.metric): row for row in read_rows(tmp_path / "out" / "results.jsonl")}
    of_run = {(row.suite, row.metric): row for row in read_rows(run.parent / "results.jsonl")}
    for metric in ("ap", "ap50", "ar100", "ap/red"):
        assert rows["clean", metric].value == pytest.approx(of_run["clean", metric].value, abs=1e-9)
    assert rows["clean", "ap"].ci is not None
    assert rows["clean", "ap_large" if ("clean", "ap_large") in rows else "ar100"].ci is None
    assert rows["fgsm", "ap"].protocol["loss"] == "all"
    assert rows["c", "mpc"].protocol["cells"] == 2
    assert rows["c", "mpc"].n == 10
    assert rows["clean", "ap"].seed == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert "AP by class" in page
    assert "AR, 1 box a class" in page  # so the scorer counts
    assert "bootstrap over pictures, 1000 draws, seed 0" in page
    again = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert again.exit_code == 0
    assert str(tmp_path / "out" / "report.html") in again.stdout


def test_a_detector_of_a_run_is_loaded_in_the_form_in_which_it_was_measured(run: Path) -> None:
    found = dat.load_run(run)
    assert isinstance(found, dat.TrainedDetector)
    assert (found.label, found.seed, found.classes, found.frame) == ("advprop", 0, CLASSES, Letterbox(64, 96))
    assert not found.model.training
    assert not [name for name, _ in found.model.named_parameters() if "auxiliary" in name]
    with pytest.raises(CheckpointError, match="is a detector of a run; evaluate it with --suites"):
        load_classifier(run)


def test_what_is_kept_gives_the_same_twelve_numbers_to_anyone(boxes: Path, tmp_path: Path) -> None:
    rows = evaluated(tmp_path, boxes)
    for cell in ("clean", "fgsm"):
        theirs = scored_from_files(boxes, next(tmp_path.glob(f"detections/*/{cell}.json")))
        ours = [rows[cell, name].value if (cell, name) in rows else -100 for name in NAMES]
        np.testing.assert_allclose(ours, 100 * theirs, atol=1e-6)
    assert rows["clean", "ap50"].value == pytest.approx(100)


def test_corruptions_are_held_against_the_very_pictures_they_are_made_of(boxes: Path, tmp_path: Path) -> None:
    rows = evaluated(tmp_path, boxes, suites=("c-generated",))
    cells = [rows[f"c/{name}/3", "ap"].value for name in ("fog", "shot_noise")]
    assert rows["c", "mpc"].value == pytest.approx(np.mean(cells))
    assert rows["c", "rpc"].value == pytest.approx(100 * np.mean(cells) / rows["c", "ap_clean"].value)
    assert rows["clean", "ap"].n == 12
    assert rows["c", "ap_clean"].n == 10
    low, high = rows["c", "mpc"].ci or (0.0, 0.0)
    assert low < rows["c", "mpc"].value < high


def test_intervals_need_ten_pictures_and_draws(boxes: Path, tmp_path: Path) -> None:
    few = evaluated(tmp_path, boxes, "c_pictures=9", suites=("c",))
    assert few["c", "mpc"].ci is None
    assert few["c", "mpc"].protocol["interval"] == "none: fewer than 10 pictures"
    none = evaluated(tmp_path, boxes, "draws=0", suites=("clean",))
    assert none["clean", "ap"].ci is None
    other = evaluated(tmp_path, boxes, "draws=50", "seed=3", suites=("fgsm",))
    assert other["fgsm", "ap"].protocol["interval"] == "bootstrap over pictures, 50 draws, seed 3"


@pytest.mark.parametrize("stopped_at", [0, 2, 3])
def test_killed_in_any_cell_it_repeats_only_that_one_and_ends_with_the_same_bytes(
    boxes: Path, tmp_path: Path, stopped_at: int
) -> None:
    evaluated(tmp_path / "whole", boxes, self_test=False)
    with patch.object(evaluate_detector, "detect", dying(stopped_at)), pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "killed", boxes, self_test=False)
    assert len([*(tmp_path / "killed").glob("detections/*/*.json")]) == stopped_at
    with patch.object(evaluate_detector, "detect", side_effect=detect) as resumed:
        evaluated(tmp_path / "killed", boxes, self_test=False)
    assert resumed.call_count == 4 - stopped_at
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def dying(number: int) -> Callable[..., object]:
    """`detect` that is killed in its call of that number."""
    calls = iter(range(9))

    def detect_or_die(*arguments: Any, **given: Any) -> object:
        if next(calls) == number:
            raise KeyboardInterrupt
        return detect(*arguments, **given)

    return detect_or_die


def test_what_is_kept_is_used_for_the_same_detector_pictures_and_change_only(boxes: Path, tmp_path: Path) -> None:
    def shown(folder: Path, *overrides: str, **given: Any) -> int:
        with patch.object(evaluate_detector, "detect", side_effect=detect) as called:
            evaluated(folder, given.pop("data", boxes), *overrides, suites=("clean", "fgsm"), self_test=False, **given)
        return called.call_count

    assert shown(tmp_path / "out") == 2
    assert shown(tmp_path / "out", "batch_size=3") == 0
    assert shown(tmp_path / "out", "fgsm_epsilon_255=2") == 1
    assert shown(tmp_path / "out", "fgsm_epsilon_255=2", "climbed=boxes") == 1
    assert shown(tmp_path / "out", "fgsm_epsilon_255=2", "climbed=boxes", "size=[96, 128]") == 2
    kept = next((tmp_path / "out").glob("detections/*/clean.json"))
    kept.write_bytes(kept.read_bytes()[:-20])
    assert shown(tmp_path / "out", "fgsm_epsilon_255=2", "climbed=boxes", "size=[96, 128]") == 1
    other = finder()
    other.model.mean.add_(0.01)
    assert shown(tmp_path / "out", "fgsm_epsilon_255=2", "climbed=boxes", "size=[96, 128]", tested=other) == 2
    assert {row.checkpoint for row in read_rows(tmp_path / "out" / "results.jsonl")} != set()
    copied = Path(shutil.copytree(boxes.parent, tmp_path / "copy")) / boxes.name
    assert shown(tmp_path / "out", "fgsm_epsilon_255=2", "climbed=boxes", "size=[96, 128]", tested=other, data=copied) == 2


def test_the_self_test_stops_before_any_number_and_can_be_skipped(boxes: Path, tmp_path: Path) -> None:
    wrong = TestedDetector("bare", Normalized(FindsColours(), mean=[0.0] * 3, std=[1.0] * 3), CLASSES, Letterbox(64, 96), True)
    with pytest.raises(UsageError, match=r"\(--no-self-test evaluates all the same\):\n  normalisation-missing: AP50 of"):
        evaluated(tmp_path, boxes, suites=("clean",), tested=wrong)
    assert not (tmp_path / "results.jsonl").exists()
    assert evaluated(tmp_path, boxes, suites=("clean",), tested=wrong, self_test=False)["clean", "ap"].value < 60


def on_processes(count: int, *words: object) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *launcher, "-m", "dat", "eval", *map(str, words), "--cpu"]
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow  # real processes; what each of them is given is tested above
def test_two_processes_and_one_that_is_killed_end_as_one(run: Path, boxes: Path, tmp_path: Path) -> None:
    words = [run, "--suites", "clean,fgsm,c", "--data", boxes, *FEW]
    whole = on_processes(1, *words, "--out", tmp_path / "1")
    two = on_processes(2, *words, "--out", tmp_path / "2")
    for process in (whole, two):
        assert process.wait(240) == 0
    killed = on_processes(1, *words, "--out", tmp_path / "3")
    while not [*(tmp_path / "3").glob("detections/*/fgsm.identity")]:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    assert not (tmp_path / "3" / "results.jsonl").exists()
    assert on_processes(1, *words, "--out", tmp_path / "3").wait(240) == 0
    assert len(files(tmp_path / "1")) == 2 * 4 + 2
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert [*files(tmp_path / "1")] == [*files(tmp_path / "2")]
    one, two = ([row.value for row in read_rows(tmp_path / out / "results.jsonl")] for out in ("1", "2"))
    assert two == pytest.approx(one, abs=1e-3)  # other batches are rounded otherwise


SSDLITE = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def ssdlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, named as such by whoever gives it."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model(f"{SSDLITE}", weights=None, weights_backbone=None)
    save_file(network.state_dict(), path)
    return path


def test_a_published_detector_is_asked_for_the_classes_of_the_set_by_their_names(ssdlite: Path, tmp_path: Path) -> None:
    data = write_rectangles(tmp_path, "test", 3, names=("zebra", "person"))
    tested = open_detector(f"torchvision:{SSDLITE}", weights=ssdlite)
    assert (tested.name, len(tested.classes)) == (f"torchvision:{SSDLITE}@random.safetensors", 80)
    assert tested.classes[:12:11] == ("person", "stop sign")  # COCO's id 13; there is no 12
    assert (tested.frame, tested.model.mean.flatten().tolist()) == (Letterbox(320, 320, squash=True), [0.5] * 3)
    model: Any = tested.finding(("zebra", "person"))
    assert model.network.theirs.tolist() == [24, 1]
    network = torchvision.models.get_model(SSDLITE, weights=None, weights_backbone=None).eval()
    network.load_state_dict(tested.model.network.network.state_dict())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    image = torch.rand(3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = network([image])[0], model(image[None])[0]
    for place, label in enumerate((24, 1)):
        torch.testing.assert_close(ours.scores[ours.labels == place], theirs["scores"][theirs["labels"] == label])
    done = command(f"torchvision:{SSDLITE}", "--weights", ssdlite, "--suites", "clean", "--data", data, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output


def test_frames_are_as_torchvision_resizes() -> None:
    tested = DetectionPlan(finder(), None, DetectionSettings())
    assert tested.frame == Letterbox(64, 96)
    frame = Letterbox(1344, 1344, short_side=800)
    for size, shown in {(640, 480): (1067, 800), (480, 640): (800, 1067), (1000, 200): (1344, 269)}.items():
        assert frame.inside(size) == shown
    assert Letterbox(300, 400, squash=True).inside((10, 90)) == (400, 300)


def test_weights_that_cannot_be_got_are_never_random(boxes: Path, tmp_path: Path) -> None:
    with patch.object(WeightsEnum, "get_state_dict", side_effect=OSError("no network")):
        sentence = said(f"torchvision:{SSDLITE}", "--suites", "clean", "--data", boxes, "--out", tmp_path)
    assert "torchvision cannot get the weights of" in sentence
    assert "(no network); add --weights FILE" in sentence


def coco_o(folder: Path) -> Path:
    for name in DOMAINS:
        file = write_rectangles(folder / name, "val2017", 3)
        (folder / name / IN_DOMAIN).parent.mkdir()
        file.rename(folder / name / IN_DOMAIN)
    return folder


def test_coco_o_is_a_row_for_each_domain_and_their_mean(boxes: Path, tmp_path: Path) -> None:
    folder = coco_o(tmp_path / "ood_coco")
    rows = evaluated(tmp_path / "out", boxes, f"coco_o={folder}", suites=("clean", "coco-o"))
    values = [rows[f"coco-o/{name}", "ap"].value for name in DOMAINS]
    assert rows["coco-o", "ap"].value == pytest.approx(np.mean(values))
    assert rows["coco-o", "ap"].n == 18
    assert rows["coco-o", "ap"].protocol["domains"] == 6
    alone = evaluated(tmp_path / "alone", folder, suites=("coco-o",))
    assert alone["coco-o", "ap"].value == rows["coco-o", "ap"].value
    (folder / "tattoo" / IN_DOMAIN).unlink()
    with pytest.raises(DatError, match=r"There is no .*tattoo.*; unpack COCO-O there"):
        evaluated(tmp_path / "alone", folder, suites=("coco-o",))


def test_several_sets_and_several_detectors_stand_beside_each_other(boxes: Path, tmp_path: Path) -> None:
    other = write_rectangles(tmp_path, "others", 11)
    for data in (boxes, other):
        evaluated(tmp_path / "out", data, suites=("clean",))
    evaluated(tmp_path / "second", boxes, suites=("clean",))
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert "instances_others" in (tmp_path / "out" / "report.md").read_text()
    evaluated(tmp_path / "first", boxes, suites=("clean",))
    both = CliRunner().invoke(app, ["report", str(tmp_path / "first"), str(tmp_path / "second")])
    assert both.exit_code == 0, both.output
    assert "finder (2)" in (tmp_path / "first" / "comparison.md").read_text()


@pytest.fixture
def places(run: Path, boxes: Path, tmp_path: Path) -> dict[str, Path]:
    photos = tmp_path / "photos" / "cat"
    photos.mkdir(parents=True)
    shutil.copy(next((boxes.parent / "test").glob("*.png")), photos)
    (tmp_path / "broken.json").write_text("{")
    other = write_rectangles(tmp_path, "other", 2, names=("white", "grey"))
    return {"run": run, "boxes": boxes, "photos": photos.parent, "broken": tmp_path / "broken.json", "other": other}


REFUSED: dict[str, tuple[list[str], str]] = {
    "suite": (["run", "--suites", "claen", "--data", "boxes"], "no suite 'claen' of detectors; did you mean 'clean'?"),
    "classification's": (["run", "--suites", "a", "--data", "boxes"], "write some of clean, fgsm, pgd, c, coco-o"),
    "no suites": (["run"], "is a detector of a run; evaluate it with --suites"),
    "setting": (["run", "--suites", "clean", "--data", "boxes", "epsilon=3"], "epsilon"),
    "severity": (["run", "--suites", "c", "--data", "boxes", "severities=[3, 3]"], "severities are 3, 3; name each once"),
    "corruption": (["run", "--suites", "c", "--data", "boxes", "corruptions=[fogg]"], "fogg"),
    "photos": (["run", "--suites", "clean", "--data", "photos"], "nothing says what is where in them"),
    "classifier": (["timm:resnet18", "--suites", "clean", "--data", "boxes"], "timm:resnet18 is a classifier"),
    "broken": (["run", "--suites", "clean", "--data", "broken"], "is no JSON"),
    "classes": (["run", "--suites", "clean", "--data", "other"], "has grey, which training has not"),
    "weights": (["run", "--suites", "clean", "--weights", "boxes"], "has its own weights; leave out --weights"),
    "allow": (["run", "--suites", "clean", "--allow-bad", "1"], "--allow-bad goes with classifiers"),
    "detector": (["torchvision:fcos_resnet5", "--suites", "clean"], "did you mean fcos_resnet50_fpn"),
    "coco-o": (["run", "--suites", "coco-o", "--data", "boxes"], "write coco_o=FOLDER"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_sentence(case: str, places: dict[str, Path]) -> None:
    words, sentence = REFUSED[case]
    assert sentence in said(*[places.get(word, word) for word in words])


def test_categories_that_a_published_detector_does_not_know_are_refused(ssdlite: Path, tmp_path: Path) -> None:
    tested = [f"torchvision:{SSDLITE}", "--weights", ssdlite, "--suites", "clean", "--out", tmp_path / "out", "--data"]
    assert "does not know, first 'motorbike'" in said(*tested, write_rectangles(tmp_path, "a", 2, names=("cat", "motorbike")))
    assert "call it 'stop sign'" in said(*tested, write_rectangles(tmp_path, "b", 2, names=("cat", "stop signs")))
    assert "first 'N/A'" in said(*tested, write_rectangles(tmp_path, "c", 2, names=("cat", "N/A")))


@pytest.mark.slow
@pytest.mark.shared
def test_twelve_numbers_of_a_torchvision_detector_on_coco256_are_pycocotools(
    shared_data: Path, ssdlite: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(shared_data / "detection.zip") as packed:
        packed.extractall(
            tmp_path, [name for name in packed.namelist() if name.startswith("coco256/") and "train/" not in name]
        )
    data = tmp_path / "coco256" / "instances_val.json"
    tested = open_detector(f"torchvision:{SSDLITE}", weights=ssdlite)
    settings = detection_settings(["batch_size=16", "draws=0"])
    rows = assess_detector(tested, ["clean"], data=data, folder=tmp_path / "out", settings=settings, cpu=True, self_test=False)
    ours = {row.metric: row.value for row in rows}
    theirs = scored_from_files(data, next((tmp_path / "out").glob("detections/*/clean.json")))
    np.testing.assert_allclose([ours.get(name, -100) for name in NAMES], 100 * theirs, atol=1e-6)
    assert max(theirs) > 0  # random weights find something now and then
