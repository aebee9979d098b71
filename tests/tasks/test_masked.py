"""Masked reconstruction: one loss per image, the same hidden patches in attack and training, a target that has a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dat.attacks.gradient import input_gradient
from dat.errors import UsageError
from dat.methods.at import AT
from dat.nn.features import encoder_of
from dat.nn.mae import MaskedAutoencoder, patchify, unpatchify
from dat.nn.norm import Normalized
from dat.tasks.masked import Hidden, MaskedReconstruction, check_target
from dat.types import Batch, DrawingTask, Task, concatenated

TINY: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 1,
    "num_heads": 3,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def autoencoder(**changes: Any) -> Normalized:
    torch.manual_seed(0)
    return Normalized(MaskedAutoencoder(**{**TINY, **changes}), mean=MEAN, std=STD).eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def drawn(task: MaskedReconstruction, *, seed: int = 2) -> Batch[Hidden]:
    return task.drawn(Batch(images(), torch.zeros(3), torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("target", ["clean", "adversarial"])
def test_the_loss_of_an_image_is_that_of_the_image_alone(norm_pix: bool, target: Any) -> None:
    model, task = autoencoder(norm_pix=norm_pix), MaskedReconstruction(4, target)
    batch, shown = drawn(task), images().flip(0)
    together = task.losses(model, shown, batch.targets)
    alone = [task.losses(model, shown[row : row + 1], batch.targets[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)
    assert len(together.unique()) == 3


@pytest.mark.shared
@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_loss_is_the_original_one(golden: Callable[[str], Path], norm_pix: bool) -> None:
    """Its mean over images of which as many patches are hidden is the original's loss."""
    folder = golden("mae")
    known, config = load_file(folder / "io.safetensors"), {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}
    config |= {"num_heads": 3, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    network = MaskedAutoencoder(**config, norm_pix=norm_pix)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    model = Normalized(network, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    losses = MaskedReconstruction(8).losses(model, known["imgs"], Hidden(known["noise"], known["imgs"]))
    expected = known[f"loss_norm_pix_{str(norm_pix).lower()}"].squeeze()
    torch.testing.assert_close(losses.mean(), expected, rtol=1e-5, atol=0)


def test_the_target_is_the_clean_image_or_the_one_that_is_shown() -> None:
    """What is predicted from the shown image is compared, in NumPy's words, with one or the other."""
    model, shown = autoencoder(norm_pix=False), images().flip(0)
    network = cast(MaskedAutoencoder, model.network)
    batch = drawn(MaskedReconstruction(4))
    normalised = [(picture - model.mean) / model.std for picture in (shown, images())]
    latent, mask, restore = network.encode(normalised[0], batch.targets.noise)
    for target, compared in zip(("adversarial", "clean"), normalised, strict=True):
        errors = (network.decode(latent, restore) - patchify(compared, 4)).square().mean(-1)
        expected = (errors * mask).sum(1) / mask.sum(1)
        found = MaskedReconstruction(4, cast(Any, target)).losses(model, shown, batch.targets)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_attack_and_training_see_the_same_mask() -> None:
    """The masks of one step are one; each method asks the model with the noise of the batch, and each step draws another."""
    model, task = autoencoder(), MaskedReconstruction(4)
    seen: list[Tensor] = []

    class Watched(Normalized):
        def forward(self, images: Tensor, *others: Any) -> Any:
            seen.append(others[0])
            return super().forward(images, *others)

    watched, batch = Watched(model.network, mean=MEAN, std=STD), drawn(task)
    for loss in AT(epsilon=0.1, step_size=0.05, steps=2)(watched, batch, task):
        loss.backward()
    assert len(seen) == 3
    assert all(torch.equal(noise, batch.targets.noise) for noise in seen)
    assert not torch.equal(drawn(task, seed=3).targets.noise, batch.targets.noise)
    gradient = input_gradient(batch.images, lambda shown: task.losses(model, shown, batch.targets))
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    assert batch.targets.noise.shape == (3, 16)


def test_with_a_clean_target_an_adversary_gets_at_the_seen_patches_alone() -> None:
    model, batch = autoencoder(norm_pix=False), drawn(MaskedReconstruction(4))
    _, mask, _ = cast(MaskedAutoencoder, model.network).encode(batch.images, batch.targets.noise)
    reached = {}
    for target in ("clean", "adversarial"):
        task = MaskedReconstruction(4, cast(Any, target))
        gradient = input_gradient(batch.images, lambda shown, task=task: task.losses(model, shown, batch.targets))
        reached[target] = (patchify(gradient, 4).abs().sum(-1) > 0).float()
    assert torch.equal(reached["clean"], 1 - mask)
    assert reached["adversarial"].all()


def test_hidden_is_indexed_moved_and_joined_like_a_tensor() -> None:
    targets = drawn(MaskedReconstruction(4)).targets
    assert len(targets) == 3
    assert torch.equal(targets[torch.tensor([2, 0])].noise, targets.noise[[2, 0]])
    assert torch.equal(targets[1:].clean, images()[1:])
    joined = concatenated([targets[:1], targets.to("cpu")[1:]])
    assert torch.equal(joined.noise, targets.noise)
    assert torch.equal(joined.clean, targets.clean)
    assert isinstance(MaskedReconstruction(4), Task)
    assert isinstance(MaskedReconstruction(4), DrawingTask)


def test_features_are_what_the_classifier_of_the_same_weights_pools() -> None:
    import timm

    from dat.nn.zoo import begin_with

    model = autoencoder()
    options = {key: TINY[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")}
    twin = timm.create_model("vit_base_patch16_224", num_classes=5, global_pool="avg", **options).eval()
    begin_with(twin, dict(model.network.state_dict()), name="itself")
    normalised = (images() - model.mean) / model.std
    tokens = cast(Any, twin).forward_features(normalised)
    expected = cast(MaskedAutoencoder, model.network).norm(tokens)[:, 1:].mean(dim=1)
    torch.testing.assert_close(encoder_of(model)(images()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_reconstruction_keeps_what_was_seen(norm_pix: bool) -> None:
    network = cast(MaskedAutoencoder, autoencoder(norm_pix=norm_pix).network)
    found, mask = network.reconstruct(images(), torch.rand(3, 16))
    seen = unpatchify((1 - mask)[..., None].expand(-1, -1, 48).contiguous(), 4) == 1
    torch.testing.assert_close(found[seen], images()[seen])
    assert (found[~seen] != images()[~seen]).all()
    assert mask.sum(dim=1).tolist() == [12, 12, 12]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: MaskedReconstruction(0), "patch_size is 0; write the side of a patch in pixels"),
        (lambda: check_target("noisy"), "target is 'noisy'; write clean or adversarial"),
        (lambda: drawn(MaskedReconstruction(5)), "Patches of 5 pixels do not divide images of 16 x 16"),
        (lambda: autoencoder(mask_ratio=1.0), r"mask_ratio is 1\.0 of 16 patches; write a share that hides some"),
        (lambda: autoencoder(mask_ratio=0.0), r"mask_ratio is 0\.0 of 16 patches"),
        (lambda: autoencoder(patch_size=5), "patch_size 5 does not divide pictures of 16 pixels a side"),
        (lambda: autoencoder(patch_size=0), "patch_size is 0; write the side of a patch in pixels"),
        (lambda: autoencoder()(images(), torch.rand(2, 16)), "3 images come with noise for 2"),
    ],
)
def test_what_cannot_be_is_refused(act: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        act()
