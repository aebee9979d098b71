"""Training of a discretizer: statistics of the codebook, recovery of a collapse, health, precision, the second player."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from dat.data.embedded import digits
from dat.data.pipeline import CenterCrop, CropFlip, ImageDataset
from dat.data.subset import Subset
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN
from dat.discretizers.objective import VQGANObjective
from dat.discretizers.pretrained import read_extra
from dat.discretizers.quantizers.cosine import CosineQuantizer
from dat.discretizers.quantizers.nearest import CodebookQuantizer, VectorQuantizer, as_vectors
from dat.discretizers.quantizers.table import create_quantizer
from dat.engine import discretizer_health, discretizer_loop
from dat.engine.codebook import CodebookCare, RunningMeans, forget, sums_by_code
from dat.engine.discretizer_health import KEPT_EPOCHS, keep_reconstructions, reconstruction_quality, usage_alarm
from dat.engine.discretizer_loop import DiscretizerTraining, TwoPlayerLearner, discriminator_balance, train_discretizer
from dat.engine.loop import accelerator
from dat.errors import UsageError
from dat.nn.imagenet_networks import TORCHVISION, ImageNetNetwork
from dat.nn.perceptual import multiscale_gradient_distance
from dat.types import Batch, Place

HERE = Place(torch.device("cpu"))
PIXELS = VQGANObjective(perceptual_weight=0.0, disc_factor=0.0, legacy=False)
TWO_PLAYERS = VQGANObjective(perceptual_weight=0.0, disc_start=4, disc_weight=0.5)


def some_digits(count: int, *, augmented: bool = False) -> ImageDataset:
    chosen = Subset(digits("train"), np.arange(count))
    return ImageDataset(chosen, CropFlip(padding=1, flip=False) if augmented else CenterCrop(), seed=0)


def network(quantizer: str = "vq", *, codes: int = 64, depth: int = 4, levels: tuple[int, ...] = ()) -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(replace(tiny.NETWORK, n_embed=codes, embed_dim=depth, quantizer=quantizer, levels=levels))


def train(
    folder: Path, vqgan: VQGAN, objective: VQGANObjective = PIXELS, *, count: int = 64, **changes: Any
) -> list[dict[str, Any]]:
    """The lines of the log after training on the first digits."""
    values: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 2e-3, "disc_layers": 0, "log_every": 1, **changes}
    settings, weights = DiscretizerTraining(**values), folder / "weights.safetensors"
    pictures, test = some_digits(count, augmented=True), some_digits(64)
    arguments: dict[str, Any] = {"seed": 0, "folder": folder, "weights": weights, "provenance": {}, "cpu": True}
    train_discretizer(vqgan, objective, multiscale_gradient_distance, settings, pictures, test, **arguments)
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_pictures_of_any_size_are_trained_on(tmp_path: Path) -> None:
    few = Subset(digits("train"), np.arange(32))
    odd = ImageDataset(few, CenterCrop(7), seed=0)
    arguments: dict[str, Any] = {"seed": 0, "folder": tmp_path, "weights": tmp_path / "q.safetensors", "cpu": True}
    settings = DiscretizerTraining(epochs=1, batch_size=16, lr=2e-3, disc_layers=0)
    train_discretizer(network(), PIXELS, None, settings, odd, odd, provenance={}, **arguments)
    assert read_extra(tmp_path / "q.safetensors")["quality"]["psnr_db"] > 0


# ---- running means


def test_sums_by_code_are_those_of_a_loop() -> None:
    vectors, codes = torch.randn(40, 3), torch.randint(0, 6, (40,))
    expected = torch.zeros(7, 3)
    for vector, code in zip(vectors, codes.tolist(), strict=True):
        expected[code] += vector
    torch.testing.assert_close(sums_by_code(vectors, codes, 7), expected)


def test_running_means_are_the_published_formula() -> None:
    codebook, decay, epsilon = torch.randn(4, 2), 0.9, 1e-5
    means = RunningMeans(codebook, decay=decay)
    means.begin(codebook, torch.ones(4, dtype=torch.bool), 2.5)
    torch.testing.assert_close(means.codebook(), codebook)
    counts, sums = np.full(4, 2.5), codebook.double().numpy() * 2.5
    for _ in range(5):
        step_counts, step_sums = torch.randint(0, 5, (4,)).float(), torch.randn(4, 2)
        means.follow(step_counts, step_sums)
        counts = decay * counts + (1 - decay) * step_counts.numpy()
        sums = decay * sums + (1 - decay) * step_sums.numpy()
    smoothed = (counts + epsilon) / (counts.sum() + 4 * epsilon) * counts.sum()
    np.testing.assert_allclose(means.codebook().numpy(), sums / smoothed[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["vq", "cosine"])
def test_the_codebook_follows_the_latents_that_took_each_code(kind: str) -> None:
    quantizer = create_quantizer(kind, 4, 3)
    assert isinstance(quantizer, VectorQuantizer | CosineQuantizer)
    care = CodebookCare(quantizer, HERE, decay=0.0)  # the codebook of a step is the mean of its latents
    latents = 3 * torch.randn(2, 3, 4, 4)
    codes = quantizer.encode(latents)
    care.observe(latents[:1], codes[:1])
    care.observe(latents[1:], codes[1:])
    care.follow()
    vectors = as_vectors(latents) if kind == "vq" else torch.nn.functional.normalize(as_vectors(latents), dim=1)
    for code in codes.unique():
        mean = vectors[codes.flatten() == code].mean(dim=0)
        torch.testing.assert_close(quantizer.embedding.weight[code], mean, rtol=1e-4, atol=1e-4)
    assert care.used.nonzero().flatten().tolist() == codes.unique().tolist()
    assert not quantizer.embedding.weight.requires_grad


def test_unused_codes_stay_where_they_are_for_long() -> None:
    means, codebook = RunningMeans(torch.zeros(3, 2), decay=0.99), torch.randn(3, 2)
    means.begin(codebook, torch.ones(3, dtype=torch.bool), 10.0)
    for _ in range(500):
        means.follow(torch.tensor([30.0, 0.0, 0.0]), 30 * codebook * torch.tensor([[1.0], [0.0], [0.0]]))
    torch.testing.assert_close(means.codebook(), codebook, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "decay", "message"), [("vq", 1.0, "ema_codebook_decay is 1.0"), ("ibq", 0.99, "vq or cosine")]
)
def test_running_means_that_cannot_be_are_refused(kind: str, decay: float, message: str) -> None:
    quantizer = create_quantizer(kind, 4, 3)
    assert isinstance(quantizer, CodebookQuantizer)
    with pytest.raises(UsageError, match=message):
        CodebookCare(quantizer, HERE, decay=decay)


# ---- revival


@pytest.mark.parametrize("decay", [None, 0.9])
def test_a_revived_code_forgets_its_past(decay: float | None) -> None:
    quantizer = VectorQuantizer(6, 3)
    care, weight = CodebookCare(quantizer, HERE, decay=decay), quantizer.embedding.weight
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.ones(6, 3), "exp_avg_sq": torch.ones(6, 3)}
    care.observe(weight.detach()[:2].T.reshape(1, 3, 1, 2), torch.tensor([[[0, 1]]]))
    care.follow()
    before, latents = weight.detach().clone(), torch.randn(2, 3, 4, 4)
    assert care.revive(latents, torch.Generator().manual_seed(0), {weight: moments}) == 4
    assert torch.equal(weight[:2], before[:2])
    assert all((as_vectors(latents) == row).all(dim=1).any() for row in weight.detach()[2:])
    for name in ("exp_avg", "exp_avg_sq"):
        assert moments[name].mean(dim=1).tolist() == [1, 1, 0, 0, 0, 0]
    assert moments["step"] == 7
    assert not care.used.any()
    if care.means is not None:
        share = care.means.counts[2]
        assert share > 0
        torch.testing.assert_close(care.means.sums[2:], weight.detach()[2:] * share)
        torch.testing.assert_close(care.means.codebook()[2:], weight.detach()[2:], rtol=1e-3, atol=1e-4)


def test_the_moments_of_the_training_are_those_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer knows the codebook by the parameter that the care holds."""
    seen: list[bool] = []

    def recording(moments: Mapping[str, Any], rows: Tensor) -> None:
        forget(moments, rows)
        seen.append({*moments} == {"step", "exp_avg", "exp_avg_sq"} and not moments["exp_avg"][rows].any())

    monkeypatch.setattr("dat.engine.codebook.forget", recording)
    train(tmp_path, network(codes=256), revive_every=4)
    assert seen == [True, True]


