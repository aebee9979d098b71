"""Models of timm: shown pictures as timm shows them, or refused with a sentence before anything is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config  # pyright: ignore[reportPrivateImportUsage]  # documented
from torch import nn

from dat.commands import subject as tested
from dat.commands.evaluate import assess, evaluate
from dat.commands.evaluation_plan import Plan, Settings
from dat.commands.subject import open_tested
from dat.data.pipeline import CenterCrop
from dat.errors import CheckpointError, DatError, UsageError

# One of each way in which timm's classifiers are shown pictures: the crop, its share, the interpolation.
SHOWN = (
    "test_resnet",
    "resnet50.tv_in1k",
    "resnet50.a1_in1k",
    "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384",
    "vit_base_patch8_224.augreg2_in21k_ft_in1k",
    "cspdarknet53.ra_in1k",
    "efficientnet_b0.ra_in1k",
)


def timms_pixels(name: str, picture: Image.Image, **changed: Any) -> np.ndarray:
    published = timm.get_pretrained_cfg(name)
    assert published is not None
    config = resolve_data_config(args=changed, pretrained_cfg=published.to_dict(), use_test_size=True)
    shown: Any = create_transform(**config, is_training=False, normalize=False)
    return shown(picture).numpy()


def our_view(name: str, **settings: Any) -> CenterCrop:
    subject = tested.Tested(name, nn.Identity(), tested._view_of_timm(name, tested._config_of_timm(name)))
    return Plan(subject, None, Settings(**settings), 1000).view


def pixels(view: CenterCrop, picture: Image.Image) -> np.ndarray:
    return np.asarray(view(picture)).transpose(2, 0, 1)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def squashing() -> list[str]:
    configs = {name: timm.get_pretrained_cfg(name) for name in timm.list_models(pretrained=True)}
    return [name for name, config in configs.items() if config and config.crop_mode == "squash" and config.num_classes == 1000]


@pytest.mark.parametrize("name", SHOWN)
def test_pictures_are_shown_as_timm_shows_them(name: str) -> None:
    for size in ((150, 100), (97, 161)):
        assert np.array_equal(pixels(our_view(name), picture(*size)), timms_pixels(name, picture(*size)))


def test_other_sizes_are_rounded_down_as_timm_does() -> None:
    shown = picture(150, 100)
    view = our_view("test_resnet", size=224)  # 224 / 0.95 is 235.8
    assert view.short_side == 235
    assert np.array_equal(pixels(view, shown), timms_pixels("test_resnet", shown, input_size=(3, 224, 224)))


def test_the_models_that_squash_do_so() -> None:
    names = squashing()
    assert len(names) > 70
    assert {our_view(name).crop_mode for name in names} == {"squash"}
    name = "convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384"
    assert our_view(name, crop_mode="center").crop_mode == "center"
    assert not np.array_equal(
        pixels(our_view(name, crop_mode="center"), picture(150, 100)), timms_pixels(name, picture(150, 100))
    )


@pytest.mark.parametrize("crop_pct", [1.0, 0.9])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_squashing_is_that_of_timm(crop_pct: float, interpolation: Any) -> None:
    config = {"input_size": (3, 60, 60), "crop_pct": crop_pct, "interpolation": interpolation, "crop_mode": "squash"}
    theirs: Any = create_transform(**config, is_training=False, normalize=False)
    view = tested._view_of_timm("some", config)
    for shown in (picture(150, 100), picture(40, 70)):
        assert np.array_equal(pixels(view, shown), theirs(shown).numpy())


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"crop_mode": "border"}, "crop_mode 'border', which is not done here; .*dat.evaluate"),
        ({"interpolation": "random"}, "interpolation 'random'"),
        ({"interpolation": "lanczos"}, "interpolation 'lanczos'"),
        ({"input_size": (3, 64, 48)}, "48x64 pixels"),
        ({"input_size": (1, 64, 64)}, "images of 1 channels"),
    ],
)
def test_what_is_not_done_here_is_refused(changed: dict[str, Any], sentence: str) -> None:
    config = {"input_size": (3, 64, 64), "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "center"}
    with pytest.raises(UsageError, match=sentence):
        tested._view_of_timm("some", config | changed)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("", "no model ''"),
        ("resnet5O", "did you mean resnet50"),
        ("resnet18.nonsense", r"no weights 'nonsense' of resnet18; it has: resnet18\.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "place of files"),
        ("local-dir:/tmp/model", "place of files"),
        ("vit_base_patch16_224.dino", "gives features, no classes"),
        ("vit_base_patch16_sapiens2.fb", "gives features, no classes"),
        ("vit_base_patch16_clip_224.openai", "512 numbers to compare with those of a text"),
        ("resnet50_clip.openai", "1024 numbers"),
    ],
)
@pytest.mark.parametrize("weights", [None, Path("mine.safetensors")])
def test_odd_names_are_refused_before_anything_is_made(name: str, sentence: str, weights: Path | None) -> None:
    if sentence.startswith("gives") and not timm.is_model(name):
        pytest.skip("the model is newer than this timm")
    with patch.object(timm, "create_model", side_effect=AssertionError), pytest.raises(UsageError, match=sentence):
        open_tested(f"timm:{name}", weights=weights)


def test_what_timm_raises_becomes_a_sentence() -> None:
    failing = patch.object(timm, "create_model", side_effect=TypeError("unexpected keyword 'x'.\nmore"))
    with failing, pytest.raises(CheckpointError, match=r"weights of test_vit \(unexpected keyword 'x'\); add --weights"):
        open_tested("timm:test_vit")
    with failing, pytest.raises(UsageError, match=r"cannot make test_vit \(unexpected keyword 'x'\)"):
        open_tested("timm:test_vit", weights=Path("mine.safetensors"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            picture(48 + number, 40).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


class Two(nn.Module):
    """Two logits of images of 32 pixels, of no others."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[2:] == (32, 32), f"Input height ({images.shape[2]}) doesn't match model (32)."
        return images.mean(dim=(2, 3))[:, :2]


