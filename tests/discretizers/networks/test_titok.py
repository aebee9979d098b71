import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.maskgit import MaskGITConfig
from dat.discretizers.networks.titok import SIZES, Block, Encoder, Size, TiTok, TiTokConfig, Unfold, build_titok, infer_config
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import CheckpointError, UsageError

Golden = Callable[[str], Path]
TINY = TiTokConfig(
    codebook_size=40,
    token_size=5,
    use_l2_norm=True,
    vit_enc_model_size="small",
    vit_dec_model_size="small",
    vit_enc_patch_size=4,
    vit_dec_patch_size=2,
    num_latent_tokens=6,
    crop_size=12,
    vit_width=32,
    vit_layers=1,
    vit_heads=4,
    pixel_decoder=MaskGITConfig(hidden_channels=32, channel_mult=(1, 1), num_res_blocks=1, z_channels=16, num_embeddings=24),
)
PIXELS = replace(
    TINY, is_legacy=False, finetune_decoder=False, use_l2_norm=False, vit_dec_patch_size=3, pixel_decoder=MaskGITConfig()
)
PUBLIC = {
    "experiment": {"tokenizer_checkpoint": "tokenizer_titok_l32.bin"},
    "model": {
        "vq_model": {
            "codebook_size": 4096,
            "token_size": 12,
            "use_l2_norm": True,
            "commitment_cost": 0.25,
            "vit_enc_model_size": "large",
            "vit_dec_model_size": "base",
            "vit_enc_patch_size": 16,
            "vit_dec_patch_size": 16,
            "num_latent_tokens": 32,
            "finetune_decoder": True,
        },
        "generator": {"model_type": "ViT"},
    },
    "dataset": {"preprocessing": {"crop_size": 256}},
}


def random_network(config: TiTokConfig) -> TiTok:
    torch.manual_seed(0)
    network = TiTok(config)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.shared
def test_codes_and_reconstructions_are_the_originals(golden: Golden) -> None:
    folder = golden("titok")
    io, config = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())["config"]
    frozen = load_discretizer(folder / "weights.safetensors", config)
    assert isinstance(frozen.network, TiTok)
    assert (frozen.codebook_size, frozen.network.image_size, frozen.network.tokens) == (40, 12, 6)
    assert torch.equal(frozen.encode(io["x"]), io["codes"])
    torch.testing.assert_close(frozen.latents(io["x"]), io["z"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen(io["x"]), io["rec01"], atol=1e-4, rtol=0)
    torch.testing.assert_close(frozen.decode(io["codes"]), io["rec01"], atol=1e-4, rtol=0)


@pytest.mark.shared
def test_nothing_tells_the_heads_of_a_size_that_is_not_public(golden: Golden) -> None:
    with pytest.raises(CheckpointError, match=r"2 layers of width 32, no public size .* vit_heads"):
        load_discretizer(golden("titok") / "weights.safetensors")


@pytest.mark.parametrize("config", [TINY, PIXELS])
def test_our_own_format_survives_a_round_trip(tmp_path: Path, config: TiTokConfig) -> None:
    network, images = random_network(config), torch.rand(2, 3, 12, 12)
    loaded = load_discretizer(save_discretizer(tmp_path, network))
    assert isinstance(loaded.network, TiTok)
    assert loaded.network.config == TiTokConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert torch.equal(loaded.encode(images), FrozenDiscretizer(network).encode(images))
    assert torch.equal(loaded(images), loaded.decode(loaded.encode(images)))
    assert loaded(images).shape == images.shape


@pytest.mark.parametrize("legacy", [True, False])
def test_a_public_size_is_read_off_the_tensors(monkeypatch: pytest.MonkeyPatch, legacy: bool) -> None:
    monkeypatch.setitem(SIZES, "small", Size(32, 1, 4))
    given = replace(TINY if legacy else PIXELS, vit_width=None, vit_layers=None, vit_heads=None)
    assert build_titok(random_network(given).state_dict(), None, "file").config == given


def test_the_public_configuration_is_understood() -> None:
    config = TiTokConfig.from_dict(PUBLIC)
    assert (config.encoder_size, config.decoder_size) == (Size(1024, 24, 16), Size(768, 12, 12))
    assert config.pixel_decoder == MaskGITConfig()
    assert TiTokConfig.from_dict(config.to_dict()) == config
    with torch.device("meta"):
        network = TiTok(config)
    tensors = network.state_dict()
    assert tensors["pixel_quantize.embedding.weight"].shape == (1024, 256)
    assert infer_config(tensors, "file") == config


def test_other_sizes_are_refused_with_the_only_one() -> None:
    frozen = FrozenDiscretizer(random_network(TINY))
    with pytest.raises(UsageError, match="12 x 16 pixels; this discretizer takes exactly 12 x 12, as 6 codes"):
        frozen(torch.rand(1, 3, 12, 16))


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (2, 2, 3), (6,)])
def test_codes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"must be signed integers \(batch, 6\)"):
        FrozenDiscretizer(random_network(TINY)).decode(torch.zeros(shape, dtype=torch.int64))