def all_equal(quantizer: CodebookQuantizer, latents: Tensor, generator: torch.Generator | None = None) -> None:
    with torch.no_grad():
        quantizer.embedding.weight.copy_(as_vectors(latents).mean(dim=0).expand_as(quantizer.embedding.weight))


def all_but_one_far_away(quantizer: CodebookQuantizer, latents: Tensor, generator: torch.Generator | None = None) -> None:
    all_equal(quantizer, latents)
    with torch.no_grad():
        quantizer.embedding.weight[1:] *= -100 * torch.arange(1, len(quantizer.embedding.weight))[:, None]


COLLAPSES = {"equal": all_equal, "far": all_but_one_far_away}
CASES = [(kind, plant, update) for kind in ("vq", "cosine") for plant in COLLAPSES for update in ("gradient", "ema")]
QUICK = [("vq", "equal", "gradient"), ("vq", "far", "ema"), ("cosine", "far", "ema")]


@pytest.mark.parametrize(("kind", "plant", "update"), QUICK)
def test_a_planted_collapse_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, plant: str, update: str
) -> None:
    monkeypatch.setattr(CodebookQuantizer, "initialise", COLLAPSES[plant])
    log = train(tmp_path, network(kind, codes=32), epochs=5, codebook_update=update, revive_every=4)
    assert log[-1]["step"] == 20
    assert log[-1]["codes_used"] >= 0.9
    assert "alarm" not in log[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "plant", "update"), CASES)
