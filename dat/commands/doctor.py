"""What this machine has, what is missing, and the command that installs it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

from dat.errors import DatError
from dat.version import __version__

DISTRIBUTION = "discrete-adversarial-training"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
"""What a checkout says of itself where the package is not installed."""
GIB = 2**30


def findings() -> dict[str, Any]:
    """Versions, devices, memory and disk of this machine.

    Raises:
        DatError: what the package needs is written nowhere: it is neither installed nor run from a checkout.
    """
    return {
        "dat": __version__,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "packages": dict(_packages()),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().available / GIB, 1),
        "disk_free_gib": round(shutil.disk_usage(Path.cwd()).free / GIB, 1),
        "shared_memory_gib": _shared_memory(),
        "devices": _devices(),
    }


def missing(found: dict[str, Any]) -> list[str]:
    """Packages that are not there or too old."""
    return [name for name, state in found["packages"].items() if not state["good"]]


def as_text(found: dict[str, Any]) -> str:
    """The findings, a line each, and what to do about them."""
    lines = [
        f"dat {found['dat']}, Python {found['python']} on {found['system']}",
        f"{found['cores']} cores, {found['memory_gib']} GiB memory free, {found['disk_free_gib']} GiB disk free here, "
        f"{found['shared_memory_gib']} GiB shared memory for data workers",
    ]
    lines += [f"device: {device}" for device in found["devices"]]
    for name, state in found["packages"].items():
        note = "" if state["good"] else f"  <- needs {state['needs']}"
        lines.append(f"{name} {state['version'] or 'missing'}{note}")
    if absent := missing(found):
        lines.append(f"Install what is missing: {sys.executable} -m pip install --upgrade {' '.join(absent)}")
    else:
        lines.append("All that is needed is here. Try: dat demo")
    return "\n".join(lines)


def _packages() -> list[tuple[str, dict[str, Any]]]:
    states = []
    for text in _needs():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            installed = None
        good = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        states.append((requirement.name, {"version": installed, "needs": str(requirement.specifier), "good": good}))
    return states


def _needs() -> list[str]:
    """Requirements of the package as it is installed, else as its checkout has them."""
    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        if PROJECT.is_file():
            return tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
        raise DatError(
            f"{DISTRIBUTION} is not installed, and there is no {PROJECT}, so that what it needs is not known; install it from "
            f"its checkout: {sys.executable} -m pip install FOLDER."
        ) from None


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    devices = [f"cpu, {torch.get_num_threads()} threads, bf16 {'in hardware' if _has_bf16() else 'emulated, and slow'}"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} {properties.name}, {properties.total_memory / GIB:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _has_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def _shared_memory() -> float | None:
    path = Path("/dev/shm")
    return round(shutil.disk_usage(path).free / GIB, 1) if path.is_dir() else None
