"""The command line as a user meets it: an example in every help, one sentence for every mistake, reliable exit codes."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import typer.main
import yaml
from PIL import Image

from dat import cli
from dat.commands import doctor
from dat.discretizers import download, names
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.recipe import file as recipe_file
from dat.recipe import read as recipes
from dat.version import __version__

RECIPE = """
kind: classification
title: tiny
data: {source: folder, train: photos/train, test: photos/test, size: 16, augment: {kind: none}}
model: {name: small_resnet, options: {depth: 8, width: 4}}
training: {epochs: 2, batch_size: 4, lr: 0.01, save_minutes: 0}
methods: {standard: {}}
evaluation: {suites: [clean]}
out: run
"""
GOOD, CANNOT, MISUSE = 0, 1, 2


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Dat = Callable[..., Outcome]


@pytest.fixture
def dat(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Dat:
    """Run the command line in this process."""

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dat", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capfd.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run


def write_pictures(folder: Path) -> None:
    numbers = np.random.default_rng(0)
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = numbers.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@functools.cache
def tiny_discretizer() -> bytes:
    """A file of an untrained VQGAN, in the layout of taming-transformers."""
    torch.manual_seed(0)
    sizes = {"n_embed": 12, "embed_dim": 3, "z_channels": 5, "ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1}
    return safetensors.torch.save(VQGAN(VQGANConfig(**sizes, attn_resolutions=())).state_dict())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with eight training pictures of two classes, as many test pictures, and a recipe."""
    write_pictures(tmp_path / "photos")
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "q.safetensors").write_bytes(tiny_discretizer())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAT_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which `tiny.yaml` was carried out."""
    folder = tmp_path_factory.mktemp("trained")
    write_pictures(folder / "photos")
    (folder / "tiny.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["dat", "train", "tiny.yaml"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert not caught.value.code
    return folder


@pytest.fixture
def ran(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run, to damage."""
    folder = shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return folder


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, groups included."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(cli.app))]
    while waiting:
        words, command = waiting.pop()
        yield words, command
        waiting += [((*words, name), inner) for name, inner in getattr(command, "commands", {}).items()]


COMMANDS = dict(commands())


# ---- help


def test_these_are_the_commands():
    assert {" ".join(words) for words in COMMANDS} >= {
        "", "demo", "train", "eval", "report", "doctor", "recipes", "recipes list", "recipes show", "recipes check",
        "discretize", "discretizer", "discretizer list", "discretizer get", "discretizer check", "discretizer convert",
        "data list", "data check", "data make corruptions", "data make stylized", "calibrate",
    }  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_help_ends_with_an_example_of_that_command(dat: Dat, words: tuple[str, ...]):
    outcome = dat(*words, "--help")
    last = outcome.out.strip().splitlines()[-1].strip()
    assert outcome.code == GOOD
    assert last.startswith("Example:  dat " + " ".join(words))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_example_can_be_parsed_and_names_a_recipe_that_exists(words: tuple[str, ...]):
    example = COMMANDS[words].epilog.removeprefix("Example:  dat ").split()
    if not words or hasattr(COMMANDS[words], "commands"):
        words = max((known for known in COMMANDS if tuple(example[: len(known)]) == known), key=len)
    arguments = example[len(words) :]
    context = COMMANDS[words].make_context(words[-1], list(arguments))
    if words in {("train",), ("recipes", "show")}:
        recipes.load(context.params["recipe"], context.params["overrides"] or ())


