"""From recipes to discretizers: trained, distilled, loaded again, each with a page and with what it was made of."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import dat
from dat.commands import train as train_command
from dat.commands.evaluate import evaluate_again
from dat.commands.report import write
from dat.commands.train import carry_out
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.discretizers.pretrained import load_discretizer, read_extra, save_discretizer
from dat.errors import CheckpointError, DataError, RunFolderError, UsageError
from dat.nn.imagenet_networks import tiny_darknet
from dat.nn.weights import file_sha256
from dat.nn.zoo import create_network
from dat.recipe import data as recipe_data
from dat.recipe import read as recipes
from dat.recipe.classification import Comparison, training_of
from dat.recipe.parts import OnDisk
from dat.studies import measured
from dat.studies.study import Job
from dat.types import Place

pytestmark = pytest.mark.usefixtures("all_undrawn")

DIGITS = {"source": "digits", "augment": {"kind": "none"}}
TRAINED: dict[str, Any] = {
    "kind": "discretizer",
    "title": "tiny",
    "data": DIGITS,
    "network": {
        "n_embed": 16,
        "embed_dim": 4,
        "z_channels": 4,
        "ch": 32,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "attn_type": "none",
    },
    "objective": {"perceptual_weight": 0.1, "disc_factor": 0.0},
    "training": {"epochs": 1, "batch_size": 449, "lr": 0.001, "disc_layers": 0, "codebook_update": "ema"},
}


@pytest.fixture(scope="module")
def darknet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny_darknet.safetensors"
    safetensors.torch.save_file(tiny_darknet().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def teacher(darknet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = {"network": "tiny_darknet", "weights": str(darknet)}
    out = tmp_path_factory.mktemp("runs") / "teacher"
    return dat.train({**TRAINED, "perceptual": {"kind": "features", **network}, "frechet": network, "out": str(out)}, cpu=True)


def test_a_trained_discretizer_tells_its_quality_and_what_its_distance_was_read_from(teacher: Path, darknet: Path) -> None:
    extra = read_extra(teacher)
    assert extra["perceptual"]["weights"] == f"tiny_darknet.safetensors sha256:{file_sha256(darknet)}"
    assert extra["frechet"]["network"] == "tiny_darknet"
    assert {"psnr_db", "ssim", "codes_used", "tiny_darknet_distance", "frechet_tiny_darknet"} <= set(extra["quality"])
    assert (teacher / "report.html").is_file()
    assert load_discretizer(teacher).codebook_size == 16


def test_a_student_is_distilled_from_a_file(teacher: Path, tmp_path: Path) -> None:
    recipe = {
        "kind": "distillation",
        "title": "fast",
        "data": DIGITS,
        "out": str(tmp_path / "student"),
        "teacher": {"load": str(teacher)},
        "student": {"encoder_blocks": 1, "decoder_blocks": 1},
        "training": {"epochs": 1, "batch_size": 449},
    }
    folder = dat.train(recipe, cpu=True)
    quality = read_extra(folder)["quality"]
    assert quality["flops_ratio"] <= 0.02
    assert 0 <= quality["code_agreement"] <= 1
    assert read_extra(folder)["teacher"]["sha256"] == file_sha256(teacher / "discretizer.safetensors")
    assert json.loads((folder / "run.json").read_text())["distillation"]["time_ratio"] > 0
    assert "share of codes equal to the teacher" in (folder / "report.html").read_text()
    images = torch.rand(2, 3, 9, 8)
    assert load_discretizer(folder)(images).shape == images.shape


def test_a_perceptual_weight_of_a_distillation_needs_a_distance() -> None:
    with pytest.raises(UsageError, match=r"perceptual_weight is 0\.5"):
        recipes.load("discretizer/distil-cifar-f4", ["training.perceptual_weight=0.5"])


def test_weights_that_are_not_there_stop_a_run_before_it_begins(tmp_path: Path) -> None:
    section = {"kind": "features", "network": "tiny_darknet", "weights": str(tmp_path / "nowhere.safetensors")}
    recipe = recipes.parse({**TRAINED, "perceptual": section, "out": str(tmp_path / "run")})
    with pytest.raises(CheckpointError, match="multiscale-gradient"):
        carry_out(recipe, OnDisk(), cpu=True)
    assert not (tmp_path / "run").exists()


def test_a_discretizer_begins_with_trained_weights(teacher: Path, darknet: Path, tmp_path: Path) -> None:
    """No step is made: what is saved is what it began with, codebook included."""
    network = {"network": "tiny_darknet", "weights": str(darknet)}
    settings = {**TRAINED["training"], "lr": 0.0, "codebook_update": "gradient"}
    recipe = {**TRAINED, "init": str(teacher), "training": settings, "perceptual": {"kind": "features", **network}}
    folder = dat.train({**recipe, "out": str(tmp_path / "tuned")}, cpu=True)
    before, after = (load_discretizer(path).state_dict() for path in (teacher, folder))
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert read_extra(folder)["init"]["sha256"] == file_sha256(teacher / "discretizer.safetensors")


def test_weights_of_another_network_are_refused_with_what_differs(teacher: Path) -> None:
    network = {"network": {**TRAINED["network"], "n_embed": 32}, "perceptual": {"kind": "multiscale-gradient"}}
    recipe = recipes.parse({**TRAINED, **network, "init": str(teacher), "out": "x"})
    with pytest.raises(UsageError, match="n_embed 16 instead of 32; give the network the settings of its weights"):
        carry_out(recipe, OnDisk(), cpu=True)


CLASSIFIED: dict[str, Any] = {
    "kind": "classification",
    "title": "tiny",
    "data": DIGITS,
    "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
    "training": {"epochs": 1, "batch_size": 449, "lr": 0.01},
    "methods": {"standard": {}, "advprop": {"training": {"epochs": 2}}},
    "equal_time_as": "advprop",
    "expect": {"source": "A paper", "percent": {"advprop": {"clean": 77.59, "mce": 70.53}}},
    "evaluation": {"suites": ["clean"]},
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "compared"
    return dat.train({**CLASSIFIED, "out": str(out)}, cpu=True)


def test_equal_time_gives_each_method_the_epochs_of_one(compared: Path) -> None:
    again = recipes.load(str(compared / "equal-time.yaml"))
    assert isinstance(again, recipes.ClassificationRecipe)
    assert training_of(again, "advprop").epochs == 2
    assert training_of(again, "standard").epochs >= 2  # one pass where AdvProp has three
    assert (compared / "equal-time" / "report.html").is_file()
    assert again.equal_time_as is None


def test_the_numbers_of_the_paper_are_rows_of_their_own(compared: Path) -> None:
    rows = [json.loads(line) for line in (compared / "results.jsonl").read_text().splitlines()]
    quoted = {(row["suite"], row["metric"]): row["value"] for row in rows if row["source"] == "paper"}
    assert quoted == {("clean", "accuracy"): 77.59, ("c", "mce"): 70.53}
    assert "| AdvProp: Clean | 77.59 |" in (compared / "report.md").read_text()


def test_a_model_with_auxiliary_norms_is_stored_for_training_and_evaluated_without(compared: Path) -> None:
    row, *_ = evaluate_again(compared / "advprop-seed0", cpu=True)
    stored = [json.loads(line) for line in (compared / "results.jsonl").read_text().splitlines()]
    same, *_ = [item for item in stored if (item["suite"], item["method"], item["source"]) == ("clean", "advprop", "ours")]
    assert (row.metric, row.value) == (same["metric"], same["value"])


@pytest.mark.parametrize("where", ["", "checkpoints/*", "checkpoints/*/model.safetensors"])
def test_a_run_begins_where_another_ended(compared: Path, where: str) -> None:
    *_, source = sorted((compared / "advprop-seed0").glob(where)) if where else [compared / "advprop-seed0"]
    begun = recipes.parse({**CLASSIFIED, "model": {**CLASSIFIED["model"], "weights": str(source)}})
    opened = begun.open(OnDisk())
    assert isinstance(opened, Comparison)
    ours = opened.model.untrained(5).state_dict()
    ended = dat.load_run(compared / "advprop-seed0").model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in ended.items() if not key.endswith("num_batches_tracked"))


def test_extra_training_folders_are_trained_on_as_well(tmp_path: Path) -> None:
    for folder, count in (("train", 3), ("distorted", 2), ("test", 1)):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / folder / name / f"{number}.png")
    paths = {key: str(tmp_path / folder) for key, folder in (("train", "train"), ("test", "test"))}
    values = {"source": "folder", **paths, "extra_train": [str(tmp_path / "distorted")], "augment": {"kind": "none"}}
    recipe = recipes.parse({**CLASSIFIED, "data": values})
    data = recipe_data.build_data(recipe.data, seed=0)
    assert (len(data.train), len(data.test)) == (10, 2)


class Always(nn.Module):
    """Says the same of every picture."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, images: Tensor) -> Tensor:
        return functional.one_hot(torch.full(images.shape[:1], self.label), 3).float()


