"""Several named test sets: a column each, on the page of a run and in `dat eval`; and pictures that nobody means to test on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.commands.evaluation_plan import Plan
from dat.data import folders
from dat.data.folders import ImageFolder
from dat.data.overlap import shared_pictures
from dat.data.subset import Subset
from dat.errors import DataError, UsageError
from dat.evaluation.mistakes import reliability
from dat.evaluation.right import read_all
from dat.evaluation.store import read_answered
from dat.evaluation.suites import FGSM
from dat.recipe import read
from dat.recipe.classification import ClassificationRecipe
from dat.recipe.header import recipe_hash
from dat.report.answered import right_of
from dat.report.mistakes import Strip, read_strips
from dat.report.page import gather
from dat.report.tables import comparison_table
from dat.results import LATER_MISTAKES, Row, read_rows, write_rows
from dat.studies import mistaken_pictures

pytestmark = pytest.mark.usefixtures("all_undrawn")

CLASSES = ("cat", "dog", "fox")


def paint(root: Path, classes: tuple[str, ...] = CLASSES, *, count: int = 4, side: int = 16, seed: int) -> Path:
    """Noise: pictures that no other set has."""
    draws = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(draws.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for seed, name in enumerate(("train", "test", "art", "sketch")):
        paint(root / name, seed=seed, count=4 + seed)
    paint(root / "some", ("dog", "fox"), seed=7)
    return root


def recipe(photos: Path, out: Path, **data: Any) -> dict[str, Any]:
    section = {"source": "folder", "train": str(photos / "train"), "test": str(photos / "test"), "size": 16, "crop_pct": 1.0}
    return {
        "kind": "classification",
        "title": "sets",
        "out": str(out),
        "data": {**section, "augment": {"kind": "none"}, **data},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 1, "batch_size": 6, "lr": 0.01},
        "methods": {"standard": {}, "at": {}},
        "seeds": [0],
        "evaluation": {"suites": ["clean", "fgsm"]},
    }


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained once, tested on three sets."""
    places = {
        "photo": str(photos / "test"),
        "art": str(photos / "art"),
        "some": {"folder": str(photos / "some"), "classes": "subset"},
    }
    return dat.train(recipe(photos, tmp_path_factory.mktemp("runs") / "run", test=places), cpu=True)


@pytest.fixture
def rows(run: Path) -> list[Row]:
    return [row for row in read_rows(run / "results.jsonl") if row.metric == "accuracy"]


def test_the_answers_that_are_kept_give_the_rows_of_each_set(run: Path, rows: list[Row]) -> None:
    answers = read_all(run, ((row.method, row.seed) for row in rows))
    comparison = comparison_table(rows, answers=right_of(answers))
    assert comparison.suites == ("clean", "fgsm", "clean@art", "clean@some")
    assert all(set(comparison.answers_to(suite)) == {"standard", "at"} for suite in comparison.suites)
    assert "right/at-seed0.npz" in json.loads((run / "run.json").read_text())["files"]
    report = gather(run)
    assert "of these models alone (one seed), AT" in report.reading[0]
    assert [text for text in report.left_out if "Answers" in text and "on Clean (some)." in text and "fewer than 10" in text]


def test_each_set_has_rows_with_its_name_and_its_pictures(rows: list[Row], photos: Path) -> None:
    assert [(row.method, row.suite, row.protocol["set"], row.n) for row in rows if row.method == "at"] == [
        ("at", "clean", "photo", 15),
        ("at", "fgsm", "photo", 15),
        ("at", "clean", "art", 18),
        ("at", "clean", "some", 8),
    ]
    assert rows[0].protocol["data"] == ImageFolder(photos / "test").fingerprint()[:12]
    assert {row.protocol.get("classes") for row in rows if row.protocol["set"] == "some"} == {"2 of 3"}
    assert len({row.protocol["data"] for row in rows}) == 3


