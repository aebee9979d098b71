"""The public key layouts: which one a file has, and the network that is made of its tensors.

A layout is one file with a builder, and one line of `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dat.discretizers.autoencoder import Autoencoder
from dat.discretizers.networks.dalle import build_dalle
from dat.discretizers.networks.diffusers import build_diffusers
from dat.discretizers.networks.emu3 import build_emu3
from dat.discretizers.networks.fast import build_fast
from dat.discretizers.networks.janus import build_janus
from dat.discretizers.networks.llamagen import build_llamagen
from dat.discretizers.networks.magvit2 import build_magvit2
from dat.discretizers.networks.maskgit import build_maskgit
from dat.discretizers.networks.simvq import build_simvq
from dat.discretizers.networks.taming import build_gumbel, build_ibq, build_taming, refuse_undecided
from dat.discretizers.networks.titok import build_titok
from dat.discretizers.networks.var import build_var
from dat.discretizers.networks.vqvae import build_vqvae
from dat.errors import CheckpointError, UsageError

Tensors = Mapping[str, Tensor]
Builder = Callable[[Tensors, Mapping[str, Any] | None, str], Autoencoder]


@dataclass(frozen=True)
class Layout:
    """A public key layout. It is that of a file where each of `parts` begins some key, and, if there are `settings`, of a
    configuration with one. Parts, not whole keys: of a file that lacks a tensor, the right layout says so.

    `build` makes the network of tensors, their configuration (None: it is read off the tensors) and the file's name.
    `check` refuses a file that only a configuration could tell from one of another layout.
    """

    build: Builder
    parts: tuple[str, ...]
    settings: tuple[str, ...] = ()
    check: Callable[[Tensors, str], None] | None = None

    def fits(self, tensors: Tensors, config: Mapping[str, Any] | None) -> bool:
        """Whether a file is of this layout, as far as keys and settings tell."""
        told = not self.settings or any(setting in (config or {}) for setting in self.settings)
        return told and all(any(key.startswith(part) for key in tensors) for part in self.parts)


# The first that fits is taken, so a layout stands before those whose parts it has, too.
LAYOUTS = {
    "fast": Layout(build_fast, ("encoder.1.mix.", "decoder.1.mix.")),
    "dalle": Layout(build_dalle, ("encoder.blocks.", "decoder.blocks.")),
    "vqvae": Layout(build_vqvae, ("encoder._blocks.", "decoder._blocks.")),
    "titok": Layout(build_titok, ("encoder.transformer.", "decoder.transformer.")),
    "llamagen": Layout(build_llamagen, ("encoder.conv_blocks.",)),
    "maskgit": Layout(build_maskgit, ("encoder.mid.0.", "encoder.down.")),
    "diffusers": Layout(build_diffusers, ("encoder.down_blocks.", "decoder.up_blocks.")),
    "lfq": Layout(build_magvit2, ("decoder.adaptive.",)),
    "emu3": Layout(build_emu3, ("encoder.down_block.", "decoder.up_block.")),
    "simvq": Layout(build_simvq, ("quantize.embedding_proj.",)),
    "var": Layout(build_var, ("quantize.quant_resi.",)),
    "gumbel": Layout(build_gumbel, ("quantize.proj.",)),
    "ibq": Layout(build_ibq, ("quantize.embedding.",), settings=("l2_normalize", "use_entropy_loss")),
    "janus": Layout(build_janus, ("quantize.embedding.",), settings=("channel_multiplier",)),
    "vqgan": Layout(build_taming, ("quantize.embedding.",), check=refuse_undecided),
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
            if layout.check is not None and not config:
                layout.check(tensors, name)
            return layout_name
    first = ", ".join(sorted(tensors)[:3])
    raise CheckpointError(
        f"{name} holds no discretizer of a known layout ({', '.join(LAYOUTS)}); its first tensors are {first}. "
        'If it is one of these all the same, say which: config={"layout": ...}.'
    )
