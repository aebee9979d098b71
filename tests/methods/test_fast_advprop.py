"""Fast AdvProp: one whole step of the reference program, and what its parts promise."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dat.errors import UsageError
from dat.methods.fast_advprop import FastAdvProp
from dat.nn.norm import Normalized, TwoNorms, with_auxiliary_norms
from dat.tasks.classification import Classification
from dat.types import Batch

Golden = Callable[[str], Path]
TASK = Classification()


def reference_network() -> nn.Sequential:
    layers = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
    layers += [nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7))


def two_norms() -> nn.Module:
    torch.manual_seed(0)
    return with_auxiliary_norms(reference_network()).train()


def in_our_words(key: str) -> str:
    """The reference's layer holds its auxiliary one inside; ours holds both."""
    layer, _, rest = key.partition(".")
    if layer not in "14":
        return f"network.{key}"
    return f"network.{layer}.auxiliary.{rest.removeprefix('aux_bn.')}" if "aux_bn" in rest else f"network.{layer}.main.{rest}"


def batch(count: int = 10, *, seed: int = 3) -> Batch:
    numbers = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(count, 3, 8, 8, generator=numbers), torch.arange(count) % 7, numbers)


def step(method: FastAdvProp, model: nn.Module, given: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """The losses of a step, and what the model was shown."""
    seen: list[Tensor] = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    losses = []
    for loss in method(model, given, TASK):
        loss.backward()
        losses.append(loss.detach())
    hook.remove()
    return losses, seen


@pytest.mark.shared
def test_a_step_equals_the_reference(golden: Golden) -> None:
    """Start, adversarial images, losses, gradients and, after a step of SGD, weights and running statistics."""
    folder = golden("fast_advprop")
    values = load_file(folder / "io.safetensors")
    model = with_auxiliary_norms(Normalized(reference_network(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))).train()
    before, after = (
        {in_our_words(key): tensor for key, tensor in load_file(folder / f"weights_{when}.safetensors").items()}
        for when in ("before", "after")
    )
    model.load_state_dict(before)
    given = Batch((values["inputs"] + 1) / 2, values["targets"])

    losses, seen = step(FastAdvProp(noise_threshold=9.0), model, given)

    clean, start, adversarial = (2 * images - 1 for images in seen)
    torch.testing.assert_close(clean, values["inputs"][:8], atol=1e-6, rtol=0)
    torch.testing.assert_close(start, values["start"], atol=1e-6, rtol=0)
    torch.testing.assert_close(adversarial, values["adversarial"], atol=1e-6, rtol=0)
    expected = [values["loss_clean"].sum(), 0.5 * values["loss_attack"].sum(), 0.5 * values["loss_adv"].sum()]
    torch.testing.assert_close(10 * torch.stack(losses), torch.stack(expected), atol=1e-5, rtol=0)
    gradients = {in_our_words(key.removeprefix("grad.")): value for key, value in values.items() if key.startswith("grad.")}
    assert set(gradients) == {key for key, _ in model.named_parameters()}
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[key], atol=1e-6, rtol=1e-5, msg=lambda said, key=key: f"{key}: {said}"
        )
    torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4).step()
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, after[key], atol=1e-6, rtol=1e-5, msg=lambda said, key=key: f"{key}: {said}")


@pytest.mark.parametrize(("count", "share", "adversarial"), [(10, 0.2, 2), (4, 0.2, 1), (6, 0.5, 3), (128, 0.2, 26)])
def test_the_first_images_are_clean_and_the_last_adversarial(count: int, share: float, adversarial: int) -> None:
    given = batch(count)
    _, (clean, start, moved) = step(FastAdvProp(epsilon=0.1, step_size=0.1, adversarial_share=share), two_norms(), given)
    assert torch.equal(clean, given.images[: count - adversarial])
    assert len(start) == len(moved) == adversarial
    for images in (start, moved):
        assert (images - given.images[count - adversarial :]).abs().max() <= 0.1 + 1e-6
        assert images.min() >= 0
        assert images.max() <= 1
    assert ((moved - start).abs() > 1e-3).float().mean() > 0.9


