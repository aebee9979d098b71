"""Methods whose step is named by the share of codes it changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dat.attacks.rate import Rate
from dat.discretizers.codes import modified_code_rate
from dat.discretizers.pretrained import load_discretizer
from dat.errors import UsageError
from dat.methods.at import AT
from dat.methods.calibration import Calibrated, calibrated, reached
from dat.methods.dat import DAT
from dat.methods.dat_fast import DATFast
from dat.methods.dat_free import DATFree
from dat.methods.dat_official import DATOfficial
from dat.methods.stack import DeepAugmentAugMixDAT
from dat.tasks.classification import Classification
from dat.types import Batch, Images

torch.set_num_threads(1)  # the tensors are tiny

Q = load_discretizer("cifar-f2-1024-fast")
RATE = 0.1


class Watched:
    """The discretizer, and the images it was shown last."""

    codebook_size, stride = Q.codebook_size, Q.stride

    def __init__(self) -> None:
        self.shown: list[Images] = []

    def __call__(self, images: Images) -> Images:
        self.shown.append(images.detach())
        return Q(images)

    def encode(self, images: Images) -> Tensor:
        return Q.encode(images)

    def decode(self, codes: Tensor) -> Tensor:
        return Q.decode(codes)


def network(dropout: float = 0.2) -> nn.Sequential:
    """With dropout and statistics, as what is trained has."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 49, 5)).train()


def batches(count: int = 4) -> list[Batch]:
    smooth = nn.functional.interpolate(torch.rand(8 * count, 3, 5, 5, generator=torch.Generator().manual_seed(1)), size=16)
    return [
        Batch(images, torch.arange(8) % 5, torch.Generator().manual_seed(number))
        for number, images in enumerate(smooth.split(8))
    ]


MADE: dict[str, Callable[[Any], Any]] = {
    "dat": lambda q: DAT(q, Rate(RATE)),
    "dat, two steps": lambda q: DAT(q, Rate(RATE), steps=2),
    "dat, signs": lambda q: DAT(q, Rate(RATE), gradient_scale="linf"),
    "dat, random": lambda q: DAT(q, Rate(RATE), direction="random"),
    "dat-free": lambda q: DATFree(q, Rate(RATE)),
    "dat-free, random": lambda q: DATFree(q, Rate(RATE), direction="random"),
    "dat-fast": lambda q: DATFast(q, Rate(RATE), adversarial_share=1.0, clean_share=0.0),
    "dat-fast, random": lambda q: DATFast(q, Rate(RATE), adversarial_share=1.0, clean_share=0.0, direction="random"),
    "dat-official": lambda q: DATOfficial(q, Rate(RATE), None, random_start_probability=0.0),
    "dat-official, random start": lambda q: DATOfficial(q, Rate(RATE), None, random_start_probability=1.0),
    "stack": lambda q: DeepAugmentAugMixDAT(q, Rate(RATE), share=0.0),
}


@pytest.mark.parametrize("name", MADE)
def test_the_search_leaves_the_model_and_the_stream_as_they_were(name: str) -> None:
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    calibrated(MADE[name](Q), model, batches(), Classification(num_classes=5))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("name", MADE)
def test_the_method_changes_that_share_when_it_trains(name: str) -> None:
    """Counted by what it hands to the discretizer, on the batches on which the length was sought."""
    # Two attack in train mode: with dropout, training would draw other masks than the search did, and the share be by chance.
    watched, model = Watched(), network(dropout=0.0 if name.startswith(("dat-free", "dat-official")) else 0.2)
    sought = MADE[name](watched)
    assert isinstance(sought, Calibrated)
    method = calibrated(sought, model, batches(), Classification(num_classes=5))
    rates = []
    for batch in batches():
        watched.shown.clear()
        for loss in method(model, batch, Classification(num_classes=5)):
            loss.backward()
        start = Q(batch.images) if name.startswith("dat-official") else batch.images
        rates.append(modified_code_rate(Q.encode(start), Q.encode(watched.shown[-1])))
    assert float(torch.cat(rates).mean()) == pytest.approx(RATE, rel=0.02)


def test_the_gain_is_above_that_of_a_random_step() -> None:
    model, task = network().eval(), Classification(num_classes=5)
    uphill, blind = (
        reached(DAT(Q, Rate(RATE), direction=direction), model, batches(), task) for direction in ("gradient", "random")
    )
    assert uphill.gain > 0
    assert uphill.gain > 2 * abs(blind.gain)
    assert uphill.rate == pytest.approx(blind.rate, rel=0.05) == pytest.approx(RATE, rel=0.03)


def test_a_method_that_is_not_settled_says_what_to_do() -> None:
    for method in (DAT(Q, Rate(RATE)), DATFree(Q, Rate(RATE)), DATOfficial(Q, Rate(RATE), None)):
        losses = method(network(), batches()[0], Classification(num_classes=5))
        if not isinstance(method, DAT):
            next(losses).backward()  # that of the images
        with pytest.raises(UsageError, match=r"is sought by a rate of 0\.1, and not found yet; .* dat\.calibrated"):
            next(losses)


def test_a_method_with_a_length_seeks_none() -> None:
    assert DAT(Q, 0.1).sought is None
    assert not isinstance(AT(), Calibrated)
    with pytest.raises(UsageError, match=r"This method has a length; give it a dat\.Rate instead"):
        calibrated(DAT(Q, 0.1), network(), batches(), Classification(num_classes=5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: DAT(Q, Rate(RATE), direction="none"), "direction is 'none', which changes no code, but alpha is sought"),
        (lambda: DAT(Q, Rate(RATE), gradient_scale="raw"), "gradient_scale is 'raw'"),
        (lambda: DAT(Q, Rate(RATE), step_size=0.1), r"step_size is 0\.1, a length, but alpha is sought"),
        (lambda: DATFree(Q, Rate(RATE), direction="none"), "direction is 'none'"),
        (lambda: DATOfficial(Q, Rate(RATE)), r"step_size is 0\.1, a length, but epsilon is sought .* write step_size: null"),
        (lambda: DATOfficial(Q, -1.0, None), r"epsilon is -1\.0, but it cannot be negative"),
        (lambda: DeepAugmentAugMixDAT(Q, -1.0), r"alpha is -1\.0, but it is the length of a step"),
    ],
)
def test_settings_without_a_meaning_are_sentences(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def test_a_step_size_of_none_is_epsilon() -> None:
    task = Classification(num_classes=5)
    losses = [[loss.item() for loss in DATOfficial(Q, 0.7, size)(network(), batches()[0], task)] for size in (None, 0.7, 0.1)]
    assert losses[0] == losses[1] != losses[2]
