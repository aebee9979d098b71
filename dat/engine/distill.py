"""The loop that trains a fast discretizer after a slow one: its encoder to the teacher's latents, its decoder to its pictures.

The halves share no weight and no gradient: the encoder learns what the teacher's encoder gives, the decoder what the
teacher's decoder makes of the teacher's codes. Order, randomness, log, checkpoints and resume are those of
`dat.engine.steps`. There is no cross-entropy over the distances to the codes: beside the latents, at equal processor time
on one thread, it agreed on fewer codes (74 and 67 % at 0.1 and 3.3 times their weight, against 76 %; a trained VQ-VAE,
one run each).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from dat.data.pipeline import ImageDataset, TrainingOrder, evaluation_batches
from dat.discretizers import codes
from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.frozen import FrozenDiscretizer, pad_to_multiple
from dat.discretizers.networks.fast import FastAutoencoder, Frame, Placed, flops_per_image, frame_of
from dat.discretizers.objective import Perceptual, pixel_loss
from dat.discretizers.pretrained import save_discretizer
from dat.discretizers.quality import psnr_db
from dat.engine import optimizer_state
from dat.engine.checkpoint import State
from dat.engine.loop import Precision, accelerator, cosine_factor, loss_scale, set_loss_scale
from dat.engine.steps import Pace, run_steps
from dat.errors import UsageError
from dat.types import Batch, Images, Latents, Place

Scalar = Float[Tensor, ""]
Measured = dict[str, int | float]


@dataclass(frozen=True)
class Distillation:
    """Settings of the distillation. `lr` is AdamW's, after `warmup_steps` falling as a cosine over the whole run.

    The decoder's loss is the L1 distance to the teacher's picture; `image_weight` is that to the original beside it,
    `perceptual_weight` that of a perceptual distance to the teacher's picture.
    """

    epochs: int
    batch_size: int
    lr: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    image_weight: float = 0.0
    perceptual_weight: float = 0.0
    precision: Precision = "fp32"
    accumulate: int = 1
    workers: int = 0
    log_every: int = 20
    save_minutes: float = 10.0


def distill(
    student: FastAutoencoder,
    teacher: FrozenDiscretizer,
    settings: Distillation,
    train: ImageDataset,
    test: ImageDataset,
    *,
    perceptual: Perceptual | None = None,
    seed: int,
    folder: Path,
    weights: Path,
    provenance: Mapping[str, Any],
    title: str = "distill discretizer",
    cpu: bool = False,
) -> Measured:
    """Train, or go on training, in `folder`; then write `weights` with `provenance`, FLOPs and agreement with the teacher.

    Gives what was measured, see `agreement` and `cost`. Seconds do not go into the file: equal weights make equal files.

    Raises:
        UsageError: `perceptual_weight` and `perceptual` do not go together, or no student can have this teacher's codes.
        What `dat.engine.steps.run_steps` raises.
    """
    if bool(settings.perceptual_weight) != (perceptual is not None):
        raise UsageError(
            f"perceptual_weight is {settings.perceptual_weight}; give a perceptual distance and a weight above 0, or neither."
        )
    with accelerator(settings.precision, cpu=cpu) as here:
        place = Place(here.device, here.process_index, here.num_processes)
        order = TrainingOrder(
            len(train),
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            processes=place.processes,
            process=place.process,
            seed=seed,
        )
        learner = Distiller(student, teacher.to(here.device), perceptual, settings, here, place, test)
        learner.total_steps = settings.epochs * order.steps_per_epoch
        pace = Pace(settings.epochs, seed, settings.workers, settings.log_every, settings.save_minutes)
        run_steps(learner, train, order, pace=pace, place=place, folder=folder, title=title)
        measured: Measured = {}
        if place.is_main:
            measured = learner.quality() | cost(student, teacher.network, size=_side(test))
            save_discretizer(weights, learner.bare, {**provenance, "quality": measured})
            measured |= {"time_ratio": time_ratio(learner.result(), teacher, _some(test, settings.batch_size).to(place.device))}
        here.wait_for_everyone()
        return measured


class Distiller:
    """The student and its AdamW, one update at a time; the teacher beside it."""

    def __init__(
        self,
        student: FastAutoencoder,
        teacher: FrozenDiscretizer,
        perceptual: Perceptual | None,
        settings: Distillation,
        here: Accelerator,
        place: Place,
        test: ImageDataset,
    ) -> None:
        self.teacher, self.settings, self.here, self.place, self.test = teacher, settings, here, place, test
        self.perceptual = perceptual.to(place.device) if isinstance(perceptual, nn.Module) else perceptual
        self.total_steps = 1
        self.frame = frame_of(teacher.network, student.config.depth)
        self.bare = student.to(place.device).to(memory_format=torch.channels_last)
        learned = [parameter for parameter in self.bare.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=settings.lr, weight_decay=settings.weight_decay)
        self.student, self.optimizer = here.prepare(self.bare, optimizer)

    def step(self, batches: Sequence[Batch], step: int) -> Mapping[str, Tensor]:
        """One update of both halves."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        self.student.train()
        logs = []
        for number, batch in enumerate(batches):
            with nullcontext() if number == len(batches) - 1 else self.here.no_sync(self.student):
                parts = self._losses(pad_to_multiple(batch.images, self.teacher.stride))
                loss = torch.stack([*parts.values()]).sum()
                self.here.backward(loss / len(batches))
            logs.append({"loss": loss.detach()} | {name: part.detach() for name, part in parts.items()})
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {name: torch.stack([log[name] for log in logs]).mean() for name in logs[0]}

    def _losses(self, images: Images) -> dict[str, Scalar]:
        settings, target = self.settings, self.teacher.latents(images)
        found = self.teacher.network.quantize.encode(target)
        picture = 2 * self.teacher.decode(found) - 1
        latents, reconstruction = self.student(2 * images - 1, found)
        parts = {"latents": unexplained(latents, placed(target, self.frame)), "pixels": pixel_loss(picture, reconstruction)}
        if settings.image_weight:
            parts["image"] = settings.image_weight * pixel_loss(2 * images - 1, reconstruction)
        if self.perceptual is not None:
            parts["perceptual"] = settings.perceptual_weight * self.perceptual(picture, reconstruction).mean()
        return parts

    def _learning_rate(self, step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, self.settings.warmup_steps))
        return self.settings.lr * warm * cosine_factor(step, self.total_steps)

    def state(self) -> State:
        """Student, optimizer, loss scale of fp16, and the frame of the latents, of which another machine may turn signs."""
        moments, groups = optimizer_state.flatten(self.optimizer.state_dict())
        tensors: dict[str, Mapping[str, Tensor]] = {"student": self.bare.state_dict(), "optimizer": moments}
        if self.frame is not None:
            tensors["frame"] = {"centre": self.frame.centre, "axes": self.frame.axes}
        return State(tensors, {"optimizer": groups, "scaler": loss_scale(self.here)})

    def load(self, state: State) -> None:
        """Continue from a saved state."""
        self.bare.load_state_dict(dict(state.tensors["student"]))
        self.optimizer.load_state_dict(optimizer_state.restore(state.tensors["optimizer"], state.numbers["optimizer"]))
        set_loss_scale(self.here, state)
        if self.frame is not None:
            self.frame = Frame(**state.tensors["frame"], unit=self.frame.unit)

    def epoch_end(self, epoch: int) -> Measured:
        """Agreement with the teacher on the test pictures."""
        return self.quality()

    def quality(self) -> Measured:
        """See `agreement`."""
        return agreement(self.result(), self.teacher, self.test, self.place, batch_size=self.settings.batch_size)

    def result(self) -> FrozenDiscretizer:
        """The student as it is now, frozen."""
        return FrozenDiscretizer(self.bare)


