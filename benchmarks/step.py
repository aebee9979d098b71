"""What a training step costs: each method against a plain step, and the parts of a DAT step, in one run.

Prints a table and, with `--output`, writes JSON. Weights are random: no file is needed, and the arithmetic is the same.
Example: `python benchmarks/step.py --preset small --repeats 15 --output step.json`
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from straightforward import Straightforward, official_step
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import load_discretizer
from dat.engine.loop import SupervisedLearner, Training, accelerator
from dat.engine.validation import Judge
from dat.errors import DatError
from dat.methods import METHODS
from dat.nn.norm import Normalized, with_auxiliary_norms
from dat.nn.zoo import create_network
from dat.results import machine, versions, write_text
from dat.tasks.classification import Classification
from dat.types import Batch, Codes, Discretizer, Images, Method

PARTS = ("first_q_pass", "image_gradient", "second_q_pass", "training")
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16")
SEED = 0
MIB = 2**20


@dataclass(frozen=True)
class Preset:
    """Network, picture size, batch on a CPU, and discretizer."""

    model: str
    size: int
    batch: int
    classes: int
    network: VQGANConfig


SMALL_VQGAN = VQGANConfig(
    n_embed=1024, embed_dim=64, z_channels=64, ch=32, ch_mult=(1, 2, 4), num_res_blocks=1, attn_resolutions=()
)
FULL_VQGAN = VQGANConfig(
    n_embed=16384, embed_dim=4, z_channels=4, ch=128, ch_mult=(1, 2, 2, 4), num_res_blocks=2, attn_resolutions=(32,)
)
PRESETS = {
    "small": Preset("small_resnet", 32, 64, 10, SMALL_VQGAN),
    "resnet50-224": Preset("resnet50", 224, 2, 1000, FULL_VQGAN),
    "vit-b16-224": Preset("vit_base_patch16_224", 224, 2, 1000, FULL_VQGAN),
}
MODEL_OPTIONS: dict[str, dict[str, Any]] = {"small_resnet": {"depth": 20}}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def seconds() -> float:
    """Wall time once the device is done; costs a DAT step little, as each Q pass waits for its range check anyhow."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


CLOCKS: dict[str, Callable[[], float]] = {"wall": seconds, "cpu": time.process_time}


@dataclass(frozen=True)
class Sample:
    """One step: seconds or FLOPs in total and of the parts of DAT (empty for other methods)."""

    total: float
    parts: dict[str, float]
    peak_bytes: int | None


@dataclass(frozen=True)
class Bench:
    """What is timed: one optimizer step by method, all with one discretizer, on `device`."""

    device: torch.device
    discretizer: MarkedDiscretizer
    steps: dict[str, Callable[[], object]]