def test_a_column_each_in_one_table(run: Path) -> None:
    page = (run / "report.md").read_text()
    heading = next(line for line in page.splitlines() if line.startswith("| Method | Clean"))
    titles = [cell.split(" (1")[0].strip() for cell in heading.split("|")[2:-1]]
    assert titles[:4] == ["Clean (photo)", "FGSM (photo)", "Clean (art)", "Clean (some)"]
    assert json.loads((run / "run.json").read_text())["data"]["test_sets"] == {"photo": 15, "art": 18, "some": 8}


def test_targets_of_a_part_of_the_classes_are_those_of_all(photos: Path) -> None:
    source = ImageFolder(photos / "some", classes=CLASSES, subset=True)
    assert source.classes == CLASSES
    assert {source.name(i).split("/")[0]: int(source.targets[i]) for i in range(len(source))} == {"dog": 1, "fox": 2}
    with pytest.raises(DataError, match=r"1 missing \('cat'\); add them, or write classes: subset"):
        ImageFolder(photos / "some", classes=CLASSES)


def test_other_suites_are_of_the_first_set_unless_asked(photos: Path, tmp_path: Path) -> None:
    values = recipe(photos, tmp_path / "run", test={"photo": str(photos / "test"), "art": str(photos / "art")})
    values |= {"methods": {"standard": {}}, "evaluation": {"suites": ["clean"], "further_suites": ["clean", "fgsm"]}}
    rows = read_rows(dat.train(values, cpu=True) / "results.jsonl")
    found = [(row.suite, row.protocol["set"]) for row in rows if row.ci and row.metric == "accuracy"]
    assert found == [("clean", "photo"), ("clean", "art"), ("fgsm", "art")]


def test_a_single_folder_has_the_hash_that_it_had_before_there_were_several() -> None:
    values = recipe(Path("photos"), Path("run"))
    assert recipe_hash(read.parse(values)) == "a9f4f9a34581"
    assert recipe_hash(read.load("demo")) == "64ffa139ea1a"
    assert recipe_hash(read.parse({**values, "evaluation": {"further_suites": ["fgsm"]}})) != recipe_hash(
        read.parse({**values, "evaluation": {}})
    )


def test_a_changed_set_is_another_input(photos: Path, tmp_path: Path) -> None:
    from dat.recipe.inputs import inputs_of
    from dat.recipe.parts import OnDisk

    parsed = read.parse(recipe(photos, tmp_path, test={"photo": str(photos / "test"), "art": str(photos / "art")}))
    found = inputs_of(parsed, OnDisk().data(parsed.data))
    assert found["data.test.art"] == ImageFolder(photos / "art").fingerprint()[:12] != found["data.test"]


