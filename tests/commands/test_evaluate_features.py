"""`dat eval` of self-supervised runs: the study's own numbers, named sets, stops and resumes, pages, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import dat
from dat.cli import app
from dat.commands import evaluate_features
from dat.commands.evaluate_features import assess_features
from dat.commands.trained import load_encoder
from dat.data.folders import ImageFolder
from dat.errors import DatError, UsageError
from dat.evaluation import selftest
from dat.evaluation.features import answers
from dat.evaluation.selftest import Alarm
from dat.recipe import read
from dat.recipe.selfsupervised import SelfSupervisedRecipe
from dat.results import Row, read_rows
from dat.studies import judged

ROOT = Path(__file__).resolve().parents[2]
Key = tuple[str, str, str]

DECODER = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "mae": {
        "task": {"kind": "mae"},
        "model": {
            "name": "mae",
            "options": {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3, **DECODER},
        },
        "methods": {"standard": {}, "dat": {"alpha": 0.4}},
    },
    "simclr": {
        "task": {"kind": "simclr", "projection": [8, 4]},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "methods": {"standard": {}, "advprop": {"targeted": False}},
    },
}


def paint(folder: Path, count: int, *, classes: Sequence[str] = ("blue", "red"), side: int = 32) -> Path:
    """Noise, in which the second class is a little more red."""
    numbers = np.random.default_rng(count)
    for index in range(count):
        label = index % len(classes)
        noise = numbers.integers(0, 200, (side, side, 3)) + np.array([6 * label, 0, 0])
        (folder / classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.astype(np.uint8)).save(folder / classes[label] / f"{index:02}.png")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for name, count in {"flat": 8, "labelled": 20, "test": 24, "art": 14}.items():
        paint(root / name, count)
    return root


def recipe(photos: Path, kind: str, out: Path) -> dict[str, Any]:
    places = {key: str(photos / name) for key, name in {"train": "flat", "labelled": "labelled", "test": "test"}.items()}
    return {
        "kind": "selfsupervised",
        "title": "Two colours",
        "data": {"source": "folder", "size": 32, "crop_pct": 1.0, "augment": {"kind": "none"}, **places},
        "discretizer": {"load": "cifar-f2-1024-fast"},
        "training": {"epochs": 1, "batch_size": 4, "lr": 1e-3, "optimizer": "adamw"},
        "evaluation": {"k": 3, "c_per_class": 5, "c_severities": [3], "probe_iterations": 20},
        "out": str(out),
        **RECIPES[kind],
    }


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {kind: dat.train(recipe(photos, kind, folder / kind), cpu=True) for kind in RECIPES}


@pytest.fixture
def run(runs: dict[str, Path]) -> Path:
    return runs["mae"]


CELLS = 2 + 1 + 15


def judge_all(target: Path, out: Path, *overrides: str, **given: Any) -> dict[Key, Row]:
    suites, sets = given.pop("suites", None), given.pop("sets", {})
    found = assess_features(target, suites, overrides, sets=sets, out=out, cpu=True, self_test=False, **given)
    return by_key([row for rows in found.values() for row in rows])


def by_key(rows: Sequence[Row]) -> dict[Key, Row]:
    found = {(row.method, row.suite, row.metric): row for row in rows if row.suite != "cost" and row.method != "raw-pixels"}
    assert len(found) == sum(row.suite != "cost" and row.method != "raw-pixels" for row in rows)
    return found


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, words), "--cpu"])


def said(*words: object) -> str:
    with pytest.raises(DatError) as refused:
        raise command(*words).exception or AssertionError("it was not refused")
    assert len(str(refused.value).split("faults:\n")[-1].split("fault:\n")[-1].strip().splitlines()) == 1
    return str(refused.value)


def files(folder: Path) -> dict[str, bytes]:
    kept = [path for path in folder.rglob("*") if path.suffix in (".npz", ".txt", ".jsonl") or path.name == "evaluation.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("suites", [None, ["clean", "fgsm", "c-generated"]])
def test_it_gives_the_numbers_that_the_study_measured(
    runs: dict[str, Path], kind: str, suites: list[str] | None, tmp_path: Path
) -> None:
    rows, measured = judge_all(runs[kind], tmp_path, suites=suites), by_key(read_rows(runs[kind] / "results.jsonl"))
    assert {*rows} == {*measured}
    assert len(rows) == 2 * 2 * (CELLS + 1)
    for key, row in rows.items():
        assert (row.value, row.n, row.ci) == (measured[key].value, measured[key].n, measured[key].ci), key
        theirs = {name: value for name, value in row.protocol.items() if name not in ("set", "interval")}
        assert theirs == measured[key].protocol
    assert len({row.value for row in rows.values()}) > 3  # or all would be equal for nothing
    assert {(row.method, row.checkpoint) for row in rows.values()} == {
        (method, json.loads((tmp_path / f"{method}-seed0" / "evaluation.json").read_text())["checkpoint"])
        for method in RECIPES[kind]["methods"]
    }


def test_keys_beside_suites_are_those_of_the_recipes_evaluation(run: Path, tmp_path: Path) -> None:
    rows = judge_all(run / "dat-seed0", tmp_path, "k=20", "fgsm_epsilon_255=16", "data.in_memory=true", suites=["fgsm"])
    assert {(suite, metric) for _, suite, metric in rows} == {(s, m) for s in ("clean", "fgsm") for m in ("knn", "probe")}
    assert rows["dat", "clean", "knn"].protocol["k"] == 20
    assert rows["dat", "fgsm", "probe"].protocol["epsilon_255"] == 16
    weak = by_key(read_rows(run / "results.jsonl"))["dat", "fgsm", "probe"]
    assert rows["dat", "fgsm", "probe"].value < weak.value
    assert not (tmp_path / "dat-seed0").exists()


def test_a_named_set_has_rows_of_its_own_by_the_bank_of_the_run(run: Path, photos: Path, tmp_path: Path) -> None:
    words = [run / "standard-seed0", "--suites", "clean", "k=1", "--out", tmp_path / "out", "--json"]
    done = command(*words, "--data", f"art={photos / 'art'}", "--data", f"own={photos / 'test'}")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["protocol"]["set"], row["metric"], row["n"]) for row in rows] == [
        (name, kind, n) for name, n in (("art", 14), ("own", 24)) for kind in ("knn", "probe")
    ]
    pictures, bank = (ImageFolder(photos / name) for name in ("art", "labelled"))
    hashed = hashlib.sha256(f"{pictures.fingerprint()}{bank.fingerprint()}".encode()).hexdigest()[:12]
    assert rows[0]["protocol"]["data"] == hashed != rows[2]["protocol"]["data"]
    assert rows[0]["value"] == nearest_by_hand(run / "standard-seed0", pictures, bank)
    other = judge_all(run / "standard-seed0", tmp_path / "other", f"data.test={photos / 'art'}", "evaluation.k=1")
    assert other["standard", "clean", "knn"].value == rows[0]["value"]
    assert other["standard", "clean", "probe"].value == rows[1]["value"]
    assert other["standard", "clean", "probe"].protocol["set"] == "art"
    assert len([*(tmp_path / "out").glob("predictions/*")]) == 2


def nearest_by_hand(network: Path, pictures: ImageFolder, bank: ImageFolder) -> float:
    """Accuracy in percent of the class of the one picture of the bank whose features are most alike."""
    stored = read.load(str(network.parent / "recipe.yaml"))
    assert isinstance(stored, SelfSupervisedRecipe)
    encoder = load_encoder(network, stored, side=32).encoder
    unit = []
    for source in (pictures, bank):
        arrays = np.stack([np.asarray(source.read(index)) for index in range(len(source))])
        with torch.no_grad():
            found = encoder(torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255).double().numpy()
        unit.append(found / np.linalg.norm(found, axis=1, keepdims=True))
    nearest = bank.targets[(unit[0] @ unit[1].T).argmax(axis=1)]
    return 100 * float((nearest == pictures.targets).mean())


def test_a_set_without_a_name_is_called_as_its_folder_and_training_pictures_need_not_be_there(
    photos: Path, run: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    text = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(text.replace(str(photos / "flat"), "nowhere"))
    done = command(copy, "--data", photos / "art", "evaluation.suites=[clean]", "--json")
    assert done.exit_code == 0, done.output
    assert {json.loads(line)["protocol"]["set"] for line in done.stdout.splitlines()} == {"art"}
    assert [path.parent.name for path in sorted(copy.glob("*/evaluation"))] == ["dat-seed0", "standard-seed0"]


def test_digits_are_judged_on_their_own_test_pictures(tmp_path: Path) -> None:
    values = recipe(tmp_path, "simclr", tmp_path / "run") | {"data": {"source": "digits"}, "methods": {"standard": {}}}
    values |= {"training": {**values["training"], "batch_size": 256}, "evaluation": {"suites": ["clean"]}}
    folder = dat.train(values, cpu=True)
    rows, measured = judge_all(folder, tmp_path / "out"), by_key(read_rows(folder / "results.jsonl"))
    assert {key: row.value for key, row in rows.items()} == {key: row.value for key, row in measured.items()}
    assert rows["standard", "clean", "knn"].protocol["set"] == "digits"


@pytest.mark.parametrize("stopped_at", [0, 1, CELLS - 1])
def test_killed_in_any_cell_it_repeats_only_that_one_and_ends_with_the_same_bytes(
    run: Path, tmp_path: Path, stopped_at: int
) -> None:
    judge_all(run, tmp_path / "whole")
    with patch.object(evaluate_features, "answers", dying(stopped_at)), pytest.raises(KeyboardInterrupt):
        judge_all(run, tmp_path / "killed")
    assert len([*(tmp_path / "killed").glob("*/predictions/*")]) == 2 * stopped_at
    assert not [*(tmp_path / "killed").glob("*/results.jsonl")]
    with patch.object(evaluate_features, "answers", side_effect=answers) as resumed:
        judge_all(run, tmp_path / "killed")
    assert resumed.call_count == CELLS - stopped_at
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert len(files(tmp_path / "whole")) == 2 * (CELLS + 2 + 3)


def dying(number: int) -> Callable[..., object]:
    """`answers` that is killed in its call of that number."""
    calls = iter(range(CELLS))

    def answer_or_die(*arguments: Any, **given: Any) -> object:
        if next(calls) == number:
            raise KeyboardInterrupt
        return answers(*arguments, **given)

    return answer_or_die


def test_what_is_kept_is_used_for_the_same_network_bank_judges_and_pictures_only(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    def shown(*overrides: str, **given: Any) -> tuple[int, int]:
        """How many cells were shown to networks, and how many banks were."""
        features = patch.object(judged, "features_of", side_effect=judged.features_of)
        with patch.object(evaluate_features, "answers", side_effect=answers) as called, features as banks:
            judge_all(given.pop("target", run), tmp_path / "out", *overrides, suites=["clean", "fgsm"], **given)
        return sum(len(call.args[0]) for call in called.call_args_list), banks.call_count

    assert shown() == (4, 2)
    assert shown("batch_size=3") == (0, 0)
    assert shown("fgsm_epsilon_255=2") == (2, 2)
    next((tmp_path / "out" / "dat-seed0").glob("predictions/clean.npz")).unlink()
    assert shown("fgsm_epsilon_255=2") == (1, 1)
    assert shown("fgsm_epsilon_255=2", "temperature=1") == (4, 2)
    assert shown("fgsm_epsilon_255=2", "temperature=1", "probe_decay=1") == (4, 2)
    other = paint(tmp_path / "bank", 21)
    assert shown("fgsm_epsilon_255=2", "temperature=1", "probe_decay=1", f"data.labelled={other}") == (4, 2)
    copied = Path(shutil.copytree(photos / "test", tmp_path / "copy"))
    assert shown("temperature=1", "probe_decay=1", f"data.labelled={other}", sets={"copy": copied}) == (4, 2)
    rows = read_rows(tmp_path / "out" / "dat-seed0" / "results.jsonl")
    assert {row.protocol["set"] for row in rows} == {f"{photos.name}-test", "copy"}


def test_pages_of_one_of_two_beside_each_other_and_of_the_run(photos: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    done = command(copy, "--data", f"art={photos / 'art'}")
    assert done.exit_code == 0, done.output
    assert [line.split("  ")[0] for line in done.stdout.splitlines()[3:5]] == ["Standard", "DAT"]
    pages = [copy / f"{method}-seed0" / "evaluation" for method in ("standard", "dat")]
    assert [line for line in done.stdout.splitlines() if line.startswith("Report: ")] == [
        f"Report: {page / 'report.html'}" for page in pages
    ]
    text = (pages[1] / "report.md").read_text()
    assert "| dat |" in text
    assert "Error in percent on each corruption of C by k-NN, the mean over severity 3 (10 pictures at each)" in text
    assert "Student over pictures" in text
    assert (pages[1] / "report.html").read_text().count("<svg") == 2
    compared = CliRunner().invoke(app, ["report", *map(str, pages)])
    assert compared.exit_code == 0, compared.output
    text = (pages[0] / "comparison.md").read_text()
    assert "Each model minus standard, in points, paired by picture" in text
    assert "dat against standard, on the same pictures:" in text
    gaps = next(line for line in text.split("Each model minus standard")[1].splitlines() if line.startswith("| dat |"))
    values = [by_key(read_rows(page / "results.jsonl")) for page in pages]
    gap = values[1]["dat", "c", "probe"].value - values[0]["standard", "c", "probe"].value
    assert float(gaps.split("|")[-2].strip(" *").split(" ")[0].strip("*").replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        gap, abs=5e-3
    )
    assert CliRunner().invoke(app, ["report", str(copy)]).exit_code == 0
    later = (copy / "report.md").read_text().split("What `dat eval` measured later")[1]
    heading = next(line for line in later.splitlines() if line.startswith("| Method"))
    assert [cell.split(" (1 ")[0].strip() for cell in heading.split("|")[2:6]] == ["k-NN", "Probe", "k-NN (art)", "Probe (art)"]


def test_features_are_not_compared_with_classifiers(run: Path, photos: Path, tmp_path: Path) -> None:
    judge_all(run / "dat-seed0", tmp_path / "features", suites=["clean"])
    dat.evaluate(Reds(), suites=["clean"], data=photos / "test", classes=("blue", "red"), out=tmp_path / "classes", cpu=True)
    both = CliRunner().invoke(app, ["report", str(tmp_path / "features"), str(tmp_path / "classes")])
    assert str(both.exception) == "Some of the folders are of features and others of classifiers; name those of one kind."


class Reds(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))[:, [1, 0]]


def test_the_self_test_is_of_the_probed_network_and_can_be_skipped(run: Path, tmp_path: Path) -> None:
    alarms = [Alarm("saturated", "It is sure.", stops=False)]
    words = [run / "dat-seed0", "--suites", "clean", "--out", tmp_path]
    noted = tmp_path / "evaluation.json"
    with patch.object(evaluate_features, "selftest", side_effect=selftest.selftest) as tested:
        assert command(*words, "--no-self-test").exit_code == 0
        assert tested.call_count == 0
        assert command(*words).exit_code == 0
        assert tested.call_count == 1
    assert tested.call_args.args[0](torch.rand(3, 3, 32, 32)).shape == (3, 2)
    assert json.loads(noted.read_text())["notes"] == []
    with patch.object(evaluate_features, "selftest", return_value=alarms):
        assert command(*words, "k=2").exit_code == 0
    for _ in range(2):
        assert json.loads(noted.read_text())["notes"] == ["It is sure."]
        assert command(*words, "k=2").exit_code == 0
    stopping = [Alarm("wrong", "It is wrong.")]
    with patch.object(evaluate_features, "selftest", return_value=stopping):
        assert "It is wrong." in str(command(*words, "k=4").exception)


@pytest.fixture
def places(run: Path, photos: Path, tmp_path: Path) -> dict[str, str]:
    paint(tmp_path / "green", 6, classes=("blue", "green"))
    paint(tmp_path / "one", 2, classes=("red",))
    paint(tmp_path / "Red", 4, classes=("blue", "Red"))
    (tmp_path / "empty").mkdir()
    shutil.copytree(photos / "art", tmp_path / "hollow")
    for path in (tmp_path / "hollow" / "red").iterdir():
        path.unlink()
    shutil.copytree(photos / "art", tmp_path / "broken")
    next((tmp_path / "broken" / "red").iterdir()).write_bytes(b"no picture")
    names = ("green", "one", "Red", "empty", "hollow", "broken")
    return {"RUN": str(run), "NETWORK": str(run / "dat-seed0"), "ART": str(photos / "art")} | {
        name: str(tmp_path / name) for name in names
    }


REFUSED: dict[str, tuple[list[str], str]] = {
    "suite": (["RUN", "--suites", "claen"], "There is no suite 'claen' of features; did you mean 'clean'? write some of clean"),
    "another's": (["RUN", "--suites", "pgd"], "There is no suite 'pgd' of features; write some of clean, fgsm, c."),
    "none": (["RUN", "--suites", ","], "No suite is named"),
    "key": (["RUN", "--suites", "clean", "precision=bf16"], "evaluation.precision"),
    "weights": (["NETWORK", "--suites", "clean", "--weights", "x.pt"], "has its own weights; leave out --weights"),
    "allow": (["RUN", "--allow-bad", "1"], "--allow-bad goes with classifiers; mend the picture"),
    "name": (["RUN", "--name", "mine"], "--name goes with one network, and"),
    "k": (["RUN", "--suites", "clean", "k=21"], "k is 21, but the bank has 20 pictures; write 20 or less"),
    "k of a recipe": (["RUN", "evaluation.k=21"], "k is 21, but the bank has 20 pictures"),
    "k 0": (["RUN", "--suites", "clean", "k=0"], "evaluation.k"),
    "classes": (["RUN", "--data", "a=green"], "are not those of the labelled pictures: 1 missing ('red'), 1 extra ('green')"),
    "a class": (["RUN", "--data", "a=one"], "1 missing ('blue'); use folders with the same classes"),
    "spelling": (["RUN", "--data", "a=Red"], "The class 'Red' of"),
    "empty": (["RUN", "--data", "a=empty"], "There are no class folders in"),
    "hollow": (["RUN", "--data", "a=hollow"], "holds no files"),
    "missing": (["RUN", "--data", "a=nowhere"], "Cannot open the data folder nowhere"),
    "broken": (["NETWORK", "--suites", "clean", "--data", "a=broken"], "red"),
    "bank": (["RUN", "data.labelled=nowhere"], "Cannot open the data folder nowhere"),
    "names": (["RUN", "--data", "a=ART", "--data", "ART"], "names no set of its own"),
    "size": (["RUN", "data.size=48"], "of another shape (network.pos_embed"),
    "too small": (["NETWORK", "--suites", "c", "data.size=4"], "evaluation.suites has c, but the test pictures are 4 x 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_sentence(case: str, places: dict[str, str], tmp_path: Path) -> None:
    words, sentence = REFUSED[case]
    filled = [places.get(word, word) for word in words]
    filled = [f"a={places[word[2:]]}" if word[2:] in places else word for word in filled]
    with patch.object(judged, "features_of", wraps=judged.features_of) as computed:
        assert sentence in said(*filled, "--out", tmp_path / "out")
    assert computed.called == (case == "broken"), "what can be known before is said before"


def test_processes_that_write_nothing_show_nothing(run: Path, tmp_path: Path) -> None:
    with patch.object(evaluate_features, "assess_features", return_value={}):
        shown = command(run, "--suites", "clean", "--out", tmp_path / "out")
    assert (shown.exit_code, shown.stdout) == (0, "")


def test_pictures_at_their_own_size_must_have_that_of_the_run(run: Path, photos: Path, tmp_path: Path) -> None:
    sets = {"art": photos / "art", "large": paint(tmp_path / "large", 4, side=40)}
    with pytest.raises(
        DatError, match=r"large has pictures of 40x40, and the run is of 32x32; add data\.size=32 data\.crop_pct"
    ):
        judge_all(run, tmp_path / "out", "data.size=null", sets=sets)
    with pytest.raises(UsageError, match=r"^No suite is named"):
        judge_all(run, tmp_path / "out", suites=[])


def test_a_network_without_a_whole_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for path in copy.glob("dat-seed0/checkpoints/*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-8])
    assert "dat-seed0" in said(copy, "--suites", "clean")
    shutil.rmtree(copy / "dat-seed0" / "checkpoints")
    assert "dat-seed0 holds no checkpoint" in said(copy / "dat-seed0", "--suites", "clean")


def on_processes(count: int, *words: object) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, *launcher, "-m", "dat", "eval", *map(str, words), "--cpu"]
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow  # real processes; what each of them is given is tested above
def test_two_processes_and_one_that_is_killed_end_as_one(run: Path, photos: Path, tmp_path: Path) -> None:
    words = [run, "--suites", "clean,fgsm,c", "--data", f"art={photos / 'art'}"]
    whole, two = on_processes(1, *words, "--out", tmp_path / "1"), on_processes(2, *words, "--out", tmp_path / "2")
    for process in (whole, two):
        assert process.wait(240) == 0
    killed = on_processes(1, *words, "--out", tmp_path / "3")
    while not [*(tmp_path / "3").glob("dat-seed0/predictions/fgsm.npz")]:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    assert not [*(tmp_path / "3").glob("*/results.jsonl")]
    assert on_processes(1, *words, "--out", tmp_path / "3").wait(240) == 0
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert [*files(tmp_path / "1")] == [*files(tmp_path / "2")]
    one, other = (read_rows(tmp_path / out / "dat-seed0" / "results.jsonl") for out in ("1", "2"))
    assert [row.value for row in other] == pytest.approx([row.value for row in one], abs=1e-9)
