"""Masked autoencoders, against what the original code gave for stored inputs, and their weights in a classifier."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dat.errors import CheckpointError, UsageError
from dat.nn.mae import SIZES, MaskedAutoencoder, patchify, random_masking, sincos_positions, take_mae, unpatchify
from dat.nn.weights import read_tensors

torch.set_num_threads(1)

TINY: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
DECODER: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


def classifier(*, classes: int = 5, **changes: Any) -> Any:
    torch.manual_seed(0)
    options = {**TINY, "global_pool": "avg", **changes}
    model = timm.create_model("vit_base_patch16_224", num_classes=classes, **options)
    assert isinstance(model, VisionTransformer)
    return model


def pretrained(path: Path, **changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    tensors = {
        key: torch.randn_like(value) for key, value in MaskedAutoencoder(**{**TINY, **DECODER, **changes}).state_dict().items()
    }
    save_file(tensors, path)
    return tensors


# ---- against the original


@pytest.mark.shared
@torch.no_grad()
def test_the_network_is_the_original_one(golden: Callable[[str], Path]) -> None:
    folder = golden("mae")
    config = json.loads((folder / "config.json").read_text())["config"]
    assert (config.pop("norm_eps"), config.pop("mlp_ratio")) == (1e-6, 4)
    model, known = MaskedAutoencoder(**config).eval(), load_file(folder / "io.safetensors")
    weights = load_file(folder / "weights.safetensors")
    assert torch.equal(model.pos_embed, weights["pos_embed"])
    assert torch.equal(model.decoder_pos_embed, weights["decoder_pos_embed"])
    model.load_state_dict(weights)
    latent, mask, restore = model.encode(known["imgs"], known["noise"])
    torch.testing.assert_close(latent, known["latent"], rtol=0, atol=1e-5)
    assert torch.equal(mask, known["mask"])
    assert torch.equal(restore, known["ids_restore"])
    torch.testing.assert_close(model.decode(latent, restore), known["pred"], rtol=0, atol=1e-5)
    for norm_pix in (False, True):
        model.norm_pix = norm_pix
        losses = model(known["imgs"], known["noise"])
        assert losses.shape == (2,)
        expected = known[f"loss_norm_pix_{str(norm_pix).lower()}"].squeeze()
        torch.testing.assert_close(losses.mean(), expected, rtol=1e-5, atol=0)


@pytest.mark.shared
def test_its_pieces_are_the_original_ones(golden: Callable[[str], Path]) -> None:
    known = load_file(golden("mae") / "io.safetensors")
    assert torch.equal(patchify(known["imgs"], 8), known["patches"])
    assert torch.equal(unpatchify(known["patches"], 8), known["unpatchified"])
    kept, mask, restore = random_masking(known["sequence"], known["noise"], mask_ratio=0.75)
    assert torch.equal(kept, known["sequence_masked"])
    assert torch.equal(mask, known["mask"])
    assert torch.equal(restore, known["ids_restore"])
    torch.testing.assert_close(
        sincos_positions(24, 4, cls_token=False), known["pos_embed_dim24_grid4_clsfalse"], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        sincos_positions(16, 3, cls_token=True), known["pos_embed_dim16_grid3_clstrue"], rtol=0, atol=1e-12
    )


# ---- without it


def test_patches_are_cut_and_put_together() -> None:
    images = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    patches = patchify(images, 4)
    assert patches.shape == (2, 4, 48)
    assert torch.equal(patches[1, 2].reshape(4, 4, 3), images[1, :, 4:, :4].permute(1, 2, 0))
    assert torch.equal(unpatchify(patches, 4), images)


def test_the_smallest_numbers_are_kept() -> None:
    noise = torch.tensor([[0.4, 0.1, 0.9, 0.2]])
    kept, mask, restore = random_masking(torch.tensor([[[0.0], [1.0], [2.0], [3.0]]]), noise, mask_ratio=0.5)
    assert kept.flatten().tolist() == [1, 3]
    assert mask.tolist() == [[1, 0, 1, 0]]
    assert restore.tolist() == [[2, 0, 3, 1]]


@torch.no_grad()
def test_a_patch_is_normalised_by_the_sample_variance_of_its_pixels() -> None:
    """Of a model that predicts 0; patches differ by less than the 1e-6 that keeps flat ones, and by more."""
    model = MaskedAutoencoder(**TINY, **DECODER).double()
    model.decoder_pred.weight.zero_()
    model.decoder_pred.bias.zero_()
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    spread = torch.tensor([3e-4, 0.5], dtype=torch.float64)
    images = 0.4 + spread.reshape(2, 1, 1, 1) * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = []
    for image, numbers in zip(images.tolist(), noise.tolist(), strict=True):
        squares = []
        for patch in sorted(range(16), key=numbers.__getitem__)[4:]:  # a quarter is seen
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            pixels = [plane[top + row][left + column] for row in range(8) for column in range(8) for plane in image]
            mean, variance = statistics.fmean(pixels), statistics.variance(pixels)
            squares.append(statistics.fmean([(pixel - mean) ** 2 / (variance + 1e-6) for pixel in pixels]))
        expected.append(statistics.fmean(squares))
    assert expected[0] < 0.1 < 0.99 < expected[1] < 1
    torch.testing.assert_close(model(images, noise), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)


def test_all_but_the_positions_is_trained_and_hidden_pixels_alone_count() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(**TINY, **DECODER, norm_pix=False)
    images, noise = torch.randn(2, 3, 32, 32), torch.rand(2, 16)
    losses = model(images, noise)
    losses.sum().backward()
    fixed = {key for key, parameter in model.named_parameters() if parameter.grad is None}
    assert fixed == {"pos_embed", "decoder_pos_embed"}
    _, mask, _ = model.encode(images, noise)
    patches = patchify(images, 8)
    changed = unpatchify(torch.where(mask[..., None] == 1, patches + 3, patches), 8)
    assert not torch.allclose(model(changed, noise), losses)
    with torch.no_grad():  # what is hidden is not seen: the prediction stays
        latents = [model.encode(pixels, noise)[0] for pixels in (images, changed)]
    assert torch.equal(*latents)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"img_size": 33}, "patch_size 8 does not divide pictures of 33 pixels a side"),
        ({"mask_ratio": 0.99}, "mask_ratio is 0.99 of 16 patches"),
        ({"mask_ratio": 0.0}, r"mask_ratio is 0\.0"),
        ({"mask_ratio": math.nan}, "mask_ratio is nan"),
        ({"embed_dim": 18}, "width of 18"),
        ({"embed_dim": 0}, "embed_dim is 0; write a whole number, 1 or more"),
        ({"num_heads": 0}, "num_heads is 0; write a whole number"),
        ({"num_heads": 5}, "num_heads 5 does not divide embed_dim 24"),
        ({"decoder_num_heads": 3}, "decoder_num_heads 3 does not divide decoder_embed_dim 16"),
        ({"depth": -1}, "depth is -1; write a whole number"),
        ({"img_size": 0}, "img_size is 0; write a whole number"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        MaskedAutoencoder(**{**TINY, **DECODER, **settings})


# ---- the classifier


def test_the_pretrained_encoder_becomes_a_classifier(tmp_path: Path) -> None:
    path = tmp_path / "mae.safetensors"
    tensors, model = pretrained(path), classifier()
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    take_mae(model, read_tensors(path)[0], name=str(path))
    for key, value in model.state_dict().items():
        if key.startswith("fc_norm"):
            assert torch.equal(value, fresh[key])
        elif not key.startswith("head"):
            assert torch.equal(value, tensors[key]), key
    assert 0 < model.head.weight.std() < 4e-5
    assert model.head.bias.abs().max() == 0
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()(torch.randn(2, 3, 32, 32)).sum().backward()


def test_positions_are_resampled_to_another_size(tmp_path: Path) -> None:
    path = tmp_path / "mae.safetensors"
    tensors, model = pretrained(path), classifier(img_size=48)
    take_mae(model, read_tensors(path)[0], name=str(path))
    assert model.pos_embed.shape == (1, 37, 24)
    assert torch.equal(model.pos_embed[:, 0], tensors["pos_embed"][:, 0])
    grid = tensors["pos_embed"][:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    expected = (
        nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 36, 24)
    )
    torch.testing.assert_close(model.pos_embed[:, 1:], expected)


def test_tuned_weights_are_taken_whole(tmp_path: Path) -> None:
    tuned, path = classifier(classes=7), tmp_path / "tuned.pth"
    with torch.no_grad():
        tuned.fc_norm.weight.mul_(3)
        tuned.head.weight.add_(1)
    torch.save({"model": tuned.state_dict(), "epoch": 3}, path)
    same, other = classifier(classes=7), classifier(classes=5)
    take_mae(same, read_tensors(path)[0], name=str(path))
    assert all(torch.equal(value, tuned.state_dict()[key]) for key, value in same.state_dict().items())
    take_mae(other, read_tensors(path)[0], name=str(path))
    assert torch.equal(other.fc_norm.weight, tuned.fc_norm.weight)
    assert other.head.weight.abs().max() < 2e-4


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mae.safetensors"
    pretrained(path, depth=3)
    with pytest.raises(CheckpointError, match=r"unexpected \(blocks\.2"):
        take_mae(classifier(), read_tensors(path)[0], name=str(path))
    with pytest.raises(UsageError, match=r"global_pool: avg"):
        take_mae(classifier(global_pool="token"), read_tensors(path)[0], name=str(path))
    with pytest.raises(UsageError, match="do not fit this Linear"):
        take_mae(nn.Linear(2, 2), read_tensors(path)[0], name=str(path))
    save_file({"pos_embed": torch.zeros(1, 12, 24)}, path)
    with pytest.raises(CheckpointError, match="no square grid"):
        take_mae(classifier(), read_tensors(path)[0], name=str(path))


@pytest.mark.parametrize(
    ("name", "twin"),
    [("mae_base", "vit_base_patch16_224"), ("mae_large", "vit_large_patch16_224"), ("mae_huge", "vit_huge_patch14_224")],
)
def test_the_sizes_are_those_of_timms_classifiers(name: str, twin: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(twin, global_pool="avg").state_dict()
    ours = SIZES[name]
    assert theirs["pos_embed"].shape[2] == ours["embed_dim"]
    assert theirs["patch_embed.proj.weight"].shape[2] == ours["patch_size"]
    assert f"blocks.{ours['depth'] - 1}.norm1.weight" in theirs
    assert f"blocks.{ours['depth']}.norm1.weight" not in theirs
