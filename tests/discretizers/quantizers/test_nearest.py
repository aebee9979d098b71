import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from dat.discretizers.quantizers import nearest
from dat.discretizers.quantizers.nearest import VectorQuantizer, nearest_code, random_vectors, vq_loss
from dat.errors import DivergenceError, UsageError

PRECISIONS = ["highest", "high", "medium"]


def by_definition(vectors: Tensor, codebook: Tensor) -> Tensor:
    return (vectors.double()[:, None] - codebook.double()).square().sum(dim=2).argmin(dim=1)


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def near_ties(seed: int, *, tokens: int, codes: int, depth: int, scale: float) -> tuple[Tensor, Tensor]:
    """Vectors, some of them on a code, halfway between two codes, or one rounding away from halfway."""
    generator = torch.Generator().manual_seed(seed)
    codebook = torch.randn(codes, depth, generator=generator)
    vectors = torch.randn(tokens, depth, generator=generator)
    first, second = torch.randint(codes, (2, tokens), generator=generator)
    middle = (codebook[first] + codebook[second]) / 2
    kinds = torch.randint(4, (tokens, 1), generator=generator)
    vectors = torch.where(kinds == 1, codebook[first], vectors)
    vectors = torch.where(kinds == 2, middle, vectors)
    vectors = torch.where(kinds == 3, torch.nextafter(middle, codebook[second]), vectors)
    codebook[-1], codebook[codes // 2] = codebook[0], codebook[0].nextafter(codebook[1])
    return vectors * scale, codebook * scale


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(1, 40),
    codes=st.integers(2, 50),
    depth=st.sampled_from([1, 2, 3, 4, 17, 64]),
    scale=st.sampled_from([1e-38, 1e-22, 3e-22, 1e-21, 1e-3, 1.0, 1e4, 1e19, 1e30]),
    budget=st.sampled_from([1, 4096, 20_000, 2**26]),
    precision=st.sampled_from(PRECISIONS),
)
def test_is_the_float64_search(
    seed: int, tokens: int, codes: int, depth: int, scale: float, budget: int, precision: str
) -> None:
    vectors, codebook = near_ties(seed, tokens=tokens, codes=codes, depth=depth, scale=scale)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(nearest_code(vectors, codebook, budget=budget), by_definition(vectors, codebook))
    finally:
        torch.set_float32_matmul_precision(before)


def test_is_exact_for_many_tokens_at_every_precision(precision: str) -> None:
    for seed, depth in enumerate((4, 64)):
        vectors, codebook = near_ties(seed, tokens=1000, codes=300, depth=depth, scale=1.0)
        assert torch.equal(nearest_code(vectors, codebook), by_definition(vectors, codebook)), precision


