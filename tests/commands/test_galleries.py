"""Several discretizers side by side, and Q(x + delta) by alpha: numbers against plain calls, and the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands import galleries
from dat.commands.trained import TrainedNetwork
from dat.data.pipeline import CenterCrop
from dat.discretizers.pretrained import load_discretizer
from dat.errors import DataError, RunFolderError, UsageError
from dat.nn.features import encoder_of
from dat.recipe import read
from dat.recipe.pretraining import PretrainingBlueprint
from dat.report.strips import BAND, GAP, beside, captioned, stacked

NAMES = ("cifar-f2-1024-fast", "cifar-f4-1024-fast")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    numbers = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        picture = numbers.integers(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255


def called(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["discretize", *map(str, arguments), "--cpu"], catch_exceptions=False)


def test_discretizers_are_compared(photos: Path, tmp_path: Path) -> None:
    printed = called(photos, "--with", NAMES[0], "--with", NAMES[1], "--out", tmp_path / "seen", "--json")
    rows = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [(Path(row["image"]).name, row["discretizer"]) for row in rows] == [
        (name, source) for name in ("0.png", "1.png") for source in NAMES
    ]
    images = pixels(photos / "1.png")
    error = float((load_discretizer(NAMES[1])(images) - images).double().square().mean())
    assert rows[3]["psnr_db"] == pytest.approx(-10 * np.log10(error), abs=0.006)
    with Image.open(tmp_path / "seen" / "comparison.png") as picture:
        assert picture.size == (3 * 192 + 2 * GAP, 2 * (192 + 2 * BAND) + GAP)


def classifier() -> dat.TrainedModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 10)).eval()
    recipe: Any = read.load("cifar10/cpu/dat")
    return dat.TrainedModel(model, tuple("abcdefghij"), CenterCrop(16, crop_pct=1.0), recipe, "dat", 0)


def test_steps_are_those_of_the_adversary(photos: Path, tmp_path: Path) -> None:
    run, discretizer = classifier(), load_discretizer(NAMES[0])
    with patch.object(galleries, "open_run", return_value=run):
        found = galleries.step_through(
            [photos / "0.png"], tmp_path, tmp_path / "seen", alphas=(0.0, 2.0), source=NAMES[0], device="cpu"
        )
    images = pixels(photos / "0.png")
    said = run.model(images).argmax(dim=1)
    change = dat.discrete_change(run.model, dat.Classification(), discretizer, images, said, alpha=2.0)
    assert [one.modified_codes for one in found] == [0.0, pytest.approx(change.rate, abs=0.006)]
    assert change.rate > 0
    table = galleries.as_table(found).splitlines()
    assert table[0].split() == ["picture", "alpha", "0", "alpha", "2"]
    with Image.open(tmp_path / "seen" / "alphas.png") as picture:
        assert picture.size == (3 * 192 + 2 * GAP, 2 * 192 + BAND + GAP)
        marked = np.asarray(picture)[192 + BAND + GAP :]
    orange = (np.abs(marked.astype(int) - (255, 92, 0)).sum(axis=2) < 30).any(axis=0)
    assert not orange[: 2 * 192 + GAP].any()  # nothing changed at alpha 0
    assert orange[2 * (192 + GAP) :].any()


def test_words_stand_below_a_picture() -> None:
    white, red = Image.new("RGB", (60, 20), "white"), Image.new("RGB", (60, 20), "red")
    assert captioned(white, "one\ntwo").size == (60, 20 + 2 * BAND)
    assert np.asarray(captioned(white, "word")).min() == 0
    wide = captioned(white, "more words than a picture is wide")
    assert wide.width > 60
    assert np.asarray(wide)[20:, 60:].min() == 0, "the last of them is there"
    row = beside([red, captioned(red, "")])
    assert row.size == (120 + GAP, 20 + BAND)
    assert stacked([red, red, red]).size == (60, 60 + 2 * GAP)
    assert np.asarray(row)[5, [0, 61, 70]].tolist() == [[255, 0, 0], [255, 255, 255], [255, 0, 0]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--with is missing; name a discretizer"),
        (["--with", NAMES[0], "--alpha", 0.2], "--alpha is 0.2, .* add --attack"),
        (["--with", NAMES[0], "--with", NAMES[1], "--rate", 0.1], "--rate does not go with a second --with"),
        (["--with", NAMES[0], "--with", NAMES[0]], "--with names a discretizer twice"),
        (["--attack", "runs/none/dat-seed0", "--size", 8], "--size does not go with --attack"),
        (["--attack", "runs/none/dat-seed0", "--alpha", -1], "--alpha is -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[object], sentence: str, photos: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        called(photos, *options)


def learner(kind: str) -> TrainedNetwork:
    torch.manual_seed(0)
    recipe: Any = read.load(f"selfsupervised/{kind}-small")
    model = PretrainingBlueprint(recipe.model, recipe.task, 32).untrained(0).eval()
    task = recipe.task.task(model.network)
    return TrainedNetwork(model, task, encoder_of(model), CenterCrop(32, crop_pct=1.0), recipe, "dat", 0)


@pytest.mark.parametrize("kind", ["simclr", "mae"])
def test_models_that_learned_without_classes_are_attacked_too(kind: str, photos: Path, tmp_path: Path) -> None:
    run, discretizer = learner(kind), load_discretizer(NAMES[0])
    shown = sorted(photos.glob("*.png"))
    settings: Any = {"alphas": (0.0, 2.0), "source": NAMES[0], "device": "cpu"}
    with patch.object(galleries, "open_run", return_value=run):
        found = galleries.step_through(shown, tmp_path, tmp_path / "seen", **settings)
    assert [(Path(one.image).name, one.alpha) for one in found] == [(f"{k}.png", alpha) for k in (0, 1) for alpha in (0.0, 2.0)]
    assert [one.modified_codes > 0 for one in found] == [False, True] * 2
    if kind == "simclr":
        resized = [run.view(Image.open(path)) for path in shown]
        images = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in resized]) / 255
        change = dat.discrete_change(run.model, run.task, discretizer, images, images.flip(-1), alpha=2.0)
        assert [found[1].modified_codes, found[3].modified_codes] == pytest.approx(change.rates.tolist(), abs=0.006)
        with patch.object(galleries, "open_run", return_value=run), pytest.raises(UsageError) as told:
            galleries.step_through(shown[:1], tmp_path, tmp_path / "one", **settings)
        assert (
            str(told.value) == f"dat-seed0 learned to tell a picture from others, and there is one, {shown[0]}; name 2 or more."
        )


def test_a_file_in_the_place_of_the_folder_is_told_with_the_flag(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    told = pytest.raises(
        RunFolderError, match=r"taken cannot be written \((File exists|Not a directory)\); write --out ANOTHER_FOLDER\.$"
    )
    for sources in (NAMES[:1], NAMES):
        with told:
            called(photos, *[word for name in sources for word in ("--with", name)], "--out", tmp_path / "taken")
    with told, patch.object(galleries, "open_run", return_value=classifier()):
        called(photos, "--attack", tmp_path / "run", "--with", NAMES[0], "--out", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_what_fails_makes_no_folder(photos: Path, tmp_path: Path) -> None:
    (photos / "damaged.png").write_bytes(b"none")
    for words in (["--with", NAMES[0], "--with", NAMES[1]], ["--attack", tmp_path / "run", "--with", NAMES[0]]):
        with pytest.raises(DataError, match=r"damaged\.png"), patch.object(galleries, "open_run", return_value=classifier()):
            called(photos, *words, "--out", tmp_path / "fresh")
        assert not (tmp_path / "fresh").exists()
