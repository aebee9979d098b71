"""What SECURITY.md promises of a whole training: where it writes, and that it asks no network. Python's audit events tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """
kind: classification
title: tiny
data: {source: folder, train: photos/train, test: photos/test, size: 16, augment: {kind: none}}
discretizer: {load: cifar-f2-1024-fast}
model: {name: small_resnet, options: {depth: 8, width: 4}}
training: {epochs: 1, batch_size: 4, lr: 0.01}
methods: {standard: {}, dat: {alpha: 0.4}}
evaluation: {suites: [clean]}
out: run
"""
LISTENER = """
import json, os, sys
CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.move"}
ASKS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
told = {"written": set(), "asked": set()}

def hear(event, arguments):
    if event in ASKS:
        told["asked"].add(f"{event} {arguments}")
    elif event in CHANGES or (event == "open" and arguments[2] and arguments[2] & WRITES):
        if not isinstance(arguments[0], int):
            told["written"].add(os.path.abspath(os.fsdecode(arguments[0])))

sys.addaudithook(hear)
from dat.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["dat", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
print(json.dumps({kind: sorted(names) for kind, names in told.items()}), file=sys.stderr)
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working folder with pictures and a recipe, and a home."""
    numbers = np.random.default_rng(0)
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / "work/photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = numbers.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "work/photos" / name / f"{number}.png")
    (tmp_path / "work/tiny.yaml").write_text(RECIPE)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    return tmp_path


def heard(here: Path, *commands: list[str]) -> dict[str, list[str]]:
    """What `dat` with these arguments wrote, made or removed, and whom it asked."""
    caches = {"XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}
    kept = {name: value for name, value in os.environ.items() if name not in caches}
    places = {"HOME": str(here / "home"), "TMPDIR": str(here / "tmp"), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    how = {"cwd": here / "work", "env": {**kept, **places, "CUDA_VISIBLE_DEVICES": ""}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", LISTENER, json.dumps(commands)], check=False, timeout=300, **how)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


def test_a_training_writes_into_its_folder_and_asks_no_network(here: Path) -> None:
    """With its evaluation, another one, and its page."""
    before = {path: path.stat().st_mtime_ns for path in [here / "work/photos", *(here / "work/photos").rglob("*")]}
    allowed = [str(here / place) for place in ("work/run", "home/.cache", "home/.config", "tmp")] + ["/dev/null"]
    told = heard(here, ["train", "tiny.yaml"], ["eval", "run/dat-seed0", "data.test=photos/train"], ["report", "run"])
    assert sum(name.startswith(f"{here / 'work/run'}{os.sep}") for name in told["written"]) > 10
    assert [name for name in told["written"] if not any(name.startswith(place) for place in allowed)] == []
    assert told["asked"] == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
