"""The supervised loop: schedule, average, mixup, clipping, precision, and that its result does not depend on how it is run."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import tiny
import torch
from torch import Tensor, nn

from dat.engine import checkpoint, loop
from dat.errors import DivergenceError, UsageError
from dat.methods.standard import Standard
from dat.nn.norm import Normalized, with_auxiliary_norms
from dat.types import Batch, Method, Task

STEPS, LR = 10, 0.05


class Watching:
    """Standard training that records the batches and the weights before each step."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.weights: list[dict[str, Tensor]] = []

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        self.batches.append(batch)
        self.weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        yield from Standard()(model, batch, task)


def logged(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "log.jsonl").read_text().splitlines()]


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    """Of the weights, relative to the largest one of each tensor."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-9)).item() for a, b in pairs)


def test_the_schedule_is_a_cosine(tmp_path: Path) -> None:
    tiny.trained(tmp_path, log_every=1)
    expected = [0.5 * LR * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]
    assert logged(tmp_path, "lr") == pytest.approx(expected, rel=1e-5)


def test_the_warm_up_is_a_line_before_the_cosine(tmp_path: Path) -> None:
    tiny.trained(tmp_path, log_every=1, warmup_epochs=1, warmup_lr=0.01, min_lr=0.001)
    rising = [0.01 + (LR - 0.01) * step / 5 for step in range(5)]
    falling = [0.001 + 0.5 * (LR - 0.001) * (1 + math.cos(math.pi * step / STEPS)) for step in range(5, STEPS)]
    assert logged(tmp_path, "lr") == pytest.approx(rising + falling, rel=1e-5)


def test_the_cosine_may_begin_after_the_warm_up(tmp_path: Path) -> None:
    tiny.trained(tmp_path, log_every=1, warmup_epochs=1, warmup_lr=0.0, warmup_prefix=True)
    rising = [LR * step / 5 for step in range(5)]
    falling = [0.5 * LR * (1 + math.cos(math.pi * step / 5)) for step in range(5)]
    assert logged(tmp_path, "lr") == pytest.approx(rising + falling, rel=1e-5)


@pytest.mark.parametrize("prefix", [False, True])
def test_milestones_lower_the_rate(tmp_path: Path, prefix: bool) -> None:
    """timm does so in the last step of the epoch before."""
    warmup = {"warmup_epochs": 1, "warmup_lr": 0.0, "warmup_prefix": prefix}
    tiny.trained(tmp_path, log_every=1, epochs=4, schedule="multistep", milestones=(2, 3), decay_rate=0.2, **warmup)
    factors = [step / 5 for step in range(5)] + [1.0] * 4 + [0.2] * 5 + [0.04] * 6
    assert logged(tmp_path, "lr") == pytest.approx([LR * factor for factor in factors], rel=1e-5)


AT_BEGIN_MIDDLE_END = {
    "cosine": (1.0, 0.5, 0.0),
    "step": (1.0, 0.1, 0.01),
    "multistep": (1.0, 0.1, 0.01),
    "poly": (1.0, 0.5**0.9, 0.0),
    "tanh": (1.0, 0.5 * (1 - math.tanh(-2)), 0.0),
    "constant": (1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("epochs", [30, 90])
@pytest.mark.parametrize("name", loop.SCHEDULES)
def test_a_schedule_does_what_its_name_says_over_the_epochs_of_the_training(name: str, epochs: int, prefix: bool) -> None:
    milestones = (epochs // 3, 2 * epochs // 3) if name == "multistep" else ()
    warmup = {"warmup_epochs": 3, "warmup_prefix": True} if prefix else {}
    settings = tiny.settings(schedule=name, epochs=epochs, milestones=milestones, min_lr=0.0, **warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    schedule, rates, steps = loop._schedule(optimizer, settings, 7), [], 7 * epochs
    for step in range(steps):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"] / LR)
    first = 7 * settings.warmup_epochs
    found = rates[first], rates[(first + steps) // 2], rates[-1]
    assert found == pytest.approx(AT_BEGIN_MIDDLE_END[name], abs=0.02)
    assert rates[first:] == sorted(rates[first:], reverse=True)


@pytest.mark.parametrize("name", ["plateau", "none", "wsd", "rsqrt", "linear"])
def test_other_schedules_are_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(UsageError, match=f"schedule is '{name}'; .*one of cosine, step, multistep, poly, tanh, constant"):
        tiny.settings(schedule=name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "step", "min_lr": 1e-5}, r"min_lr is 1e-05, which schedule 'step' does not know; leave it out"),
        ({"schedule": "multistep"}, r"schedule is 'multistep' and milestones are \[\]; write both"),
        ({"milestones": (1,)}, r"schedule is 'cosine' and milestones are \[1\]"),
        ({"schedule": "multistep", "milestones": (1, 1)}, r"milestones are \[1, 1\]; write rising epochs between 0 and 2"),
        ({"schedule": "multistep", "milestones": (2,)}, r"milestones are \[2\]; write rising"),
        ({"schedule": "multistep", "milestones": (0,)}, r"milestones are \[0\]; write rising"),
        ({"warmup_epochs": 2, "warmup_prefix": True}, "warmup_epochs is 2 of 2 epochs"),
    ],
)
def test_schedules_that_cannot_be_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tiny.settings(**settings)


def test_the_weights_follow_plain_sgd(tmp_path: Path) -> None:
    """Against torch's own optimizer: Nesterov momentum, no decay of vectors, the cosine."""
    watching = Watching()
    model = tiny.trained(tmp_path, watching, model=tiny.network(batch_norm=False))
    twin = tiny.network(batch_norm=False)
    matrices = [parameter for parameter in twin.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in twin.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=0.9, nesterov=True)
    assert len(watching.batches) == STEPS
    for step, batch in enumerate(watching.batches):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * LR * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(batch.images), batch.targets).backward()
        optimizer.step()
    assert largest_difference(model, twin) < 1e-5


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adamw", "AdamW")])
def test_optimizers_by_their_names(tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    step = getattr(torch.optim, kind).step
    monkeypatch.setattr(getattr(torch.optim, kind), "step", lambda self, *a, **k: (used.append(kind), step(self, *a, **k))[1])
    model = tiny.trained(tmp_path, optimizer=name, lr=0.01)
    assert len(used) == STEPS
    assert largest_difference(model, tiny.network()) > 1e-3


def groups_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group for group in optimizer.param_groups for parameter in group["params"]}


