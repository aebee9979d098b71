"""Which layout a file has: told by parts of keys, so that a file which lacks a tensor is still known for what it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dat.discretizers import layouts
from dat.discretizers.networks.dalle import DalleConfig, DalleDVAE
from dat.discretizers.networks.diffusers import public_name
from dat.discretizers.networks.emu3 import Emu3, Emu3Config
from dat.discretizers.networks.fast import FastAutoencoder, FastConfig
from dat.discretizers.networks.janus import Janus, JanusConfig
from dat.discretizers.networks.llamagen import LlamaGen, LlamaGenConfig
from dat.discretizers.networks.magvit2 import MAGVIT2, MAGVIT2Config
from dat.discretizers.networks.maskgit import MaskGIT, MaskGITConfig
from dat.discretizers.networks.simvq import SimVQ, SimVQConfig
from dat.discretizers.networks.titok import TiTok, TiTokConfig
from dat.discretizers.networks.var import VAR, VARConfig
from dat.discretizers.networks.vqgan import VQGAN, VQGANConfig
from dat.discretizers.networks.vqvae import VQVAE, VQVAEConfig
from dat.errors import CheckpointError, DatError

SMALL = {"n_embed": 8, "embed_dim": 4, "z_channels": 4, "ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1}
TITOK = TiTokConfig(40, 5, False, "small", "small", 4, 4, 3, 8, is_legacy=False, finetune_decoder=False)
EMU3 = Emu3Config((0.5,) * 3, (0.5,) * 3, 8, base_channels=32, channel_multiplier=(1, 1), attn_resolutions=(), hidden_size=32)
# A network of each layout, a tensor that may be missing from its file, and what its own layout then says.
TABLE: dict[str, tuple[type[nn.Module], object, str, str]] = {
    "fast": (FastAutoencoder, FastConfig(8, 4, 2, width=8), "encoder.1.mix.weight", "a fast discretizer"),
    "dalle": (DalleDVAE, DalleConfig(8, 1, 8, 4, 2), "encoder.blocks.input.w", "no dVAE: it lacks"),
    "vqvae": (VQVAE, VQVAEConfig(8, 4, 8, 1, 4), "vq_vae.codebook.weight", "no VQ-VAE: it lacks"),
    "titok": (TiTok, TITOK, "latent_tokens", "no TiTok: it lacks"),
    "llamagen": (LlamaGen, LlamaGenConfig(8, ch=32), "encoder.conv_blocks.0.res.0.conv1.weight", "no tokenizer of LlamaGen"),
    "maskgit": (MaskGIT, MaskGITConfig(3, 32, (1, 1), 1, 4, 8), "decoder.conv_in.weight", "no VQGAN of MaskGIT"),
    "lfq": (MAGVIT2, MAGVIT2Config(4, 32, (1, 1), 1), "encoder.conv_in.weight", "no Open-MAGVIT2: it lacks"),
    "diffusers": (VQGAN, VQGANConfig(**SMALL), "encoder.conv_in.weight", r"its config\.json"),
    "emu3": (Emu3, EMU3, "encoder.conv_in.weight", "give config.json"),
    "simvq": (SimVQ, SimVQConfig(8, MAGVIT2Config(4, 32, (1, 1), 1)), "encoder.conv_in.weight", "no SimVQ: it lacks"),
    "var": (VAR, VARConfig(8, 4, 32, (1, 1), 1), "encoder.conv_in.weight", "no tokenizer of VAR: it lacks"),
    "janus": (Janus, JanusConfig((0.5,) * 3, (0.5,) * 3, 4, 8, base_channels=32), "encoder.conv_in.weight", "give config.json"),
    "gumbel": (VQGAN, VQGANConfig(**SMALL, quantizer="gumbel"), "quantize.embed.weight", r"quantize\.embed\.weight"),
    "ibq": (VQGAN, VQGANConfig(**SMALL, quantizer="ibq"), "encoder.conv_in.weight", r"encoder\.conv_in\.weight"),
    "vqgan": (VQGAN, VQGANConfig(**SMALL), "encoder.conv_in.weight", r"encoder\.conv_in\.weight"),
}
PUBLIC_NAMES = {
    "dalle": {"quantize.w": "decoder.blocks.input.w", "quantize.b": "decoder.blocks.input.b"},
    "vqvae": {"quantize.embedding.weight": "vq_vae.codebook.weight"},
}


TOLD = ("ibq", "janus")
"""By settings, not by keys."""


def public_tensors(layout: str) -> dict[str, torch.Tensor]:
    create, config, _, _ = TABLE[layout]
    renamed, tensors = PUBLIC_NAMES.get(layout, {}), create(config).state_dict()
    if layout == "diffusers":
        renamed = {key: public_name(key, 2) for key in tensors}
    if layout == "var":
        renamed = {key: key.replace("smooth", "quant_resi.qresi_ls") for key in tensors}
    if layout == "simvq":
        tensors |= {"quantize.embedding_proj.weight": torch.eye(4), "quantize.embedding_proj.bias": torch.zeros(4)}
    return {renamed.get(key, key): value for key, value in tensors.items()}


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(layouts.LAYOUTS)


@pytest.mark.parametrize("layout", [name for name in TABLE if name not in TOLD])
def test_a_file_fits_its_layout_first(layout: str) -> None:
    tensors = public_tensors(layout)
    assert next(name for name, known in layouts.LAYOUTS.items() if known.fits(tensors, None)) == layout


@pytest.mark.parametrize("layout", TABLE)
def test_a_missing_tensor_is_named_by_the_right_layout(layout: str) -> None:
    tensors, (_, _, missing, said) = public_tensors(layout), TABLE[layout]
    del tensors[missing]
    with pytest.raises(DatError, match=said):
        layouts.build(tensors, {"layout": layout} if layout in TOLD else None, "file")


@pytest.mark.parametrize(("layout", "part"), [("lfq", "encoder.mid_block"), ("llamagen", "encoder.conv_blocks.0.res")])
def test_a_huge_number_in_a_key_asks_for_no_huge_network(layout: str, part: str) -> None:
    tensors = public_tensors(layout) | {f"{part}.999999999.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 unexpected .*999999999|2 missing"):
        layouts.build(tensors, None, "file")


def test_a_tensor_without_dimensions_is_no_crash() -> None:
    tensors = public_tensors("vqgan") | {"encoder.conv_out.weight": torch.zeros(())}
    with pytest.raises(CheckpointError, match="not the shapes"):
        layouts.build(tensors, None, "file")
