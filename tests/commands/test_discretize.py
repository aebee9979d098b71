"""Pictures through a discretizer onto the disk: files, numbers against plain arithmetic, and the sheet to look at."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dat.commands.discretize import (
    CAPTION,
    CELL,
    GAP,
    MARGIN,
    RandomCodes,
    amplification,
    as_table,
    discretize,
    distinct_names,
    draw,
)
from dat.data.folders import ImageFolder
from dat.data.picture_files import find_pictures
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.engine.discretizer_health import reconstruction_quality
from dat.errors import DataError, UsageError
from dat.types import Place

TINY = VQGANConfig(n_embed=12, embed_dim=3, z_channels=5, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=())


@pytest.fixture(scope="module")
def discretizer() -> FrozenDiscretizer:
    torch.manual_seed(0)
    return FrozenDiscretizer(VQGAN(TINY))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures of unequal sizes in folders, a text beside them, and hidden files."""
    numbers = np.random.default_rng(0)
    for name, size in {"a/cat.png": (13, 20), "b/cat.png": (16, 16), "b/.hidden.png": (4, 4), ".trash/dog.png": (4, 4)}.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "labels.csv").write_text("cat")
    return tmp_path / "photos"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture).astype(np.float64)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_files_and_numbers_are_those_of_the_discretizer(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    outcomes, total = discretize(find_pictures([photos]), discretizer, tmp_path / "out")
    first = outcomes[0]
    original = pixels(photos / "a" / "cat.png")
    codes = discretizer.encode(torch.from_numpy(original / 255).permute(2, 0, 1)[None].float())
    stored = arrays(tmp_path / "out" / "codes.npz")
    assert (first.width, first.height, first.grid, first.distinct) == (20, 13, (7, 10), len(codes.unique()))
    assert np.array_equal(stored["cat"], codes[0].numpy())
    assert stored["cat-2"].shape == (8, 8)
    reconstruction = pixels(tmp_path / "out" / "reconstructions" / "cat.png")
    assert np.array_equal(
        reconstruction, np.rint(255 * discretizer.decode(codes)[0, :, :13, :20].permute(1, 2, 0).double().numpy())
    )
    psnr = -10 * np.log10(np.mean(((reconstruction - original) / 255) ** 2))
    assert first.psnr_db == pytest.approx(psnr, abs=0.02)  # the file is rounded to 8 bits
    named = (("cat", photos / "a" / "cat.png"), ("cat-2", photos / "b" / "cat.png"))
    used = set(stored["cat"].flatten()) | set(stored["cat-2"].flatten())
    assert (total.images, total.used, total.fraction) == (2, len(used), pytest.approx(len(used) / 12))
    assert total.mean_psnr_db == pytest.approx(sum(one.psnr_db for one in outcomes) / 2, abs=0.01)
    made = tmp_path / "out" / "reconstructions"
    errors = [np.square((pixels(made / f"{name}.png") - pixels(path)) / 255) for name, path in named]
    assert total.psnr_db == pytest.approx(-10 * np.log10(np.concatenate([one.ravel() for one in errors]).mean()), abs=0.02)
    assert total.psnr_db != total.mean_psnr_db
    assert pixels(tmp_path / "out" / "picture.png").shape[1] > 2 * CAPTION


def test_pictures_may_be_called_as_the_parameters_of_numpy(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    file, flag = photos / "a" / "file.png", photos / "b" / "allow_pickle.png"
    (photos / "a" / "cat.png").rename(file)
    (photos / "b" / "cat.png").rename(flag)
    discretize([file, flag], discretizer, tmp_path / "out")
    assert set(arrays(tmp_path / "out" / "codes.npz")) == {"file", "allow_pickle"}


def test_pictures_of_an_earlier_call_do_not_stay(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    out = tmp_path / "out"
    discretize(find_pictures([photos]), discretizer, out)
    (out / "notes.txt").write_text("mine")
    discretize([photos / "a" / "cat.png"], discretizer, out)
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.*")}
    assert written == {"notes.txt", "picture.png", "codes.npz", "reconstructions/cat.png"}


class Stops(FrozenDiscretizer):
    """One that is stopped at the second picture, as by Ctrl-C."""

    calls = 0

    def encode(self, images: Tensor) -> Tensor:
        Stops.calls += 1
        if Stops.calls == 2:
            raise KeyboardInterrupt
        return super().encode(images)


@pytest.mark.parametrize("what", ["a rate", "the first picture", "the last picture", "stopped"])
def test_what_fails_leaves_what_was_there(what: str, photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    kept, fresh = tmp_path / "kept", tmp_path / "fresh"
    found = find_pictures([photos])
    discretize(found, discretizer, kept)
    before = {path: path.read_bytes() for path in kept.rglob("*.*")}
    bad = photos / "labels.csv"
    paths = {"the first picture": [bad, *found], "the last picture": [*found, bad]}.get(what, found)
    for out in (kept, fresh):
        Stops.calls = 0
        used = Stops(discretizer.network) if what == "stopped" else discretizer
        with pytest.raises((UsageError, DataError, KeyboardInterrupt)):
            discretize(paths, used, out, random_codes=RandomCodes(rate=2.0) if what == "a rate" else None)
    assert {path: path.read_bytes() for path in kept.rglob("*.*")} == before
    assert not fresh.exists()


def test_pictures_are_not_replaced_by_what_is_made_of_them(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    out = tmp_path / "out"
    discretize(find_pictures([photos]), discretizer, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    with pytest.raises(UsageError, match=r"\.png would be replaced by what is made of the pictures; name another folder than"):
        discretize(find_pictures([out / "reconstructions"]), discretizer, out)
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_codes_and_pictures_of_others_are_not_taken_for_an_earlier_call(
    photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path
):
    np.savez(tmp_path / "codes.npz", cat=np.zeros(3), weights=np.zeros(3))
    (tmp_path / "reconstructions").mkdir()
    (tmp_path / "reconstructions" / "cat.png").write_bytes(b"mine")
    for name in ("codes", "cat"):
        with pytest.raises(UsageError, match=rf"{name}\.\w+ is none of ours, and would be replaced; name another folder"):
            discretize([photos / "a" / "cat.png"], discretizer, tmp_path)
        (tmp_path / "codes.npz").unlink(missing_ok=True)
    assert (tmp_path / "reconstructions" / "cat.png").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["picture.png", "codes.npz"])
def test_files_of_something_else_are_not_replaced(name: str, photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UsageError, match=rf"{name} is none of ours"):
        discretize(find_pictures([photos]), discretizer, tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"


def test_a_picture_of_one_code_has_a_reconstruction(discretizer: FrozenDiscretizer, tmp_path: Path):
    Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    outcomes, _ = discretize([tmp_path / "one.png"], discretizer, tmp_path / "out")
    assert outcomes[0].grid == (1, 1)


def test_size_crops_the_centre(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    (outcome,), _ = discretize([photos / "a" / "cat.png"], discretizer, tmp_path / "out", size=10)
    assert (outcome.width, outcome.height, outcome.grid) == (10, 10, (5, 5))
    with pytest.raises(UsageError, match="size"):
        discretize([photos / "a" / "cat.png"], discretizer, tmp_path / "out", size=0)


def test_random_codes_change_at_their_rate_and_repeat_by_seed(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    def codes(folder: str, settings: RandomCodes | None) -> np.ndarray:
        discretize([photos / "a" / "cat.png"], discretizer, tmp_path / folder, random_codes=settings)
        return arrays(tmp_path / folder / "codes.npz")["cat"]

    plain = codes("plain", None)
    assert np.array_equal(codes("none", RandomCodes(0.0)), plain)
    assert (codes("all", RandomCodes(1.0)) != plain).all()
    some = codes("some", RandomCodes(0.5, seed=1))
    assert 0.2 < (some != plain).mean() < 0.8
    assert np.array_equal(codes("again", RandomCodes(0.5, seed=1)), some)
    assert not np.array_equal(codes("other", RandomCodes(0.5, seed=2)), some)
    with pytest.raises(UsageError, match=r"rate of random codes is 1\.5"):
        codes("wrong", RandomCodes(1.5))


def test_pictures_are_found_in_order_without_hidden_ones(photos: Path):
    found = [photos / "a" / "cat.png", photos / "b" / "cat.png"]
    assert find_pictures([photos]) == found
    assert find_pictures([photos / "b" / ".hidden.png", photos / "a"]) == [photos / "b" / ".hidden.png", found[0]]


def test_what_is_no_picture_is_named(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    with pytest.raises(DataError, match=r"no folder at .*nowhere"):
        find_pictures([photos / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        find_pictures([tmp_path / "empty"])
    with pytest.raises(DataError, match=r"labels\.csv \(3 bytes\): not an image"):
        discretize(find_pictures([photos / "labels.csv"]), discretizer, tmp_path / "out")


def test_names_are_distinct():
    paths = [Path(text) for text in ("a/x.png", "b/x.jpg", "x-2.png", "c/x.png", "y.png")]
    assert distinct_names(paths) == ["x", "x-2", "x-2-2", "x-3", "y"]


def test_the_table_says_everything(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    outcomes, total = discretize(find_pictures([photos]), discretizer, tmp_path / "out")
    lines = as_table(outcomes, total).splitlines()
    cells = [str(photos / "a" / "cat.png"), "20 x 13", "7 x 10", str(outcomes[0].distinct), f"{outcomes[0].psnr_db:.2f}"]
    assert re.split(r" {2,}", lines[1]) == cells
    assert lines[-1].startswith(f"{total.used} of 12 codes used ({total.fraction:.1%}), perplexity")
    said = f"PSNR of the mean error {total.psnr_db:.2f} dB, mean of the pictures' PSNR {total.mean_psnr_db:.2f} dB"
    assert lines[-1].endswith(said)


def test_the_psnr_is_the_one_of_trainings(discretizer: FrozenDiscretizer, tmp_path: Path):
    """A flat picture and a noisy one: the mean of their own PSNRs is far from that of the mean error, which trainings give."""
    for name, spread in (("flat", 1), ("noisy", 256)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, spread, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name / "1.png")
    _, total = discretize(find_pictures([tmp_path / "photos"]), discretizer, tmp_path / "out")
    test = ImageDataset(ImageFolder(tmp_path / "photos"), CenterCrop(), seed=0)
    trained = reconstruction_quality(discretizer, test, Place(torch.device("cpu"), 0, 1))
    assert total.psnr_db == pytest.approx(trained["psnr_db"], abs=0.006)
    assert total.mean_psnr_db > total.psnr_db + 0.1


def test_amplification_leaves_all_but_one_percent_in_range():
    black = torch.zeros(1, 3, 10, 10)
    assert amplification([(black, black + 0.09)]) == 5
    assert amplification([(black, black)]) == 127
    spike = black.clone()
    spike[0, 0, 0, 0] = 1
    assert amplification([(black, spike)]) == 127
    assert amplification([(black, black + 0.9)]) == 1


def test_the_sheet_shows_original_reconstruction_and_difference(photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path):
    (outcome, *_), _ = discretize(find_pictures([photos]), discretizer, tmp_path / "out")
    red, green = (torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 8, 8) for colour in ([1.0, 0, 0], [0, 1.0, 0]))
    sheet = np.asarray(draw([(red, green)], [outcome]))
    for colour in ((255, 0, 0), (0, 255, 0), (0, 255, 128)):
        assert (sheet == colour).all(axis=2).sum() >= CELL * CELL
    tall = torch.rand(1, 3, 4 * CELL, 8)
    assert draw([(tall, tall), (red, green)], [outcome, outcome]).size[0] == MARGIN + CAPTION + CELL + 3 * GAP


def test_damaged_pictures_are_left_out_where_they_may_be(
    photos: Path, discretizer: FrozenDiscretizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (photos / "a" / "broken.png").write_bytes(b"no picture")
    paths = find_pictures([photos])
    with pytest.raises(DataError, match=r"broken\.png.* add --allow-bad 1 or more"):
        discretize(paths, discretizer, tmp_path / "out")
    outcomes, total = discretize(paths, discretizer, tmp_path / "out", allow_bad=1)
    assert (len(outcomes), total.images, total.left_out) == (2, 2, 1)
    assert "Left out: Cannot read the picture" in capsys.readouterr().err
    with pytest.raises(DataError, match="None of the 1 pictures"):
        discretize([photos / "a" / "broken.png"], discretizer, tmp_path / "none", allow_bad=1)
