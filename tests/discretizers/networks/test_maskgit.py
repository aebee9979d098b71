import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.maskgit import MaskGIT, MaskGITConfig, Residual, build_maskgit
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError, UsageError

Golden = Callable[[str], Path]
TINY = MaskGITConfig(hidden_channels=32, channel_mult=(1, 2, 1), num_res_blocks=2, z_channels=6, num_embeddings=24)


@pytest.fixture
def network() -> MaskGIT:
    torch.manual_seed(0)
    return MaskGIT(TINY)


@pytest.mark.shared
@pytest.mark.parametrize("with_config", [True, False])
def test_codes_and_reconstructions_are_the_originals(golden: Golden, with_config: bool) -> None:
    folder = golden("maskgit_vqgan")
    io, config = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())["config"]
    frozen = load_discretizer(folder / "weights.bin", config if with_config else None)
    assert isinstance(frozen.network, MaskGIT)
    assert (frozen.codebook_size, frozen.stride) == (64, 2)
    assert torch.equal(frozen.encode(io["x"]), io["codes"])
    torch.testing.assert_close(frozen.latents(io["x"]), io["z"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen.decode(io["codes"]), io["rec01"], atol=1e-4, rtol=0)


def test_a_new_width_is_a_shortcut_of_the_result() -> None:
    """The golden item has no such block, the public models have."""
    torch.manual_seed(0)
    block, features = Residual(32, 64, 0.0), torch.randn(1, 32, 5, 5)
    assert block.nin_shortcut is not None
    convolved = block.conv1(torch.nn.functional.silu(block.norm1(features)))
    convolved = block.conv2(torch.nn.functional.silu(block.norm2(convolved)))
    mixed = torch.einsum("oi,bihw->bohw", block.nin_shortcut.weight[:, :, 0, 0], convolved)
    torch.testing.assert_close(block(features), convolved + mixed)


def test_our_own_format_survives_a_round_trip(tmp_path: Path, network: MaskGIT) -> None:
    loaded, images = load_discretizer(save_discretizer(tmp_path, network)), torch.rand(2, 3, 8, 12)
    assert isinstance(loaded.network, MaskGIT)
    assert loaded.network.config == MaskGITConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    assert torch.equal(loaded(images), FrozenDiscretizer(network)(images))


def test_everything_is_read_off_the_tensors(network: MaskGIT) -> None:
    assert build_maskgit(network.state_dict(), None, "file").config == TINY


@pytest.mark.parametrize("size", [(5, 9), (17, 6), (1, 1)])
def test_any_image_size(network: MaskGIT, size: tuple[int, int]) -> None:
    frozen, images = FrozenDiscretizer(network), torch.rand(2, 3, *size)
    assert frozen.encode(images).shape == (2, -(-size[0] // 4), -(-size[1] // 4))
    assert frozen(images).shape == images.shape


def test_missing_unexpected_and_misshapen_tensors_are_named(network: MaskGIT) -> None:
    tensors = network.state_dict()
    del tensors["encoder.down.1.block.0.nin_shortcut.weight"]
    tensors |= {"encoder.conv_in.bias": torch.zeros(32), "encoder.conv_out.bias": torch.zeros(9)}
    with pytest.raises(CheckpointError) as error:
        build_maskgit(tensors, None, "file")
    assert "missing (encoder.down.1.block.0.nin_shortcut.weight)" in str(error.value)
    assert "unexpected (encoder.conv_in.bias)" in str(error.value)
    assert "encoder.conv_out.bias (9,) instead of (6,)" in str(error.value)


def test_tensors_that_tell_no_shape(network: MaskGIT) -> None:
    tensors = network.state_dict()
    del tensors["decoder.up.1.block.0.conv1.weight"]
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'decoder\.up\.1\.block\.0\.conv1\.weight'"):
        build_maskgit(tensors, None, "file")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_resolutions": 4}, "num_resolutions is 4, not 5"),
        ({"embedding_dim": 8, "z_channels": 16}, "embedding_dim is 8, not 16"),
        ({"hidden_channels": 48}, "hidden_channels is a multiple of 32; got 48"),
        ({"ch": 32}, "Unknown or missing keys .*: ch"),
    ],
)
def test_wrong_configurations_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MaskGITConfig.from_dict(config)


def test_the_words_of_open_muse_are_understood() -> None:
    words = {"_class_name": "MaskGitVQGAN", "attn_resolutions": [16], "resample_with_conv": True, "quantized_embed_dim": 256}
    assert MaskGITConfig.from_dict(words) == MaskGITConfig()
