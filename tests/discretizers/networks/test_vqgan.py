import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer, check_codes, pad_to_multiple
from dat.discretizers.networks.vqgan import VQGAN, Residual, Upsample, VQGANConfig
from dat.discretizers.quantizers.nearest import CodebookQuantizer
from dat.errors import DivergenceError, UsageError
from dat.types import Discretizer, check_images

Golden = Callable[[str], Path]
ITEMS = ["ldm_vq_f8", "ldm_vq_noattn", "taming_vqmodel"]
TINY = VQGANConfig(
    n_embed=32, embed_dim=4, z_channels=4, ch=32, ch_mult=(1, 1), num_res_blocks=1, resolution=32, attn_resolutions=(16,)
)


def public_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["config"]


def golden_network(folder: Path) -> VQGAN:
    network = VQGAN(VQGANConfig.from_dict(public_config(folder)))
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return network


@pytest.fixture
def tiny() -> VQGAN:
    torch.manual_seed(0)
    network = VQGAN(TINY)
    assert isinstance(network.quantize, CodebookQuantizer)
    network.quantize.initialise(network.latents(torch.rand(4, 3, 16, 16) * 2 - 1))
    return network


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.shared
@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("gradient", [True, False])
def test_is_the_original_network(golden: Golden, item: str, layout: torch.memory_format, gradient: bool) -> None:
    folder = golden(item)
    network, io = golden_network(folder).to(memory_format=layout), load_file(folder / "io.safetensors")
    images = io["x_in"].to(memory_format=layout)
    with torch.set_grad_enabled(gradient):
        latents = network.latents(images)
        reconstruction, quantized = network(images)
    torch.testing.assert_close(latents, io["z"], atol=1e-4, rtol=0)
    assert torch.equal(quantized.codes, io["codes"])
    torch.testing.assert_close(quantized.vectors, io["z_q"], atol=1e-6, rtol=0)
    torch.testing.assert_close(reconstruction, io["rec_raw"], atol=1e-4, rtol=0)


def formula_weight(name: str, shape: tuple[int, ...], embedding_scale: float) -> Tensor:
    """The weights of the full-size items, as their config.json defines them."""
    size = int(np.prod(shape, dtype=np.int64))
    numbers = np.arange(size, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 2246822507), (13, 3266489909)):
        numbers = (numbers ^ (numbers >> np.uint32(shift))) * np.uint32(factor)
    uniform = (numbers ^ (numbers >> np.uint32(16))) / 2.0**31 - 1
    if name == "quantize.embedding.weight":
        uniform *= embedding_scale
    elif len(shape) > 1:
        uniform *= np.sqrt(3 / np.prod(shape[1:]))
    else:
        uniform = 1 + 0.25 * uniform if name.endswith("weight") else 0.1 * uniform
    return torch.from_numpy(uniform.astype(np.float32)).view(shape)


@pytest.mark.shared
def test_is_the_original_network_at_full_size(golden: Golden) -> None:
    folder = golden("full_ldm_vq_f8")
    config, io = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    with torch.device("meta"):
        network = VQGAN(VQGANConfig.from_dict(config["config"]))
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == config["state_dict"]
    weights = {key: formula_weight(key, tuple(shape), config["embscale"]) for key, shape in config["state_dict"].items()}
    for key, total in config["checksums_float64_sum"].items():
        assert weights[key].double().sum().item() == pytest.approx(total, rel=1e-9)
    network.load_state_dict(weights, assign=True)
    with torch.no_grad():
        latents = network.latents(2 * io["x"] - 1)
        codes = network.quantize.encode(latents)
        clear = io["margin_sq_distance"] > 1e-4
        raw = network.decode_vectors(network.quantize.decode(io["codes"]))
    torch.testing.assert_close(latents, io["z"], atol=1e-4, rtol=0)
    assert torch.equal(codes[clear], io["codes"][clear])
    torch.testing.assert_close(raw, io["rec_raw"], atol=1e-4, rtol=0)


