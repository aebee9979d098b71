"""DrViT: a vision transformer that reads visual words beside pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.layers.norm import LayerNorm
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from dat.errors import UsageError
from dat.types import Discretizer, Logits, Vectors

Pixels = Float[Tensor, "batch 3 height width"]
Tokens = Float[Tensor, "batch tokens depth"]
Features = Float[Tensor, "batch depth"]

SIZES: Mapping[str, Mapping[str, int]] = {
    "drvit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "drvit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "drvit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
"""Source: alibaba/easyrobust:easyrobust/models/drvit.py."""


@dataclass(frozen=True)
class VisualWords:
    """A frozen discretizer with the vectors of its codebook, `vectors[code]` for each code.

    Copies of a network that holds it share it: it never changes.

    Raises:
        UsageError: not one vector per code.
    """

    discretizer: Discretizer
    vectors: Vectors

    def __post_init__(self) -> None:
        count = self.discretizer.codebook_size
        if len(self.vectors) != count:
            raise UsageError(f"The discretizer has {count} codes, but {len(self.vectors)} vectors are given; give one of each.")

    def __deepcopy__(self, memo: dict[int, Any]) -> VisualWords:
        return self


class DrViT(nn.Module):
    """A vision transformer whose tokens are a patch of pixels joined, channel after channel, to the vector of its visual word.

    The codes of the words come from the frozen discretizer, whose parameters are not the network's: they are in no optimizer
    and no state dict, stay in evaluation mode, and pass no gradient to the images. The vectors begin as the discretizer's
    codebook and are trained. Images come normalised by mean 0.5 and deviation 0.5, i.e. in [-1, 1] (`mean`, `std`); the
    discretizer gets them in [0, 1] and refuses what is clearly outside, as with another normalisation.

    Each forward pass costs one encoding by the discretizer. Layer decay and the parameters without weight decay are those of
    timm's vision transformer; the codebook belongs to the stem and decays.

    Source: Mao et al., "Discrete Representations Strengthen Vision Transformer Robustness", ICLR 2022;
    alibaba/easyrobust:easyrobust/models/drvit.py. That code looks for the nearest among the trained vectors, so that a word's
    code may change in training; here, as in the paper, the discretizer is fixed, and only what its codes mean is trained.

    Raises:
        UsageError: the patches are not the size of the discretizer's, do not divide the image, or leave no room for pixels.
    """

    mean = std = (0.5, 0.5, 0.5)

    def __init__(
        self,
        words: VisualWords,
        *,
        num_classes: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        img_size: int = 224,
        patch_size: int = 16,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check(words, embed_dim, img_size, patch_size)
        self.words, self.img_size = words, img_size
        self.codebook = nn.Parameter(words.vectors.detach().float().clone())
        self.patch_embed = PatchEmbed(img_size, patch_size, embed_dim=embed_dim - words.vectors.shape[1])
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1, embed_dim))
        rates = [drop_path_rate * number / max(depth - 1, 1) for number in range(depth)]
        self.blocks = nn.Sequential(
            *(Block(embed_dim, num_heads, qkv_bias=True, drop_path=rate, norm_layer=LayerNorm) for rate in rates)
        )
        self.norm = LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self._initialise()

    def forward(self, pixels: Pixels) -> Logits:
        """Logits of images in [-1, 1] of the side `img_size`.

        Raises:
            UsageError: images of another size, or out of that range; or the discretizer gives no grid of codes.
        """
        return self.head(self.features(pixels))

    def features(self, pixels: Pixels) -> Features:
        """Normalised mean of the tokens of all patches, without the class token."""
        if pixels.shape[-2:] != (self.img_size, self.img_size):
            size = f"{pixels.shape[-2]} x {pixels.shape[-1]}"
            raise UsageError(f"Images are {size} pixels, but this DrViT was made for {self.img_size}; set its img_size.")
        tokens = torch.cat([self.patch_embed(pixels), self._word_vectors(pixels)], dim=2)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.pos_embed
        return self.norm(self.blocks(tokens)[:, 1:].mean(dim=1))

    def no_weight_decay(self) -> set[str]:
        """Names of matrices without weight decay, as timm's optimizers ask for them."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the layers from the stem upwards, as timm's layer decay asks for them."""
        stem = r"^cls_token|pos_embed|patch_embed|codebook"
        return {"stem": stem, "blocks": r"^blocks" if coarse else [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}

    def _word_vectors(self, pixels: Pixels) -> Tokens:
        """The vector of the visual word of each patch, row by row."""
        discretizer = self.words.discretizer
        if isinstance(discretizer, nn.Module):  # no part of this network, so `.to` of it does not reach
            discretizer.to(pixels.device)
        codes = discretizer.encode((pixels.detach() + 1) / 2)
        grid, patches = (" x ".join(map(str, shape)) for shape in (codes.shape[1:], self.patch_embed.grid_size))
        if grid != patches:
            raise UsageError(
                f"The discretizer gives {grid} codes where DrViT has {patches} patches; take one with such a grid."
            )
        return self.codebook[codes.flatten(1)]

    def _initialise(self) -> None:
        """The initial weights of timm's vision transformer, with a head of zeros.

        Source: huggingface/pytorch-image-models (timm 0.5.4, which the reference used):timm/models/vision_transformer.py.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.zeros_(self.head.weight)


def drvit(name: str, words: VisualWords, *, num_classes: int, options: Mapping[str, Any]) -> DrViT:
    """A DrViT of one of the `SIZES`; `options` are those of `DrViT`.

    Raises:
        UsageError: see `DrViT`.
    """
    return DrViT(words, num_classes=num_classes, **{**SIZES[name], **options})


def _check(words: VisualWords, embed_dim: int, img_size: int, patch_size: int) -> None:
    stride, depth = words.discretizer.stride, words.vectors.shape[1]
    if stride != patch_size:
        raise UsageError(
            f"The discretizer writes one code per {stride} x {stride} pixels, but patch_size is {patch_size}; "
            f"write patch_size: {stride}, or take a discretizer of stride {patch_size}."
        )
    if img_size % patch_size:
        raise UsageError(f"img_size is {img_size}; write a multiple of patch_size, {patch_size}.")
    if embed_dim <= depth:
        raise UsageError(f"embed_dim is {embed_dim}, of which the words take {depth}; write a multiple of num_heads above it.")
