"""The attack in code space: its budget, its choice held against all choices, and the traces it must not leave."""

from collections.abc import Iterator
from itertools import combinations, product

import pytest
import torch
from torch import Tensor, nn

from dat.attacks.codes import adversarial_codes, code_adversary, vector_gradient
from dat.discretizers.codes import changed
from dat.discretizers.frozen import FrozenDiscretizer, nearest_others
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.quantizers.nearest import CodebookQuantizer
from dat.errors import DivergenceError, UsageError

CONFIG = VQGANConfig(n_embed=16, embed_dim=4, z_channels=8, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Linear:
    """A discretizer whose decoder is linear: each code is one pixel of three colours, its vector. Stride 1."""

    stride = 1

    def __init__(self, codebook: Tensor) -> None:
        self.codebook, self.codebook_size, self.decodings = codebook, len(codebook), 0

    def encode(self, images: Tensor) -> Tensor:
        vectors = images.movedim(1, -1)
        return (vectors.unsqueeze(-2) - self.codebook).norm(dim=-1).argmin(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        return self.vectors(codes)

    def __call__(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    def vectors(self, codes: Tensor) -> Tensor:
        return self.codebook[codes].movedim(-1, 1)

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        self.decodings += 1
        return 1.0 * vectors

    def neighbours(self, count: int) -> Tensor:
        return nearest_others(self.codebook, count)


def linear(codes: int = 9) -> Linear:
    return Linear(torch.rand(codes, 3, generator=torch.Generator().manual_seed(0)))


def trained_like() -> FrozenDiscretizer:
    torch.manual_seed(1)
    vqgan = VQGAN(CONFIG)
    assert isinstance(vqgan.quantize, CodebookQuantizer)
    vqgan.quantize.initialise(vqgan.latents(2 * torch.rand(8, 3, 16, 16) - 1).detach(), torch.Generator().manual_seed(2))
    return FrozenDiscretizer(vqgan)


def images_of(count: int = 4, height: int = 16, width: int = 16, seed: int = 3) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def linear_loss(seed: int = 4) -> nn.Module:
    """A loss that is linear in the pixels, different for each pixel."""
    weights = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(seed))

    class Loss(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images * weights).sum(dim=(1, 2, 3))

    return Loss()


def test_where_all_is_linear_no_choice_is_worse_for_the_model() -> None:
    """Against every way to change two of the six codes into one of their three neighbours."""
    space, loss_fn, images = linear(), linear_loss(), images_of(3, 2, 3)
    chosen = adversarial_codes(images, loss_fn, space, rate=1 / 3, neighbours=3)
    near, reached = space.neighbours(3), loss_fn(space.decode(chosen))
    for number, codes in enumerate(space.encode(images).flatten(1)):
        best = -torch.inf
        for places in combinations(range(6), 2):
            for choice in product(range(3), repeat=2):
                other = codes.clone()
                for place, which in zip(places, choice, strict=True):
                    other[place] = near[codes[place], which]
                best = max(best, loss_fn(space.decode(other.view(1, 2, 3))).item())
        assert reached[number].item() == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
@pytest.mark.parametrize("rate", [0.0, 0.038, 0.3, 0.5])
def test_the_budget_is_kept_in_any_number_of_steps(rate: float, steps: int) -> None:
    space, images = trained_like(), images_of()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5), nn.Tanh())
    original = space.encode(images)
    chosen = adversarial_codes(images, lambda x: model(x)[:, 0], space, rate=rate, neighbours=15, steps=steps)
    assert changed(original, chosen).flatten(1).sum(dim=1).tolist() == [round(64 * rate)] * 4


def test_replacements_are_neighbours_of_the_codes() -> None:
    space, images = trained_like(), images_of()
    chosen = adversarial_codes(images, lambda x: x.sum(dim=(1, 2, 3)), space, rate=0.5, neighbours=3, steps=2)
    original = space.encode(images)
    near = space.neighbours(3)[original]
    assert (near == chosen.unsqueeze(-1)).any(dim=-1)[changed(original, chosen)].all()


def test_a_gradient_is_taken_per_step() -> None:
    space = linear()
    adversarial_codes(images_of(2, 4, 4), lambda x: x.sum(dim=(1, 2, 3)), space, rate=0.5, neighbours=2, steps=3)
    assert space.decodings == 3
    adversarial_codes(images_of(2, 4, 4), lambda x: x.sum(dim=(1, 2, 3)), space, rate=1 / 16, neighbours=2, steps=3)
    assert space.decodings == 4  # a single change needs a single step