def test_a_planted_collapse_has_recovered_after_500_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, plant: str, update: str
) -> None:
    monkeypatch.setattr(CodebookQuantizer, "initialise", COLLAPSES[plant])
    log = train(
        tmp_path, network(kind, codes=128), epochs=25, count=320, codebook_update=update, revive_every=10, log_every=500
    )
    assert log[-1]["step"] == 500
    assert log[-1]["codes_used"] >= 0.9


def test_a_dying_codebook_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(CodebookQuantizer, "initialise", all_but_one_far_away)
    log = train(tmp_path, network())
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("After epoch")]
    assert [line.split(":")[0] for line in said] == ["After epoch 1", "After epoch 2"]
    assert "Only 1.6% of the 64 codes are used at the 1024 positions of the test pictures" in said[0]
    assert "training.revive_every: 20 and training.codebook_update: ema" in said[0]
    assert [line["step"] for line in log if "alarm" in line] == [4, 8]
    assert log[-1]["alarm"] in said[1]
    assert read_extra(tmp_path / "weights.safetensors")["alarm"] == log[-1]["alarm"]


def test_the_alarm_asks_no_more_than_the_positions_allow() -> None:
    assert usage_alarm(0.05, 1000, places=400, has_codebook=True) == ""
    assert "revive_every" in usage_alarm(0.05, 1000, places=501, has_codebook=True)
    assert "entropy_weight" in usage_alarm(0.05, 1000, places=1000, has_codebook=False)


# ---- quantizers without a codebook


@pytest.mark.parametrize(
    ("kind", "codes", "depth", "levels", "weight"),
    [("fsq", 60, 3, (5, 4, 3), 0.0), ("lfq", 16, 4, (), 0.1), ("gumbel", 16, 4, (), 5e-4)],
)
def test_without_a_codebook_there_is_nothing_to_care_for(
    tmp_path: Path, kind: str, codes: int, depth: int, levels: tuple[int, ...], weight: float
) -> None:
    vqgan = network(kind, codes=codes, depth=depth, levels=levels)
    log = train(tmp_path, vqgan, replace(PIXELS, entropy_weight=weight))
    assert ("entropy" in log[0]) == bool(weight)
    assert log[-1]["loss"] < log[0]["loss"]
    assert "codebook" not in tiny.final_state(tmp_path).tensors


@pytest.mark.parametrize("changes", [{"revive_every": 5}, {"codebook_update": "ema"}])
def test_care_for_no_codebook_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="'lfq' has no codebook to care for"):
        train(tmp_path, network("lfq", codes=16), **changes)


