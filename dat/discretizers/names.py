"""Discretizers by name: a closed table of the public ones, and our own that come with the package.

Knows where their files lie on this machine; downloads nothing, and reads no weights.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from dat.errors import CheckpointError, UsageError, did_you_mean


@dataclass(frozen=True)
class PublicDiscretizer:
    """A published discretizer, and where its file comes from.

    `file`: what it is called in the folder of weights; with several `urls` it is a folder there. `member`: what is taken
    out of a zip. `licence` is that of the `page`; none states another for its weights. `stride`: pixels per
    code along each side. `image_size`, `tokens`: the only size, and codes of it, where there is no grid. `sha256`: of what
    each url gives, where its publisher states it. `config`: the public settings that tensors cannot tell.
    """

    name: str
    layout: str
    file: str
    urls: tuple[str, ...]
    page: str
    licence: str
    stride: int
    codebook_size: int
    remark: str
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    image_size: int | None = None
    tokens: int | None = None
    member: str | None = None
    size: str = "size not stated"
    sha256: tuple[str | None, ...] = (None,)
    config: Mapping[str, Any] = field(default_factory=dict)


def _taming(name: str, layout: str, stride: int, codes: int, folder: str, size: str, remark: str) -> PublicDiscretizer:
    url = f"https://heibox.uni-heidelberg.de/d/{folder}/files/?p=%2Fckpts%2Flast.ckpt&dl=1"
    page = "https://github.com/CompVis/taming-transformers"
    return PublicDiscretizer(name, layout, f"{name}.ckpt", (url,), page, "MIT", stride, codes, remark, size=size)


def _ldm(name: str, stride: int, codes: int, remark: str) -> PublicDiscretizer:
    url = f"https://ommer-lab.com/files/latent-diffusion/{name.removeprefix('ldm-')}.zip"
    page = "https://github.com/CompVis/latent-diffusion"
    return PublicDiscretizer(name, "vqgan", f"{name}.ckpt", (url,), page, "MIT", stride, codes, remark, member="model.ckpt")


def _llamagen(stride: int, size: str, remark: str) -> PublicDiscretizer:
    name, url = f"llamagen-vq-{stride}", f"https://huggingface.co/FoundationVision/LlamaGen/resolve/main/vq_ds{stride}_c2i.pt"
    page = "https://github.com/FoundationVision/LlamaGen"
    return PublicDiscretizer(name, "llamagen", f"{name}.pt", (url,), page, "MIT", stride, 16384, remark, size=size)


def _titok(letter: str, tokens: int, remark: str) -> PublicDiscretizer:
    name, file = f"titok-{letter}-{tokens}", f"tokenizer_titok_{letter}{tokens}.bin"
    row = _of_1d_tokenizer(name, "titok", 4096, file, remark)
    return replace(row, image_size=256, tokens=tokens)


def _of_1d_tokenizer(name: str, layout: str, codes: int, file: str, remark: str) -> PublicDiscretizer:
    url = f"https://huggingface.co/fun-research/TiTok/resolve/main/{file}"
    page = "https://github.com/bytedance/1d-tokenizer"
    row = PublicDiscretizer(name, layout, f"{name}.bin", (url,), page, "Apache-2.0", 16, codes, remark)
    return replace(row, pixel_range=(0.0, 1.0))


def _open_magvit2(name: str, stride: int, codes: int, repository: str, file: str, remark: str) -> PublicDiscretizer:
    return _of_seed_voken(f"open-magvit2-{name}", "lfq", stride, codes, f"Open-MAGVIT2-Tokenizer-{repository}", file, remark)


def _ibq(codes: int, remark: str) -> PublicDiscretizer:
    return _of_seed_voken(f"ibq-{codes}", "ibq", 16, codes, f"IBQ-Tokenizer-{codes}", f"imagenet256_{codes}.ckpt", remark)


def _ibq_pretrain(codes: int, remark: str) -> PublicDiscretizer:
    repository, file = f"IBQ-Tokenizer-{codes}-Pretrain", f"IBQ_pretrain_{codes}.ckpt"
    return _of_seed_voken(f"ibq-pretrain-{codes}", "ibq", 16, codes, repository, file, remark)


def _of_seed_voken(
    name: str, layout: str, stride: int, codes: int, repository: str, file: str, remark: str
) -> PublicDiscretizer:
    url = f"https://huggingface.co/TencentARC/{repository}/resolve/main/{file}"
    page = "https://github.com/TencentARC/SEED-Voken"
    return PublicDiscretizer(name, layout, f"{name}.ckpt", (url,), page, "Apache-2.0", stride, codes, remark)


def _vq_model(
    name: str, repository: str, file: str, licence: str, size: str, remark: str, config: Mapping[str, Any]
) -> PublicDiscretizer:
    """A `VQModel` of diffusers, with its config.json."""
    page, end = f"https://huggingface.co/{repository}", PurePosixPath(file).suffix
    url, stride, codes = (
        f"{page}/resolve/main/{file}",
        2 ** (len(config["block_out_channels"]) - 1),
        config["num_vq_embeddings"],
    )
    row = PublicDiscretizer(name, "diffusers", f"{name}-vqvae{end}", (url,), page, licence, stride, codes, remark, size=size)
    return replace(row, config=config)


_ITHQ = {
    "block_out_channels": [64, 128, 256, 512],
    "down_block_types": [*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3],
    "latent_channels": 256,
    "layers_per_block": 2,
    "num_vq_embeddings": 4096,
    "vq_embed_dim": 128,
}
_AMUSED = {
    "block_out_channels": [128, 256, 256, 512, 768],
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "latent_channels": 64,
    "layers_per_block": 2,
    "num_vq_embeddings": 8192,
    "mid_block_add_attention": False,
}

_VAR = PublicDiscretizer(
    name="var-vqvae",
    layout="var",
    file="var-vqvae.pth",
    urls=("https://huggingface.co/FoundationVision/var/resolve/main/vae_ch160v4096z32.pth",),
    page="https://github.com/FoundationVision/VAR",
    licence="MIT",
    stride=16,
    codebook_size=4096,
    remark="not looked up; codes on ten scales",
    image_size=256,
    tokens=680,
)
_SIMVQ = PublicDiscretizer(
    name="simvq-262144",
    layout="simvq",
    file="simvq-262144.ckpt",
    urls=("https://huggingface.co/zyx123/SimVQ/resolve/main/vq_log/simvq_262k/epoch=49-step=250250.ckpt",),
    page="https://github.com/youngsheen/SimVQ",
    licence="MIT",
    stride=8,
    codebook_size=2**18,
    remark="ImageNet at 128 px, rFID 1.99",
)

_DALLE = PublicDiscretizer(
    name="dalle-dvae",
    layout="dalle",
    file="dalle-dvae",
    urls=("https://cdn.openai.com/dall-e/encoder.pkl", "https://cdn.openai.com/dall-e/decoder.pkl"),
    page="https://github.com/openai/DALL-E",
    licence="Modified MIT",
    stride=8,
    codebook_size=8192,
    remark="pictures of the web",
    pixel_range=(0.1, 0.9),
    sha256=(None, None),
)

# rFID, sizes and licences as the pages say (sizes of taming's files: scripts of others); no page states a hash.
_ROWS = (
    _taming("taming-imagenet-f16-1024", "vqgan", 16, 1024, "8088892a516d4e3baf92", "958 MB", "ImageNet, rFID 7.94"),
    _taming("taming-imagenet-f16-16384", "vqgan", 16, 16384, "a7530b09fed84f80a887", "980 MB", "ImageNet, rFID 4.98"),
    _taming("taming-openimages-gumbel-f8-8192", "gumbel", 8, 8192, "2e5662443a6b4307b470", "376 MB", "OpenImages, rFID 1.49"),
    _ldm("ldm-vq-f4", 4, 8192, "OpenImages, rFID 0.58"),
    _ldm("ldm-vq-f4-noattn", 4, 8192, "OpenImages, rFID 1.06; no attention"),
    _ldm("ldm-vq-f8", 8, 16384, "OpenImages, rFID 1.14; the configuration of DAT's official code"),
    _ldm("ldm-vq-f8-n256", 8, 256, "OpenImages, rFID 1.49"),
    _ldm("ldm-vq-f16", 16, 16384, "OpenImages, rFID 5.15"),
    _DALLE,
    _llamagen(8, "70 M parameters", "ImageNet, rFID 0.59"),
    _llamagen(16, "72 M parameters", "ImageNet, rFID 2.19"),
    _of_1d_tokenizer("maskgit-vqgan-imagenet-f16", "maskgit", 1024, "maskgit-vqgan-imagenet-f16-256.bin", "ImageNet"),
    _titok("l", 32, "ImageNet, rFID 2.21; for research only"),
    _titok("b", 64, "ImageNet, rFID 1.70; for research only"),
    _titok("s", 128, "ImageNet, rFID 1.71; for research only"),
    _open_magvit2("128", 8, 2**18, "128-resolution", "imagenet_128_L.ckpt", "ImageNet at 128 px, rFID 1.18"),
    _open_magvit2("256", 16, 2**18, "256-resolution", "imagenet_256_L.ckpt", "ImageNet, rFID 1.17"),
    _open_magvit2("pretrain-16384", 16, 2**14, "16384-Pretrain", "pretrain256_16384.ckpt", "100 M images, rFID 2.55"),
    _open_magvit2("pretrain-262144", 16, 2**18, "262144-Pretrain", "pretrain256_262144.ckpt", "100 M images, rFID 1.67"),
    _ibq(1024, "ImageNet, rFID 2.24"),
    _ibq(8192, "ImageNet, rFID 1.87"),
    _ibq(16384, "ImageNet, rFID 1.37"),
    _ibq(262144, "ImageNet, rFID 1.00"),
    _ibq_pretrain(16384, "200 M images, rFID 2.06"),
    _ibq_pretrain(262144, "200 M images, rFID 1.53"),
    _vq_model(
        *("vq-diffusion-ithq", "microsoft/vq-diffusion-ithq", "vqvae/diffusion_pytorch_model.bin", "MIT"),
        *("size not stated", "ITHQ", _ITHQ),
    ),
    _vq_model(
        *("amused-512", "amused/amused-512", "vqvae/diffusion_pytorch_model.safetensors", "openrail++"),
        *("585 MB", "not looked up; no attention", _AMUSED),
    ),
    _VAR,
    _SIMVQ,
)
PUBLIC = {row.name: row for row in _ROWS}

_PACKAGE = Path(__file__).parent.parent
SHIPPED = next((folder for folder in (_PACKAGE / "weights", _PACKAGE.parent / "weights") if folder.is_dir()), None)
"""The folder of our own weights: in the installed package, or beside it in a checkout."""


def shipped() -> dict[str, Path]:
    """Our own weights that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))} if SHIPPED else {}