def test_a_rounded_matrix_product_alone_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU does to the inputs at these settings, done by hand: the bound must notice, whatever the processor."""
    vectors, codebook = near_ties(0, tokens=300, codes=200, depth=8, scale=1.0)
    exact_product = torch.addmm

    def truncated(tensor: Tensor, bits: int) -> Tensor:
        return (tensor.view(torch.int32) >> bits << bits).view(torch.float32)

    for setting, bits in (("high", 13), ("medium", 16)):

        def rounded_product(bias: Tensor, left: Tensor, right: Tensor, *, alpha: int, bits: int = bits) -> Tensor:
            if left.dtype == torch.float32:
                left, right = truncated(left, bits), truncated(right.contiguous(), bits)
            return exact_product(bias, left, right, alpha=alpha)

        torch.set_float32_matmul_precision(setting)
        monkeypatch.setattr(torch, "addmm", rounded_product)
        try:
            scored, _ = nearest._by_scores(vectors, codebook, 200)
            assert not torch.equal(scored, by_definition(vectors, codebook))
            assert torch.equal(nearest_code(vectors, codebook), by_definition(vectors, codebook))
        finally:
            torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_takes_other_dtypes_at_their_value(dtype: torch.dtype) -> None:
    vectors, codebook = near_ties(1, tokens=200, codes=64, depth=5, scale=1.0)
    vectors = vectors.to(dtype)
    assert torch.equal(nearest_code(vectors, codebook), by_definition(vectors, codebook))
    assert torch.equal(nearest_code(vectors, codebook.to(dtype)), by_definition(vectors, codebook.to(dtype)))


def test_a_score_that_overflows_is_not_trusted() -> None:
    codebook = torch.tensor([[1.9e19, 0.0], [0.0, 1e19]])
    assert nearest_code(torch.tensor([[7.6e18, 0.0]]), codebook).tolist() == [0]


def test_a_score_that_underflows_is_not_trusted() -> None:
    for seed in range(20):
        vectors, codebook = near_ties(seed, tokens=300, codes=50, depth=3, scale=2e-22)
        assert torch.equal(nearest_code(vectors, codebook), by_definition(vectors, codebook))


def test_float64_differences_below_float32_count() -> None:
    codebook = torch.tensor([[1.0 + 1e-12], [1.0]], dtype=torch.float64)
    assert nearest_code(torch.tensor([[1.0]], dtype=torch.float64), codebook).tolist() == [1]


def test_ties_go_to_the_lowest_index_across_chunks() -> None:
    codebook = torch.ones(1000, 3)
    assert nearest_code(torch.zeros(7, 3), codebook, budget=4096).eq(0).all()
    assert nearest_code(torch.zeros(7, 3), codebook).eq(0).all()


def test_ordinary_vectors_are_decided_in_one_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, codebook = torch.randn(2000, 8, generator=generator), torch.randn(256, 8, generator=generator)
    _, certain = nearest._by_scores(vectors, codebook, 256)
    assert certain.float().mean() > 0.98


def test_autocast_changes_nothing() -> None:
    vectors, codebook = near_ties(2, tokens=300, codes=100, depth=6, scale=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_code(vectors, codebook), by_definition(vectors, codebook))


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has one setting for all")
def test_works_after_one_backend_was_set_alone() -> None:
    """Where torch.get_float32_matmul_precision() fails."""
    code = (
        "import torch; torch.backends.mkldnn.matmul.fp32_precision = 'bf16'\n"
        "from dat.discretizers.quantizers import nearest\n"
        "assert nearest._input_rounding(torch.float32) == 2.0**-7\n"
        "assert nearest.nearest_code(torch.ones(1, 2), torch.eye(3, 2)).tolist() == [0]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_vectors_and_codes_that_are_no_numbers(bad: float) -> None:
    vectors, codebook = torch.randn(50, 4), torch.randn(20, 4)
    broken_vectors, broken_codebook = vectors.clone(), codebook.clone()
    broken_vectors[17, 2], broken_codebook[11, 1] = bad, bad
    for pair in ((broken_vectors, codebook), (vectors, broken_codebook), (broken_vectors.double(), codebook.double())):
        with pytest.raises(DivergenceError, match="NaN or infinite"):
            nearest_code(*pair)


def test_refuses_an_empty_codebook() -> None:
    with pytest.raises(UsageError, match=r"\(0, 4\)"):
        nearest_code(torch.zeros(2, 4), torch.zeros(0, 4))


def test_no_vectors_have_no_codes() -> None:
    assert nearest_code(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0,)


@pytest.mark.parametrize(("tokens", "codes", "depth"), [(300, 2500, 4), (50, 9000, 3), (300, 300, 128)])
@pytest.mark.parametrize("tied", [False, True])
def test_memory_stays_within_the_budget(tokens: int, codes: int, depth: int, tied: bool) -> None:
    budget = 2**19
    codebook = torch.zeros(codes, depth) if tied else torch.randn(codes, depth)
    vectors = torch.randn(tokens, depth).bfloat16()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        nearest_code(vectors, codebook, budget=budget)
    result = 8 * len(vectors)
    assert peak_bytes(profile) <= budget + result


def peak_bytes(profile: Any) -> int:
    """Most bytes alive at once, from the profiler's record of single allocations (no part of its typed interface)."""
    alive = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    assert peak > 0
    return peak


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "beta", "legacy"),
    [
        ("vq2_legacy_beta0.25", 0.25, True),
        ("vq2_fixed_beta0.25", 0.25, False),
        ("vq2_fixed_beta0.6", 0.6, False),
        ("vq1_beta0.25", 0.25, True),
    ],
)
def test_losses_and_gradients_are_tamings(golden, name: str, beta: float, legacy: bool) -> None:
    io = load_file(golden("vq_quantizer_losses") / "io.safetensors")
    quantizer = VectorQuantizer(24, 6)
    quantizer.load_state_dict({"embedding.weight": io["codebook"]})
    latents = io["z"].requires_grad_()
    quantized = quantizer(latents)
    loss = vq_loss(quantized.codebook_loss, quantized.commitment_loss, beta=beta, legacy=legacy)
    assert torch.equal(quantized.codes, io["codes"])
    torch.testing.assert_close(quantized.vectors, io["z_q"], atol=1e-6, rtol=0)
    torch.testing.assert_close(loss, io[f"{name}.loss"].squeeze(), rtol=1e-5, atol=0)
    of_loss = torch.autograd.grad(loss, (latents, quantizer.embedding.weight), retain_graph=True)
    (through,) = torch.autograd.grad((quantized.vectors * io["upstream_grad"]).sum(), latents)
    for ours, key in zip((*of_loss, through), ("z", "codebook", "z_of_sum_zq_times_upstream"), strict=True):
        expected = io[f"{name}.grad_{key}"]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_search_stays_float32_in_a_bfloat16_network() -> None:
    quantizer = VectorQuantizer(64, 4)
    latents = torch.randn(2, 4, 3, 3).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(latents)
    assert quantized.vectors.dtype == torch.bfloat16
    assert quantized.codebook_loss.dtype == quantized.commitment_loss.dtype == torch.float32
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    assert torch.equal(quantized.codes.flatten(), by_definition(vectors, quantizer.embedding.weight))