def test_later_steps_see_what_earlier_ones_changed() -> None:
    """A loss in which pixels count only together: one step cannot know, the second one does."""
    codebook = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.9, 0.9]])
    space, images = Linear(codebook), torch.full((1, 3, 1, 4), 0.1)

    def loss_fn(x: Tensor) -> Tensor:
        grey = x.mean(dim=1)[:, 0]  # the first pixel starts it; then its partner, the last, is worth more than the others
        return grey[:, 0] + 0.2 * grey[:, 1] + 0.15 * grey[:, 2] + (grey[:, 0] - 0.1) * grey[:, 3]

    def where(steps: int) -> list[int]:
        chosen = adversarial_codes(images, loss_fn, space, rate=0.5, neighbours=1, steps=steps)
        return chosen[0, 0].tolist()

    assert where(1) == [1, 1, 0, 0]
    assert where(2) == [1, 0, 0, 1]


def test_what_would_help_the_model_is_left_alone() -> None:
    space, images = linear(2), torch.rand(2, 3, 4, 4)
    brightest = space.codebook.sum(dim=1).argmax()
    chosen = adversarial_codes(images, lambda x: x.sum(dim=(1, 2, 3)), space, rate=1.0, neighbours=1)
    assert (chosen == brightest).all()
    unmoved = adversarial_codes(images, lambda x: 0 * x.sum(dim=(1, 2, 3)), space, rate=1.0, neighbours=1)
    assert torch.equal(unmoved, space.encode(images))
    with pytest.raises(DivergenceError, match=r"loss of 2 of 2 images is NaN or infinite \(positions 0, 1\)"):
        adversarial_codes(images, lambda x: torch.nan * x.sum(dim=(1, 2, 3)), space, rate=1.0, neighbours=1)


def test_the_gradient_is_that_of_one_backward_pass() -> None:
    space, images = trained_like(), images_of(2, 15, 13)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 13 * 11, 1), nn.Flatten(0))
    vectors = space.vectors(space.encode(images)).requires_grad_()
    model(space.decode_vectors(vectors)[..., :15, :13]).sum().backward()
    ours = vector_gradient(vectors.detach(), model, space, images)
    assert vectors.grad is not None
    torch.testing.assert_close(ours, vectors.grad, atol=1e-7, rtol=1e-4)


def test_it_makes_a_model_worse_and_keeps_the_size() -> None:
    space, images = trained_like(), images_of(16, 15, 13)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 15 * 13, 5))
    targets = torch.arange(16) % 5

    def loss_fn(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(x), targets, reduction="none")

    adversarial = code_adversary(images, loss_fn, space, rate=0.2, neighbours=8, steps=2)
    assert adversarial.shape == images.shape
    assert not adversarial.requires_grad
    assert (loss_fn(adversarial) > loss_fn(space(images))).float().mean() > 0.9


def test_it_leaves_no_trace() -> None:
    space, images = trained_like(), images_of().requires_grad_()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 14 * 14, 1), nn.Flatten(0)
    )
    before = {key: tensor.clone() for key, tensor in (*model.named_buffers(), *space.state_dict().items())}
    stream = torch.get_rng_state()
    code_adversary(images, model.train(), space, rate=0.1, neighbours=4, steps=2)
    assert torch.equal(stream, torch.get_rng_state())
    assert all(parameter.grad is None for part in (model, space) for parameter in part.parameters())
    assert images.grad is None
    assert all(torch.equal(tensor, before[key]) for key, tensor in (*model.named_buffers(), *space.state_dict().items()))


def test_images_do_not_see_each_other() -> None:
    space, images, loss_fn = trained_like(), images_of(), lambda x: x.square().sum(dim=(1, 2, 3))
    whole = adversarial_codes(images, loss_fn, space, rate=0.2, steps=2)
    parts = [adversarial_codes(image[None], loss_fn, space, rate=0.2, steps=2) for image in images]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 1.1}, "rate is 1.1"),
        ({"rate": -0.1}, "rate is -0.1"),
        ({"rate": 0.001}, "0.001 of 64 codes is less than half a code; write 0.0156 or more"),
        ({"rate": 0.1, "steps": 0}, "steps is 0"),
        ({"rate": 0.1, "neighbours": 0}, "neighbours is 0"),
        ({"rate": 0.1, "neighbours": 16}, "neighbours is 16, but a codebook of 16"),
    ],
)
def test_impossible_numbers_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adversarial_codes(images_of(), lambda x: x.sum(dim=(1, 2, 3)), trained_like(), **settings)


def test_normalised_images_are_refused() -> None:
    with pytest.raises(UsageError, match=r"must lie in \[0, 1\]"):
        code_adversary(3 * images_of(), lambda x: x.sum(dim=(1, 2, 3)), trained_like(), rate=0.1)


def test_images_in_half_precision_are_attacked_as_in_float32() -> None:
    discretizer, seen = trained_like(), set()
    images = images_of().bfloat16()

    def loss_fn(shown: Tensor) -> Tensor:
        seen.add(shown.dtype)
        return shown.flatten(1).square().sum(1).float()

    adversarial = code_adversary(images, loss_fn, discretizer, rate=0.25)
    assert adversarial.dtype == torch.bfloat16
    assert seen == {torch.bfloat16}
