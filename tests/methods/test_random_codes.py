import pytest
import torch
from torch import Tensor, nn

from dat.discretizers.codes import changed, modified_code_rate, resample, resample_nearby
from dat.discretizers.frozen import nearest_others
from dat.errors import UsageError
from dat.methods.random_codes import RandomCodes
from dat.tasks.classification import Classification
from dat.types import Batch

CODEBOOK = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))


class PixelCodes:
    """A discretizer of one code per pixel, which keeps the codes it decoded; without `neighbours`."""

    codebook_size, stride = len(CODEBOOK), 1

    def encode(self, images: Tensor) -> Tensor:
        return (images.movedim(1, -1).unsqueeze(-2) - CODEBOOK).norm(dim=-1).argmin(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        self.codes = codes
        return self.vectors(codes)

    def __call__(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    def vectors(self, codes: Tensor) -> Tensor:
        return CODEBOOK[codes].movedim(-1, 1)


class NearCodes(PixelCodes):
    def decode_vectors(self, vectors: Tensor) -> Tensor:
        return vectors

    def neighbours(self, count: int) -> Tensor:
        return nearest_others(CODEBOOK, count)


def batch() -> Batch:
    images = torch.rand(8, 3, 30, 30, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(8) % 5, torch.Generator().manual_seed(2))


def run(method: RandomCodes) -> None:
    list(method(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)), batch(), Classification()))


def test_codes_become_near_ones_at_the_rate() -> None:
    space = NearCodes()
    run(RandomCodes(space, rate=0.3, neighbours=4))
    original = space.encode(batch().images)
    modified = changed(original, space.codes)
    assert modified_code_rate(original, space.codes).mean().item() == pytest.approx(0.3, abs=0.02)
    ranks = (space.neighbours(4)[original] == space.codes.unsqueeze(-1))[modified]
    assert (ranks.sum(dim=-1) == 1).all()
    assert (ranks.float().mean(dim=0) - 0.25).abs().max() < 0.05


def test_without_neighbours_any_code_is_drawn_as_before() -> None:
    space, given = PixelCodes(), batch()
    run(RandomCodes(space, rate=0.3))
    original = space.encode(given.images)
    chance, choice = (given.draw(torch.rand, 30, 30) for _ in range(2))
    assert torch.equal(space.codes, resample(original, 20, 0.3, chance, choice))


def test_the_same_codes_are_chosen_whatever_they_become() -> None:
    every, near = NearCodes(), NearCodes()
    run(RandomCodes(every, rate=0.3))
    run(RandomCodes(near, rate=0.3, neighbours=2))
    original = near.encode(batch().images)
    assert torch.equal(changed(original, every.codes), changed(original, near.codes))


def test_the_largest_number_below_one_is_the_last_neighbour() -> None:
    last = torch.full((1, 1, 1), 1.0).nextafter(torch.zeros(()))
    near = nearest_others(CODEBOOK, 7)
    assert resample_nearby(torch.zeros(1, 1, 1, dtype=torch.int64), near, 1.0, 0 * last, last).item() == near[0, 6]
    with pytest.raises(UsageError, match=r"rate of random codes is 1.5"):
        resample_nearby(torch.zeros(1, 1, 1, dtype=torch.int64), near, 1.5, last, last)


@pytest.mark.parametrize(("settings", "message"), [({"rate": 2.0}, "rate is 2.0"), ({"neighbours": 0}, "neighbours is 0")])
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RandomCodes(NearCodes(), **settings)


def test_a_discretizer_without_vectors_is_refused() -> None:
    with pytest.raises(UsageError, match="A PixelCodes gives no vectors"):
        run(RandomCodes(PixelCodes(), neighbours=4))
