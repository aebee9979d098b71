"""`dat predict`: what a run says of any pictures, and which codes an adversary would change."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dat
from dat.analysis.codes import discrete_change
from dat.cli import app
from dat.commands import explain
from dat.commands.trained import load_classifier
from dat.data.embedded import digits
from dat.data.picture_files import find_pictures
from dat.discretizers.pretrained import load_discretizer
from dat.errors import CheckpointError, DataError, UsageError
from dat.evaluation.labels import check_batch_size, check_top
from dat.recipe import read
from dat.recipe.header import resolved
from dat.report import strips

pytestmark = pytest.mark.usefixtures("all_undrawn")

RECIPE: dict[str, Any] = {
    "kind": "classification",
    "title": "Seconds",
    "data": {"source": "digits", "size": 16, "augment": {"kind": "none"}},
    "discretizer": {"load": "cifar-f2-1024-fast"},
    "model": {"name": "small_resnet", "options": {"depth": 8, "width": 8}},
    "training": {"epochs": 2, "batch_size": 128, "lr": 0.1},
    "methods": {"standard": {}, "dat": {"alpha": {"rate": 0.1, "pictures": 16}, "training": {"epochs": 1}}},
    "evaluation": {"suites": ["clean"]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dat.train({**RECIPE, "out": str(tmp_path_factory.mktemp("runs") / "seconds")}, cpu=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test digits as files of their own size, in two folders; one file that is none."""
    folder, source = tmp_path_factory.mktemp("photos"), digits("test")
    for number in range(6):
        file = folder / ("a" if number < 3 else "b/deep") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        source.read(number).resize((16, 16)).save(file)
    (folder / "b" / "broken.jpg").write_bytes(b"no picture")
    (folder / "b" / "notes.txt").write_text("no picture either")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def said(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--cpu"], catch_exceptions=False)


def test_python_and_command_say_what_the_model_says(run: Path, photos: Path) -> None:
    trained = load_classifier(run / "standard-seed0")
    found = trained.predict([photos / "a", photos / "b" / "deep" / "5.png"])
    assert [Path(one.path).name for one in found] == ["0.png", "1.png", "2.png", "5.png"]
    for one in found:
        pixels = torch.from_numpy(np.array(trained.view(Image.open(one.path).convert("RGB")))).permute(2, 0, 1)[None] / 255
        expected = trained.model(pixels).softmax(dim=1)[0].tolist()
        assert [one.probabilities[name] for name in trained.classes] == pytest.approx(expected, abs=1e-5)
        assert list(one.probabilities.values()) == sorted(one.probabilities.values(), reverse=True)
        assert one.label == trained.classes[int(np.argmax(expected))]
        assert one.probability == pytest.approx(max(expected), abs=1e-5)
    printed = said(run / "standard-seed0", photos / "a", photos / "b" / "deep" / "5.png", "--json", "--batch-size", 3)
    assert printed.exit_code == 0
    lines = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [line["label"] for line in lines] == [one.label for one in found]
    assert list(lines[0]["probabilities"].items())[:5] == [
        (name, pytest.approx(share, abs=1e-5)) for name, share in list(found[0].probabilities.items())[:5]
    ]
    assert len(lines[0]["probabilities"]) == 5


def test_so_many_classes_are_told_as_asked_for(run: Path, photos: Path) -> None:
    trained, picture = load_classifier(run / "standard-seed0"), photos / "a" / "0.png"
    (whole,), (three,), (all_of,) = (trained.predict([picture], top=top) for top in (None, 3, 1000))
    assert list(three.probabilities.items()) == list(whole.probabilities.items())[:3]
    assert whole == all_of
    assert len(whole.probabilities) == 10
    row = said(run / "standard-seed0", picture, "--top", 3).stdout.splitlines()[1]
    assert row.count(" %") == 3
    assert [name for name in three.probabilities if f"{name} " in row] == list(three.probabilities)


def test_pictures_are_shown_a_batch_at_a_time(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, shown = load_classifier(run / "standard-seed0"), list[int]()
    trained.model.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    trained.predict([photos / "a", photos / "b" / "deep"], batch_size=4)
    assert shown == [4, 2]


def test_probabilities_of_yes_or_no_do_not_add_up(run: Path, photos: Path) -> None:
    trained = load_classifier(run / "standard-seed0", ["training.sigmoid=true"])
    (found,) = trained.predict([photos / "a" / "0.png"])
    pixels = torch.from_numpy(np.array(trained.view(Image.open(found.path).convert("RGB")))).permute(2, 0, 1)[None] / 255
    assert [found.probabilities[name] for name in trained.classes] == pytest.approx(
        trained.model(pixels).sigmoid()[0].tolist(), abs=1e-5
    )


def test_a_picture_that_cannot_be_read_is_said_and_counted(run: Path, photos: Path) -> None:
    printed = said(run / "standard-seed0", photos)
    assert printed.exit_code == 1
    rows = printed.stdout.splitlines()
    assert [Path(row.split()[0]).name for row in rows[1:]] == [
        "0.png",
        "1.png",
        "2.png",
        "broken.jpg",
        "3.png",
        "4.png",
        "5.png",
    ]
    assert "cannot be read: " in rows[4]
    assert " %" in rows[1]
    assert "1 of 7 pictures cannot be read." in printed.stderr


def test_pictures_of_several_sizes_are_shown_as_they_are_cropped(run: Path, tmp_path: Path) -> None:
    sizes = [(16, 16), (40, 20), (9, 33)]
    for number, size in enumerate(sizes):
        digits("test").read(number).resize(size).save(tmp_path / f"{number}.png")
    trained = load_classifier(run / "standard-seed0")
    found = trained.predict([tmp_path])
    alone = [trained.predict([tmp_path / f"{number}.png"])[0] for number in range(3)]
    assert [one.label for one in found] == [one.label for one in alone]


@pytest.mark.parametrize("method", ["standard", "dat"])
def test_an_explanation_shows_the_codes_that_change(run: Path, photos: Path, tmp_path: Path, method: str) -> None:
    folder, picture = run / f"{method}-seed0", photos / "a" / "0.png"
    printed = said(folder, picture, "--explain", tmp_path / "seen.png", "--alpha", 2.0)
    assert printed.exit_code == 0, printed.stderr
    shown = np.asarray(Image.open(tmp_path / "seen.png"))
    trained, discretizer = load_classifier(folder), load_discretizer("cifar-f2-1024-fast")
    images = torch.from_numpy(np.array(trained.view(Image.open(picture).convert("RGB")))).permute(2, 0, 1)[None] / 255
    labels = trained.model(images).argmax(dim=1)
    change = discrete_change(trained.model, dat.Classification(), discretizer, images, labels, alpha=2.0)
    assert change.rate > 0
    side = shown.shape[0] - strips.BAND
    views = [shown[:side, number * (side + strips.GAP) :][:, :side] for number in range(4)]
    scale = side // 16
    for view, expected in zip(views, (change.original, change.reconstruction, change.adversarial), strict=False):
        met = view[::scale, ::scale].astype(int)
        assert np.abs(met - (expected[0] * 255).round().permute(1, 2, 0).numpy()).max() <= 1
    marked = (views[3] != views[2]).any(axis=2)
    centres = marked.reshape(8, 2 * scale, 8, 2 * scale)[:, 1:-1][:, :, :, 1:-1].any(axis=(1, 3))
    assert np.array_equal(centres, change.changed[0].numpy())
    words = shown[side:, :, 0]
    assert [bool((words[:, number * (side + strips.GAP) :][:, :side] < 128).any()) for number in range(4)] == [True] * 4


def test_without_an_alpha_a_tenth_of_the_codes_changes(run: Path, photos: Path, tmp_path: Path) -> None:
    printed = said(run / "dat-seed0", photos / "a", "--explain", tmp_path / "seen")
    assert printed.exit_code == 0
    assert sorted(file.name for file in (tmp_path / "seen").iterdir()) == ["0.png", "1.png", "2.png"]
    how = explain.explainer(load_classifier(run / "standard-seed0"), run / "standard-seed0", alpha=None)
    asked = explain._asked(how.run, photos / "a" / "0.png")
    alpha = explain._alpha(how, asked)
    change = discrete_change(how.run.model, asked.task, how.discretizer, asked.images, asked.targets, alpha=alpha)
    assert change.rate == pytest.approx(10, abs=4)  # of 64 codes


def test_mistakes_are_sentences(run: Path, photos: Path, tmp_path: Path) -> None:
    trained = load_classifier(run / "standard-seed0")
    with pytest.raises(DataError, match=r"There is no picture and no folder .*nowhere; check the path"):
        trained.predict([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="holds no picture"):
        trained.predict([tmp_path])
    with pytest.raises(UsageError, match=r"Pictures are \[\]; give a list"):
        trained.predict([])
    with pytest.raises(
        CheckpointError, match=r"seconds is the folder of a run, not of one of its models; name one, e\.g\. .*/standard-seed0"
    ):
        load_classifier(run)
    with pytest.raises(UsageError, match="batch_size is 0; write a whole number"):
        trained.predict([photos / "a"], batch_size=0)
    with pytest.raises(UsageError, match="top is 0, but so many classes are told; write a whole number"):
        trained.predict([photos / "a"], top=0)


@pytest.mark.parametrize(
    ("act", "given", "sentence"),
    [
        (check_top, 1.5, "top is 1.5, but so many classes are told; write a whole number"),
        (check_batch_size, 1.5, "batch_size is 1.5; write a whole number"),
        (find_pictures, [3], r"Pictures are \[3\]; give a list of files and folders"),
        (find_pictures, [b"a.png"], r"Pictures are \[b'a.png'\]; give a list of files and folders"),
    ],
)
def test_what_is_of_another_type_is_a_sentence(act: Any, given: Any, sentence: str) -> None:
    unchecked = getattr(act, "__wrapped__", act)  # types are checked while tests run
    with pytest.raises(UsageError, match=sentence):
        unchecked(given)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--explain", "seen.gif"), r"--explain is seen\.gif; write a file that ends in \.png, or a folder"),
        (("--explain", "{photo}"), "which is one of the pictures"),
        (("--explain", "seen.png", "--alpha", -1), r"--alpha is -1\.0, the L2 length"),
        (("--alpha", 1), r"--alpha is 1\.0, the length of the step that --explain shows; write --explain FILE\.png"),
        (("--score", 0.5), r"--score is 0\.5, of the boxes of a detector"),
    ],
)
def test_options_that_do_nothing_or_harm_are_refused_first(
    run: Path, photos: Path, options: tuple[str, ...], sentence: str
) -> None:
    photo = photos / "a" / "0.png"
    before = photo.read_bytes()
    with pytest.raises(UsageError, match=sentence):
        said(run / "standard-seed0", photo, *(str(option).format(photo=photo) for option in options))
    assert photo.read_bytes() == before


def test_one_file_shows_no_more_than_can_be_looked_at(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(explain.MOST + 1)]
    explain.check_place(tmp_path / "seen", paths)
    explain.check_place(tmp_path / "seen.png", paths[1:])
    with pytest.raises(UsageError, match="would show 101 pictures, and 100 are the most; write a folder instead"):
        explain.check_place(tmp_path / "seen.png", paths)


@pytest.mark.parametrize("model", ["timm:resnet18", "torchvision:resnet50"])
def test_models_by_name_are_refused(model: str, photos: Path) -> None:
    with pytest.raises(UsageError, match=f"{model} is no model of a run; give RUN/<method>-seed<k>"):
        said(model, photos)


def test_without_a_discretizer_there_is_nothing_to_explain(run: Path, photos: Path, tmp_path: Path) -> None:
    trained = load_classifier(run / "standard-seed0", ["methods={standard: {}}", "discretizer=null"])
    with pytest.raises(CheckpointError, match="was trained without a discretizer, so there are no codes to change"):
        explain.explainer(trained, run / "standard-seed0", alpha=None)


def test_a_self_supervised_run_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "standard-seed0").mkdir()
    (tmp_path / "recipe.yaml").write_text(resolved(read.load("selfsupervised/mae-small")))
    with pytest.raises(CheckpointError, match="is a run of kind selfsupervised, which trains no classifier and no detector"):
        said(tmp_path / "standard-seed0", photos)
