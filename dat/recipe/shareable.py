"""Settings of a recipe as they may be shown to others: they do not say where things lie on this machine."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from dat.data.address import HUB, MORE


def without_places(settings: Any) -> Any:
    """The same settings, in which a path from a root, a home or a folder above is its last name alone."""
    if isinstance(settings, dict):
        return {key: without_places(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_places(value) for value in settings]
    return _without_folders(settings) if isinstance(settings, str) else settings


def _without_folders(text: str) -> str:
    """Of pictures that are no class folders, what stands before and after their path stays: `hf:photos::split=train`."""
    path, more, options = text.partition(MORE)
    path, before = path.removeprefix(HUB), HUB if path.startswith(HUB) else ""
    return f"{before}{_name(path)}{more}{options}" if _is_place(path) else text


def _is_place(text: str) -> bool:
    windows = PureWindowsPath(text)
    return text.startswith(("/", "~", "\\\\", "file:")) or bool(windows.drive) or ".." in windows.parts


def _name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name or "data"
