"""One row per training method, and the laws that every method obeys."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.quantizers.nearest import CodebookQuantizer
from dat.errors import UsageError
from dat.methods import METHODS
from dat.methods.controls import check_direction
from dat.methods.random_codes import RandomCodes
from dat.nn.norm import TwoNorms, has_auxiliary_norms, through_auxiliary_norms, with_auxiliary_norms
from dat.tasks.classification import Classification
from dat.types import Batch, Discretizer, Method

CLASSES = 5
NETWORK = VQGANConfig(n_embed=16, embed_dim=4, z_channels=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
TASK = Classification(num_classes=CLASSES)


@dataclass(frozen=True)
class Expected:
    """A method ready to use, and what its card promises per step.

    `passes` of the model, in order: T trains, R trains and gives the gradient of the images as well, a attacks in eval mode,
    b attacks in train mode; in `auxiliary` an x stands for each pass through auxiliary normalisation layers, a dot for others.
    `encodings` and `decodings` are those of the discretizer. `shows_clean`: a training pass shows nothing but such as they are.
    `by_parts`: a step in parts gives the step of the whole (no image sees another one, nor the number of images).
    `views`: how many of each image the last pass shows, one batch after the other.
    `repeats_masks`: every training pass draws the dropout of the first.
    """

    build: Callable[[Discretizer], Method]
    passes: str = "T"
    auxiliary: str = ""
    encodings: int = 0
    decodings: int = 0
    draws: bool = False
    shows_clean: bool = False
    by_parts: bool = True
    views: int = 1
    repeats_masks: bool = False


ROWS = {
    "standard": Expected(lambda _: METHODS["standard"](), shows_clean=True),
    "at": Expected(lambda _: METHODS["at"](steps=3, random_start=True), passes="aaaT", draws=True),
    "random-codes": Expected(lambda q: METHODS["random-codes"](q, rate=0.5), encodings=1, decodings=1, draws=True),
    "dat": Expected(lambda q: METHODS["dat"](q, alpha=1.0), passes="aT", encodings=2, decodings=2),
    "dat-official": Expected(
        lambda q: METHODS["dat-official"](q, epsilon=1.0, step_size=1.0, steps=2, random_start_probability=0.5),
        passes="TbbT",
        encodings=2,
        decodings=2,
        draws=True,
        shows_clean=True,
    ),
    "dat-free": Expected(lambda q: METHODS["dat-free"](q, alpha=1.0), passes="RT", encodings=1, decodings=1, shows_clean=True),
    "dat-fast": Expected(
        lambda q: METHODS["dat-fast"](q, alpha=1.0, adversarial_share=0.5),
        passes="aT",
        encodings=2,
        decodings=2,
        by_parts=False,
    ),
    "pyramid-at": Expected(
        lambda _: METHODS["pyramid-at"](steps=3, cells=(4, 2, 1)),
        passes="TbbbT",
        draws=True,
        shows_clean=True,
        repeats_masks=True,
    ),
    "dat-codes": Expected(
        lambda q: METHODS["dat-codes"](q, rate=0.3, neighbours=4, steps=2), passes="aaT", encodings=1, decodings=3
    ),
    "advprop": Expected(
        lambda _: METHODS["advprop"](epsilon=0.05, step_size=0.02, steps=2, noise_threshold=-9.0),
        passes="aaTT",
        auxiliary="xx.x",
        draws=True,
        shows_clean=True,
    ),
    "fast-advprop": Expected(
        lambda _: METHODS["fast-advprop"](epsilon=0.05, step_size=0.05, noise_threshold=-9.0),
        passes="TRT",
        auxiliary=".xx",
        draws=True,
        shows_clean=True,
        by_parts=False,
    ),
    "debiased": Expected(
        lambda _: METHODS["debiased"](multi_grid=False),
        passes="TT",
        auxiliary=".x",
        draws=True,
        shows_clean=True,
        by_parts=False,
    ),
    "augmix": Expected(lambda _: METHODS["augmix"](), draws=True, shows_clean=True, views=3),
    "deepaugment": Expected(lambda _: METHODS["deepaugment"](), draws=True),
    "deepaugment-decoder": Expected(METHODS["deepaugment-decoder"], encodings=1, decodings=1, draws=True),
    "deepaugment-augmix-dat": Expected(
        lambda q: METHODS["deepaugment-augmix-dat"](q, alpha=1.0), passes="TaT", encodings=2, decodings=2, draws=True
    ),
    "dat, random": Expected(lambda q: METHODS["dat"](q, alpha=1.0, direction="random"), encodings=1, decodings=1, draws=True),
    "dat, none": Expected(lambda q: METHODS["dat"](q, alpha=1.0, direction="none"), encodings=1, decodings=1),
    "dat-official, random": Expected(
        lambda q: METHODS["dat-official"](q, epsilon=1.0, step_size=1.0, direction="random"),
        passes="TT",
        encodings=2,
        decodings=2,
        draws=True,
        shows_clean=True,
    ),
    "dat-official, none": Expected(
        lambda q: METHODS["dat-official"](q, direction="none"), passes="TT", encodings=2, decodings=2, shows_clean=True
    ),
    "dat-free, random": Expected(
        lambda q: METHODS["dat-free"](q, alpha=1.0, direction="random"),
        passes="TT",
        encodings=1,
        decodings=1,
        draws=True,
        shows_clean=True,
    ),
    "dat-fast, random": Expected(
        lambda q: METHODS["dat-fast"](q, alpha=1.0, adversarial_share=1.0, clean_share=0.0, direction="random"),
        encodings=1,
        decodings=1,
        draws=True,
    ),
    "dat-fast, none": Expected(
        lambda q: METHODS["dat-fast"](q, adversarial_share=1.0, clean_share=0.0, direction="none"), encodings=1, decodings=1
    ),
    "dat-free, none": Expected(
        lambda q: METHODS["dat-free"](q, direction="none"), passes="TT", encodings=1, decodings=1, shows_clean=True
    ),
}
"""By the name of the method; behind a comma, which control of it."""
every_method = pytest.mark.parametrize("name", ROWS)


def network(*, batch_norm: bool = True, dropout: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8) if batch_norm else nn.GroupNorm(2, 8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Flatten(), nn.Linear(8 * 64, CLASSES)).train()


def model_for(name: str, *, batch_norm: bool = True, dropout: float = 0.5) -> nn.Module:
    """The network, with auxiliary normalisation layers where the row says that the method uses them."""
    made = network(batch_norm=batch_norm, dropout=dropout)
    return with_auxiliary_norms(made) if "x" in ROWS[name].auxiliary else made


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
class Pass:
    """What the model was shown once, and how."""

    images: Tensor
    in_train_mode: bool
    wanting: bool
    auxiliary: bool
    random_state: Tensor
    trained: bool = False

    @property
    def letter(self) -> str:
        if self.trained:
            return "R" if self.wanting else "T"
        return "b" if self.in_train_mode else "a"


@dataclass
class Step:
    """One training step as the loop makes it: each loss is back-propagated as it is yielded."""

    losses: list[Tensor] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    clean_between: bool = True
    """Whether no parameter gradient changed outside the loop's own backward passes."""

    @property
    def shown(self) -> Tensor:
        return self.passes[-1].images


