"""SimVQ against numbers of its published code (youngsheen/SimVQ, d8bd94d), with weights by a formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dat.discretizers.networks.magvit2 import MAGVIT2Config
from dat.discretizers.networks.simvq import SimVQ, SimVQConfig
from dat.discretizers.pretrained import convert, load_discretizer
from dat.errors import CheckpointError, UsageError
from tests.discretizers.networks.waves import filled, picture

TINY = SimVQConfig(32, MAGVIT2Config(z_channels=4, ch=32, ch_mult=(1, 2, 2), num_res_blocks=1))
PUBLIC: dict[str, Any] = {
    "ddconfig": {"double_z": False, "z_channels": 4, "resolution": 128, "in_channels": 3, "out_ch": 3, "ch": 32}
    | {"ch_mult": [1, 2, 2], "num_res_blocks": 1},
    "quantconfig": {"target": "SimVQ", "params": {"n_e": 32, "e_dim": 4, "beta": 0.25, "legacy": False}},
    "lossconfig": {},
    "learning_rate": 1e-4,
    "scheduler_type": "None",
    "use_ema": True,
}
CODES = """14 5 15 22 23 6 6 16 14 7 24 7 14 24 15 7 14 24 6 23 16 23 4 7 6 23 4 6 23 23 14 14 10 23 14 7 5 23 23 15 15 23 14
8 6 4 23 26"""
PIXELS = [0.300439, 0.286108, 0.479995, 0.819514, 0.544833, 0.179267, 0.089011, 0.495144, 0.236946, 0.0]


def public_tensors() -> dict[str, Tensor]:
    shapes = {key: value.shape for key, value in SimVQ(TINY).state_dict().items()}
    linear = {"quantize.embedding_proj.weight": torch.Size([4, 4]), "quantize.embedding_proj.bias": torch.Size([4])}
    return filled(shapes | linear)


@pytest.mark.parametrize("config", [None, PUBLIC])
def test_codes_and_pixels_are_those_of_the_published_code(tmp_path: Path, config: dict[str, Any] | None) -> None:
    save_file(public_tensors(), tmp_path / "q.safetensors")
    frozen = load_discretizer(tmp_path / "q.safetensors", config)
    assert frozen.encode(picture(32, 24)).flatten().tolist() == [int(code) for code in CODES.split()]
    torch.testing.assert_close(frozen(picture(32, 24)).flatten()[::233], torch.tensor(PIXELS), atol=5e-6, rtol=0)


def test_converted_it_holds_its_codebook_and_gives_the_same(tmp_path: Path) -> None:
    save_file(public_tensors(), tmp_path / "q.safetensors")
    own = convert(tmp_path / "q.safetensors", tmp_path / "own.safetensors")
    assert not any("embedding_proj" in key for key in load_file(own))
    images = torch.rand(1, 3, 9, 14)
    assert torch.equal(load_discretizer(own)(images), load_discretizer(tmp_path / "q.safetensors")(images))


def test_running_means_are_taken_and_the_fixed_vectors_have_none(tmp_path: Path) -> None:
    raw = public_tensors()
    means = {key: value * 1.1 for key, value in raw.items() if key != "quantize.embedding.weight"}
    averages = {f"model_ema.{key.replace('.', '')}": value for key, value in means.items()}
    torch.save({"state_dict": {**raw, **averages, "model_ema.decay": torch.tensor(0.999)}}, tmp_path / "q.ckpt")
    save_file({**raw, **means}, tmp_path / "means.safetensors")
    save_file(raw, tmp_path / "raw.safetensors")
    expected = {name: load_discretizer(tmp_path / f"{name}.safetensors").latents(picture(8, 8)) for name in ("means", "raw")}
    assert torch.equal(load_discretizer(tmp_path / "q.ckpt").latents(picture(8, 8)), expected["means"])
    raws = load_discretizer(tmp_path / "q.ckpt", {**PUBLIC, "use_ema": False}).latents(picture(8, 8))
    assert torch.equal(raws, expected["raw"])


def test_what_is_no_simvq_is_said(tmp_path: Path) -> None:
    tensors = public_tensors()
    save_file({**tensors, "quantize.embedding_proj.weight": torch.zeros(4, 3)}, tmp_path / "q.safetensors")
    with pytest.raises(CheckpointError, match="no SimVQ: its tensors have the names"):
        load_discretizer(tmp_path / "q.safetensors")
    save_file({key: value for key, value in tensors.items() if not key.endswith("proj.bias")}, tmp_path / "p.safetensors")
    with pytest.raises(CheckpointError, match=r"it lacks the tensor 'quantize\.embedding_proj\.bias'"):
        load_discretizer(tmp_path / "p.safetensors")
    other = {**PUBLIC, "quantconfig": {"params": {"n_e": 32, "e_dim": 8}}}
    with pytest.raises(UsageError, match=r"e_dim=4 channels \(z_channels\)"):
        SimVQConfig.from_dict(other)
    with pytest.raises(UsageError, match="has 'ddconfig' and 'quantconfig'"):
        SimVQConfig.from_dict({"ddconfig": PUBLIC["ddconfig"]})
    assert SimVQConfig.from_dict(TINY.to_dict()) == TINY
