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
