"""One row per training method, and the laws that every method obeys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.quantize import CodebookQuantizer
from dat.discretizers.vqgan import VQGAN, VQGANConfig
from dat.methods import METHODS
from dat.methods.random_codes import RandomCodes
from dat.tasks.classification import Classification
from dat.types import Batch, Discretizer, Method

CLASSES = 5
NETWORK = VQGANConfig(n_embed=16, embed_dim=4, z_channels=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())


@dataclass(frozen=True)
class Expected:
    """A method ready to use, and what its card promises per step."""

    build: Callable[[Discretizer], Method]
    forwards: int = 1
    encodings: int = 0
    decodings: int = 0
    draws: bool = False


ROWS = {
    "standard": Expected(lambda _: METHODS["standard"]()),
    "at": Expected(lambda _: METHODS["at"](steps=3, random_start=True), forwards=4, draws=True),
    "random-codes": Expected(lambda q: METHODS["random-codes"](q, rate=0.5), encodings=1, decodings=1, draws=True),
    "dat": Expected(lambda q: METHODS["dat"](q, alpha=1.0), forwards=2, encodings=2, decodings=2),
}
every_method = pytest.mark.parametrize("name", ROWS)


def network(*, batch_norm: bool = True, dropout: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Flatten(), nn.Linear(8 * 64, CLASSES)).train()


@pytest.fixture(scope="module")
def discretizer() -> FrozenDiscretizer:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    vqgan = VQGAN(NETWORK)
    assert isinstance(vqgan.quantize, CodebookQuantizer)
    vqgan.quantize.initialise(vqgan.latents(2 * torch.rand(8, 3, 8, 8) - 1).detach(), torch.Generator().manual_seed(2))
    return FrozenDiscretizer(vqgan)


def batch(count: int = 6, *, soft: bool = False, seed: int = 3) -> Batch:
    numbers = torch.Generator().manual_seed(seed)
    images, targets = torch.rand(count, 3, 8, 8, generator=numbers), torch.arange(count) % CLASSES
    soft_targets = torch.rand(count, CLASSES, generator=numbers).softmax(dim=1)
    return Batch(images, soft_targets if soft else targets, numbers)


@dataclass
class Recorder:
    """A task that remembers which images the model was shown, and in which mode."""

    task: Classification = field(default_factory=Classification)
    shown: list[Tensor] = field(default_factory=list)
    training: list[bool] = field(default_factory=list)
    wanting: list[bool] = field(default_factory=list)

    def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        self.shown.append(images.detach().clone())
        self.training.append(model.training)
        self.wanting.append(images.requires_grad)
        return self.task.losses(model, images, targets)


class Counting(nn.Module):
    """A discretizer that counts how often it is used."""

    def __init__(self, inner: FrozenDiscretizer) -> None:
        super().__init__()
        self.inner, self.codebook_size, self.stride = inner, inner.codebook_size, inner.stride
        self.encodings = self.decodings = 0

    def encode(self, images: Tensor) -> Tensor:
        self.encodings += 1
        return self.inner.encode(images)

    def decode(self, codes: Tensor) -> Tensor:
        self.decodings += 1
        return self.inner.decode(codes)

    def forward(self, images: Tensor) -> Tensor:
        self.encodings, self.decodings = self.encodings + 1, self.decodings + 1
        return self.inner(images)


def test_every_method_has_a_row() -> None:
    assert set(ROWS) == set(METHODS)
    assert len(ROWS) == 4


@every_method
@pytest.mark.parametrize("soft", [False, True])
def test_losses_are_finite_scalars_with_a_graph(name: str, soft: bool, discretizer: FrozenDiscretizer) -> None:
    model, method = network(), ROWS[name].build(discretizer)
    assert isinstance(method, Method)
    losses = []
    for loss in method(model, batch(soft=soft), Classification()):
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        loss.backward()
        losses.append(loss.item())
    assert losses
    assert torch.tensor(losses).isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.grad is not None)


@every_method
def test_nothing_but_the_training_forward_leaves_a_trace(name: str, discretizer: FrozenDiscretizer) -> None:
    """Gradients, running statistics, modes and torch's stream: as if the model had seen the yielded images, once."""
    model, recorder = network(), Recorder()
    model[2].eval()  # a part that the caller froze
    modes = [part.training for part in model.modules()]
    stream = torch.get_rng_state()
    losses = list(ROWS[name].build(discretizer)(model, batch(), recorder))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [part.training for part in model.modules()] == modes

    twin = network()
    torch.set_rng_state(stream)
    shown = [images for images, training in zip(recorder.shown, recorder.training, strict=True) if training]
    expected = [Classification().losses(twin, images, batch().targets).mean() for images in shown]
    # The same dropout mask: the attack drew nothing from torch's stream.
    assert [loss.item() for loss in losses] == [loss.item() for loss in expected]
    for key, tensor in twin.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


@every_method
def test_a_step_costs_what_the_card_says(name: str, discretizer: FrozenDiscretizer) -> None:
    row, counting, recorder = ROWS[name], Counting(discretizer), Recorder()
    list(row.build(counting)(network(), batch(), recorder))
    assert len(recorder.shown) == row.forwards
    assert (counting.encodings, counting.decodings) == (row.encodings, row.decodings)
    # All passes but the last are of the attack: in eval mode, with a gradient with respect to the images.
    assert recorder.training == [False] * (row.forwards - 1) + [True]
    assert recorder.wanting == [True] * (row.forwards - 1) + [False]
    assert all(images.min() >= 0 and images.max() <= 1 for images in recorder.shown)