def test_every_row_says_that_pictures_were_squashed(photos: Path) -> None:
    arguments: dict[str, Any] = {
        "suites": ["clean", "fgsm"],
        "data": photos,
        "classes": ("ant", "bee"),
        "size": 32,
        "cpu": True,
    }
    squashed = evaluate(Two(), **arguments, crop_pct=1.0, crop_mode="squash", self_test=False)
    cropped = evaluate(Two(), **arguments, crop_pct=1.0, self_test=False)
    assert [row.protocol.get("crop_mode") for row in squashed] == ["squash"] * 4
    assert [row.protocol.get("crop_mode") for row in cropped] == [None] * 4  # as rows of earlier evaluations


def test_a_size_that_the_network_does_not_take_is_said(photos: Path) -> None:
    arguments: dict[str, Any] = {"suites": ["clean"], "data": photos, "classes": ("ant", "bee"), "cpu": True}
    with pytest.raises(DatError, match=r"model gives no logits for an image of 36x36 pixels \(Input height .36. doesn't match"):
        evaluate(Two(), size=36, **arguments)


def test_a_network_of_timm_with_a_file_is_normalised_as_published(tmp_path: Path) -> None:
    network = timm.create_model("test_resnet")
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, tmp_path / "mine.safetensors")
    found = open_tested("timm:test_resnet", weights=tmp_path / "mine.safetensors")
    assert found.name == "timm:test_resnet@mine.safetensors"
    images = torch.rand(2, 3, 160, 160)
    published = timm.get_pretrained_cfg("test_resnet")
    assert published is not None
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (published.mean, published.std))
    torch.testing.assert_close(found.model.eval()(images), network.eval()((images - mean) / std))
    assert found.view.size == 160


def test_which_weights_of_a_file_were_taken_is_in_the_name(tmp_path: Path) -> None:
    raw, average = (timm.create_model("test_resnet").half().state_dict() for _ in range(2))
    wrapped = {f"module.{key}": value for key, value in average.items()}
    torch.save({"state_dict": raw, "state_dict_ema": wrapped}, tmp_path / "w.pth")
    found = open_tested("timm:test_resnet", weights=tmp_path / "w.pth")
    assert found.name == "timm:test_resnet@w.pth#state_dict_ema"
    weight = found.model.state_dict()["network.conv1.0.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, average["conv1.0.weight"].float())
    found = open_tested("timm:test_resnet", weights=tmp_path / "w.pth#state_dict")
    assert found.name == "timm:test_resnet@w.pth#state_dict"
    assert torch.equal(found.model.state_dict()["network.conv1.0.weight"], raw["conv1.0.weight"].float())


def test_a_fine_tuned_network_of_timm_has_as_many_classes_as_its_file(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = timm.create_model("test_resnet", num_classes=2).eval()
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in network.state_dict().items()}}, tmp_path / "w.pth")
    found = open_tested("timm:test_resnet", weights=tmp_path / "w.pth")
    assert "w.pth is of 2 classes and does not say which" in capsys.readouterr().err
    images = torch.rand(2, 3, 32, 32)
    published = timm.get_pretrained_cfg("test_resnet")
    assert published is not None
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (published.mean, published.std))
    torch.testing.assert_close(found.model.eval()(images), network((images - mean) / std))
    rows = assess(found, ["clean"], root=photos, folder=None, settings=Settings(size=32), self_test=False, cpu=True).rows
    assert [row.n for row in rows if row.metric == "accuracy"] == [4]


def test_weights_of_other_options_are_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=2, img_size=32).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"1 of another shape \(pos_embed .* is evaluated from Python: dat.evaluate"):
        open_tested("timm:test_vit", weights=tmp_path / "w.pth")


@pytest.mark.shared
@pytest.mark.parametrize("name", SHOWN)
def test_real_pictures_are_shown_as_timm_shows_them(name: str) -> None:
    sample = Path(__file__).resolve().parents[2] / "data" / "imagenet_sample" / "images"
    if not sample.is_dir():
        pytest.skip("data/imagenet_sample is not unpacked (../shared/data/unpack.py)")
    for path in sorted(sample.iterdir())[::250]:
        shown = Image.open(path).convert("RGB")
        assert np.array_equal(pixels(our_view(name), shown), timms_pixels(name, shown))
