"""Auxiliary normalisation layers: put in, taken out, routed through, and their gradients weighed."""

import pytest
import torch
from torch import Tensor, nn

from dat.errors import UsageError
from dat.nn.norm import (
    TwoNorms,
    has_auxiliary_norms,
    scaled_norm_gradients,
    through_auxiliary_norms,
    with_auxiliary_norms,
    without_auxiliary_norms,
)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4))


def layers(model: nn.Module) -> list[TwoNorms]:
    return [part for part in model.modules() if isinstance(part, TwoNorms)]


def test_a_network_comes_back_under_its_old_names() -> None:
    model, expected = small(), small().state_dict()
    assert with_auxiliary_norms(model) is model
    assert has_auxiliary_norms(model)
    assert [type(layer.main) for layer in layers(model)] == [nn.BatchNorm2d, nn.GroupNorm]
    assert without_auxiliary_norms(model) is model
    assert not has_auxiliary_norms(model)
    assert {*model.state_dict()} == {*expected}
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_each_way_uses_its_own_layers_alone() -> None:
    """Statistics and gradients of one kind do not move while the other is in use."""
    model, images = with_auxiliary_norms(small()).train(), torch.rand(4, 3, 8, 8)
    model(images).square().mean().backward()
    batch_norm, group_norm = layers(model)
    assert isinstance(batch_norm.main, nn.BatchNorm2d)
    assert isinstance(batch_norm.auxiliary, nn.BatchNorm2d)
    assert int(batch_norm.main.num_batches_tracked or 0) == 1
    assert int(batch_norm.auxiliary.num_batches_tracked or 0) == 0
    assert all(parameter.grad is None for layer in layers(model) for parameter in layer.auxiliary.parameters())
    model.zero_grad()
    with through_auxiliary_norms(model):
        assert batch_norm.is_auxiliary
        assert group_norm.is_auxiliary
        model(images).square().mean().backward()
    assert int(batch_norm.main.num_batches_tracked or 0) == 1
    assert int(batch_norm.auxiliary.num_batches_tracked or 0) == 1
    assert all(parameter.grad is None for layer in layers(model) for parameter in layer.main.parameters())


def test_the_way_is_given_back_after_an_error() -> None:
    model = with_auxiliary_norms(small())
    with pytest.raises(RuntimeError), through_auxiliary_norms(model):
        model(torch.rand(1, 1, 8, 8))
    assert not any(layer.is_auxiliary for layer in layers(model))


def test_a_model_that_cannot_have_them_or_has_none_is_told() -> None:
    with pytest.raises(UsageError, match="no normalisation layer, so none can be auxiliary; write auxiliary_norms: false"):
        with_auxiliary_norms(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    with pytest.raises(UsageError, match=r"make it with dat\.with_auxiliary_norms"), through_auxiliary_norms(small()):
        pass


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Of one pass each way."""
    model.zero_grad()
    model(images).square().mean().backward()
    with through_auxiliary_norms(model):
        loss = model(images).square().mean()
    loss.backward()
    return {key: parameter.grad.clone() for key, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradients_of_each_kind_are_multiplied_by_its_factor_while_inside() -> None:
    model, images = with_auxiliary_norms(small()).train(), torch.rand(4, 3, 8, 8)
    plain = gradients(model, images)
    with scaled_norm_gradients(model, main=2.0, auxiliary=5.0):
        scaled = gradients(model, images)
    assert len(plain) == 12
    for key, gradient in plain.items():
        factor = 2.0 if ".main." in key else 5.0 if ".auxiliary." in key else 1.0
        torch.testing.assert_close(scaled[key], factor * gradient, msg=lambda said, key=key: f"{key}: {said}")
    again = gradients(model, images)
    for key, gradient in plain.items():
        torch.testing.assert_close(again[key], gradient)


def test_the_factors_act_on_what_is_added_not_on_what_is_there() -> None:
    model, images = with_auxiliary_norms(small()).train(), torch.rand(4, 3, 8, 8)
    for _ in range(2):
        with scaled_norm_gradients(model, main=3.0, auxiliary=1.0):
            model(images).square().mean().backward()
    twice = layers(model)[0].main.weight.grad
    model.zero_grad()
    model(images).square().mean().backward()
    once = layers(model)[0].main.weight.grad
    assert isinstance(once, Tensor)
    torch.testing.assert_close(twice, 6.0 * once)