class MarkedDiscretizer(nn.Module):
    """A discretizer that notes what the clock says before and after each pass."""

    def __init__(self, discretizer: FrozenDiscretizer) -> None:
        super().__init__()
        self.inner = discretizer
        self.codebook_size, self.stride = discretizer.codebook_size, discretizer.stride
        self.clock: Callable[[], float] = seconds
        self.marks: list[float] = []

    def forward(self, images: Images) -> Images:
        """`Q(x)`, marked."""
        self.marks.append(self.clock())
        reconstruction = self.inner(images)
        self.marks.append(self.clock())
        return reconstruction

    def encode(self, images: Images) -> Codes:
        """Codes, not marked."""
        return self.inner.encode(images)

    def decode(self, codes: Codes) -> Images:
        """Images, not marked."""
        return self.inner.decode(codes)

    def __getattr__(self, name: str) -> Any:
        """What some methods need beside: the vectors of the codes and their neighbours."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class FlopCount(TorchDispatchMode):
    """FLOPs of all convolutions, matrix products and attentions inside; 2 per multiplication with its addition.

    By PyTorch's own formulas; its `FlopCounterMode` also follows modules, and fails on a gradient of the input alone.
    """

    total: float = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and add what it costs."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def main() -> None:
    """Measure what the command line asks for and print it."""
    options = parsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    load = psutil.getloadavg()[0]
    with prepared(options) as bench:
        flops = {name: counted(step, bench.discretizer) for name, step in bench.steps.items()}
        rounds = interleaved(bench, CLOCKS[options.clock], warmup=options.warmup, repeats=options.repeats)
    around = surroundings(bench.device, load)
    result = summary(rounds, flops, options.batch) | {"setting": setting(options), "machine": around}
    print(as_text(result))
    if options.output:
        write_text(options.output, json.dumps(result, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The options, those of the preset filled in where none was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small", help="network, picture size and discretizer")
    parser.add_argument("--model", help="small_resnet (of depth 20) or a name of timm, instead of the preset's")
    parser.add_argument("--size", type=int, help="height and width in pixels, instead of the preset's")
    parser.add_argument("--batch", type=int, help="images per step, instead of the preset's (which suits a CPU)")
    parser.add_argument("--discretizer", help="weights (a name or a file), instead of random ones of the preset's network")
    wanted = "by name, or with settings, e.g. dat-fast:adversarial_share=0.6,clean_share=0.3; standard is always timed"
    parser.add_argument("--methods", nargs="+", type=variant, default=list(METHODS), metavar="METHOD", help=wanted)
    official = (
        "also the step of the released program, in float32 and contiguous; beside it, `dat-official` is the same mathematics"
    )
    parser.add_argument("--official", action="store_true", help=official)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the training step (autocast)")
    parser.add_argument("--discretizer-precision", choices=PRECISIONS, default="fp32", help="of its networks")
    parser.add_argument("--channels-last", action="store_true", help="memory layout of images and both networks")
    parser.add_argument("--repeats", type=int, default=9, help="timed rounds over all methods")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them, beside the one that counts FLOPs")
    parser.add_argument("--threads", type=int, help="of PyTorch; its own choice if not given")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, on a CPU that others use too")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    for name in ("model", "size", "batch"):
        setattr(options, name, getattr(options, name) or getattr(preset, name))
    return options


@contextmanager
def prepared(options: argparse.Namespace) -> Iterator[Bench]:
    """A step of each method in the loop that `dat train` runs, every one with its own copy of the same classifier."""
    preset = PRESETS[options.preset]
    with accelerator(options.precision) as here:
        frozen = discretizer_of(options.discretizer, preset.network, PRECISIONS[options.discretizer_precision])
        memory_format = layout(options.channels_last)
        marked = MarkedDiscretizer(frozen.to(here.device).to(memory_format=memory_format))
        images = torch.rand(options.batch, 3, options.size, options.size)
        images = images.to(here.device, memory_format=memory_format)
        batch = Batch(
            images, torch.randint(preset.classes, (options.batch,)).to(here.device), torch.Generator().manual_seed(SEED)
        )
        training = Training(epochs=1, batch_size=options.batch, lr=0.01, precision=options.precision)

        def step_of(name: str) -> Callable[[], object]:
            method = method_of(name, marked)
            model = classifier(options.model, preset.classes).to(memory_format=memory_format)
            if getattr(method, "auxiliary_norms", False):
                with_auxiliary_norms(model)
            task = Classification(num_classes=preset.classes)
            unjudged = Judge(None, keeps=False, patience=None)
            learner = SupervisedLearner(model, method, task, training, here, 10**6, SEED, preset.classes, unjudged)
            return lambda: learner.step([batch], 0)

        names = dict.fromkeys(("standard", *options.methods))
        steps = {name: step_of(name) for name in names}
        if options.official:
            model = classifier(options.model, preset.classes).to(here.device).train()
            steps["official code"] = official_step(model, Straightforward(exact(frozen)), batch)
        yield Bench(here.device, marked, steps)


def discretizer_of(name: str | None, network: VQGANConfig, precision: torch.dtype | None) -> FrozenDiscretizer:
    """The one of that name, or an untrained one."""
    torch.manual_seed(SEED)
    if name is None:
        return FrozenDiscretizer(VQGAN(network), precision=precision, copy_network=False)
    return load_discretizer(name, dtype=precision)


def exact(discretizer: FrozenDiscretizer) -> VQGAN:
    """Its network, where it is one that the released program knows."""
    if isinstance(discretizer.network, VQGAN) and discretizer.network.config.quantizer == "vq":
        return discretizer.network
    raise SystemExit("--official needs a VQGAN with a codebook; leave out --discretizer, or name one of another kind.")


def variant(text: str) -> str:
    """A method as `--methods` names it, if there is such a one with such settings."""
    try:
        method_of(text, MarkedDiscretizer(discretizer_of(None, PRESETS["small"].network, None)))
    except (KeyError, TypeError, ValueError, DatError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no METHOD or METHOD:KEY=NUMBER,... ({error})") from error
    return text


def method_of(text: str, discretizer: Discretizer) -> Method:
    """A method by name, with the settings behind it and its defaults otherwise."""
    name, _, settings = text.partition(":")
    needs = {entry.name for entry in fields(METHODS[name])}
    chosen = {key: float(value) for key, _, value in (entry.partition("=") for entry in settings.split(",") if entry)}
    return METHODS[name](**({"discretizer": discretizer} if "discretizer" in needs else {}), **chosen)


def classifier(name: str, classes: int) -> Normalized:
    """The classifier with the same random weights at every call."""
    torch.manual_seed(SEED)
    network = create_network(name, num_classes=classes, options=MODEL_OPTIONS.get(name, {}))
    return Normalized(network, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def layout(channels_last: bool) -> torch.memory_format:
    """The memory layout by its name in PyTorch."""
    return torch.channels_last if channels_last else torch.contiguous_format


def counted(step: Callable[[], object], marked: MarkedDiscretizer) -> Sample:
    """FLOPs of one step."""
    with FlopCount() as counter:
        return measured(step, marked, lambda: counter.total)


def interleaved(bench: Bench, clock: Callable[[], float], *, warmup: int, repeats: int) -> dict[str, list[Sample]]:
    """Seconds of `repeats` steps of each method, every method once per round: what disturbs a round disturbs them all."""
    rounds: dict[str, list[Sample]] = {name: [] for name in bench.steps}
    for _ in range(warmup + repeats):
        for name, step in bench.steps.items():
            rounds[name].append(measured(step, bench.discretizer, clock))
    return {name: samples[warmup:] for name, samples in rounds.items()}


def measured(step: Callable[[], object], marked: MarkedDiscretizer, clock: Callable[[], float]) -> Sample:
    """One step by a clock of seconds or of FLOPs."""
    marked.clock, marked.marks = clock, []
    before = memory_reset()
    start = clock()
    step()
    total = clock() - start
    peak = None if before is None else torch.cuda.max_memory_allocated() - before
    return Sample(total, parts(marked.marks, total), peak)


def parts(marks: list[float], total: float) -> dict[str, float]:
    """What each part of a DAT step took; the rest is training: forward, backward and optimizer. Empty without two Q passes."""
    if len(marks) != 4:
        return {}
    first, gradient, second = (after - before for before, after in pairwise(marks))
    return dict(zip(PARTS, (first, gradient, second, total - first - gradient - second), strict=True))


def memory_reset() -> int | None:
    """Bytes held on the GPU now, from where the peak is measured; a CPU keeps no such account."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def summary(rounds: dict[str, list[Sample]], flops: dict[str, Sample], batch: int) -> dict[str, Any]:
    """Medians over the rounds; ratios and shares are taken within a round first."""
    plain = rounds["standard"]
    methods = {name: method_summary(samples, plain, flops[name], batch) for name, samples in rounds.items()}
    return {"methods": methods, "dat_parts": parts_summary(rounds["dat"], flops["dat"], batch) if "dat" in rounds else {}}


