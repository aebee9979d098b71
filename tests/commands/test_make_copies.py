"""Copies of folders: what is in them, that they go on where they stopped, and what is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dat.cli import app
from dat.commands import make_copies as copies
from dat.commands.make_copies import Cells
from dat.data.corruptions.frost import ORIGINAL_NAMES, frost_textures
from dat.data.corruptions.table import CORRUPTIONS, EXTRA_CORRUPTIONS
from dat.data.folders import ImageFolder
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.errors import DataError, UsageError
from dat.evaluation.stylized import Stylized
from dat.evaluation.suites import Corruption
from dat.types import Place

ROOT = Path(__file__).resolve().parents[2]
VIEW = CenterCrop(32)
FOG = Cells(("fog",), (2,))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(path: Path, *, width: int = 48, height: int = 40, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("cat/1.png", "cat/2.jpg", "cat/deep/3.png", "dog/4.png", "dog/5.bmp")
    for seed, name in enumerate(names):
        save(tmp_path / "photos" / name, width=40 + seed, seed=seed)
    return tmp_path / "photos"


def files(out: Path) -> dict[str, bytes]:
    """Everything in a copy but `made.json`, hidden files too."""
    found = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != copies.MADE)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def on_the_fly(folder: Path, suite: Corruption | Stylized, view: CenterCrop = VIEW) -> np.ndarray:
    dataset = ImageDataset(ImageFolder(folder), view, seed=0)
    images, _, ids = dataset.__getitems__([(0, position) for position in range(len(dataset))])
    return (suite.images(images, ids, None) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def on_disk(root: Path) -> np.ndarray:
    source = ImageFolder(root)
    return np.stack([np.asarray(source.read(index)) for index in range(len(source))])


def test_a_copy_equals_what_the_evaluator_makes_on_the_fly(folder: Path, tmp_path: Path) -> None:
    names = (*CORRUPTIONS, *EXTRA_CORRUPTIONS)
    cells = Cells(names, (4,), seed=3)
    copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=cells, view=VIEW)
    for name in names:
        assert np.array_equal(on_disk(tmp_path / "c" / name / "4"), on_the_fly(folder, Corruption(name, 4, seed=3))), name
    assert len(files(tmp_path / "c")) == len(names) * 5


def test_the_layout_is_that_of_imagenet_c(folder: Path, tmp_path: Path) -> None:
    copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=FOG, view=VIEW)
    names = ("cat/1.png", "cat/2.png", "cat/deep/3.png", "dog/4.png", "dog/5.png")
    assert list(files(tmp_path / "c")) == [f"fog/2/{name}" for name in names]
    assert ImageFolder(tmp_path / "c" / "fog" / "2").targets.tolist() == [0, 0, 0, 1, 1]


def test_made_json_says_with_what(folder: Path, tmp_path: Path) -> None:
    made = json.loads(copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=FOG, view=VIEW).read_text())
    assert set(made) == {"settings", "complete", "versions"}
    assert made["complete"] == ["fog/2"]
    assert made["settings"] == {
        "copy": "corruptions",
        "seed": 0,
        "corruption_images": "generated",
        "corruption_version": 2,
        "corruption_parameters": "cifar-10-c",
        "frost_textures": "procedural",
        "source_sha256": ImageFolder(folder).fingerprint(),
        "source_pictures": 5,
        "size": 32,
        "resize": 36,
        "interpolation": "bicubic",
        "format": "png",
    }
    assert set(made["versions"][0]) >= {"dat", "torch", "numpy"}


def test_a_copy_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    cells = Cells(("frost", "shot_noise"), (1, 4))
    for out in (whole, parts):
        copies.make_corruptions(ImageFolder(folder), out, cells=cells, view=VIEW)
    kept = parts / "frost" / "1" / "cat" / "2.png"
    kept.write_bytes(b"kept as it is")
    for name in ("frost/1/dog/4.png", "shot_noise/4/cat/1.png"):
        (parts / name).unlink()
    copies.make_corruptions(ImageFolder(folder), parts, cells=cells, view=VIEW)
    assert kept.read_bytes() == b"kept as it is"
    assert files(parts) == {**files(whole), "frost/1/cat/2.png": b"kept as it is"}


def test_cells_are_added_to_a_copy(folder: Path, tmp_path: Path) -> None:
    for cells in (FOG, Cells(("contrast",), (1, 2))):
        made = copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=cells, view=VIEW)
    assert json.loads(made.read_text())["complete"] == ["contrast/1", "contrast/2", "fog/2"]
    assert len(json.loads(made.read_text())["versions"]) == 1


def test_a_broken_picture_stops_the_copy_and_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "dog" / "4.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"dog/4\.png"):
        copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=FOG, view=CenterCrop())
    assert json.loads((tmp_path / "c" / copies.MADE).read_text())["complete"] == []
    assert list(files(tmp_path / "c")) == ["fog/2/cat/1.png", "fog/2/cat/2.png", "fog/2/cat/deep/3.png"]


def test_no_half_picture_stays_where_writing_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "c"
    copies.make_corruptions(ImageFolder(folder), out, cells=FOG, view=VIEW)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(DataError, match=r"fog/3/\w+/\d\.png cannot be written \(No space left on device\); make room"):
            _write_fog(folder, out, severity=3)
    assert len(files(out)) == 5
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="holds something that is no copy"):
        _write_fog(folder, tmp_path / "file", severity=2)


def _write_fog(folder: Path, out: Path, *, severity: int) -> None:
    """`made.json` is written already where pictures are not."""
    source = ImageFolder(folder)
    change = {f"fog/{severity}": lambda images, ids: Corruption("fog", severity).images(images, ids, None)}
    if not out.is_dir():
        copies.make(source, out, change, {}, view=VIEW, form="png")
    names = copies.picture_names(source, "png")
    copies._Copy(ImageDataset(source, VIEW, seed=0), out, names, change, "png").write(Place(torch.device("cpu")))


def test_pictures_of_their_own_sizes(folder: Path, tmp_path: Path) -> None:
    save(folder / "dog" / "large.png", width=90, height=70)
    cells = Cells(("pixelate", "fog"), (3,))
    made = copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=cells, view=CenterCrop())
    source = ImageFolder(folder)
    for name in cells.corruptions:
        copied = ImageFolder(tmp_path / "c" / name / "3")
        assert [copied.read(index).size for index in range(6)] == [source.read(index).size for index in range(6)]
    assert json.loads(made.read_text())["settings"]["size"] is None
    alone = ImageDataset(source, CenterCrop(), seed=0).__getitem__((0, 5))
    expected = (Corruption("fog", 3).images(alone[0], alone[2], None) * 255).round().byte()[0].permute(1, 2, 0)
    assert np.array_equal(np.asarray(ImageFolder(tmp_path / "c" / "fog" / "3").read(5)), expected.numpy())
    save(folder / "dog" / "small.png", width=31)
    with pytest.raises(DataError, match=r"dog/small\.png is 31x40"):
        copies.make_corruptions(ImageFolder(folder), tmp_path / "d", cells=cells, view=CenterCrop())


def test_frost_of_a_folder_is_used_and_hashed(folder: Path, tmp_path: Path) -> None:
    for number, name in enumerate(ORIGINAL_NAMES):
        save(tmp_path / "ice" / name, width=200, height=190, seed=number)
    cells = Cells(("frost",), (3,), frost=tmp_path / "ice")
    made = copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=cells, view=VIEW)
    suite = Corruption("frost", 3, frost_textures=frost_textures(tmp_path / "ice"))
    assert np.array_equal(on_disk(tmp_path / "c" / "frost" / "3"), on_the_fly(folder, suite))
    assert json.loads(made.read_text())["settings"]["frost_textures"].startswith("sha256 ")
    with pytest.raises(UsageError, match=r"made with frost_textures 'sha256 .*now it is 'procedural'"):
        copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=Cells(("frost",), (3,)), view=VIEW)


def test_jpeg_is_of_quality_85(folder: Path, tmp_path: Path) -> None:
    copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=FOG, view=VIEW, form="jpeg")
    expected = on_the_fly(folder, Corruption("fog", 2))[0]
    Image.fromarray(expected).save(tmp_path / "85.jpeg", quality=85)
    assert (tmp_path / "c" / "fog" / "2" / "cat" / "1.jpeg").read_bytes() == (tmp_path / "85.jpeg").read_bytes()


@pytest.mark.parametrize(
    ("cells", "view", "form", "message"),
    [
        (Cells(("fog",), (2,), seed=1), VIEW, "png", "made with seed 0, now it is 1"),
        (FOG, CenterCrop(36), "png", "made with .* now it is"),
        (FOG, CenterCrop(32, interpolation="bilinear"), "png", "interpolation 'bicubic', now it is 'bilinear'"),
        (FOG, VIEW, "jpeg", "format 'png', now it is 'jpeg'"),
    ],
)
def test_a_changed_setting_is_refused(
    folder: Path, tmp_path: Path, cells: Cells, view: CenterCrop, form: copies.Form, message: str
) -> None:
    copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=FOG, view=VIEW)
    before = files(tmp_path / "c")
    with pytest.raises(UsageError, match=message):
        copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=cells, view=view, form=form)
    assert files(tmp_path / "c") == before


def test_a_changed_source_is_refused(folder: Path, tmp_path: Path) -> None:
    copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=FOG, view=VIEW)
    save(folder / "dog" / "6.png")
    with pytest.raises(UsageError, match="made with source_sha256"):
        copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=FOG, view=VIEW)


def test_folders_that_are_no_place_for_a_copy_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="inside of its source"):
        copies.make_corruptions(ImageFolder(folder), folder / "c", cells=FOG, view=VIEW)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something that is no copy"):
        copies.make_corruptions(ImageFolder(folder), tmp_path / "full", cells=FOG, view=VIEW)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("cells", "view", "message"),
    [
        (Cells(("fogg",), (1,)), VIEW, "did you mean 'fog'"),
        (Cells(("fog",), (6,)), VIEW, "Severity is 6"),
        (Cells(("fog",), (1,), seed=-1), VIEW, "seed is -1"),
        (FOG, CenterCrop(31), "size of 31 is too small"),
    ],
)
def test_mistakes_leave_nothing_behind(folder: Path, tmp_path: Path, cells: Cells, view: CenterCrop, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        copies.make_corruptions(ImageFolder(folder), tmp_path / "c", cells=cells, view=view)
    assert not (tmp_path / "c").exists()


def test_pictures_that_differ_in_their_endings_only_keep_them(folder: Path) -> None:
    save(folder / "cat" / "1.jpg")
    names = copies.picture_names(ImageFolder(folder), "png")
    assert names[:3] == ["cat/1.jpg.png", "cat/1.png.png", "cat/2.png"]
    save(folder / "cat" / "1.jpg.png")
    with pytest.raises(DataError, match=r"2 pictures would be written as cat/1\.jpg\.png"):
        copies.picture_names(ImageFolder(folder), "png")


def test_a_stylised_copy_equals_the_suite(folder: Path, tmp_path: Path) -> None:
    source = ImageFolder(folder)
    style = Stylized(source, seed=5)
    made = json.loads(copies.make_stylized(source, tmp_path / "s", style=style, view=VIEW).read_text())
    assert np.array_equal(on_disk(tmp_path / "s"), on_the_fly(folder, style))
    assert made["settings"]["style"] == "statistics"
    assert made["settings"]["styles"] == "other pictures of the set"
    with pytest.raises(UsageError, match="made with alpha"):
        copies.make_stylized(source, tmp_path / "s", style=Stylized(source, seed=5, alpha=0.5), view=VIEW)


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corruptions = ["data", "make", "corruptions", str(folder), "--out", str(tmp_path / "c"), "--size", "none"]
    app([*corruptions, "--corruptions", "fog, contrast", "--severities", "1,3"], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(tmp_path / "c" / "made.json")
    assert len(files(tmp_path / "c")) == 4 * 5
    stylized = ["data", "make", "stylized", str(folder), "--out", str(tmp_path / "s"), "--styles", str(folder / "dog")]
    app([*stylized, "--size", "36", "--alpha", "0.5", "--format", "jpeg"], standalone_mode=False)
    made = json.loads((tmp_path / "s" / "made.json").read_text())["settings"]
    assert (made["size"], made["alpha"], made["format"]) == (36, 0.5, "jpeg")
    assert len(made["styles"]) == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corruptions", "--severities", "1,x"], "severity is 'x'"),
        (["corruptions", "--size", "big"], "size is 'big'"),
        (["corruptions", "--format", "gif"], "format is 'gif'"),
        (["stylized", "--adain", "vgg.pth"], "AdaIN is 'vgg.pth'"),
    ],
)
def test_words_of_the_command_line_are_refused(folder: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        app(["data", "make", words[0], str(folder), "--out", str(tmp_path / "c"), *words[1:]], standalone_mode=False)


def test_a_flat_folder_with_a_table_becomes_class_folders(tmp_path: Path) -> None:
    for seed, name in enumerate(("one.png", "two.png", "three.png")):
        save(tmp_path / "flat" / "images" / name, seed=seed)
    (tmp_path / "flat" / "labels.csv").write_text("path,class\nimages/one.png,b\nimages/two.png,a\nimages/three.png,b\n")
    source = copies.source_of(tmp_path / "flat")
    copies.make_corruptions(source, tmp_path / "c", cells=FOG, view=VIEW)
    assert list(files(tmp_path / "c")) == ["fog/2/a/two.png", "fog/2/b/one.png", "fog/2/b/three.png"]
    (tmp_path / "flat" / "labels.csv").write_text("path\nimages/one.png\n")
    with pytest.raises(DataError, match="names no class"):
        copies.source_of(tmp_path / "flat")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"path,class\nimages/\xff.png,a\n", r"Cannot read the list .*labels\.csv \(not a text\)"),
        (b"path,class\na.png," + b"a" * 200_000, r"labels\.csv is no CSV table \(field larger"),
        (b"path,class\na.png", "Line 2 of .*labels.csv has not as many cells"),
    ],
)
def test_a_table_that_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        copies.source_of(tmp_path)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 4])
def test_processes_share_the_pictures_in_as_many_batches(processes: int, step: int) -> None:
    for count in (0, 1, 5, 8, 25):
        shares = [copies._share(count, step, Place(torch.device("cpu"), process, processes)) for process in range(processes)]
        assert len({len(batches) for batches in shares}) == 1
        given = np.concatenate([np.arange(0), *(batch for batches in shares for batch in batches)])
        assert sorted(given.tolist()) == [*range(count)]


def on_processes(count: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, "-m", "dat", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow  # real processes; what each of them is given is tested above
def test_two_processes_make_the_copy_of_one_and_end_with_one_sentence(folder: Path, tmp_path: Path) -> None:
    for seed in range(40):
        save(folder / "cat" / f"more-{seed}.png", seed=seed)
    words = ["data", "make", "corruptions", str(folder), "--size", "32", "--corruptions", "fog,shot_noise", "--severities", "2"]
    for count in (1, 2):
        done = on_processes(count, [*words, "--out", str(tmp_path / str(count))])
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.strip() == str(tmp_path / str(count) / copies.MADE)
    assert files(tmp_path / "1") == files(tmp_path / "2")
    assert len(files(tmp_path / "2")) == 2 * 45
    assert (tmp_path / "1" / copies.MADE).read_text() == (tmp_path / "2" / copies.MADE).read_text()
    (tmp_path / "2" / "fog" / "2" / "dog" / "4.png").unlink()
    assert on_processes(2, [*words, "--out", str(tmp_path / "2")]).returncode == 0
    assert files(tmp_path / "1") == files(tmp_path / "2")
    (folder / "cat" / "more-5.png").write_bytes(b"no picture")  # in the batch of the second process
    failed = on_processes(2, [*words, "--out", str(tmp_path / "3")])
    assert failed.returncode
    assert len([line for line in failed.stderr.splitlines() if line.startswith("dat: ")]) == 1
    assert "more-5.png" in failed.stderr
    assert json.loads((tmp_path / "3" / copies.MADE).read_text())["complete"] == []


@pytest.mark.shared
def test_the_sample_of_imagenet_has_its_classes(shared_data: Path) -> None:
    sample = Path(__file__).resolve().parents[2] / "data" / "imagenet_sample"
    if not sample.is_dir():
        pytest.skip("data/imagenet_sample is not unpacked (../shared/data/unpack.py)")
    names = copies.picture_names(copies.source_of(sample), "png")
    assert len(names) == 1000
    assert names[0] == "n01440764/n01440764.png"


def test_copies_of_a_table_are_those_of_the_same_pictures_in_folders(folder: Path, tmp_path: Path) -> None:
    pictures = sorted(path for path in folder.rglob("*") if path.is_file())
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["path,label", *(f"{path},{path.relative_to(folder).parts[0]}" for path in pictures)]))
    for source, out in ((folder, "of-folders"), (table, "of-table")):  # beside the table, which reads no more than it names
        copies.make_corruptions(copies.source_of(source), tmp_path / out, cells=FOG, view=VIEW)
    of_folders, of_table = files(tmp_path / "of-folders"), files(tmp_path / "of-table")
    assert [*of_folders.values()] == [*of_table.values()]
    assert {name.split("/")[2] for name in of_table} == {"cat", "dog"}
