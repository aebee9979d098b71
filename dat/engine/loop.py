"""The one supervised loop: any method, task and model, on one process or many, in any precision.

Optimizers, schedules, mixup and the weight average are timm's; devices, processes and precision are Accelerate's. The loop
knows nothing of recipes and of what a method does: it back-propagates each loss as the method yields it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from timm.data.mixup import Mixup
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]  # documented, but timm has no __all__
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from dat.attacks.rate import Reached
from dat.data.pipeline import Fetched, TrainingOrder
from dat.engine import optimizer_state
from dat.engine.checkpoint import State
from dat.engine.steps import Leading, Pace, run_steps, stream_seed
from dat.engine.validation import Judge, Validate
from dat.errors import UsageError, did_you_mean
from dat.methods.calibration import Calibrated, reached
from dat.nn.norm import Normalized, has_auxiliary_norms
from dat.nn.pretrained import is_frozen
from dat.nn.zoo import head_keys
from dat.progress import warn
from dat.types import Batch, DrawingTask, FollowedTask, Method, Place, Task

CALIBRATED = 8
"""Pictures of a batch on which a step is sought: few, as they must fit on every process, however many there are."""
Precision = Literal["fp32", "bf16", "fp16"]
SCHEDULES = ("cosine", "step", "multistep", "poly", "tanh", "constant")
POWER = 0.9
"""Of the polynomial. Source: Chen et al., "DeepLab", PAMI 2018, section 4.1."""
STAGES = 3
"""Of a step schedule, equally long, as in He et al., CVPR 2016, section 3.4, and its successors."""
MOST_OF_START = 0.05
"""What an average of weights may hold of its start at the end of a training."""
COPIED = 2
"""Steps after which timm's average is the weights as they are; later ones are averaged with these."""


