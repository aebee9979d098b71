import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import vgg

from dat.errors import CheckpointError, UsageError
from dat.nn.perceptual import (
    BACKBONES,
    LPIPS,
    FeatureDistance,
    load_feature_distance,
    load_lpips,
    multiscale_gradient_distance,
)

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


LINEAR_LAYERS = {"vgg16": "lpips_v0.1_vgg.pth", "alexnet": "lpips_v0.1_alex.pth", "squeezenet1_1": "lpips_v0.1_squeeze.pth"}
CREATE = {"vgg16": models.vgg16, "alexnet": models.alexnet, "squeezenet1_1": models.squeezenet1_1}
# After which layers the original takes features: each network's ReLUs or Fire modules, counted from 0.
TAPS = {"vgg16": (3, 8, 15, 22, 29), "alexnet": (1, 4, 7, 9, 11), "squeezenet1_1": (1, 4, 7, 9, 10, 11, 12)}


@pytest.fixture(scope="module")
def weights(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    with zipfile.ZipFile(shared_data / "weights.zip") as pack:
        pack.extractall(folder)
    return folder


def direct_lpips(features: nn.Module, linear: dict[str, Tensor], taps: tuple[int, ...], *pair: Tensor) -> Tensor:
    """LPIPS as a plain loop over positions' unit vectors."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    hidden = [((images + 1) / 2 - mean) / std for images in pair]
    total = torch.zeros(len(pair[0]))
    for number, layer in enumerate(features.children()):
        hidden = [layer(maps) for maps in hidden]
        if number in taps:
            ours, theirs = (F.normalize(maps, dim=1) for maps in hidden)
            weight = linear[f"lin{taps.index(number)}.model.1.weight"].view(1, -1, 1, 1)
            total += (weight * (ours - theirs) ** 2).sum(dim=1).mean(dim=(1, 2))
    return total


@pytest.mark.shared
@pytest.mark.parametrize("backbone", BACKBONES)
def test_published_linear_layers_fit_files_of_torchvision(tmp_path: Path, weights: Path, backbone: str) -> None:
    chosen = BACKBONES[backbone]
    features = CREATE[backbone](weights=None).features.eval()
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / chosen.file_name)
    lpips = load_lpips(backbone, weights / LINEAR_LAYERS[backbone], cache=tmp_path)
    linear = torch.load(weights / LINEAR_LAYERS[backbone], map_location="cpu", weights_only=True)
    images, others = 2 * torch.rand(2, 2, 3, 64, 64) - 1
    with torch.no_grad():
        expected = direct_lpips(features, linear, TAPS[backbone], images, others)
    assert (expected > 0).all()
    # LPIPS writes the normalisation for [-1, 1] with three digits.
    torch.testing.assert_close(lpips(images, others), expected, rtol=2e-3, atol=0)
    assert lpips.name == f"lpips_{backbone}"


FILES = {
    "squeezenet1_0": "squeezenet1_0_imagenet_codes.npz",
    "mobilenet_v2": "mobilenet_v2_imagenet_int8.npz",
    "tiny_darknet": "tiny_darknet_imagenet.safetensors",
}


@pytest.fixture(params=FILES)
def feature_distance(request: pytest.FixtureRequest, weights: Path) -> FeatureDistance:
    return load_feature_distance(request.param, weights / FILES[request.param])


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> list[Image.Image]:
    """CIFAR-10's first test pictures of each class."""
    with zipfile.ZipFile(shared_data / "cifar10.zip") as pack:
        stack = np.asarray(Image.open(pack.open("test/0000.webp"))).reshape(-1, 32, 32, 3)
    return [Image.fromarray(pixels) for pixels in stack[:32]]


def as_batch(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2) / 127.5 - 1


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.shared
def test_worse_images_are_farther(feature_distance: FeatureDistance, photographs: list[Image.Image]) -> None:
    images = as_batch(photographs)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    degradations = {
        "blur": [as_batch([image.filter(ImageFilter.GaussianBlur(r)) for image in photographs]) for r in (0.5, 0.8, 1.2, 2)],
        "noise": [(images + scale * noise).clamp(-1, 1) for scale in (0.04, 0.08, 0.16, 0.32)],
        "jpeg": [as_batch([as_jpeg(image, quality) for image in photographs]) for quality in (80, 50, 25, 10)],
    }
    assert feature_distance(images, images).tolist() == [0] * len(images)
    for severities in degradations.values():
        distances = torch.stack([feature_distance(images, worse) for worse in severities])
        assert distances.mean(dim=1).diff().min() > 0
        assert (distances.diff(dim=0) > 0).float().mean() > 0.9


@pytest.mark.shared
def test_its_gradient_leads_back_to_the_image(feature_distance: FeatureDistance, photographs: list[Image.Image]) -> None:
    images = as_batch(photographs[:4])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    reconstruction = (images + 0.1 * noise).clamp(-1, 1)
    before = feature_distance(images, reconstruction)
    for _ in range(10):
        reconstruction = reconstruction.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(feature_distance(images, reconstruction).sum(), reconstruction)
        step = gradient / torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
        reconstruction = reconstruction - 0.3 * step
    assert (feature_distance(images, reconstruction) < 0.8 * before).all()


@pytest.mark.shared
def test_it_is_the_sum_over_layers_of_unit_length_features(feature_distance: FeatureDistance) -> None:
    images, others = 2 * torch.rand(2, 2, 3, 48, 40) - 1
    expected = np.zeros(2)
    pair = [feature_distance.network.features((batch + 1) / 2) for batch in (images, others)]
    for ours, theirs in zip(*pair, strict=True):
        one, other = (maps.double().numpy() for maps in (ours, theirs))
        units = [maps / (np.linalg.norm(maps, axis=1, keepdims=True) + 1e-10) for maps in (one, other)]
        expected += np.square(units[0] - units[1]).sum(axis=1).mean(axis=(1, 2))
    np.testing.assert_allclose(feature_distance(images, others).numpy(), expected, rtol=1e-5)


@pytest.mark.shared
def test_it_runs_in_bfloat16_on_tiny_images_and_stays_frozen(feature_distance: FeatureDistance) -> None:
    images, others = 2 * torch.rand(2, 2, 3, 8, 8) - 1
    exact = feature_distance(images, others)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = feature_distance(images, others)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0)
    feature_distance.train()
    assert not any(module.training for module in feature_distance.modules())
    assert not any(parameter.requires_grad for parameter in feature_distance.parameters())
