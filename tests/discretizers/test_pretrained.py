import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.taming import infer_config
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import load_discretizer, read_extra, save_discretizer
from dat.errors import CheckpointError, UsageError

Golden = Callable[[str], Path]
ITEMS = ["ldm_vq_f8", "ldm_vq_noattn", "taming_vqmodel"]
TINY = VQGANConfig(
    n_embed=16, embed_dim=3, z_channels=5, ch=32, ch_mult=(1, 2), num_res_blocks=1, resolution=256, attn_resolutions=(128,)
)


@pytest.fixture
def network() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(TINY)


def network_of(frozen: FrozenDiscretizer) -> VQGAN:
    assert isinstance(frozen.network, VQGAN)
    return frozen.network


def tamings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["config"]


@pytest.mark.shared
@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("with_config", [True, False])
def test_public_weights_load_with_and_without_their_configuration(golden: Golden, item: str, with_config: bool) -> None:
    folder = golden(item)
    io, config = load_file(folder / "io.safetensors"), tamings(folder)
    frozen = load_discretizer(folder / "weights.safetensors", config if with_config else None)
    assert torch.equal(frozen.encode(io["x"]), io["codes"])
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    public = VQGANConfig.from_dict(config)
    inferred = network_of(frozen).config
    assert [public.has_attention(level) for level in range(4)] == [inferred.has_attention(level) for level in range(4)]


@pytest.mark.shared
def test_a_lightning_checkpoint_loads_without_its_loss(golden: Golden) -> None:
    folder = golden("ldm_vq_noattn")
    io, frozen = load_file(folder / "io.safetensors"), load_discretizer(str(folder / "weights.ckpt"))
    assert torch.equal(frozen.encode(io["x"]), io["codes"])


@pytest.mark.shared
def test_foreign_objects_are_not_restored(golden: Golden) -> None:
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'encoder\.conv_out\.weight'"):  # it holds four tensors only
        load_discretizer(golden("lightning_foreign_ckpt") / "foreign.ckpt")
    assert not {"omegaconf", "pytorch_lightning"} & sys.modules.keys()


class _Attack:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("executed",))


def test_no_code_of_a_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: VQGAN) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": network.state_dict(), "callback": _Attack()}, "zip.ckpt")
    torch.save({"state_dict": network.state_dict(), "c": _Attack()}, "old.ckpt", _use_new_zipfile_serialization=False)
    Path("bare.pkl").write_bytes(pickle.dumps(_Attack()))
    assert load_discretizer("zip.ckpt").network.config == load_discretizer("old.ckpt").network.config == TINY
    with pytest.raises(CheckpointError, match=r"bare\.pkl"):
        load_discretizer("bare.pkl")
    assert not Path("executed").exists()


@pytest.mark.parametrize("as_folder", [True, False])
def test_our_own_format_survives_a_round_trip(tmp_path: Path, network: VQGAN, as_folder: bool) -> None:
    target = tmp_path / "run" if as_folder else tmp_path / "q.safetensors"
    written = save_discretizer(target, network, {"steps": 3})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [written]
    loaded, images = load_discretizer(target), torch.rand(2, 3, 8, 8)
    assert loaded.network.config == TINY
    assert read_extra(target) == {"steps": 3}
    assert torch.equal(loaded(images), FrozenDiscretizer(network)(images))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.network.state_dict().items())


@pytest.mark.parametrize("prefix", ["loss.discriminator.main.0.weight", "model_ema.decay"])
def test_keys_beside_the_network_are_dropped(tmp_path: Path, network: VQGAN, prefix: str) -> None:
    torch.save({"state_dict": {**network.state_dict(), prefix: torch.zeros(2)}, "epoch": 3}, tmp_path / "q.ckpt")
    assert load_discretizer(tmp_path / "q.ckpt").network.config == TINY


@pytest.mark.parametrize(
    ("dtype", "networks", "codebook"),
    [
        (None, torch.float32, torch.float32),
        (torch.float64, torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float16, torch.float32),
    ],
)
def test_dtype_is_of_the_networks(
    tmp_path: Path, network: VQGAN, dtype: torch.dtype | None, networks: torch.dtype, codebook: torch.dtype
) -> None:
    loaded = network_of(load_discretizer(save_discretizer(tmp_path, network), dtype=dtype))
    assert loaded.quant_conv.weight.dtype == networks
    assert next(loaded.encoder.parameters()).dtype == networks
    assert loaded.quantize.get_parameter("embedding.weight").dtype == codebook


