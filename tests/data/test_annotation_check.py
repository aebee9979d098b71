"""`dat data check` of pictures with boxes: all faults, and counts as a plain loop over the file has them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from dat.cli import app
from dat.data.annotation_check import check_annotated
from tests.data.made_up_boxes import coco_record, write_coco, write_pictures, write_yolo


def test_a_file_without_faults_is_counted(tmp_path: Path) -> None:
    record = coco_record()
    record["annotations"][0]["bbox"] = [-4, 5, 10, 12]
    record["images"][0].update(width=200, height=100)
    areas = {"small": 32 * 32 - 1, "medium": 32 * 32, "large": 96 * 96}
    record["annotations"] += [
        {"id": 50 + number, "image_id": 7, "category_id": 5, "bbox": [0, 0, 20, 20], "area": area}
        for number, area in enumerate(areas.values())
    ]
    file = write_coco(tmp_path, record)
    Image.new("RGB", (200, 100)).save(tmp_path / "train" / "a.png")
    done = CliRunner().invoke(app, ["data", "check", str(file), "--json"])
    assert done.exit_code == 0, done.output
    (part,) = json.loads(done.stdout)["parts"]
    names = {entry["id"]: entry["name"] for entry in record["categories"]}
    assert part["boxes_per_class"] == Counter(names[entry["category_id"]] for entry in record["annotations"])
    assert part["boxes_per_size"] == {"small": 4, "medium": 1, "large": 1}
    found = [part[key] for key in ("pictures", "pictures_without_boxes", "boxes", "classes", "crowds")]
    assert found == [3, 1, 7, 2, 1]
    assert (part["boxes_without_area"], part["boxes_cut_at_edges"]) == (1, 1)
    text = CliRunner().invoke(app, ["data", "check", str(file)]).stdout
    assert "instances_train: 3 pictures (1 without boxes), 7 boxes of 2 classes" in text
    assert "boxes per class: cat 2, dog 5" in text
    assert text.splitlines()[-1] == f"{file}: no faults"


def test_every_fault_is_listed(tmp_path: Path) -> None:
    record = coco_record()
    record["annotations"][0]["bbox"] = [400, 5, 10, 12]
    record["annotations"][1]["area"] = -1
    file = write_coco(tmp_path, record)
    (tmp_path / "train" / "a.png").write_bytes((tmp_path / "train" / "a.png").read_bytes()[:200])
    Image.new("RGB", (30, 41)).save(tmp_path / "train" / "b.png")
    (tmp_path / "train" / "c.png").unlink()
    done = CliRunner().invoke(app, ["data", "check", str(file)])
    faults = [line for line in done.stdout.splitlines() if line.startswith("fault: ")]
    assert done.exit_code == 1
    assert len(faults) == 5
    for said, fault in zip(
        ("annotations[1] (id 4)", "annotation 0", "a.png", "b.png has 30 x 41", "c.png"), faults, strict=True
    ):
        assert said in fault
    assert done.stdout.splitlines()[-1] == f"{file}: 5 faults"


def test_pictures_elsewhere_are_found_by_the_option(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    alone = CliRunner().invoke(app, ["data", "check", str(file)])
    assert alone.exit_code == 1
    assert "--root FOLDER" in alone.stdout
    assert CliRunner().invoke(app, ["data", "check", str(file), "--root", str(tmp_path / "elsewhere")]).exit_code == 0


def test_every_split_of_a_yolo_set_is_checked(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    for source in (file, tmp_path):
        done = CliRunner().invoke(app, ["data", "check", str(source)])
        assert done.exit_code == 0, done.output
        assert [line.split(":")[0] for line in done.stdout.splitlines() if line[0] != " "][:2] == ["train", "val"]
        assert "1 of 3 pictures of" in done.stdout
    (tmp_path / "labels/val/a.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    (tmp_path / "images/train/b.png").write_bytes((tmp_path / "images/train/b.png").read_bytes()[:200])
    findings = check_annotated(tmp_path)
    assert [part["name"] for part in findings["parts"]] == ["train", "val"]
    assert "b.png" in findings["faults"][0]
    assert "labels/val/a.txt:1: class 7 is not among the 2 classes" in findings["faults"][1]
    file.write_text("names: []")
    assert "names no pictures" in check_annotated(tmp_path)["faults"][0]


def test_a_folder_of_pictures_is_checked_as_before(tmp_path: Path) -> None:
    write_pictures(tmp_path / "cat")
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert (done.exit_code, "3 pictures, 0 of them damaged" in done.stdout) == (0, True)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_what_cannot_be_read_is_one_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    findings = check_annotated(tmp_path / "x.json")
    assert (findings["parts"], len(findings["faults"])) == ([], 1)
