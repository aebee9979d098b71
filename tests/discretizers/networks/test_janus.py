"""The tokenizer of Janus against transformers' own, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dat.discretizers.networks.janus import Janus, JanusConfig
from dat.discretizers.pretrained import convert, load_discretizer, weight_files
from dat.errors import CheckpointError, UsageError

transformers: Any = pytest.importorskip(
    "transformers", reason="an optional extra: pip install 'discrete-adversarial-training[transformers]'"
)
SIZES = {
    "base_channels": 32,
    "channel_multiplier": (1, 2, 2),
    "num_res_blocks": 1,
    "latent_channels": 6,
    "embed_dim": 4,
    "num_embeddings": 32,
    "num_patches": 8,
}
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.fixture(scope="module")
def original() -> Any:
    torch.manual_seed(0)
    network = transformers.JanusVQVAE(transformers.JanusVQVAEConfig(**SIZES)).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():  # codes that the network comes near to, of other lengths than 1
        vectors = network.quant_conv(network.encoder(images)).flatten(2)[0].T
        network.quantize.embedding.weight.copy_(vectors[torch.randperm(64)[:32]])
    return network


@pytest.fixture
def folder(original: Any, tmp_path: Path) -> Path:
    original.save_pretrained(tmp_path / "janus")
    (tmp_path / "janus" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD, "do_resize": True})
    )
    return tmp_path / "janus"


def test_codes_and_pictures_are_the_librarys(original: Any, folder: Path) -> None:
    images, frozen = torch.rand(2, 3, 32, 32), load_discretizer(folder)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        codes = original.encode((images - mean) / std).image_tokens.view(2, 8, 8)
        decoded = (original.decode(codes.flatten(1)) * std + mean).clamp(0, 1)
    assert len(codes.unique()) > 16
    assert torch.equal(frozen.encode(images), codes)
    torch.testing.assert_close(frozen.decode(codes), decoded, atol=2e-6, rtol=0)
    assert frozen(torch.rand(1, 3, 13, 30)).shape == (1, 3, 13, 30)


def test_converted_it_gives_the_same(folder: Path, tmp_path: Path) -> None:
    frozen, own = load_discretizer(folder), load_discretizer(convert(folder, tmp_path / "own.safetensors"))
    assert isinstance(own.network, Janus)
    assert own.network.config == frozen.network.config
    images = torch.rand(1, 3, 16, 20)
    assert torch.equal(own(images), frozen(images))
    assert [file.name for file in weight_files(folder)] == ["model.safetensors", "config.json", "preprocessor_config.json"]


def test_a_range_of_pixels_is_never_guessed(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"Nothing tells the range of pixels .* preprocessor_config\.json"):
        load_discretizer(folder)
    told = {**json.loads((folder / "config.json").read_text()), "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert load_discretizer(folder, told).network.config == JanusConfig((0.5,) * 3, (0.5,) * 3, **_without_patches())
    with pytest.raises(UsageError, match="a number for each of 3 channels"):
        load_discretizer(folder, {**told, "image_std": [0.5, 0.5]})
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks|missing"):
        load_discretizer(folder)


def _without_patches() -> dict[str, Any]:
    return {key: value for key, value in SIZES.items() if key != "num_patches"}


def test_chameleon_and_a_whole_janus_are_no_discretizers(tmp_path: Path) -> None:
    config = transformers.ChameleonVQVAEConfig(base_channels=32, channel_multiplier=[1, 1], num_embeddings=8, embed_dim=4)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    with pytest.raises(UsageError, match="no decoder that makes pictures of codes"):
        load_discretizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "janus", "vq_config": {}}))
    with pytest.raises(UsageError, match="save its tokenizer alone"):
        load_discretizer(tmp_path)
