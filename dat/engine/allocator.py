"""Freed memory kept for the next tensor: on a CPU every batch would hand the same pages back and ask for them again."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`. Source: glibc:malloc/malloc.h."""


def keep_freed_memory() -> bool:
    """Ask the C library to keep up to 2 GiB, and blocks up to 32 MiB (the most it takes) among them; whether it does.

    An evaluation of pictures takes a fifth less time (benchmarks/README.md). What the user has set by a variable `MALLOC_...`
    stays as it is; other C libraries than GNU's know no such request.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    mallopt = library.mallopt
    return bool(mallopt(MMAP_THRESHOLD, 2**25) and mallopt(TRIM_THRESHOLD, 2**31 - 1))
