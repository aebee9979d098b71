from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dat.discretizers import decoder_noise
from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.fast import FastAutoencoder, FastConfig
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.networks.vqvae import VQVAE, VQVAEConfig
from dat.errors import UsageError
from dat.methods.deepaugment import DeepAugment, DeepAugmentDecoder, with_share
from dat.types import Batch

NETWORK = VQGANConfig(n_embed=16, embed_dim=4, z_channels=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())


@pytest.fixture(scope="module")
def discretizer() -> FrozenDiscretizer:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    return FrozenDiscretizer(VQGAN(NETWORK))


def batch(count: int = 6, *, seed: int = 0) -> Batch:
    images = torch.rand(count, 3, 8, 12, generator=torch.Generator().manual_seed(9))
    return Batch(images, torch.arange(count), torch.Generator().manual_seed(seed))


def changed_rows(before: Batch, after: Batch) -> list[int]:
    return (before.images != after.images).flatten(1).any(dim=1).nonzero().flatten().tolist()


@pytest.mark.parametrize(("share", "rows"), [(0.0, []), (0.5, [0, 2, 4]), (0.34, [0, 2, 5]), (1.0, [0, 1, 2, 3, 4, 5])])
def test_a_share_of_the_images_is_distorted(share: float, rows: list[int]) -> None:
    given = batch()
    distorted = DeepAugment(share=share).distorted(given)
    assert changed_rows(given, distorted) == rows
    assert torch.equal(distorted.targets, given.targets)
    assert torch.equal(given.images, batch().images)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7])
def test_parts_without_an_image_to_distort_draw_the_same_numbers(share: float, discretizer: FrozenDiscretizer) -> None:
    whole = batch(10)
    for method in (DeepAugment(share=share), DeepAugmentDecoder(discretizer, share=share)):
        expected = method.distorted(replace(whole, generator=torch.Generator().manual_seed(3)))
        assert expected.generator is not None
        next_number = torch.rand(1, generator=expected.generator)
        for first in range(10):
            numbers = torch.Generator().manual_seed(3)
            rows = slice(first, first + 1)
            part = method.distorted(Batch(whole.images[rows], whole.targets[rows], numbers, first, 10))
            torch.testing.assert_close(part.images, expected.images[rows], atol=1e-5, rtol=0)
            assert torch.equal(torch.rand(1, generator=numbers), next_number)


def test_every_part_of_a_step_has_its_share() -> None:
    """Four processes of eight images: a half of them on each, not all on the first two."""
    counts = []
    for first in range(0, 32, 8):
        part = Batch(torch.zeros(8, 3, 2, 2), torch.zeros(8).long(), None, first, 32)
        counts.append(with_share(part, 0.5, lambda chosen: chosen.images + 1).images[:, 0, 0, 0].sum().item())
    assert counts == [4, 4, 4, 4]


def test_the_method_trains_on_the_distorted_batch() -> None:
    class Mean:
        def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            return images.mean(dim=(1, 2, 3))

    (loss,) = DeepAugment()(nn.Identity(), batch(), Mean())
    torch.testing.assert_close(loss, DeepAugment().distorted(batch()).images.mean())


def test_the_decoder_distorts_and_the_discretizer_stays(discretizer: FrozenDiscretizer) -> None:
    before = {key: value.clone() for key, value in discretizer.state_dict().items()}
    results = [decoder_noise.distorted(discretizer, batch(seed=seed), strength=1.0) for seed in (0, 1, 2, 0)]
    assert torch.equal(results[0], results[3])
    assert (results[0] - results[1]).abs().mean() > 0.005
    assert all(torch.equal(value, before[key]) for key, value in discretizer.state_dict().items())
    assert not any(part._forward_hooks for part in discretizer.modules())
    untouched = discretizer(batch().images)
    assert torch.equal(untouched, FrozenDiscretizer(discretizer.network)(batch().images))


def test_more_strength_distorts_more_and_none_gives_reconstructions(discretizer: FrozenDiscretizer) -> None:
    given = batch()
    sizes = []
    for strength in (0.0, 0.3, 1.0):
        results = [decoder_noise.distorted(discretizer, batch(seed=seed), strength=strength) for seed in range(6)]
        plain = decoder_noise.distorted(discretizer, given, strength=0.0)
        sizes.append(torch.stack([(result - plain).abs().mean() for result in results]).mean().item())
    assert sizes[0] < 1e-6
    assert 0.002 < sizes[1] < sizes[2]


def test_colours_keep_their_mean_and_deviation(discretizer: FrozenDiscretizer) -> None:
    given = replace(batch(), images=0.4 + 0.2 * batch().images)  # far from 0 and 1, where nothing is cut off
    result = decoder_noise.distorted(discretizer, given, strength=1.0)
    torch.testing.assert_close(result.mean(dim=(2, 3)), given.images.mean(dim=(2, 3)), atol=0.03, rtol=0)
    torch.testing.assert_close(result.std(dim=(2, 3)), given.images.std(dim=(2, 3)), atol=0.03, rtol=0)


NETWORKS: list[Callable[[], Autoencoder]] = [
    lambda: VQGAN(NETWORK),
    lambda: FastAutoencoder(FastConfig(codebook_size=16, depth=4, stride=4, width=16)),
    lambda: VQVAE(VQVAEConfig(16, 4, num_hiddens=8, num_residual_layers=1, num_residual_hiddens=4)),
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("what", ["weights", "activations"])
def test_both_kinds_of_change_reach_every_layer_of_other_decoders(network: Callable[[], Autoencoder], what: str) -> None:
    torch.manual_seed(0)
    frozen = FrozenDiscretizer(network())
    for parameter in frozen.parameters():  # some begin at zero
        parameter.add_(0.1 * torch.randn(parameter.shape))
    layers = decoder_noise.decoder_layers(frozen)
    if what == "activations":
        layers = decoder_noise.with_activations(layers, frozen)
    assert len(layers) >= 2
    plain = frozen(batch().images)
    for layer in layers:
        if what == "weights":
            changed = torch.func.functional_call(frozen, {layer.name: 2 * layer.kernels}, (batch().images,))
        else:
            doubling = decoder_noise.Disturbance(torch.full((6, len(layer.kernels)), 2.0), torch.ones(6, 1, 4, 4))
            with decoder_noise.hooked([(layer, doubling)]):
                changed = frozen(batch().images)
        assert not torch.equal(changed, plain), layer.name


def test_what_has_no_decoder_is_refused() -> None:
    class Other:
        codebook_size = stride = 1

        def encode(self, images: Tensor) -> Tensor:
            raise NotImplementedError

        def decode(self, codes: Tensor) -> Tensor:
            raise NotImplementedError

        __call__ = encode

    class Empty(Other, nn.Module):
        __call__ = nn.Module.__call__

    with pytest.raises(UsageError, match="Other is no torch module"):
        decoder_noise.distorted(Other(), batch(), strength=1.0)
    with pytest.raises(UsageError, match="Empty has no decoder of convolutions"):
        decoder_noise.distorted(Empty(), batch(), strength=1.0)


@pytest.mark.parametrize("settings", [{"share": 1.5}, {"share": -0.1}, {"epsilon": -1.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        DeepAugment(**settings)
