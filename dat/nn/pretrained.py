"""Weights by name, as timm publishes them, and what of a network they are left alone in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session, try_to_load_from_cache
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dat.errors import CheckpointError, UsageError
from dat.nn.zoo import head_keys

CACHED = "model.safetensors", "pytorch_model.bin"
"""Files of weights, as timm looks for them."""
WAIT = 10.0
"""Seconds until a server that does not answer counts as out of reach."""


@dataclass(frozen=True)
class Published:
    """What timm says of weights: their whole name, and the mean and deviation by which their images are normalised."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def published(name: str) -> Published:
    """What timm says of the weights of a name, of a model or of one with its tag; nothing is downloaded.

    Raises:
        UsageError: timm has none.
    """
    if not timm.is_model(name):
        raise UsageError(
            f"timm publishes no weights of {name!r}; name one of timm.list_pretrained(), or write weights: FILE, no pretrained."
        )
    try:
        found = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        found = None
    if found is None or not found.has_weights:
        model = name.partition(".")[0]
        known = ", ".join(timm.list_pretrained(f"{model}.*")) or "none"
        raise UsageError(f"timm publishes no weights {name}; of {model} it has: {known}.")
    return Published(f"{name.partition('.')[0]}.{found.tag}" if found.tag else name, tuple(found.mean), tuple(found.std))


def pretrained_tensors(name: str, *, num_classes: int, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The published weights of a network with these options; without the last layer, where it is for other classes.

    They come from the cache of this machine, or from the network, and with HF_HUB_OFFLINE=1 from the cache alone.

    Raises:
        CheckpointError: they are not to be had; with what to write instead.
        UsageError: the network does not take these options.
    """
    try:
        _ask_once(name)
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(name, pretrained=True, num_classes=num_classes, **options)
    except (TypeError, AssertionError) as error:
        raise UsageError(f"Model {name!r} does not take the options {dict(options)}: {error}.") from error
    except Exception as error:  # a download fails in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        where = "HF_HUB_OFFLINE is set, so nothing is downloaded, and " if os.environ.get("HF_HUB_OFFLINE") else ""
        raise CheckpointError(
            f"{where}timm cannot get the weights of {name} ({reason}). Write model.pretrained=false to train from random "
            "weights, which takes more epochs; model.pretrained=false model.weights=FILE if you have them as a file; or where "
            f"there is a network `hf download timm/{name}`, and bring the folder ~/.cache/huggingface to this machine."
        ) from error
    found = timm.get_pretrained_cfg(name)
    same = found is not None and found.num_classes == num_classes
    return {key: tensor for key, tensor in network.state_dict().items() if same or key not in head_keys(network)}


def _ask_once(name: str) -> None:
    """One try to reach the server of weights that are not in the cache: timm's many take a minute and a half to fail.

    Raises: what its client raises.
    """
    known = timm.get_pretrained_cfg(name)
    repository = known.hf_hub_id if known is not None else None
    if repository and not any(isinstance(try_to_load_from_cache(repository, file), str) for file in CACHED):
        get_session().head(constants.ENDPOINT, timeout=WAIT)


def freeze_backbone(network: nn.Module) -> None:
    """Let only the last layer train; in place.

    Raises:
        UsageError: the network does not say which it is.
    """
    last = set(head_keys(network))
    if not last:
        raise UsageError(
            f"freeze is 'backbone', but {type(network).__name__} does not say which its last layer is; write freeze: null."
        )
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key in last)


def freeze_norms(network: nn.Module) -> None:
    """Keep scale, shift and running statistics of each batch normalisation as they are; in place.

    Raises:
        UsageError: the network has none.
    """
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.affine]
    if not norms:
        raise UsageError(f"freeze is 'norms', but {type(network).__name__} has no batch normalisation; write freeze: null.")
    for part in norms:
        part.requires_grad_(False)


FROZEN = {"backbone": freeze_backbone, "norms": freeze_norms}
"""What of a network can be kept as it begins."""


def is_frozen(part: nn.Module) -> bool:
    """Whether a layer has parameters of its own, and none of them trains."""
    own = list(part.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)