@dataclass(frozen=True)
class Training:
    """Settings of the supervised loop; the names of optimizers and schedules are timm's.

    From `lr` the rate falls to `min_lr` at the end: "cosine", "poly" (nearly a line), "tanh" (late). "step" multiplies it by
    `decay_rate` after each third, "multistep" where `milestones` say; "constant" keeps it.

    `batch_size` is per optimizer step, over all processes and micro-batches: the result does not depend on how it is split,
    unless images see each other (batch statistics, mixup) or the model draws at random (dropout).
    `ema_decay` 0 keeps no average; otherwise the average is what is evaluated, which timm begins with the
    weights after the second step.
    `lr` is that of the whole batch, not per 256 images. `layer_decay` multiplies it once more for each layer below the head.
    `backbone_lr_scale` multiplies it below the last layer, for weights that are good already.
    `betas` and `eps` are the optimizer's own where they are None. SGD without Nesterov momentum is timm's "momentum".
    `milestones` are the epochs after which a multistep schedule multiplies the rate by `decay_rate`; timm does so one step
    before the epoch ends. With `warmup_prefix` a schedule begins after the warm-up and ends with the training all the same,
    as in MAE's and big_vision's code; without, the warm-up hides its beginning, as in timm's.
    `keep` says which weights are those of the trained model: the last, as in the paper, or those of the epoch that was best by
    validation. `patience` epochs without a better one end the training; the schedule is that of all `epochs` all the same.
    `sigmoid` is that of `dat.tasks.classification.Classification`, `smoothing` that of both it and mixup.

    Raises:
        UsageError: no such schedule, or one that knows no `min_lr`; milestones without the multistep schedule, or that schedule
            without them, or not rising within `epochs`; a warm-up as long as the training.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    layer_decay: float | None = None
    backbone_lr_scale: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    decay_rate: float = 0.1
    warmup_epochs: int = 0
    warmup_prefix: bool = False
    warmup_lr: float = 1e-6
    min_lr: float = 0.0
    clip_grad: float | None = None
    ema_decay: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0
    sigmoid: bool = False
    precision: Precision = "fp32"
    accumulate: int = 1
    workers: int = 0
    log_every: int = 20
    save_minutes: float = 10.0
    keep: Literal["last", "best"] = "last"
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            near = difflib.get_close_matches(self.schedule, SCHEDULES, n=1)
            raise UsageError(f"schedule is {self.schedule!r}; {did_you_mean(near)}write one of {', '.join(SCHEDULES)}.")
        if self.min_lr and self.schedule in ("step", "multistep", "constant"):
            raise UsageError(f"min_lr is {self.min_lr}, which schedule {self.schedule!r} does not know; leave it out.")
        if self.layer_decay is not None and self.backbone_lr_scale is not None:
            raise UsageError("layer_decay and backbone_lr_scale both lower the rate below the last layer; leave one out.")
        rising = [0, *self.milestones, self.epochs]
        if bool(self.milestones) != (self.schedule == "multistep"):
            raise UsageError(
                f"schedule is {self.schedule!r} and milestones are {[*self.milestones]}; write both, schedule: multistep and "
                "e.g. milestones: [30, 60], or neither."
            )
        if self.milestones and any(first >= second for first, second in pairwise(rising)):
            raise UsageError(f"milestones are {[*self.milestones]}; write rising epochs between 0 and {self.epochs}.")
        if self.warmup_prefix and self.warmup_epochs >= self.epochs:
            raise UsageError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs, after which no schedule is left; write fewer."
            )


def train(
    model: Normalized,
    method: Method,
    task: Task,
    dataset: Fetched,
    settings: Training,
    *,
    seed: int,
    folder: Path,
    title: str = "train",
    num_classes: int,
    cpu: bool = False,
    validate: Validate | None = None,
) -> nn.Module:
    """Train, or go on training, in `folder`; gives the trained model (its average, where one is kept), unwrapped, in eval mode.

    `validate` measures the model, or its average, after each epoch.

    Raises:
        What `dat.engine.steps.run_steps` raises.
    """
    with accelerator(settings.precision, cpu=cpu, partly_used=has_auxiliary_norms(model)) as here:
        place = Place(here.device, here.process_index, here.num_processes)
        order = training_order(settings, len(dataset), place=place, seed=seed)
        judge = Judge(validate, keeps=settings.keep == "best", patience=settings.patience)
        learner = SupervisedLearner(model, method, task, settings, here, order.steps_per_epoch, seed, num_classes, judge)
        pace = Pace(settings.epochs, seed, settings.workers, settings.log_every, settings.save_minutes)
        if said := unripe_average(settings.ema_decay, settings.epochs * order.steps_per_epoch):
            warn(said)
        run_steps(learner, dataset, order, pace=pace, place=place, folder=folder, title=title)
        return learner.result()


def unripe_average(decay: float, steps: int) -> str:
    """A sentence where the average of the weights, which is evaluated, ends with much of its start; empty elsewhere."""
    averaged = steps - COPIED
    start = decay**averaged if averaged > 0 else 0.0
    if start <= MOST_OF_START:
        return ""
    largest = MOST_OF_START ** (1 / averaged)
    return (
        f"ema_decay {decay} leaves {100 * start:.1f} % of the first weights in the average after {steps} steps, and the "
        f"average is evaluated; write at most {math.floor(1e4 * largest) / 1e4:g}, or 0 for none."
    )


def training_order(settings: Training, pictures: int, *, place: Place, seed: int) -> TrainingOrder:
    """Which of so many pictures a process sees in each micro-batch.

    Raises:
        UsageError: as `TrainingOrder`; or mixup would pair an odd number of images.
    """
    order = TrainingOrder(
        pictures,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        processes=place.processes,
        process=place.process,
        seed=seed,
    )
    if (settings.mixup or settings.cutmix) and order.micro_batch % 2:
        raise UsageError(
            f"mixup and cutmix pair the images of a micro-batch, which has {order.micro_batch} here; "
            "choose a training.batch_size of an even number per process and accumulated micro-batch."
        )
    return order


@contextmanager
def accelerator(precision: Precision, *, cpu: bool = False, partly_used: bool = False) -> Iterator[Accelerator]:
    """An Accelerator for one run; its process-wide state is cleared afterwards, so that the next run may differ.

    `partly_used`: a forward pass may leave out parameters, which processes must then look for.

    Raises:
        UsageError: fp16 without a GPU; Accelerate would take float32 and not say so.
    """
    parallel = DistributedDataParallelKwargs(find_unused_parameters=partly_used)
    here = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=cpu, kwargs_handlers=[parallel])
    try:
        if precision == "fp16" and here.device.type == "cpu":
            raise UsageError("precision is 'fp16', which needs a GPU; write bf16 or fp32.")
        if precision == "bf16" and here.device.type == "cpu" and here.is_main_process:
            _say_slow(torch.backends.cpu.get_cpu_capability())
        yield here
    finally:
        here.free_memory()
        AcceleratorState._reset_state()  # Accelerate offers no public way to change the precision within a process


def loss_scale(here: Accelerator) -> dict[str, Any]:
    """What fp16 multiplies losses by, for a state; nothing in another precision."""
    return {} if here.scaler is None else here.scaler.state_dict()


def set_loss_scale(here: Accelerator, state: State) -> None:
    """As a state has it under `scaler`; older ones of discretizers do not."""
    if here.scaler is not None and (kept := state.numbers.get("scaler")):
        here.scaler.load_state_dict(kept)


@cache
def _say_slow(processor: str) -> None:
    """Of a processor that computes bf16 in single steps; once. ResNet-18 took 17 times as long on one as in fp32."""
    if processor == "AVX2":
        warn("precision is 'bf16', for which this CPU has no instructions, so it takes many times as long as fp32; write fp32.")


class SupervisedLearner:
    """Model, optimizer, schedule, weight average and mixup, one optimizer step at a time."""

    def __init__(
        self,
        model: Normalized,
        method: Method,
        task: Task,
        settings: Training,
        here: Accelerator,
        steps_per_epoch: int,
        seed: int,
        num_classes: int,
        judge: Judge,
    ) -> None:
        self.judge = judge
        self.method, self.task, self.settings, self.here, self.seed = method, task, settings, here, seed
        self.reached: Reached | None = None
        self.bare = model.to(here.device).to(memory_format=torch.channels_last)
        # What follows the weights has no gradient either, and yet sees batches as those that it follows do.
        followed = isinstance(task, FollowedTask)
        self.frozen = [] if followed else [part for part in self.bare.modules() if is_frozen(part)]
        self.ema = ModelEmaV3(self.bare, decay=settings.ema_decay) if settings.ema_decay else None
        optimizer = _optimizer(self.bare.network, settings)
        self.schedule = _schedule(optimizer, settings, steps_per_epoch)
        self.model, self.optimizer = here.prepare(self.bare, optimizer)
        self.mixup = _mixup(settings, num_classes)

    def step(self, batches: Sequence[Batch], step: int) -> Mapping[str, Tensor]:
        """One optimizer step; the log gets what was minimised: the sum of the losses of a micro-batch, the mean over these."""
        self.schedule.step_update(step)
        self._train_mode()
        losses, method = [], self._settled()
        for number, batch in enumerate(batches):
            is_last = number == len(batches) - 1
            with nullcontext() if is_last else self.here.no_sync(self.model):
                for loss in method(self.model, self._drawn(self._mixed(batch, step)), self.task):
                    self.here.backward(loss / len(batches))
                    losses.append(loss.detach())
        if self.settings.clip_grad is not None:
            self.here.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if isinstance(self.task, FollowedTask):
            self.task.follow(self.bare, progress=batches[-1].progress)
        if self.here.num_processes > 1:
            self._same_statistics_everywhere()
        if self.ema is not None:
            self.ema.update(self.bare, step=step)
        found = {} if self.reached is None else asdict(self.reached)
        return {"loss": torch.stack(losses).sum() / len(batches), "lr": torch.tensor(self._rate())} | {
            name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()
        }

    def epoch_begin(self, epoch: int, leading: Leading) -> bool:
        """Seek the length of a step that is named by its rate; later epochs keep what they had where none leads there.

        Raises:
            UsageError: no length leads there, at the beginning.
        """
        if not isinstance(self.method, Calibrated) or (sought := self.method.sought) is None:
            return False
        batches = leading(sought.pictures, min(CALIBRATED, self.settings.batch_size))
        batches = [self._drawn(self._mixed(batch, batch.step + number)) for number, batch in enumerate(batches)]
        start = None if self.reached is None else self.reached.alpha
        self._train_mode()
        try:
            self.reached = self._same_everywhere(reached(self.method, self.bare, batches, self.task, start=start))
        except UsageError as error:
            if self.reached is None:
                raise
            warn(f"Epoch {epoch} goes on with the step of the one before, alpha {self.reached.alpha:.3g}: {error}")
        return True

    def _settled(self) -> Method:
        if self.reached is None:
            return self.method
        return cast(Calibrated, self.method).settled(self.reached.alpha)

    def _same_everywhere(self, found: Reached) -> Reached:
        """What the main process found: devices may round otherwise."""
        if self.here.num_processes == 1:
            return found
        numbers = torch.tensor(list(asdict(found).values()), dtype=torch.float64, device=self.here.device)
        torch.distributed.broadcast(numbers, src=0)
        return Reached(*numbers.tolist())

    def _train_mode(self) -> None:
        """What is frozen evaluates: its statistics stay, too."""
        self.model.train()
        for part in self.frozen:
            part.eval()

    def _rate(self) -> float:
        """That of the head, which no layer decay lowers."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    @torch.no_grad()
    def _same_statistics_everywhere(self) -> None:
        """Those of the main process, which it saves: the attacks, the average and a resumed run must see no others."""
        for buffer in self.bare.buffers():
            torch.distributed.broadcast(buffer, src=0)

    def _mixed(self, batch: Batch, step: int) -> Batch:
        if self.mixup is None:
            return batch
        with numpy_seeded(stream_seed(self.seed, 3, step, batch.first)):
            images, targets = self.mixup(batch.images, batch.targets)
        return replace(batch, images=images, targets=targets)

    def _drawn(self, batch: Batch) -> Batch:
        return self.task.drawn(batch) if isinstance(self.task, DrawingTask) else batch

    def state(self) -> State:
        """Weights, statistics, optimizer, average, and the loss scale of fp16."""
        moments, groups = optimizer_state.flatten(self.optimizer.state_dict())
        tensors: dict[str, Mapping[str, Tensor]] = {"model": self.bare.state_dict(), "optimizer": moments}
        if self.ema is not None:
            tensors["ema"] = self.ema.module.state_dict()
        calibration = {} if self.reached is None else {"calibration": asdict(self.reached)}
        best, judged = self.judge.state()
        return State({**tensors, **best}, {"optimizer": groups, "scaler": loss_scale(self.here), **calibration, **judged})

    def load(self, state: State) -> None:
        """Continue from a saved state."""
        self.bare.load_state_dict(dict(state.tensors["model"]))
        self.optimizer.load_state_dict(optimizer_state.restore(state.tensors["optimizer"], state.numbers["optimizer"]))
        if self.ema is not None:
            self.ema.module.load_state_dict(dict(state.tensors["ema"]))
        set_loss_scale(self.here, state)
        if "calibration" in state.numbers:
            self.reached = Reached(**state.numbers["calibration"])
        self.judge.load(state.tensors, state.numbers)

    def epoch_end(self, epoch: int) -> Mapping[str, float]:
        """What validation says; evaluation is a job of its own."""
        return self.judge.epoch_end(epoch, self.bare if self.ema is None else self.ema.module)

    def is_over(self) -> bool:
        """Whether validation has not risen for too long."""
        return self.judge.is_over()

    def is_best(self) -> bool:
        """Whether the weights of the epoch that ended are kept."""
        return self.judge.is_best()

    def result(self) -> nn.Module:
        """The trained model, or its average, in eval mode, computing in float32; as it was at its best, where that is kept."""
        model = self.ema.module if self.ema is not None else self.here.unwrap_model(self.model, keep_fp32_wrapper=False)
        if self.judge.best is not None:
            model.load_state_dict(dict(self.judge.best))
        return model.eval()