def test_an_exact_copy_computes_in_float32_with_the_weights_as_they_are(tmp_path: Path, network: VQGAN) -> None:
    path, images = save_discretizer(tmp_path, network), torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    full, low = load_discretizer(path), load_discretizer(path, dtype=torch.bfloat16)
    exact = low.exact()
    assert full.exact() is full
    assert next(low.network.encoder.parameters()).dtype == torch.bfloat16
    assert all(tensor.dtype == torch.float32 for tensor in exact.network.parameters())
    rounded = load_discretizer(path)
    for name in ("encoder", "decoder", "quant_conv", "post_quant_conv"):
        for parameter in rounded.network.get_submodule(name).parameters():
            parameter.data = parameter.data.bfloat16().float()
    torch.testing.assert_close(exact.latents(images), rounded.latents(images))
    assert torch.equal(exact.encode(images), rounded.encode(images))


def test_half_precision_files_become_float32(tmp_path: Path, network: VQGAN) -> None:
    safetensors.torch.save_file(network.half().state_dict(), tmp_path / "half.safetensors")
    assert network_of(load_discretizer(tmp_path / "half.safetensors")).quant_conv.weight.dtype == torch.float32


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_cut_files_are_named_with_their_size(tmp_path: Path, network: VQGAN, suffix: str) -> None:
    whole = _file(tmp_path, network, suffix).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for size in (0, 1, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=rf"cut{suffix} \({size} bytes\) is damaged"):
            load_discretizer(cut)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_flipped_bits_are_noticed(tmp_path: Path, network: VQGAN, suffix: str) -> None:
    whole = _file(tmp_path, network, suffix).read_bytes()
    flipped, noticed = tmp_path / f"flipped{suffix}", 0
    for place in range(5, len(whole), len(whole) // 40):
        content = bytearray(whole)
        content[place] ^= 4
        flipped.write_bytes(content)
        try:
            loaded = load_discretizer(flipped).network.state_dict()
        except CheckpointError as error:
            noticed += 1
            assert str(flipped) in str(error)  # noqa: PT017, as a flip in the padding of a zip file does no harm
        else:
            assert all(torch.equal(value, loaded[key]) for key, value in network.state_dict().items())
    assert noticed >= 38


def _file(folder: Path, network: VQGAN, suffix: str) -> Path:
    if suffix == ".safetensors":
        return save_discretizer(folder / "whole.safetensors", network)
    torch.save({"state_dict": network.state_dict()}, folder / "whole.ckpt")
    return folder / "whole.ckpt"


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>404</html>", b"hello", b"PK\x03\x04nothing", b"\x80\x02}q\x00.", b"\x00" * 64]
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "foreign.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"foreign\.ckpt"):
        load_discretizer(tmp_path / "foreign.ckpt")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weight file at"):
        load_discretizer(tmp_path / "nowhere.ckpt")
    with pytest.raises(CheckpointError, match=r"discretizer\.safetensors"):
        load_discretizer(tmp_path)


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path: Path, network: VQGAN) -> None:
    tensors = network.state_dict()
    del tensors["decoder.norm_out.weight"]
    tensors |= {f"extra.{number}": torch.zeros(1) for number in range(5)} | {"quant_conv.bias": torch.zeros(9)}
    safetensors.torch.save_file(tensors, tmp_path / "q.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_discretizer(tmp_path / "q.safetensors")
    assert r"1 missing (decoder.norm_out.weight)" in str(error.value)
    assert "5 unexpected (extra.0, extra.1, extra.2, ...)" in str(error.value)
    assert "quant_conv.bias (9,) instead of (3,)" in str(error.value)


def test_other_networks_are_refused(tmp_path: Path, network: VQGAN) -> None:
    safetensors.torch.save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "classifier.safetensors")
    with pytest.raises(CheckpointError, match="no discretizer of a known layout"):
        load_discretizer(tmp_path / "classifier.safetensors")
    tensors = network.state_dict()
    del tensors["encoder.conv_in.weight"]
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in\.weight"):
        infer_config(tensors, "file")
    tensors = network.state_dict() | {"encoder.conv_out.weight": torch.zeros(10, 64, 3, 3)}
    with pytest.raises(CheckpointError, match="encodes to 10 and decodes from 5"):
        infer_config(tensors, "file")


def test_only_our_own_format_tells_how_it_was_made(tmp_path: Path, network: VQGAN) -> None:
    safetensors.torch.save_file(network.state_dict(), tmp_path / "q.safetensors")
    with pytest.raises(CheckpointError, match="not written by save_discretizer"):
        read_extra(tmp_path / "q.safetensors")


def test_unknown_dtypes_are_refused(tmp_path: Path, network: VQGAN) -> None:
    with pytest.raises(UsageError, match="int8"):
        load_discretizer(save_discretizer(tmp_path, network), dtype=torch.int8)
