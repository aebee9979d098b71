"""What `dat --version` says: this package, and the packages that decide what its numbers are. None of them is imported."""

from __future__ import annotations

import platform
import runpy
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from dat.version import __version__

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy")


def as_text() -> str:
    """`dat X.Y.Z`, and a line each for Python and the packages; for torch also what it computes on."""
    return "\n".join([f"dat {__version__}", f"Python {platform.python_version()}", *_lines()])


def _lines() -> Iterator[str]:
    for name in PACKAGES:
        try:
            said = version(name)
        except PackageNotFoundError:
            said = "missing"
        yield f"{name} {said}" + (f" ({_build()})" if name == "torch" and said != "missing" else "")


def _build() -> str:
    """What torch was built for, from the file that it keeps this in: it takes seconds to import."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    facts = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    builds = (f"{name} {facts[key]}" for name, key in (("CUDA", "cuda"), ("ROCm", "hip"), ("XPU", "xpu")) if facts.get(key))
    return next(builds, "CPU")
