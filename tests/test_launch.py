"""The command line on several processes: they find each other, and the one that fails says why, once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dat.data.pipeline import TrainingOrder
from tests.commands.test_reproduce import PLAN

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Two steps of four pictures, two for each process."""
    numbers = np.random.default_rng(0)
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / name).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name / f"{index}.png")
    places = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    return {
        "kind": "classification",
        "title": "tiny",
        "data": {"source": "folder", **places, "size": 8, "augment": {"kind": "none"}},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 1, "batch_size": 4, "lr": 0.01},
        "methods": {"standard": {}},
        "evaluation": {"suites": ["clean"]},
        "out": str(tmp_path / "run"),
    }


def launched(launcher: list[str], recipe: dict[str, Any], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", *launcher, "-m", "dat", "train", str(folder / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY), **variables}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def test_processes_find_each_other_without_a_gpu_and_without_being_told(recipe: dict[str, Any], tmp_path: Path) -> None:
    done = launched(TORCHRUN, recipe, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "run" / "report.html").is_file()
    written = [*(tmp_path / "run" / "tensorboard").rglob("events*")]
    assert [path.parent.name for path in sorted(written)] == ["results", "standard-seed0"], "one process writes"


@pytest.mark.parametrize("process", [0, 1])
def test_the_process_that_meets_a_damaged_picture_says_so_once(process: int, recipe: dict[str, Any], tmp_path: Path) -> None:
    order = TrainingOrder(8, 4, processes=2, process=process)
    broken = next(row for keys in order.batches(0) for _, row in keys if row)  # all processes look at the first picture
    path = tmp_path / "train" / ("cat", "dog")[broken // 4] / f"{broken % 4}.png"
    path.write_bytes(b"no picture")
    done = launched(TORCHRUN, recipe, tmp_path)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("dat: ")]
    assert len(said) == 1, done.stderr[-4000:]
    assert str(path) in said[0]
    assert said[0].startswith("dat: process 1 of 2: ") == (process == 1)
    assert "dat/cli.py" not in done.stderr  # torchrun's own traceback is of other files


def test_what_all_processes_refuse_is_said_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    done = launched(TORCHRUN, {**recipe, "training": {**recipe["training"], "batch_size": 3}}, tmp_path)
    assert done.stderr.count("cannot be shared by 2 processes") == 1, done.stderr[-4000:]
    assert not (tmp_path / "run").exists()


def test_accelerate_that_starts_fewer_processes_than_it_was_asked_for(recipe: dict[str, Any], tmp_path: Path) -> None:
    done = launched(["accelerate.commands.launch", "--num_processes", "2"], recipe, tmp_path)
    assert "asked for 2 processes, but starts only one" in done.stderr, done.stderr[-4000:]
    assert (tmp_path / "run" / "report.html").is_file()


def test_the_same_of_a_configuration(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text(CONFIGURATION)
    done = launched(["accelerate.commands.launch"], recipe, tmp_path, HF_HOME=str(tmp_path))
    assert "asked for 3 processes, but starts only one" in done.stderr, done.stderr[-4000:]
    assert (tmp_path / "run" / "report.html").is_file()


CONFIGURATION = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
mixed_precision: 'no'
num_machines: 1
num_processes: 3
use_cpu: true
"""


QUICK = ("seeds=[0]", "training.epochs=1", "discretizer.train.training.epochs=1", "evaluation.suites=[clean]")


def test_a_table_is_reproduced_by_all_processes_and_told_by_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", *TORCHRUN, "-m", "dat", "reproduce", "table8", "--out", "out", "--cpu", *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}

    def reproduced() -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.count("\nTable: ") == 1, "one process prints"
        assert len(re.findall(r"scale demo, in out\n", done.stdout)) == 1
        return done

    first = reproduced()
    assert "run 1 of 1, reproduce/demo-table8" in first.stderr
    assert first.stderr.count("run 1 of 1") == 1
    run = tmp_path / "out" / "demo-table8"
    before = (run / "results.jsonl").read_text()
    (run / "results.jsonl").unlink()
    shutil.rmtree(run / "alpha-0.4-seed0")  # as if it had been stopped
    stamps = {path: path.stat().st_mtime_ns for path in run.glob("alpha-0.[12]-seed0/checkpoints/*/model.safetensors")}
    again = reproduced()
    assert len(stamps) == 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert values_of((run / "results.jsonl").read_text()) == values_of(before)
    assert again.stdout.split("Measure")[1] == first.stdout.split("Measure")[1]


ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


TOY = """import sys
from pathlib import Path
from dat.cli import main
from dat.recipe import table_plan
table_plan.PLANS = Path("plans")
main()
"""


def test_accelerate_reproduces_a_table_by_two_processes_without_gpus(recipe: dict[str, Any], tmp_path: Path) -> None:
    methods = {name: {"method": "standard"} for name in ("alpha-0", "random")}
    (tmp_path / "plans").mkdir()
    (tmp_path / "toy.py").write_text(TOY)
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({**recipe, "methods": {"alpha-0.4": {"method": "standard"}}}))
    (tmp_path / "first.yaml").write_text(json.dumps({**recipe, "methods": methods}))
    (tmp_path / "plans" / "_table8.yaml").write_text(PLAN % (tmp_path / "first.yaml", tmp_path / "second.yaml"))
    command = [sys.executable, "-m", *ACCELERATE, "toy.py", "reproduce", "table8", "--out", "out", "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("\nTable: ") == done.stdout.count("scale demo, in out\n") == 1, "one process prints"
    assert done.stderr.count("run 1 of 2") == done.stderr.count("run 2 of 2") == 1
    assert "evaluate: 4/4" in done.stderr, "each process evaluates half of the pictures of both models"
    assert "starts only one" not in done.stderr
    assert (tmp_path / "out" / "table8.html").is_file()
    shutil.rmtree(tmp_path / "out")
    alone = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", *command[command.index("toy.py") :]]
    done = subprocess.run(alone, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr.count("asked for 2 processes, but starts only one") == 1, "once, though each training joins anew"


def values_of(text: str) -> list[tuple[object, ...]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return [(row["method"], row["suite"], row["value"], row["checkpoint"]) for row in rows if row["suite"] == "clean"]
