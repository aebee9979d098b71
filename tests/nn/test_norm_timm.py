"""Auxiliary normalisation layers in networks of timm: batch, layer and group norms of its own making."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]  # documented, but timm has no __all__
from torch import Tensor, nn

from dat.nn.norm import TwoNorms, through_auxiliary_norms, with_auxiliary_norms, without_auxiliary_norms

torch.set_num_threads(1)

SIDE = 32
NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"img_size": SIDE, "embed_dim": 24, "depth": 2, "num_heads": 3}),
    "vit-mean": ("vit_tiny_patch16_224", {"img_size": SIDE, "embed_dim": 24, "depth": 2, "num_heads": 3, "global_pool": "avg"}),
    "resnet": ("resnet26", {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}),
    "resnet-group": ("resnet26", {"layers": (1, 1, 1, 1), "channels": (32, 32, 32, 32), "norm_layer": "groupnorm"}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "efficientnet": ("test_efficientnet", {}),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    timm_name, options = NETWORKS[name]
    return timm.create_model(timm_name, num_classes=5, **options)


def images() -> Tensor:
    return torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def plain_name(name: str) -> str:
    return name.replace(".main.", ".").replace(".auxiliary.", ".")


def scales(model: nn.Module) -> dict[str, tuple[float, float]]:
    """The share of the rate and the weight decay of each parameter."""
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [(group, parameter) for group in optimizer.param_groups for parameter in group["params"]]
    return {names[id(parameter)]: (group["lr_scale"], group["weight_decay"]) for group, parameter in groups}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_auxiliary_layers_begin_as_copies_and_learn_alone(name: str) -> None:
    model = network(name).train()
    expected = model(images())
    model = with_auxiliary_norms(network(name)).train()
    torch.testing.assert_close(model(images()), expected)
    with through_auxiliary_norms(model):
        torch.testing.assert_close(model(images()), expected)
        model(images()).square().sum().backward()
    gradients = {key: parameter.grad is not None for key, parameter in model.named_parameters()}
    assert not any(seen for key, seen in gradients.items() if ".main." in key)
    assert all(seen for key, seen in gradients.items() if ".main." not in key)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("vit", "vit-mean", "convnext", "resnet-group")])
def test_the_main_statistics_see_no_auxiliary_images(name: str) -> None:
    model = with_auxiliary_norms(network(name)).train()
    before = {key: tensor.clone() for key, tensor in model.named_buffers()}
    with through_auxiliary_norms(model):
        model(images())
    changed = {key for key, tensor in model.named_buffers() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if ".auxiliary." in key}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_norm_has_a_copy_and_the_stripped_network_is_the_plain_one(name: str) -> None:
    plain, model = network(name), with_auxiliary_norms(network(name))
    norms = [key for key, part in plain.named_modules() if re.match("(Batch|Layer|Group)Norm", type(part).__name__)]
    assert len(norms) >= 5
    assert [key for key, part in model.named_modules() if isinstance(part, TwoNorms)] == norms
    stripped = without_auxiliary_norms(model)
    assert list(stripped.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(stripped.eval()(images()), plain.eval()(images()))


@pytest.mark.parametrize("name", NETWORKS)
def test_both_copies_have_the_layer_decay_and_the_weight_decay_of_the_plain_layer(name: str) -> None:
    expected, found = scales(network(name)), scales(with_auxiliary_norms(network(name)))
    assert len({scale for scale, _ in expected.values()}) > 2
    assert {plain_name(key) for key in found} == set(expected)
    assert {key: expected[plain_name(key)] for key in found} == found
