"""`dat analyze`: numbers are those of plain calls, whatever the task; what was measured is kept; and what is refused."""

from __future__ import annotations

import csv
import json
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
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import dat
from dat.analysis.adversaries import ADVERSARIES, Shown
from dat.analysis.codes import COMPARED as CODES_COMPARED
from dat.cli import app
from dat.commands import analyze_codes, analyze_spectrum, analyze_statistics, specimens
from dat.commands.asked import Trained, asked
from dat.commands.specimens import Options, Pictures, Specimen, open_specimens
from dat.commands.trained import TrainedNetwork, load_classifier
from dat.data.boxed import Letterbox
from dat.data.folders import PictureFolder
from dat.data.pipeline import CenterCrop
from dat.discretizers import codes
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.pretrained import load_discretizer
from dat.engine import checkpoint
from dat.errors import CheckpointError, DataError, DatError, UsageError
from dat.evaluation.identity import checkpoint_hash
from dat.methods.at import AT
from dat.nn.features import encoder_of
from dat.recipe import read
from dat.recipe.pretraining import PretrainingBlueprint
from dat.report.spectrum_figure import amplification, draw_energies
from dat.report.statistics_figure import Correlations, statistics_figure
from dat.results import Row, mean_interval, read_rows
from tests.report.synthetic_run import row
from tests.tasks.test_detection import fcos

