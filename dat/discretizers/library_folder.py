"""Folders as diffusers and transformers save a model: which file holds its tensors, and what its config.json tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dat.errors import CheckpointError, UsageError
from dat.results import from_json

CONFIG, STATISTICS, PIPELINE = "config.json", "preprocessor_config.json", "model_index.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.bin", "pytorch_model.bin")
"""Safetensors go first; of a `.bin`, too, only tensors are read."""
OF_STATISTICS = ("image_mean", "image_std")
LAYOUTS = {"VQModel": "diffusers", "janus_vqgan": "janus", "emu3_vqgan": "emu3"}
"""By the class of diffusers or the model type of transformers that config.json names."""
NO_DISCRETIZERS = {
    "AutoencoderKL": "diffusers' AutoencoderKL has no codebook; take a VQModel",
    "chameleon_vqgan": "transformers' Chameleon has an encoder and a codebook, but no decoder that makes pictures of codes; "
    "take Meta's own vqgan.ckpt, which has one",
    "emu3": "this is the whole Emu3; save its tokenizer alone: model.model.vqmodel.save_pretrained(FOLDER)",
    "chameleon": "this is the whole Chameleon, whose tokenizer has no decoder in transformers; take Meta's own vqgan.ckpt",
    "janus": "this is the whole Janus; save its tokenizer alone: model.model.vqmodel.save_pretrained(FOLDER)",
}


def weights_in(folder: Path) -> Path | None:
    """The file of tensors of such a folder; None where it is no such folder.

    Raises:
        CheckpointError: there is a configuration, but no tensors in one file; or it is a pipeline of several models.
    """
    if found := next((folder / name for name in WEIGHTS if (folder / name).is_file()), None):
        return found
    if (folder / PIPELINE).is_file():
        inside = " or ".join(str(path.parent) for path in sorted(folder.glob("vq*/config.json"))) or "that of its VQModel"
        raise CheckpointError(f"{folder} is a pipeline of several models; give the folder of one: {inside}.")
    if (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} has a {CONFIG}, but no weights; put {' or '.join(WEIGHTS[:2])}, whole, beside it.")
    return None


def config_beside(file: Path) -> dict[str, Any] | None:
    """What config.json beside a library's file says, with the layout; None where it is of no library, or not there.

    Of transformers also mean and spread of the channels, which preprocessor_config.json tells.

    Raises:
        CheckpointError: config.json cannot be read.
        UsageError: it is of a model that is no discretizer.
    """
    if file.name not in WEIGHTS or not (file.parent / CONFIG).is_file():
        return None
    config = _read(file.parent / CONFIG)
    kind = kind_of(config)
    if kind in NO_DISCRETIZERS:
        raise UsageError(f"{file.parent} holds no discretizer: {NO_DISCRETIZERS[kind]}.")
    if kind not in LAYOUTS:
        return None
    statistics = file.parent / STATISTICS
    told = _read(statistics) if statistics.is_file() and LAYOUTS[kind] != "diffusers" else {}
    return {**{key: told[key] for key in OF_STATISTICS if key in told}, **config, "layout": LAYOUTS[kind]}


def files_beside(file: Path) -> list[Path]:
    """The configurations that `config_beside` reads."""
    if config_beside(file) is None:
        return []
    return [path for path in (file.with_name(CONFIG), file.with_name(STATISTICS)) if path.is_file()]


def kind_of(config: Mapping[str, Any]) -> str:
    """The class of diffusers or the model type of transformers that a configuration names; empty where it names none."""
    return str(config.get("_class_name") or config.get("model_type") or "")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); get it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, not the keys of a configuration; get it again.")
    return values
