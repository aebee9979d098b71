import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.dalle import BestScore, DalleConfig, DalleDVAE, build_dalle, infer_config
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError, DivergenceError, UsageError

Golden = Callable[[str], Path]
TINY = DalleConfig(n_hid=8, n_blk_per_group=2, vocab_size=24, n_init=6, group_count=3)
PUBLIC_ENCODER, PUBLIC_DECODER = "weights_encoder.safetensors", "weights_decoder.safetensors"


@pytest.fixture
def network() -> DalleDVAE:
    torch.manual_seed(0)
    network = DalleDVAE(TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def halves(network: DalleDVAE) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of the two public files."""
    tensors = {key.replace("quantize.", "decoder.blocks.input."): value for key, value in network.state_dict().items()}
    return {
        half: {key.removeprefix(f"{half}."): value for key, value in tensors.items() if key.startswith(half)}
        for half in ("encoder", "decoder")
    }


def write_halves(folder: Path, network: DalleDVAE, encoder: str, decoder: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, tensors in zip((encoder, decoder), halves(network).values(), strict=True):
        torch.save(tensors, folder / name)


@pytest.mark.shared
@pytest.mark.parametrize("source", ["", PUBLIC_ENCODER, PUBLIC_DECODER])
@pytest.mark.parametrize("with_config", [True, False])
def test_public_weights_give_the_original_codes_and_images(golden: Golden, source: str, with_config: bool) -> None:
    folder = golden("dalle_dvae")
    io, config = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())["config"]
    loaded = load_discretizer(folder / source, config if with_config else None)
    assert torch.equal(loaded.encode(io["x"]), io["codes"])
    torch.testing.assert_close(loaded.latents(io["x"]), io["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    assert loaded.network.config == DalleConfig(**config)
    assert (loaded.stride, loaded.codebook_size) == (8, 36)


def test_the_public_size_is_the_default() -> None:
    with torch.device("meta"):
        network = DalleDVAE(DalleConfig())
    assert (network.stride, network.codebook_size) == (8, 8192)
    assert network.state_dict()["decoder.blocks.group_1.block_1.id_path.w"].shape == (2048, 128, 1, 1)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(97.6e6, rel=1e-3)


def test_a_code_is_looked_up_as_a_convolution_of_its_one_hot_gives_it(network: DalleDVAE) -> None:
    codes = torch.randint(24, (2, 3, 5))
    one_hot = F.one_hot(codes, 24).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(
        network.quantize.decode(codes),
        F.conv2d(one_hot, network.quantize.get_parameter("w"), network.quantize.get_parameter("b")),
    )


def test_ties_go_to_the_lowest_code_and_scores_must_be_numbers() -> None:
    scores = torch.zeros(1, 5, 1, 2)
    scores[0, [2, 4], 0, 1] = 1.0
    assert BestScore(5, 3).encode(scores).tolist() == [[[0, 2]]]
    for value in (torch.nan, torch.inf):
        scores[0, 3, 0, 0] = value
        with pytest.raises(DivergenceError, match="NaN or infinite"):
            BestScore(5, 3).encode(scores)


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (12, 8)])
def test_any_size_comes_back(network: DalleDVAE, size: tuple[int, int]) -> None:
    frozen, images = FrozenDiscretizer(network), torch.rand(2, 3, *size)
    assert frozen(images).shape == images.shape
    assert frozen.encode(images).shape == (2, -(-size[0] // 4), -(-size[1] // 4))


def test_low_precision_leaves_the_vectors_of_the_codes(network: DalleDVAE) -> None:
    frozen = FrozenDiscretizer(network, precision=torch.bfloat16)
    assert frozen.network.encoder.get_parameter("blocks.input.w").dtype == torch.bfloat16
    assert torch.equal(frozen.network.quantize.get_parameter("w"), network.quantize.get_parameter("w"))


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [("encoder.pkl", "decoder.pkl"), ("v2_Encoder.pth", "the_decoder.pt"), ("dvae-encoder.x", "dvae-decoder.x")],
)
def test_two_files_are_one_network(tmp_path: Path, network: DalleDVAE, encoder: str, decoder: str) -> None:
    write_halves(tmp_path, network, encoder, decoder)
    images = torch.rand(1, 3, 8, 8)
    for source in (tmp_path, tmp_path / encoder, tmp_path / decoder):
        loaded = load_discretizer(source)
        assert loaded.network.config == TINY
        assert torch.equal(loaded(images), FrozenDiscretizer(network)(images))


def test_of_many_files_the_one_of_the_same_name_is_the_other_half(tmp_path: Path, network: DalleDVAE) -> None:
    write_halves(tmp_path, network, "a-encoder.pkl", "a-decoder.pkl")
    write_halves(tmp_path, network, "b-encoder.pkl", "b-decoder.pkl")
    assert load_discretizer(tmp_path / "b-decoder.pkl").network.config == TINY
    with pytest.raises(CheckpointError, match=r"discretizer\.safetensors"):
        load_discretizer(tmp_path)


def test_one_half_is_not_enough(tmp_path: Path, network: DalleDVAE) -> None:
    write_halves(tmp_path, network, "encoder.pkl", "decoder.pkl")
    (tmp_path / "encoder.pkl").rename(tmp_path / "first.pkl")
    for name in ("first.pkl", "decoder.pkl"):
        with pytest.raises(CheckpointError, match=r"one half of a dVAE; put the other beside it, as encoder\.pkl"):
            load_discretizer(tmp_path / name)
    safetensors.torch.save_file({"fc": torch.zeros(1)}, tmp_path / "encoder.pkl")
    with pytest.raises(CheckpointError, match="one half"):
        load_discretizer(tmp_path / "decoder.pkl")


def test_our_own_format_is_one_file(tmp_path: Path, network: DalleDVAE) -> None:
    loaded = load_discretizer(save_discretizer(tmp_path, network))
    images = torch.rand(1, 3, 8, 8)
    assert loaded.network.config == TINY
    assert torch.equal(loaded(images), FrozenDiscretizer(network)(images))
    assert torch.equal(loaded.encode(images), FrozenDiscretizer(network).encode(images))


def joined(network: DalleDVAE) -> dict[str, torch.Tensor]:
    return {f"{half}.{key}": value for half, tensors in halves(network).items() for key, value in tensors.items()}


def test_the_shape_is_read_off_the_tensors(network: DalleDVAE) -> None:
    assert infer_config(joined(network), "file") == TINY


def test_wrong_tensors_are_named(network: DalleDVAE) -> None:
    tensors = joined(network)
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'encoder\.blocks\.output\.conv\.w'"):
        build_dalle({key: value for key, value in tensors.items() if "output" not in key}, None, "file")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(decoder\.extra\)"):
        build_dalle({**tensors, "decoder.extra": torch.zeros(1)}, None, "file")
    with pytest.raises(CheckpointError, match=r"1 missing \(decoder\.blocks\.output\.conv\.b\)"):
        build_dalle({key: value for key, value in tensors.items() if key != "decoder.blocks.output.conv.b"}, None, "file")
    with pytest.raises(CheckpointError, match="of another shape"):
        build_dalle(tensors, replace(TINY, vocab_size=25).to_dict(), "file")


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"n_hid": 6}, "multiple of 4"), ({"n_init": 0}, "n_init is 0"), ({"groups": 4}, "groups"), ({"vocab_size": 1.5}, "1.5")],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        DalleConfig.from_dict(settings)
