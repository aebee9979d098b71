"""The recipes for image folders: fine-tuning where weights can be had, a sentence where not, and the way without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from dat.commands.train import train
from dat.commands.trained import load_run
from dat.errors import CheckpointError
from dat.nn import pretrained as by_name

pytestmark = pytest.mark.usefixtures("all_undrawn")

torch.set_num_threads(1)
SMALL = "model.options={layers: [1, 1, 1, 1], channels: [8, 8, 8, 16]}"
CREATE = timm.create_model


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """What is written on the command line for pictures of two classes, and to be quick."""
    draws = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                picture.resize((40, 40), Image.Resampling.BICUBIC).save(tmp_path / part / name / f"{number}.png")
    quick = ["data.size=32", "training.epochs=1", "training.batch_size=4", "training.precision=fp32", "seeds=[0]"]
    quick += ["methods={standard: {}, dat: {alpha: {rate: 0.1}}}", "evaluation.suites=[clean]"]
    return [*quick, f"data.train={tmp_path / 'train'}", f"data.test={tmp_path / 'test'}", f"out={tmp_path / 'run'}"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], list[str]]:
    """timm with its weights, those of seed 7, or without a network; gives the names of weights that were asked for."""

    def given(is_there: bool) -> list[str]:
        names: list[str] = []

        def create(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
            if not pretrained:
                return CREATE(name, **settings)
            names.append(name)
            if not is_there:
                raise OSError("We couldn't connect to 'https://huggingface.co'.")
            torch.manual_seed(7)
            return CREATE(name, **settings)

        monkeypatch.setattr(by_name, "_ask_once", lambda name: None)
        monkeypatch.setattr(timm, "create_model", create)
        return names

    return given


def test_a_small_recipe_for_folders_fine_tunes_with_what_comes_with_the_package(
    photos: list[str], asked: Callable[[bool], list[str]], tmp_path: Path
) -> None:
    names = asked(True)
    folder = train("folder/small", [*photos, SMALL], cpu=True)
    assert names == ["resnet18.a1_in1k"]
    logged = json.loads((folder / "dat-seed0" / "log.jsonl").read_text().splitlines()[0])
    assert logged["rate"] == pytest.approx(0.1, rel=0.03)
    run = load_run(folder / "dat-seed0")
    assert run.recipe.discretizer is not None
    assert run.recipe.discretizer.load == "photos-f4-1024-fast"
    assert not (folder / "discretizer").exists()


def test_without_weights_it_stops_before_it_begins_and_says_what_to_write(
    photos: list[str], asked: Callable[[bool], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(False)
    said = r"timm cannot get the weights of resnet18\.a1_in1k .*Write model\.pretrained=false .* model\.weights=FILE"
    with pytest.raises(CheckpointError, match=said):
        train("folder/small", photos, cpu=True)
    assert "resnet18.a1_in1k; they are downloaded, unless they are here already" in capsys.readouterr().err, "why one waits"
    assert not (tmp_path / "run").exists()


def test_from_random_weights_no_network_is_asked(photos: list[str], asked: Callable[[bool], list[str]], tmp_path: Path) -> None:
    names = asked(False)
    folder = train("folder/small-scratch", [*photos, "model.options={depth: 8, width: 4}"], cpu=True)
    assert names == []
    assert (folder / "report.html").is_file()
