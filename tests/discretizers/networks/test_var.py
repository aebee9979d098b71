"""VAR's tokenizer against numbers of its published code (FoundationVision/VAR, 78b9539), with weights by a formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dat.discretizers.networks.var import VAR, VARConfig
from dat.discretizers.pretrained import convert, load_discretizer
from dat.errors import CheckpointError, UsageError
from tests.discretizers.networks.waves import filled, picture

TINY = VARConfig(32, 4, 32, (1, 2, 2), 1, v_patch_nums=(1, 2, 3, 5, 8))
CODES = """16 30 30 30 1 30 30 30 30 30 30 30 30 14 16 19 19 19 19 6 1 19 19 1 1 19 6 6 1 19 19 6 16 6 16 19
14 14 10 10 31 26 26 31 26 31 8 14 29 1 17 14 6 26 8 24 14 8 6 17 26 6 1 10 21 19 30 29 29 1 6 31
19 30 6 25 14 14 24 26 1 6 1 29 29 31 1 6 22 26 17 16 12 14 29 30 26 26 8 22 12 6 14"""
PIXELS = (
    *(0.506444, 0.364508, 0.033327, 0.10182, 0.482868, 0.326401, 0.0, 0.221982, 0.298867, 0.372247, 0.338482, 0.360839),
    *(0.180215, 0.530643),
)


def public_tensors() -> dict[str, Tensor]:
    """Names of the published file: one tensor for query, key and value, and `quant_resi` for what smooths the scales."""
    shapes: dict[str, torch.Size] = {}
    for key, value in VAR(TINY).state_dict().items():
        if key.split(".")[-2] not in ("q", "k", "v"):
            shapes[key.replace("quantize.smooth.", "quantize.quant_resi.qresi_ls.")] = value.shape
        elif key.split(".")[-2] == "q":
            shapes[key.replace(".q.", ".qkv.")] = torch.Size([3 * len(value), *value.shape[1:]])
    return filled(shapes) | {"quantize.ema_vocab_hit_SV": torch.zeros(5, 32)}


def test_codes_and_pixels_are_those_of_the_published_code(tmp_path: Path) -> None:
    save_file(public_tensors(), tmp_path / "q.safetensors")
    frozen = load_discretizer(tmp_path / "q.safetensors", {"layout": "var", **TINY.to_dict()})
    assert frozen.encode(picture(32, 32)).tolist() == [[int(code) for code in CODES.split()]]
    torch.testing.assert_close(frozen(picture(32, 32)).flatten()[::233], torch.tensor(PIXELS), atol=2e-5, rtol=0)


def test_converted_it_gives_the_same(tmp_path: Path) -> None:
    save_file(public_tensors(), tmp_path / "q.safetensors")
    config = {"layout": "var", **TINY.to_dict()}
    frozen = load_discretizer(tmp_path / "q.safetensors", config)
    own = load_discretizer(convert(tmp_path / "q.safetensors", tmp_path / "own.safetensors", config))
    assert own.network.config == TINY
    assert torch.equal(own(picture(32, 32)), frozen(picture(32, 32)))
    assert torch.equal(own.codebook(), public_tensors()["quantize.embedding.weight"])


def test_the_public_network_is_read_off_its_tensors(tmp_path: Path) -> None:
    save_file(public_tensors(), tmp_path / "q.safetensors")
    network = load_discretizer(tmp_path / "q.safetensors").network
    assert network.config == VARConfig(32, 4, 32, (1, 2, 2), 1)
    assert (network.tokens, network.image_size, network.stride) == (680, 64, 4)


def test_it_takes_one_size_and_its_own_number_of_codes(tmp_path: Path) -> None:
    save_file(public_tensors(), tmp_path / "q.safetensors")
    frozen = load_discretizer(tmp_path / "q.safetensors", TINY.to_dict())
    with pytest.raises(UsageError, match="takes exactly 32 x 32, as 103 codes"):
        frozen(torch.rand(1, 3, 32, 36))
    with pytest.raises(UsageError, match=r"\(batch, 103\)"):
        frozen.decode(torch.zeros(1, 8, 8, dtype=torch.int64))


def test_what_is_no_tokenizer_of_var_is_said(tmp_path: Path) -> None:
    tensors = public_tensors()
    del tensors["quantize.quant_resi.qresi_ls.2.bias"]
    save_file(tensors, tmp_path / "q.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(quantize\.smooth\.2\.bias\)"):
        load_discretizer(tmp_path / "q.safetensors")
    with pytest.raises(UsageError, match="'using_znorm': True"):
        VARConfig.from_dict({"using_znorm": True})
    with pytest.raises(UsageError, match="v_patch_nums grow"):
        VARConfig.from_dict({"v_patch_nums": [2, 1]})