def make_step(method: Method, model: nn.Module, given: Batch, *, backward: Callable[[Tensor], None] = Tensor.backward) -> Step:
    step, training = Step(), [False]

    def before(module: nn.Module, inputs: tuple[Tensor]) -> None:
        routed = any(part.is_auxiliary for part in module.modules() if isinstance(part, TwoNorms))
        images, state = inputs[0], torch.get_rng_state()
        step.passes.append(Pass(images.detach().clone(), module.training, images.requires_grad, routed, state))

    def after(_: nn.Module, inputs: object, logits: Tensor) -> None:
        def reached(_: Tensor, seen: Pass = step.passes[-1]) -> None:
            seen.trained |= training[0]

        logits.register_hook(reached)

    hooks = model.register_forward_pre_hook(before), model.register_forward_hook(after)
    gradients = gradients_of(model)
    for loss in method(model, given, TASK):
        step.clean_between &= same(gradients, gradients_of(model))
        step.losses.append(loss.detach())
        training[0] = True
        backward(loss)
        training[0] = False
        gradients = gradients_of(model)
    step.clean_between &= same(gradients, gradients_of(model))
    for hook in hooks:
        hook.remove()
    return step


def gradients_of(model: nn.Module) -> list[Tensor | None]:
    return [None if part.grad is None else part.grad.clone() for part in model.parameters()]


