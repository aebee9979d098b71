"""The two-player loop that trains a VQGAN: encoder, codebook and decoder against a discriminator of patches.

Both players see each batch: first the generator is updated, then the discriminator. Order, randomness, log, checkpoints and
resume are those of `dat.engine.steps`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from dat.data.pipeline import ImageDataset, TrainingOrder
from dat.discretizers.frozen import FrozenDiscretizer, pad_to_multiple
from dat.discretizers.networks.vqgan import VQGAN
from dat.discretizers.objective import Perceptual, VQGANObjective
from dat.discretizers.pretrained import save_discretizer
from dat.discretizers.quantizers.nearest import CodebookQuantizer, Quantized
from dat.engine import optimizer_state
from dat.engine.checkpoint import State
from dat.engine.codebook import CodebookCare, CodebookUpdate
from dat.engine.discretizer_health import examined, example_pictures, keep_reconstructions, usage_alarm
from dat.engine.loop import Precision, accelerator, cosine_factor, loss_scale, set_loss_scale
from dat.engine.steps import Pace, run_steps, stream_seed
from dat.errors import UsageError
from dat.nn.imagenet_networks import ImageNetNetwork
from dat.nn.patch_discriminator import PatchDiscriminator
from dat.types import Batch, Images, Latents, Place

Logits = Float[Tensor, "batch 1 rows columns"]
BALANCE = ("logits_real", "logits_fake", "discriminator_accuracy", "generator_weight")
"""What the log tells of the game between the players."""


@dataclass(frozen=True)
class DiscretizerTraining:
    """Settings of the two-player loop.

    `lr` is Adam's for both players (taming: 4.5e-6 times the batch), constant or falling as a cosine. `codebook_update`
    "ema": the codebook follows running means of its latents, with `ema_codebook_decay`, instead of its gradient. Every
    `revive_every` steps, codes that none of them used are set to random encoder outputs; 0 leaves them dead.
    `disc_layers` 0: no second player at all.
    """

    epochs: int
    batch_size: int
    lr: float
    betas: tuple[float, float] = (0.5, 0.9)
    cosine: bool = False
    codebook_update: CodebookUpdate = "gradient"
    ema_codebook_decay: float = 0.99
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
    features: ImageNetNetwork | None = None,
    trained: bool = False,
    title: str = "train discretizer",
    cpu: bool = False,
) -> None:
    """Train, or go on training, in `folder`; then write `weights` with `provenance`, `quality` and perhaps `alarm`.

    A `trained` network keeps its codebook at the start; that of another one becomes latents of the first batch.

    Both are of the test pictures after the last epoch; with `features`, the Frechet distance of its embeddings is measured,
    too. Reconstructions of some test pictures are kept in `reconstructions.npz`.

    Raises:
        UsageError: the settings do not fit the network or the objective.
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
        learner = TwoPlayerLearner(
            vqgan,
            objective,
            perceptual,
            settings,
            here,
            place,
            test,
            seed=seed,
            folder=folder,
            features=features,
            trained=trained,
        )
        learner.total_steps = settings.epochs * order.steps_per_epoch
        pace = Pace(settings.epochs, seed, settings.workers, settings.log_every, settings.save_minutes)
        run_steps(learner, train, order, pace=pace, place=place, folder=folder, title=title)
        if place.is_main:
            save_discretizer(weights, learner.bare, {**provenance, **learner.outcome()})
        here.wait_for_everyone()