def test_a_new_codebook_is_uniform_around_zero() -> None:
    weight = VectorQuantizer(50, 200).embedding.weight
    assert weight.abs().max() <= 1 / 50
    assert weight.std().item() == pytest.approx(1 / 50 / math.sqrt(3), rel=0.05)


def test_initialise_takes_encoder_outputs_and_uses_every_code() -> None:
    generator = torch.Generator().manual_seed(3)
    quantizer, latents = VectorQuantizer(30, 4), torch.randn(2, 4, 4, 4)
    quantizer.initialise(latents, generator)
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, 4)
    assert (quantizer.embedding.weight[:, None] == vectors).all(dim=2).any(dim=1).all()
    assert quantizer(latents).codes.unique().numel() == 30


def test_too_few_encoder_outputs_give_no_ties() -> None:
    chosen = random_vectors(torch.randn(5, 3), 12, torch.Generator().manual_seed(0))
    assert chosen.unique(dim=0).shape == (12, 3)


def test_revive_moves_dead_codes_only() -> None:
    quantizer, latents = VectorQuantizer(40, 4), torch.randn(2, 4, 5, 5) + 7
    codes = quantizer(latents).codes
    before = quantizer.embedding.weight.clone()
    alive = codes.unique()
    assert quantizer.revive(latents, codes, torch.Generator().manual_seed(0)) == 40 - len(alive)
    assert torch.equal(quantizer.embedding.weight[alive], before[alive])
    assert quantizer(latents).codes.unique().numel() > 20
    everything = torch.arange(40).view(1, 8, 5)
    assert quantizer.revive(latents, everything) == 0


def test_revive_repeats_with_the_generator() -> None:
    latents = torch.randn(2, 4, 5, 5)
    outcomes = []
    for _ in range(2):
        quantizer = VectorQuantizer(40, 4)
        quantizer.revive(latents, torch.zeros(1, 1, 1, dtype=torch.int64), torch.Generator().manual_seed(5))
        outcomes.append(quantizer.embedding.weight[1:].detach())
    assert torch.equal(*outcomes)