def test_the_start_is_noise_where_the_number_of_the_step_says_so() -> None:
    """Rows of the whole micro-batch's noise, inside the ball, and moved up the loss."""
    given, model = batch(), two_norms()
    _, (_, start, _) = step(FastAdvProp(epsilon=0.1, noise_threshold=-9.0), model, given)
    twin = batch()
    twin.draw_once(torch.randn)
    noise = twin.draw(torch.rand, 3, 8, 8)
    torch.testing.assert_close(start, (given.images + 0.1 * (2 * noise - 1)).clamp(0, 1)[8:], atol=1e-6, rtol=0)


def test_gradients_of_micro_batches_add_up() -> None:
    """The correction for the images seen acts on each micro-batch's own part, and ends with it."""
    given, others = batch(), batch(seed=4)
    alone, both = [], two_norms()
    for part in (given, others):
        model = two_norms()
        step(FastAdvProp(), model, part)
        alone.append([parameter.grad for parameter in model.parameters()])
    for part in (batch(), batch(seed=4)):
        step(FastAdvProp(), both, part)
    for parameter, first, second in zip(both.parameters(), *alone, strict=True):
        torch.testing.assert_close(parameter.grad, first + second)


def test_nothing_is_left_on_the_model_when_a_step_is_given_up() -> None:
    model = two_norms()
    steps = FastAdvProp()(model, batch(), TASK)
    assert isinstance(steps, Generator)
    next(steps).backward()
    steps.close()
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert not any(part.is_auxiliary for part in model.modules() if isinstance(part, TwoNorms))


def test_layers_that_are_frozen_stay_frozen() -> None:
    model = two_norms()
    for part in model.modules():
        if isinstance(part, TwoNorms):
            part.main.requires_grad_(False)
    step(FastAdvProp(), model, batch())
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


def test_without_auxiliary_norms_all_layers_see_all_images() -> None:
    losses, _ = step(FastAdvProp(auxiliary_norms=False), reference_network(), batch())
    assert len(losses) == 3
    model = two_norms()
    step(FastAdvProp(auxiliary_norms=False), model, batch())
    plain = reference_network()
    plain.load_state_dict(
        {key.replace("main.", ""): tensor for key, tensor in two_norms().state_dict().items() if "auxiliary" not in key}
    )
    step(FastAdvProp(auxiliary_norms=False), plain, batch())
    ours = [parameter.grad for key, parameter in model.named_parameters() if "auxiliary" not in key]
    for gradient, parameter in zip(ours, plain.parameters(), strict=True):
        assert gradient is not None
        assert parameter.grad is not None
        assert torch.equal(gradient, parameter.grad)


def test_a_gradient_that_overflows_leaves_images_and_statistics_finite() -> None:
    """In float16 the scaler skips such a step, but running statistics would keep what they saw."""
    model, seen = two_norms(), []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for loss in FastAdvProp()(model, batch(), TASK):
        (loss * torch.inf).backward()
    hook.remove()
    assert not all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert seen[-1].isfinite().all()
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_a_loop_that_does_not_back_propagate_is_told() -> None:
    with pytest.raises(UsageError, match="back-propagate each"):
        list(FastAdvProp()(two_norms(), batch(), TASK))


@pytest.mark.parametrize(("count", "share", "few"), [(2, 0.2, 0), (1, 0.5, 0), (4, 0.9, 4)])
def test_a_micro_batch_too_small_for_the_split_is_refused(count: int, share: float, few: int) -> None:
    with pytest.raises(UsageError, match=f"makes {few} of the {count} images of a micro-batch adversarial; choose a larger"):
        next(FastAdvProp(adversarial_share=share)(two_norms(), batch(count), TASK))


@pytest.mark.parametrize(("name", "value"), [("epsilon", -0.1), ("step_size", -1.0), ("noise_threshold", torch.nan)])
def test_settings_that_cannot_be_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        FastAdvProp(**{name: value})  # pyright: ignore[reportArgumentType]  # none of these is the switch


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, torch.nan])
def test_a_share_that_leaves_out_a_kind_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"adversarial_share is .*; write e\.g\. 0\.2"):
        FastAdvProp(adversarial_share=share)
