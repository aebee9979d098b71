import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from torch import Tensor

from dat.augment.style import (
    DECODER,
    ENCODER,
    FLOOR,
    AdaIN,
    adain,
    bands,
    load_adain,
    match_colours,
    mean_and_deviation,
    statistics_style,
)
from dat.errors import CheckpointError, UsageError

Golden = Callable[[str], Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(golden: Golden) -> Path:
    return golden("adain_debiased")


@pytest.fixture
def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "io.safetensors")


@pytest.fixture
def network(folder: Path) -> AdaIN:
    return load_adain(folder / "vgg.safetensors", folder / "decoder.safetensors")


def images_of(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth colours with noise, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth + 0.1 * torch.randn(count, 3, height, width, generator=generator)).clamp(0, 1)


@pytest.mark.shared
def test_adain_is_the_original(tensors: dict[str, Tensor]) -> None:
    mean, deviation = mean_and_deviation(tensors["content"])
    torch.testing.assert_close(mean, tensors["content_mean"], atol=1e-6, rtol=0)
    torch.testing.assert_close(deviation, tensors["content_std"], atol=1e-6, rtol=0)
    torch.testing.assert_close(adain(tensors["content"], tensors["style"]), tensors["adain"], atol=1e-5, rtol=0)


@pytest.mark.shared
@pytest.mark.parametrize("alpha", [0.5, 0.7])
def test_stylised_images_are_the_original_s(network: AdaIN, tensors: dict[str, Tensor], alpha: float) -> None:
    images = tensors["x"]
    torch.testing.assert_close(network.encoder(images), tensors["relu4_1"], atol=1e-5, rtol=1e-5)
    stylised = network(images, images[tensors["permutation"]], alpha=alpha)
    torch.testing.assert_close(stylised, tensors[f"stylised_alpha0_{round(10 * alpha)}"], atol=1e-4, rtol=0)
    assert not any(part.requires_grad for part in network.parameters())


@pytest.mark.shared
def test_layers_are_those_of_the_public_files(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    letters = {"Conv2d": "c", "ReflectionPad2d": "p", "ReLU": "r", "MaxPool2d": "m", "Upsample": "u"}
    for plan, name in ((ENCODER, "vgg"), (DECODER, "decoder")):
        assert plan == "".join(letters[layer.split("(")[0]] for layer in config[name])


@pytest.mark.shared
def test_any_size_is_kept(network: AdaIN) -> None:
    images = images_of(2, 9, 21)
    assert network(images, images.flip(0)).shape == images.shape
    with pytest.raises(UsageError, match="8 x 21 pixels"):
        network(images[..., :8, :], images[..., :8, :])


@pytest.mark.shared
def test_what_follows_relu4_1_in_the_public_file_is_left_out(folder: Path, tmp_path: Path) -> None:
    longer = load_file(folder / "vgg.safetensors") | {"32.weight": torch.zeros(16, 16, 3, 3), "32.bias": torch.zeros(16)}
    save_file(longer, tmp_path / "vgg.safetensors")
    assert len(load_adain(tmp_path / "vgg.safetensors", folder / "decoder.safetensors").encoder) == len(ENCODER) == 31


@pytest.mark.shared
def test_wrong_files_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    vgg, decoder = folder / "vgg.safetensors", folder / "decoder.safetensors"
    with pytest.raises(CheckpointError, match="no weight file"):
        load_adain(tmp_path / "absent.pth", decoder)
    with pytest.raises(CheckpointError, match=r"decoder.safetensors has no convolution 0\.weight.*vgg_normalised"):
        load_adain(decoder, decoder)
    save_file({**load_file(vgg), "extra": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match="extra"):
        load_adain(tmp_path / "more.safetensors", decoder)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (7, 33), (1, 5)])
def test_bands_add_up_to_the_images(shape: tuple[int, int]) -> None:
    images = images_of(2, *shape)
    parts = list(bands(images))
    assert len(parts) == (7 if min(shape) == 32 else 4)
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), images, atol=1e-5, rtol=0)