def placed(latents: Latents, frame: Frame | None) -> Placed:
    """The teacher's latents where the student's should be."""
    return latents if frame is None else frame.place(latents)


def unexplained(latents: Latents, targets: Latents) -> Scalar:
    """Squared error over the variance of the targets in this batch: 1 for their mean, 0 for the targets."""
    spread = (targets - targets.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    return (latents.to(targets.dtype) - targets).square().mean() / spread.clamp(min=torch.finfo(targets.dtype).tiny)


def agreement(
    student: FrozenDiscretizer, teacher: FrozenDiscretizer, test: ImageDataset, place: Place, *, batch_size: int = 64
) -> Measured:
    """How well one discretizer stands for another on all test pictures, on this process alone.

    `code_agreement`: part of positions with the teacher's code. PSNRs are of the mean squared error, in dB.
    `psnr_to_teacher_db`: of both whole passes; `decoder_psnr_to_teacher_db`: of both decoders on the teacher's codes.
    `psnr_db`, `teacher_psnr_db`: to the originals.
    """
    squared = dict.fromkeys(("psnr_to_teacher_db", "decoder_psnr_to_teacher_db", "psnr_db", "teacher_psnr_db"), 0.0)
    pixels, found, expected = 0, [], []
    for fetched in evaluation_batches(test, batch_size):
        images = fetched[0].to(place.device)
        height, width = images.shape[-2:]
        found.append(student.encode(images))
        expected.append(teacher.encode(images))
        target, whole, decoded = (
            discretizer.decode(grid)[..., :height, :width]
            for discretizer, grid in ((teacher, expected[-1]), (student, found[-1]), (student, expected[-1]))
        )
        pairs = ((whole, target), (decoded, target), (whole, images), (target, images))
        for name, (one, other) in zip(squared, pairs, strict=True):
            squared[name] += float((one - other).double().square().sum())
        pixels += images.numel()
    ours, theirs = (torch.cat([grid.flatten() for grid in grids]).view(1, -1) for grids in (found, expected))
    return {
        "code_agreement": 1 - codes.modified_code_rate(theirs, ours).item(),
        **{name: psnr_db(total / pixels) for name, total in squared.items()},
        "codes_used": codes.usage(ours, student.codebook_size).fraction,
        "teacher_codes_used": codes.usage(theirs, teacher.codebook_size).fraction,
    }


def cost(student: FastAutoencoder, teacher: Autoencoder, *, size: int) -> Measured:
    """FLOPs of one pass over an image of `size` x `size` pixels of both, and their ratio."""
    flops, teacher_flops = flops_per_image(student, size), flops_per_image(teacher, size)
    return {"size": size, "flops": flops, "teacher_flops": teacher_flops, "flops_ratio": flops / teacher_flops}


def time_ratio(student: FrozenDiscretizer, teacher: FrozenDiscretizer, images: Images, *, rounds: int = 5) -> float:
    """Median over rounds of the teacher's seconds for `Q(x)` over the student's, after one round to warm up."""
    ratios = [_seconds(lambda: teacher(images)) / _seconds(lambda: student(images)) for _ in range(rounds + 1)]
    return statistics.median(ratios[1:])


def _seconds(act: Callable[[], object]) -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    start = time.perf_counter()
    act()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def _some(test: ImageDataset, count: int) -> Images:
    return next(iter(evaluation_batches(test, count)))[0]


def _side(test: ImageDataset) -> int:
    return max(_some(test, 1).shape[-2:])
