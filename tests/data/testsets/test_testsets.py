"""Every layout of a test set, in small; and the traps in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from dat.cli import app
from dat.data.corruptions.table import CORRUPTIONS
from dat.data.folders import ImageFolder, ImageSource
from dat.data.testsets import check
from dat.data.testsets.class_maps import NOTHING, groups_of, imagenet_columns, outputs_of, wnids, wnids_of
from dat.data.testsets.layouts import Part, class_folders, locate, parts
from dat.data.testsets.listed import from_table
from dat.data.testsets.table import BENCHMARKS, C_BAR, CIFAR_10, CIFAR_100, V2
from dat.errors import DataError, UsageError

FEW = (3, 1, 998)
DATA = Path(__file__).resolve().parents[3] / "data"


def put(path: Path, *, size: int = 8, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value, value, value)).save(path)


def fill(root: Path, names: Iterable[str], *, count: int = 1) -> None:
    for name in names:
        for number in range(count):
            put(root / name / f"{number}.png")


def right(part: Part) -> dict[str, list[int]]:
    """For each picture the outputs that are right, by the folder or the name that it has."""
    source = part.source
    chosen = part.labels[source.targets]
    return {source.name(i): np.flatnonzero(part.groups == chosen[i]).tolist() for i in range(len(source))}


def named(indices: Iterable[int]) -> list[str]:
    return [wnids()[index] for index in indices]


@pytest.mark.parametrize("folder", ["val", "VAL", "imagenet_val", "ILSVRC2012_img_val", "imagenet/val", "test"])
def test_clean_class_folders_are_matched_by_wnid(tmp_path: Path, folder: str) -> None:
    fill(tmp_path / folder, named(FEW))
    [part] = parts("clean", tmp_path)
    assert right(part) == {f"{wnids()[index]}/0.png": [index] for index in FEW}
    assert part.groups.tolist() == list(range(1000))


def test_the_root_itself_may_be_the_clean_set(tmp_path: Path) -> None:
    fill(tmp_path, named(FEW))
    assert right(parts("clean", tmp_path)[0]) == {f"{wnids()[index]}/0.png": [index] for index in FEW}


@pytest.mark.parametrize("list_below", [True, False])
def test_a_flat_folder_goes_by_its_list(tmp_path: Path, list_below: bool) -> None:
    put(tmp_path / "val" / "ILSVRC2012_val_00000001.png")
    put(tmp_path / "val" / "ILSVRC2012_val_00000002.png")
    lines = "ILSVRC2012_val_00000002.JPEG 65\nILSVRC2012_val_00000001.JPEG 970\n"
    (tmp_path / ("val" if list_below else ".") / "val.txt").write_text(lines)
    expected = {"ILSVRC2012_val_00000001.png": [970], "ILSVRC2012_val_00000002.png": [65]}
    assert right(parts("clean", tmp_path)[0]) == expected
    permuted = list(reversed(wnids()))
    assert right(parts("clean", tmp_path, permuted)[0]) == {name: [999 - index] for name, [index] in expected.items()}


def test_a_flat_folder_without_a_list_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "val" / "1.png")
    with pytest.raises(DataError, match=r"have no classes; class folders, or val\.txt"):
        parts("clean", tmp_path)


def test_damagenet_is_flat_and_matched_by_stem(tmp_path: Path) -> None:
    put(tmp_path / "DAmageNet" / "ILSVRC2012_val_00000001.png")
    (tmp_path / "DAmageNet" / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 65\n")
    [part] = parts("damagenet", tmp_path)
    assert part.name == "damagenet"
    assert right(part) == {"ILSVRC2012_val_00000001.png": [65]}
    assert BENCHMARKS["damagenet"].view == "crop"


def test_sets_of_a_users_own_classes(tmp_path: Path) -> None:
    fill(tmp_path / "test", ["cat", "ant"])
    classes = ("dog", "cat", "ant")
    assert right(parts("clean", tmp_path, classes)[0]) == {"ant/0.png": [2], "cat/0.png": [1]}
    assert right(parts("clean", tmp_path, 2)[0]) == {"ant/0.png": [0], "cat/0.png": [1]}
    for wrong in (("dog", "ant"), ("a", "b", "c"), 3, 1000):
        with pytest.raises(DataError, match="not those of the model"):
            parts("clean", tmp_path, wrong)


def test_classes_of_other_sets_are_refused() -> None:
    assert outputs_of(["10", "2"], 1000, "here").tolist() == [10, 2]
    assert outputs_of(["000", "001"], ("000", "001", "002"), "here").tolist() == [0, 1]
    assert outputs_of(["n01440764"], wnids(), "here").tolist() == [0]
    assert outputs_of(["n01440764"], ["tench", *map(str, range(9)), "n01440764"], "here").tolist() == [10]
    for names, classes in ((["1000"], 1000), (["n99999999"], 1000), (["01", "1"], 5), (["n01440764"], 10)):
        with pytest.raises(DataError, match="not those of the model"):
            outputs_of(names, classes, "here")
    thousand_foreign = [f"n{90000000 + index}" for index in range(1000)]
    with pytest.raises(DataError, match="not those of the model"):
        outputs_of(thousand_foreign, 1000, "here")


def test_the_order_of_named_outputs_is_followed() -> None:
    permuted = list(reversed(wnids()))
    assert imagenet_columns(permuted)[wnids()[0]] == 999
    assert outputs_of(named(FEW), permuted, "here").tolist() == [999 - index for index in FEW]
    assert outputs_of(["2", "10", "0100"], permuted, "here").tolist() == [997, 989, 899]
    assert outputs_of(["2", "10"], 11, "here").tolist() == [2, 10]
    assert np.flatnonzero(groups_of("a", permuted) != NOTHING).tolist() == sorted(
        999 - index for index in np.flatnonzero(groups_of("a") != NOTHING)
    )


@pytest.mark.parametrize("classes", [10, ["a"] * 1000, [f"class {index}" for index in range(1000)]])
def test_imagenet_sets_refuse_models_of_other_classes(tmp_path: Path, classes: int | list[str]) -> None:
    fill(tmp_path / "imagenet-r", wnids_of("r")[:2])
    with pytest.raises(UsageError, match=r"of ImageNet's"):
        parts("r", tmp_path, classes)


@pytest.mark.shared
def test_the_masks_are_those_of_the_authors(golden: Callable[[str], Path]) -> None:
    known = load_file(golden("imagenet_a_r_mask") / "io.safetensors")
    for outputs in ("a", "r"):
        groups, indices = groups_of(outputs), known[f"indices_{outputs}"]
        assert np.flatnonzero(groups != NOTHING).tolist() == indices.tolist()
        shown = np.where(groups == NOTHING, -np.inf, known["logits"])
        assert (groups[shown.argmax(1)] == indices[known[f"pred_{outputs}"]]).all()


@pytest.mark.parametrize("name", ["a", "r"])
def test_a_and_r_count_their_200_outputs(tmp_path: Path, name: str) -> None:
    own = wnids_of("a" if name == "a" else "r")
    fill(tmp_path / f"imagenet-{name}", [own[7], own[3]])
    [part] = parts(name, tmp_path)
    assert (part.groups != NOTHING).sum() == 200
    assert right(part) == {f"{own[i]}/0.png": [wnids().index(own[i])] for i in (3, 7)}
    odd = next(wnid for wnid in wnids() if wnid not in own)
    fill(tmp_path / f"imagenet-{name}", [odd])
    with pytest.raises(DataError, match=odd):
        parts(name, tmp_path)


@pytest.mark.parametrize("grouped", [True, False])
def test_cells_of_c_with_and_without_group_folders(tmp_path: Path, grouped: bool) -> None:
    for corruption, group in (("fog", "weather"), ("gaussian_noise", "noise")):
        for severity in "12":
            fill(tmp_path / "ImageNet-C" / (group if grouped else ".") / corruption / severity, named(FEW))
    found = parts("c", tmp_path)
    assert [part.name for part in found] == ["c/gaussian_noise/1", "c/gaussian_noise/2", "c/fog/1", "c/fog/2"]
    assert right(found[-1]) == {f"{wnids()[index]}/0.png": [index] for index in FEW}
    assert [part.name for part in parts("c", tmp_path / "ImageNet-C")] == [part.name for part in found]


def test_a_cell_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for place in ("fog/1", "weather/fog/1"):
        fill(tmp_path / "imagenet-c" / place, named(FEW))
    with pytest.raises(DataError, match="fog/1 is twice"):
        parts("c", tmp_path)


def test_cells_of_two_folders_are_not_mixed(tmp_path: Path) -> None:
    fill(tmp_path / "imagenet-c" / "fog" / "1", named(FEW))
    for other in ("imagenet_C", "made-by-hand"):
        fill(tmp_path / other / "fog" / "2", named(FEW))
    fill(tmp_path / "fog" / "3", named(FEW))
    assert len(parts("c", tmp_path)) == 1
    assert parts("c", tmp_path / "made-by-hand")[0].name == "c/fog/2"


def test_c_bar_has_its_own_corruptions(tmp_path: Path) -> None:
    fill(tmp_path / "imagenet_c_bar" / "sparkles" / "5", named(FEW))
    assert [part.name for part in parts("c-bar", tmp_path)] == ["c-bar/sparkles/5"]


@pytest.mark.parametrize("width", [1, 4])
def test_v2_goes_by_number_not_by_alphabet(tmp_path: Path, width: int) -> None:
    numbers = (2, 10, 100)
    fill(tmp_path / V2["matched-frequency"][0], [str(number).zfill(width) for number in numbers])
    fill(tmp_path / "imagenetv2" / "imagenetv2-top-images", named(FEW))
    first, last = parts("v2", tmp_path)
    assert (first.name, last.name) == ("v2/matched-frequency", "v2/top-images")
    assert right(first) == {f"{str(number).zfill(width)}/0.png": [number] for number in numbers}
    assert right(last) == {f"{wnids()[index]}/0.png": [index] for index in FEW}
    [alone] = parts("v2", tmp_path / V2["matched-frequency"][0])
    assert alone.name == "v2/matched-frequency"


@pytest.mark.parametrize(("name", "folder"), [("sketch", "sketch"), ("stylized", "imagenet-style")])
def test_sets_of_class_folders(tmp_path: Path, name: str, folder: str) -> None:
    fill(tmp_path / folder, named(FEW))
    assert right(parts(name, tmp_path)[0]) == {f"{wnids()[index]}/0.png": [index] for index in FEW}
    assert parts(name, tmp_path / folder)[0].name == name


def test_class_folders_alone_do_not_make_a_benchmark(tmp_path: Path) -> None:
    """The same folders would be Sketch, Stylized and R at once."""
    fill(tmp_path, wnids_of("r")[:3])
    for name in ("sketch", "stylized", "r", "a", "damagenet", "v2"):
        with pytest.raises(DataError, match="looked for"):
            parts(name, tmp_path)


def test_folders_of_test_sets_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path / "imagenet-a", wnids_of("a")[:1])
    fill(tmp_path / "imagenet-r", wnids_of("r")[:1])
    with pytest.raises(DataError, match="There is no ImageNet validation set"):
        parts("clean", tmp_path, 2)


def objectnet(root: Path) -> None:
    """Three folders: one of two outputs, one of one, one of none; indices far from the lines."""
    for folder in ("air_freshener", "backpack", "bread"):
        put(root / "images" / folder / "1.png", size=10)
    lines = {5: "rucksack, pack", 900: "loaf", 7: "French loaf", 8: "other"}
    order = [7, 5, 8, 900]
    mappings = {
        "folder_to_objectnet_label": {"air_freshener": "Air freshener", "backpack": "Backpack", "bread": "Bread loaf"},
        "objectnet_to_imagenet_1k": {"Backpack": "rucksack, pack", "Bread loaf": "loaf; French loaf"},
        "pytorch_to_imagenet_2012_id": {str(index): line for line, index in enumerate(order)},
    }
    (root / "mappings").mkdir(parents=True)
    for name, values in mappings.items():
        (root / "mappings" / f"{name}.json").write_text(json.dumps(values))
    (root / "mappings" / "imagenet_to_label_2012_v2").write_text("".join(f"{lines[index]}\n" for index in order))


def test_objectnet_classes_are_several_outputs_and_the_border_is_cut(tmp_path: Path) -> None:
    objectnet(tmp_path / "objectnet-1.0")
    [part] = parts("objectnet", tmp_path)
    assert right(part) == {"backpack/1.png": [5], "bread/1.png": [7, 900]}
    assert (part.groups != NOTHING).all()
    assert part.source.read(0).size == (6, 6)
    assert isinstance(part.source, ImageSource)
    whole = ImageFolder(tmp_path / "objectnet-1.0" / "images").fingerprint()
    assert part.source.fingerprint() not in ("", whole)
    permuted = parts("objectnet", tmp_path, list(reversed(wnids())))[0]
    assert right(permuted) == {"backpack/1.png": [994], "bread/1.png": [99, 992]}


def test_objectnet_lines_may_be_counted_from_one(tmp_path: Path) -> None:
    objectnet(tmp_path)
    file = tmp_path / "mappings" / "pytorch_to_imagenet_2012_id.json"
    file.write_text(json.dumps({index: line + 1 for index, line in json.loads(file.read_text()).items()}))
    assert right(parts("objectnet", tmp_path)[0]) == {"backpack/1.png": [5], "bread/1.png": [7, 900]}


def test_objectnet_mappings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    objectnet(tmp_path)
    names = tmp_path / "mappings" / "objectnet_to_imagenet_1k.json"
    names.write_text(json.dumps({"Backpack": "loaf", "Bread loaf": "loaf"}))
    with pytest.raises(DataError, match="to backpack and to bread"):
        parts("objectnet", tmp_path)
    names.write_text(json.dumps({"Backpack": "no such name"}))
    with pytest.raises(DataError, match="do not fit together"):
        parts("objectnet", tmp_path)
    names.unlink()
    with pytest.raises(DataError, match="comes with the set"):
        parts("objectnet", tmp_path)


def test_laion_c_counts_superclasses(tmp_path: Path) -> None:
    place = tmp_path / "LAION-C"
    fill(place / "mosaic" / "intensity_level_2", ["cat", "fish"])
    with pytest.raises(DataError, match=r"category_mapping\.json"):
        parts("laion-c", tmp_path)
    (place / "category_mapping.json").write_text(json.dumps({"fish": named([0, 1]), "cat": named([281, 282])}))
    [part] = parts("laion-c", tmp_path)
    assert part.name == "laion-c/mosaic/2"
    assert right(part) == {"cat/0.png": [281, 282], "fish/0.png": [0, 1]}
    assert (part.groups != NOTHING).sum() == 4
    fill(place / "mosaic" / "intensity_level_2", ["dog"])
    with pytest.raises(DataError, match="has the folder dog"):
        parts("laion-c", tmp_path)


def arrays(root: Path, *, count: int = 4) -> None:
    root.mkdir(parents=True)
    pixels = np.repeat(np.arange(5 * count, dtype=np.uint8), 32 * 32 * 3).reshape(-1, 32, 32, 3)
    pixels[..., 2] += 100
    np.save(root / "fog.npy", pixels)
    np.save(root / "labels.npy", np.tile(np.arange(count, dtype=np.uint8), 5))


def test_severities_of_cifar_c_are_blocks(tmp_path: Path) -> None:
    arrays(tmp_path / "CIFAR-10-C")
    found = parts("cifar-10-c", tmp_path, 10)
    assert [part.name for part in found] == [f"cifar-10-c/fog/{severity}" for severity in range(1, 6)]
    source = found[2].source
    assert len(source) == 4
    assert source.targets.tolist() == [0, 1, 2, 3]
    assert source.read(1).getpixel((5, 6)) == (9, 9, 109)
    assert found[2].labels.tolist() == list(range(10))
    reverse = parts("cifar-10-c", tmp_path / "CIFAR-10-C", list(reversed(CIFAR_10)))
    assert reverse[0].labels.tolist() == list(range(9, -1, -1))
    for wrong in (100, wnids()[:10]):
        with pytest.raises(UsageError, match="CIFAR-10-C's"):
            parts("cifar-10-c", tmp_path, wrong)


def test_arrays_of_another_form_are_refused(tmp_path: Path) -> None:
    arrays(tmp_path / "cifar-100-c")
    first = parts("cifar-100-c", tmp_path, 100)[0]
    np.save(tmp_path / "cifar-100-c" / "labels.npy", np.arange(4))
    with pytest.raises(DataError, match="20 pictures and labels"):
        _ = first.source
    np.save(tmp_path / "cifar-100-c" / "fog.npy", np.zeros((20, 3, 32, 32), dtype=np.uint8))
    with pytest.raises(DataError, match=r"\(5 x count, height, width, 3\)"):
        _ = first.source
    (tmp_path / "cifar-100-c" / "fog.npy").write_text("<html>")
    with pytest.raises(DataError, match="no array of NumPy"):
        _ = first.source


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_set_that_is_not_there_says_where_and_how(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="looked for") as caught:
        parts(name, tmp_path, BENCHMARKS[name].classes if BENCHMARKS[name].own_classes else 1000)
    assert BENCHMARKS[name].steps[0] in str(caught.value)
    with pytest.raises(DataError, match="no folder"):
        locate(name, tmp_path / "nowhere")


def test_names_that_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'imagenet-a'; those with files are clean"):
        parts("imagenet-a", tmp_path)


def test_the_table_is_whole() -> None:
    assert len(CIFAR_100) == 100 == len(set(CIFAR_100))
    assert list(CIFAR_100) == sorted(CIFAR_100)
    assert len(C_BAR) == 10
    assert BENCHMARKS["c"].parts == CORRUPTIONS
    assert all(benchmark.steps and benchmark.citation and benchmark.licence for benchmark in BENCHMARKS.values())
    assert [len(check.part_names(name)) for name in ("clean", "v2", "c", "c-bar", "laion-c")] == [1, 3, 75, 50, 30]


def test_class_folders_are_in_the_order_of_the_source(tmp_path: Path) -> None:
    for names in (["10", "9", "1"], ["b", "a", "10"], ["010", "9"]):
        place = tmp_path / names[0]
        fill(place, names)
        assert class_folders(place) == ImageFolder(place).classes


def test_check_finds_what_is_not_as_published(tmp_path: Path) -> None:
    for corruption in CORRUPTIONS:
        for severity in "12345":
            if (corruption, severity) != ("fog", "3"):
                fill(tmp_path / "imagenet-c" / corruption / severity, named(FEW[:1]))
    findings = check.check("c", tmp_path)
    assert len(findings["parts"]) == 74
    assert findings["faults"][0] == "c/fog/3 is missing."
    assert "c/gaussian_noise/1 has 1 pictures instead of 50000; compare no numbers with published ones." in findings["faults"]
    assert "c/gaussian_noise/1 has pictures of 1 classes instead of 1000." in findings["faults"]


def test_check_is_content_with_the_published_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "a", replace(BENCHMARKS["a"], pictures=201))
    own = wnids_of("a")
    fill(tmp_path / "imagenet-a", own)
    [short] = check.check("a", tmp_path)["faults"]
    assert "a has 200 pictures instead of 201" in short
    fill(tmp_path / "imagenet-a", [own[-1]], count=2)
    findings = check.check("a", tmp_path)
    assert findings["faults"] == []
    assert "All is as published." in check.as_text(findings)
    assert findings["parts"][0]["class_map"] == f"{own[0]} = output 6, {own[-1]} = output {wnids().index(own[-1])}"
    fill(tmp_path / "imagenet-a", [own[-1]], count=3)
    assert len(check.check("a", tmp_path)["faults"]) == 1


def test_check_reads_pictures(tmp_path: Path) -> None:
    fill(tmp_path / "imagenet-r", [wnids_of("r")[0]], count=3)
    broken = tmp_path / "imagenet-r" / wnids_of("r")[0] / "1.png"
    broken.write_bytes(b"nothing")

    def said(*, every: bool) -> list[str]:
        return [fault for fault in check.check("r", tmp_path, every=every)["faults"] if "1.png" in fault]

    assert said(every=False) == []
    assert len(said(every=True)) == 1


def test_the_verbs(tmp_path: Path) -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["data", "list", "--json"])
    assert [json.loads(line)["suite"] for line in listed.stdout.splitlines()] == list(BENCHMARKS)
    assert "ImageNet-V2" in runner.invoke(app, ["data", "list"]).stdout
    absent = runner.invoke(app, ["data", "check", "a", "--root", str(tmp_path)])
    assert absent.exit_code == 1
    assert "To get it: Download" in absent.stdout
    fill(tmp_path / "val", named(FEW))
    found = runner.invoke(app, ["data", "check", "clean", "--root", str(tmp_path), "--json"])
    assert found.exit_code == 1
    assert json.loads(found.stdout)["parts"][0]["place"] == str(tmp_path / "val")
    assert "Example:" in runner.invoke(app, ["data", "check", "--help"]).stdout


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "count"), [("imagenet_sample", 1000), ("imagenette160", 2000)])
def test_real_pictures_through_clean(shared_data: Path, folder: str, count: int) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"data/{folder} is not unpacked")
    [part] = parts("clean", DATA / folder)
    source = part.source
    assert len(source) == count
    for index in (0, count // 2, count - 1):
        wnid = Path(source.name(index)).stem if folder == "imagenet_sample" else source.name(index).split("/")[0]
        assert wnids()[part.labels[source.targets[index]]] == wnid
    if folder == "imagenette160":
        assert parts("clean", DATA / folder, 10)[0].labels.tolist() == list(range(10))


def test_a_table_of_a_spreadsheet_begins_with_a_byte_order_mark(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("path,class\na.png,cat\nb.png,dog\n", encoding="utf-8-sig")
    assert from_table(tmp_path / "labels.csv", ("cat", "dog")).targets.tolist() == [0, 1]
    (tmp_path / "labels.csv").write_text("path,class\na.png,cat\nb.png\n")
    with pytest.raises(DataError, match=r"Line 3 of .*labels.csv has not as many cells as there are columns"):
        from_table(tmp_path / "labels.csv", ("cat", "dog"))


def test_damaged_pictures_of_any_folder_are_listed(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for index in range(14):
        Image.new("RGB", (8, 8)).save(tmp_path / "deep" / "er" / f"{index}.png")
    good = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert (good.exit_code, good.stdout) == (0, f"{tmp_path}: 14 pictures, 0 of them damaged\n")
    for index in range(12):
        (tmp_path / "deep" / "er" / f"{index}.png").write_bytes(b"no picture")
    bad = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert bad.exit_code == 1
    assert bad.stdout.count("Cannot read the picture") == 12
    assert "14 pictures, 12 of them damaged" in bad.stdout
    with pytest.raises(UsageError, match="add --root ROOT to check the test set a"):
        check.check_folder("a")


def test_damaged_pictures_of_a_table_are_listed(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"{number}.png")
    put(tmp_path / "in_no_line.png")
    table = tmp_path / "photos.csv"
    table.write_text("path,label\n0.png,cat\n1.png,dog\n2.png,cat\n")
    assert check.check_folder(str(table)) == {"folder": str(table), "pictures": 3, "faults": []}
    (tmp_path / "1.png").write_bytes(b"no picture")
    bad = CliRunner().invoke(app, ["data", "check", str(table)])
    assert bad.exit_code == 1
    assert bad.stdout.count("Cannot read the picture") == 1
    assert f"{table}: 3 pictures, 1 of them damaged" in bad.stdout
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"photos.csv names 1 picture \(2.png\) where there is no file"):
        check.check_folder(str(table))
