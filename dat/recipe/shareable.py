"""Settings of a recipe as they may be shown to others: they do not say where things lie on this machine."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any


def without_places(settings: Any) -> Any:
    """The same settings, in which a path from a root, a home or a folder above is its last name alone."""
    if isinstance(settings, dict):
        return {key: without_places(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_places(value) for value in settings]
    return _name(settings) if isinstance(settings, str) and _is_place(settings) else settings


def _is_place(text: str) -> bool:
    windows = PureWindowsPath(text)
    return text.startswith(("/", "~", "\\\\", "file:")) or bool(windows.drive) or ".." in windows.parts


def _name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name or "data"