def vision_transformer(**options: Any) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=tiny.CLASSES, global_pool="avg", **options)


SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}


@pytest.mark.shared
@pytest.mark.parametrize("auxiliary", [False, True])
def test_layer_decay_and_weight_decay_are_those_of_mae(golden: Callable[[str], Path], auxiliary: bool) -> None:
    """By what the optimizer holds for the network inside the normalising wrapper, whether its norms have a copy or not."""
    known = json.loads((golden("mae") / "lr_decay.json").read_text())
    with torch.device("meta"):
        network = timm.create_model("vit_base_patch16_224", num_classes=1000, global_pool="avg")
    model = Normalized(network, mean=(0.5,) * 3, std=(0.5,) * 3)
    if auxiliary:
        with_auxiliary_norms(model)
    rates = {"layer_decay": known["layer_decay"], "weight_decay": known["weight_decay"]}
    groups = groups_by_name(model.network, loop._optimizer(model.network, tiny.settings(optimizer="adamw", lr=1.0, **rates)))
    found = {name: (group["lr_scale"], group["weight_decay"]) for name, group in groups.items()}
    expected = {name: tuple(pair) for name, pair in known["name_to_lr_scale_and_weight_decay"].items()}
    assert {name.replace(".main.", ".").replace(".auxiliary.", ".") for name in found} == set(expected)
    for name, pair in found.items():
        assert pair == pytest.approx(expected[name.replace(".main.", ".").replace(".auxiliary.", ".")], rel=1e-12), name