def test_every_set_is_listed_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    original = folders._class_folders

    def listing(root: Path) -> tuple[str, ...]:
        listed.append(root.name)
        return original(root)

    monkeypatch.setattr(folders, "_class_folders", listing)
    values = recipe(photos, tmp_path / "run", test={"photo": str(photos / "test"), "art": str(photos / "art")})
    dat.train({**values, "methods": {"standard": {}}}, cpu=True)
    assert sorted(listed) == ["art", "test", "train"]


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ({}, "names no test set"),
        ({"a/b": "x"}, "'a/b' is no name of a test set; use letters"),
        ({"art": {"folder": "x", "clases": "subset"}}, r"data\.test\.art\.clases: unknown key; did you mean 'classes'\?"),
        (3, r"data\.test: is 3; write one folder, test: FOLDER, or several by name, test: \{NAME: FOLDER, \.\.\.\}"),
        (["a", "b"], r"data\.test: is \['a', 'b'\]; write one folder, test: FOLDER, or several by name"),
        (None, r"data\.test: is nothing; write one folder"),
        ("", r"data\.test: is nothing; write one folder"),
        (
            {"folder": "x", "classes": "subset"},
            r"data\.test: is \{'folder': 'x', 'classes': 'subset'\}, but folder and classes belong to one of several sets, "
            r"which has a name; write test: \{NAME: \{folder: FOLDER, classes: subset\}\}",
        ),
        ({"folder": "x"}, "belong to one of several sets, which has a name"),
        ({"art": "x", "classes": "subset"}, "belong to one of several sets, which has a name"),
        ({"art": 3}, r"data\.test: has 3 for art; write art: FOLDER, or art: \{folder: FOLDER, classes: subset\}"),
        ({"art": ["x", "y"]}, r"data\.test: has \['x', 'y'\] for art; write art: FOLDER"),
        ({"art": None}, "has nothing for art"),
        ({"art": " "}, "has ' ' for art"),
        ({"art": {}}, r"has \{\} for art"),
        ({"art": {"folder": ["x"]}}, r"data\.test\.art\.folder: is \['x'\]; write one folder"),
        ({"art": {"classes": "subset"}}, r"data\.test\.art\.folder: missing; add it"),
    ],
)
def test_wrong_names_of_sets_are_refused(test: Any, said: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        read.parse(recipe(photos, tmp_path, test=test))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "train=[a, b]",
            r"data\.train: is \['a', 'b'\]; write one folder, train: FOLDER; others of the same classes are extra_train",
        ),
        ("train=", "data.train: is nothing; write one folder"),
        ("test={a: x, a: y}", r"The value of data\.test has the key 'a' twice; keep one"),
        ("extra_train=a", r"data\.extra_train: is 'a'; write a list, extra_train: \[FOLDER, \.\.\.\]"),
        ("extra_train=[5]", r"data\.extra_train\.0: is 5; write one folder"),
        (
            "validation=[a]",
            r"data\.validation: is \['a'\]; write a share of the training pictures between 0 and 1, e\.g\. 0\.1, or a",
        ),
        ("validation=10%", r"data\.validation: is '10%'; write a share"),
        ("validation=10", r"data\.validation: is 10; write a share"),
        ("validation=0", r"data\.validation: is 0; write a share"),
        ("validation=true", r"data\.validation: is True; write a share"),
    ],
)
def test_what_is_no_place_of_pictures_is_refused_in_one_sentence(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as found:
        read.load("folder/small-scratch", [f"data.{words}"])
    assert len(str(found.value).strip().splitlines()) <= 2


@pytest.mark.parametrize("name", ["selfsupervised/mae-small", "detection/small"])
@pytest.mark.parametrize("key", ["train", "test"])
def test_other_recipes_name_one_place_each(name: str, key: str) -> None:
    with pytest.raises(UsageError, match=rf"data\.{key}: is \['a', 'b'\]; write one folder"):
        read.load(name, ["data.source=folder"] * name.startswith("self") + [f"data.{key}=[a, b]"])


def test_only_comparisons_of_classifiers_have_several(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names several sets, which only recipes of classification measure"):
        read.load("discretizer/photos-f4", ["data.test={a: x}"])


# ---- later


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--data", "my art=ART"],
            r"calls a set 'my art', but names are of letters, digits and any of \. \+ - _; write --data",
        ),
        (["--data", "a=ART", "--data", "a=TEST"], r"is another set with the name a; write --data NAME=FOLDER for each"),
        (["--data", "a=ART", "a=TEST"], r"is another set with the name a; write --data NAME=FOLDER for each"),
    ],
)
def test_what_is_wrong_with_a_named_set_is_said(photos: Path, run: Path, words: list[str], said: str) -> None:
    filled = [word.replace("ART", str(photos / "art")).replace("TEST", str(photos / "test")) for word in words]
    with pytest.raises(UsageError, match=said):
        command("eval", run, *filled, "--cpu")