class TwoPlayerLearner:
    """VQGAN and discriminator, one update of each at a time, and the care of the codebook."""

    def __init__(
        self,
        vqgan: VQGAN,
        objective: VQGANObjective,
        perceptual: Perceptual | None,
        settings: DiscretizerTraining,
        here: Accelerator,
        place: Place,
        test: ImageDataset,
        *,
        seed: int,
        folder: Path,
        features: ImageNetNetwork | None = None,
        trained: bool = False,
    ) -> None:
        self.trained = trained
        self.objective, self.settings, self.here, self.place = objective, settings, here, place
        self.test, self.seed, self.folder = test, seed, folder
        self.perceptual = perceptual.to(place.device) if isinstance(perceptual, nn.Module) else perceptual
        self.features = features.to(place.device) if features is not None else None
        self.total_steps = 1
        self.bare = vqgan.to(place.device).to(memory_format=torch.channels_last)
        self.codebook = _codebook_care(self.bare, settings, place)
        self.generator = Player("vqgan", self.bare, settings, here, called=_WithLatents(self.bare))
        critic = _critic(objective, settings)
        self.discriminator = None
        if critic is not None:
            self.discriminator = Player("critic", critic, settings, here, called=_OfBoth(critic))
        self.players = [self.generator] if self.discriminator is None else [self.generator, self.discriminator]
        self.balance: dict[str, float | Tensor] = {}
        self.measured: dict[str, float | str] = {}

    def step(self, batches: Sequence[Batch], step: int) -> Mapping[str, Tensor]:
        """One update of the generator, then one of the discriminator; then the codebook, if its turn has come."""
        images = [pad_to_multiple(2 * batch.images - 1, self.bare.stride) for batch in batches]
        if step == 0 and self.codebook is not None:
            self.codebook.start_from(self._latents(images[0]), self._generator(step), trained=self.trained)
        for player in self.players:
            player.set_learning_rate(self._learning_rate(step))
        reconstructions, log = self._generator_update(images, step)
        if self.discriminator is not None and self.objective.adversarial(step):
            log |= self._discriminator_update(self.discriminator, images, reconstructions, step)
        self.balance = {name: log[name] for name in BALANCE if name in log}
        if self.codebook is not None and _is_due(step, self.settings.revive_every):
            self.codebook.revive(self._latents(images[0]), self._generator(step), self.generator.optimizer.state)
        return log

    def _generator_update(self, images: Sequence[Images], step: int) -> tuple[list[Images], dict[str, Tensor]]:
        self.generator.called.train()
        reconstructions, logs = [], []
        for number, micro_batch in enumerate(images):
            with self.generator.sharing(is_last=number == len(images) - 1):
                reconstruction, log = self._generator_branch(micro_batch, step, share=1 / len(images))
            reconstructions.append(reconstruction)
            logs.append(log)
        self.generator.update()
        if self.codebook is not None:
            self.codebook.follow()
        return reconstructions, _means(logs)

    def _generator_branch(self, images: Images, step: int, *, share: float) -> tuple[Images, dict[str, Tensor]]:
        reconstruction, quantized, latents = self.generator.called(images)
        if self.codebook is not None:
            self.codebook.observe(latents, quantized.codes)
        with self._frozen_critic(step) as critic:
            loss = self.objective.generator_loss(
                images,
                reconstruction,
                quantized,
                last_layer=self.bare.last_layer,
                logits_fake=critic.alone(reconstruction) if critic is not None else None,
                perceptual=self.perceptual,
                updates=step,
                codebook_term=self.settings.codebook_update == "gradient",
            )
            self.here.backward(share * loss.total)
        parts = {name: torch.as_tensor(value, device=images.device) for name, value in loss.parts.items()}
        return reconstruction.detach(), {"loss": loss.total.detach(), **parts}

    @contextmanager
    def _frozen_critic(self, step: int) -> Iterator[Player | None]:
        """The discriminator, once it plays; its own gradients are not wanted."""
        if self.discriminator is None or not self.objective.adversarial(step):
            yield None
            return
        self.discriminator.bare.requires_grad_(False)
        yield self.discriminator
        self.discriminator.bare.requires_grad_(True)

    def _discriminator_update(
        self, player: Player, images: Sequence[Images], reconstructions: Sequence[Images], step: int
    ) -> dict[str, Tensor]:
        logs = []
        for number, (real_images, fake_images) in enumerate(zip(images, reconstructions, strict=True)):
            with player.sharing(is_last=number == len(images) - 1):
                real, fake = player.called(real_images, fake_images)
                loss = self.objective.discriminator_loss(real, fake, updates=step)
                self.here.backward(loss / len(images))
            logs.append({"discriminator": loss.detach(), **discriminator_balance(real.detach(), fake.detach())})
        player.update()
        return _means(logs)

    @torch.no_grad()
    def _latents(self, images: Images) -> Latents:
        return self.bare.latents(images).float()

    def _generator(self, step: int) -> torch.Generator:
        return torch.Generator(self.place.device).manual_seed(stream_seed(self.seed, 4, step))

    def _learning_rate(self, step: int) -> float:
        return self.settings.lr * (cosine_factor(step, self.total_steps) if self.settings.cosine else 1.0)

    def state(self) -> State:
        """Both players with their optimizers, statistics of the codebook, loss scale of fp16, and balance of the last step."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        balance = {name: float(value) for name, value in self.balance.items()}
        numbers: dict[str, Any] = {"balance": balance, "scaler": loss_scale(self.here)}
        for player in self.players:
            tensors[player.name] = player.bare.state_dict()
            optimizer = f"{player.name}_optimizer"
            tensors[optimizer], numbers[optimizer] = optimizer_state.flatten(player.optimizer.state_dict())
        if self.codebook is not None:
            tensors["codebook"] = self.codebook.state()
        return State(tensors, numbers)

    def load(self, state: State) -> None:
        """Continue from a saved state."""
        for player in self.players:
            player.bare.load_state_dict(dict(state.tensors[player.name]))
            optimizer = f"{player.name}_optimizer"
            restored = optimizer_state.restore(state.tensors[optimizer], state.numbers[optimizer])
            player.optimizer.load_state_dict(restored)
        set_loss_scale(self.here, state)
        if self.codebook is not None:
            self.codebook.load(state.tensors["codebook"])
        self.balance = dict(state.numbers["balance"])

    def epoch_end(self, epoch: int) -> Mapping[str, float | str]:
        """Quality on the test pictures, with an `alarm` where the codebook dies; some reconstructions go to a file."""
        discretizer = FrozenDiscretizer(self.bare)
        self.measured = self._measure(discretizer)
        if self.place.is_main:
            if "alarm" in self.measured:
                print(f"After epoch {epoch + 1}: {self.measured['alarm']}", file=sys.stderr, flush=True)
            originals = example_pictures(self.test).to(self.place.device)
            file = self.folder / "reconstructions.npz"
            keep_reconstructions(file, originals, discretizer(originals), epoch=epoch, epochs=self.settings.epochs)
        return self.measured

    def _measure(self, discretizer: FrozenDiscretizer) -> dict[str, float | str]:
        quality = examined(discretizer, self.test, self.place, perceptual=self.perceptual, features=self.features)
        measures, places = quality.compute(), int(quality.counts.sum())
        has_codebook = self.codebook is not None
        alarm = usage_alarm(measures["codes_used"], discretizer.codebook_size, places=places, has_codebook=has_codebook)
        return {**measures, "alarm": alarm} if alarm else {**measures}

    def outcome(self) -> dict[str, object]:
        """What the weights are to say of themselves: `quality`, the balance of the last step in it, and any `alarm`."""
        quality = {**(self.measured or self._measure(FrozenDiscretizer(self.bare)))}
        alarm = quality.pop("alarm", None)
        quality |= {name: float(value) for name, value in self.balance.items()}
        return {"quality": quality, "alarm": alarm} if alarm else {"quality": quality}


class Player:
    """A network with its Adam; `called` is what a step calls (the network, if not given), fit for precision and processes."""

    def __init__(
        self, name: str, bare: nn.Module, settings: DiscretizerTraining, here: Accelerator, *, called: nn.Module | None = None
    ) -> None:
        self.name, self.bare, self.here = name, bare, here
        adam = torch.optim.Adam(bare.parameters(), lr=settings.lr, betas=settings.betas)
        self.called, self.optimizer = here.prepare(called if called is not None else bare, adam)

    def sharing(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Where a micro-batch is back-propagated; processes exchange gradients after the last one only."""
        return nullcontext() if is_last else self.here.no_sync(self.called)

    def alone(self, images: Images) -> Tensor:
        """What the network says of images on this process, in the precision of `called`."""
        with self.here.autocast():
            return self.bare(images).float()

    def set_learning_rate(self, lr: float) -> None:
        """For all parameters."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def update(self) -> None:
        """One step of Adam; the gradients are gone afterwards."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class _WithLatents(nn.Module):
    """The forward pass of a VQGAN, which also gives what the quantizer saw: one call, as data-parallel training asks."""

    def __init__(self, vqgan: VQGAN) -> None:
        super().__init__()
        self.vqgan = vqgan

    def forward(self, images: Images) -> tuple[Images, Quantized, Latents]:
        latents = self.vqgan.latents(images)
        quantized = self.vqgan.quantize(latents)
        return self.vqgan.decode_vectors(quantized.vectors), quantized, latents.detach().float()


