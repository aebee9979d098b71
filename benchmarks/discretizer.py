"""The exact discretizer: `FrozenDiscretizer` against a straightforward float32 evaluation of the same weights, in one run.

Prints a table with the codes that change and, with `--json`, writes it all. Weights are random unless `--weights` names a file.
Example: `python benchmarks/discretizer.py --preset f8-224 --repeats 5 --json discretizer.json`
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from step import CLOCKS, FULL_VQGAN, MIB, SEED, SMALL_VQGAN, memory_reset, rounded, surroundings
from straightforward import Straightforward

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.networks.diffusers import ATTENTIVE_DOWN, ATTENTIVE_UP, DOWN, UP, public_name
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.pretrained import load_discretizer
from dat.results import write_text
from dat.types import Codes, Discretizer, Images

REFERENCE = "straightforward"
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Preset:
    """Discretizer, picture size, and batch on a CPU."""

    network: VQGANConfig
    size: int
    batch: int


PRESETS = {"small": Preset(SMALL_VQGAN, 32, 64), "f8-224": Preset(FULL_VQGAN, 224, 2)}


@dataclass(frozen=True)
class Sample:
    """Seconds of one pass, and on a GPU the memory it took beyond what lay there."""

    seconds: float
    peak_bytes: int | None


class Diffusers:
    """The same weights in the `VQModel` of the library diffusers, as one calls it."""

    def __init__(self, network: VQGAN, precision: torch.dtype | None) -> None:
        library: Any = importlib.import_module("diffusers")
        config, self.dtype = network.config, precision or torch.float32
        attentive = [config.resolution // 2**level in config.attn_resolutions for level in range(len(config.ch_mult))]
        self.model = library.VQModel(
            down_block_types=tuple(ATTENTIVE_DOWN if here else DOWN for here in attentive),
            up_block_types=tuple(ATTENTIVE_UP if here else UP for here in reversed(attentive)),
            block_out_channels=tuple(config.ch * factor for factor in config.ch_mult),
            layers_per_block=config.num_res_blocks,
            latent_channels=config.z_channels,
            num_vq_embeddings=config.n_embed,
            vq_embed_dim=config.embed_dim,
        )
        names = {public_name(key, len(attentive)): value for key, value in network.state_dict().items()}
        self.model.load_state_dict({key: names[key].view_as(value) for key, value in self.model.state_dict().items()})
        self.model.to(next(network.parameters()).device, self.dtype).eval()
        self.codebook_size, self.stride = network.codebook_size, network.stride

    def __call__(self, images: Images) -> Images:
        """`Q(x)`."""
        return self.decode(self.encode(images))

    @torch.no_grad()
    def encode(self, images: Images) -> Codes:
        """Codes, which it hands out flat."""
        latents = self.model.encode(2 * images.to(self.dtype) - 1).latents
        codes = self.model.quantize(latents)[2][2]
        return codes.view(len(images), *latents.shape[2:])

    @torch.no_grad()
    def decode(self, codes: Codes) -> Images:
        """Images in [0, 1]."""
        vectors = self.model.quantize.get_codebook_entry(codes.flatten(), (*codes.shape, self.model.config["vq_embed_dim"]))
        pictures = self.model.decode(vectors, force_not_quantize=True).sample
        return (pictures.float().clamp(-1, 1) + 1) / 2


def main() -> None:
    """Measure what the command line asks for and print it."""
    options = parsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean the same on both sides
    load, device = psutil.getloadavg()[0], torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    torch.manual_seed(SEED)
    images = torch.rand(options.batch, 3, options.size, options.size).to(device)
    variants = prepared(options, images)
    exactness = {name: changes(variant, variants[REFERENCE], images) for name, variant in variants.items()}
    rounds = interleaved(variants, images, options)
    result = {"variants": {name: summary(rounds[name], rounds[REFERENCE]) | exactness[name] for name in variants}}
    result |= {"setting": setting(options), "machine": surroundings(device, load) | {"allocator": allocator()}}
    print(as_text(result))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def parsed() -> argparse.Namespace:
    """The options, those of the preset filled in where none was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small", help="discretizer, picture size and batch")
    parser.add_argument("--weights", type=Path, help="file of a VQGAN, instead of the preset's with random weights")
    parser.add_argument("--size", type=int, help="height and width in pixels, instead of the preset's")
    parser.add_argument("--batch", type=int, help="images per pass, instead of the preset's (which suits a CPU)")
    low = ("bf16", "fp16") if torch.cuda.is_available() else ("bf16",)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", *low], help="of our networks")
    parser.add_argument("--peer", action="store_true", help="also the same weights in the VQModel of the library diffusers")
    parser.add_argument("--compile", action="store_true", help="ours compiled, too; takes minutes for large networks")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds over all variants")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them")
    parser.add_argument("--threads", type=int, help="of PyTorch; its own choice if not given")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: processor time, on a CPU that others use too")
    parser.add_argument("--json", type=Path, help="file for the JSON")
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    options.size, options.batch = options.size or preset.size, options.batch or preset.batch
    return options