def test_the_schedule_scales_the_rate_of_each_layer(tmp_path: Path) -> None:
    settings = tiny.settings(optimizer="adamw", layer_decay=0.5, warmup_epochs=1, warmup_lr=0.01, min_lr=0.002)
    network = vision_transformer(**SMALL)
    optimizer = loop._optimizer(network, settings)
    schedule, groups = loop._schedule(optimizer, settings, 5), groups_by_name(network, optimizer)
    for step in range(STEPS):
        schedule.step_update(step)
        cosine = 0.002 + 0.5 * (LR - 0.002) * (1 + math.cos(math.pi * step / STEPS))
        rate = 0.01 + (LR - 0.01) * step / 5 if step < 5 else cosine
        scales = {"pos_embed": 0.125, "blocks.0.attn.qkv.weight": 0.25, "blocks.1.norm1.bias": 0.5, "head.weight": 1.0}
        for name, scale in scales.items():
            assert groups[name]["lr"] == pytest.approx(scale * rate, rel=1e-6)


def test_layer_decay_trains_lower_layers_less_and_logs_the_rate_of_the_head(tmp_path: Path) -> None:
    moved = {}
    for decay in (None, 0.1):
        torch.manual_seed(0)
        model = Normalized(vision_transformer(**SMALL), mean=(0.5,) * 3, std=(0.5,) * 3)
        before = {name: parameter.detach().clone() for name, parameter in model.network.named_parameters()}
        adam = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0}
        trained = tiny.trained(tmp_path / str(decay), model=model, layer_decay=decay, log_every=1, **adam)
        after = dict(cast(Normalized, trained).network.named_parameters())
        moved[decay] = {name: (after[name] - before[name]).abs().mean().item() for name in before}
        assert logged(tmp_path / str(decay), "lr")[0] == pytest.approx(1e-3)
    assert moved[0.1]["patch_embed.proj.weight"] < 0.01 * moved[None]["patch_embed.proj.weight"]
    assert moved[0.1]["head.weight"] > 0.5 * moved[None]["head.weight"]


def test_layer_decay_needs_layers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"layer_decay is 0\.5, but Sequential names no layers"):
        tiny.trained(tmp_path, layer_decay=0.5)


def test_betas_and_eps_reach_the_optimizer(tmp_path: Path) -> None:
    plain, given = (
        loop._optimizer(tiny.network().network, tiny.settings(optimizer="adamw", **options))
        for options in ({}, {"betas": (0.9, 0.95), "eps": 1e-6})
    )
    assert (plain.defaults["betas"], plain.defaults["eps"]) == ((0.9, 0.999), 1e-8)
    assert (given.defaults["betas"], given.defaults["eps"]) == ((0.9, 0.95), 1e-6)
    tiny.trained(tmp_path, optimizer="adamw", betas=(0.9, 0.95))
    with pytest.raises(UsageError, match="'sgd' has no betas and no eps; leave that out"):
        tiny.trained(tmp_path / "sgd", betas=(0.9, 0.95), eps=1e-6)


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", True), ("momentum", False)])
def test_nesterov_momentum_is_in_the_name(name: str, nesterov: bool) -> None:
    assert loop._optimizer(tiny.network().network, tiny.settings(optimizer=name)).defaults["nesterov"] is nesterov


def test_the_average_is_what_is_returned(tmp_path: Path) -> None:
    watching, decay = Watching(), 0.8
    model = tiny.trained(tmp_path, watching, ema_decay=decay)
    after = [*watching.weights[1:], dict(checkpoint.load(last_checkpoint(tmp_path)).tensors["model"])]
    average = after[1]  # timm begins to average after the second step
    for weights in after[2:]:
        average = {
            name: decay * tensor + (1 - decay) * weights[name] if tensor.is_floating_point() else weights[name]
            for name, tensor in average.items()
        }
    assert not model.training
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, average[name], atol=1e-5, rtol=1e-4)