@pytest.mark.shared
@pytest.mark.parametrize("item", ["ldm_vq_f8", "easyrobust_reconstruct"])
def test_frozen_reconstructs_as_the_original(golden: Golden, item: str) -> None:
    io, frozen = load_file(golden(item) / "io.safetensors"), FrozenDiscretizer(golden_network(golden("ldm_vq_f8")))
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen.latents(io["x"]), io["z"], atol=1e-4, rtol=0)
    assert torch.equal(frozen.encode(io["x"]), io["codes"])
    torch.testing.assert_close(frozen.decode(io["codes"]), io["rec01"], atol=1e-4, rtol=0)
    if "rec01_of_rec01" in io:
        torch.testing.assert_close(frozen(frozen(io["x"])), io["rec01_of_rec01"], atol=1e-4, rtol=0)


@pytest.mark.shared
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_the_search_and_most_codes(golden: Golden, precision: torch.dtype) -> None:
    io = load_file(golden("ldm_vq_f8") / "io.safetensors")
    frozen = FrozenDiscretizer(golden_network(golden("ldm_vq_f8")), precision=precision)
    assert frozen.network.quantize.get_parameter("embedding.weight").dtype == torch.float32
    assert frozen.latents(io["x"]).dtype == frozen(io["x"]).dtype == torch.float32
    assert frozen(io["x"].to(precision)).dtype == precision
    assert (frozen.encode(io["x"]) != io["codes"]).float().mean() < 0.1
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=0.2, rtol=0)


def test_float64_runs_in_float64(tiny: VQGAN) -> None:
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    frozen = FrozenDiscretizer(tiny).double()
    assert frozen.latents(images).dtype == frozen(images).dtype == torch.float64
    assert frozen(images.float()).dtype == torch.float32
    torch.testing.assert_close(frozen(images).float(), FrozenDiscretizer(tiny)(images.float()), atol=1e-4, rtol=0)


def test_frozen_is_a_discretizer_that_never_changes(tiny: VQGAN) -> None:
    tiny.train()
    frozen = FrozenDiscretizer(tiny)
    assert isinstance(frozen, Discretizer)
    assert (frozen.codebook_size, frozen.stride) == (32, 2)
    whole = nn.Sequential(frozen).train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in whole.parameters())
    assert tiny.training
    assert all(parameter.requires_grad for parameter in tiny.parameters())
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    assert not frozen(images).requires_grad
    assert not frozen.latents(images).requires_grad
    assert FrozenDiscretizer(tiny, copy_network=False).network is tiny


def test_frozen_ignores_autocast(tiny: VQGAN) -> None:
    frozen, images = FrozenDiscretizer(tiny), torch.rand(2, 3, 16, 16)
    plain = frozen(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frozen(images), plain)
        assert torch.equal(frozen.decode(frozen.encode(images)), plain)
        assert frozen.latents(images).dtype == torch.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (7, 8), (8, 8), (13, 5)])