def prepared(options: argparse.Namespace, images: Images) -> dict[str, Discretizer]:
    """The straightforward evaluation and ours in every precision, each with a copy of the same weights."""
    network = network_of(options.weights, PRESETS[options.preset].network, images).to(images.device)
    variants: dict[str, Discretizer] = {REFERENCE: Straightforward(network)}
    for precision in options.precision:
        if options.peer:
            variants[f"diffusers {precision}"] = Diffusers(network, PRECISIONS[precision])
        variants[f"ours {precision}"] = FrozenDiscretizer(network, precision=PRECISIONS[precision])
        if options.compile:
            ours = FrozenDiscretizer(network, precision=PRECISIONS[precision]).compile_networks()
            variants[f"ours {precision} compiled"] = ours
    return variants


def network_of(weights: Path | None, config: VQGANConfig, images: Images) -> VQGAN:
    """The network of a file; without one, random weights, and a codebook as widely spread as the latents."""
    if weights is not None:
        network = load_discretizer(weights).network
        if not isinstance(network, VQGAN) or network.config.quantizer != "vq":
            raise SystemExit(f"{weights} holds no VQGAN with a codebook, which is what the straightforward evaluation knows.")
        return network
    network = VQGAN(config).to(images.device)
    with torch.no_grad():
        std, mean = torch.std_mean(network.latents(2 * images - 1), dim=(0, 2, 3))
        codebook = network.quantize.get_parameter("embedding.weight")
        codebook.copy_(mean + std * torch.randn_like(codebook))
    return network


def changes(variant: Discretizer, reference: Discretizer, images: Images) -> dict[str, float]:
    """Share of codes that differ from the reference, and by how much the picture of the reference's codes differs."""
    codes = reference.encode(images)
    return {
        "changed_codes": rounded(float((variant.encode(images) != codes).float().mean())),
        "largest_difference": rounded(float((variant.decode(codes) - reference.decode(codes)).abs().max())),
    }


def interleaved(variants: dict[str, Discretizer], images: Images, options: argparse.Namespace) -> dict[str, list[Sample]]:
    """One pass of each variant per round: what disturbs a round disturbs them all."""
    clock = CLOCKS[options.clock]
    rounds: dict[str, list[Sample]] = {name: [] for name in variants}
    for _ in range(options.warmup + options.repeats):
        for name, variant in variants.items():
            rounds[name].append(measured(variant, images, clock))
    return {name: samples[options.warmup :] for name, samples in rounds.items()}


def measured(variant: Discretizer, images: Images, clock: Callable[[], float]) -> Sample:
    """One `Q(x)`."""
    before = memory_reset()
    start = clock()
    variant(images)
    seconds = clock() - start
    return Sample(seconds, None if before is None else torch.cuda.max_memory_allocated() - before)


def summary(samples: list[Sample], reference: list[Sample]) -> dict[str, Any]:
    """How many times as fast as the reference (median over the rounds, lowest, highest), seconds, and peak memory."""
    ratios = [other.seconds / sample.seconds for sample, other in zip(samples, reference, strict=True)]
    peaks = [sample.peak_bytes for sample in samples if sample.peak_bytes is not None]
    return {
        "speedup": rounded(statistics.median(ratios)),
        "speedup_range": [rounded(min(ratios)), rounded(max(ratios))],
        "seconds": rounded(statistics.median(sample.seconds for sample in samples)),
        "peak_extra_mib": round(max(peaks) / MIB) if peaks else None,
    }


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, without paths."""
    values = {name: value for name, value in vars(options).items() if name not in ("json", "threads", "weights")}
    return values | {"weights": options.weights.name if options.weights else f"random, seed {SEED}"}


def allocator() -> dict[str, str]:
    """The settings of the allocator that were made: handing pages back and forth is a good part of a pass on a CPU."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(("MALLOC_", "LD_PRELOAD"))}


def as_text(result: dict[str, Any]) -> str:
    """The result as a plain table."""
    setting, around = result["setting"], result["machine"]
    given = ", ".join(f"{name}={value}" for name, value in around["allocator"].items()) or "as the system sets it"
    lines = [
        f"{setting['preset']}, {setting['size']} px, batch {setting['batch']}, weights: {setting['weights']}; "
        f"{around['machine']}, threads: {around['threads']}, {setting['clock']} clock; median of {setting['repeats']} rounds",
        f"allocator: {given}",
        f"{'variant':<22}{'speed-up':>9}{'lowest':>8}{'highest':>8}{'seconds':>9}"
        f"{'changed codes':>15}{'largest diff.':>15}{'peak MiB':>10}",
    ]
    for name, row in result["variants"].items():
        low, high = row["speedup_range"]
        peak = "-" if row["peak_extra_mib"] is None else str(row["peak_extra_mib"])
        lines.append(
            f"{name:<22}{row['speedup']:>9.2f}{low:>8.2f}{high:>8.2f}{row['seconds']:>9.3f}"
            f"{row['changed_codes']:>15.3%}{row['largest_difference']:>15.1e}{peak:>10}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
