from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.errors import UsageError
from dat.methods.augmix import AugMix
from dat.methods.dat import DAT
from dat.methods.deepaugment import DeepAugment
from dat.methods.stack import DeepAugmentAugMixDAT
from dat.tasks.classification import Classification
from dat.types import Batch

NETWORK = VQGANConfig(n_embed=16, embed_dim=4, z_channels=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())


@pytest.fixture(scope="module")
def discretizer() -> FrozenDiscretizer:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    return FrozenDiscretizer(VQGAN(NETWORK))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def batch() -> Batch:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    return Batch(images, torch.arange(6) % 5, torch.Generator().manual_seed(2))


def test_it_is_the_three_methods_one_after_the_other(discretizer: FrozenDiscretizer) -> None:
    """With settings unlike their defaults, so that each must arrive where it belongs."""
    method = DeepAugmentAugMixDAT(
        discretizer, alpha=2.0, share=0.7, width=2, depth=2, severity=4.0, concentration=0.5, jsd_weight=3.0
    )
    losses: list[Tensor] = list(method(model(), batch(), Classification()))
    distorted = DeepAugment(share=0.7).distorted(batch())
    mixing = AugMix(width=2, depth=2, severity=4.0, concentration=0.5, jsd_weight=3.0)
    expected = [
        *mixing(model(), distorted, Classification()),
        *DAT(discretizer, alpha=2.0)(model(), distorted, Classification()),
    ]
    assert len(losses) == 2
    torch.testing.assert_close(losses, expected, atol=0, rtol=0)


@pytest.mark.parametrize("settings", [{"alpha": -1.0}, {"share": 2.0}, {"severity": 0.0}, {"jsd_weight": -1.0}])
def test_each_part_refuses_its_settings(settings: dict[str, float], discretizer: FrozenDiscretizer) -> None:
    with pytest.raises(UsageError, match=next(iter(settings))):
        DeepAugmentAugMixDAT(discretizer, **settings)  # pyright: ignore[reportArgumentType]  # all of them are floats
