"""Trainings and evaluations of pictures that are no class folders give what class folders of the same pictures give."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import dat
from dat.cli import app
from dat.errors import DataError, RunFolderError
from dat.recipe.unlabelled import FolderPictures, build_judged, build_unlabelled
from dat.results import Row, read_rows

pytestmark = pytest.mark.usefixtures("all_undrawn")

CLASSES = ("cat", "dog", "fox")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noise, and a table of each with the same pictures in another order of lines."""
    root = tmp_path_factory.mktemp("photos")
    for seed, part in enumerate(("train", "more", "val", "test", "art")):
        draws, lines = np.random.default_rng(seed), []
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(root / part / name / f"{number}.png")
                lines.append(f"{name}/{number}.png,{name}")
        (root / part / f"{part}.csv").write_text("\n".join(["path,label", *draws.permutation(lines).tolist()]))
    return root


def recipe(out: Path, **data: Any) -> dict[str, Any]:
    return {
        "kind": "classification",
        "title": "places",
        "out": str(out),
        "data": {"source": "folder", "size": 16, "crop_pct": 1.0, "augment": {"kind": "none"}, **data},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 1, "batch_size": 6, "lr": 0.01},
        "methods": {"standard": {}},
        "seeds": [0],
        "evaluation": {"suites": ["clean"]},
    }


def numbers(rows: list[Row]) -> list[tuple[object, ...]]:
    return [(row.method, row.suite, row.metric, row.n, row.value) for row in rows if row.suite != "cost"]


def facts(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def places(photos: Path, form: str, validation: float | str) -> dict[str, Any]:
    def at(part: str) -> str:
        return str(photos / part / form.format(part))

    judged = at(validation) if isinstance(validation, str) else validation
    tests = {"photo": at("test"), "art": {"folder": at("art"), "classes": "subset"}}
    return {"train": at("train"), "extra_train": [at("more")], "test": tests, "validation": judged, "train_per_class": 3}


@pytest.mark.parametrize("validation", [0.34, "val"])
def test_tables_train_and_test_as_their_folders_do(photos: Path, tmp_path: Path, validation: float | str) -> None:
    folders = dat.train(recipe(tmp_path / "f", **places(photos, "", validation)), cpu=True)
    tables = dat.train(recipe(tmp_path / "t", **places(photos, "{}.csv", validation)), cpu=True)
    assert numbers(read_rows(tables / "results.jsonl")) == numbers(read_rows(folders / "results.jsonl"))
    ours, theirs = facts(tables), facts(folders)
    for key in ("train_images", "validation_images", "test_sets", "classes"):
        assert ours["data"][key] == theirs["data"][key]
    assert ours["class_names"] == theirs["class_names"] == [*CLASSES]
    assert ours["data"]["class_order"] == f"column label of {photos}/train/train.csv, by the alphabet"
    assert theirs["data"]["class_order"] == f"folders of {photos}/train, by the alphabet"
    assert ours["inputs"].keys() == theirs["inputs"].keys()


def in_shards(folder: Path, place: Path) -> str:
    """The pictures of class folders in two shards, in the order of their names."""
    files = sorted(folder.glob("*/*.png"))
    place.mkdir()
    for shard, part in enumerate((files[:5], files[5:])):
        with tarfile.open(place / f"{shard}.tar", "w") as tar:
            for file in part:
                key, label = file.relative_to(folder).with_suffix("").as_posix(), file.parent.name.encode()
                tar.add(file, f"{key}.png")
                info = tarfile.TarInfo(f"{key}.cls")
                info.size = len(label)
                tar.addfile(info, io.BytesIO(label))
    return str(place / "{0..1}.tar")


def on_disk(folder: Path, place: Path) -> str:
    """The pictures of class folders as a saved data set of Hugging Face."""
    datasets: Any = pytest.importorskip("datasets", reason="pip install '.[datasets]'")
    files = sorted(folder.glob("*/*.png"))
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=[*CLASSES])})
    columns = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
    datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(str(place))
    return f"hf:{place}"


