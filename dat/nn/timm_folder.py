"""A folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` reads, and `hf-hub:user/name` as well.

Source: huggingface/pytorch-image-models:timm/models/_hub.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from timm.data import resolve_model_data_config  # pyright: ignore[reportPrivateImportUsage]  # timm's documented import
from torch import nn

from dat.errors import UsageError
from dat.nn.norm import Normalized
from dat.nn.zoo import NETWORKS, needs_words

CONFIG, WEIGHTS = "config.json", "model.safetensors"
KEPT = ("first_conv", "classifier", "fixed_input_size")
"""What timm knows of a network by its name, and asks for where it is given another head or another number of channels."""


@dataclass(frozen=True)
class Shown:
    """How pictures are brought to a network: height and width, timm's words for the crop, and the normalisation."""

    size: tuple[int, int]
    crop_pct: float
    interpolation: str
    crop_mode: str


def is_timms(name: str) -> bool:
    """Whether timm makes the network of this name."""
    return name not in NETWORKS and not needs_words(name) and timm.is_model(name)


def refuse_others(name: str) -> None:
    """Raises: UsageError: the network of this name is not timm's."""
    if not is_timms(name):
        raise UsageError(f"{name} is no network of timm, so timm cannot make it; write --to onnx or --to torch-export.")


def write_timm_folder(
    folder: Path, model: Normalized, *, name: str, options: Mapping[str, Any], classes: Sequence[str], shown: Shown
) -> list[Path]:
    """Write configuration and weights of a network of timm into a folder that is there; `name` and `options` made it.

    Raises:
        UsageError: the network is not timm's.
    """
    refuse_others(name)
    config = _config(model, name=name, options=options, classes=classes, shown=shown)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    return [folder / CONFIG, write_weights(folder, model)]


def write_weights(folder: Path, model: Normalized) -> Path:
    """The tensors of the network inside, by its own names, as a file of that folder."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.network.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder / WEIGHTS


def read_timm_folder(folder: Path) -> nn.Module:
    """The network as timm alone loads it, behind the normalisation that its configuration names; in eval mode."""
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True)
    config = resolve_model_data_config(network)
    return Normalized(network, mean=config["mean"], std=config["std"]).eval()


def _config(
    model: Normalized, *, name: str, options: Mapping[str, Any], classes: Sequence[str], shown: Shown
) -> dict[str, Any]:
    known: Mapping[str, Any] = getattr(model.network, "pretrained_cfg", {})
    return {
        "architecture": name.partition(".")[0],
        "num_classes": len(classes),
        "num_features": getattr(model.network, "num_features", None),
        "label_names": list(classes),
        "model_args": dict(options),
        "pretrained_cfg": {
            **{key: known[key] for key in KEPT if key in known},
            "tag": "dat",
            "custom_load": False,
            "input_size": [3, *shown.size],
            "crop_pct": shown.crop_pct,
            "interpolation": shown.interpolation,
            "crop_mode": shown.crop_mode,
            "mean": _exact(model.mean),
            "std": _exact(model.std),
            "num_classes": len(classes),
        },
    }


def _exact(values: torch.Tensor) -> list[float]:
    """Numbers whose float32 are these, as short as they can be written."""
    return [float(str(value)) for value in values.flatten().numpy()]