def test_bands_tell_directions_and_scales_apart() -> None:
    coordinate = torch.arange(32.0)
    stripes = 0.5 + 0.5 * torch.cos(torch.pi * coordinate).expand(1, 3, 32, 32)  # change from column to column
    energies = [part[..., 8:24, 8:24].square().mean().item() for part in bands(stripes)]
    assert energies.index(max(energies[:-1])) == 1  # finest scale, blurred along the columns only
    slow = 0.5 + 0.5 * torch.cos(torch.pi * coordinate / 4).expand(1, 3, 32, 32)
    energies = [part[..., 8:24, 8:24].square().mean().item() for part in bands(slow)]
    assert energies.index(max(energies[:-1])) == 4


def test_colours_are_matched_as_scipy_would() -> None:
    content, style = images_of(2, 12, 10), images_of(2, 12, 10, seed=1)
    matched = match_colours(content, style)
    for ours, theirs, result in zip(content.double(), style.double(), matched, strict=True):
        pixels, other = ours.flatten(1).numpy(), theirs.flatten(1).numpy()
        a, b = (np.cov(colours, ddof=0) + FLOOR * np.eye(3) for colours in (pixels, other))
        root = sqrtm(a)
        linear = np.linalg.inv(root) @ sqrtm(root @ b @ root) @ np.linalg.inv(root)
        expected = linear @ (pixels - pixels.mean(1, keepdims=True)) + other.mean(1, keepdims=True)
        np.testing.assert_allclose(result.flatten(1).numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(np.cov(result.flatten(1).numpy(), ddof=0), b, atol=3e-5)


def test_alpha_goes_from_the_images_to_all_of_the_style() -> None:
    content, style = images_of(3, 32, 32), images_of(3, 32, 32, seed=1)
    assert torch.equal(statistics_style(content, style, alpha=0.0), content)
    torch.testing.assert_close(statistics_style(content, content, alpha=1.0), content, atol=1e-4, rtol=0)
    mixed = [statistics_style(content, style, alpha=alpha) for alpha in (0.0, 0.5, 1.0)]
    distances = [(images.mean((2, 3)) - style.mean((2, 3))).abs().mean().item() for images in mixed]
    assert distances[0] > 1.5 * distances[1] > 3 * distances[2]


def test_texture_takes_the_strength_of_the_style_and_shape_stays() -> None:
    smooth = torch.linspace(0.2, 0.8, 32).expand(3, 32, 32)
    faint, strong = (
        (smooth + strength * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(seed)))[None]
        for seed, strength in ((0, 0.03), (1, 0.09))
    )
    stylised = statistics_style(faint, strong, alpha=1.0)
    finest, theirs = (next(iter(bands(images))).std().item() for images in (stylised, strong))
    assert finest == pytest.approx(theirs, rel=0.15)
    columns = stylised.mean(dim=(0, 1, 2))
    assert torch.corrcoef(torch.stack([columns, smooth[0, 0]]))[0, 1] > 0.95


@pytest.mark.parametrize("content", [torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.5), images_of(2, 16, 16)])
def test_flat_images_stay_finite_and_in_range(content: Tensor) -> None:
    for style in (torch.ones(2, 3, 16, 16), torch.zeros(2, 3, 16, 16), images_of(2, 16, 16, seed=1)):
        stylised = statistics_style(content, style, alpha=1.0)
        assert stylised.isfinite().all()
        assert stylised.min() >= 0
        assert stylised.max() <= 1


def test_images_do_not_see_each_other_but_through_their_style() -> None:
    content, style = images_of(4, 16, 16), images_of(4, 16, 16, seed=1)
    torch.testing.assert_close(
        statistics_style(content, style)[:2], statistics_style(content[:2], style[:2]), atol=1e-6, rtol=0
    )
