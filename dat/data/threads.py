"""One act on many things at once, on the processor's cores: for libraries that know one picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_threads(act: Callable[[Given], Made], things: Collection[Given]) -> list[Made]:
    """`act` of each, in order; as many at a time as torch has threads. Gains where `act` leaves Python's lock."""
    threads = min(torch.get_num_threads(), len(things))
    if threads <= 1:
        return [act(thing) for thing in things]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(act, things))