def method_summary(samples: list[Sample], plain: list[Sample], flops: Sample, batch: int) -> dict[str, Any]:
    """Ratio to the plain step (median, lowest, highest), seconds, GFLOP per image, and peak extra memory on a GPU."""
    ratios = [sample.total / other.total for sample, other in zip(samples, plain, strict=True)]
    peaks = [sample.peak_bytes for sample in samples if sample.peak_bytes is not None]
    return {
        "ratio": rounded(statistics.median(ratios)),
        "ratio_range": [rounded(min(ratios)), rounded(max(ratios))],
        "seconds": rounded(statistics.median(sample.total for sample in samples)),
        "gflop_per_image": rounded(flops.total / batch / 1e9),
        "peak_extra_mib": round(max(peaks) / MIB) if peaks else None,
    }


def parts_summary(samples: list[Sample], flops: Sample, batch: int) -> dict[str, dict[str, float]]:
    """Share of the DAT step (median over the rounds, so that shares sum only about to 1), seconds, GFLOP per image."""
    return {
        part: {
            "share": rounded(statistics.median(sample.parts[part] / sample.total for sample in samples)),
            "seconds": rounded(statistics.median(sample.parts[part] for sample in samples)),
            "gflop_per_image": rounded(flops.parts[part] / batch / 1e9),
        }
        for part in PARTS
    }


def rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, without the path of the output."""
    values = {name: value for name, value in vars(options).items() if name not in ("output", "threads", "methods")}
    network = asdict(PRESETS[options.preset].network) if options.discretizer is None else None
    return values | {"model_options": MODEL_OPTIONS.get(options.model, {}), "vqgan": network}


def surroundings(device: torch.device, load: float) -> dict[str, Any]:
    """The machine without names; `load` is the mean number of busy processes in the minute before, 0 on a quiet machine."""
    return {
        "machine": machine(),
        "device": device.type,
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_flags": cpu_flags(),
        "load_at_start": round(load, 2),
        "versions": versions(),
    }


def cpu_flags() -> dict[str, bool] | None:
    """Which instructions that matter for speed the CPU has; None where the system does not say."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return None
    words = set(path.read_text().split())
    return {flag: flag in words for flag in CPU_FLAGS}


def as_text(result: dict[str, Any]) -> str:
    """The result as a plain table."""
    setting, around = result["setting"], result["machine"]
    width = max(15, *map(len, result["methods"])) + 1
    lines = [
        f"{setting['model']}, {setting['size']} px, batch {setting['batch']}, step {setting['precision']}, "
        f"discretizer {setting['discretizer_precision']}{', channels-last' if setting['channels_last'] else ''}; "
        f"{around['machine']}, threads: {around['threads']}, {setting['clock']} clock; median of {setting['repeats']} rounds",
        f"{'method':<{width}}{'x plain':>9}{'lowest':>9}{'highest':>9}{'seconds':>10}{'GFLOP/image':>13}{'peak MiB':>10}",
    ]
    for name, row in result["methods"].items():
        low, high = row["ratio_range"]
        peak = "-" if row["peak_extra_mib"] is None else str(row["peak_extra_mib"])
        lines.append(
            f"{name:<{width}}{row['ratio']:>9.2f}{low:>9.2f}{high:>9.2f}{row['seconds']:>10.3f}"
            f"{row['gflop_per_image']:>13.4g}{peak:>10}"
        )
    if result["dat_parts"]:
        lines += ["", f"{'part of DAT':<16}{'share':>9}{'seconds':>10}{'GFLOP/image':>13}"]
    for name, row in result["dat_parts"].items():
        lines.append(f"{name:<16}{row['share']:>9.1%}{row['seconds']:>10.3f}{row['gflop_per_image']:>13.4g}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
