"""The tutorial, with small pictures in the place of the photos: every command and all of its Python, in its order."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from dat.cli import app
from dat.nn import pretrained as by_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/your-own-pictures.md"
FETCHED = ("pip", "curl", "tar")
"""What needs a network, or is of it, and is taken as done."""
QUICK = {
    "train": (
        "data.size=32",
        "evaluation.suites=[clean]",
        "training.epochs=1",
        "--cpu",
    ),
    "eval": ("--cpu",),
    "predict": ("--cpu",),
}
"""What is added to be done in seconds."""
CREATE = timm.create_model


def steps() -> Iterator[tuple[str, str]]:
    """What a reader types, in the order of the page: a language, and a line of the shell or a block of Python."""
    text = (ROOT / PAGE).read_text()
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines() if language == "sh" else [block]
        yield from ((language, line) for line in lines)


@pytest.fixture
def fetched(tmp_path: Path) -> None:
    """A picture set with the folders of Imagenette, as the archive leaves it."""
    ids = re.findall(r"\b(n\d{8}):", (ROOT / PAGE).read_text())
    assert len(set(ids)) == 10
    draws = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for name in ids:
            folder = tmp_path / "imagenette2-160" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = Image.fromarray(draws.integers(0, 256, (8, 10, 3), dtype=np.uint8))
                noise.resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{name}_{number}.JPEG")


@pytest.fixture
def weights_are_there(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """timm's weights by name are those of seed 7; their names as they are asked for."""
    names: list[str] = []

    def create(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
        if pretrained:
            names.append(name)
            torch.manual_seed(7)
        return CREATE(name, **settings)

    monkeypatch.setattr(by_name, "_ask_once", lambda name: None)
    monkeypatch.setattr(timm, "create_model", create)
    return names


def typed(line: str) -> str:
    """What `dat` prints, of a line with what makes it quick."""
    verb, *words = shlex.split(line, comments=True)[1:]
    done = CliRunner().invoke(app, [verb, *words, *QUICK.get(verb, ())])
    assert done.exit_code == 0, (line, done.stderr, done.exception)
    return done.stdout


def test_the_tutorial_works_as_it_is_typed(
    fetched: None,
    weights_are_there: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    said: list[tuple[str, str]] = []
    namespace: dict[str, Any] = {}
    for language, line in steps():
        if language == "python":
            exec(compile(line, PAGE, "exec"), namespace)
        elif line.startswith("dat "):
            said.append((line.split()[1], typed(line)))
        elif line.split(maxsplit=1)[0] not in FETCHED:
            subprocess.run(["bash", "-c", line], check=True, cwd=tmp_path)
    assert [verb for verb, _ in said] == ["data", "data", "train", "train", "eval", "report", "predict", "predict"]
    assert weights_are_there == ["tf_efficientnet_lite0.in1k"]
    outputs = [output for _, output in said]
    page = (tmp_path / "runs" / "photos" / "report.md").read_text()
    titles = [line for line in page.splitlines() if line.startswith("| Method | Clean")]
    assert re.search(r"Clean \(photo\).*\| Clean \(snow\)", titles[0]), "two named sets in one table"
    assert any("Clean (art)" in title and "Clean (photo)" in title for title in titles), "what was evaluated later"
    assert re.search(r"Clean \(art\) +Clean \(blur\)", outputs[4])
    assert len([line for line in outputs[6].splitlines() if line.startswith("holiday/")]) == 5
    with Image.open(tmp_path / "seen.png") as seen:
        assert seen.width > 100
    assert capsys.readouterr().out.count(" %") == 5  # of the Python
