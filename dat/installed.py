"""Which optional packages are there."""

from __future__ import annotations

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Whether a package can be imported and is more than a folder of its name.

    In a notebook, a script and `python -m dat`, Python takes a folder `datasets/` or `wandb/` of pictures or logs that lies
    beside them for an empty package of that name, where the true one is missing.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
