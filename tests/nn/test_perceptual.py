from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import vgg

from dat.errors import CheckpointError, UsageError
from dat.nn.perceptual import BACKBONES, LPIPS, load_lpips, multiscale_gradient_distance

Golden = Callable[[str], Path]


@pytest.fixture
def narrow_lpips(golden: Golden) -> LPIPS:
    """LPIPS on a VGG16 of the widths of the golden data."""
    widths = (8, 8, 12, 16, 16)
    plan = [entry for width, depth in zip(widths, (2, 2, 3, 3, 3), strict=True) for entry in (*[width] * depth, "M")]
    lpips = LPIPS(list(vgg.make_layers(plan)), stops=BACKBONES["vgg16"].stops, widths=widths)
    lpips.load_state_dict(load_file(golden("lpips") / "weights.safetensors"))
    return lpips


@pytest.mark.shared
def test_lpips_is_the_original(golden: Golden, narrow_lpips: LPIPS) -> None:
    io = load_file(golden("lpips") / "io.safetensors")
    images = io["b"].requires_grad_()
    distance = narrow_lpips(io["a"], images)
    torch.testing.assert_close(distance, io["distance"].flatten(), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(distance.sum(), images)
    expected = io["grad_b_of_sum"]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_lpips_is_frozen() -> None:
    lpips = LPIPS([nn.Conv2d(3, 4, 1)], stops=(1,), widths=(4,)).train()
    assert not any(module.training for module in lpips.modules())
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_lpips_has_a_gradient_where_all_features_are_zero() -> None:
    lpips = LPIPS([nn.Identity()], stops=(1,), widths=(3,))
    images = lpips.get_buffer("scaling_layer.shift").expand(1, 3, 4, 4).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(lpips(images, torch.rand(1, 3, 4, 4)).sum(), images)
    assert gradient.isfinite().all()


def torchvision_files(folder: Path, backbone: str) -> tuple[dict[str, Tensor], Path]:
    """A weight file as torchvision's, with random weights, and linear layers as those of LPIPS."""
    chosen = BACKBONES[backbone]
    tensors = {f"features.{key}": value for key, value in _features(backbone).state_dict().items()}
    torch.save({**tensors, "classifier.1.weight": torch.zeros(2)}, folder / chosen.file_name)
    linear = {f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1) for number, width in enumerate(chosen.widths)}
    torch.save(linear, folder / "linear.pth")
    return linear, folder / "linear.pth"


def _features(backbone: str) -> torch.nn.Module:
    return {"alexnet": models.alexnet, "squeezenet1_1": models.squeezenet1_1}[backbone](weights=None).features


@pytest.mark.parametrize("backbone", ["alexnet", "squeezenet1_1"])
@pytest.mark.parametrize("from_hub", [True, False])
def test_lpips_loads_from_torchvisions_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str, from_hub: bool
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    linear, file = torchvision_files(folder, backbone)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    lpips = load_lpips(backbone, file, cache=None if from_hub else folder)
    images, others = torch.rand(2, 2, 3, 64, 64)
    assert lpips(images, images).tolist() == [0, 0]
    assert (lpips(images, others) > 0).all()
    assert torch.equal(lpips.state_dict()["lin2.model.1.weight"], linear["lin2.model.1.weight"])
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in lpips.parameters())


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vgg16-397923af\.pth"):
        load_lpips("vgg16", tmp_path / "vgg.pth", cache=tmp_path)
    torchvision_files(tmp_path, "squeezenet1_1")
    with pytest.raises(CheckpointError, match=r"no weight file at .*nowhere\.pth"):
        load_lpips("squeezenet1_1", tmp_path / "nowhere.pth", cache=tmp_path)


def test_wrong_linear_layers_are_named(tmp_path: Path) -> None:
    torchvision_files(tmp_path, "squeezenet1_1")
    torch.save({"lin0.model.1.weight": torch.zeros(1, 7, 1, 1)}, tmp_path / "linear.pth")
    with pytest.raises(CheckpointError, match=r"linear\.pth.*\(1, 7, 1, 1\) instead of \(1, 64, 1, 1\)"):
        load_lpips("squeezenet1_1", tmp_path / "linear.pth", cache=tmp_path)


def test_unknown_backbones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'vgg19'.*vgg16, alexnet, squeezenet1_1"):
        load_lpips("vgg19", tmp_path)


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (9, 31), (64, 48)])
def test_gradient_distance_is_a_distance_at_every_size(size: tuple[int, int]) -> None:
    images, others = torch.rand(2, 3, 3, *size)
    distance = multiscale_gradient_distance(images, others)
    assert distance.shape == (3,)
    assert (distance > 0).all()
    assert multiscale_gradient_distance(images, images).tolist() == [0, 0, 0]
    torch.testing.assert_close(distance, multiscale_gradient_distance(others, images))
    torch.testing.assert_close(multiscale_gradient_distance(images, images + 0.25), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(multiscale_gradient_distance(2 * images, 2 * others), 2 * distance)


def test_gradient_distance_of_a_known_image() -> None:
    """A ramp of slope 1 along rows: differences 1 at the first level, 2 at the halved one, and none along columns."""
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    assert multiscale_gradient_distance(ramp, torch.zeros_like(ramp)).item() == pytest.approx((1 + 2) / 2)
    assert multiscale_gradient_distance(ramp, torch.zeros_like(ramp), levels=1).item() == pytest.approx(1)


def test_gradient_distance_has_a_gradient() -> None:
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    multiscale_gradient_distance(images, torch.zeros(1, 3, 16, 16)).sum().backward()
    assert images.grad is not None
    assert images.grad.any()
