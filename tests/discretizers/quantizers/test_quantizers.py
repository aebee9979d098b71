import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import load_discretizer, save_discretizer
from dat.discretizers.quantizers.cosine import CosineQuantizer, unit
from dat.discretizers.quantizers.entropy import EPSILON, bit_entropies, entropies
from dat.discretizers.quantizers.finite_scalar import FiniteScalarQuantizer
from dat.discretizers.quantizers.gumbel import GumbelQuantizer, gumbel_noise
from dat.discretizers.quantizers.index_propagation import IndexPropagationQuantizer, largest_product
from dat.discretizers.quantizers.lookup_free import LookupFreeQuantizer
from dat.discretizers.quantizers.nearest import CodebookQuantizer, Quantized, TrainableQuantizer, VectorQuantizer, vq_loss
from dat.discretizers.quantizers.table import NAMES, create_quantizer
from dat.errors import DivergenceError, UsageError

Golden = Callable[[str], Path]
SIZES = {"vq": (16, 4), "cosine": (16, 4), "lfq": (16, 4), "gumbel": (16, 4), "ibq": (16, 4), "fsq": (24, 3)}
LEVELS = {"fsq": (4, 3, 2)}
WITH_CODEBOOK = {"vq", "cosine", "ibq"}


def quantizer_of(name: str) -> TrainableQuantizer:
    torch.manual_seed(0)
    return create_quantizer(name, *SIZES[name], LEVELS.get(name, ()))


def latents_for(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, SIZES[name][1], 6, 5, generator=torch.Generator().manual_seed(1)).to(dtype)


def vqgan_of(name: str) -> VQGAN:
    size, depth = SIZES[name]
    torch.manual_seed(0)
    shape = {"z_channels": 5, "ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": ()}
    config = VQGANConfig(n_embed=size, embed_dim=depth, quantizer=name, levels=LEVELS.get(name, ()), **shape)
    return VQGAN(config)


def entropy_of(quantized: Quantized) -> Tensor:
    assert quantized.entropy_loss is not None
    return quantized.entropy_loss


def assert_near(ours: Tensor, golden: Tensor, relative: float) -> None:
    """Within a fraction of the largest entry."""
    torch.testing.assert_close(ours.reshape(golden.shape), golden, rtol=0, atol=relative * float(golden.abs().max()))