def cosine_factor(step: int, steps: int) -> float:
    """From 1 at the first step down to 0 after the last one."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Run with NumPy's global stream at `seed`, then put it back: timm's mixup draws from it."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


def _optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """timm's optimizer; its groups, by layer and by weight decay, are those of facebookresearch/mae:util/lr_decay.py."""
    if settings.layer_decay is not None and not hasattr(network, "group_matcher"):
        raise UsageError(f"layer_decay is {settings.layer_decay}, but {type(network).__name__} names no layers; leave it out.")
    given = {"betas": settings.betas, "eps": settings.eps}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        optimizer = create_optimizer_v2(
            network,
            opt=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            layer_decay=settings.layer_decay,
            **own,
        )
    except ValueError as error:
        raise UsageError(
            f"Optimizer {settings.optimizer!r} is refused: {error}; write one of timm's, e.g. sgd or adamw."
        ) from error
    if dropped := own.keys() - optimizer.defaults.keys():  # which timm does without a word
        raise UsageError(f"Optimizer {settings.optimizer!r} has no {' and no '.join(sorted(dropped))}; leave that out.")
    if settings.backbone_lr_scale is not None:
        optimizer.param_groups = list(_scaled_below(network, optimizer.param_groups, settings.backbone_lr_scale))
    return optimizer


