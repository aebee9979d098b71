"""The tokenizer of Emu3 against transformers' own, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dat.discretizers.networks.emu3 import Emu3, Emu3Config
from dat.discretizers.pretrained import convert, load_discretizer
from dat.errors import CheckpointError, UsageError

transformers: Any = pytest.importorskip(
    "transformers", reason="an optional extra: pip install 'discrete-adversarial-training[transformers]'"
)
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
SIZES = {
    "base_channels": 32,
    "channel_multiplier": [1, 2, 2],
    "num_res_blocks": 1,
    "codebook_size": 32,
    "attn_resolutions": [1, 2],
    "hidden_size": 64,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def original() -> Any:
    torch.manual_seed(0)
    network = transformers.Emu3VQVAE(transformers.Emu3VQVAEConfig(**SIZES)).eval()
    with torch.no_grad():
        for module in network.modules():  # statistics of a network that was trained
            if isinstance(module, torch.nn.BatchNorm3d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
        frames = torch.randn(1, 4, 3, 64, 64)
        found = network.quant_conv(network.encoder(frames).permute(0, 2, 1, 3, 4))[0, :, 0].flatten(1).T
        network.quantize.embedding.weight.copy_(found[torch.randperm(len(found))[:32]])
    return network


@pytest.fixture
def folder(original: Any, tmp_path: Path) -> Path:
    original.save_pretrained(tmp_path / "emu3")
    (tmp_path / "emu3" / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return tmp_path / "emu3"


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_codes_and_pictures_are_the_librarys(original: Any, folder: Path, dtype: torch.dtype, near: float) -> None:
    images, frozen = torch.rand(2, 3, 32, 48, dtype=dtype), load_discretizer(folder, dtype=dtype)
    mean, std = (torch.tensor(values, dtype=dtype).view(-1, 1, 1) for values in (MEAN, STD))
    network = transformers.Emu3VQVAE.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        sizes = torch.tensor([[32, 48], [32, 48]])
        codes = torch.stack(network.encode((images - mean) / std, image_sizes=sizes).image_tokens)
        decoded = (network.decode(codes) * std + mean).clamp(0, 1)
    assert len(codes.unique()) > 8
    assert torch.equal(frozen.encode(images), codes)
    torch.testing.assert_close(frozen.decode(codes), decoded, atol=near, rtol=0)
    assert frozen(torch.rand(1, 3, 13, 30)).shape == (1, 3, 13, 30)


def test_converted_it_gives_the_same(folder: Path, tmp_path: Path) -> None:
    frozen, own = load_discretizer(folder), load_discretizer(convert(folder, tmp_path / "own.safetensors"))
    assert isinstance(own.network, Emu3)
    assert own.network.config == frozen.network.config
    images = torch.rand(1, 3, 16, 20)
    assert torch.equal(own(images), frozen(images))


def test_what_does_not_fit_is_one_sentence(folder: Path) -> None:
    config = {"image_mean": MEAN, "image_std": STD, **SIZES}
    for change, said in (
        ({"hidden_size": 128}, r"hidden_size is 128; the levels with attention are \[64\] channels wide"),
        ({"temporal_downsample_factor": 3}, "a power of 2"),
        ({"image_std": (1.0,)}, "a number for each of 3 channels"),
        ({"model_type": "janus_vqgan"}, "not of 'emu3_vqgan'"),
    ):
        with pytest.raises(UsageError, match=said):
            Emu3Config.from_dict(config | change)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match="Nothing tells the range of pixels of this tokenizer of Emu3"):
        load_discretizer(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"give config\.json of Emu3's tokenizer"):
        load_discretizer(folder)
