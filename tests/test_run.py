"""From recipes to discretizers: trained, distilled, loaded again, each with a page and with what it was made of."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dat import recipe as recipes
from dat import run
from dat.discretizers.pretrained import load_discretizer, read_extra
from dat.errors import CheckpointError, UsageError
from dat.nn.imagenet_networks import tiny_darknet
from dat.nn.weights import file_sha256

DIGITS = {"source": "digits", "augment": {"kind": "none"}}
TRAINED: dict[str, Any] = {
    "kind": "discretizer",
    "title": "tiny",
    "data": DIGITS,
    "network": {
        "n_embed": 16,
        "embed_dim": 4,
        "z_channels": 4,
        "ch": 32,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "attn_type": "none",
    },
    "objective": {"perceptual_weight": 0.1, "disc_factor": 0.0},
    "training": {"epochs": 1, "batch_size": 449, "lr": 0.001, "disc_layers": 0, "codebook_update": "ema"},
}


@pytest.fixture(scope="module")
def darknet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny_darknet.safetensors"
    safetensors.torch.save_file(tiny_darknet().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def teacher(darknet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = {"network": "tiny_darknet", "weights": str(darknet)}
    out = tmp_path_factory.mktemp("runs") / "teacher"
    return run.run(
        recipes.parse({**TRAINED, "perceptual": {"kind": "features", **network}, "frechet": network, "out": str(out)}), cpu=True
    )


def test_a_trained_discretizer_tells_its_quality_and_what_its_distance_was_read_from(teacher: Path, darknet: Path) -> None:
    extra = read_extra(teacher)
    assert extra["perceptual"]["weights"] == f"tiny_darknet.safetensors sha256:{file_sha256(darknet)}"
    assert extra["frechet"]["network"] == "tiny_darknet"
    assert {"psnr_db", "ssim", "codes_used", "tiny_darknet_distance", "frechet_tiny_darknet"} <= set(extra["quality"])
    assert (teacher / "report.html").is_file()
    assert load_discretizer(teacher).codebook_size == 16


def test_a_student_is_distilled_from_a_file(teacher: Path, tmp_path: Path) -> None:
    recipe = {
        "kind": "distillation",
        "title": "fast",
        "data": DIGITS,
        "out": str(tmp_path / "student"),
        "teacher": {"load": str(teacher)},
        "student": {"encoder_blocks": 1, "decoder_blocks": 1},
        "training": {"epochs": 1, "batch_size": 449},
    }
    folder = run.run(recipes.parse(recipe), cpu=True)
    quality = read_extra(folder)["quality"]
    assert quality["flops_ratio"] <= 0.02
    assert 0 <= quality["code_agreement"] <= 1
    assert read_extra(folder)["teacher"]["sha256"] == file_sha256(teacher / "discretizer.safetensors")
    assert json.loads((folder / "run.json").read_text())["distillation"]["time_ratio"] > 0
    assert "share of codes equal to the teacher" in (folder / "report.html").read_text()
    images = torch.rand(2, 3, 9, 8)
    assert load_discretizer(folder)(images).shape == images.shape


def test_a_perceptual_weight_of_a_distillation_needs_a_distance() -> None:
    with pytest.raises(UsageError, match=r"perceptual_weight is 0\.5"):
        recipes.load("discretizer/distil-cifar-f4", ["training.perceptual_weight=0.5"])


def test_weights_that_are_not_there_stop_a_run_before_it_begins(tmp_path: Path) -> None:
    section = {"kind": "features", "network": "tiny_darknet", "weights": str(tmp_path / "nowhere.safetensors")}
    recipe = recipes.parse({**TRAINED, "perceptual": section, "out": str(tmp_path / "run")})
    with pytest.raises(CheckpointError, match="multiscale-gradient"):
        run.run(recipe, cpu=True)
    assert not (tmp_path / "run").exists()
