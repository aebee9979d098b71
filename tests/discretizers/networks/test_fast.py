from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.fast import (
    FastAutoencoder,
    FastConfig,
    LightBlock,
    affordable,
    build_fast,
    flops_per_image,
    frame_of,
    neighbour_distance,
    student_of,
)
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.errors import UsageError
from dat.methods.dat import DAT
from dat.tasks.classification import Classification
from dat.types import Batch, Discretizer

LDM_F8 = VQGANConfig(n_embed=16384, embed_dim=4, z_channels=4, ch_mult=(1, 2, 2, 4), attn_resolutions=(32,))
SMALL = VQGANConfig(n_embed=1024, embed_dim=64, z_channels=64, ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, attn_resolutions=())
TINY = VQGANConfig(n_embed=32, embed_dim=5, z_channels=5, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=())
KINDS = {
    "vq": TINY,
    "cosine": replace(TINY, quantizer="cosine"),
    "lfq": replace(TINY, quantizer="lfq"),
    "ibq": replace(TINY, quantizer="ibq"),
    "gumbel": replace(TINY, quantizer="gumbel"),
    "fsq": replace(TINY, quantizer="fsq", levels=(4, 2, 2, 2), embed_dim=4),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def untrained(config: VQGANConfig) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(config)


def on_meta(config: VQGANConfig) -> VQGAN:
    with torch.device("meta"):
        return VQGAN(config)


@pytest.fixture
def student() -> FastAutoencoder:
    """With weights that do something: new blocks are the identity."""
    torch.manual_seed(1)
    network = FastAutoencoder(FastConfig(codebook_size=32, depth=5, stride=4, width=16))
    for name, parameter in network.named_parameters():
        if "narrow" in name or "embedding" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


# ---- FLOPs


def test_flops_are_those_of_a_count_by_hand() -> None:
    config = FastConfig(codebook_size=32, depth=5, stride=4, width=16, encoder_blocks=2, decoder_blocks=3)
    per_code = 2 * (48 * 16 + 16 * 5 + 32 * 5 + 5 * 16 + 16 * 48 + 5 * (25 * 16 + 2 * 16 * 32))
    network = FastAutoencoder(config)
    assert flops_per_image(network, 32) == 64 * per_code
    assert flops_per_image(network, 30) == 64 * per_code, "padded up to whole codes"
    assert flops_per_image(network.to(torch.bfloat16), 32) == 64 * per_code


def test_attention_counts() -> None:
    config = replace(TINY, attn_type="none")
    extra = flops_per_image(on_meta(TINY), 16) - flops_per_image(on_meta(config), 16)
    positions, width = 64, 64
    assert extra == 2 * (4 * 2 * positions * width**2 + 2 * 2 * positions**2 * width)


@pytest.mark.parametrize(("config", "size"), [(LDM_F8, 224), (SMALL, 32)])
def test_the_student_takes_a_fiftieth_and_is_the_widest_that_does(config: VQGANConfig, size: int) -> None:
    teacher = on_meta(config)
    chosen = affordable(teacher, size=size)
    with torch.device("meta"):
        network, wider = FastAutoencoder(chosen), FastAutoencoder(replace(chosen, width=chosen.width + 8))
    limit = flops_per_image(teacher, size) / 50
    assert flops_per_image(network, size) <= limit < flops_per_image(wider, size)
    assert (chosen.codebook_size, chosen.stride) == (config.n_embed, config.stride)


def test_a_budget_that_no_student_keeps_is_refused() -> None:
    with pytest.raises(UsageError, match="raise the budget or take fewer blocks"):
        affordable(on_meta(SMALL), size=32, budget=1e-4)


# ---- the teacher's codes


@pytest.mark.parametrize("kind", KINDS)
def test_latents_in_the_students_place_have_the_teachers_codes(kind: str) -> None:
    teacher = untrained(KINDS[kind])
    config = replace(affordable(teacher, size=16, budget=0.5), depth=KINDS[kind].embed_dim)
    student, frame = student_of(teacher, config), frame_of(teacher, config.depth)
    latents = torch.randn(2, config.depth, 8, 8) * (1 / 32 if kind == "vq" else 1)
    codes = teacher.quantize.encode(latents)
    assert codes.unique().numel() > 8
    assert torch.equal(student.quantize.encode(latents if frame is None else frame.place(latents)), codes)
    assert not any(parameter.requires_grad for parameter in student.quantize.parameters())


def in_a_plane(teacher: VQGAN) -> Tensor:
    """Makes the codebook two-dimensional, turned and away from the origin; gives latents near the plane."""
    generator = torch.Generator().manual_seed(3)
    flat = torch.randn(32, 2, generator=generator) @ torch.randn(2, 5, generator=generator)
    away = torch.randn(5, generator=generator)
    teacher.quantize.get_parameter("embedding.weight").data.copy_(flat + away)
    latents = flat[torch.randint(32, (128,), generator=generator)] + away
    return (latents + 0.2 * torch.randn(128, 5, generator=generator)).T.reshape(1, 5, 8, 16)


def test_a_codebook_in_a_plane_is_searched_in_two_dimensions() -> None:
    teacher = untrained(TINY)
    latents = in_a_plane(teacher)
    config = affordable(teacher, size=16, budget=0.5)
    assert config.depth == 2
    frame = frame_of(teacher, 2)
    assert frame is not None
    student = student_of(teacher, config)
    assert torch.equal(student.quantize.encode(frame.place(latents)), teacher.quantize.encode(latents))
    assert neighbour_distance(student.quantize.get_parameter("embedding.weight")) == pytest.approx(1, rel=1e-4)


def test_the_distance_of_neighbours_is_that_of_a_plain_loop() -> None:
    rows = torch.randn(20, 3, dtype=torch.float64)
    nearest = [min(float((row - other).square().sum()) for j, other in enumerate(rows) if j != i) for i, row in enumerate(rows)]
    assert neighbour_distance(rows) == pytest.approx((sum(nearest) / 20) ** 0.5)


def test_teachers_whose_codes_no_student_can_have_are_refused() -> None:
    tokens, scored = untrained(TINY), untrained(TINY)
    tokens.tokens = 32
    scored.quantize = type("BestScore", (type(scored.quantize),), {})(32, 5)
    for teacher, named in ((tokens, "VQGAN"), (scored, "BestScore")):
        with pytest.raises(UsageError, match=f"codes of this teacher.*{named}"):
            affordable(teacher, size=16)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (FastConfig(codebook_size=32, depth=6, stride=2), "have 5 channels"),
        (FastConfig(codebook_size=32, depth=5, stride=4), "stride=2"),
        (FastConfig(codebook_size=8, depth=5, stride=2), "codebook_size=32"),
    ],
)
def test_a_configuration_that_is_not_the_teachers_is_refused(config: FastConfig, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        student_of(untrained(TINY), config)


# ---- the network


def test_a_new_block_changes_nothing_and_a_trained_one_is_its_formula() -> None:
    block, features = LightBlock(8), torch.randn(2, 8, 6, 6)
    assert torch.equal(block(features), features)
    torch.nn.init.normal_(block.narrow.weight)
    mixed = F.conv2d(features, block.mix.weight, block.mix.bias, padding=2, groups=8)
    wide = torch.einsum("bchw,oc->bohw", mixed, block.widen.weight[:, :, 0, 0]) + block.widen.bias[:, None, None]  # pyright: ignore[reportOptionalSubscript]
    expected = features + torch.einsum("bchw,oc->bohw", wide.clamp(min=0), block.narrow.weight[:, :, 0, 0])
    torch.testing.assert_close(block(features), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_works_at_any_size_after_saving_and_loading(tmp_path: Path, student: FastAutoencoder, dtype: torch.dtype) -> None:
    loaded = load_discretizer(save_discretizer(tmp_path, student), dtype=dtype)
    assert isinstance(loaded, Discretizer)
    assert isinstance(loaded.network, FastAutoencoder)
    assert loaded.network.config == student.config
    images = torch.rand(2, 3, 13, 18)
    assert loaded.encode(images).shape == (2, 4, 5)
    assert loaded(images).shape == images.shape
    if dtype == torch.float32:
        assert torch.equal(loaded(images), FrozenDiscretizer(student)(images))
    else:
        assert (loaded(images) - FrozenDiscretizer(student)(images)).abs().mean() < 0.05


def test_levels_survive_the_file(tmp_path: Path) -> None:
    student = FastAutoencoder(FastConfig(codebook_size=16, depth=2, stride=2, width=8, quantizer="fsq", levels=(4, 4)))
    loaded = load_discretizer(save_discretizer(tmp_path, student))
    assert isinstance(loaded.network, FastAutoencoder)
    assert loaded.network.config == student.config


def test_a_method_uses_it_as_any_discretizer(student: FastAutoencoder) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 4))
    batch = Batch(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    losses = list(DAT(FrozenDiscretizer(student), alpha=1.0)(model, batch, Classification()))
    assert losses
    assert all(loss.isfinite() for loss in losses)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_tensors_without_a_configuration_are_refused(student: FastAutoencoder) -> None:
    with pytest.raises(UsageError, match="without its configuration"):
        build_fast(student.state_dict(), None, "some.safetensors")
    with pytest.raises(UsageError, match="width is 0"):
        FastConfig(codebook_size=32, depth=5, stride=4, width=0)