@every_method
def test_only_standard_training_shows_the_images_themselves(name: str, discretizer: FrozenDiscretizer) -> None:
    recorder = Recorder()
    list(ROWS[name].build(discretizer)(network(), batch(), recorder))
    assert torch.equal(recorder.shown[-1], batch().images) == (name == "standard")


@every_method
def test_the_same_seed_gives_the_same_bits(name: str, discretizer: FrozenDiscretizer) -> None:
    def shown(seed: int) -> Tensor:
        recorder, numbers = Recorder(), torch.Generator().manual_seed(seed)
        list(ROWS[name].build(discretizer)(network(), replace(batch(), generator=numbers), recorder))
        return recorder.shown[-1]

    assert torch.equal(shown(0), shown(0))
    assert torch.equal(shown(0), shown(1)) != ROWS[name].draws


@every_method
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_of_a_batch_see_their_rows_of_the_whole(name: str, size: int, discretizer: FrozenDiscretizer) -> None:
    """A step on several processes, or in micro-batches, uses the numbers of the step on one."""
    model, whole = network(batch_norm=False, dropout=0.0), batch(6)
    method = ROWS[name].build(discretizer)

    def shown(part: Batch) -> tuple[Tensor, Tensor]:
        recorder = Recorder()
        (loss,) = method(model, replace(part, generator=torch.Generator().manual_seed(9)), recorder)
        return recorder.shown[-1], loss

    expected, expected_loss = shown(whole)
    parts = [shown(part_of(whole, first, size)) for first in range(0, 6, size)]
    torch.testing.assert_close(torch.cat([images for images, _ in parts]), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.stack([loss for _, loss in parts]).mean(), expected_loss, atol=1e-5, rtol=0)


def part_of(whole: Batch, first: int, size: int) -> Batch:
    rows = slice(first, first + size)
    return Batch(whole.images[rows], whole.targets[rows], None, first, len(whole.images))


@every_method
def test_bfloat16_autocast(name: str, discretizer: FrozenDiscretizer) -> None:
    model = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = list(ROWS[name].build(discretizer)(model, batch(), Classification()))
    sum(losses, torch.zeros(())).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@every_method
def test_images_and_discretizer_are_left_alone(name: str, discretizer: FrozenDiscretizer) -> None:
    given = batch()
    before = {key: tensor.clone() for key, tensor in discretizer.state_dict().items()}
    for loss in ROWS[name].build(discretizer)(network(), given, Classification()):
        loss.backward()
    assert torch.equal(given.images, batch().images)
    assert given.images.grad is None
    assert all(parameter.grad is None for parameter in discretizer.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in discretizer.state_dict().items())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_stays_in_its_ball_with_a_random_start(norm: str) -> None:
    recorder = Recorder()
    method = METHODS["at"](epsilon=0.1, step_size=0.05, steps=2, norm=norm, random_start=True)
    list(method(network(), batch(), recorder))
    for images in (recorder.shown[0], recorder.shown[-1]):
        delta = (images - batch().images).flatten(1)
        sizes = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
        assert 0.01 < sizes.min() <= sizes.max() <= 0.1 + 1e-6


def test_dat_shows_a_reconstruction_made_worse(discretizer: FrozenDiscretizer) -> None:
    """The attack steps uphill from Q(x), in eval mode, and shows what the discretizer makes of it.

    What the untrained discretizer makes of a step need not have a higher loss; that the step itself has is what is held.
    """
    recorder, given, seen = Recorder(), batch(64), []
    hook = discretizer.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    list(METHODS["dat"](discretizer, alpha=1.0)(network(), given, recorder))
    hook.remove()
    reconstruction, adversarial = recorder.shown
    assert torch.equal(seen[0], given.images)
    assert torch.equal(reconstruction, discretizer(seen[0]))
    assert torch.equal(adversarial, discretizer(seen[1]))
    delta = seen[1] - given.images
    assert (delta.flatten(1).norm(dim=1) <= 1.0 + 1e-5).all()  # shorter only where [0, 1] cut it
    model = network().eval()
    losses = [
        Classification().losses(model, images, given.targets) for images in (reconstruction, reconstruction + 0.1 * delta)
    ]
    assert (losses[1] > losses[0]).float().mean() > 0.95


def test_random_codes_change_at_their_rate(discretizer: FrozenDiscretizer) -> None:
    """Seen by a discretizer that records what it is given to decode; the rate within four deviations."""

    class Seen(Counting):
        def decode(self, codes: Tensor) -> Tensor:
            self.codes = codes
            return super().decode(codes)

    seen, given = Seen(discretizer), batch(200)
    list(RandomCodes(seen, rate=0.3)(network(), given, Recorder()))
    changed = seen.codes != discretizer.encode(given.images)
    assert abs(changed.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / changed.numel()) ** 0.5


def test_images_that_are_no_multiple_of_the_stride_keep_their_size(discretizer: FrozenDiscretizer) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    given = Batch(torch.rand(2, 3, 7, 9), torch.tensor([0, 1]), torch.Generator())
    for row in ROWS.values():
        recorder = Recorder()
        list(row.build(discretizer)(model, given, recorder))
        assert recorder.shown[-1].shape == (2, 3, 7, 9)
