import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.llamagen import LlamaGen, LlamaGenConfig, build_llamagen
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError, UsageError

Golden = Callable[[str], Path]
TINY = LlamaGenConfig(
    codebook_size=24,
    codebook_embed_dim=4,
    encoder_ch_mult=(1, 2, 2),
    decoder_ch_mult=(1, 1, 2),
    z_channels=6,
    ch=32,
    num_res_blocks=1,
)


@pytest.fixture
def network() -> LlamaGen:
    torch.manual_seed(0)
    return LlamaGen(TINY)


def public_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["config"]


@pytest.mark.shared
@pytest.mark.parametrize("with_config", [True, False])
def test_codes_and_reconstructions_are_the_originals(golden: Golden, with_config: bool) -> None:
    folder = golden("llamagen_vq")
    io = load_file(folder / "io.safetensors")
    frozen = load_discretizer(folder / "weights.ckpt", public_config(folder) if with_config else None)
    assert isinstance(frozen.network, LlamaGen)
    assert (frozen.codebook_size, frozen.stride) == (72, 2)
    assert torch.equal(frozen.encode(io["x"]), io["codes"])
    torch.testing.assert_close(frozen.latents(io["x"]), io["z"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen.decode(io["codes"]), io["rec01"], atol=1e-4, rtol=0)


def formula_weight(name: str, shape: list[int]) -> Tensor:
    """The weights of the full-size golden items, as their config.json defines them."""
    if name == "quantize.codebook_used":
        return torch.zeros(shape)
    mixed = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 2246822507), (13, 3266489909)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    uniform = (mixed ^ (mixed >> np.uint32(16))).astype(np.float64) / 2**31 - 1
    if name == "quantize.embedding.weight":
        values = uniform
    elif len(shape) > 1:
        values = uniform * math.sqrt(3 / math.prod(shape[1:]))
    else:
        values = 1 + 0.25 * uniform if name.endswith("weight") else 0.1 * uniform
    return torch.from_numpy(values.astype(np.float32)).view(shape)


@pytest.mark.shared
def test_the_public_size_is_exact(golden: Golden) -> None:
    folder = golden("full_llamagen_vq16")
    described, io = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    tensors = {name: formula_weight(name, shape) for name, shape in described["state_dict"].items()}
    for name, total in described["checksums_float64_sum"].items():
        assert tensors[name].double().sum().item() == pytest.approx(total, abs=1e-6)
    network = build_llamagen(tensors, None, "formula")
    assert network.config == LlamaGenConfig.from_dict(described["config"]) == LlamaGenConfig()
    frozen = FrozenDiscretizer(network, copy_network=False)
    images = io["x"] if io["x"].min() >= 0 else (io["x"] + 1) / 2
    assert torch.equal(frozen.encode(images), io["codes"])
    torch.testing.assert_close(frozen.decode(io["codes"]), (io["rec_raw"].clamp(-1, 1) + 1) / 2, atol=1e-4, rtol=0)


def test_our_own_format_survives_a_round_trip(tmp_path: Path, network: LlamaGen) -> None:
    loaded, images = load_discretizer(save_discretizer(tmp_path, network)), torch.rand(2, 3, 8, 12)
    assert isinstance(loaded.network, LlamaGen)
    assert loaded.network.config == LlamaGenConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    assert torch.equal(loaded(images), FrozenDiscretizer(network)(images))


def test_everything_but_the_norm_is_read_off_the_tensors(network: LlamaGen) -> None:
    used = {"quantize.codebook_used": torch.zeros(65536)}
    assert build_llamagen({**network.state_dict(), **used}, None, "file").config == TINY


@pytest.mark.parametrize("size", [(5, 9), (17, 6), (1, 1)])
def test_any_image_size(network: LlamaGen, size: tuple[int, int]) -> None:
    frozen, images = FrozenDiscretizer(network), torch.rand(2, 3, *size)
    assert frozen.encode(images).shape == (2, -(-size[0] // 4), -(-size[1] // 4))
    assert frozen(images).shape == images.shape


def test_codes_do_not_see_lengths_where_the_norm_says_so(network: LlamaGen) -> None:
    images, stretch = torch.rand(1, 3, 16, 16), torch.linspace(1, 9, 24)[:, None]
    stretched = {key: value.clone() for key, value in network.state_dict().items()}
    stretched["quantize.embedding.weight"] *= stretch
    plain = {**TINY.to_dict(), "codebook_l2_norm": False}
    given, longer, unnormed = (
        FrozenDiscretizer(build_llamagen(tensors, config, "file"))
        for tensors, config in ((network.state_dict(), None), (stretched, None), (stretched, plain))
    )
    assert torch.equal(given.encode(images), longer.encode(images))
    torch.testing.assert_close(given(images), longer(images))
    vectors = unnormed.latents(images).permute(0, 2, 3, 1)
    nearest = torch.cdist(vectors.flatten(0, 2), stretched["quantize.embedding.weight"]).argmin(dim=1)
    assert torch.equal(unnormed.encode(images).flatten(), nearest)


def test_missing_unexpected_and_misshapen_tensors_are_named(network: LlamaGen) -> None:
    tensors = network.state_dict()
    del tensors["decoder.mid.1.q.weight"]
    tensors |= {"encoder.extra": torch.zeros(1), "post_quant_conv.bias": torch.zeros(9)}
    with pytest.raises(CheckpointError) as error:
        build_llamagen(tensors, None, "file")
    assert "missing (decoder.mid.1.q.weight)" in str(error.value)
    assert "unexpected (encoder.extra)" in str(error.value)
    assert "post_quant_conv.bias (9,) instead of (6,)" in str(error.value)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("encoder.conv_in.weight", None, r"lacks the tensor 'encoder\.conv_in\.weight'"),
        ("decoder.conv_blocks.1.res.0.conv1.weight", None, r"lacks the tensor 'decoder\.conv_blocks\.1\.res\.0"),
        ("quantize.embedding.weight", (3,), "not the shapes"),
        ("encoder.conv_in.weight", (31, 3, 3, 3), "ch is a multiple of 32"),
    ],
)
def test_tensors_that_tell_no_shape(network: LlamaGen, key: str, shape: tuple[int, ...] | None, message: str) -> None:
    tensors = network.state_dict()
    del tensors[key]
    tensors |= {} if shape is None else {key: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        build_llamagen(tensors, None, "file")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "VQ-32"}, "no tokenizer 'VQ-32'"),
        ({"codebook": 3}, "Unknown or missing keys .*: codebook"),
        ({"codebook_size": 0.5}, r"codebook_size is 0\.5, not a whole number"),
        ({"encoder_ch_mult": []}, r"encoder_ch_mult is \(\), not whole numbers"),
        ({"decoder_ch_mult": 4}, "decoder_ch_mult is 4"),
        ({"codebook_l2_norm": "yes"}, "codebook_l2_norm is 'yes', not true or false"),
        ({"decoder_ch_mult": [1, 2]}, "as many levels down as up"),
    ],
)
def test_wrong_configurations_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LlamaGenConfig.from_dict(config)


def test_a_model_is_its_multipliers() -> None:
    vq8 = LlamaGenConfig.from_dict({"model": "VQ-8", "commit_loss_beta": 0.25})
    assert (vq8.encoder_ch_mult, vq8.decoder_ch_mult, vq8.stride) == ((1, 2, 2, 4), (1, 2, 2, 4), 8)