@pytest.fixture
def three_pictures(tmp_path: Path) -> measured.Subject:
    for number, name in enumerate(("ant", "bee", "cow")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name / "0.png")
    recipe = recipes.parse({**CLASSIFIED, "evaluation": {"suites": ["clean"]}})
    assert isinstance(recipe, recipes.ClassificationRecipe)
    dataset = ImageDataset(ImageFolder(tmp_path), CenterCrop(), seed=0)
    return measured.Subject(recipe.evaluation.build(), "hash", dataset, (8, 8), Place(torch.device("cpu")))


def test_every_model_has_its_own_numbers_in_the_order_of_the_models(three_pictures: measured.Subject) -> None:
    targets = three_pictures.test.source.targets
    targets[:] = [0, 2, 2]
    rows = measured.accuracies(three_pictures, {Job("b", 1): Always(2), Job("a", 0): Always(0), Job("b", 0): Always(1)})
    found = [(row.method, row.seed, row.suite, round(row.value, 1), row.n) for row in rows if row.metric == "accuracy"]
    means = [(row.method, row.seed, round(row.value, 1)) for row in rows if row.metric == "accuracy_macro"]
    assert means == [("b", 1, 50.0), ("a", 0, 50.0), ("b", 0, 0.0)]  # two of three classes have pictures
    assert found == [("b", 1, "clean", 66.7, 3), ("a", 0, "clean", 33.3, 3), ("b", 0, "clean", 0.0, 3)]


