"""What several processes have to agree on before and after the work: where they are, how many, and who says what went wrong."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import psutil
import torch
import yaml
from accelerate import PartialState
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  # documented, but not in its __all__


def on_cpu(cpu: bool) -> bool:
    """Whether to work on the processor: asked for, or there is nothing else.

    Accelerate joins the processes of torchrun on a processor only if it is told so; each would be the main one otherwise.
    """
    return cpu or not torch.accelerator.is_available()


def joined(*, cpu: bool) -> PartialState:
    """The processes that were launched, joined; on stderr, how many are missing of those that were asked for."""
    state = PartialState(cpu=on_cpu(cpu))
    if state.num_processes == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ:  # which `accelerate launch` sets
        _tell_missing()
    return state


@cache
def _tell_missing() -> None:
    """Once: a table joins its processes again for each training."""
    from accelerate.commands.config.config_args import default_config_file  # with all its questions; needed here alone

    parent = psutil.Process().parent()
    asked = processes_asked_for(parent.cmdline() if parent is not None else (), Path(default_config_file))
    if asked > 1:
        print(
            f"accelerate launch was asked for {asked} processes, but starts only one, as it sees no GPUs; without GPUs, "
            f"write torchrun --nproc_per_node {asked} -m dat ..., or add --multi_gpu.",
            file=sys.stderr,
        )


def processes_asked_for(command: Sequence[str], configuration: Path) -> int:
    """`--num_processes` of a command line, or else that of its `--config_file`, or of the `configuration` without one.

    No variable of the environment tells it. 1 where it is nowhere.
    """
    given = _flag(command, "num_processes")
    return int(given) if given.isdigit() else _processes_of(Path(_flag(command, "config_file") or configuration))


def _flag(command: Sequence[str], name: str) -> str:
    """Its value, empty where it is not there."""
    words = [word for part in command for word in part.split("=")]
    return next((value for word, value in pairwise(words) if word.replace("-", "_") == f"__{name}"), "")


def _processes_of(configuration: Path) -> int:
    """What `accelerate config` wrote, YAML or JSON; a file that tells nothing is accelerate's to complain of."""
    try:
        found = yaml.safe_load(configuration.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return 1
    count = found.get("num_processes") if isinstance(found, dict) else None
    return count if isinstance(count, int) else 1


def is_first_to_say(sentence: str) -> bool:
    """Whether no other process of this launch has said the same: where all fail alike, one speaks."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if address is None or port is None:
        return True
    try:
        store = TCPStore(address, int(port), is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5))
        return store.add(f"dat/{hashlib.sha256(sentence.encode()).hexdigest()}", 1) == 1
    except (RuntimeError, ValueError):  # whoever kept the store is gone: better twice than never
        return True


def is_loss_of_another(error: RuntimeError) -> bool:
    """Whether it only says that another process ended, which has told why."""
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in lost)
