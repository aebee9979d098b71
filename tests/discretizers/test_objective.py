import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import vgg

from dat.discretizers.objective import (
    VQGANObjective,
    adaptive_weight,
    hinge_loss,
    minimax,
    pixel_loss,
    raised_logit,
    vanilla_loss,
)
from dat.discretizers.quantizers.nearest import Quantized
from dat.errors import UsageError
from dat.nn.patch_discriminator import PatchDiscriminator
from dat.nn.perceptual import BACKBONES, LPIPS

Golden = Callable[[str], Path]
OBJECTIVE = VQGANObjective(disc_start=10, disc_weight=0.8)


@pytest.fixture
def narrow_lpips(golden: Golden) -> LPIPS:
    """LPIPS on a VGG16 of the widths of the golden data."""
    widths = (8, 8, 12, 16, 16)
    plan = [entry for width, depth in zip(widths, (2, 2, 3, 3, 3), strict=True) for entry in (*[width] * depth, "M")]
    lpips = LPIPS(list(vgg.make_layers(plan)), stops=BACKBONES["vgg16"].stops, widths=widths)
    lpips.load_state_dict(load_file(golden("lpips") / "weights.safetensors"))
    return lpips


def quantized(codebook_loss: float, commitment_loss: float) -> Quantized:
    codes = torch.zeros(2, 1, 1, dtype=torch.int64)
    return Quantized(torch.zeros(2, 1, 1, 1), codes, torch.tensor(codebook_loss), torch.tensor(commitment_loss))


@pytest.mark.shared
@pytest.mark.parametrize("update", [5, 20])
def test_the_losses_and_gradients_are_tamings(golden: Golden, narrow_lpips: LPIPS, update: int) -> None:
    folder = golden("vqgan_loss")
    io, values = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())["values"]
    discriminator = PatchDiscriminator(layers=3, width=4)
    discriminator.load_state_dict(load_file(golden("patchgan") / "weights.safetensors"))
    weight = io["last_layer_weight"].requires_grad_()
    reconstruction = F.conv2d(io["features"], weight, io["last_layer_bias"], padding=1)
    loss = OBJECTIVE.generator_loss(
        io["inputs"],
        reconstruction,
        quantized(0.0, 0.37),
        last_layer=weight,
        logits_fake=discriminator(reconstruction),
        perceptual=narrow_lpips,
        updates=update,
    )
    expected = values[f"step{update}.generator"]
    assert loss.total.item() == pytest.approx(expected["train/total_loss"], rel=1e-5)
    assert float(loss.parts["reconstruction"]) == pytest.approx(expected["train/nll_loss"], rel=1e-5)
    if update == 20:
        assert float(loss.parts["generator"]) == pytest.approx(expected["train/g_loss"], rel=1e-5)
        assert float(loss.parts["generator_weight"]) == pytest.approx(expected["train/d_weight"], rel=1e-5)
    (gradient,) = torch.autograd.grad(loss.total, weight)
    _close(gradient, io[f"step{update}.grad_last_layer_weight"])
    logits_real, logits_fake = discriminator(io["inputs"]), discriminator(reconstruction.detach())
    disc_loss = OBJECTIVE.discriminator_loss(logits_real, logits_fake, updates=update)
    assert disc_loss.item() == pytest.approx(values[f"step{update}.discriminator"]["train/disc_loss"], rel=1e-5)
    disc_loss.backward()
    _close(next(discriminator.parameters()).grad, io[f"step{update}.grad_disc_first_conv"])


def _close(ours: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.shared
def test_the_adaptive_weight_is_tamings(golden: Golden) -> None:
    folder = golden("vqgan_loss")
    io, config = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())
    expected = config["values"]["adaptive_weight_on_simple_losses"]["value"]
    weight = io["last_layer_weight"].requires_grad_()
    reconstruction = F.conv2d(io["features"], weight, io["last_layer_bias"], padding=1)
    nll, generator = pixel_loss(io["inputs"], reconstruction), -reconstruction.square().mean()
    # The stored value has disc_weight in it.
    given = adaptive_weight(nll, generator, weight) * config["config"]["disc_weight"]
    assert given.item() == pytest.approx(expected, rel=1e-5)
    assert not given.requires_grad


def test_the_adaptive_weight_is_bounded() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert adaptive_weight(1e9 * weight.sum(), (0 * weight).sum(), weight).item() == 1e4


