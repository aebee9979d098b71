"""Folders of diffusers' `VQModel` against the library itself, with random weights; and a training with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import dat
from dat.discretizers import library_folder
from dat.discretizers.networks.diffusers import VQModelConfig
from dat.discretizers.networks.vqgan import VQGAN
from dat.discretizers.pretrained import convert, load_discretizer, read_extra, weight_files
from dat.errors import CheckpointError, UsageError
from dat.nn.weights import file_sha256

diffusers: Any = pytest.importorskip("diffusers", reason="comes with the extra dev")
SIZES = {"layers_per_block": 2, "latent_channels": 5, "num_vq_embeddings": 32, "scaling_factor": 0.5, "sample_size": 64}
PLAIN = SIZES | {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
ATTENTIVE = PLAIN | {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
    "vq_embed_dim": 4,
}
WITHOUT_MIDDLE = PLAIN | {"mid_block_add_attention": False, "lookup_from_codebook": True, "force_upcast": True}


def original(settings: dict[str, Any]) -> Any:
    """An untrained model whose codes are near its own latents, so that many are used."""
    torch.manual_seed(0)
    network = diffusers.VQModel(**settings).eval()
    with torch.no_grad():
        latents = network.encode(torch.rand(1, 3, 64, 64)).latents.flatten(2)[0].T
        network.quantize.embedding.weight.copy_(latents[torch.randperm(len(latents))[:32]])
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    original(ATTENTIVE).save_pretrained(tmp_path / "vqvae")
    return tmp_path / "vqvae"


@pytest.mark.parametrize("settings", [PLAIN, ATTENTIVE, WITHOUT_MIDDLE], ids=["plain", "attention", "none in the middle"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_codes_and_pictures_are_the_librarys(tmp_path: Path, settings: dict[str, Any], dtype: torch.dtype, near: float) -> None:
    network, images = original(settings), torch.rand(2, 3, 32, 48, dtype=dtype)
    network.save_pretrained(tmp_path)
    network, frozen = network.to(dtype), load_discretizer(tmp_path, dtype=dtype)
    with torch.no_grad():
        latents = network.encode(2 * images - 1).latents
        quantized, _, (_, _, codes) = network.quantize(latents)
        shape = (2, 8, 12, quantized.shape[1])
        vectors = codes if network.config.lookup_from_codebook else network.quantize.get_codebook_entry(codes, shape)
        decoded = network.decode(vectors, force_not_quantize=True, shape=shape).sample
    assert len(codes.unique()) > 10
    assert torch.equal(frozen.encode(images), codes.view(2, 8, 12))
    torch.testing.assert_close(frozen.decode(codes.view(2, 8, 12)), (decoded.clamp(-1, 1) + 1) / 2, atol=near, rtol=0)
    assert frozen(torch.rand(1, 3, 31, 31)).shape == (1, 3, 31, 31)


def test_converted_it_is_a_vqgan_of_latent_diffusion(folder: Path, tmp_path: Path) -> None:
    frozen, own = load_discretizer(folder), load_discretizer(convert(folder, tmp_path / "own.safetensors"))
    assert isinstance(own.network, VQGAN)
    assert read_extra(tmp_path / "own.safetensors")["layout"] == "vqgan"
    images = torch.rand(1, 3, 16, 20)
    assert torch.equal(own(images), frozen(images))
    assert [file.name for file in weight_files(folder)] == ["diffusion_pytorch_model.safetensors", "config.json"]


def test_safetensors_go_first_and_of_a_bin_only_tensors_are_read(folder: Path) -> None:
    images, expected = torch.rand(1, 3, 16, 16), load_discretizer(folder)
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    assert torch.equal(load_discretizer(folder)(images), expected(images))
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {_replaced(key, old): value for key, value in tensors.items()}
    torch.save({**renamed, "epoch": _Harmful()}, folder / "diffusion_pytorch_model.bin")
    assert torch.equal(load_discretizer(folder)(images), expected(images))
    assert not Path(folder / "harm").exists()


def _replaced(key: str, words: dict[str, str]) -> str:
    for new, old in words.items():
        key = key.replace(new, old)
    return key


class _Harmful:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code of a file was run')",))


def test_a_missing_tensor_is_an_error_in_the_librarys_words(folder: Path) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["decoder.up_blocks.0.attentions.1.to_q.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"1 missing \(decoder\.up_blocks\.0\.attentions\.1\.to_q\.weight\)"):
        load_discretizer(folder)
    save_file({**tensors, "decoder.up_blocks.0.attentions.1.to_q.weight": torch.zeros(64, 32)}, file)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_discretizer(folder)


def test_a_folder_without_its_configuration_or_weights_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is a pipeline of several models; give the folder of one: .*vqvae\.$"):
        load_discretizer(tmp_path)
    (folder / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"put its config\.json beside it"):
        load_discretizer(folder)
    config = json.loads((tmp_path / "config.json").read_text())
    assert load_discretizer(folder, config).codebook_size == 32
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        load_discretizer(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"holds list, not the keys"):
        load_discretizer(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has a config\.json, but no weights"):
        load_discretizer(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_type": "spatial"}, "norm_type is 'spatial', not 'group'"),
        ({"norm_num_groups": 8}, "norm_num_groups is 8, not 32"),
        ({"act_fn": "relu"}, "act_fn is 'relu', not 'silu'"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "attention is at other levels"),
        ({"down_block_types": ["DownBlock2D"] * 3}, "it has blocks DownBlock2D"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "are not of one length"),
        ({"mid_block_add_attention": False}, "none in the middle"),
        ({"block_out_channels": [64, 96, 128]}, "no multiples of the first"),
        ({"double_z": True}, "Unknown or missing keys .* double_z"),
        ({"_class_name": "AutoencoderKL"}, "AutoencoderKL, which has no codebook"),
    ],
)
def test_another_network_is_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    config = {"_class_name": "VQModel", "_diffusers_version": "0.42.1", **ATTENTIVE, **change}
    with pytest.raises(UsageError, match=said):
        VQModelConfig.from_dict(config).as_vqgan()


def test_an_autoencoder_without_a_codebook_is_named(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(UsageError, match="AutoencoderKL has no codebook; take a VQModel"):
        load_discretizer(folder)


def test_a_configuration_of_no_library_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    assert library_folder.config_beside(tmp_path / "model.safetensors") is None
    assert library_folder.config_beside(tmp_path / "other.safetensors") is None


def test_a_training_with_such_a_folder(folder: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(4):
                pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=generator).numpy()
                Image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
    recipe = {
        "kind": "classification",
        "title": "tiny",
        "data": {"source": "folder", "train": str(tmp_path / "train"), "test": str(tmp_path / "test"), "size": 16},
        "discretizer": {"load": str(folder)},
        "model": {"name": "small_resnet", "options": {"depth": 8, "width": 4}},
        "training": {"epochs": 1, "batch_size": 4, "lr": 0.01},
        "methods": {"dat": {"alpha": 0.5}},
        "evaluation": {"suites": ["clean"]},
        "out": str(tmp_path / "run"),
    }
    run = dat.train(recipe, cpu=True)
    assert (run / "results.jsonl").read_text()
    hashes = json.loads((run / "run.json").read_text())["inputs"]["discretizer.load"].split()
    assert hashes == [file_sha256(file) for file in weight_files(folder)]