def test_shards_tables_and_saved_data_sets_beside_each_other_give_what_folders_give(photos: Path, tmp_path: Path) -> None:
    plain = {key: str(photos / folder) for key, folder in (("train", "train"), ("validation", "val"))}
    tests = {"photo": str(photos / "test"), "art": str(photos / "art")}
    folders = dat.train(recipe(tmp_path / "f", **plain, extra_train=[str(photos / "more")], test=tests), cpu=True)
    packed = {key: in_shards(Path(folder), tmp_path / key) for key, folder in plain.items()}
    others = {"photo": on_disk(photos / "test", tmp_path / "hub"), "art": in_shards(photos / "art", tmp_path / "art")}
    more = [str(photos / "more" / "more.csv")]
    mixed = dat.train(recipe(tmp_path / "m", **packed, extra_train=more, test=others), cpu=True)
    assert numbers(read_rows(mixed / "results.jsonl")) == numbers(read_rows(folders / "results.jsonl"))
    ours, theirs = facts(mixed), facts(folders)
    assert ours["inputs"].keys() == theirs["inputs"].keys()
    assert ours["data"]["class_order"] == f"files .cls in {packed['train']}, by the alphabet"
    left = ["eval", str(mixed), "--data", f"left={in_shards(photos / 'train', tmp_path / 'left')}", "--cpu", "--json"]
    told = CliRunner().invoke(app, left)
    assert "12 of the 12 test pictures of left are training pictures, too" in told.stderr
    assert {json.loads(line)["protocol"]["set"] for line in told.stdout.splitlines()} == {"left"}


def test_a_run_knows_its_table_and_shows_others(photos: Path, tmp_path: Path) -> None:
    """Training on a folder, tested on a table with training pictures; changed pictures are no longer what a run began with."""
    own = tmp_path / "own.csv"
    left = [f"{photos}/train/cat/0.png,cat", *(f"{photos}/test/{name}/1.png,{name}" for name in CLASSES)]
    own.write_text("\n".join(["file,label", *left]))
    values = recipe(tmp_path / "run", train=str(photos / "train" / "train.csv"), test=f"{own}::path=file")
    run = dat.train(values, cpu=True)
    said = (
        f"1 of the 4 test pictures are training pictures, too: {photos}/train/cat/0.png (in training {photos}/train/cat/0.png)"
    )
    assert said in (run / "report.md").read_text()
    named = ["eval", str(run), "--data", f"odd={own}::path=file", "--data", f"art={photos}/art/art.csv", "--cpu", "--json"]
    rows = [json.loads(line) for line in CliRunner().invoke(app, named).stdout.splitlines()]
    assert {(row["protocol"]["set"], row["n"]) for row in rows} == {("odd", 4), ("art", 12)}
    shown = ["eval", str(run / "standard-seed0"), "--suites", "clean", "--data", f"{own}::path=file", "--cpu", "--json"]
    again = CliRunner().invoke(app, [*shown, "--out", str(tmp_path / "o")])
    assert "1 of the 4 test pictures of own are training pictures, too" in again.stderr
    (row,) = [row for row in map(json.loads, again.stdout.splitlines()) if row["metric"] == "accuracy"]
    assert row["value"] == next(old.value for old in read_rows(run / "results.jsonl") if old.metric == "accuracy")
    own.write_text(own.read_text().replace(f"{photos}/test/dog/1.png,dog", f"{photos}/test/dog/1.png,fox"))
    own.write_text(own.read_text() + f"\n{photos}/test/dog/2.png,dog")
    with pytest.raises(RunFolderError, match=r"What data\.test of the recipe names is not what the run"):
        dat.train(values, resume=True, cpu=True)


def test_wrong_paths_are_told_before_anything_is_written(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label\n" + "".join(f"gone{number}.png,cat\n" for number in range(5)))
    with pytest.raises(DataError, match=r"names 5 pictures \(gone0.png, gone1.png, gone2.png, ...\) where there is no file"):
        dat.train(recipe(tmp_path / "run", train=str(photos / "train"), test=str(table)), cpu=True)
    assert not (tmp_path / "run").exists()


def test_pictures_without_classes_and_those_to_judge_by_may_stand_in_tables(photos: Path) -> None:
    def opened(form: str, **more: Any) -> tuple[list[Any], ...]:
        places = {part: str(photos / part / form.format(part)) for part in ("train", "test")}
        section = FolderPictures.model_validate(
            {"source": "folder", **places, "size": None, "augment": {"kind": "none"}, **more}
        )
        data = build_unlabelled(section, views=1)
        bank, tests = build_judged(section, {"art": str(photos / "art" / form.format("art"))})
        sets = (data.train, data.bank, data.test, bank, tests["art"])
        return tuple([part.source.targets.tolist(), np.asarray(part.source.read(5)).tolist()] for part in sets)

    folders, tables = opened(""), opened("{}.csv")
    assert tables[1:] == folders[1:]
    assert tables[0][1] == folders[0][1], "the same pictures in the same order; nobody asks for their classes"
    assert opened("{}.csv", in_memory=True)[1:] == folders[1:]
    (photos / "train" / "some.csv").write_text("path,label\ncat/0.png,cat\n")
    with pytest.raises(DataError, match=r"some.csv has one class, cat, which is always right"):
        opened("{}.csv", labelled=str(photos / "train" / "some.csv"))