NETWORKS = {"torch", "torchvision", "timm", "accelerate"}
HEAVY = NETWORKS | {"scipy", "sklearn", "matplotlib", "numpy", "yaml"}


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        *(([*words.split()], HEAVY) for words in ("--help", "recipes --help", "train --help", "frobnicate")),
        (["recipes", "list"], NETWORKS),
    ],
)
def test_help_and_lists_wait_for_nothing_heavy(arguments: list[str], heavy: set[str]):
    program = (
        "import sys; from dat.cli import main\n"
        f"sys.argv = ['dat', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_module_is_the_program():
    done = subprocess.run([sys.executable, "-m", "dat", "train"], capture_output=True, text=True, check=False)
    assert done.returncode == MISUSE
    assert done.stderr.startswith("dat: Missing argument")


# ---- what works


def test_training_prints_a_table_and_says_where_the_report_is(trained: Path, dat: Dat, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(trained)
    outcome = dat("train", "tiny.yaml", "--resume")
    assert outcome.code == GOOD
    assert "Standard" in outcome.out
    assert outcome.out.strip().splitlines()[-1] == "Report: run/report.html"
    assert Path("run/report.html").is_file()


def test_results_go_to_stdout_and_progress_to_stderr(ran: Path, dat: Dat):
    outcome = dat("eval", "run/standard-seed0", "--json")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == GOOD
    assert [(row["suite"], row["n"], row["method"]) for row in rows] == [("clean", 8, "standard")] * 3
    assert "evaluate" in outcome.err


def test_eval_repeats_the_result_of_the_run_and_takes_other_pictures(ran: Path, dat: Dat):
    stored = [json.loads(line) for line in (ran / "run/results.jsonl").read_text().splitlines()]
    again, *_ = (json.loads(line) for line in dat("eval", "run/standard-seed0", "--json").out.splitlines())
    assert again["value"] == next(row["value"] for row in stored if row["suite"] == "clean")
    (ran / "photos/test/cat/0.png").rename(ran / "photos/train/cat/9.png")
    fewer, *_ = (json.loads(line) for line in dat("eval", "run/standard-seed0", "--json").out.splitlines())
    assert fewer["n"] == 7
    assert "7 images" in dat("eval", "run/standard-seed0").out


def test_eval_of_other_pictures_stays_beside_the_first(ran: Path, dat: Dat):
    (ran / "photos/test").rename(ran / "photos/sketches")
    assert dat("eval", "run/standard-seed0", "data.test=photos/sketches").code == GOOD
    (ran / "photos/sketches").rename(ran / "photos/test")
    (ran / "photos/test/cat/0.png").unlink()
    assert dat("eval", "run/standard-seed0").code == GOOD
    folder = ran / "run/standard-seed0/evaluation"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [(row["suite"], row["protocol"]["set"], row["n"]) for row in rows if row["metric"] == "accuracy"] == [
        ("clean", "sketches", 8),
        ("clean", "photos-test", 7),
    ]
    assert dat("report", "run/standard-seed0/evaluation").code == GOOD
    assert "Clean (photos-test)" in (folder / "report.md").read_text()


def test_eval_of_data_without_suites_is_refused(ran: Path, dat: Dat):
    outcome = dat("eval", "run/standard-seed0", "--data", "photos/test")
    assert outcome.code == MISUSE
    assert "--data goes with --suites" in only_sentence(outcome)


@pytest.mark.parametrize("model", ["timm:resnet18", "torchvision:fcos_resnet50_fpn", "imagenet:tiny_darknet"])
def test_eval_of_a_model_by_name_without_suites_is_refused(ran: Path, dat: Dat, model: str):
    outcome = dat("eval", model)
    assert outcome.code == MISUSE
    assert f"{model} has no recipe that says what it is tested on; add --suites" in only_sentence(outcome)


def test_report_names_the_page_it_wrote(ran: Path, dat: Dat):
    (ran / "run/report.html").unlink()
    outcome = dat("report", "run")
    assert (outcome.code, outcome.out.strip()) == (GOOD, "run/report.html")
    assert (ran / "run/report.html").is_file()


def test_recipes_list_names_each_with_its_title(dat: Dat):
    rows = [json.loads(line) for line in dat("recipes", "list", "--json").out.splitlines()]
    assert {row["name"] for row in rows} == set(recipe_file.shipped_recipes())
    plain = dat("recipes", "list").out
    assert all(row["name"] in plain and row["title"] in plain for row in rows)


def test_recipes_show_writes_out_defaults_and_overrides(dat: Dat):
    shown = yaml.safe_load(dat("recipes", "show", "demo", "training.epochs=3").out)
    assert shown["training"]["epochs"] == 3
    assert shown["training"]["momentum"] == 0.9


def test_recipes_check_says_which_are_good(here: Path, dat: Dat):
    assert dat("recipes", "check", "tiny.yaml", "demo").out.splitlines() == ["tiny.yaml: good", "demo: good"]


def test_pictures_are_discretized_into_a_folder(here: Path, dat: Dat):
    outcome = dat("discretize", "photos/test/cat", "photos/test/dog/0.png", "--with", "q.safetensors", "--out", "seen")
    assert outcome.code == GOOD
    assert outcome.out.splitlines()[1].startswith("photos/test/cat/0.png  16 x 16  8 x 8")
    assert outcome.out.splitlines()[-1] == "seen/picture.png"
    written = {path.relative_to("seen").as_posix() for path in Path("seen").rglob("*.*")}
    names_given = ("0", "1", "2", "3", "0-2")
    assert written == {"picture.png", "codes.npz", *(f"reconstructions/{name}.png" for name in names_given)}
    again = dat("discretize", "photos/test/cat/0.png", "--with", "q.safetensors", "--size", "8", "--rate", "0.5", "--json")
    picture, total = (json.loads(line) for line in again.out.splitlines())
    assert (picture["width"], picture["grid"], total["images"], total["codebook_size"]) == (8, [4, 4], 1, 12)
    assert Path("discretized/picture.png").is_file()


def test_an_unreadable_picture_is_named(here: Path, dat: Dat):
    Path("photos/test/cat/2.png").write_bytes(b"no picture")
    outcome = dat("discretize", "photos/test/cat", "--with", "q.safetensors")
    assert outcome.code == CANNOT
    assert "Cannot read the picture photos/test/cat/2.png (10 bytes): not an image" in only_sentence(outcome)


def test_discretizers_are_listed_checked_and_converted(here: Path, dat: Dat):
    rows = [json.loads(line) for line in dat("discretizer", "list", "--json").out.splitlines()]
    assert {row["name"] for row in rows} >= set(names.PUBLIC)
    assert all(name in dat("discretizer", "list").out for name in names.PUBLIC)
    assert json.loads(dat("discretizer", "check", "q.safetensors").out)["layout"] == "vqgan"
    assert dat("discretizer", "convert", "q.safetensors", "new.safetensors").out == "new.safetensors\n"
    assert json.loads(dat("discretizer", "check", "new.safetensors").out)["codebook_size"] == 12


def test_get_downloads_once_and_prints_the_hash(here: Path, dat: Dat, monkeypatch: pytest.MonkeyPatch):
    def fake(row: names.PublicDiscretizer) -> dict[str, str]:
        (path,) = names.files(row)
        path.parent.mkdir()
        path.write_bytes(tiny_discretizer())
        return dict.fromkeys(row.urls, "abc")

    monkeypatch.setattr(download, "get", fake)
    hash_line, path = dat("discretizer", "get", "ibq-1024").out.splitlines()
    assert hash_line.startswith("abc  https://huggingface.co/TencentARC/IBQ-Tokenizer-1024/")
    assert path == str(here / "weights" / "ibq-1024.ckpt")
    assert dat("discretizer", "get", "ibq-1024").out.splitlines() == [path]


def test_doctor_says_what_is_here(dat: Dat):
    outcome = dat("doctor", "--json")
    found = json.loads(outcome.out)
    assert outcome.code == GOOD
    assert found["packages"]["torch"]["good"]
    assert found["devices"][0].startswith("cpu")
    assert "All that is needed is here." in dat("doctor").out


def test_doctor_says_what_to_install(dat: Dat, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "requires", lambda _: ["torch>=99", "no-such-package>=1", "numpy>=1"])
    outcome = dat("doctor")
    assert outcome.code == CANNOT
    assert "no-such-package missing  <- needs >=1" in outcome.out
    assert outcome.out.strip().endswith("-m pip install --upgrade torch no-such-package")


def test_doctor_needs_no_installation_in_a_checkout(dat: Dat, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def nowhere(_: str) -> list[str]:
        raise PackageNotFoundError

    monkeypatch.setattr(doctor, "requires", nowhere)
    found = json.loads(dat("doctor", "--json").out)
    assert found["dat"] == __version__
    assert found["packages"]["torch"]["needs"].startswith(">=2")
    monkeypatch.setattr(doctor, "PROJECT", tmp_path / "pyproject.toml")
    outcome = dat("doctor")
    assert outcome.code == CANNOT
    assert f"not installed, and there is no {tmp_path}" in outcome.err.replace("\n", "")
    assert "Traceback" not in outcome.err


# ---- mistakes: (arguments, exit code, what the sentence says)

MISTAKES = {
    "no such command": (["frobnicate"], MISUSE, "No such command 'frobnicate'"),
    "no such option": (["train", "tiny.yaml", "--frob"], MISUSE, "No such option"),
    "argument missing": (["train"], MISUSE, "Missing argument"),
    "no such recipe": (["train", "tinny.yaml"], MISUSE, "There is no recipe 'tinny.yaml'"),
    "near a shipped recipe": (["train", "dmeo"], MISUSE, "did you mean 'demo'?"),
    "unknown key": (["train", "tiny.yaml", "training.epoch=3"], MISUSE, "training.epoch: unknown key; did you mean 'epochs'?"),
    "wrong type": (["train", "tiny.yaml", "training.lr=fast"], MISUSE, "training.lr: must be a valid number, not 'fast'."),
    "no override": (["train", "tiny.yaml", "resume"], MISUSE, "'resume' is not of the form key.sub=value"),
    "negative alpha": (["train", "demo", "methods.dat.alpha=-1"], MISUSE, "methods.dat: alpha is -1.0"),
    "no such model": (["train", "tiny.yaml", "model.name=resnet81"], MISUSE, "no model 'resnet81'; did you mean resnet18"),
    "no such optimizer": (["train", "tiny.yaml", "training.optimizer=sdg"], MISUSE, "optimizer is 'sdg'; did you mean 'sgd'?"),
    "batch too large": (["train", "tiny.yaml", "training.batch_size=99"], MISUSE, "has 8 pictures, fewer than one batch of 99"),
    "no suites": (["train", "tiny.yaml", "evaluation.suites=[]"], MISUSE, "evaluation.suites: is empty"),
    "no data folder": (["train", "tiny.yaml", "data.train=nowhere"], CANNOT, "Cannot open the data folder nowhere"),
    "other number of classes": (["train", "tiny.yaml", "data.classes=3"], CANNOT, "photos/train has 2 class folders"),
    "no discretizer": (
        ["train", "tiny.yaml", "methods.dat={}", "discretizer.load=nowhere.ckpt"],
        CANNOT,
        "There is no weight file at nowhere.ckpt",
    ),
    "output in a file": (["train", "tiny.yaml", "out=tiny.yaml/run"], CANNOT, "tiny.yaml/run cannot be written"),
    "diverging": (["train", "tiny.yaml", "training.lr=1e20", "training.log_every=1"], CANNOT, "lower the learning rate"),
    "eval of nothing": (["eval", "nowhere"], CANNOT, "nowhere is not the folder of a trained model"),
    "eval of an unknown timm": (["eval", "timm:resnet5O", "--suites", "clean"], MISUSE, "did you mean resnet50"),
    "eval without pictures": (
        ["eval", "imagenet:tiny_darknet", "--suites", "clean"], MISUSE, "comes without weights; add --weights FILE"
    ),
    "eval of no weights": (
        ["eval", "imagenet:tiny_darknet", "--suites", "clean", "--weights", "no.npz"], CANNOT, "no.npz"
    ),
    "eval with a wrong setting": (
        ["eval", "timm:resnet18", "--suites", "fgsm", "fgsm_epsilon=4"], MISUSE, "did you mean 'fgsm_epsilon_255'?"
    ),
    "eval with a recipe key": (["eval", "timm:resnet18", "--suites", "clean", "data.test=x"], MISUSE, "write --data FOLDER"),
    "eval of no severity": (["eval", "timm:resnet18", "--suites", "clean", "severities=[]"], MISUSE, "severities: is empty"),
    "eval of a severity twice": (["eval", "timm:resnet18", "--suites", "clean", "severities=[1,1]"], MISUSE, "name each once"),
    "eval of no corruption": (["eval", "timm:resnet18", "--suites", "clean", "corruptions=[]"], MISUSE, "name at least one"),
    "too large": (["train", "tiny.yaml", "data.size=100000000"], MISUSE, "data.size: must be less than or equal to 8192"),
    "a tag that does not fit": (["train", "tiny.yaml", "seeds=!!int ten"], MISUSE, "The value of seeds is not YAML"),
    "check of no test set": (["data", "check", "b", "--root", "photos"], MISUSE, "There is no test set 'b'"),
    "copies of nothing": (["data", "make", "corruptions", "nowhere", "--out", "new"], CANNOT, "nowhere"),
    "calibrate nothing": (["calibrate", "nowhere"], CANNOT, "nowhere"),
    "report of nothing": (["report", "nowhere"], CANNOT, "nowhere"),
    "show of nothing": (["recipes", "show", "nowhere"], MISUSE, "There is no recipe 'nowhere'"),
    "check of nothing": (["recipes", "check", "nowhere"], MISUSE, "There is no recipe 'nowhere'"),
    "discretize by nothing": (["discretize", "photos"], MISUSE, "--with is missing; name a discretizer"),
    "discretize by an unknown": (["discretize", "photos", "--with", "ldm-f8"], CANNOT, "did you mean 'ldm-vq-f8'?"),
    "discretize by an absent": (["discretize", "photos", "--with", "ibq-1024"], CANNOT, "`dat discretizer get ibq-1024`"),
    "discretize no picture": (["discretize", "nowhere", "--with", "ibq-1024"], CANNOT, "no picture and no folder at nowhere"),
    "no such public discretizer": (["discretizer", "get", "ibq-1023"], MISUSE, "did you mean 'ibq-1024'?"),
    "check of no discretizer": (["discretizer", "check", "tiny.yaml"], CANNOT, "tiny.yaml"),
    "no such layout": (["discretizer", "check", "q.safetensors", "--layout", "vqgam"], MISUSE, "There is no layout 'vqgam'"),
    "no configuration": (
        ["discretizer", "convert", "q.safetensors", "new.safetensors", "--config", "no.yaml"], MISUSE, "no.yaml"
    ),
    "convert onto itself": (["discretizer", "convert", "q.safetensors", "q.safetensors"], MISUSE, "is there already"),
}  # fmt: skip


def only_sentence(outcome: Outcome) -> str:
    """What was said to the user, after any progress: one paragraph that begins with the name of the program."""
    assert "Traceback" not in outcome.err
    said = re.findall(r"^dat: .*", outcome.err, flags=re.MULTILINE | re.DOTALL)
    assert len(said) == 1, outcome.err
    sentence = said[0].rstrip()
    heading, *faults = sentence.splitlines()
    assert heading.endswith((".", "?", "s:", "t:", "'recipe'", "--frob")), heading
    assert all(fault.startswith("  ") for fault in faults)
    return sentence


@pytest.mark.parametrize(("arguments", "code", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_sentence_and_its_exit_code(here: Path, dat: Dat, arguments: list[str], code: int, words: str):
    outcome = dat(*arguments)
    assert words in only_sentence(outcome)
    assert outcome.code == code
    assert outcome.out == ""


def test_what_is_wrong_in_a_recipe_is_said_before_anything_is_written(here: Path, dat: Dat):
    for override in ("methods.standard.alpha=1", "model.name=resnet81", "training.schedule=cosin", "model.options.depth=9"):
        assert dat("train", "tiny.yaml", override).code == MISUSE
    assert sorted(path.name for path in here.iterdir()) == ["photos", "q.safetensors", "tiny.yaml"]


def test_an_empty_class_folder_is_named(here: Path, dat: Dat):
    (here / "photos/train/emu").mkdir()
    outcome = dat("train", "tiny.yaml")
    assert outcome.code == CANNOT
    assert "Class folder photos/train/emu holds no files" in only_sentence(outcome)


def test_a_damaged_picture_is_named_with_its_size(here: Path, dat: Dat):
    picture = here / "photos/train/dog/2.png"
    picture.write_bytes(picture.read_bytes()[:40])
    outcome = dat("train", "tiny.yaml")
    assert outcome.code == CANNOT
    assert "Cannot read the picture photos/train/dog/2.png (40 bytes)" in only_sentence(outcome)


def test_a_recipe_of_random_bytes_is_no_recipe(here: Path, dat: Dat):
    (here / "bytes.yaml").write_bytes(bytes(range(256)))
    outcome = dat("train", "bytes.yaml")
    assert outcome.code == MISUSE
    assert "bytes.yaml is not YAML" in only_sentence(outcome)


def test_a_filled_run_folder_is_not_written_again(ran: Path, dat: Dat):
    before = (ran / "run/results.jsonl").read_bytes()
    outcome = dat("train", "tiny.yaml")
    assert outcome.code == CANNOT
    assert only_sentence(outcome) == "dat: run already holds a run; add --resume to continue it, or write out=ANOTHER_FOLDER."
    assert (ran / "run/results.jsonl").read_bytes() == before


def test_a_run_is_not_resumed_with_another_recipe(ran: Path, dat: Dat):
    outcome = dat("train", "tiny.yaml", "training.lr=0.02", "--resume")
    assert outcome.code == CANNOT
    assert re.search(r"run holds trainings with other settings \(training\.lr was 0\.01, is 0\.02\); ", only_sentence(outcome))


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "run/standard-seed0/checkpoints").glob("step-*"))


def cut_off(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def test_a_damaged_newest_checkpoint_is_replaced_by_the_one_before(ran: Path, dat: Dat):
    before, newest = checkpoints(ran)
    results = (ran / "run/results.jsonl").read_text().splitlines()
    cut_off(newest)
    outcome = dat("train", "tiny.yaml", "--resume")
    assert outcome.code == GOOD
    said = outcome.out + outcome.err
    assert "it was cut off; use an earlier checkpoint." in said
    assert f"Continuing from {before.name}." in said
    assert (ran / "run/results.jsonl").read_text().splitlines()[0] == results[0]


@pytest.mark.parametrize("suites", [[], ["--suites", "clean"]])
def test_an_older_checkpoint_is_evaluated_only_by_its_own_name(ran: Path, dat: Dat, suites: list[str]):
    before, newest = checkpoints(ran)
    cut_off(newest)
    outcome = dat("eval", "run/standard-seed0", *suites)
    assert outcome.code == CANNOT
    assert f"{newest.name}/model.safetensors has" in only_sentence(outcome)
    assert f"newest whole one is run/standard-seed0/checkpoints/{before.name}; name that" in only_sentence(outcome)
    assert dat("eval", str(before), *suites, "--no-self-test").code == GOOD


def test_a_run_without_a_whole_checkpoint_cannot_be_resumed(ran: Path, dat: Dat):
    for checkpoint in checkpoints(ran):
        cut_off(checkpoint)
    outcome = dat("train", "tiny.yaml", "--resume")
    assert outcome.code == CANNOT
    assert "No checkpoint in run/standard-seed0/checkpoints is whole" in only_sentence(outcome)


def test_a_garbled_line_of_a_log_is_named(ran: Path, dat: Dat):
    log = ran / "run/standard-seed0/log.jsonl"
    log.write_bytes(b"\xff{garbled}\n" + log.read_bytes())
    for checkpoint in checkpoints(ran)[1:]:
        shutil.rmtree(checkpoint)
    outcome = dat("train", "tiny.yaml", "--resume")
    assert outcome.code == CANNOT
    assert "Line 1 of run/standard-seed0/log.jsonl is no line of a training log" in only_sentence(outcome)


def test_a_run_that_names_no_classes_is_refused(ran: Path, dat: Dat):
    facts = json.loads((ran / "run/run.json").read_text())
    del facts["class_names"]
    (ran / "run/run.json").write_text(json.dumps(facts))
    outcome = dat("eval", "run/standard-seed0")
    assert outcome.code == CANNOT
    assert "run/run.json names no classes" in only_sentence(outcome)


def test_results_in_no_text_are_refused(ran: Path, dat: Dat):
    (ran / "run/results.jsonl").write_bytes(b"\xff\xfe{}")
    outcome = dat("report", "run")
    assert outcome.code == CANNOT
    assert "results.jsonl is no text in UTF-8" in only_sentence(outcome)


def test_one_class_is_refused(ran: Path, dat: Dat):
    for part in ("train", "test"):
        shutil.rmtree(ran / "photos" / part / "dog")
    outcome = dat("train", "tiny.yaml", "out=other")
    assert outcome.code == CANNOT
    assert "one class, cat, which is always right" in only_sentence(outcome)


def test_files_of_other_kinds_are_counted(ran: Path, dat: Dat):
    (ran / "photos/test/cat/7.heic").write_bytes(b"")
    (ran / "photos/test/dog/notes.txt").write_bytes(b"")
    outcome = dat("eval", "run/standard-seed0", "--json")
    assert outcome.code == GOOD
    assert (
        "2 files of photos/test are left out, for a suffix (.heic, .txt) that is no picture's: cat/7.heic and others."
        in outcome.err
    )


def test_eval_of_other_classes_is_refused(ran: Path, dat: Dat):
    (ran / "photos/test/dog").rename(ran / "photos/test/emu")
    outcome = dat("eval", "run/standard-seed0")
    assert outcome.code == CANNOT
    assert "1 missing ('dog'), 1 extra ('emu')" in only_sentence(outcome)


def test_a_failure_of_the_disk_names_the_file(here: Path, dat: Dat, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "run/recipe.yaml")

    monkeypatch.setattr(cli, "train", full)
    outcome = dat("demo")
    assert outcome.code == CANNOT
    assert only_sentence(outcome) == "dat: No space left on device (run/recipe.yaml)."


def test_an_interrupt_says_how_to_go_on(dat: Dat, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "train", interrupted)
    outcome = dat("demo")
    assert outcome.code == 130
    assert only_sentence(outcome).endswith("continue with --resume.")
    monkeypatch.setattr("dat.discretizers.listing.rows", interrupted)
    assert only_sentence(dat("discretizer", "list")).endswith("run the command again.")


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "train", broken)
    monkeypatch.setattr(sys, "argv", ["dat", "demo"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_only_the_first_process_speaks(here: Path, dat: Dat, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    outcome = dat("train", "nothing.yaml")
    assert (outcome.code, outcome.out, outcome.err) == (MISUSE, "", "")