def test_every_quantizer_is_tested() -> None:
    assert set(SIZES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_within_the_codebook_and_decode_to_the_vectors(name: str) -> None:
    quantizer, latents = quantizer_of(name).eval(), latents_for(name)
    quantized = quantizer(latents)
    assert torch.equal(quantized.codes, quantizer.encode(latents))
    assert quantized.codes.shape == (2, 6, 5)
    assert 0 <= quantized.codes.min() <= quantized.codes.max() < quantizer.codebook_size == SIZES[name][0]
    assert len(quantized.codes.unique()) > 3
    torch.testing.assert_close(quantized.vectors, quantizer.decode(quantized.codes), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_and_low_precision_change_no_search_and_no_loss(name: str) -> None:
    quantizer, latents = quantizer_of(name).eval(), latents_for(name, torch.bfloat16)
    exact = quantizer(latents.float())
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(latents)
    assert torch.equal(quantized.codes, exact.codes)
    assert quantized.vectors.dtype == torch.bfloat16
    for loss in ("codebook_loss", "commitment_loss", "entropy_loss"):
        assert getattr(quantized, loss) == getattr(exact, loss)


@pytest.mark.parametrize("name", NAMES)
def test_float64_stays_float64(name: str) -> None:
    quantizer, latents = quantizer_of(name).double(), latents_for(name, torch.float64)
    quantized = quantizer(latents)
    assert quantized.vectors.dtype == quantized.commitment_loss.dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_latents_that_are_no_numbers_are_refused(name: str, bad: float) -> None:
    latents = latents_for(name)
    latents[1, 0, 2, 3] = bad
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        quantizer_of(name).encode(latents)
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        quantizer_of(name)(latents)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_training_in_bfloat16_moves_the_encoder(name: str) -> None:
    vqgan = vqgan_of(name).train()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        reconstruction, quantized = vqgan(images)
    loss = (reconstruction.float() - images).abs().mean() + vq_loss(quantized.codebook_loss, quantized.commitment_loss)
    loss = loss if quantized.entropy_loss is None else loss + 0.1 * quantized.entropy_loss
    loss.backward()
    assert loss.isfinite()
    for parameter in (vqgan.encoder.get_parameter("conv_in.weight"), *vqgan.quantize.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_vqgan_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    vqgan, images = vqgan_of(name), torch.rand(2, 3, 8, 8)
    loaded = load_discretizer(save_discretizer(tmp_path, vqgan))
    assert loaded.network.config == vqgan.config
    assert type(loaded.network.quantize) is type(vqgan.quantize)
    assert torch.equal(loaded(images), FrozenDiscretizer(vqgan)(images))


@pytest.mark.parametrize("name", NAMES)
def test_frozen_in_other_precisions(name: str, tmp_path: Path) -> None:
    path, images = save_discretizer(tmp_path, vqgan_of(name)), torch.rand(2, 3, 8, 8)
    exact, double = load_discretizer(path), load_discretizer(path, dtype=torch.float64)
    assert torch.equal(exact.encode(images), double.encode(images))
    torch.testing.assert_close(double(images.double()).float(), exact(images), atol=1e-5, rtol=0)
    assert load_discretizer(path, dtype=torch.bfloat16)(images).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_codebooks_of_vectors_can_be_initialised_and_revived(name: str) -> None:
    quantizer, latents = quantizer_of(name), latents_for(name)
    assert isinstance(quantizer, CodebookQuantizer) == (name in WITH_CODEBOOK)
    if isinstance(quantizer, CodebookQuantizer):
        quantizer.initialise(latents, torch.Generator().manual_seed(0))
        vectors = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        assert (quantizer.embedding.weight[:, None] == vectors).all(dim=2).any(dim=1).all()
        assert quantizer.revive(latents, torch.arange(10), torch.Generator().manual_seed(1)) == 6


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("magic", 16, 4), "no quantizer 'magic'; take one of vq, cosine, lfq, gumbel, ibq, fsq"),
        (("fsq", 1000, 4, (8, 5, 5, 4)), "need n_embed=800"),
        (("fsq", 1000, 3, (8, 5, 5, 5)), "embed_dim=4"),
        (("fsq", 1, 0), "needs levels"),
        (("fsq", 5, 2, (5, 1)), "at least 2"),
        (("lfq", 1000, 10), "n_embed=1024"),
        (("vq", 40, 2, (8, 5)), "Only the quantizer 'fsq' has levels"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_configuration(sizes: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create_quantizer(*sizes)
    name, size, depth, *levels = sizes
    if depth:
        with pytest.raises(UsageError, match=message):
            VQGANConfig(quantizer=name, n_embed=size, embed_dim=depth, levels=levels[0] if levels else ())


@pytest.mark.shared
def test_cosine_is_llamagens(golden: Golden) -> None:
    io = load_file(golden("other_quantizer_losses") / "io.safetensors")
    quantizer = CosineQuantizer(24, 6, entropy_temperature=0.01)
    quantizer.load_state_dict({"embedding.weight": io["codebook"]})
    quantized = quantizer(latents := io["z"].requires_grad_())
    losses = [quantized.codebook_loss, 0.25 * quantized.commitment_loss, 0.1 * entropy_of(quantized)]
    for ours, key in zip(losses, ("vq_loss", "commit_loss", "entropy_loss"), strict=True):
        assert_near(ours, io[key], 1e-5)
    assert_near(quantized.vectors, io["z_q"], 1e-6)
    for ours, key in zip(
        torch.autograd.grad(torch.stack(losses).sum(), (latents, quantizer.embedding.weight)), ("z", "codebook"), strict=True
    ):
        assert_near(ours, io[f"grad_{key}_total"], 1e-4)


def test_a_latent_or_a_code_of_length_0_passes_a_gradient_that_a_step_can_take() -> None:
    quantizer, latents = CosineQuantizer(16, 4), latents_for("cosine").detach()
    latents[0, :, 0, 0] = 0
    with torch.no_grad():
        quantizer.embedding.weight[0] = 0  # no code is nearer to 0
    latents.requires_grad_()
    result = quantizer(latents)
    (result.vectors.sum() + result.codebook_loss + result.commitment_loss).backward()
    assert latents.grad is not None
    assert quantizer.embedding.weight.grad is not None
    assert torch.allclose(latents.grad[0, :, 0, 0], torch.ones(4), atol=0.1)
    assert quantizer.embedding.weight.grad.abs().max() < 100
    assert torch.equal(unit(latents, dim=1), torch.nn.functional.normalize(latents, dim=1))


def test_cosine_ignores_lengths_and_keeps_those_of_its_weights() -> None:
    quantizer, latents = CosineQuantizer(16, 4), latents_for("cosine")
    expected, weight = quantizer.encode(latents), quantizer.embedding.weight.detach().clone()
    with torch.no_grad():
        quantizer.embedding.weight.mul_(torch.linspace(0.1, 9, 16)[:, None])
    assert torch.equal(quantizer.encode(7 * latents), expected)
    angles = torch.einsum("bchw,kc->bhwk", latents, weight / weight.norm(dim=1, keepdim=True))
    assert torch.equal(expected, angles.argmax(dim=3))
    torch.testing.assert_close(quantizer.decode(expected).norm(dim=1), torch.ones(2, 6, 5))
    assert quantizer(latents).entropy_loss is None


def numpy_fsq(latents: np.ndarray, levels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Values and codes, one latent after the other, by the listing in the paper's appendix."""
    values, codes = np.empty_like(latents), []
    for row, latent in enumerate(latents):
        code, weight = 0, 1
        for channel, level in enumerate(levels):
            half = (level - 1) * (1 - 1e-3) / 2
            offset = 0.5 if level % 2 == 0 else 0.0
            digit = np.round(np.tanh(latent[channel] + np.tan(offset / half)) * half - offset)
            values[row, channel] = digit / (level // 2)
            code += int(digit + level // 2) * weight
            weight *= level
        codes.append(code)
    return values, np.array(codes)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 8, 8, 6, 5), (2, 3), (4,)])
def test_fsq_is_the_papers(levels: tuple[int, ...]) -> None:
    latents = 2 * torch.randn(3, len(levels), 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quantizer = FiniteScalarQuantizer(levels)
    quantized = quantizer(latents)
    values, codes = numpy_fsq(latents.permute(0, 2, 3, 1).reshape(-1, len(levels)).numpy(), list(levels))
    assert np.array_equal(quantized.codes.flatten().numpy(), codes)
    np.testing.assert_allclose(quantized.vectors.permute(0, 2, 3, 1).reshape(values.shape).numpy(), values, atol=1e-12)
    everything = torch.arange(math.prod(levels)).view(1, 1, -1)
    points = quantizer.decode(everything)
    assert len(points[0, :, 0].T.unique(dim=0)) == quantizer.codebook_size
    assert points.min() == -1
    for channel, level in enumerate(levels):
        assert len(points[:, channel].unique()) == level


def test_fsq_passes_the_gradient_of_its_bounds() -> None:
    latents = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(FiniteScalarQuantizer((5, 8))(latents).vectors.sum(), latents)
    for channel, (level, offset) in enumerate(((5, 0.0), (8, 0.5))):
        half = (level - 1) * 0.999 / 2
        slope = 1 - torch.tanh(latents[:, channel] + math.tan(offset / half)) ** 2
        torch.testing.assert_close(gradient[:, channel], slope * half / (level // 2))


@pytest.mark.shared
def test_lfq_is_open_magvit2s(golden: Golden) -> None:
    io = load_file(golden("other_quantizer_losses") / "io.safetensors")
    quantized = LookupFreeQuantizer(6)(latents := io["z"].requires_grad_())
    assert torch.equal(quantized.codes, io["lfq.codes"])
    assert_near(quantized.vectors, io["lfq.z_q"], 1e-6)
    assert_near(quantized.commitment_loss, io["lfq.commitment"], 1e-5)
    assert_near(quantized.entropy_loss, io["lfq.entropy_aux_loss"], 1e-5)
    parts = bit_entropies(400 * latents.permute(0, 2, 3, 1).reshape(-1, 6))
    assert_near(parts.per_position, io["lfq.per_sample_entropy"], 1e-4)  # a sum of float32 numbers that nearly cancel there
    assert_near(parts.of_batch, io["lfq.codebook_entropy"], 1e-5)
    (gradient,) = torch.autograd.grad(quantized.entropy_loss + quantized.commitment_loss, latents)
    assert_near(gradient, io["lfq.grad_z"], 1e-4)


def test_lfq_bits_by_hand() -> None:
    latents = torch.tensor([0.1, -3.0, 2.0, -0.0]).view(1, 4, 1, 1)
    quantizer = LookupFreeQuantizer(4)
    assert quantizer.encode(latents).tolist() == [[[1 + 4]]]
    assert quantizer.decode(torch.tensor([[[5]]])).flatten().tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_entropies_of_bits_are_those_of_all_codes(bits: int) -> None:
    latents = torch.randn(40, bits, dtype=torch.float64, requires_grad=True)
    codes = (torch.arange(2**bits)[:, None] >> torch.arange(bits) & 1) * 2.0 - 1
    enumerated = entropies(2 * latents @ codes.double().T / 0.7)
    factorised = bit_entropies(4 * latents / 0.7)
    torch.testing.assert_close(factorised, enumerated)
    for ours, theirs in zip(factorised, enumerated, strict=True):
        torch.testing.assert_close(*(torch.autograd.grad(part, latents, retain_graph=True) for part in (ours, theirs)))


def test_entropies_are_scipys() -> None:
    logits = torch.randn(30, 7, dtype=torch.float64)
    probabilities = logits.softmax(dim=1).numpy()
    ours = entropies(logits)
    assert ours.per_position.item() == pytest.approx(stats.entropy(probabilities, axis=1).mean(), rel=1e-9)
    assert ours.of_batch.item() == pytest.approx(stats.entropy(probabilities.mean(axis=0)), abs=10 * 7 * EPSILON)


def test_lfq_of_18_bits_trains_in_little_memory() -> None:
    """Listing the codes would take 2^18 numbers per position, 1 GB here."""
    latents = torch.randn(1, 18, 32, 32, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        quantized = LookupFreeQuantizer(18)(latents)
        entropy_of(quantized).backward()
    assert sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages()) < 200e6
    assert latents.grad is not None
    assert latents.grad.isfinite().all()
    assert quantized.codes.max() < 2**18


@pytest.mark.shared
def test_ibq_is_seed_vokens(golden: Golden) -> None:
    io = load_file(golden("other_quantizer_losses") / "io.safetensors")
    quantizer = IndexPropagationQuantizer(24, 6)
    quantizer.load_state_dict({"embedding.weight": io["codebook"]})
    quantized = quantizer(latents := io["z"].requires_grad_())
    assert torch.equal(quantized.codes, io["ibq.codes"])
    assert_near(quantized.vectors, io["ibq.z_q"], 1e-6)
    loss = vq_loss(quantized.codebook_loss, quantized.commitment_loss)
    assert_near(loss, io["ibq.loss_terms"][0], 1e-5)
    assert_near(quantized.entropy_loss, io["ibq.loss_terms"][3], 1e-5)
    through = (quantized.vectors * io["ibq.upstream"]).sum()
    for output, suffix in ((loss, ""), (quantized.entropy_loss, "_entropy"), (through, "_of_sum_zq_times_upstream")):
        gradients = torch.autograd.grad(output, (latents, quantizer.embedding.weight), retain_graph=True)
        for ours, key in zip(gradients, ("z", "codebook"), strict=True):
            assert_near(ours, io[f"ibq.grad_{key}{suffix}"], 1e-4)


def test_the_largest_product_is_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, rows, bias = torch.randn(50, 4), torch.randn(30, 4), torch.randn(30)
    monkeypatch.setattr("dat.discretizers.quantizers.index_propagation.MOST_SCORES", 100)
    assert torch.equal(largest_product(vectors, rows), (vectors @ rows.T).argmax(dim=1))
    assert torch.equal(largest_product(vectors, rows, bias), (vectors @ rows.T + bias).argmax(dim=1))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    close = torch.tensor([[1.0 + 1e-6], [1.0]])
    assert largest_product(torch.tensor([[1.0]]), close).tolist() == [0]
    torch.set_float32_matmul_precision(before)


@pytest.mark.shared
def test_gumbel_draws_as_tamings(golden: Golden) -> None:
    folder = golden("taming_gumbelvq")
    io, weights = load_file(folder / "io.safetensors"), load_file(folder / "weights.safetensors")
    quantizer = GumbelQuantizer(48, 16)
    quantizer.load_state_dict({key.removeprefix("quantize."): weights[key] for key in weights if "quantize." in key})
    quantized = quantizer.quantized_with(io["z"], io["gumbel_noise"])
    assert torch.equal(quantized.codes, io["gumbel_codes"])
    assert_near(quantized.vectors, io["gumbel_z_q"], 1e-6)
    assert_near(1e-8 * entropy_of(quantized), io["gumbel_kl"], 1e-5)
    assert torch.equal(quantizer.encode(io["z"]), io["codes"])


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_gumbel_has_the_gradient_of_torchs_own(tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer, latents = GumbelQuantizer(16, 4, tau=tau).double(), latents_for("gumbel", torch.float64).requires_grad_()
    noise = gumbel_noise((2, 16, 6, 5), torch.Generator().manual_seed(0), device=torch.device("cpu")).double()
    ours = quantizer.quantized_with(latents, noise).vectors
    monkeypatch.setattr(Tensor, "exponential_", lambda self: self.copy_((-noise).exp()))  # what torch draws its noise by
    one_hot = torch.nn.functional.gumbel_softmax(quantizer.proj(latents), tau=tau, hard=True, dim=1)
    theirs = torch.einsum("bkhw,kd->bdhw", one_hot, quantizer.embed.weight)
    torch.testing.assert_close(ours, theirs)
    inputs = (latents, quantizer.proj.weight, quantizer.embed.weight)
    weights = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad((part * weights).sum(), inputs) for part in (ours, theirs)))


def test_gumbel_draws_in_training_only() -> None:
    quantizer, latents = GumbelQuantizer(16, 4), latents_for("gumbel")
    assert not torch.equal(quantizer(latents).codes, quantizer(latents).codes)
    assert torch.equal(quantizer.eval()(latents).codes, quantizer.encode(latents))


def test_gumbel_noise_is_standard_and_repeats_with_its_generator() -> None:
    first, again = (gumbel_noise((20_000,), torch.Generator().manual_seed(3), device=torch.device("cpu")) for _ in range(2))
    assert torch.equal(first, again)
    assert stats.kstest(first.numpy(), "gumbel_r").pvalue > 0.01


def test_new_codebooks_have_their_published_scale() -> None:
    assert VectorQuantizer(50, 200).embedding.weight.abs().max() <= 1 / 50
    assert IndexPropagationQuantizer(50, 200).embedding.weight.std().item() == pytest.approx(1, rel=0.05)
