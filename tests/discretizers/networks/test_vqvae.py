import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqvae import VQVAE, VQVAEConfig, build_vqvae
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError, UsageError

TINY = VQVAEConfig(num_embeddings=12, embedding_dim=5, num_hiddens=8, num_residual_layers=3, num_residual_hiddens=4)


@pytest.fixture
def network() -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(TINY)


def public(network: VQVAE) -> dict[str, torch.Tensor]:
    return {key.replace("quantize.embedding", "vq_vae.codebook"): value for key, value in network.state_dict().items()}


@pytest.fixture
def trained(shared_data: Path, tmp_path: Path) -> FrozenDiscretizer:
    with zipfile.ZipFile(shared_data / "weights.zip") as pack:
        return load_discretizer(pack.extract("vqvae_f4_k512.safetensors", tmp_path))


def pictures(pack: zipfile.ZipFile, count: int) -> torch.Tensor:
    """Square pictures in the middle, 256 px, of classes far from each other."""
    names = sorted(name for name in pack.namelist() if name.endswith(".jpg"))
    cut = []
    for name in names[:: len(names) // count][:count]:
        picture = Image.open(io.BytesIO(pack.read(name))).convert("RGB")
        left, top = (picture.width - 256) // 2, (picture.height - 256) // 2
        cut.append(np.asarray(picture.crop((left, top, left + 256, top + 256))))
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 255


@pytest.mark.shared
def test_the_trained_one_restores_photographs(shared_data: Path, trained: FrozenDiscretizer) -> None:
    with zipfile.ZipFile(shared_data / "imagenet_sample1000_256.zip") as pack:
        images = pictures(pack, 16)
    errors = torch.cat([(trained(part) - part).square().mean(dim=(1, 2, 3)) for part in images.split(4)])
    # 25.9 dB on average over 250 of the pictures, whose values spread by 3 dB; the next best reading of its layers gives 18.6.
    assert (-10 * errors.log10()).mean().item() == pytest.approx(26.88, abs=0.05)


@pytest.mark.shared
def test_the_trained_one_tells_its_shape(trained: FrozenDiscretizer) -> None:
    assert trained.network.config == VQVAEConfig()
    assert (trained.stride, trained.codebook_size) == (4, 512)


def test_a_layer_adds_to_what_its_relu_gave(network: VQVAE) -> None:
    layer = network.get_submodule("encoder._blocks.residual.residual_blocks.residual_0")
    torch.nn.init.zeros_(layer.get_parameter("_block.conv_2.weight"))
    features = torch.randn(1, 8, 2, 2)
    assert torch.equal(layer(features), features.relu())


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (12, 8)])
def test_any_size_comes_back(network: VQVAE, size: tuple[int, int]) -> None:
    frozen, images = FrozenDiscretizer(network), torch.rand(2, 3, *size)
    assert frozen(images).shape == images.shape
    assert frozen.encode(images).shape == (2, -(-size[0] // 4), -(-size[1] // 4))


@pytest.mark.parametrize("own", [True, False])
def test_tensors_and_settings_survive_a_round_trip(tmp_path: Path, network: VQVAE, own: bool) -> None:
    path = tmp_path / "q.safetensors"
    if own:
        save_discretizer(path, network)
    else:
        safetensors.torch.save_file(public(network), path)
    loaded, images = load_discretizer(path), torch.rand(1, 3, 8, 8)
    assert loaded.network.config == TINY
    assert torch.equal(loaded(images), FrozenDiscretizer(network)(images))


def test_wrong_tensors_are_named(network: VQVAE) -> None:
    tensors = public(network)
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'encoder\._blocks\.conv_3\.weight'"):
        build_vqvae({key: value for key, value in tensors.items() if "encoder._blocks.conv_3" not in key}, None, "file")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(extra\)"):
        build_vqvae({**tensors, "extra": torch.zeros(1)}, None, "file")
    with pytest.raises(CheckpointError, match=r"1 missing \(pre_vq_conv\.bias\)"):
        build_vqvae({key: value for key, value in tensors.items() if key != "pre_vq_conv.bias"}, None, "file")
    with pytest.raises(CheckpointError, match="of another shape"):
        build_vqvae(tensors, replace(TINY, num_embeddings=13).to_dict(), "file")


@pytest.mark.parametrize(
    ("settings", "said"), [({"num_hiddens": 7}, "even"), ({"embedding_dim": 0}, "embedding_dim is 0"), ({"depth": 4}, "depth")]
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        VQVAEConfig.from_dict(settings)
