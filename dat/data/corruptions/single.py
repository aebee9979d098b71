"""What is done picture by picture on the processor, on as many threads as torch has: the libraries let go of Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def each(function: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """The results of a function of one picture, stacked, on the device of the pictures."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return torch.stack(list(threads.map(function, pictures.cpu()))).to(pictures.device)