def same(first: list[Tensor | None], second: list[Tensor | None]) -> bool:
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(first, second, strict=True))


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

    def vectors(self, codes: Tensor) -> Tensor:
        return self.inner.vectors(codes)

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        self.decodings += 1
        return self.inner.decode_vectors(vectors)

    def neighbours(self, count: int) -> Tensor:
        return self.inner.neighbours(count)

    def forward(self, images: Tensor) -> Tensor:
        self.encodings, self.decodings = self.encodings + 1, self.decodings + 1
        return self.inner(images)


def test_every_method_has_a_row() -> None:
    assert {name.split(",")[0] for name in ROWS} == set(METHODS)
    assert (len(METHODS), len(ROWS)) == (16, 24)


@every_method
@pytest.mark.parametrize("soft", [False, True])
def test_losses_are_finite_scalars_with_a_graph(name: str, soft: bool, discretizer: FrozenDiscretizer) -> None:
    model, method = model_for(name), ROWS[name].build(discretizer)
    assert isinstance(method, Method)
    step = make_step(method, model, batch(10, soft=soft))
    assert step.losses
    assert all(loss.shape == () and loss.dtype == torch.float32 and loss.isfinite() for loss in step.losses)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.grad is not None)


@every_method
def test_nothing_but_the_training_passes_leaves_a_trace(name: str, discretizer: FrozenDiscretizer) -> None:
    """Gradients, running statistics, modes, routing and torch's stream: as if the model had only seen the training passes."""
    row, model = ROWS[name], model_for(name)
    next(part for part in model.modules() if isinstance(part, nn.ReLU)).eval()  # a part that the caller froze
    modes = [part.training for part in model.modules()]
    stream = torch.get_rng_state()
    step = make_step(row.build(discretizer), model, batch(10))
    after = torch.get_rng_state()
    assert step.clean_between
    assert [part.training for part in model.modules()] == modes
    assert not any(part.is_auxiliary for part in model.modules() if isinstance(part, TwoNorms))

    twin = model_for(name)
    torch.set_rng_state(stream)
    for seen in (seen for seen in step.passes if seen.trained):
        if row.repeats_masks:
            torch.set_rng_state(stream)
        assert torch.equal(seen.random_state, torch.get_rng_state())
        if seen.auxiliary:
            with through_auxiliary_norms(twin):
                twin(seen.images)
        else:
            twin(seen.images)
    assert torch.equal(after, torch.get_rng_state())
    for key, tensor in twin.named_buffers():
        assert torch.equal(model.get_buffer(key), tensor), key


@every_method
def test_a_step_costs_what_the_card_says(name: str, discretizer: FrozenDiscretizer) -> None:
    row, counting = ROWS[name], Counting(discretizer)
    step = make_step(row.build(counting), model_for(name), batch(10))
    assert "".join(seen.letter for seen in step.passes) == row.passes
    assert "".join("x" if seen.auxiliary else "." for seen in step.passes) == (row.auxiliary or "." * len(row.passes))
    assert (counting.encodings, counting.decodings) == (row.encodings, row.decodings)
    assert all(seen.images.min() >= 0 and seen.images.max() <= 1 for seen in step.passes)


@every_method
def test_which_methods_show_the_images_themselves(name: str, discretizer: FrozenDiscretizer) -> None:
    given = batch(10)
    step = make_step(ROWS[name].build(discretizer), model_for(name), given)
    shown = [seen.images.chunk(ROWS[name].views)[0] for seen in step.passes if seen.trained]
    assert any(torch.equal(images, given.images[: len(images)]) for images in shown) == ROWS[name].shows_clean


@every_method
def test_main_norms_see_only_clean_images(name: str, discretizer: FrozenDiscretizer) -> None:
    """Where a method has auxiliary norms: statistics and gradients of each kind come from its own images."""
    if "x" not in ROWS[name].auxiliary:
        assert not has_auxiliary_norms(model_for(name))
        return
    given = batch(10)
    step = make_step(ROWS[name].build(discretizer), model_for(name), given)
    for seen in (seen for seen in step.passes if seen.trained):
        is_clean = torch.equal(seen.images, given.images[: len(seen.images)])
        assert is_clean != seen.auxiliary