@pytest.mark.shared
def test_the_adversarial_losses_are_tamings(golden: Golden) -> None:
    io = load_file(golden("patchgan") / "io.safetensors")
    logits = io["logits_real_train"], io["logits_fake_train"]
    assert hinge_loss(*logits).item() == pytest.approx(io["hinge"].item(), rel=1e-5)
    assert vanilla_loss(*logits).item() == pytest.approx(io["vanilla"].item(), rel=1e-5)
    assert raised_logit(logits[1]).item() == pytest.approx(io["generator"].item(), rel=1e-5)


def test_the_vanilla_losses_are_the_formula() -> None:
    real, fake = torch.randn(2, 40)
    discriminates = -(real.sigmoid().log() + (1 - fake.sigmoid()).log()).mean() / 2
    assert vanilla_loss(real, fake).item() == pytest.approx(discriminates.item(), rel=1e-5)
    assert minimax(fake).item() == pytest.approx((1 - fake.sigmoid()).log().mean().item(), rel=1e-5)


def test_the_papers_objective_is_its_formula() -> None:
    images, reconstruction = torch.rand(2, 2, 3, 8, 8)
    logits = torch.randn(2, 1, 3, 3)
    loss = VQGANObjective.paper().generator_loss(
        images,
        reconstruction,
        quantized(0.2, 0.3),
        last_layer=torch.zeros(1),
        logits_fake=logits,
        perceptual=lambda a, b: (a - b).square().mean(dim=(1, 2, 3)),
    )
    expected = F.mse_loss(images, reconstruction) + 0.2 + 0.3 + (1 - logits.sigmoid()).log().mean()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_codebook_that_is_not_learned_by_gradient_leaves_the_commitment() -> None:
    images, found = torch.rand(1, 3, 4, 4), []
    for legacy in (True, False):
        objective = VQGANObjective(perceptual_weight=0.0, beta=0.25, legacy=legacy, codebook_weight=2.0)
        loss = objective.generator_loss(images, images, quantized(7.0, 0.4), last_layer=images, codebook_term=False)
        found.append(loss.total.item())
    assert found == pytest.approx([2 * 0.25 * 0.4] * 2)


def test_the_entropy_loss_is_weighed() -> None:
    images, objective = torch.rand(1, 3, 4, 4), VQGANObjective(perceptual_weight=0.0, entropy_weight=0.1)
    with_entropy = replace(quantized(0.0, 0.0), entropy_loss=torch.tensor(-3.0))
    loss = objective.generator_loss(images, images, with_entropy, last_layer=images)
    assert loss.total.item() == pytest.approx(-0.3)
    assert float(loss.parts["entropy"]) == pytest.approx(-3.0)
    unweighed = replace(objective, entropy_weight=0.0).generator_loss(images, images, with_entropy, last_layer=images)
    assert unweighed.total.item() == 0
    assert "entropy" not in unweighed.parts
    with pytest.raises(UsageError, match=r"entropy_weight is 0\.1, but this quantizer has no entropy loss"):
        objective.generator_loss(images, images, quantized(0.0, 0.0), last_layer=images)


def test_the_discriminator_waits_for_its_start() -> None:
    images, reconstruction, logits = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4), torch.ones(1, requires_grad=True)
    pixels = replace(OBJECTIVE, perceptual_weight=0.0)
    early = pixels.generator_loss(images, reconstruction, quantized(0.0, 0.0), last_layer=logits, updates=9)
    assert early.total.item() == pytest.approx((images - reconstruction).abs().mean().item())
    pixels.discriminator_loss(logits, logits, updates=9).backward()
    assert logits.grad is not None
    assert logits.grad.item() == 0
    assert not pixels.adversarial(9)
    assert pixels.adversarial(10)
    with pytest.raises(UsageError, match="disc_start=10; give logits_fake"):
        pixels.generator_loss(images, reconstruction, quantized(0.0, 0.0), last_layer=logits, updates=10)


def test_a_missing_perceptual_distance_is_not_overlooked() -> None:
    images = torch.rand(1, 3, 4, 4)
    with pytest.raises(UsageError, match=r"perceptual_weight is 1\.0"):
        OBJECTIVE.generator_loss(images, images, quantized(0.0, 0.0), last_layer=images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"disc_loss": "wgan"}, "wgan"),
        ({"generator_term": "wgan"}, "wgan"),
        ({"pixel_weight": 0.0, "perceptual_weight": 0.0}, "pixel_weight or perceptual_weight"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    # Set afterwards, as the type checks of the tests would refuse the words themselves.
    objective = VQGANObjective()
    for name, value in settings.items():
        object.__setattr__(objective, name, value)
    with pytest.raises(UsageError, match=message):
        objective.__post_init__()