# ---- health


def test_quality_names_the_networks_it_was_measured_with() -> None:
    toy = ImageNetNetwork("toy", [nn.Conv2d(3, 4, 3)], nn.Identity(), stops=(1,), convention=TORCHVISION)
    discretizer = FrozenDiscretizer(tiny.vqgan())
    found = reconstruction_quality(discretizer, some_digits(8), HERE, perceptual=multiscale_gradient_distance, features=toy)
    assert {"psnr_db", "ssim", "multiscale_gradient_distance", "frechet_toy"} <= {*found}
    images = torch.cat([some_digits(8)[0, position][0] for position in range(8)])
    distances = multiscale_gradient_distance(2 * images - 1, 2 * discretizer(images) - 1)
    assert found["multiscale_gradient_distance"] == pytest.approx(distances.mean().item(), rel=1e-5)


def test_quality_takes_no_more_pixels_at_a_time_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    discretizer, counts, together = FrozenDiscretizer(tiny.vqgan()), list[int](), some_digits(8)
    whole = reconstruction_quality(discretizer, together, HERE)
    side = together[0, 0][0].shape[-1]
    for pixels, at_a_time in ((3 * side**2, [3, 3, 2]), (side, [1] * 8)):
        monkeypatch.setattr(discretizer_health, "PIXELS", pixels)
        counts.clear()
        assert reconstruction_quality(discretizer, together, HERE, advance=counts.append) == pytest.approx(whole, rel=1e-5)
        assert counts == at_a_time


def test_the_health_of_each_epoch_is_logged_and_goes_with_the_weights(tmp_path: Path) -> None:
    log = train(tmp_path, network(), TWO_PLAYERS, disc_layers=1, disc_width=8, revive_every=4)
    quality = read_extra(tmp_path / "weights.safetensors")["quality"]
    epochs = [line for line in log if "psnr_db" in line]
    assert [line["step"] for line in epochs] == [4, 8]
    measured = {"psnr_db", "ssim", "codes_used", "perplexity", "dead_codes", "multiscale_gradient_distance"}
    balance = {"logits_real", "logits_fake", "discriminator_accuracy", "generator_weight"}
    assert measured | balance <= {*quality}
    assert {name: log[-1][name] for name in quality} == pytest.approx(quality)  # log_every is 1
    assert not balance & {*epochs[0]}
    with np.load(tmp_path / "reconstructions.npz") as stored:
        assert stored.files == ["original", "epoch_1", "epoch_2"]
        assert {(stored[name].shape, stored[name].dtype) for name in stored.files} == {((8, 8, 8, 3), np.dtype("uint8"))}
        np.testing.assert_allclose(stored["original"][0] / 255, some_digits(1)[0, 0][0][0].permute(1, 2, 0), atol=1e-6)
        distances = [np.abs(stored["original"].astype(int) - stored[name]).mean() for name in stored.files]
    assert distances[0] == 0 < distances[1] != distances[2] > 0


def test_the_newest_and_evenly_spread_epochs_are_kept(tmp_path: Path) -> None:
    images, path = torch.rand(2, 3, 4, 4), tmp_path / "reconstructions.npz"
    for epoch in range(30):
        if epoch == 20:  # a resume from an earlier epoch
            keep_reconstructions(path, images, images, epoch=18, epochs=40)
        keep_reconstructions(path, images, images, epoch=epoch, epochs=40)
    with np.load(path) as stored:
        numbers = [int(name.removeprefix("epoch_")) for name in stored.files[1:]]
    assert numbers == [1, 6, 11, 16, 21, 25, 30]
    assert len(numbers) <= KEPT_EPOCHS + 1


def test_the_balance_of_the_discriminator_is_counted() -> None:
    real, fake = torch.tensor([1.0, -1, 2, 3]).view(1, 1, 2, 2), torch.tensor([-1.0, -2, 1, 1]).view(1, 1, 2, 2)
    found = discriminator_balance(real, fake)
    assert {name: value.item() for name, value in found.items()} == {
        "logits_real": 1.25,
        "logits_fake": -0.25,
        "discriminator_accuracy": 0.625,
    }


# ---- two players


