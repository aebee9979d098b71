from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dat.augment.style import load_adain, statistics_style
from dat.data.embedded import ArraySource
from dat.errors import DataError, UsageError
from dat.evaluation.stylized import Paintings, Stylized
from dat.evaluation.suites import Suite

Golden = Callable[[str], Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def source_of(*targets: int, side: int = 40) -> ArraySource:
    pixels = np.random.default_rng(0).integers(0, 256, (len(targets), 3, side, side), dtype=np.uint8)
    return ArraySource(pixels, np.array(targets, dtype=np.int64), ("a", "b", "c"))


def images_of(source: ArraySource) -> Tensor:
    return torch.from_numpy(source.images).float() / 255


def test_each_picture_takes_the_style_of_another_class() -> None:
    source = source_of(0, 0, 0, 1, 1, 2)
    for seed in range(5):
        styles = [Stylized(source, seed=seed).style_position(identity) for identity in range(6)]
        assert all(source.targets[style] != source.targets[identity] for identity, style in enumerate(styles))
    chosen = {Stylized(source, seed=seed).style_position(0) for seed in range(40)}
    assert chosen == {3, 4, 5}


def test_in_a_set_of_one_class_it_is_another_picture() -> None:
    chosen = {Stylized(source_of(1, 1, 1), seed=seed).style_position(1) for seed in range(30)}
    assert chosen == {0, 2}
    with pytest.raises(DataError, match="no other picture"):
        Stylized(source_of(0))


def test_a_picture_is_that_of_matched_statistics_in_8_bits() -> None:
    source = source_of(0, 0, 1, 2)
    images, suite = images_of(source), Stylized(source, seed=2)
    made = suite.images(images, torch.arange(4), None)
    style = suite.style_position(1)
    expected = statistics_style(images[1:2], images[style][None], alpha=1.0)
    assert (made[1:2] - expected).abs().max() <= 0.5001 / 255
    assert torch.equal(made, (made * 255).round() / 255)
    assert isinstance(suite, Suite)
    assert suite.name == "stylized-generated"
    assert not suite.depends_on_model


def test_bits_do_not_depend_on_the_batch_and_do_on_the_seed() -> None:
    source = source_of(0, 1, 2, 0, 1)
    images, suite = images_of(source), Stylized(source)
    together = suite.images(images, torch.arange(5), None)
    ids = torch.tensor([3, 1])
    assert torch.equal(suite.images(images[ids], ids, None), together[ids])
    assert not torch.equal(Stylized(source, seed=1).images(images, torch.arange(5), None), together)
    assert suite.images(images[:0], ids[:0], None).shape == (0, 3, 40, 40)


def test_alpha_0_keeps_the_picture() -> None:
    source = source_of(0, 1)
    made = Stylized(source, alpha=0.0).images(images_of(source), torch.arange(2), None)
    torch.testing.assert_close(made, images_of(source), atol=1e-6, rtol=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (90, 50), (200, 10, 10)).save(tmp_path / "deep" / "red.png")
    Image.new("RGB", (50, 60), (10, 10, 200)).save(tmp_path / "blue.jpg")
    Image.new("RGB", (50, 60)).save(tmp_path / ".hidden" / "black.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_paintings_are_all_visible_pictures_below_a_folder(folder: Path) -> None:
    paintings = Paintings(folder)
    assert paintings.names == ("blue.jpg", "deep/red.png")
    assert paintings.read(1).size == (90, 50)
    before = paintings.fingerprint()
    (folder / "blue.jpg").rename(folder / "bluer.jpg")
    assert Paintings(folder).fingerprint() != before
    with pytest.raises(DataError, match="no pictures"):
        Paintings(folder / "nowhere")


def test_paintings_of_any_size_lend_their_colours(folder: Path) -> None:
    source = source_of(0, 0, 0, 0, 0, 0)
    suite = Stylized(source, Paintings(folder))
    made = suite.images(images_of(source), torch.arange(6), None)
    styles = [suite.style_position(identity) for identity in range(6)]
    assert set(styles) == {0, 1}
    for image, style in zip(made, styles, strict=True):
        red, _, blue = image.mean(dim=(1, 2))
        assert (blue > red + 0.5) if style == 0 else (red > blue + 0.5)


@pytest.mark.shared
def test_adain_with_given_weights(golden: Golden) -> None:
    weights = golden("adain_debiased")
    files = (weights / "vgg.safetensors", weights / "decoder.safetensors")
    source = source_of(0, 1, 1, 2)
    images, suite = images_of(source), Stylized(source, adain=files)
    made = suite.images(images, torch.arange(4), None)
    expected = load_adain(*files)(images[:1], images[suite.style_position(0)][None], alpha=1.0).clamp(0, 1)
    assert (made[:1] - expected).abs().max() <= 0.5001 / 255
    protocol = suite.protocol(40, 40)
    assert protocol["style"] == "adain"
    assert len({protocol["vgg_sha256"], protocol["decoder_sha256"]}) == 2


def test_the_protocol_says_with_what(folder: Path) -> None:
    source = source_of(0, 1)
    own = {"generated": True, "seed": 0, "alpha": 1.0, "styles": "other pictures of the set", "style": "statistics"}
    assert Stylized(source).protocol(40, 40) == own
    paintings = Paintings(folder)
    assert Stylized(source, paintings).protocol(40, 40)["styles"] == paintings.fingerprint()


@pytest.mark.parametrize(("setting", "message"), [({"alpha": 1.5}, "alpha, is 1.5"), ({"seed": -1}, "seed is -1")])
def test_settings_out_of_range_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Stylized(source_of(0, 1), **setting)