def _scaled_below(network: nn.Module, groups: Sequence[dict[str, Any]], scale: float) -> Iterator[dict[str, Any]]:
    """Each group in two, of the last layer and of what is below, whose rate timm's schedules multiply by `lr_scale`.

    Raises:
        UsageError: the network does not say which its last layer is.
    """
    parameters = dict(network.named_parameters())
    last = {id(parameters[key]) for key in head_keys(network)}
    if not last:
        raise UsageError(
            f"backbone_lr_scale is {scale}, but {type(network).__name__} does not say which its last layer is; leave it out."
        )
    for group in groups:
        for more, wanted in (({}, True), ({"lr_scale": scale}, False)):
            if chosen := [parameter for parameter in group["params"] if (id(parameter) in last) == wanted]:
                yield {**group, "params": chosen, **more}


def _schedule(optimizer: torch.optim.Optimizer, settings: Training, steps_per_epoch: int) -> Scheduler:
    before = settings.warmup_epochs if settings.warmup_prefix else 0
    # What timm's decay rate means to each: the power of a polynomial, and a constant is steps that change nothing.
    rates = {"poly": POWER, "constant": 1.0}
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="step" if settings.schedule == "constant" else settings.schedule,
        num_epochs=settings.epochs - before,
        decay_epochs=(settings.epochs - before) / STAGES,
        decay_milestones=[epoch - before for epoch in settings.milestones],
        decay_rate=rates.get(settings.schedule, settings.decay_rate),
        warmup_epochs=settings.warmup_epochs,
        warmup_prefix=settings.warmup_prefix,
        warmup_lr=settings.warmup_lr,
        min_lr=settings.min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    assert schedule is not None
    return schedule


def _mixup(settings: Training, num_classes: int) -> Mixup | None:
    if not (settings.mixup or settings.cutmix):
        return None
    return Mixup(
        mixup_alpha=settings.mixup, cutmix_alpha=settings.cutmix, label_smoothing=settings.smoothing, num_classes=num_classes
    )
