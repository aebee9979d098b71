"""Networks by name, and what their options do."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from dat.errors import CheckpointError, UsageError
from dat.nn.drvit import DrViT, VisualWords
from dat.nn.weights import read_tensors
from dat.nn.zoo import SmallResNet, begin_with, create_network, needs_words
from dat.recipe.model import ModelSection, open_model
from dat.recipe.parts import OnDisk

torch.set_num_threads(1)

TINY = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}


class Words:
    """A discretizer that gives the same code for everything."""

    codebook_size, stride = 4, 16

    def encode(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), images.shape[2] // 16, images.shape[3] // 16, dtype=torch.int64)

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def words() -> VisualWords:
    return VisualWords(Words(), torch.randn(4, 8))


@pytest.mark.parametrize(
    ("name", "options"),
    [("small_resnet", {"depth": 8}), ("vit_tiny_patch16_224", TINY), ("test_resnet", {})],
)
def test_a_network_has_one_logit_per_class(name: str, options: dict[str, Any]) -> None:
    model = create_network(name, num_classes=7, options=options)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert isinstance(model, SmallResNet) == (name == "small_resnet")
    assert not needs_words(name)


def test_drvit_reads_words() -> None:
    model = create_network("drvit_base", num_classes=7, options=TINY, words=words())
    assert isinstance(model, DrViT)
    assert needs_words("drvit_base")
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_augreg_begins_with_a_head_that_gives_each_class_its_share() -> None:
    """timm's `weight_init: jax_nlhb`: weights zero, bias -log(classes), which is AugReg's -6.9 for 1000 classes."""
    head = create_network("vit_tiny_patch16_224", num_classes=1000, options={**TINY, "weight_init": "jax_nlhb"}).get_submodule(
        "head"
    )
    assert isinstance(head, nn.Linear)
    assert head.weight.abs().max() == 0
    torch.testing.assert_close(head.bias, torch.full((1000,), -math.log(1000)))
    assert head.bias[0].item() == pytest.approx(-6.9, abs=0.01)


@pytest.mark.parametrize(
    ("name", "options", "with_words", "said"),
    [
        ("drvit_bose", {}, False, "no model 'drvit_bose'; did you mean drvit_base"),
        ("drvit_base", {}, False, "'drvit_base' reads images through a discretizer, and none is given"),
        ("small_resnet", {}, True, "'small_resnet' takes no discretizer; leave it out, or take one of drvit_small"),
        ("drvit_base", {"deepness": 3}, True, "does not take the options {'deepness': 3}"),
        ("small_resnet", {"depth": 9}, False, "depth 9; write 8, 14"),
        ("test_resnet", {"deepness": 3}, False, "does not take the options {'deepness': 3}"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], with_words: bool, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        create_network(name, num_classes=7, options=options, words=words() if with_words else None)


def test_a_network_begins_with_the_weights_of_a_file_and_keeps_its_own_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = create_network("small_resnet", num_classes=7, options={"depth": 8})
    save_file(given.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(1)
    network = create_network("small_resnet", num_classes=3, options={"depth": 8})
    head = network.state_dict()["linear.weight"].clone()
    begin_with(network, read_tensors(tmp_path / "w.safetensors")[0], name="w.safetensors")
    assert torch.equal(network.state_dict()["conv1.weight"], given.state_dict()["conv1.weight"])
    assert torch.equal(network.state_dict()["linear.weight"], head)
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    "options", [{}, {"no_embed_class": True}, {"class_token": False, "global_pool": "avg", "fc_norm": False}]
)
def test_positions_of_another_size_are_resampled_as_timm_does(options: dict[str, Any]) -> None:
    """A transformer of 64 pixels goes on with pictures of 96."""
    torch.manual_seed(0)
    small, large = (timm.create_model("test_vit", img_size=side, num_classes=3, **options) for side in (64, 96))
    assert isinstance(large, VisionTransformer)
    expected = checkpoint_filter_fn(small.state_dict(), large)
    begin_with(large, small.state_dict(), name="small.pth")
    assert large.state_dict()["pos_embed"].shape[1] - small.state_dict()["pos_embed"].shape[1] == 36 - 16
    assert all(torch.equal(tensor, expected[key]) for key, tensor in large.state_dict().items())
    with pytest.raises(CheckpointError, match=r"odd\.pth has positions of shape \(1, 8, .*no square grid"):
        begin_with(large, {**small.state_dict(), "pos_embed": torch.zeros(1, 8, 64)}, name="odd.pth")


@pytest.mark.parametrize(("classes", "said"), [(7, True), (3, False), (None, False)])
def test_a_last_layer_that_is_for_other_classes_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: int | None, said: bool
) -> None:
    tensors = create_network("small_resnet", num_classes=classes or 3, options={"depth": 8}).state_dict()
    kept = {key: tensor for key, tensor in tensors.items() if classes or "linear" not in key}
    save_file(kept, file := tmp_path / "w.safetensors")
    open_model(ModelSection(name="small_resnet", options={"depth": 8}, weights=str(file)), OnDisk(), num_classes=3)
    sentence = f"The last layer begins at random: that of {file} is for 7 classes, and the pictures are of 3."
    assert (sentence in capsys.readouterr().err) == said


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    save_file(create_network("small_resnet", num_classes=3, options={"depth": 14}).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"not those of this network: .* unexpected .*\. Write model\.name and model"):
        begin_with(
            create_network("small_resnet", num_classes=3, options={"depth": 8}),
            read_tensors(tmp_path / "w.safetensors")[0],
            name="w.safetensors",
        )