def cache_folder() -> Path:
    """Where downloaded weights lie: the environment variable DAT_WEIGHTS, else `dat` in the folder of `torch.hub`."""
    return Path(os.environ.get("DAT_WEIGHTS") or Path(torch.hub.get_dir()) / "dat")


def files(row: PublicDiscretizer) -> list[Path]:
    """Where each url of a public discretizer belongs on this machine, unpacked."""
    path = cache_folder() / row.file
    return [path] if len(row.urls) == 1 else [path / PurePosixPath(url).name for url in row.urls]


def stored(row: PublicDiscretizer) -> Path | None:
    """The file of a public discretizer (the folder of several) that is on this machine; `NAME.safetensors` goes first."""
    converted = cache_folder() / f"{row.name}.safetensors"
    if converted.is_file():
        return converted
    return cache_folder() / row.file if all(path.is_file() for path in files(row)) else None


def public(name: str) -> PublicDiscretizer:
    """The row of a public discretizer.

    Raises:
        UsageError: there is none of that name, and near ones are suggested; or it is one of ours, which is here already.
    """
    if name in PUBLIC:
        return PUBLIC[name]
    if name in shipped():
        raise UsageError(f"{name} comes with the package: nothing is downloaded, its file is {shipped()[name]}.")
    raise UsageError(f"There is no public discretizer {name!r}; {_near(name)}`dat discretizer list` shows all of them.")


def locate(source: str | Path) -> tuple[Path, Mapping[str, Any] | None]:
    """The path of a discretizer, and the configuration that its name tells (None: the file itself will tell).

    `source` is a path, or, where nothing lies there, a name: of our own weights, or of the public table.

    Raises:
        CheckpointError: there is neither; or the public file is not on this machine, and then how to get it.
    """
    path, name = Path(source), str(source)
    if path.exists():
        return path, None
    if name in shipped():
        return shipped()[name], None
    if name not in PUBLIC:
        raise CheckpointError(
            f"There is no weight file at {path}; {_near(name)}give the path of a .safetensors or torch file, "
            "or a name that `dat discretizer list` shows."
        )
    row = PUBLIC[name]
    if (found := stored(row)) is None:
        raise CheckpointError(
            f"The weights of {name} ({row.page}, licence {row.licence}, {row.size}) are not in {cache_folder()}; "
            f"`dat discretizer get {name}` downloads them."
        )
    return found, None if found.name == f"{name}.safetensors" else {"layout": row.layout, **row.config}


def _near(name: str) -> str:
    return did_you_mean(difflib.get_close_matches(name, [*PUBLIC, *shipped()], n=1))