RECIPE: dict[str, Any] = {
    "kind": "classification",
    "title": "Seconds",
    "data": {"source": "digits", "size": 16, "augment": {"kind": "none"}},
    "discretizer": {"load": "cifar-f2-1024-fast"},
    "model": {"name": "small_resnet", "options": {"depth": 8, "width": 8}},
    "training": {"epochs": 1, "batch_size": 256, "lr": 0.1},
    "methods": {"at": {"epsilon": 0.1, "step_size": 0.05, "steps": 2}, "dat": {"alpha": 0.3}},
    "evaluation": {"suites": ["clean"]},
}
FEW = Options(pictures=12, batch_size=4, cpu=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dat.train({**RECIPE, "out": str(tmp_path_factory.mktemp("runs") / "seconds")}, cpu=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures of one size in two folders."""
    folder, numbers = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(9):
        file = folder / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(numbers.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(file)
    return folder


def analyze(verb: str, *arguments: object) -> Any:
    return CliRunner().invoke(app, ["analyze", verb, *map(str, arguments), "--cpu"], catch_exceptions=False)


def test_rows_of_statistics_are_those_of_plain_calls(run: Path, photos: Path, tmp_path: Path) -> None:
    printed = analyze("statistics", run, "--data", photos, "--batch-size", 4, "--out", tmp_path, "--json")
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    rows = read_rows(tmp_path / "statistics.jsonl")
    assert [line["value"] for line in lines] == [row.value for row in rows]
    assert {row.protocol["model"] for row in rows} == {"at-seed0", "dat-seed0"}
    found = {(row.method, row.suite, row.metric): row for row in rows}
    discretizer, trained = load_discretizer("cifar-f2-1024-fast"), dat.load_run(run / "at-seed0")
    files = sorted(photos.rglob("*.png"))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0)).tolist()
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(files[place]))).permute(2, 0, 1) for place in order]) / 255
    by_batch: dict[str, list[float]] = {"discrete": [], "pixel": []}
    for images in pictures[:8].split(4):
        labels = trained.model(images).argmax(dim=1)

        def loss_fn(shown: torch.Tensor, labels: torch.Tensor = labels) -> torch.Tensor:
            return F.cross_entropy(trained.model(shown), labels, reduction="none")

        words = dat.discrete_adversary(images, loss_fn, discretizer, alpha=0.3)
        pixels = dat.pgd(images, loss_fn, epsilon=0.1, step_size=0.05, steps=2)
        for name, shown in {"discrete": words, "pixel": pixels}.items():
            of_layers = dat.statistics(trained.model, images, shown)
            by_batch[name].append(float(np.mean([one.variance for one in of_layers.values()])))
    for name, values in by_batch.items():
        row, (mean, interval) = (
            found["at", f"statistics/{name}", "correlation_of_variances"],
            mean_interval(values, bounds=(-1.0, 1.0)),
        )
        assert row.value == pytest.approx(mean, abs=1e-6)
        assert row.ci == pytest.approx(interval, abs=1e-5)
        assert (row.n, row.protocol["batches"], row.protocol["interval"]) == (8, 2, "Student over batches")
        assert row.protocol["trained_with"] == (name == "pixel")
    correlations = [row for (_, suite, _), row in found.items() if suite.split("/")[1] in ADVERSARIES]
    assert all(low >= -1 and high <= 1 for low, high in (row.ci for row in correlations if row.ci))
    assert any(row.ci and row.ci[1] == 1 for row in correlations), "one is cut"
    page = (tmp_path / "statistics.html").read_text()
    assert f"weights {found['at', 'statistics/pixel', 'correlation_of_means'].checkpoint[:8]}" in page
    assert "of means is " in page
    gaps = np.subtract(by_batch["discrete"], by_batch["pixel"])
    row = found["at", "statistics/discrete-minus-pixel", "correlation_of_variances"]
    assert row.value == pytest.approx(gaps.mean(), abs=1e-6)
    layers = {row.suite for row in rows if row.suite.startswith("statistics/pixel/")}
    assert len(layers) == sum(isinstance(part, nn.BatchNorm2d) for part in trained.model.modules())
    assert found["dat", "statistics/discrete", "correlation_of_means"].protocol["trained_with"]


def test_rows_of_spectra_are_means_over_pictures(run: Path, photos: Path, tmp_path: Path) -> None:
    printed = analyze("spectrum", run / "dat-seed0", "--data", photos, "--out", tmp_path, "--epsilon-255", 8)
    assert str(tmp_path / "spectrum.png") in printed.stdout
    found = {(row.suite, row.metric): row for row in read_rows(tmp_path / "spectrum.jsonl")}
    (specimen,) = open_specimens([run / "dat-seed0"], Options(data=photos, epsilon_255=8.0, cpu=True))
    images, shown = specimen.attacked(0, 9)
    expected = {name: dat.spectrum(images, shown.images[name]) for name in ADVERSARIES}
    for name, of_pictures in expected.items():
        row, values = found[f"spectrum/{name}", "energy_above_half_nyquist"], of_pictures.above_half_nyquist.tolist()
        mean, interval = mean_interval(values)
        assert (row.value, row.ci) == (pytest.approx(mean), pytest.approx(interval))
        assert row.n == 9
        assert row.protocol["white_noise"] == pytest.approx(of_pictures.white, abs=0.01)
        assert found[f"spectrum/{name}", "l2"].value == pytest.approx(float(of_pictures.l2.mean()))
    assert found["spectrum/pixel", "linf_255"].value == pytest.approx(8, abs=1e-3)
    gap = expected["discrete"].above_half_nyquist - expected["pixel"].above_half_nyquist
    assert found["spectrum/discrete-minus-pixel", "energy_above_half_nyquist"].value == pytest.approx(float(gap.mean()))
    further = 255 * (expected["discrete"].linf - expected["pixel"].linf)
    row, (mean, interval) = found["spectrum/discrete-minus-pixel", "linf_255"], mean_interval(further.tolist())
    assert (row.value, row.ci) == (pytest.approx(mean), pytest.approx(interval))
    assert found["spectrum/clean", "colours_in_patch"].value == 64
    page = (tmp_path / "spectrum.html").read_text()
    assert f"{found['spectrum/pixel', 'l2'].value:.2f}" in page
    assert "Figure 3 of the paper \N{MIDDLE DOT} 9 pictures of 16 x 16 pixels" in page
    with Image.open(tmp_path / "spectrum.png") as picture:
        assert min(picture.size) > 500


def test_rows_of_codes_are_those_of_plain_calls(run: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ("--data", photos, "--alpha", 0, "--alpha", 2, "--with", "cifar-f2-1024-fast", "--with", "cifar-f4-1024-fast")
    printed = analyze("codes", run, *arguments, "--out", tmp_path, "--batch-size", 5)
    assert str(tmp_path / "codes.png") in printed.stdout
    rows = read_rows(tmp_path / "codes.jsonl")
    keys = ("model", "discretizer", "alpha")
    found = {(*(row.protocol[key] for key in keys), row.suite, row.metric): row for row in rows}
    assert len(found) == len(rows) == 2 * 2 * 2 * (4 * 4 + 2)
    (specimen,) = open_specimens([run / "dat-seed0"], Options(data=photos, source="cifar-f4-1024-fast", cpu=True))
    model, images = specimen.run.model, specimen.pictures.batch(0, 9)
    said = model(images).argmax(dim=1)

    def loss_fn(shown: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(shown), said, reduction="none")

    plain = dat.codes(images, loss_fn, specimen.discretizer, alpha=2.0)
    of = ("dat-seed0", "cifar-f4-1024-fast", 2.0)
    with torch.no_grad():
        same = 100 * (model(plain.images["discrete"]).argmax(dim=1) == said).double()
        gap = (loss_fn(plain.images["discrete"]) - loss_fn(plain.images["reconstruction"])).double()
    expected = {"modified_code_rate": plain.rates["discrete"], "l2": plain.l2["discrete"], "same_answer": same}
    for metric, values in expected.items():
        row, (mean, interval) = found[*of, "codes/discrete", metric], mean_interval(values.tolist())
        assert row.value == pytest.approx(mean, abs=1e-4)
        assert row.ci is not None
        assert interval is not None
        low, high = interval if metric == "l2" else (max(0, interval[0]), min(100, interval[1]))
        assert row.ci == pytest.approx((low, high), abs=1e-3)
        assert (row.n, row.protocol["interval"]) == (9, "Student over pictures")
        assert "pixel" not in row.protocol
    losses = [found[*of, f"codes/{way}", "loss"].value for way in ("discrete", "reconstruction")]
    assert losses[0] - losses[1] == pytest.approx(float(gap.mean()), abs=1e-4)
    for model_name, discretizer, alpha in {key[:3] for key in found}:
        at = {way: found[model_name, discretizer, alpha, f"codes/{way}", "modified_code_rate"].value for way in CODES_COMPARED}
        assert at["discrete"] == at["random-codes"]
        assert (at["discrete"] > 0) == (alpha != 0)
        blind = found[model_name, discretizer, alpha, "codes/discrete-minus-random-codes", "loss"]
        ways = [found[model_name, discretizer, alpha, f"codes/{way}", "loss"].value for way in ("discrete", "random-codes")]
        assert blind.value == pytest.approx(ways[0] - ways[1])
    assert (tmp_path / "codes.html").read_text().count("popovertarget=") > 100
    sheet = list(csv.DictReader((tmp_path / "codes.csv").read_text().splitlines()))
    assert [float(line["value"]) for line in sheet] == [row.value for row in rows]
    assert {line["alpha"] for line in sheet} == {"0.0", "2.0"}


def test_steps_are_those_of_table_8_and_of_the_run_and_are_kept(run: Path, tmp_path: Path) -> None:
    few = Options(pictures=4, batch_size=4, cpu=True)
    first = analyze_codes.sweep([run / "dat-seed0"], tmp_path, few)
    assert sorted({float(str(row.protocol["alpha"])) for row in first}) == [0, 0.1, 0.2, 0.3, 0.4]
    with patch("dat.commands.analyze_codes.codes", side_effect=AssertionError("measured again")):
        assert analyze_codes.sweep([run / "dat-seed0"], tmp_path, few) == first
        with pytest.raises(AssertionError, match="measured again"):
            analyze_codes.sweep([run / "dat-seed0"], tmp_path, few, alphas=[0.7])


def test_a_discretizer_is_read_and_hashed_once_for_all_models_and_alphas(run: Path, tmp_path: Path) -> None:
    hashed = list[type]()

    def noted(model: nn.Module) -> str:
        hashed.append(type(model))
        return checkpoint_hash(model)

    with (
        patch.object(specimens, "checkpoint_hash", noted),
        patch.object(specimens, "load_discretizer", wraps=load_discretizer) as read_once,
    ):
        analyze_codes.sweep([run], tmp_path, Options(pictures=2, batch_size=2, cpu=True), alphas=[0.1, 0.2])
    assert hashed.count(FrozenDiscretizer) == read_once.call_count == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--alpha", -1), r"--alpha is -1.0, the L2 length of a step; write 0 or more"),
        (("--alpha", 1, "--alpha", 1), r"--alpha names one twice \(1.0, 1.0\); name each once"),
        (("--with", "a", "--with", "a"), r"--with names one twice \(a, a\); name each once"),
        (("--with", "nonesuch"), "nonesuch"),
    ],
)
def test_steps_and_discretizers_that_are_none_are_refused(
    arguments: tuple[object, ...], said: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatError, match=said):
        analyze("codes", run, "--out", tmp_path, *arguments)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("verb", [analyze_statistics.statistics, analyze_spectrum.spectra])
def test_what_was_measured_is_kept(verb: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    first = verb([run], tmp_path, FEW)
    with patch.object(Specimen, "attacked", side_effect=AssertionError("measured again")):
        assert verb([run], tmp_path, FEW) == first
        with pytest.raises(AssertionError, match="measured again"):
            verb([run], tmp_path, Options(pictures=12, batch_size=4, alpha=0.5, cpu=True))
    kept = next((tmp_path / "measured").glob("*at-seed0*"))
    kept.write_bytes(kept.read_bytes()[:100])
    assert verb([run], tmp_path, FEW) == first


def test_rows_of_a_run_name_the_weights_that_are_read_back(run: Path) -> None:
    known = {row.method: row.checkpoint for row in read_rows(run / "results.jsonl")}
    assert known == {one.run.label: one.checkpoint for one in open_specimens([run], FEW)}


def test_the_test_pictures_of_the_run_are_taken_where_none_are_named(run: Path) -> None:
    found = open_specimens([run], FEW)
    assert [one.own for one in found] == ["pixel", "discrete"]
    assert found[0].pictures is found[1].pictures
    assert found[0].pictures.pixels.shape == (12, 3, 16, 16)
    assert (found[0].alpha, found[0].at.epsilon) == (0.3, 0.1)
    asked_for = open_specimens([run], Options(pictures=4, epsilon_255=2.0, alpha=1.5, cpu=True))[0]
    assert (asked_for.at.epsilon, asked_for.at.step_size, asked_for.alpha) == pytest.approx((2 / 255, 4 / 3 / 255, 1.5))


def test_pictures_of_a_table_are_those_of_their_folder(run: Path, photos: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["path,label", *(f"{photos / name},{name[0]}" for name in names)]))
    of_folder, of_table = (open_specimens([run], replace(FEW, data=place))[0].pictures for place in (photos, table))
    assert len(of_table) == 9
    assert of_table.fingerprint == of_folder.fingerprint


def specimen_of(trained: Trained, side: int, count: int = 8) -> Specimen:
    pixels = np.random.default_rng(0).integers(0, 255, (count, 3, side, side)).astype(np.uint8)
    return Specimen(trained, "one", load_discretizer("cifar-f2-1024-fast"), 1.0, AT(), Pictures(pixels), 4)


def learned_without_classes(kind: str) -> TrainedNetwork:
    recipe: Any = read.load(f"selfsupervised/{kind}-small")
    section = recipe.model
    if kind == "mae":
        small = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "decoder_embed_dim": 16, "decoder_depth": 1}
        section = section.model_copy(update={"options": {**small, "decoder_num_heads": 2}})
    model = PretrainingBlueprint(section, recipe.task, 16).untrained(0).eval()
    label = next(iter(recipe.methods))
    return TrainedNetwork(model, recipe.task.task(model.network), encoder_of(model), CenterCrop(16), recipe, label, 0)


def detector() -> dat.TrainedDetector:
    recipe: Any = read.load("detection/small")
    model = dat.Normalized(dat.Detector(fcos()), mean=[0.5] * 3, std=[0.5] * 3).eval()
    return dat.TrainedDetector(model, ("a", "b"), Letterbox(64, 64), recipe, next(iter(recipe.methods)), 0)


@pytest.mark.parametrize(
    ("make", "side"),
    [(lambda: learned_without_classes("mae"), 16), (lambda: learned_without_classes("simclr"), 16), (detector, 64)],
)
def test_every_task_is_attacked_and_its_layers_are_seen(make: Callable[[], Trained], side: int) -> None:
    specimen = specimen_of(make(), side)
    images, shown = specimen.attacked(4, 4)
    torch.testing.assert_close(images, specimen.pictures.batch(4, 4))
    assert list(shown.images) == list(ADVERSARIES)
    for name in ("pixel", "discrete"):
        assert not torch.equal(shown.images[name], shown.images["reconstruction"])
    delta = shown.images["pixel"] - images
    assert 0 < float(delta.abs().max()) <= 4 / 255 + 1e-6
    assert shown.modified > 0
    found = dat.statistics(specimen.shown, images, shown.images["pixel"])
    assert len(found) >= 5
    assert all("decoder" not in name and "projector" not in name for name in found)
    again = specimen.attacked(4, 4)[1]
    assert all(torch.equal(one, again.images[name]) for name, one in shown.images.items())


@pytest.mark.parametrize(("make", "side"), [(lambda: learned_without_classes("mae"), 16), (detector, 64)])
def test_codes_of_tasks_without_classes_have_no_answers(make: Callable[[], Trained], side: int, tmp_path: Path) -> None:
    with patch("dat.commands.analyze_codes.open_specimens", return_value=[specimen_of(make(), side)]):
        rows = analyze_codes.sweep([tmp_path], tmp_path, FEW, alphas=[1.0])
    assert {row.metric for row in rows} == {"modified_code_rate", "loss", "l2"}
    assert "same answer" not in analyze_codes.as_table(rows)
    assert next(row.value for row in rows if row.suite == "codes/discrete") > 0


def test_the_adversary_raises_the_loss_of_what_the_model_says(run: Path) -> None:
    for specimen in open_specimens([run], FEW):
        images, shown = specimen.attacked(0, 12)
        of = asked(specimen.run, images)
        assert torch.equal(of.targets, specimen.run.model(images).argmax(dim=1))
        with torch.no_grad():
            before, after = (of.task.losses(specimen.run.model, one, of.targets) for one in (images, shown.images["pixel"]))
        assert float((after - before).mean()) > 0


def test_random_words_are_as_many_as_the_adversary_changed(run: Path) -> None:
    specimen = open_specimens([run / "dat-seed0"], Options(pictures=64, batch_size=64, alpha=1.0, cpu=True))[0]
    images, shown = specimen.attacked(0, 64)
    with patch("dat.discretizers.codes.resample", wraps=codes.resample) as resample:
        specimen.attacked(0, 64)
    assert resample.call_args.args[2] == pytest.approx(shown.modified / 100)
    assert float((shown.images["random-codes"] - images).abs().mean()) > 0


def test_what_is_drawn_follows_from_the_place_of_a_batch(run: Path) -> None:
    specimen = open_specimens([run / "dat-seed0"], FEW)[0]
    twice = replace(specimen, pictures=Pictures(np.tile(specimen.pictures.pixels[:4], (2, 1, 1, 1))))
    first, again, second = (twice.attacked(place, 4)[1].images["random-codes"] for place in (0, 0, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


# What is refused.


def refused(arguments: Options, *places: Path) -> list[Specimen]:
    return open_specimens(places, arguments)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"is not the folder of a trained model; give RUN/<method>-seed<k>, e.g. runs/demo/dat-seed0\.$"
    ):
        refused(FEW, tmp_path)


def test_a_half_finished_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = shutil.copytree(run, tmp_path / "half")
    checkpoints = half / "dat-seed0" / "checkpoints"
    (last,) = checkpoints.glob("step-*")
    state = checkpoint.load(last)
    assert state.numbers["step"] == state.numbers["steps"] == 5
    checkpoint.save(checkpoints, 2, checkpoint.State(state.tensors, {**state.numbers, "step": 2}))
    with pytest.raises(CheckpointError, match=r"dat-seed0 has come to step 2 of 5; .* which --resume completes"):
        refused(FEW, half)
    assert "Note" not in capsys.readouterr().err, "one sentence, not two"
    assert len(refused(FEW, half / "at-seed0")) == 1


def test_a_run_of_which_trainings_have_not_begun_is_refused(run: Path, tmp_path: Path) -> None:
    part = shutil.copytree(run, tmp_path / "part")
    shutil.rmtree(part / "dat-seed0")
    with pytest.raises(CheckpointError, match=r"part lacks dat-seed0, not trained yet; .* e.g. .*part/at-seed0\."):
        refused(FEW, part)
    assert len(refused(FEW, part / "at-seed0")) == 1


def test_a_model_that_is_named_twice_counts_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    (tmp_path / "link").symlink_to(run)
    found = refused(FEW, run, run / "dat-seed0", Path(run.name), tmp_path / "link" / "at-seed0")
    assert [one.name for one in found] == ["at-seed0", "dat-seed0"]


def test_models_of_runs_of_one_name_are_told_apart(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "elsewhere" / run.name)
    found = refused(FEW, run / "at-seed0", other / "at-seed0")
    assert [one.name for one in found] == [f"{run.parent.name}/{run.name}/at-seed0", f"elsewhere/{run.name}/at-seed0"]
    third = shutil.copytree(run, tmp_path / "other")
    assert [one.name for one in refused(FEW, run / "at-seed0", third / "dat-seed0")] == [
        f"{run.name}/at-seed0",
        "other/dat-seed0",
    ]
    last = next((run / "at-seed0" / "checkpoints").glob("step-*"))
    assert [one.name for one in refused(FEW, run / "at-seed0", last)] == ["at-seed0", f"at-seed0/checkpoints/{last.name}"]


def test_too_few_pictures_are_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(photos / "a" / "0.png", one)
    with pytest.raises(DataError, match=r"There is one picture, .*0\.png, and an interval needs 2 or more"):
        refused(Options(data=one, cpu=True), run / "at-seed0")
    with pytest.raises(UsageError, match=r"9 pictures make 1 whole batches of 8, .* write --batch-size, e.g. 4"):
        analyze_statistics.statistics([run / "at-seed0"], tmp_path, Options(data=photos, batch_size=8, cpu=True))
    three = Options(data=photos, pictures=3, batch_size=2, cpu=True)
    with pytest.raises(UsageError, match=r"3 pictures make 1 whole batches of 2, .* or more; give more pictures\.$"):
        analyze_statistics.statistics([run / "at-seed0"], tmp_path, three)
    with pytest.raises(UsageError, match="--pictures is 1"):
        Options(pictures=1)


def test_pictures_of_several_sizes_are_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    mixed = shutil.copytree(photos, tmp_path / "mixed")
    Image.new("RGB", (20, 24)).save(mixed / "other.png")
    specimen = open_specimens([run / "at-seed0"], FEW)[0]
    files = PictureFolder(mixed)
    with pytest.raises(DataError, match=r"is 16x16 but .*other.png is 20x24.*add --size"):
        specimens._read(files, CenterCrop(), 50)
    assert specimens._read(files, CenterCrop(12, crop_pct=1.0), 50).pixels.shape == (10, 3, 12, 12)
    with pytest.raises(UsageError, match="--size is 8, but at-seed0 is shown pictures of 16; leave it out"):
        specimens.view_of_run(replace(specimen.run, view=CenterCrop(16)), 8)


def test_a_model_without_norms_is_refused(run: Path, tmp_path: Path) -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(768, 10)).eval()
    loaded = load_classifier(run / "at-seed0")
    trained = dat.TrainedModel(bare, loaded.classes, loaded.view, loaded.recipe, "at", 0)
    with (
        patch.object(specimens, "load_run", return_value=trained),
        pytest.raises(UsageError, match="Sequential has no normalisation layer"),
    ):
        analyze_statistics.statistics([run / "at-seed0"], tmp_path, FEW)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"alpha": -1.0}, "--alpha is -1.0"),
        ({"epsilon_255": 300.0}, "--epsilon-255 is 300.0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Options(**settings)


def test_a_run_without_discretizer_is_told_how_to_name_one(run: Path) -> None:
    trained = load_classifier(run / "at-seed0")
    bare = dat.TrainedModel(
        trained.model, trained.classes, trained.view, trained.recipe.model_copy(update={"discretizer": None}), "at", 0
    )
    with patch.object(specimens, "load_run", return_value=bare):
        with pytest.raises(CheckpointError, match="trained without a discretizer; add --with"):
            refused(FEW, run / "at-seed0")
        named = refused(Options(pictures=4, source="cifar-f2-1024-fast", cpu=True), run / "at-seed0")
    assert named[0].discretizer.codebook_size == 1024


# The pictures.


def by_heading(table: str) -> list[dict[str, str]]:
    """The lines of a table in the terminal."""
    heading, *lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()]
    return [dict(zip(heading, line, strict=False)) for line in lines]


def numbers(suite: str, **values: float) -> list[Row]:
    told: dict[str, object] = {"model": "one", "discretizer": "its own", "alpha": 0.5}
    return [row(suite, value, metric=metric, ci=None, protocol=told) for metric, value in values.items()]


def test_numbers_of_spectra_stand_under_their_headings() -> None:
    first = dict(zip(analyze_spectrum.MEASURES, (11, 22, 3, 44, 55), strict=True))
    found = numbers("spectrum/pixel", **first) + numbers("spectrum/discrete", l2=9)
    assert by_heading(analyze_spectrum.as_table(found)) == [
        {
            "model": "one",
            "pictures after": "pixel",
            "energy above half Nyquist": "11.0 %",
            "l_0, pixels": "22.0 %",
            "l_2": "3.00",
            "l_inf, 255ths": "44.0",
            "colours in a patch": "55.0",
        },
        {
            "model": "one",
            "pictures after": "discrete",
            "energy above half Nyquist": "-",
            "l_0, pixels": "-",
            "l_2": "9.00",
            "l_inf, 255ths": "-",
            "colours in a patch": "-",
        },
    ]
    assert {metric: column.title for metric, column in analyze_spectrum.COLUMNS.items()} == {
        "energy_above_half_nyquist": "Above half Nyquist",
        "l0": "l0",
        "l2": "l2",
        "linf_255": "linf",
        "colours_in_patch": "Colours",
    }


def test_numbers_of_statistics_and_codes_stand_under_their_headings() -> None:
    means, variances = analyze_statistics.METRICS
    found = [
        one
        for place, suite in enumerate(("pixel", "discrete", "discrete-minus-pixel"))
        for one in numbers(f"statistics/{suite}", **{means: 0.1 + place / 100, variances: 0.2 + place / 100})
    ]
    lines = {line["pictures after"]: line for line in by_heading(analyze_statistics.as_table(found))}
    assert [lines[name]["means"] for name in lines] == ["0.1000", "0.1100", "0.1200"]
    assert [lines[name]["variances"] for name in lines] == ["0.2000", "0.2100", "0.2200"]
    ways = [
        one
        for place, way in enumerate(CODES_COMPARED)
        for one in numbers(
            f"codes/{way}", modified_code_rate=10.0 + place, loss=float(place), l2=0.5 + place, same_answer=90.0 + place
        )
    ]
    gap = numbers("codes/discrete-minus-random-codes", loss=-7.0) + numbers("codes/discrete-minus-random-step", loss=-8.0)
    (line,) = by_heading(analyze_codes.as_table([*ways, *gap]))
    assert line == {
        "model": "one",
        "with": "its own",
        "alpha": "0.5",
        "modified codes": "11.0 %",
        "by a random step": "12.0 %",
        "loss: Q(x)": "0.000",
        "adversary": "1.000",
        "random step": "2.000",
        "random codes": "3.500",
        "above random codes": "-7.000",
        "same answer: adversary": "91.0 %",
        "l_2 from Q(x): adversary": "1.500",
    }


def test_the_page_of_statistics_takes_means_for_means_and_variances_for_variances() -> None:
    told: dict[str, object] = {"model": "one", "batch_size": 4}
    ends = dict(zip(analyze_statistics.METRICS, ((0.1, 0.3), (-0.3, -0.1)), strict=True))
    found = [
        row(f"statistics/{suite}", sum(ci) / 2, metric=metric, ci=ci, protocol=told)
        for suite in ("pixel", "discrete-minus-pixel")
        for metric, ci in ends.items()
    ]
    sheet = analyze_statistics._sheet(found, {})
    assert "of means is higher on 1 of 1; of variances, lower on 1 of 1." in sheet.lead[0]
    (table,) = sheet.tables.values()
    for line in table.lines:
        shown = {column.title: one.rows[0].metric for column, one in zip(table.columns, line.cells, strict=True)}
        assert shown == {"Means": "correlation_of_means", "Variances": "correlation_of_variances"}


def test_energies_are_of_the_picture_and_of_what_was_done_to_it() -> None:
    images = torch.full((1, 3, 8, 8), 0.5)
    stripes = images + 0.25 * torch.tensor([1.0, -1.0]).repeat(4)
    shown = Shown(dict.fromkeys(ADVERSARIES, images) | {"discrete": stripes, "pixel": images + 0.125}, 0.0)
    found = {name: energy[0] for name, energy in analyze_spectrum._energies(images, shown).items()}
    middle, finest, pixels = (4, 4), (4, 0), 3 * 64
    assert {name: energy.nonzero().tolist() for name, energy in found.items() if name.startswith("delta/")} == {
        "delta/pixel": [[*middle]],
        "delta/discrete": [[*finest]],
        "delta/random-codes": [],
        "delta/reconstruction": [],
    }
    assert float(found["delta/pixel"][middle]) == pytest.approx(pixels * 0.125**2)
    assert float(found["delta/discrete"][finest]) == pytest.approx(pixels * 0.25**2)
    assert float(found["picture/pixel"][middle]) == pytest.approx(pixels * 0.625**2)
    assert float(found["picture/clean"][middle]) == float(found["picture/discrete"][middle]) == pytest.approx(pixels * 0.5**2)


def test_log_spectra_are_drawn_with_frequency_0_in_the_middle_and_on_one_scale() -> None:
    energy = np.full((8, 10), 2.0)
    energy[4, 5], energy[4, 9] = 1000.0, 10.0
    (panel, other) = Figure().subplots(1, 2)
    for axes, name in ((panel, "a"), (other, "b")):
        draw_energies(axes, {"a": energy, "b": 100 * energy}, name)
    first, second = (axes.get_images()[0] for axes in (panel, other))
    np.testing.assert_allclose(np.asarray(first.get_array()), np.log10(energy))
    assert first.get_clim() == second.get_clim() == pytest.approx((np.log10(2.0), 5.0))


def test_layers_without_correlation_do_not_count() -> None:
    values = np.full((2, 3, 2, 2), 0.5)
    values[0, :, 1] = np.nan
    values[1, :, 1] = 0.9
    found = Correlations(("first", "second"), ("pixel", "discrete"), values)
    assert found.over_layers("pixel").tolist() == [[0.5, 0.5]] * 3
    assert found.over_layers("discrete") == pytest.approx(np.full((3, 2), 0.7))
    assert found.gaps("discrete", "pixel").tolist() == [[0.0, 0.0]] * 3  # of the first layer alone
    values[0] = np.nan
    assert np.isnan(found.over_layers("pixel")).all()
    assert len(statistics_figure({"one": found}).axes) == 4


def test_panels_of_statistics_show_what_their_titles_say() -> None:
    values = np.empty((2, 3, 2, 2))
    values[..., 0], values[..., 1] = [0.1, 0.3], [0.6, 0.8]  # means and variances of two layers
    values[1] += 0.05
    figure = statistics_figure({"one": Correlations(("first", "second"), ("pixel", "discrete"), values)})
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["one: means", "one: variances", "means, by layer", "variances, by layer"]
    for title, low, high in (("means", 0.1, 0.3), ("variances", 0.6, 0.8)):
        shown = [np.asarray(line.get_ydata()).tolist() for line in panels[f"{title}, by layer"].get_lines()]
        assert shown == [pytest.approx([low, high]), pytest.approx([low + 0.05, high + 0.05])]
        counts, edges, _ = next(patch for patch in panels[f"one: {title}"].patches if isinstance(patch, StepPatch)).get_data()
        assert counts.sum() == 6
        assert edges[0] == pytest.approx(low)
        assert edges[counts.nonzero()[0][-1]] <= high <= edges[counts.nonzero()[0][-1] + 1]


def test_differences_are_amplified_to_fill_the_range() -> None:
    delta = np.full((10, 10, 3), 0.01)
    assert amplification(delta) == 50
    assert amplification(0 * delta) == 256
    assert amplification(100 * delta) == 1
