"""The two-player loop that trains a VQGAN: encoder, codebook and decoder against a discriminator of patches.

Both players see each batch: first the generator is updated, then the discriminator. Order, randomness, log, checkpoints and
resume are those of `dat.engine.steps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dat.data.pipeline import ImageDataset, TrainingOrder, evaluation_batches
from dat.discretizers import codes
from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.objective import Perceptual, VQGANObjective
from dat.discretizers.pretrained import save_discretizer
from dat.discretizers.vqgan import VQGAN
from dat.engine import optimizer_state
from dat.engine.checkpoint import State
from dat.engine.loop import Precision, accelerator, cosine_factor
from dat.engine.steps import Pace, run_steps, stream_seed
from dat.errors import UsageError
from dat.nn.patch_discriminator import PatchDiscriminator
from dat.types import Batch, Codes, Images, Place


@dataclass(frozen=True)
class DiscretizerTraining:
    """Settings of the two-player loop.

    `lr` is Adam's for both players (taming: 4.5e-6 times the batch), constant or falling as a cosine. Every `revive_every`
    steps, codes that none of them used are set to random encoder outputs; 0 leaves them dead. `disc_layers` 0: no second
    player at all.
    """

    epochs: int
    batch_size: int
    lr: float
    betas: tuple[float, float] = (0.5, 0.9)
    cosine: bool = False
    revive_every: int = 0
    disc_layers: int = 3
    disc_width: int = 64
    precision: Precision = "fp32"
    accumulate: int = 1
    workers: int = 0
    log_every: int = 20
    save_minutes: float = 10.0


def train_discretizer(
    vqgan: VQGAN,
    objective: VQGANObjective,
    perceptual: Perceptual | None,
    settings: DiscretizerTraining,
    train: ImageDataset,
    test: ImageDataset,
    *,
    seed: int,
    folder: Path,
    weights: Path,
    provenance: Mapping[str, Any],
    title: str = "train discretizer",
    cpu: bool = False,
) -> None:
    """Train, or go on training, in `folder`; then write `weights` with `provenance` and the quality on the test pictures.

    Raises:
        What `dat.engine.steps.run_steps` raises.
    """
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
        learner = TwoPlayerLearner(vqgan, objective, perceptual, settings, here, place, test, seed)
        learner.total_steps = settings.epochs * order.steps_per_epoch
        pace = Pace(settings.epochs, seed, settings.workers, settings.log_every, settings.save_minutes)
        run_steps(learner, train, order, pace=pace, place=place, folder=folder, title=title)
        if place.is_main:
            save_discretizer(weights, learner.bare, {**provenance, "quality": learner.quality()})
        here.wait_for_everyone()


class TwoPlayerLearner:
    """VQGAN and discriminator, each with its Adam, one update of both at a time."""

    def __init__(
        self,
        vqgan: VQGAN,
        objective: VQGANObjective,
        perceptual: Perceptual | None,
        settings: DiscretizerTraining,
        here: Accelerator,
        place: Place,
        test: ImageDataset,
        seed: int,
    ) -> None:
        self.objective, self.settings, self.here, self.place, self.test, self.seed = (
            objective,
            settings,
            here,
            place,
            test,
            seed,
        )
        self.perceptual = perceptual.to(place.device) if isinstance(perceptual, nn.Module) else perceptual
        self.total_steps = 1
        self.bare = vqgan.to(place.device).to(memory_format=torch.channels_last)
        self.vqgan, self.optimizer = here.prepare(self.bare, _adam(self.bare, settings))
        self.bare_critic = _critic(objective, settings)
        if self.bare_critic is not None:
            self.critic, self.critic_optimizer = here.prepare(self.bare_critic, _adam(self.bare_critic, settings))
        self.used = torch.zeros(vqgan.config.n_embed, dtype=torch.bool, device=place.device)

    def step(self, batches: Sequence[Batch], step: int) -> Mapping[str, Tensor]:
        """One update of the generator, then one of the discriminator."""
        if step == 0:
            self._start_from_data(2 * batches[0].images - 1)
        self._set_learning_rate(step)
        self.vqgan.train()
        logs, reconstructions = [], []
        for number, batch in enumerate(batches):
            with nullcontext() if number == len(batches) - 1 else self.here.no_sync(self.vqgan):
                reconstruction, log = self._generator_branch(2 * batch.images - 1, step, share=1 / len(batches))
            reconstructions.append(reconstruction)
            logs.append(log)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.place.processes > 1:  # at every step, as the main process saves what all have used
            torch.distributed.all_reduce(self.used, torch.distributed.ReduceOp.MAX)
        means = {name: torch.stack([log[name] for log in logs]).mean() for name in logs[0]}
        if self.bare_critic is not None and self.objective.adversarial(step):
            means["discriminator"] = self._discriminator_update(batches, reconstructions, step)
        if self.settings.revive_every and (step + 1) % self.settings.revive_every == 0:
            self._revive(2 * batches[0].images - 1, step)
        return means

    def _generator_branch(self, images: Images, step: int, *, share: float) -> tuple[Images, dict[str, Tensor]]:
        reconstruction, quantized = self.vqgan(images)
        self.used[quantized.codes.unique()] = True
        critic = self.bare_critic  # without its data-parallel wrapper: its own gradients are not wanted here
        logits = None
        if critic is not None and self.objective.adversarial(step):
            critic.requires_grad_(False)
            logits = critic(reconstruction)
        loss = self.objective.generator_loss(
            images,
            reconstruction,
            quantized,
            last_layer=self.bare.last_layer,
            logits_fake=logits,
            perceptual=self.perceptual,
            updates=step,
        )
        self.here.backward(share * loss.total)
        if critic is not None:
            critic.requires_grad_(True)
        parts = {name: torch.as_tensor(value, device=images.device) for name, value in loss.parts.items()}
        return reconstruction.detach(), {"loss": loss.total.detach(), **parts}

    def _discriminator_update(self, batches: Sequence[Batch], reconstructions: Sequence[Images], step: int) -> Tensor:
        losses = []
        for number, (batch, reconstruction) in enumerate(zip(batches, reconstructions, strict=True)):
            with nullcontext() if number == len(batches) - 1 else self.here.no_sync(self.critic):
                real, fake = self.critic(2 * batch.images - 1), self.critic(reconstruction)
                loss = self.objective.discriminator_loss(real, fake, updates=step)
                self.here.backward(loss / len(batches))
            losses.append(loss.detach())
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad()
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _start_from_data(self, images: Images) -> None:
        """A codebook of encoder outputs; an untrained one lies in a corner that the encoder never visits."""
        self.bare.quantize.initialise(self.bare.latents(images).float(), self._generator(0))
        self._same_codebook_everywhere()

    @torch.no_grad()
    def _revive(self, images: Images, step: int) -> None:
        alive: Codes = self.used.nonzero().view(1, 1, -1)
        self.bare.quantize.revive(self.bare.latents(images).float(), alive, self._generator(step))
        self._same_codebook_everywhere()
        self.used.zero_()

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator(self.place.device).manual_seed(stream_seed(self.seed, 4, step))

    def _same_codebook_everywhere(self) -> None:
        if self.place.processes > 1:
            torch.distributed.broadcast(self.bare.quantize.embedding.weight, src=0)

    def _set_learning_rate(self, step: int) -> None:
        factor = cosine_factor(step, self.total_steps) if self.settings.cosine else 1.0
        optimizers = [self.optimizer] if self.bare_critic is None else [self.optimizer, self.critic_optimizer]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.settings.lr * factor

    def state(self) -> State:
        """Both players, both optimizers, and which codes were used since the last revival."""
        moments, groups = optimizer_state.flatten(self.optimizer.state_dict())
        tensors: dict[str, Mapping[str, Tensor]] = {
            "vqgan": self.bare.state_dict(),
            "optimizer": moments,
            "used": {"used": self.used},
        }
        numbers: dict[str, Any] = {"optimizer": groups}
        if self.bare_critic is not None:
            tensors["critic"] = self.bare_critic.state_dict()
            tensors["critic_optimizer"], numbers["critic_optimizer"] = optimizer_state.flatten(
                self.critic_optimizer.state_dict()
            )
        return State(tensors, numbers)

    def load(self, state: State) -> None:
        """Continue from a saved state."""
        tensors, numbers = state.tensors, state.numbers
        self.bare.load_state_dict(dict(tensors["vqgan"]))
        self.optimizer.load_state_dict(optimizer_state.restore(tensors["optimizer"], numbers["optimizer"]))
        self.used.copy_(tensors["used"]["used"])
        if self.bare_critic is not None:
            self.bare_critic.load_state_dict(dict(tensors["critic"]))
            restored = optimizer_state.restore(tensors["critic_optimizer"], numbers["critic_optimizer"])
            self.critic_optimizer.load_state_dict(restored)

    def epoch_end(self, epoch: int) -> Mapping[str, float]:
        """Quality of the reconstructions of the test pictures."""
        return self.quality()

    def quality(self) -> dict[str, float]:
        """See `reconstruction_quality`."""
        return reconstruction_quality(FrozenDiscretizer(self.bare), self.test, self.place)


def reconstruction_quality(discretizer: FrozenDiscretizer, test: ImageDataset, place: Place) -> dict[str, float]:
    """PSNR in dB (of the mean squared error over all test pictures), and use of the codebook, on this process alone."""
    squared, pixels, words = 0.0, 0, []
    for fetched in evaluation_batches(test, 256):
        images = fetched[0].to(place.device)
        words.append(discretizer.encode(images))
        reconstruction = discretizer.decode(words[-1])[..., : images.shape[2], : images.shape[3]]
        squared += float((images - reconstruction).double().square().sum())
        pixels += images.numel()
    usage = codes.usage(torch.cat([grid.flatten() for grid in words]).view(1, 1, -1), discretizer.codebook_size)
    psnr = -10 * float(torch.tensor(squared / pixels).clamp(min=1e-12).log10())
    return {"psnr_db": psnr, "codes_used": usage.fraction, "perplexity": usage.perplexity}


def _adam(module: nn.Module, settings: DiscretizerTraining) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=settings.lr, betas=settings.betas)


def _critic(objective: VQGANObjective, settings: DiscretizerTraining) -> PatchDiscriminator | None:
    if settings.disc_layers:
        return PatchDiscriminator(layers=settings.disc_layers, width=settings.disc_width)
    if objective.disc_factor:
        raise UsageError(
            "training.disc_layers is 0, but objective.disc_factor is not; set objective.disc_factor: 0, or layers."
        )
    return None