@pytest.fixture
def bfloat16_learner(tmp_path: Path) -> Iterator[TwoPlayerLearner]:
    settings = DiscretizerTraining(1, 8, 1e-3, disc_layers=1, disc_width=8, precision="bf16")
    with accelerator("bf16", cpu=True) as here:
        objective = replace(TWO_PLAYERS, disc_start=0)
        yield TwoPlayerLearner(network(), objective, None, settings, here, HERE, some_digits(8), seed=0, folder=tmp_path)


def test_the_loss_scale_of_fp16_is_kept(bfloat16_learner: TwoPlayerLearner) -> None:
    """A resumed run that began at 65536 again would leave out other steps than one that was left alone."""
    bfloat16_learner.here.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    state = bfloat16_learner.state()
    bfloat16_learner.here.scaler = torch.amp.GradScaler("cpu")
    bfloat16_learner.load(state)
    assert bfloat16_learner.here.scaler.get_scale() == 8.0


def test_bfloat16_covers_both_players_but_not_the_quantizer(bfloat16_learner: TwoPlayerLearner) -> None:
    learner, seen, gradients = bfloat16_learner, {}, []
    assert learner.discriminator is not None
    watched = {
        "encoder": learner.bare.encoder.get_submodule("conv_in"),
        "decoder": learner.bare.decoder.get_submodule("conv_in"),
        "critic": learner.discriminator.bare.get_submodule("main.0"),
    }

    def note(name: str) -> Any:
        return lambda module, inputs, output: seen.setdefault(name, set()).add(output.dtype)

    for name, module in watched.items():
        module.register_forward_hook(note(name))
    for player in learner.players:
        player.optimizer.optimizer.register_step_pre_hook(
            lambda adam, *_: gradients.extend(p.grad for group in adam.param_groups for p in group["params"])
        )
    log = learner.step([Batch(torch.rand(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))], 1)
    assert seen == {name: {torch.bfloat16} for name in watched}
    assert len(gradients) == sum(1 for player in learner.players for _ in player.bare.parameters())
    assert all(gradient is not None and gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    assert all(value.isfinite() for value in log.values())
    codebook = learner.bare.quantize
    assert codebook(torch.rand(1, 4, 2, 2, dtype=torch.bfloat16)).commitment_loss.dtype == torch.float32


def test_the_second_player_is_called_once_for_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On several processes a call evens the running means, which PyTorch 2.6 forbids between a call and its gradient."""
    asked: list[tuple[int, int]] = []
    forward = discretizer_loop._OfBoth.forward

    def counted(critic: Any, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        asked.append((len(real), len(fake)))
        return forward(critic, real, fake)

    monkeypatch.setattr(discretizer_loop._OfBoth, "forward", counted)
    train(tmp_path, network(), TWO_PLAYERS, disc_layers=1, disc_width=8, accumulate=2)
    assert asked == [(8, 8)] * 8  # of steps 5 to 8, two halves each


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_second_player_starts_after_so_many_updates_of_the_first(tmp_path: Path, accumulate: int) -> None:
    log = train(tmp_path, network(), TWO_PLAYERS, disc_layers=1, disc_width=8, accumulate=accumulate)
    assert [line["step"] for line in log if "discriminator" in line] == [5, 6, 7, 8]
    assert [line["step"] for line in log if "generator" in line] == [5, 6, 7, 8]


def test_a_codebook_of_running_means_has_no_moments(tmp_path: Path) -> None:
    vqgan = network()
    train(tmp_path, vqgan, codebook_update="ema", epochs=1)
    state = tiny.final_state(tmp_path)
    assert {*state.tensors["codebook"]} == {"used", "counts", "sums"}
    trained = [name for name, _ in vqgan.named_parameters()]
    with_moments = {int(key.split(".")[0]) for key in state.tensors["vqgan_optimizer"]}
    assert {trained[index] for index in range(len(trained)) if index not in with_moments} == {"quantize.embedding.weight"}


def test_only_the_optimizers_moments_of_a_rows_own_shape_are_forgotten() -> None:
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 2), "name": "kept"}
    forget(moments, torch.tensor([True, False]))
    assert moments["exp_avg"].tolist() == [[0, 0], [1, 1]]
    assert moments["step"] == 3
