"""A student learns its teacher: losses fall, agreement is what it says, a resumed run ends with the same bits."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import assert_same_state, final_state

from dat.data.embedded import ArraySource
from dat.data.pipeline import CenterCrop, ImageDataset
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.fast import FastAutoencoder, FastConfig, frame_of, student_of
from dat.discretizers.pretrained import load_discretizer, read_extra
from dat.engine import steps
from dat.engine.distill import Distillation, Distiller, Measured, agreement, cost, distill, placed, unexplained
from dat.engine.loop import accelerator
from dat.errors import UsageError
from dat.nn.perceptual import multiscale_gradient_distance
from dat.types import Batch, Place

CPU = Place(torch.device("cpu"))
CONFIG = FastConfig(codebook_size=16, depth=4, stride=2, width=16, encoder_blocks=1, decoder_blocks=1)


def smooth(count: int, size: int = 8) -> ImageDataset:
    """Pictures with something to learn: bilinear ramps between random corners."""
    corners = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(count))
    images = torch.nn.functional.interpolate(corners, size=(size, size + 2), mode="bilinear", align_corners=True)
    source = ArraySource((images * 255).byte().numpy(), np.zeros(count, dtype=np.int64), ("a",))
    return ImageDataset(source, CenterCrop(), seed=0)


def teacher() -> FrozenDiscretizer:
    return FrozenDiscretizer(tiny.vqgan())


def student() -> FastAutoencoder:
    torch.manual_seed(2)
    return student_of(tiny.vqgan(), CONFIG)


def distilled(folder: Path, train: ImageDataset, test: ImageDataset, **changes: Any) -> tuple[FastAutoencoder, Measured]:
    values: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 5e-3, "warmup_steps": 2, "log_every": 5}
    perceptual = changes.pop("perceptual", None)
    network = student()
    measured = distill(
        network,
        teacher(),
        Distillation(**{**values, **changes}),
        train,
        test,
        perceptual=perceptual,
        seed=0,
        folder=folder,
        weights=folder / "fast.safetensors",
        provenance={"teacher": "tiny"},
        cpu=True,
    )
    return network, measured


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_loss_scale_of_fp16_is_kept() -> None:
    with accelerator("fp32", cpu=True) as here:
        learner = Distiller(student(), teacher(), None, Distillation(epochs=1, batch_size=8), here, CPU, smooth(8))
        here.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        state = learner.state()
        here.scaler = torch.amp.GradScaler("cpu")
        learner.load(state)
        assert here.scaler.get_scale() == 8.0


def test_a_distillation_lowers_both_losses_and_says_what_it_made(tmp_path: Path) -> None:
    before = agreement(FrozenDiscretizer(student()), teacher(), smooth(16), CPU)
    trained, measured = distilled(tmp_path, smooth(64), smooth(16), epochs=10, lr=1e-2, image_weight=0.1)
    log = log_of(tmp_path)
    assert log[-1]["latents"] < 0.85 * log[0]["latents"]
    assert log[-1]["pixels"] < 0.7 * log[0]["pixels"]
    assert log[-1]["loss"] == pytest.approx(log[-1]["latents"] + log[-1]["pixels"] + log[-1]["image"])
    for name in ("code_agreement", "psnr_to_teacher_db", "decoder_psnr_to_teacher_db"):
        assert measured[name] == log[-1][name] > before[name]
    assert {"flops", "teacher_flops", "flops_ratio", "time_ratio", "size"} <= set(measured)

    extra = read_extra(tmp_path / "fast.safetensors")
    assert extra["teacher"] == "tiny"
    assert extra["quality"] == {name: value for name, value in measured.items() if name != "time_ratio"}
    images = torch.rand(2, 3, 9, 11)
    loaded = load_discretizer(tmp_path / "fast.safetensors")
    assert torch.equal(loaded(images), FrozenDiscretizer(trained)(images))


def test_only_what_is_learned_changes(tmp_path: Path) -> None:
    trained, _ = distilled(tmp_path, smooth(16), smooth(8))
    fresh = student().state_dict()
    same = [name for name, tensor in trained.state_dict().items() if torch.equal(tensor, fresh[name])]
    assert same == ["quantize.embedding.weight"]


def test_sizes_that_are_no_multiples_of_the_stride(tmp_path: Path) -> None:
    _, measured = distilled(tmp_path, smooth(16, size=7), smooth(8, size=7), perceptual=None, epochs=1)
    assert measured["size"] == 9
    assert all(math.isfinite(value) for value in measured.values())


def test_half_precision_and_a_perceptual_distance(tmp_path: Path) -> None:
    more: dict[str, Any] = {"precision": "bf16", "perceptual_weight": 0.5, "perceptual": multiscale_gradient_distance}
    distilled(tmp_path, smooth(16), smooth(8), **more)
    assert log_of(tmp_path)[-1]["perceptual"] > 0


@pytest.mark.parametrize("given", [{"perceptual_weight": 1.0}, {"perceptual": multiscale_gradient_distance}])
def test_a_perceptual_weight_without_its_distance_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="perceptual_weight"):
        distilled(tmp_path, smooth(16), smooth(8), **given)


# ---- what is measured


def test_a_teacher_agrees_with_itself() -> None:
    same = agreement(teacher(), teacher(), smooth(10), CPU, batch_size=4)
    assert same["code_agreement"] == 1
    assert same["psnr_to_teacher_db"] == same["decoder_psnr_to_teacher_db"] == pytest.approx(120)
    assert same["psnr_db"] == same["teacher_psnr_db"]
    assert same["codes_used"] == same["teacher_codes_used"]


def test_agreement_is_that_of_a_plain_computation() -> None:
    ours, theirs, test = FrozenDiscretizer(student()), teacher(), smooth(10, size=7)
    measured = agreement(ours, theirs, test, CPU, batch_size=4)
    images = test.__getitems__([(0, position) for position in range(10)])[0]
    found, expected = ours.encode(images), theirs.encode(images)
    assert measured["code_agreement"] == pytest.approx((found == expected).double().mean().item())
    assert 0 < measured["code_agreement"] < 1

    def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
        return 10 * math.log10(1 / (one - other).double().square().mean().item())

    decoded = ours.decode(expected)[..., :7, :9]
    assert measured["psnr_to_teacher_db"] == pytest.approx(psnr(ours(images), theirs(images)), rel=1e-4)
    assert measured["decoder_psnr_to_teacher_db"] == pytest.approx(psnr(decoded, theirs(images)), rel=1e-4)
    assert measured["psnr_db"] == pytest.approx(psnr(ours(images), images), rel=1e-4)
    assert measured["teacher_psnr_db"] == pytest.approx(psnr(theirs(images), images), rel=1e-4)
    assert measured["codes_used"] == found.unique().numel() / 16


def test_the_unexplained_part() -> None:
    targets = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 7 + 3
    mean = targets.mean(dim=(0, 2, 3), keepdim=True).expand_as(targets)
    assert unexplained(targets, targets) == 0
    assert float(unexplained(mean, targets)) == pytest.approx(1)
    assert float(unexplained((targets + mean) / 2, targets)) == pytest.approx(0.25)


def test_latents_that_are_learned_perfectly_are_the_teachers_codes() -> None:
    frozen, images = teacher(), next(iter(smooth(8).__getitems__([(0, row) for row in range(8)])))
    target = placed(frozen.latents(images), frame_of(frozen.network, CONFIG.depth))
    assert torch.equal(student().quantize.encode(target), frozen.encode(images))


def test_cost_is_a_ratio_of_flops() -> None:
    small = cost(student(), teacher().network, size=8)
    half = cost(FastAutoencoder(replace(CONFIG, width=8)), teacher().network, size=8)
    assert small["flops_ratio"] == small["flops"] / small["teacher_flops"]
    assert half["flops_ratio"] < small["flops_ratio"] < 0.02


# ---- resume


def test_interrupted_distillation_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps._Saver, "is_due", lambda saver: next(due))
    due = iter([number % 3 == 2 for number in range(10**3)])
    changes: dict[str, Any] = {"accumulate": 2}
    distilled(tmp_path / "alone", tiny.pictures(), tiny.pictures(8, augmented=False), **changes)
    alone = final_state(tmp_path / "alone")
    assert {*alone.tensors} == {"student", "optimizer", "frame"}
    step = Distiller.step
    for last in (4, 8):
        folder = tmp_path / f"killed-{last}"

        def dying(learner: Distiller, batches: Sequence[Batch], number: int, last: int = last) -> object:
            if number == last:
                raise tiny.Killed
            return step(learner, batches, number)

        monkeypatch.setattr(Distiller, "step", dying)
        with pytest.raises(tiny.Killed):
            distilled(folder, tiny.pictures(), tiny.pictures(8, augmented=False), **changes)
        monkeypatch.setattr(Distiller, "step", step)
        distilled(folder, tiny.pictures(), tiny.pictures(8, augmented=False), **changes)
        assert_same_state(final_state(folder), alone)
        weights, expected = (load_file(run / "fast.safetensors") for run in (folder, tmp_path / "alone"))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())