class _OfBoth(nn.Module):
    """The discriminator of real and reconstructed images, in one call: a second one changes what the first keeps."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, real: Images, fake: Images) -> tuple[Logits, Logits]:
        return self.critic(real), self.critic(fake)


def discriminator_balance(logits_real: Logits, logits_fake: Logits) -> dict[str, Tensor]:
    """Mean logits of real and reconstructed patches, and the share of both that the discriminator tells right."""
    accuracy = ((logits_real > 0).float().mean() + (logits_fake < 0).float().mean()) / 2
    return {"logits_real": logits_real.mean(), "logits_fake": logits_fake.mean(), "discriminator_accuracy": accuracy}


def check_training(vqgan: VQGAN, objective: VQGANObjective, settings: DiscretizerTraining) -> None:
    """Refuse, before anything is trained, what does not fit together.

    Raises:
        UsageError: a quantizer without a codebook is to be cared for, its running means cannot be, or nobody plays the
            discriminator that the objective asks for.
    """
    _codebook_care(vqgan, settings, Place(torch.device("cpu")))
    _critic(objective, settings)


def _codebook_care(vqgan: VQGAN, settings: DiscretizerTraining, place: Place) -> CodebookCare | None:
    quantizer = vqgan.quantize
    by_means = settings.codebook_update == "ema"
    if isinstance(quantizer, CodebookQuantizer):
        return CodebookCare(quantizer, place, decay=settings.ema_codebook_decay if by_means else None)
    if by_means or settings.revive_every:
        raise UsageError(
            f"training has codebook_update {settings.codebook_update!r} and revive_every {settings.revive_every}, but the "
            f"quantizer {vqgan.config.quantizer!r} has no codebook to care for; "
            "write training.codebook_update: gradient and training.revive_every: 0."
        )
    return None


def _critic(objective: VQGANObjective, settings: DiscretizerTraining) -> PatchDiscriminator | None:
    if settings.disc_layers:
        return PatchDiscriminator(layers=settings.disc_layers, width=settings.disc_width)
    if objective.disc_factor:
        raise UsageError(
            "training.disc_layers is 0, but objective.disc_factor is not; set objective.disc_factor: 0, or layers."
        )
    return None


def _is_due(step: int, every: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def _means(logs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([log[name] for log in logs]).mean() for name in logs[0]}
