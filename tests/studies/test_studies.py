"""What every study promises to `dat train`: it knows no kind, and what a recipe names is opened once."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from typer.testing import CliRunner

import dat
from dat.analysis import codes
from dat.cli import app
from dat.commands.check_recipes import rehearse
from dat.commands.report import PAGES, Page
from dat.commands.trained import load_classifier
from dat.data.pipeline import evaluation_batches
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import save_discretizer
from dat.engine.trackers import Names
from dat.errors import CheckpointError, DataError, RunFolderError, UsageError
from dat.nn import weights
from dat.nn.imagenet_networks import tiny_darknet
from dat.nn.zoo import create_network
from dat.recipe import data, read
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.contest import contestant, training_of
from dat.recipe.data import DataSection
from dat.recipe.header import header_of, whole
from dat.recipe.read import KINDS
from dat.recipe.strict import Strict
from dat.results import Row, read_rows, write_text
from dat.studies import classification, contest, words
from dat.studies.classification import ClassificationStudy
from dat.studies.study import Job
from dat.studies.table import STUDIES
from dat.tasks.classification import Classification

pytestmark = pytest.mark.usefixtures("all_undrawn")

DIGITS = {"source": "digits", "augment": {"kind": "none"}}
NETWORK = {
    "n_embed": 16,
    "embed_dim": 4,
    "z_channels": 4,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "attn_type": "none",
}


def test_recipes_and_studies_are_of_the_same_kinds() -> None:
    known = {"classification", "detection", "selfsupervised", "discretizer", "distillation"}
    assert set(KINDS) == set(STUDIES) == set(PAGES) == known


# ---- a study of a kind that nobody has heard of


class CountingRecipe(Strict):
    """How many test pictures are there?"""

    kind: Literal["counting"]
    title: str
    data: DataSection
    trackers: Names = None
    out: str = ""

    def check(self) -> None: ...

    def open(self, parts: Any) -> Any:
        return SimpleNamespace(header=header_of(self, (found := parts.data(self.data)), "no network"), data=found)

    def rehearsal(self) -> CountingRecipe:
        return self

    def depends_on(self) -> dict[str, dict[str, Any]]:
        return whole(self)


class CountingStudy:
    def __init__(self, opened: Any, run: Any) -> None:
        self.data, self.run, self.hash = opened.data, run, opened.header.recipe_hash

    def jobs(self) -> list[Job]:
        return [Job("count", 0)]

    def train(self, job: Job, title: str) -> int:
        with self.run.timed("count"):
            return len(self.data.test)

    def rows(self, models: Mapping[Job, int]) -> list[Row]:
        return [Row("all", "count", float(n), n, None, job.seed, job.label, self.hash) for job, n in models.items()]

    def pictures(self, models: Mapping[Job, int]) -> None: ...

    def following(self) -> None: ...


def write_count(folder: Path, _: bool) -> Path:
    write_text(folder / "report.md", f"{read_rows(folder / 'results.jsonl')[0].value:.0f} pictures")
    return folder / "report.md"


def test_a_new_study_is_a_recipe_and_a_study_and_a_line_in_each_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "counting", CountingRecipe)
    monkeypatch.setitem(STUDIES, "counting", CountingStudy)
    monkeypatch.setitem(PAGES, "counting", Page(write_count, lambda folder: (folder / "report.md").read_text()))
    values = {"kind": "counting", "title": "How many?", "data": DIGITS, "out": str(tmp_path / "run")}
    folder = dat.train(values, cpu=True)
    facts, (row,) = json.loads((folder / "run.json").read_text()), (folder / "results.jsonl").read_text().splitlines()
    assert (folder / "report.md").read_text() == "450 pictures"
    assert json.loads(row)["value"] == facts["data"]["test_images"] == 450
    assert set(facts["seconds"]) == {"count"}
    (tmp_path / "mine.yaml").write_text(json.dumps(values))
    done = CliRunner().invoke(app, ["train", str(tmp_path / "mine.yaml"), "--resume", "--cpu"])
    assert (done.exit_code, done.stdout) == (0, "450 pictures\n")
    assert CliRunner().invoke(app, ["report", str(folder)]).stdout == f"{folder / 'report.md'}\n"
    rehearse(read.parse(values))
    with pytest.raises(UsageError, match="colour: unknown key"):
        dat.train({**values, "colour": "red"}, cpu=True)


# ---- everything is opened once


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of weights was read, and each set of pictures was opened."""
    counts: Counter[str] = Counter()

    def counted(module: Any, name: str, label: Any) -> None:
        original = getattr(module, name)

        def count(*arguments: Any, **named: Any) -> Any:
            counts[label(*arguments, **named)] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, count)

    counted(weights, "_read_safetensors", lambda path: path.name)
    counted(weights, "_read_torch", lambda path, _: path.name)
    counted(data, "open_place", lambda folder, **_: Path(folder).name)
    return counts


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Any]:
    """Twelve pictures to train on, four to test on."""
    numbers = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
                    tmp_path / part / name / f"{index}.png"
                )
    places = {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    return {"source": "folder", **places, "size": 16, "crop_pct": 1.0, "augment": {"kind": "none"}}


def classified(folder: Path, photos: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = {
        "kind": "classification",
        "title": "tiny",
        "data": photos,
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 1, "batch_size": 6, "lr": 0.01},
        "methods": {"standard": {}, "random-codes": {}},
        "seeds": [0, 1],
        "equal_time_as": "standard",
        "evaluation": {"suites": ["clean"]},
        "out": str(folder / "run"),
    }
    return values | changes


def test_what_a_comparison_names_is_opened_once_even_if_it_is_done_twice(
    tmp_path: Path, photos: dict[str, Any], opened: Counter[str]
) -> None:
    torch.manual_seed(0)
    save_discretizer(tmp_path / "q.safetensors", VQGAN(VQGANConfig(**{**NETWORK, "ch_mult": (1, 1), "attn_resolutions": ()})))
    begun = create_network("small_resnet", num_classes=3, options={"depth": 8, "width": 4}).state_dict()
    safetensors.torch.save_file(begun, tmp_path / "begin.safetensors")
    model = {"name": "small_resnet", "options": {"depth": 8, "width": 4}, "weights": str(tmp_path / "begin.safetensors")}
    loaded = {"load": str(tmp_path / "q.safetensors"), "train": None}
    folder = dat.train(classified(tmp_path, photos, model=model, discretizer=loaded), cpu=True)
    assert (folder / "equal-time" / "results.jsonl").is_file()
    assert opened == {"train": 1, "test": 1, "q.safetensors": 1, "begin.safetensors": 1}
    again = safetensors.torch.load_file(tmp_path / "begin.safetensors")
    assert all(torch.equal(again[key], begun[key]) for key in begun)


def test_a_discretizer_trained_for_a_comparison_and_its_distance_are_opened_once(
    tmp_path: Path, photos: dict[str, Any], opened: Counter[str]
) -> None:
    torch.manual_seed(0)
    safetensors.torch.save_file(tiny_darknet().state_dict(), tmp_path / "darknet.safetensors")
    features = {"network": "tiny_darknet", "weights": str(tmp_path / "darknet.safetensors")}
    spec = {
        "network": NETWORK,
        "objective": {"perceptual_weight": 0.1, "disc_factor": 0.0},
        "training": {"epochs": 1, "batch_size": 6, "lr": 0.001, "disc_layers": 0},
        "perceptual": {"kind": "features", **features},
    }
    dat.train(classified(tmp_path, photos, discretizer={"train": spec}, seeds=[0]), cpu=True)
    assert opened == {"train": 1, "test": 1, "darknet.safetensors": 1, "discretizer.safetensors": 1}


def test_a_distillation_opens_its_teacher_once(tmp_path: Path, photos: dict[str, Any], opened: Counter[str]) -> None:
    torch.manual_seed(0)
    network = VQGAN(VQGANConfig(**{**NETWORK, "ch_mult": (1, 1), "attn_resolutions": ()}))
    save_discretizer(tmp_path / "teacher.safetensors", network)
    values = {
        "kind": "distillation",
        "title": "fast",
        "data": photos,
        "teacher": {"load": str(tmp_path / "teacher.safetensors"), "precision": "bf16"},
        "student": {"encoder_blocks": 1, "decoder_blocks": 1},
        "training": {"epochs": 1, "batch_size": 6},
        "out": str(tmp_path / "student"),
    }
    dat.train(values, cpu=True)
    assert (opened["teacher.safetensors"], opened["train"], opened["test"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"data": {"source": "folder", "train": "nowhere", "test": "nowhere", "size": 8}}, DataError, "nowhere"),
        ({"discretizer": {"load": "nowhere.safetensors"}}, CheckpointError, "nowhere"),
        ({"model": {"name": "small_resnet", "weights": "nowhere.pth"}}, CheckpointError, "nowhere"),
        ({"model": {"name": "small_resnet", "options": {"depth": 9}}}, UsageError, "depth 9"),
    ],
)
def test_what_can_be_refused_is_refused_before_there_is_a_folder(
    changes: dict[str, Any], error: type[Exception], said: str, photos: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        dat.train({**classified(tmp_path, photos, methods={"standard": {}}), **changes}, cpu=True)
    assert not (tmp_path / "run").exists()


SPEC = {
    "network": NETWORK,
    "objective": {"perceptual_weight": 0.0},
    "training": {"epochs": 1, "batch_size": 6, "lr": 0.001, "disc_layers": 1},
    "perceptual": {"kind": "none"},
}
BATCH = {"epochs": 1, "batch_size": 6, "lr": 0.01}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {**BATCH, "batch_size": 13}}, r"methods\.standard: The data set has 12 pictures.* batch of 13; set a"),
        ({"methods": {"standard": {"training": {"batch_size": 13}}}}, r"methods\.standard: .* one batch of 13"),
        ({"training": {**BATCH, "accumulate": 4}}, "batch_size of 6 cannot be shared .* use a multiple of 4"),
        ({"training": {**BATCH, "accumulate": 2, "mixup": 0.5}}, "mixup and cutmix pair .* has 3 here; choose"),
        ({"discretizer": {"train": {**SPEC, "training": {**SPEC["training"], "batch_size": 13}}}}, "discretizer: The data set"),
        ({"discretizer": {"train": {**SPEC, "training": {**SPEC["training"], "disc_layers": 3}}}}, "needs 24 pixels a side"),
        ({"model": {"name": "small_resnet", "std": [0.2, 0.0, 0.2]}}, "std is .0.2, 0.0, 0.2., .* write numbers above 0"),
        ({"model": {"name": "small_resnet", "std": [0.2, -1.0, 0.2]}}, "write numbers above 0 instead of -1"),
        ({"model": {"name": "vit_tiny_patch16_224"}}, "vit_tiny.* on images of 16 x 16 pixels: .*224.*options.img_size=16"),
        ({"model": {"name": "small_resnet", "std": [1, 1, 1]}, "size": 7, "evaluation": {"suites": ["c"]}}, "need 8 a side"),
    ],
)
def test_what_does_not_fit_is_refused_before_there_is_a_folder(
    changes: dict[str, Any], said: str, photos: dict[str, Any], tmp_path: Path
) -> None:
    photos |= {key: changes[key] for key in changes.keys() & {"size"}}
    values = classified(tmp_path, photos, methods={"standard": {}}, equal_time_as=None)
    with pytest.raises(UsageError, match=said):
        dat.train({**values, **{key: value for key, value in changes.items() if key != "size"}}, cpu=True)
    assert not (tmp_path / "run").exists()


