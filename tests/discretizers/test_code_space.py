"""Vectors of codes, images of vectors, and which codes are near."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.codes import CodeSpace, code_space
from dat.discretizers.frozen import FrozenDiscretizer, nearest_others
from dat.discretizers.networks.dalle import DalleConfig, DalleDVAE
from dat.discretizers.networks.titok import TiTok, TiTokConfig
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.errors import UsageError

QUANTIZERS = {"vq": (16, 4), "cosine": (16, 4), "lfq": (16, 4), "gumbel": (16, 4), "ibq": (16, 4), "fsq": (24, 3)}
SMALL = {"z_channels": 5, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": ()}
TITOK = TiTokConfig(
    codebook_size=40,
    token_size=5,
    use_l2_norm=True,
    vit_enc_model_size="small",
    vit_dec_model_size="small",
    vit_enc_patch_size=4,
    vit_dec_patch_size=3,
    num_latent_tokens=6,
    crop_size=12,
    is_legacy=False,
    finetune_decoder=False,
    vit_width=32,
    vit_layers=1,
    vit_heads=4,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network_of(name: str) -> Autoencoder:
    torch.manual_seed(0)
    if name == "titok":
        return TiTok(TITOK)
    if name == "dalle":
        network = DalleDVAE(DalleConfig(vocab_size=20, n_hid=8, n_init=6, n_blk_per_group=1))
        for weight in network.parameters():  # zero until weights are loaded
            torch.nn.init.normal_(weight, std=0.3)
        return network
    size, depth = QUANTIZERS[name]
    levels = (4, 3, 2) if name == "fsq" else ()
    return VQGAN(VQGANConfig(n_embed=size, embed_dim=depth, quantizer=name, levels=levels, **SMALL))


def codes_of(discretizer: FrozenDiscretizer) -> Tensor:
    shape = (2, 3, 4) if discretizer.network.tokens is None else (2, discretizer.network.tokens)
    return torch.randint(discretizer.codebook_size, shape, generator=torch.Generator().manual_seed(1))


every_kind = pytest.mark.parametrize("name", [*QUANTIZERS, "titok", "dalle"])


@every_kind
def test_images_of_the_vectors_of_codes_are_those_of_the_codes(name: str) -> None:
    discretizer = FrozenDiscretizer(network_of(name))
    assert isinstance(discretizer, CodeSpace)
    codes = codes_of(discretizer)
    vectors = discretizer.vectors(codes)
    assert not vectors.requires_grad
    images = discretizer.decode_vectors(vectors)
    torch.testing.assert_close(images, discretizer.decode(codes), atol=1e-5, rtol=0)
    assert not images.requires_grad


@every_kind
def test_the_gradient_reaches_the_vectors_and_no_weight(name: str) -> None:
    discretizer = FrozenDiscretizer(network_of(name)).double()
    vectors = discretizer.vectors(codes_of(discretizer)).double().requires_grad_()
    weights = torch.randn(discretizer.decode_vectors(vectors).shape, generator=torch.Generator().manual_seed(2)).double()

    def weighed(given: Tensor) -> Tensor:
        return (discretizer.decode_vectors(given) * weights).sum()

    weighed(vectors).backward()
    direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        slope = (weighed(vectors + 1e-6 * direction) - weighed(vectors - 1e-6 * direction)) / 2e-6
    assert vectors.grad is not None
    assert (vectors.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-7)
    assert slope.abs() > 1e-6
    assert all(weight.grad is None for weight in discretizer.parameters())


def test_no_gradient_passes_where_the_range_cuts() -> None:
    discretizer = FrozenDiscretizer(network_of("vq"))
    vectors = (1e4 * discretizer.vectors(codes_of(discretizer))).requires_grad_()
    images = discretizer.decode_vectors(vectors)
    cut = (images == 0) | (images == 1)
    assert cut.any()
    assert not cut.all()
    (gradient,) = torch.autograd.grad(images[cut].sum(), vectors)
    assert not gradient.any()


@every_kind
def test_neighbours_are_the_nearest_other_codes(name: str) -> None:
    discretizer = FrozenDiscretizer(network_of(name))
    size = discretizer.codebook_size
    grid = torch.arange(size).view(1, 1, size)
    if discretizer.network.tokens is not None:  # these take no other number of codes to decode, but to look up
        grid = grid.view(1, size)
    vectors = discretizer.vectors(grid)[0, :, 0].T.double()
    near = discretizer.neighbours(5)
    distances = (vectors[:, None] - vectors[None]).norm(dim=2).fill_diagonal_(torch.inf)
    torch.testing.assert_close(distances.gather(1, near), distances.sort(dim=1).values[:, :5], atol=1e-5, rtol=0)
    assert all(len(set(row)) == 5 and number not in row for number, row in enumerate(near.tolist()))


def test_neighbours_are_sought_once_and_follow_weights_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    discretizer = FrozenDiscretizer(network_of("vq"))
    first = discretizer.neighbours(3)
    assert discretizer.neighbours(3) is first
    weights = {key: tensor.clone() for key, tensor in discretizer.state_dict().items()}
    weights["network.quantize.embedding.weight"] = torch.randn(16, 4, generator=torch.Generator().manual_seed(5))
    discretizer.load_state_dict(weights)
    assert not torch.equal(discretizer.neighbours(3), first)
    assert discretizer.neighbours(4).shape == (16, 4)


def test_neighbours_in_chunks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    whole = nearest_others(vectors, 7)
    monkeypatch.setattr("dat.discretizers.frozen.DISTANCES", 3 * 50)
    assert torch.equal(nearest_others(vectors, 7), whole)


@pytest.mark.parametrize("around", [0.0, 1e3, 1e5])
def test_neighbours_are_exact_wherever_the_codebook_lies(around: float) -> None:
    spread = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    vectors = torch.cat([around + spread[:150], -around + spread[150:]])  # no centre is near both halves
    plain = np.array([((vectors.double() - row) ** 2).sum(dim=1).numpy() for row in vectors.double()])
    np.fill_diagonal(plain, np.inf)
    found = np.take_along_axis(plain, nearest_others(vectors, 7).numpy(), axis=1)
    assert np.array_equal(found, np.sort(plain, axis=1)[:, :7])


@pytest.mark.parametrize("count", [0, 16, 100])
def test_a_count_that_no_codebook_has_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"neighbours is {count}, but a codebook of 16 has 1 to 15"):
        FrozenDiscretizer(network_of("vq")).neighbours(count)


def test_a_huge_codebook_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dat.discretizers.frozen.MOST_LISTED", 15)
    with pytest.raises(UsageError, match="16 codes, too many"):
        FrozenDiscretizer(network_of("vq")).neighbours(3)


def test_a_discretizer_without_vectors_is_refused() -> None:
    class Plain:
        codebook_size, stride = 4, 2

        def encode(self, images: Tensor) -> Tensor:
            return images[:, 0, ::2, ::2].long()

        def decode(self, codes: Tensor) -> Tensor:
            return codes[:, None].float()

        def __call__(self, images: Tensor) -> Tensor:
            return images

    with pytest.raises(UsageError, match="A Plain gives no vectors"):
        code_space(Plain())
    discretizer = FrozenDiscretizer(network_of("vq"))
    assert code_space(discretizer) is discretizer