def test_any_size_is_padded_and_cropped(size: tuple[int, int]) -> None:
    config = VQGANConfig(n_embed=16, embed_dim=3, z_channels=3, ch=32, ch_mult=(1, 1, 1), num_res_blocks=1)
    frozen, images = FrozenDiscretizer(VQGAN(config)), torch.rand(2, 3, *size)
    assert frozen(images).shape == images.shape
    grid = [-(-side // 4) for side in size]
    assert list(frozen.encode(images).shape) == [2, *grid]
    assert list(frozen.decode(frozen.encode(images)).shape[2:]) == [4 * side for side in grid]
    assert frozen(images).min() >= 0
    assert frozen(images).max() <= 1


def test_padding_reflects_and_leaves_multiples_alone() -> None:
    images = torch.arange(5.0).expand(1, 3, 5, 5)
    assert pad_to_multiple(images, 4)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(images, 16)[0, 0, 0].tolist() == [0, 1, 2, 3, 4] + [4] * 11
    assert pad_to_multiple(images, 5) is images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((1, 3, 4, 4), 255.0), "to 255,"),
        (torch.full((1, 3, 4, 4), -2.5), "from -2.5 to"),
        (torch.full((1, 3, 4, 4), torch.nan), "from nan to nan"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 1, 4, 4), r"\(1, 1, 4, 4\)"),
        (torch.zeros(3, 4, 4), r"\(3, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4), r"\(0, 3, 4, 4\)"),
    ],
)
def test_wrong_images_are_refused_with_what_was_seen(tiny: VQGAN, images: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_images(images)
    # The public call itself; the shape checks of the tests refuse some of these earlier.
    with pytest.raises((UsageError, jaxtyping.TypeCheckError)):
        FrozenDiscretizer(tiny)(images)


def test_rounding_beyond_the_range_is_accepted() -> None:
    check_images(torch.tensor([-1e-4, 1 + 1e-4, 0.5]).expand(1, 3, 3).unsqueeze(1).expand(1, 3, 3, 3))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((1, 2, 2), 32), "to 32; this codebook holds 0 to 31"),
        (torch.full((1, 2, 2), -1), "from -1"),
        (torch.zeros(1, 2, 2), "float32"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), "bool"),
        (torch.zeros(2, 2, dtype=torch.int64), r"\(2, 2\)"),
    ],
)
def test_wrong_codes_are_refused(tiny: VQGAN, codes: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_codes(codes, tiny)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_codes_may_be_kept_small(tiny: VQGAN, dtype: torch.dtype) -> None:
    frozen, codes = FrozenDiscretizer(tiny), torch.arange(32).view(2, 4, 4)
    assert torch.equal(frozen.decode(codes.to(dtype)), frozen.decode(codes))


def test_decode_checks_its_codes(tiny: VQGAN) -> None:
    with pytest.raises(UsageError, match="this codebook holds"):
        FrozenDiscretizer(tiny).decode(torch.full((1, 2, 2), 32))


def test_a_diverged_network_is_named(tiny: VQGAN) -> None:
    tiny.quant_conv.weight.data[0, 0] = torch.nan
    with pytest.raises(DivergenceError):
        FrozenDiscretizer(tiny)(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsampling_without_gradients_is_repetition_and_convolution(
    dtype: torch.dtype, tolerance: float, layout: torch.memory_format
) -> None:
    upsample, features = Upsample(8).to(dtype).to(memory_format=layout), torch.randn(2, 8, 5, 3, dtype=dtype)  # pyright: ignore[reportCallIssue]  # missing in torch's stub
    expected = upsample(features.to(memory_format=layout))
    with torch.no_grad():
        folded = upsample(features.to(memory_format=layout))
    assert folded.is_contiguous(memory_format=layout)
    torch.testing.assert_close(folded, expected.detach(), atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_passes_without_gradients_follow_weights_that_change(tiny: VQGAN, dtype: torch.dtype) -> None:
    """What is computed from the weights, and what is done in place, leaves weights and inputs alone."""
    network, vectors = tiny.to(dtype), torch.randn(2, 4, 4, 4, dtype=dtype)
    before, keys = vectors.clone(), list(network.state_dict())
    for _ in range(2):
        with torch.no_grad():
            without = network.decode_vectors(vectors)
        torch.testing.assert_close(
            without, network.decode_vectors(vectors).detach(), atol=0.1 if dtype == torch.bfloat16 else 1e-5, rtol=0
        )
        with torch.no_grad():
            for parameter in network.decoder.parameters():
                parameter.mul_(1.5)
    assert torch.equal(vectors, before)
    assert list(network.state_dict()) == keys


@pytest.mark.parametrize(("width", "side"), [(32, 32), (32, 8), (64, 33), (512, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_way_of_the_group_norm_in_low_precision(width: int, side: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block, features = Residual(width, width, 0.0), 3 + 2 * torch.randn(2, width, side, side)
    with torch.no_grad():
        exact = block(features)
        low = block.to(dtype)(features.to(dtype).to(memory_format=torch.channels_last))
    assert low.dtype == dtype
    assert (low - exact).abs().max() < 0.1
    assert (low - exact).square().mean().sqrt() < 0.02


def test_compiled_networks_are_the_same_network(tiny: VQGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which parts are compiled, how often and with what, without the minutes that compiling takes."""
    options, calls = [], []

    def compiled(function: Callable[..., Tensor], **given: object) -> Callable[..., Tensor]:
        options.append(given)
        return lambda *inputs: (calls.append(function), function(*inputs))[1]

    monkeypatch.setattr(torch, "compile", compiled)
    frozen, images = FrozenDiscretizer(tiny), torch.rand(2, 3, 16, 16)
    quick = FrozenDiscretizer(tiny).compile_networks(dynamic=False)
    assert torch.equal(quick(images), frozen(images))
    assert options == [{"dynamic": False}] * 2
    assert len(calls) == 2
    assert list(quick.state_dict()) == list(frozen.state_dict())


def test_every_parameter_gets_a_gradient(tiny: VQGAN) -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    reconstruction, quantized = tiny(images)
    (reconstruction.square().mean() + quantized.codebook_loss + quantized.commitment_loss).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in tiny.parameters() if parameter.ndim > 1)


def test_in_place_activations_do_not_change_gradients(tiny: VQGAN) -> None:
    """The gradient of an image through frozen weights, against finite differences."""
    network = tiny.double().requires_grad_(False)
    images = (torch.rand(1, 3, 4, 4, dtype=torch.float64) * 2 - 1).requires_grad_()
    vectors = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: network.latents(x).sum(), images)
    assert torch.autograd.gradcheck(lambda v: network.decode_vectors(v).sum(), vectors)


def test_dropout_acts_in_training_only() -> None:
    network = VQGAN(VQGANConfig(n_embed=8, embed_dim=4, z_channels=4, ch=32, ch_mult=(1,), num_res_blocks=1, dropout=0.5))
    images = torch.rand(1, 3, 4, 4)
    assert not torch.equal(network.latents(images), network.latents(images))
    network.eval()
    assert torch.equal(network.latents(images), network.latents(images))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_tiny_networks_exist(levels: int) -> None:
    config = VQGANConfig(n_embed=8, embed_dim=4, z_channels=4, ch=32, ch_mult=(1,) * levels, num_res_blocks=1)
    reconstruction, quantized = VQGAN(config)(torch.rand(1, 3, 8, 8))
    assert reconstruction.shape == (1, 3, 8, 8)
    assert quantized.codes.shape[1:] == (8 // config.stride, 8 // config.stride)


@pytest.mark.shared
@pytest.mark.parametrize("item", ITEMS)
def test_configurations_survive_a_round_trip(golden: Golden, item: str) -> None:
    config = VQGANConfig.from_dict(public_config(golden(item)))
    assert VQGANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("outer", "inner", "message"),
    [
        ({}, {"double_z": True}, "double_z"),
        ({"remap": "used.npy"}, {}, "remap"),
        ({"n_embeds": 3}, {}, "n_embeds"),
        ({}, {"use_linear_attn": True}, "use_linear_attn"),
        ({"n_embed": 0}, {}, "n_embed is 0"),
        ({}, {"ch": 33}, "ch=33"),
        ({}, {"ch_mult": []}, "ch_mult"),
        ({}, {"ch_mult": [1, 0]}, r"ch_mult is \(1, 0\)"),
        ({}, {"attn_type": "linear"}, "linear"),
    ],
)
def test_foreign_configurations_are_refused(outer: dict[str, Any], inner: dict[str, Any], message: str) -> None:
    public = TINY.to_dict()
    ddconfig = public.pop("ddconfig")
    assert isinstance(ddconfig, dict)
    with pytest.raises(UsageError, match=message):
        VQGANConfig.from_dict({**public, **outer, "ddconfig": {**ddconfig, **inner}})


def test_a_configuration_without_its_parts_is_refused() -> None:
    with pytest.raises(UsageError, match="'ddconfig'"):
        VQGANConfig.from_dict({"n_embed": 4})
    with pytest.raises(UsageError, match="embed_dim, n_embed"):
        VQGANConfig.from_dict({"ddconfig": {"ch": 32}})