def test_legacy_models_mix_the_tokens() -> None:
    """The same weights, with and without the transposition that the legacy models leave out."""
    encoder, images, tokens = Encoder(TINY), torch.rand(1, 3, 12, 12), torch.rand(6, 32)
    seen: list[torch.Tensor] = []
    encoder.conv_out.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for encoder.is_legacy in (True, False):
        encoder(images, tokens)
    assert torch.equal(seen[0].flatten(), seen[1].squeeze(2).mT.flatten())


def test_pixels_are_unfolded_row_by_row() -> None:
    features = torch.arange(2 * 27 * 4.0).view(2, 27, 2, 2)
    images = Unfold(3)(features)
    for row, column, colour in ((0, 0, 0), (4, 5, 2), (3, 2, 1)):
        channel = (row % 3 * 3 + column % 3) * 3 + colour
        assert torch.equal(images[:, colour, row, column], features[:, channel, row // 3, column // 3])


def test_attention_is_over_all_positions_with_its_heads() -> None:
    torch.manual_seed(0)
    block, sequence = Block(Size(width=8, layers=1, heads=2)), torch.randn(2, 5, 8)
    query, key, value = (
        part.unflatten(2, (2, 4)).transpose(1, 2)
        for part in nn.functional.linear(block.ln_1(sequence), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, 2)
    )
    mixed = ((query @ key.mT / 2).softmax(3) @ value).transpose(1, 2).flatten(2)
    attended = sequence + block.attn.out_proj(mixed)
    torch.testing.assert_close(block(sequence), attended + block.mlp(block.ln_2(attended)))


def test_missing_unexpected_and_misshapen_tensors_are_named() -> None:
    tensors = random_network(TINY).state_dict()
    del tensors["pixel_quantize.embedding.weight"]
    tensors |= {"encoder.extra": torch.zeros(1), "decoder.positional_embedding": torch.zeros(10, 32)}
    with pytest.raises(CheckpointError) as error:
        build_titok(tensors, TINY.to_dict(), "file")
    assert "missing (pixel_quantize.embedding.weight)" in str(error.value)
    assert "unexpected (encoder.extra)" in str(error.value)
    assert "decoder.positional_embedding (10, 32) instead of (37, 32)" in str(error.value)


def test_the_first_stage_of_training_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "small", Size(32, 1, 4))
    tensors = random_network(TINY).state_dict()
    first_stage = {key: value for key, value in tensors.items() if not key.startswith("pixel_")}
    with pytest.raises(CheckpointError, match="first stage of training"):
        build_titok(first_stage, None, "file")


@pytest.mark.parametrize("key", ["pixel_decoder.conv_in.weight", "decoder.ffn.2.weight", "pixel_quantize.embedding.weight"])
def test_the_missing_tensor_is_named_without_a_configuration(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setitem(SIZES, "small", Size(32, 1, 4))
    tensors = random_network(TINY).state_dict()
    del tensors[key]
    with pytest.raises(CheckpointError, match=key):
        build_titok(tensors, None, "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantize_mode": "vae"}, "quantize_mode is 'vae'"),
        ({"vit_enc_model_size": "huge"}, "no size 'huge'"),
        ({"is_legacy": False}, "has both or neither"),
        ({"vit_enc_patch_size": 24}, r"crop_size is 256; .* \(24, 16\)"),
        ({"vit_dec_patch_size": 8}, "vit_dec_patch_size is 8, but the pixel decoder makes 16"),
        ({"num_latent_tokens": 0}, "num_latent_tokens is 0"),
        ({"text_context_length": 77}, "Unknown or missing keys .*: text_context_length"),
    ],
)
def test_wrong_configurations_are_refused(change: dict[str, Any], message: str) -> None:
    config = {**PUBLIC, "model": {"vq_model": {**PUBLIC["model"]["vq_model"], **change}}}
    with pytest.raises(UsageError, match=message):
        TiTokConfig.from_dict(config)


@pytest.mark.parametrize("config", [{"model": {}}, {**PUBLIC, "dataset": None}, {**PUBLIC, "pixel_decoder": 3}])
def test_missing_sections_are_said(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"sections model\.vq_model and dataset\.preprocessing"):
        TiTokConfig.from_dict(config)


def test_heads_divide_the_width() -> None:
    with pytest.raises(UsageError, match="multiple of its heads; got 512 and 3"):
        TiTokConfig.from_dict({**PUBLIC, "vit_width": 512, "vit_heads": 3})