def test_pictures_of_several_sizes_are_refused_before_there_is_a_folder(photos: dict[str, Any], tmp_path: Path) -> None:
    Image.new("RGB", (16, 12)).save(tmp_path / "train" / "dog" / "3.png")
    with pytest.raises(DataError, match=r"cat/0\.png is 16x16 but .*dog/3\.png is 16x12; set data\.size"):
        dat.train(classified(tmp_path, {**photos, "size": None}, methods={"standard": {}}), cpu=True)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_folder_is_taken_away_says_so(photos: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """Before the next training, not after the last one."""
    trained: list[Job] = []

    def train(study: ClassificationStudy, job: Job, title: str) -> torch.nn.Module:
        trained.append(job)
        model = original(study, job, title)
        shutil.rmtree(tmp_path / "run")
        study.run.write()
        return model

    original = ClassificationStudy.train
    monkeypatch.setattr(ClassificationStudy, "train", train)
    with pytest.raises(RunFolderError, match=r"run was taken away while it was filled; train again"):
        dat.train(classified(tmp_path, photos, methods={"standard": {}}), cpu=True)
    assert trained == [Job("standard", 0)]


def test_a_distillation_that_does_not_fit_is_refused_before_there_is_a_folder(photos: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = VQGAN(VQGANConfig(**{**NETWORK, "ch_mult": (1, 1), "attn_resolutions": ()}))
    save_discretizer(tmp_path / "teacher.safetensors", network)
    values = {
        "kind": "distillation",
        "title": "fast",
        "data": photos,
        "teacher": {"load": str(tmp_path / "teacher.safetensors")},
        "training": {"epochs": 1, "batch_size": 60},
        "out": str(tmp_path / "student"),
    }
    with pytest.raises(UsageError, match="training: The data set has 12 pictures"):
        dat.train(values, cpu=True)
    assert not (tmp_path / "student").exists()


def test_a_finished_training_is_measured_again_with_another_evaluation(photos: dict[str, Any], tmp_path: Path) -> None:
    values = classified(tmp_path, photos, methods={"standard": {}})
    folder = dat.train(values, cpu=True)
    logs = {path: path.read_text() for path in folder.rglob("log.jsonl")}
    dat.train({**values, "evaluation": {"suites": ["fgsm"]}}, resume=True, cpu=True)
    for part in (folder, folder / "equal-time"):
        assert {row.suite for row in read_rows(part / "results.jsonl")} == {"fgsm", "cost"}
    assert {path: path.read_text() for path in folder.rglob("log.jsonl")} == logs
    with pytest.raises(RunFolderError):
        dat.train({**values, "training": {**BATCH, "lr": 0.02}}, resume=True, cpu=True)
    dat.train({**values, "evaluation": {"suites": ["clean"]}}, resume=True, cpu=True)


def test_every_stage_says_how_long_the_whole_will_take(
    photos: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = classified(tmp_path, photos, methods={"standard": {}}, equal_time_as=None)
    dat.train(values, cpu=True)
    first, second, *_ = (line for line in capsys.readouterr().err.splitlines() if "standard, seed" in line)
    assert first.endswith("(of the whole: told after the first training)")
    assert re.search(r"^\[2/2\] standard, seed 1: 2/2, \d+ s, 0 s left  \(of the whole: about \d+ s left\)$", second)
    dat.train(values, resume=True, cpu=True)
    assert "told after" not in capsys.readouterr().err


def test_reconstructions_are_measured_after_the_trainings_and_once(
    photos: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save_discretizer(tmp_path / "q.safetensors", VQGAN(VQGANConfig(**{**NETWORK, "ch_mult": (1, 1), "attn_resolutions": ()})))
    done: list[str] = []

    def counted(name: str, original: Any) -> Any:
        return lambda *arguments, **named: done.append(name) or original(*arguments, **named)

    for module, name in ((contest, "train"), (classification, "reconstruction_quality")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    values = classified(tmp_path, photos, methods={"standard": {}}, seeds=[0], equal_time_as=None)
    values |= {"discretizer": {"load": str(tmp_path / "q.safetensors")}}
    folder = dat.train(values, cpu=True)
    assert done == ["train", "reconstruction_quality"]
    first = json.loads((folder / "run.json").read_text())["discretizer"]
    dat.train(values, resume=True, cpu=True)
    assert done == ["train", "reconstruction_quality", "train"]
    assert json.loads((folder / "run.json").read_text())["discretizer"] == first
    assert {"psnr_db", "ssim", "stride"} <= first.keys()
    first_picture = tmp_path / "test" / "cat" / "0.png"
    first_picture.write_bytes(first_picture.read_bytes() + b"another")
    facts = json.loads((folder / "run.json").read_text())
    write_text(folder / "run.json", json.dumps({key: value for key, value in facts.items() if key != "inputs"}))
    for path in folder.rglob("settings.json"):
        path.unlink()
    dat.train(values, resume=True, cpu=True)  # a run of before inputs were noted
    assert done[-2:] == ["train", "reconstruction_quality"]


def test_damaged_training_pictures_are_left_out_from_the_start(photos: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "train" / "dog" / "2.png").write_bytes(b"no picture")
    values = classified(tmp_path, photos, methods={"standard": {}}, seeds=[0], equal_time_as=None)
    with pytest.raises(DataError, match=r"dog/2\.png"):
        dat.train({**values, "out": str(tmp_path / "refused")}, cpu=True)
    folder = dat.train({**values, "data": {**photos, "allow_bad": 1}}, cpu=True)
    assert json.loads((folder / "run.json").read_text())["data"]["train_images"] == 11


# ---- what an adversary does to the trained models


def with_words(folder: Path, photos: dict[str, Any], methods: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A comparison on untrained codes, taken from the pictures, with some pictures to measure on."""
    torch.manual_seed(0)
    network = VQGAN(VQGANConfig(**{**NETWORK, "n_embed": 256, "ch_mult": (1, 1), "attn_resolutions": ()}))
    taken = network.latents(2 * torch.rand(4, 3, 16, 16) - 1).detach()
    network.quantize.get_parameter("embedding.weight").data = taken.movedim(1, 3).flatten(0, 2)
    save_discretizer(folder / "q.safetensors", network)
    values = classified(folder, photos, methods=methods, seeds=[0], equal_time_as=None)
    return {**values, "discretizer": {"load": str(folder / "q.safetensors"), **changes}}


def rates_of(folder: Path) -> dict[str, Row]:
    return {row.method: row for row in read_rows(folder / "results.jsonl") if row.suite == "codes"}


def test_all_models_meet_one_adversary_of_a_length_above_0(photos: dict[str, Any], tmp_path: Path) -> None:
    """Not that of a control without a step, which modifies nothing."""
    controls = {"none": {"method": "dat", "alpha": 0.0}, "still": {"method": "dat", "alpha": 2.0, "direction": "none"}}
    methods = {**controls, "standard": {}, "dat": {"alpha": 0.4}, "more": {"method": "dat"}}
    folder = dat.train(with_words(tmp_path, photos, methods), cpu=True)
    rows = rates_of(folder)
    assert {row.protocol["alpha"] for row in rows.values()} == {0.4}
    assert all(row.value > 0 for row in rows.values())
    assert json.loads((folder / "run.json").read_text())["pictures"] == {"model": "dat, seed 0", "alpha": 0.4}


def test_where_no_method_takes_a_step_the_models_meet_that_of_the_paper(photos: dict[str, Any], tmp_path: Path) -> None:
    methods = {"still": {"method": "dat", "alpha": 2.0, "direction": "none"}}
    folder = dat.train(with_words(tmp_path, photos, methods), cpu=True)
    assert {row.protocol["alpha"] for row in rates_of(folder).values()} == {0.1}
    assert json.loads((folder / "run.json").read_text())["pictures"] == {"model": "still, seed 0", "alpha": 0.1}


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ({"standard": {}, "own": {"method": "dat-official", "epsilon": 0.4, "step_size": 0.2}}, 0.4),
        ({"standard": {}, "own": {"method": "dat-official", "epsilon": {"rate": 0.2}, "step_size": None}}, 0.7),
    ],
)
def test_the_step_of_the_official_program_is_its_epsilon(
    photos: dict[str, Any], tmp_path: Path, methods: dict[str, Any], expected: float
) -> None:
    """Given, or sought and then found in the log; and its model is one with an adversary of words."""
    recipe = read.parse({**with_words(tmp_path, photos, methods), "out": str(tmp_path)}, where="here")
    assert isinstance(recipe, ClassificationRecipe)
    contestants = {label: contestant(section, training_of(recipe, label)) for label, section in recipe.methods.items()}
    (tmp_path / "own-seed0").mkdir()
    (tmp_path / "own-seed0" / "log.jsonl").write_text('{"step": 1, "alpha": 0.7}\n')
    assert words.step_of(contestants, tmp_path, 0) == expected
    assert words.attacked([Job("standard", 0), Job("own", 0)], contestants) == Job("own", 0)


def test_a_step_of_another_norm_says_nothing_of_the_length(photos: dict[str, Any], tmp_path: Path) -> None:
    methods = {"entries": {"method": "dat", "alpha": 0.01, "gradient_scale": "linf"}, "dat": {"alpha": 0.3}}
    rows = rates_of(dat.train(with_words(tmp_path, photos, methods), cpu=True))
    assert {row.protocol["alpha"] for row in rows.values()} == {0.3}


def test_rates_are_those_of_a_discretizer_in_float32(photos: dict[str, Any], tmp_path: Path) -> None:
    """A step far too short for a code; in bfloat16 its picture is rounded to another."""
    methods = {"dat": {"alpha": 1e-6}}
    folder = dat.train(with_words(tmp_path, photos, methods, precision="bf16"), cpu=True)
    row = rates_of(folder)["dat"]
    assert row.value == 0
    assert row.protocol["precision"] == "fp32"


def test_rows_say_what_words_do_beside_those_of_a_random_step(photos: dict[str, Any], tmp_path: Path) -> None:
    folder = dat.train(with_words(tmp_path, photos, {"dat": {"alpha": 0.4}}), cpu=True)
    rows = {(row.suite, row.metric): row for row in read_rows(folder / "results.jsonl")}
    losses = {suite: row for (suite, metric), row in rows.items() if metric == "loss"}
    assert set(losses) == {"words/reconstruction", "words/adversarial", "words/random"}
    assert {(suite, "accuracy") for suite in losses} < set(rows)
    above = rows["words/adversarial", "loss_above_random"]
    assert above.value == pytest.approx(losses["words/adversarial"].value - losses["words/random"].value)
    assert above.ci is not None
    assert above.ci[0] < above.value < above.ci[1]
    assert 0 < rows["codes/random", "modified_code_rate"].value <= 100
    assert all(row.n == 4 for suite, row in losses.items())


@pytest.mark.parametrize("of_both", [True, False])
def test_the_loss_of_the_words_is_that_of_the_training(photos: dict[str, Any], tmp_path: Path, of_both: bool) -> None:
    """Where the models were trained by two losses, cross-entropy is asked of both."""
    methods = {"dat": {"alpha": 0.4, "training": {"sigmoid": True}}, "standard": {"training": {"sigmoid": of_both}}}
    folder = dat.train(with_words(tmp_path, photos, methods), cpu=True)
    found, by = load_classifier(folder / "dat-seed0"), "binary cross-entropy" if of_both else None
    images, targets, _ = next(iter(evaluation_batches(found.test_pictures()[0], 4)))
    shown = dat.load_discretizer(tmp_path / "q.safetensors")(images)
    with torch.no_grad():
        losses = Classification(sigmoid=of_both).losses(found.model, shown, targets)
    rows = {(row.method, row.suite): row for row in read_rows(folder / "results.jsonl") if row.metric == "loss"}
    assert rows["dat", "words/reconstruction"].value == pytest.approx(losses.mean().item(), rel=1e-5)
    assert all(row.protocol.get("loss") == by for row in rows.values())


def test_page_and_notes_say_the_same_of_an_adversary_that_may_be_chance(
    photos: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = {"blind": {"method": "dat", "alpha": 0.4, "direction": "none"}, "dat": {"alpha": 1e-6}}
    folder = dat.train(with_words(tmp_path, photos, methods), cpu=True)
    noted = capsys.readouterr().err
    said = json.loads((folder / "run.json").read_text())["adversary"]
    assert [sentence.partition(":")[0] for sentence in said] == ["blind, seed 0", "dat, seed 0"]
    assert all("which may be chance" in sentence and f"Note: {sentence}" in noted for sentence in said)
    page = (folder / "report.md").read_text()
    assert "Against blind and DAT the two may differ by chance: whether it is an adversary there is open." in page
    assert "none there" not in page


def test_an_adversary_that_is_none_is_named_on_the_page(
    photos: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sign of its gradient is turned, as in a program that lowers the loss."""

    def turned(images: torch.Tensor, loss_fn: Any, discretizer: Any, *, alpha: float) -> torch.Tensor:
        return original(images, lambda shown: -loss_fn(shown), discretizer, alpha=alpha)

    original = codes.discrete_adversary
    monkeypatch.setattr(codes, "discrete_adversary", turned)
    folder = dat.train(with_words(tmp_path, photos, {"dat": {"alpha": 0.4}}), cpu=True)
    (said,) = json.loads((folder / "run.json").read_text())["adversary"]
    assert said.startswith("dat, seed 0: The adversary")
    assert said in (folder / "report.md").read_text()
    assert f"Note: {said}" in capsys.readouterr().err