def last_checkpoint(folder: Path) -> Path:
    return checkpoint.list_checkpoints(folder / "checkpoints")[-1]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixup_and_cutmix_mix_images_and_targets_alike(tmp_path: Path, kind: str) -> None:
    plain, mixed = Watching(), Watching()
    tiny.trained(tmp_path / "plain", plain)
    tiny.trained(tmp_path / "mixed", mixed, **dict[str, Any]({kind: 1.0}))
    shares = set()
    for before, after in zip(plain.batches, mixed.batches, strict=True):
        assert after.targets.shape == (8, tiny.CLASSES)
        torch.testing.assert_close(after.targets.sum(dim=1), torch.ones(8))
        own = nn.functional.one_hot(before.targets, tiny.CLASSES).float()
        different = before.targets != before.targets.flip(0)
        share = (after.targets * own).sum(dim=1)[different]
        assert share.max() - share.min() < 1e-6  # one share for the batch
        other = before.images.flip(0)
        if kind == "mixup":
            expected = share[0] * before.images + (1 - share[0]) * other
            torch.testing.assert_close(after.images, expected, atol=1e-5, rtol=0)
        else:
            from_own = (after.images == before.images).all(dim=1)
            assert (from_own | (after.images == other).all(dim=1)).all()
        shares.add(round(share[0].item(), 4))
    assert len(shares) > STEPS / 2


def test_an_odd_number_of_images_cannot_be_paired(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"micro-batch, which has 3 here; .*training\.batch_size"):
        tiny.trained(tmp_path, mixup=0.2, batch_size=6, accumulate=2)


def test_gradients_are_clipped_together(tmp_path: Path) -> None:
    """A step of plain SGD is then at most the rate times the limit; unclipped it is longer."""
    lengths = {}
    for limit in (None, 0.01):
        watching = Watching()
        plain = {"optimizer": "momentum", "momentum": 0.0, "weight_decay": 0.0}
        tiny.trained(tmp_path / str(limit), watching, clip_grad=limit, model=tiny.network(batch_norm=False), **plain)
        first, second = watching.weights[:2]
        lengths[limit] = math.sqrt(sum(float((second[name] - first[name]).square().sum()) for name in first))
    assert lengths[0.01] == pytest.approx(LR * 0.01, rel=1e-3)
    assert lengths[None] is not None
    assert lengths[None] > 2 * LR * 0.01


@pytest.mark.parametrize("name", ["standard", "at", "random-codes", "dat"])
def test_accumulated_micro_batches_equal_the_whole(tmp_path: Path, name: str) -> None:
    method = tiny.methods()[name]
    models = [
        tiny.trained(tmp_path / str(parts), method, model=tiny.network(batch_norm=False), accumulate=parts, optimizer="sgd")
        for parts in (1, 2, 4)
    ]
    for model in models[1:]:
        assert largest_difference(model, models[0]) < 1e-5


def test_workers_change_nothing(tmp_path: Path) -> None:
    models = [tiny.trained(tmp_path / str(workers), workers=workers, epochs=1) for workers in (0, 2)]
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name])


@pytest.mark.parametrize("name", ["standard", "dat"])
def test_bfloat16_trains_and_gives_a_float32_model(tmp_path: Path, name: str) -> None:
    seen: list[torch.dtype] = []
    model = tiny.network(batch_norm=False)
    first = cast(nn.Sequential, model.network)[0]
    first.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    trained = tiny.trained(tmp_path / "half", tiny.methods()[name], model=model, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())
    assert trained(torch.rand(2, 3, 8, 8)).dtype == torch.float32
    exact = tiny.trained(tmp_path / "exact", tiny.methods()[name], model=tiny.network(batch_norm=False))
    assert largest_difference(trained, exact) > 0
    half, precise = (np.array(logged(tmp_path / folder, "loss")) for folder in ("half", "exact"))
    assert half[0] == pytest.approx(precise[0], rel=0.02)
    # Words change by rounding, on each processor others: single later steps may differ, the training as a whole does not.
    assert half.mean() == pytest.approx(precise.mean(), rel=0.1)


