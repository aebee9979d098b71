"""The public key layouts: which one a file has, and the network that is made of its tensors.

A layout is one file with a builder, and one line of `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.taming import build_taming
from dat.errors import CheckpointError, UsageError

Tensors = Mapping[str, Tensor]
Builder = Callable[[Tensors, Mapping[str, Any] | None, str], Autoencoder]


@dataclass(frozen=True)
class Layout:
    """A public key layout. It is that of a file with all `keys`, and, if there are `settings`, a configuration with one.

    `build` makes the network of tensors, their configuration (None: it is read off the tensors) and the file's name.
    """

    build: Builder
    keys: tuple[str, ...]
    settings: tuple[str, ...] = ()

    def fits(self, tensors: Tensors, config: Mapping[str, Any] | None) -> bool:
        """Whether a file is of this layout, as far as keys and settings tell."""
        told = not self.settings or any(setting in (config or {}) for setting in self.settings)
        return told and all(key in tensors for key in self.keys)


# The first that fits is taken, so a layout stands before those whose keys it has, too.
LAYOUTS = {
    "vqgan": Layout(build_taming, ("quantize.embedding.weight",)),
}


def build(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> Autoencoder:
    """The network of these tensors. `config` may name its layout, `{"layout": ...}`, alone or beside the public settings.

    Raises:
        CheckpointError: no layout has these keys, or the tensors are not those of the network.
        UsageError: `config` names no layout, or does not fit it.
    """
    settings = {key: value for key, value in (config or {}).items() if key != "layout"}
    chosen = (config or {}).get("layout") or _recognised(tensors, config, name)
    if chosen not in LAYOUTS:
        raise UsageError(f"There is no layout {chosen!r} of discretizers; write one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[chosen].build(tensors, settings or None, name)


def _recognised(tensors: Tensors, config: Mapping[str, Any] | None, name: str) -> str:
    for layout_name, layout in LAYOUTS.items():
        if layout.fits(tensors, config):
            return layout_name
    first = ", ".join(sorted(tensors)[:3])
    raise CheckpointError(
        f"{name} holds no discretizer of a known layout ({', '.join(LAYOUTS)}); its first tensors are {first}. "
        'If it is one of these all the same, say which: config={"layout": ...}.'
    )