def command(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exit_code:
        raise done.exception if done.exception is not None else AssertionError(done.output)
    return done.stdout


def test_a_run_is_evaluated_on_named_sets_in_one_table_and_its_page_shows_them(run: Path, photos: Path) -> None:
    shown = command("eval", run, "--data", f"art={photos / 'art'}", f"sketch={photos / 'sketch'}", "--cpu")
    assert re.search(r"Clean \(art\) +Clean \(sketch\)\n", shown)
    assert re.search(r"^Standard .*\nAT ", shown, re.MULTILINE)
    kept = read_rows(run / "at-seed0" / "evaluation" / "results.jsonl")
    stored = [row for row in kept if row.metric == "accuracy"]
    assert [(row.suite, row.protocol["set"], row.n) for row in stored] == [("clean", "art", 18), ("clean", "sketch", 21)]
    command("report", run)
    page = (run / "report.md").read_text()
    later = page.split("What `dat eval` measured later")[1]
    heading = next(line for line in later.splitlines() if line.startswith("| Method"))
    titles = [re.sub(r" \(1 .*", "", cell.strip()) for cell in heading.split("|")[2:-1]]
    assert titles == ["Clean (photo)", "Clean (some)", "Clean (art)", "Clean (sketch)"]
    trained = next(row for row in read_rows(run / "results.jsonl") if row.method == "at" and row.protocol.get("set") == "art")
    assert stored[0].value == trained.value
    parts = re.findall(r"Accuracy by class in percent on (\w+)", page)
    assert parts == ["photo", "art", "some", "sketch"]
    strips = read_strips(run / LATER_MISTAKES)
    assert list(strips) == ["art", "sketch"]
    standard, at = (read_answered(run / f"{method}-seed0" / "evaluation", "clean", "sketch") for method in ("standard", "at"))
    differ = [int((first.correct & ~second.correct).sum()) for first, second in ((standard, at), (at, standard))]
    assert [len(strip.pictures) for strip in strips["sketch"]] == [min(8, count) for count in differ if count]
    assert [row.value for row in kept if (row.metric, row.protocol["set"]) == ("ece", "sketch")] == [
        pytest.approx(reliability(at.sure, at.correct).error if at.sure is not None else 0, abs=1e-4)
    ]


def line_of(text: str, beginning: str) -> list[str]:
    """The cells of the first line of a Markdown table that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {beginning} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_what_was_evaluated_later_has_the_intervals_of_the_training(run: Path, photos: Path, tmp_path: Path) -> None:
    """Those of the pictures of art are the same, whether shown at the end of the training or later."""
    shutil.copytree(run, copy := tmp_path / "run")
    words = [word for name in ("art", "sketch") for word in ("--data", f"{name}={photos / name}")]
    shown = command("eval", copy, *words, "--cpu")
    command("report", copy)
    trained, later = (copy / "report.md").read_text().split("What `dat eval` measured later")
    for method in ("Standard", "AT"):
        then, now = line_of(trained.split("## Tables")[1], method), line_of(later, method)
        photo, _, art, some, *_ = then
        assert now[:3] == [photo, some, art]
        assert all("\N{PLUS-MINUS SIGN}" in cell or " +" in cell for cell in (photo, art, now[3]))
        printed = next(line for line in shown.splitlines() if line.startswith(method))
        assert re.split(r" {2,}", printed)[1:] == now[2:]
    over = "Intervals are over the pictures alone, for the models of one seed: other seeds may give another order."
    assert over in later.split("**", 2)[1]
    assert over in shown
    assert later.count("other seeds may give another order") >= 2
    assert "over pictures, for these models" in later.split("**")[0]
    assert "over pictures, for these models" in shown
    damaged = copy / "at-seed0" / "evaluation" / "predictions"
    (damaged / "clean@sketch.npz").write_bytes(b"none")
    command("report", copy)
    text = (copy / "report.md").read_text()
    left = line_of(text.split("What `dat eval` measured later")[1], "AT")
    assert left[2] == line_of(later, "AT")[2]
    assert re.fullmatch(r"[\d.]+", left[3]), "no interval where the answers of one model are gone"
    assert re.search(
        r"Answers per picture: left out on Clean \(some\) and Clean \(sketch\)\. Those of some models are missing", text
    )


def test_a_single_named_set_has_its_name_in_the_table(run: Path, photos: Path, tmp_path: Path) -> None:
    shown = command("eval", run / "at-seed0", "--data", f"art={photos / 'art'}", "--out", tmp_path, "--cpu")
    assert re.search(r"^Method +Clean \(art\)\n", shown)
    plain = command("eval", run / "at-seed0", f"data.test={photos / 'test'}", "--out", tmp_path, "--cpu")
    assert re.search(r"^Method +Clean +FGSM", plain)


def test_the_pictures_that_methods_differ_on_stay_when_further_sets_are_shown(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setattr(mistaken_pictures, "differing", lambda *_: [0, 1])

    def show(*names: str) -> dict[str, tuple[Strip, ...]]:
        command("eval", tmp_path / "run", "--cpu", *(word for n in names for word in ("--data", f"{n}={photos / n}")))
        return read_strips(tmp_path / "run" / LATER_MISTAKES)

    shutil.rmtree(tmp_path / "run" / "at-seed0" / "evaluation", ignore_errors=True)
    first = show("art", "train")
    assert [len(strip.pictures) for strips in first.values() for strip in strips] == [2, 2, 2, 2]
    second = show("sketch", "train")
    assert list(second) == ["art", "sketch", "train"]
    assert (second["art"], second["train"]) == (first["art"], first["train"])
    (tmp_path / "run" / "at-seed0" / "evaluation" / "results.jsonl").unlink()  # what was measured of art is gone
    assert list(show("sketch")) == ["sketch"]
    (tmp_path / "run" / LATER_MISTAKES).write_bytes(b"none")
    assert list(show("train")) == ["train"]


def test_suites_are_shown_of_each_named_set(run: Path, photos: Path, tmp_path: Path) -> None:
    words = ["eval", run / "standard-seed0", "--suites", "clean,fgsm", "--out", tmp_path, "--cpu", "--json"]
    lines = command(*words, "--data", f"a.1={photos / 'art'}", "--data", f"b={photos / 'sketch'}").splitlines()
    found = [json.loads(line) for line in lines]
    assert [(row["suite"], row["protocol"]["set"]) for row in found if row["metric"] == "accuracy"] == [
        (s, n) for n in ("a.1", "b") for s in ("clean", "fgsm")
    ]
    assert "Clean (b)" in (tmp_path / "report.md").read_text()


def test_some_of_the_classes_must_be_asked_for_in_the_command_too(run: Path, photos: Path, tmp_path: Path) -> None:
    model, out = run / "standard-seed0", ["--out", tmp_path, "--cpu", "--json"]
    again = ["eval", model, "--data", f"some={photos / 'some'}", *out]
    with pytest.raises(DataError, match="classes: subset"):
        command(*again)
    row, *_ = [json.loads(line) for line in command(*again, "classes=subset").splitlines()]
    assert (row["n"], row["protocol"]["classes"]) == (8, "2 of 3")
    suites = ["eval", model, "--suites", "clean", "--data", photos / "some", *out]
    with pytest.raises(DataError, match="none of cat; name a folder with pictures of each, or add classes=subset"):
        command(*suites)
    other, *_ = [json.loads(line) for line in command(*suites, "classes=subset").splitlines()]
    assert (other["value"], other["protocol"]["classes"]) == (row["value"], "2 of 3")


@pytest.mark.parametrize("words", [["art=x", "y"], ["art=x", "=y"], ["art=x", "b="]])
def test_several_sets_are_named(words: list[str], run: Path) -> None:
    with pytest.raises(UsageError, match="names no set of its own; write --data NAME=FOLDER for each"):
        command("eval", run, *(part for word in words for part in ("--data", word)))


def test_rows_that_cannot_be_put_beside_each_other_are_left_out_of_the_page(run: Path, photos: Path) -> None:
    command("eval", run, "--data", f"art={photos / 'art'}", "--cpu")
    path = run / "at-seed0" / "evaluation" / "results.jsonl"
    before = read_rows(path)
    write_rows(path, [Row(**{**vars(row), "protocol": {**row.protocol, "height": 5}}) for row in before])
    command("report", run)
    write_rows(path, before)
    said = r"What was evaluated later: left out\. Suite 'clean@(art|sketch)' was measured in two ways"
    assert re.search(said, (run / "report.md").read_text())


# ---- pictures that nobody means


def test_one_class_spelt_in_two_ways_is_refused(photos: Path, tmp_path: Path) -> None:
    paint(tmp_path / "test", ("cat", "Dog", "fox"), seed=3)
    with pytest.raises(DataError, match=r"The class 'Dog' of .*test is 'dog' in training; give its folder that name"):
        dat.train(recipe(photos, tmp_path / "run", test=str(tmp_path / "test")), cpu=True)
    paint(tmp_path / "train", ("red fox", "Red_Fox"), seed=3)
    with pytest.raises(DataError, match=r"train has one class spelt in two ways, 'Red_Fox' and 'red fox'; put both"):
        ImageFolder(tmp_path / "train")
    paint(tmp_path / "blank", ("fox", "fox "), seed=3)
    with pytest.raises(DataError, match=r"blank has one class spelt in two ways, 'fox' and 'fox '; put both"):
        ImageFolder(tmp_path / "blank")
    paint(tmp_path / "letters", ("A", "a"), seed=3)
    assert ImageFolder(tmp_path / "letters").classes == ("A", "a")


def test_a_class_spelt_otherwise_than_the_models_is_told_by_the_command(run: Path, tmp_path: Path) -> None:
    paint(tmp_path / "test", ("cat", "Dog", "fox"), seed=3)
    with pytest.raises(DataError, match=r"The class 'Dog' of .* is 'dog' in the model; give its folder that name"):
        command("eval", run / "at-seed0", "--suites", "clean", "--data", tmp_path / "test", "--out", tmp_path / "o", "--cpu")


def test_training_pictures_among_the_test_pictures_are_counted_and_named(
    photos: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "test", seed=11)
    for number in range(2):
        (tmp_path / "test" / "dog" / f"left{number}.png").write_bytes((photos / "train" / "cat" / f"{number}.png").read_bytes())
    values = {**recipe(photos, tmp_path / "run", test=str(tmp_path / "test")), "methods": {"standard": {}}}
    folder = dat.train(values, cpu=True)
    first = f"{tmp_path}/test/dog/left0.png (in training {photos}/train/cat/0.png)"
    said = f"2 of the 14 test pictures are training pictures, too: {first}"
    assert capsys.readouterr().err.count(said) == 1
    assert said in (folder / "report.md").read_text()
    words = ["eval", str(run), "--data", f"odd={tmp_path / 'test'}", "--cpu", "--out", str(tmp_path / "o")]
    told = CliRunner().invoke(app, words).stderr
    assert told.count("2 of the 14 test pictures of odd are training pictures, too") == 1  # not once for each model


def test_pictures_that_the_weights_of_the_beginning_were_trained_on_are_told_too(photos: Path, tmp_path: Path) -> None:
    """Of the run behind `model.weights`, and of that behind it; a picture of the training itself is told once."""
    for number, name in enumerate(("first", "second", "third")):
        paint(tmp_path / name, seed=20 + number)
    paint(tmp_path / "test", seed=30)
    for number, name in enumerate(("first", "second", "third")):
        left = (tmp_path / name / "cat" / f"{number}.png").read_bytes()
        (tmp_path / "test" / "dog" / f"of-{name}.png").write_bytes(left)
        if name == "first":  # also in the folder of the last training, under another name
            (tmp_path / "third" / "fox" / "again.png").write_bytes((tmp_path / "first" / "cat" / "1.png").read_bytes())
            (tmp_path / "test" / "fox" / "both.png").write_bytes((tmp_path / "first" / "cat" / "1.png").read_bytes())
    model, folders = None, list[Path]()
    for name in ("first", "second", "third"):
        values = recipe(tmp_path, tmp_path / f"run-{name}", train=str(tmp_path / name), test=str(photos / "test"))
        begun = {**values["model"], "weights": model and str(model)}
        folders.append(dat.train({**values, "model": begun, "methods": {"standard": {}}}, cpu=True))
        model = folders[-1] / "standard-seed0"
    begin, of = "1 of the 16 test pictures of odd are among those that {}, which the model begins with, was trained on: ", "odd"
    said = [
        f"{begin.format(tmp_path / f'run-{name}' / 'standard-seed0')}{tmp_path}/test/dog/of-{name}.png (in its training "
        f"{tmp_path}/{name}/cat/{number}.png); take them out of the test pictures"
        for number, name in enumerate(("first", "second"))
    ]
    own = "2 of the 16 test pictures of odd are training pictures, too: "
    data = ["--data", f"{of}={tmp_path / 'test'}", "--cpu"]
    for words in (["--suites", "clean", "--no-self-test"], []):
        told = CliRunner().invoke(app, ["eval", str(model), *words, *data, "--out", str(tmp_path / f"o{len(words)}")]).stderr
        assert all(told.count(sentence) == 1 for sentence in (own, *said))
    values = recipe(tmp_path, tmp_path / "run", train=str(tmp_path / "third"), test={"odd": str(tmp_path / "test")})
    values["model"] = {**values["model"], "weights": str(next((folders[1] / "standard-seed0" / "checkpoints").iterdir()))}
    shutil.rmtree(tmp_path / "first")
    report = (dat.train({**values, "methods": {"standard": {}}}, cpu=True) / "report.md").read_text()
    assert own in report
    assert f"{tmp_path}/test/dog/of-second.png (in its training {tmp_path}/second/cat/1.png)" in report
    unknown = (
        f"which the model begins with, was trained on test pictures is not known: its training pictures, {tmp_path}/first, are"
    )
    assert report.count(unknown) == 1
    gone = CliRunner().invoke(app, ["eval", str(model), *data, "--out", str(tmp_path / "gone")]).stderr
    assert "is not known" not in gone, "who only evaluates need not have the pictures of any training"


def test_training_pictures_are_those_of_further_folders_too(photos: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(photos / part, tmp_path / part)
    paint(tmp_path / "more", seed=12)
    left = tmp_path / "test" / "dog" / "left.png"
    left.write_bytes((tmp_path / "more" / "cat" / "0.png").read_bytes())
    values = {**recipe(tmp_path, tmp_path / "run", extra_train=[str(tmp_path / "more")]), "methods": {"standard": {}}}
    model = str(dat.train(values, cpu=True) / "standard-seed0")
    shutil.rmtree(tmp_path / "train")  # what is still there is compared
    said = f"1 of the 16 test pictures{{}} are training pictures, too: {left} (in training {tmp_path}/more/cat/0.png)"
    for of, words in (("", ["--suites", "clean", "--no-self-test"]), (" of odd", ["--data", f"odd={tmp_path / 'test'}"])):
        found = CliRunner().invoke(app, ["eval", model, *words, "--cpu", "--out", str(tmp_path / f"out{of}")])
        assert found.exit_code == 0, found.stderr
        assert found.stderr.count(said.format(of)) == 1


def test_so_they_are_by_an_evaluation_on_suites_while_the_training_pictures_are_there(photos: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(photos / part, tmp_path / part)
    folder = dat.train({**recipe(tmp_path, tmp_path / "run"), "methods": {"standard": {}}}, cpu=True)
    left = tmp_path / "test" / "dog" / "left.png"
    left.write_bytes((tmp_path / "train" / "cat" / "0.png").read_bytes())
    words = ["eval", str(folder / "standard-seed0"), "--suites", "clean,fgsm", "--cpu", "--no-self-test"]
    said = f"1 of the 16 test pictures{{}} are training pictures, too: {left} (in training {tmp_path}/train/cat/0.png)"
    for of, data in (("", []), (" of odd", ["--data", f"odd={tmp_path / 'test'}"])):
        found = CliRunner().invoke(app, [*words, *data, "--out", str(tmp_path / f"out{of}")])
        assert found.exit_code == 0, found.stderr
        assert found.stderr.count(said.format(of)) == 1
        assert said.format(of) in (tmp_path / f"out{of}" / "report.md").read_text()
    section = read.parse(recipe(tmp_path, tmp_path / "run")).data
    without_pictures: Any = SimpleNamespace(tested=SimpleNamespace(trained_on=section))
    assert Plan.leftovers(without_pictures, ["a", "sketch"]) == [], "sets of their own are not made from these"
    shutil.rmtree(tmp_path / "train")
    assert "training pictures" not in CliRunner().invoke(app, [*words, "--out", str(tmp_path / "none")]).stderr


@pytest.mark.parametrize("chosen", [{"train_per_class": 2, "draw": "first"}, {"validation": 0.5}])
def test_what_was_left_out_of_training_is_no_training_picture(photos: Path, tmp_path: Path, chosen: dict[str, Any]) -> None:
    shutil.copytree(photos / "train", tmp_path / "train")
    shutil.copytree(photos / "train", tmp_path / "test")
    values = {**recipe(tmp_path, tmp_path / "run", **chosen), "methods": {"standard": {}}}
    folder = dat.train(values, cpu=True)
    said = "6 of the 12 test pictures{} are training pictures, too: "
    assert said.format("") in (folder / "report.md").read_text()
    for of, words in (("", ["--suites", "clean", "--no-self-test"]), (" of odd", ["--data", f"odd={tmp_path / 'test'}"])):
        out = str(tmp_path / f"out{of}")
        found = CliRunner().invoke(app, ["eval", str(folder / "standard-seed0"), *words, "--cpu", "--out", out])
        assert found.exit_code == 0, found.stderr
        assert said.format(of) in found.stderr


def test_shared_pictures_are_those_that_are_used(photos: Path) -> None:
    whole = ImageFolder(photos / "train")
    half = Subset(whole, np.arange(6))
    assert len(shared_pictures(whole, whole)) == 12
    assert [ours.name for ours, _ in shared_pictures(half, whole)] == [whole.name(index) for index in range(6)]
    assert shared_pictures(whole, ImageFolder(photos / "test")) == []


def test_pictures_enlarged_by_more_than_two_are_told_once(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = read.parse(recipe(photos, tmp_path / "run", size=40))
    from dat.recipe.parts import OnDisk

    OnDisk().data(parsed.data)
    said = capsys.readouterr().err
    assert said.count("27 of 27 pictures that were looked at are enlarged by more than two") == 1
    assert "by 2.5 (its short side has 16 pixels and is shown with 40)" in said
    OnDisk().data(read.parse(recipe(photos, tmp_path / "run", size=32)).data)
    assert "enlarged" not in capsys.readouterr().err


def test_sets_of_other_sizes_than_the_first_need_a_size(photos: Path, tmp_path: Path) -> None:
    paint(tmp_path / "large", side=20, seed=5)
    values = recipe(photos, tmp_path / "run", size=None, test={"photo": str(photos / "test"), "large": str(tmp_path / "large")})
    with pytest.raises(DataError, match=r"The test set large has pictures of 20x20, photo of 16x16; set data\.size"):
        dat.train(values, cpu=True)


def test_further_sets_too_small_for_corruptions_are_refused_before_the_training(photos: Path, tmp_path: Path) -> None:
    values = recipe(photos, tmp_path / "run", size=6, test={"photo": str(photos / "test"), "art": str(photos / "art")})
    values["evaluation"] = {"suites": ["clean"], "further_suites": ["c"]}
    with pytest.raises(UsageError, match="6 x 6 pixels and corruptions need 8 a side"):
        dat.train(values, cpu=True)
    assert not (tmp_path / "run").exists()


def test_the_attack_of_a_further_set_is_that_of_the_recipe() -> None:
    parsed = read.load("folder/small", ["evaluation.further_suites=[fgsm]", "evaluation.fgsm_epsilon_255=2"])
    assert isinstance(parsed, ClassificationRecipe)
    found = parsed.evaluation.build()
    assert found.further is not None
    assert found.further.suites == (FGSM(2 / 255),)
