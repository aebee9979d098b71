"""A comparison of methods on a detector of transformers, from its folder to a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch

import dat
from dat.commands.check_recipes import rehearse
from dat.errors import UsageError
from dat.recipe import read
from dat.recipe.detection import open_detector
from dat.recipe.parts import OnDisk
from dat.results import read_rows
from tests.nn.test_transformers_detectors import FAMILIES  # skips this file, too, where transformers is missing
from tests.studies.test_detection_study import write_set


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """On D-FINE, whose heads have two names each."""
    torch.manual_seed(0)
    cast(Any, FAMILIES["d_fine"]()).save_pretrained(tmp_path / "published")
    folder = str(tmp_path / "published")
    return {
        "kind": "detection",
        "title": "Two kinds of rectangles",
        "data": {"train": str(write_set(tmp_path, "train", 8)), "test": str(write_set(tmp_path, "test", 4)), "size": [64, 96]},
        "discretizer": {"load": "photos-f4-1024-fast"},
        "model": {"name": f"transformers:{folder}", "weights": folder, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "training": {"epochs": 1, "batch_size": 4, "lr": 1e-3, "optimizer": "adamw", "log_every": 1},
        "methods": {"standard": {}, "dat": {"alpha": 1.0}},
        "evaluation": {"suites": ["clean", "fgsm"]},
        "out": str(tmp_path / "run"),
    }


def test_methods_fine_tune_it_for_other_classes_and_are_compared(values: dict[str, Any]) -> None:
    folder = dat.train(values, cpu=True)
    rows = {(row.method, row.suite, row.metric): row for row in read_rows(folder / "results.jsonl")}
    for method in ("standard", "dat"):
        assert 0 <= rows[method, "clean", "ap"].value <= 100
        assert rows[method, "fgsm", "ap50"].n == 4
    dat.train(values, resume=True, cpu=True)
    values["model"]["weights"] = str(folder / "dat-seed0")
    section = cast(Any, read.parse(values)).model
    begun = open_detector(section, OnDisk(), num_classes=2).untrained(1).state_dict()
    published = open_detector(
        section.model_copy(update={"weights": section.name.removeprefix("transformers:")}), OnDisk(), num_classes=2
    )
    assert any(not torch.equal(value, begun[name]) for name, value in published.untrained(1).state_dict().items())
    rehearse(read.parse(values))


def test_more_things_than_queries_are_refused_before_anything_is_written(values: dict[str, Any]) -> None:
    values["model"]["options"] = {"num_queries": 1}
    with pytest.raises(UsageError, match=r"1\.png has 2 things, and the detector finds 1; write model.options.num_queries=2"):
        dat.train(values, cpu=True)
    assert not Path(values["out"]).exists()


def test_without_the_package_it_is_said_how_to_get_it(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dat.nn.transformers_detectors.PACKAGE", "no_such_transformers")
    with pytest.raises(UsageError, match=r"pip install 'discrete-adversarial-training\[transformers\]'"):
        dat.train(values, cpu=True)