@pytest.mark.parametrize(("processor", "precision", "times"), [("AVX2", "bf16", 1), ("AVX2", "fp32", 0), ("AVX512", "bf16", 0)])
def test_bf16_that_takes_longer_is_spoken_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], processor: str, precision: loop.Precision, times: int
) -> None:
    loop._say_slow.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    for _ in range(2):
        with loop.accelerator(precision, cpu=True):
            pass
    assert capsys.readouterr().err.count("precision is 'bf16', for which this CPU has no instructions") == times


def test_fp16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    """Accelerate would train in float32 without a word."""
    with pytest.raises(UsageError, match="'fp16', which needs a GPU; write bf16 or fp32"):
        tiny.trained(tmp_path, precision="fp16")


@pytest.mark.parametrize(("decay", "spoken_of"), [(0.0, False), (0.5, False), (0.9999, True)])
def test_an_average_that_is_mostly_its_start_is_spoken_of_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decay: float, spoken_of: bool
) -> None:
    tiny.trained(tmp_path, ema_decay=decay)
    said = capsys.readouterr().err
    assert ("of the first weights in the average after" in said) == spoken_of
    assert said.find("first weights") < said.find("train:") or not spoken_of


@pytest.mark.parametrize("steps", [3, 24, 1000])
def test_the_decay_that_is_proposed_is_accepted(steps: int) -> None:
    said = loop.unripe_average(0.9999, steps)
    assert f"leaves {100 * 0.9999 ** (steps - 2):.1f} % of the first weights" in said
    assert loop.unripe_average(float(said.partition("at most ")[2].partition(",")[0]), steps) == ""


def test_an_average_of_two_steps_is_the_weights_themselves(tmp_path: Path) -> None:
    tiny.trained(tmp_path, epochs=1, batch_size=20, ema_decay=0.9999)
    tensors = checkpoint.load(last_checkpoint(tmp_path)).tensors
    assert all(torch.equal(tensor, tensors["model"][name]) for name, tensor in tensors["ema"].items())
    assert loop.unripe_average(0.9999, 2) == ""


class NotANumber:
    """The loss of one step is not a number."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        self.calls += 1
        for loss in Standard()(model, batch, task):
            yield loss * math.nan if self.calls == self.at else loss


class Exploding(NotANumber):
    """The loss is finite, its gradient is not."""

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        self.calls += 1
        for loss in Standard()(model, batch, task):
            weight = next(model.parameters()).sum()
            yield loss + (weight - weight.detach()).abs().sqrt() if self.calls == self.at else loss


@pytest.mark.parametrize("method", [NotANumber, Exploding])
@pytest.mark.parametrize("save_minutes", [0.0, 10.0])
@pytest.mark.parametrize("log_every", [1, 4])
def test_divergence_is_an_error_and_never_saved(
    tmp_path: Path, method: type[NotANumber], save_minutes: float, log_every: int
) -> None:
    spoiled: Method = method(at=7)
    with pytest.raises(DivergenceError, match=r"by step|after step"):
        tiny.trained(tmp_path, spoiled, save_minutes=save_minutes, log_every=log_every)
    saved = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in saved] == (["step-00000005", "step-00000006"] if save_minutes == 0 else [])
    for path in saved:
        for tensors in checkpoint.load(path).tensors.values():
            assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "addam"}, "Optimizer 'addam' is refused"),
        ({"lr": -1.0}, "learning rate: -1"),
    ],
)
def test_what_timm_does_not_know_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        tiny.trained(tmp_path, **settings)
