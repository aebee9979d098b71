"""Recipe files that stand on others."""

from pathlib import Path

import pytest

from dat.errors import UsageError
from dat.recipe import file as recipe_file

BASE = "kind: classification\ntraining: {epochs: 3, lr: 0.1}\nmodel: {name: a, options: {depth: 8}}\nmethods: {standard: {}}\n"


def read(tmp_path: Path, text: str) -> dict:
    (tmp_path / "_base.yaml").write_text(BASE)
    (tmp_path / "child.yaml").write_text(text)
    return recipe_file.read(tmp_path / "child.yaml")


def test_sections_are_merged_and_the_file_goes_before_its_base(tmp_path: Path):
    values = read(tmp_path, "base: _base\ntraining: {lr: 0.2}\ntitle: mine\n")
    assert values["training"] == {"epochs": 3, "lr": 0.2}
    assert (values["kind"], values["title"]) == ("classification", "mine")
    assert "base" not in values


def test_methods_are_those_of_the_file_alone(tmp_path: Path):
    assert read(tmp_path, "base: _base\nmethods: {dat: {}}\n")["methods"] == {"dat": {}}


def test_a_section_of_another_kind_replaces_that_of_the_base(tmp_path: Path):
    assert read(tmp_path, "base: _base\nmodel: {name: b}\n")["model"] == {"name": "b"}
    assert read(tmp_path, "base: _base\nmodel: {options: {width: 4}}\n")["model"]["options"] == {"depth": 8, "width": 4}


def test_a_base_may_have_a_base_and_may_be_a_shipped_recipe(tmp_path: Path):
    (tmp_path / "middle.yaml").write_text("base: _base\ntraining: {lr: 0.3}\n")
    assert read(tmp_path, "base: middle\n")["training"] == {"epochs": 3, "lr": 0.3}
    assert read(tmp_path, "base: demo\n")["methods"].keys() == {"standard", "at", "random-codes", "dat"}


def test_a_base_that_is_missing_or_the_file_itself_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"has base 'nothing', but there is neither .*nothing\.yaml nor a shipped recipe"):
        read(tmp_path, "base: nothing\n")
    with pytest.raises(UsageError, match="is its own base"):
        read(tmp_path, "base: child\n")


def test_files_that_are_only_a_base_are_no_recipes():
    assert not [name for name in recipe_file.shipped_recipes() if "/_" in name or name.startswith("_")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: x\nseeds: [1]\nout: y\nseeds: [2]\n", "the key 'seeds' in line 2 and in line 4; keep one"),
        ("data:\n  size: 8\n  size: 9\n", "the key 'size' in line 2 and in line 3; keep one"),
        ("data: {size: 8, size: 9}\n", "has the key 'size' twice; keep one"),
        ("seeds: !!int ten\n", "is not YAML: invalid literal for int"),
        ("seeds: !!timestamp ten\n", "is not YAML"),
        ("seeds: !!float [1]\n", "is not YAML"),
        ("seeds: " + "[" * 3000, "is not YAML"),
    ],
)
def test_a_file_that_says_two_things_or_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        recipe_file.read(tmp_path / "r.yaml")


def test_merged_keys_of_yaml_may_be_changed(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\nout: here\n")
    assert recipe_file.read(tmp_path / "r.yaml")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds=!!int ten", "is not YAML"),
        ("seeds={a: 1, a: 2}", r"has the key 'a' twice; keep one\.$"),
        ("seeds=!!timestamp x", "is not YAML"),
    ],
)
def test_a_value_that_says_two_things_or_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"The value of seeds {said}"):
        recipe_file.override({}, text)


def test_a_discretizer_to_load_takes_the_place_of_one_to_train(tmp_path: Path) -> None:
    (tmp_path / "_base.yaml").write_text("discretizer: {train: {seed: 1}, precision: bf16}\nout: x\n")
    (tmp_path / "child.yaml").write_text("base: _base\ndiscretizer: {load: mine.safetensors}\n")
    wanted = {"load": "mine.safetensors", "precision": "bf16"}
    assert recipe_file.read(tmp_path / "child.yaml")["discretizer"] == wanted
    assert recipe_file.read(tmp_path / "_base.yaml", ["discretizer.load=mine.safetensors"])["discretizer"] == wanted
    both = recipe_file.read(tmp_path / "_base.yaml", ["discretizer.load=null"])["discretizer"]
    assert both == {"train": {"seed": 1}, "precision": "bf16", "load": None}