@every_method
def test_the_same_seed_gives_the_same_bits(name: str, discretizer: FrozenDiscretizer) -> None:
    def shown(seed: int) -> Tensor:
        numbers = torch.Generator().manual_seed(seed)
        torch.manual_seed(5)
        return make_step(ROWS[name].build(discretizer), model_for(name), replace(batch(10), generator=numbers)).shown

    assert torch.equal(shown(0), shown(0))
    assert torch.equal(shown(0), shown(1)) != ROWS[name].draws


@every_method
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_of_a_batch_see_their_rows_of_the_whole(name: str, size: int, discretizer: FrozenDiscretizer) -> None:
    """A step on several processes, or in micro-batches, uses the numbers of the step on one."""
    if not ROWS[name].by_parts:
        pytest.skip("its images see each other: docs/method.md says how")
    model, whole = model_for(name, batch_norm=False, dropout=0.0), batch(6)
    method = ROWS[name].build(discretizer)

    def shown(part: Batch) -> tuple[Tensor, Tensor]:
        step = make_step(method, model, replace(part, generator=torch.Generator().manual_seed(9)))
        return step.shown.unflatten(0, (ROWS[name].views, -1)).movedim(0, 1), torch.stack(step.losses).sum()

    expected, expected_loss = shown(whole)
    parts = [shown(part_of(whole, first, size)) for first in range(0, 6, size)]
    torch.testing.assert_close(torch.cat([images for images, _ in parts]), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.stack([loss for _, loss in parts]).mean(), expected_loss, atol=1e-5, rtol=0)


def part_of(whole: Batch, first: int, size: int) -> Batch:
    rows = slice(first, first + size)
    return Batch(whole.images[rows], whole.targets[rows], None, first, len(whole.images))


@every_method
def test_bfloat16_autocast(name: str, discretizer: FrozenDiscretizer) -> None:
    model = model_for(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = make_step(ROWS[name].build(discretizer), model, batch(10))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in step.losses)
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@every_method
def test_a_scaled_loss_scales_the_gradients_and_nothing_else(name: str, discretizer: FrozenDiscretizer) -> None:
    """The loop divides by its micro-batches, and multiplies in float16: what a method re-uses must not depend on it."""
    plain, scaled = model_for(name, dropout=0.0), model_for(name, dropout=0.0)
    first = make_step(ROWS[name].build(discretizer), plain, batch(10))
    second = make_step(ROWS[name].build(discretizer), scaled, batch(10), backward=lambda loss: (1024 * loss).backward())
    torch.testing.assert_close(first.shown, second.shown, atol=1e-6, rtol=0)
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(1024 * one.grad, other.grad, atol=1e-3, rtol=1e-4)


@every_method
def test_images_and_discretizer_are_left_alone(name: str, discretizer: FrozenDiscretizer) -> None:
    given = batch(10)
    before = {key: tensor.clone() for key, tensor in discretizer.state_dict().items()}
    make_step(ROWS[name].build(discretizer), model_for(name), given)
    assert torch.equal(given.images, batch(10).images)
    assert given.images.grad is None
    assert not given.images.requires_grad
    assert all(parameter.grad is None for parameter in discretizer.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in discretizer.state_dict().items())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_stays_in_its_ball_with_a_random_start(norm: str) -> None:
    method = METHODS["at"](epsilon=0.1, step_size=0.05, steps=2, norm=norm, random_start=True)
    step = make_step(method, network(), batch())
    for seen in (step.passes[0], step.passes[-1]):
        delta = (seen.images - batch().images).flatten(1)
        sizes = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
        assert 0.01 < sizes.min() <= sizes.max() <= 0.1 + 1e-6


def test_dat_shows_a_reconstruction_made_worse(discretizer: FrozenDiscretizer) -> None:
    """The attack steps uphill from Q(x), in eval mode, and shows what the discretizer makes of it.

    What the untrained discretizer makes of a step need not have a higher loss; that the step itself has is what is held.
    """
    given, seen = batch(64), []
    hook = discretizer.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    step = make_step(METHODS["dat"](discretizer, alpha=1.0), network(), given)
    hook.remove()
    reconstruction, adversarial = (shown.images for shown in step.passes)
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
    make_step(RandomCodes(seen, rate=0.3), network(), given)
    changed = seen.codes != discretizer.encode(given.images)
    assert abs(changed.float().mean().item() - 0.3) < 4 * (0.3 * 0.7 / changed.numel()) ** 0.5