def test_a_test_picture_that_cannot_be_read_gives_a_sentence_and_no_number(
    three_pictures: measured.Subject, tmp_path: Path
) -> None:
    (tmp_path / "bee" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bee/0\.png"):
        measured.accuracies(three_pictures, {Job("a", 0): Always(0)})


def test_equal_time_follows_the_speeds_of_the_logs(tmp_path: Path) -> None:
    """Three times as fast in the same seed is three times as many epochs; a busy machine is ten times as slow."""
    recipe = recipes.parse({**CLASSIFIED, "seeds": [0, 1, 2], "out": str(tmp_path)})
    assert isinstance(recipe, recipes.ClassificationRecipe)
    trainings = {label: training_of(recipe, label) for label in recipe.methods}
    for label, speeds in {"standard": (290.0, 300.0, 9000.0), "advprop": (95.0, 100.0, 101.0)}.items():
        for seed in recipe.seeds:
            (tmp_path / f"{label}-seed{seed}").mkdir()
            busy = 10 if (label, seed) in (("standard", 1), ("advprop", 1), ("advprop", 2)) else 1
            lines = [json.dumps({"step": step, "images_per_s": speed / busy}) for step, speed in enumerate(speeds)]
            (tmp_path / f"{label}-seed{seed}" / "log.jsonl").write_text("\n".join(lines))
    assert measured.epochs_of_equal_time(trainings, recipe.seeds, tmp_path, reference="advprop") == {
        "standard": 6,
        "advprop": 2,
    }


def test_a_run_keeps_the_hashes_of_what_its_page_is_made_from(compared: Path, teacher: Path, tmp_path: Path) -> None:
    files = json.loads((compared / "run.json").read_text())["files"]
    of_models = (part for name in ("standard-seed0", "advprop-seed0") for part in (f"{name}/log.jsonl", f"right/{name}.npz"))
    assert set(files) == {"results.jsonl", "recipe.yaml", "mistakes.npz", *of_models}
    assert files["results.jsonl"] == file_sha256(compared / "results.jsonl")
    assert {"log.jsonl", "reconstructions.npz"} <= set(json.loads((teacher / "run.json").read_text())["files"])
    shutil.copytree(compared, tmp_path / "run")
    assert "Not as it was written" not in write(tmp_path / "run").read_text()
    path = tmp_path / "run" / "results.jsonl"
    path.write_text(path.read_text().replace('"value": 77.59', '"value": 87.59'))
    assert "Not as it was written" in write(tmp_path / "run").read_text()


def test_a_renamed_model_folder_is_refused(compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared, tmp_path / "run")
    (tmp_path / "run" / "advprop-seed0").rename(tmp_path / "run" / "best-seed0")
    with pytest.raises(CheckpointError, match=r"best-seed0 is none of the models of .*\(standard, advprop\)"):
        evaluate_again(tmp_path / "run" / "best-seed0", cpu=True)


# ---- a run goes on with what it began with, or says what is another


def put(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)


def network_file(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = create_network("small_resnet", num_classes=2, options=CLASSIFIED["model"]["options"])
    safetensors.torch.save_file(network.state_dict(), path)


@pytest.fixture(scope="module")
def begun(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The recipe of a small run that is done, on pictures, weights and a discretizer of its own."""
    root = tmp_path_factory.mktemp("begun")
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("ant", "bee")):
            for number in range(count):
                put(root / "in" / part / name / f"{number}.bmp", 100 * label + number)
    network_file(root / "in" / "weights.safetensors", seed=1)
    shutil.copy(teacher / "discretizer.safetensors", root / "in" / "discretizer.safetensors")
    recipe = {
        **{key: CLASSIFIED[key] for key in ("kind", "title", "evaluation")},
        "data": {
            "source": "folder",
            "train": str(root / "in" / "train"),
            "test": str(root / "in" / "test"),
            "augment": {"kind": "none"},
        },
        "model": {**CLASSIFIED["model"], "weights": str(root / "in" / "weights.safetensors")},
        "discretizer": {"load": str(root / "in" / "discretizer.safetensors")},
        "methods": {"standard": {}},
        "training": {"epochs": 1, "batch_size": 4, "lr": 0.01},
        "out": str(root / "run"),
    }
    dat.train(recipe, cpu=True)
    return recipe


@pytest.fixture
def began_with(begun: dict[str, Any]) -> Iterator[Path]:
    """The files of the run, which are put back afterwards."""
    root = Path(begun["out"]).parent
    shutil.copytree(root / "in", root / "kept")
    yield root / "in"
    shutil.rmtree(root / "in")
    (root / "kept").rename(root / "in")


def accuracies(results: Path) -> list[dict[str, Any]]:
    """Rows but for those of time."""
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    return [row for row in rows if row["suite"] != "cost"]


def test_a_run_of_an_older_version_goes_on_with_the_pictures_it_drew(
    begun: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of each class; another draw is named and refused, and the recipe that the run stored means the old one."""
    measured = {"suites": ["c"], "c_per_class": 1}
    older = {
        **begun,
        "data": {**begun["data"], "train_per_class": 2, "draw": "first"},
        "evaluation": {**measured, "c_draw": "first"},
        "out": str(tmp_path / "run"),
    }
    dat.train(older, cpu=True)
    rows = accuracies(tmp_path / "run" / "results.jsonl")
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    del stored["data"]["draw"], stored["evaluation"]["c_draw"]
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(stored))
    now = {**older, "data": {key: value for key, value in older["data"].items() if key != "draw"}, "evaluation": measured}
    said = r"data\.draw was first, is in-proportion.*comparable, add data\.draw=first evaluation\.c_draw=first\.$"
    with pytest.raises(RunFolderError, match=said):
        dat.train(now, resume=True, cpu=True)
    dat.train(tmp_path / "run" / "recipe.yaml", resume=True, cpu=True)
    dat.train(now, ["data.draw=first", "evaluation.c_draw=first"], resume=True, cpu=True)
    assert "goes on with a changed recipe" not in capsys.readouterr().err
    assert accuracies(tmp_path / "run" / "results.jsonl") == rows
    dat.train(now, ["data.draw=first"], resume=True, cpu=True)
    assert "so that its rows stay comparable, add evaluation.c_draw=first.\n" in capsys.readouterr().err


def exchange(first: Path, second: Path) -> None:
    for old, new in ((first, first.with_name("other")), (second, first), (first.with_name("other"), second)):
        old.rename(new)


INPUTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "training picture removed": ("data.train", lambda root: (root / "train" / "ant" / "0.bmp").unlink()),
    "training picture replaced": ("data.train", lambda root: put(root / "train" / "ant" / "0.bmp", 50)),
    "training classes exchanged": ("data.train", lambda root: exchange(root / "train" / "ant", root / "train" / "bee")),
    "test picture replaced": ("data.test", lambda root: put(root / "test" / "ant" / "0.bmp", 50)),
    "weights replaced": ("model.weights", lambda root: network_file(root / "weights.safetensors", seed=2)),
    "discretizer replaced": (
        "discretizer.load",
        lambda root: save_discretizer(
            root / "discretizer.safetensors", load_discretizer(root / "discretizer.safetensors").network, {"made": "anew"}
        ),
    ),
}


@pytest.mark.parametrize("change", INPUTS)
def test_a_run_does_not_go_on_with_other_inputs(begun: dict[str, Any], began_with: Path, change: str) -> None:
    key, make = INPUTS[change]
    results = Path(begun["out"]) / "results.jsonl"
    before = results.read_bytes()
    make(began_with)
    with pytest.raises(RunFolderError, match=rf"^What {re.escape(key)} of the recipe names is not what the run"):
        dat.train(begun, resume=True, cpu=True)
    assert results.read_bytes() == before


def test_inputs_stand_in_the_run_from_the_start_and_older_runs_have_none(begun: dict[str, Any], began_with: Path) -> None:
    run = Path(begun["out"]) / "run.json"
    facts = json.loads(run.read_text())
    assert set(facts["inputs"]) == {"data.train", "data.test", "model.weights", "discretizer.load"}
    assert facts["inputs"]["model.weights"] == file_sha256(began_with / "weights.safetensors")
    put(began_with / "train" / "ant" / "0.bmp", 50)
    run.write_text(json.dumps({key: value for key, value in facts.items() if key != "inputs"}))
    kept = {path: path.read_text() for path in run.parent.rglob("settings.json")}
    for path in kept:
        path.unlink()
    dat.train(begun, resume=True, cpu=True)
    for path, text in {**kept, run: json.dumps(facts)}.items():
        path.write_text(text)


def test_what_a_discretizer_is_trained_by_is_an_input_too(teacher: Path, darknet: Path) -> None:
    inputs = json.loads((teacher / "run.json").read_text())["inputs"]
    assert set(inputs) == {"data.train", "data.test", "perceptual.weights", "frechet.weights"}
    assert inputs["perceptual.weights"] == inputs["frechet.weights"] == file_sha256(darknet)


def test_settings_that_differ_are_named_with_both_values(begun: dict[str, Any]) -> None:
    other = {**begun, "title": "another", "training": {**begun["training"], "epochs": 5, "weight_decay": 0.5}}
    said = (
        r"holds trainings with other settings \(training\.epochs was 1, is 5; training\.weight_decay was 0\.\d+, is 0\.5\); "
        r"put those back, remove \S+run/standard-seed0 to train anew, or write out=ANOTHER_FOLDER\. --resume with"
    )
    with pytest.raises(RunFolderError, match=said):
        dat.train(other, resume=True, cpu=True)


def test_other_test_pictures_are_measured_and_nothing_is_trained_again(begun: dict[str, Any], tmp_path: Path) -> None:
    run = Path(shutil.copytree(begun["out"], tmp_path / "run"))
    trained = {path: path.stat().st_mtime_ns for path in run.glob("standard-seed0/checkpoints/*/*")}
    for name in ("ant", "bee"):
        put(tmp_path / "other" / name / "0.bmp", 30)
    other = {**begun, "data": {**begun["data"], "test": str(tmp_path / "other")}}
    dat.train(other, out=run, resume=True, cpu=True)
    assert {path: path.stat().st_mtime_ns for path in run.glob("standard-seed0/checkpoints/*/*")} == trained
    counts = {json.loads(line)["n"] for line in (run / "results.jsonl").read_text().splitlines() if '"clean"' in line}
    assert counts == {2}
    put(tmp_path / "other" / "ant" / "0.bmp", 31)
    with pytest.raises(RunFolderError, match=r"^What data\.test of the recipe names is not what the run"):
        dat.train(other, out=run, resume=True, cpu=True)


def test_resuming_where_there_is_no_run_is_said(begun: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    dat.train(begun, resume=True, cpu=True)
    assert "There is no run" not in capsys.readouterr().err
    out = f"{begun['out']}-typo"
    dat.train(begun, out=out, resume=True, cpu=True)
    assert f"There is no run in {out} yet; beginning anew.\n" in capsys.readouterr().err


def test_what_follows_in_equal_time_is_begun_without_a_word_and_has_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {**CLASSIFIED, "methods": {"standard": {}}, "equal_time_as": "standard", "out": str(tmp_path / "run")}
    del recipe["expect"]
    dat.train(recipe, cpu=True)
    assert "There is no run" not in capsys.readouterr().err
    path = tmp_path / "run" / "equal-time" / "standard-seed0" / "settings.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "inputs": {**kept["inputs"], "data.train": "another"}}))
    with pytest.raises(RunFolderError, match=r"What data\.train of the recipe names is not what the run in .*equal-time"):
        dat.train(recipe, resume=True, cpu=True)


# ---- the doors of the library


def test_loading_a_run_leaves_the_global_random_stream_alone(compared: Path) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    dat.load_run(compared / "standard-seed0")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_recipe_in_python_may_hold_paths() -> None:
    assert recipes.parse({**CLASSIFIED, "out": Path("runs") / "mine"}).out == "runs/mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None,), "A recipe is a file, a name or a mapping, not NoneType"),
        ((["demo"],), "a mapping, not list"),
        (("demo", "training.epochs=1"), r"overrides are 'training.epochs=1'; write a list of texts"),
        (("demo", [3]), r"overrides are \[3\]; write a list"),
        (("demo", None), "overrides are None; write a list"),
        (({"base": "demo"},), "as a mapping takes no base"),
        (({"kind": "classification"},), "names no folder for its run; give out=FOLDER"),
    ],
)
def test_mistakes_at_the_door_are_a_sentence(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        unwrap(dat.train)(*arguments)  # users have no type checks at every call, as these tests do


def test_a_run_is_loaded_from_where_one_is_and_refuses_settings_of_another_network(
    compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = compared / "standard-seed0"
    monkeypatch.chdir(folder)
    assert dat.load_run(".").label == "standard"
    for overrides in (["model.options.width=12"], ["model.name=resnet18", "model.options={}"]):
        with pytest.raises(CheckpointError, match="standard-seed0 with the settings given are not those of this network"):
            dat.load_run(folder, overrides)
    assert dat.load_run(folder, ["methods.standard={method: advprop}"]).label == "standard"  # as a model that was sent
    with pytest.raises(UsageError, match="by the path of a folder, not by NoneType"):
        unwrap(dat.load_run)(None)  # pyright: ignore[reportArgumentType]  # that it is refused is the point
    with pytest.raises(UsageError, match=r"no torch module; write run\.model"):
        unwrap(dat.evaluate)(dat.load_run(folder), suites=["clean"], data=".")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match=r"suites are 'clean'"):
        dat.evaluate(dat.load_run(folder).model, suites="clean", data=".")


def test_a_study_holds_no_recipe() -> None:
    """Of what is opened, nothing but functions may refer to it."""
    for name in ("demo", "discretizer/digits"):
        recipe = recipes.load(name)
        seen, left = set(), [recipe.open(OnDisk())]
        while left:
            value = left.pop()
            assert value is not recipe
            if id(value) not in seen and type(value).__module__.startswith("dat.recipe"):
                seen.add(id(value))
                left += vars(value).values()
        assert len(seen) >= 3


def test_another_size_with_the_alpha_of_the_recipe_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_command, "carry_out", lambda recipe, *_, **__: Path(recipe.out))
    train_command.train("imagenet/table1/resnet50-dat", ["data.size=64"])
    assert capsys.readouterr().err.startswith("Note: data.size is 64 and was 224 in the recipe, but alpha is what it was")
    train_command.train("imagenet/table1/resnet50-dat", ["data.size=64", "methods.dat.alpha=2"])
    assert capsys.readouterr().err == ""