def test_images_that_are_no_multiple_of_the_stride_keep_their_size(discretizer: FrozenDiscretizer) -> None:
    given = Batch(torch.rand(10, 3, 7, 9), torch.arange(10) % CLASSES, torch.Generator())
    for row in ROWS.values():
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
        )
        step = make_step(row.build(discretizer), with_auxiliary_norms(model) if "x" in row.auxiliary else model, given)
        assert all(seen.images.shape[1:] == (3, 7, 9) for seen in step.passes)


# ---- controls: no adversary in the place of one


class Encoded(Counting):
    """A discretizer that keeps what it was shown."""

    def __init__(self, inner: FrozenDiscretizer) -> None:
        super().__init__(inner)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return super().forward(images)


CONTROLLED = ["dat", "dat-official", "dat-free", "dat-fast"]


def controlled(name: str, discretizer: Discretizer, direction: str, length: float) -> Method:
    settings: dict[str, Any] = {"epsilon": length, "step_size": length} if name == "dat-official" else {"alpha": length}
    settings |= {"adversarial_share": 1.0, "clean_share": 0.0} if name == "dat-fast" else {}
    return METHODS[name](discretizer, direction=direction, **settings)


@pytest.mark.parametrize("name", CONTROLLED)
def test_without_a_direction_the_last_loss_is_that_of_the_reconstruction(name: str, discretizer: FrozenDiscretizer) -> None:
    given = batch()
    shown = make_step(controlled(name, discretizer, "none", 1.0), network(), given).shown
    once = discretizer(given.images)
    assert torch.equal(shown, discretizer(once) if name == "dat-official" else once)


@pytest.mark.parametrize("name", CONTROLLED)
def test_a_random_direction_is_as_long_as_the_gradient(name: str, discretizer: FrozenDiscretizer) -> None:
    """Away from 0 and 1, where nothing is cut; and it is another one for each picture and each step, whatever the loss.

    The reconstruction, which is where the official step begins, reaches both: of few of its pixels a little is cut.
    """
    given = replace(batch(), images=0.3 + 0.4 * batch().images)
    base = discretizer(given.images).clamp(0.3, 0.7) if name == "dat-official" else given.images
    deltas = []
    for direction in ("gradient", "random", "random"):
        asked = Encoded(discretizer)
        make_step(controlled(name, asked, direction, 0.1), network(), given)
        deltas.append((asked.seen[-1] - (asked.inner(asked.seen[0]) if name == "dat-official" else base)).flatten(1))
    for delta in deltas:
        cut = 3e-3 if name == "dat-official" else 1e-3
        torch.testing.assert_close(delta.norm(dim=1), torch.full((6,), 0.1), atol=cut, rtol=0)
    first, *others = (delta / delta.norm(dim=1, keepdim=True) for delta in deltas)
    for other in others:
        assert ((first * other).sum(dim=1).abs() < 0.35).all()
    assert not torch.equal(*others)
    assert ((others[0] @ others[0].T).fill_diagonal_(0).abs() < 0.35).all()


def test_a_random_direction_in_linf_has_the_size_of_the_step_everywhere(discretizer: FrozenDiscretizer) -> None:
    given, asked = replace(batch(), images=0.3 + 0.4 * batch().images), Encoded(discretizer)
    method = METHODS["dat"](asked, alpha=0.2, step_size=0.05, gradient_scale="linf", direction="random")
    make_step(method, network(), given)
    delta = asked.seen[0] - given.images
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, 0.05), atol=1e-6, rtol=0)
    assert 0.4 < float((delta > 0).float().mean()) < 0.6


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("dat", {"direction": "random", "gradient_scale": "raw"}, "as long as the gradient; write gradient_scale"),
        ("dat", {"direction": "none", "steps": 3}, "takes one step, but steps is 3; write steps=1"),
        ("dat-official", {"direction": "random", "steps": 2}, "takes one step, but steps is 2"),
    ],
)
def test_controls_of_nothing_are_refused(
    name: str, settings: dict[str, Any], says: str, discretizer: FrozenDiscretizer
) -> None:
    with pytest.raises(UsageError, match=says):
        METHODS[name](discretizer, **settings)


def test_an_unknown_direction_is_refused() -> None:
    check = inspect.unwrap(check_direction)  # the methods' own types are checked while tests run
    with pytest.raises(UsageError, match="direction is 'up'; write one of 'gradient', 'random', 'none'"):
        check("up")
