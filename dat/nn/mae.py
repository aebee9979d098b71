"""Masked autoencoders: the network of the pre-training, and their weights in a classifier that is tuned further."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from timm.layers.norm import LayerNorm
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dat.errors import CheckpointError, UsageError
from dat.nn.weights import load_strictly
from dat.types import PerImage

Pixels = Float[Tensor, "batch 3 height width"]
Shown = Float[Tensor, "shown 3 height width"]
Features = Float[Tensor, "batch depth"]
Patches = Float[Tensor, "batch patches values"]
Tokens = Float[Tensor, "batch tokens depth"]
Kept = Float[Tensor, "batch kept depth"]
Noise = Float[Tensor, "batch patches"]
Mask = Float[Tensor, "batch patches"]
Order = Int[Tensor, "batch patches"]
Choice = Int[Tensor, "batch chosen"]
Chosen = Float[Tensor, "batch chosen depth"]
Positions = Float64[Tensor, "positions width"]

SIZES: Mapping[str, Mapping[str, int]] = {
    "mae_base": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "mae_large": {"patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16},
    "mae_huge": {"patch_size": 14, "embed_dim": 1280, "depth": 32, "num_heads": 16},
}
"""Source: facebookresearch/mae:models_mae.py. The classifiers of their weights: timm's vit_base_patch16_224,
vit_large_patch16_224 and vit_huge_patch14_224, with `global_pool: avg`."""


class MaskedAutoencoder(nn.Module):
    """A vision transformer that sees a quarter of the patches, and a small one that predicts the pixels of the others.

    Keys of the weights are those of the published files. Images come normalised, as the classifier will see them.
    Position embeddings are sines and cosines, and not trained.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022; facebookresearch/mae:models_mae.py.

    Raises:
        UsageError: a width or a count is no whole number from 1, heads do not divide a width, the patches do not divide the
            image, or `mask_ratio` leaves no patch, or all.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
    ) -> None:
        super().__init__()
        _check_counts(img_size=img_size, patch_size=patch_size, depth=depth, decoder_depth=decoder_depth)
        _check_widths(embed_dim=embed_dim, num_heads=num_heads)
        _check_widths(decoder_embed_dim=decoder_embed_dim, decoder_num_heads=decoder_num_heads)
        _check(img_size, patch_size, mask_ratio)
        self.patch_size, self.mask_ratio, self.norm_pix = patch_size, mask_ratio, norm_pix
        grid = img_size // patch_size
        self.patch_embed = PatchEmbed(img_size, patch_size, embed_dim=embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = _fixed_positions(embed_dim, grid)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)))
        self.norm = LayerNorm(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = _fixed_positions(decoder_embed_dim, grid)
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder_embed_dim, decoder_num_heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(decoder_depth))
        )
        self.decoder_norm = LayerNorm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * 3)
        self._initialise()

    def forward(self, pixels: Shown, noise: Noise) -> PerImage:
        """One loss per image: squared error of the predicted pixels, over the patches that `noise` hides.

        With `norm_pix` the pixels of each patch are brought to zero mean and unit variance first.
        `noise` is uniform in [0, 1), a number per patch (`random_masking`). The images that are seen may be followed by as
        many others: these are then what is predicted, in place of their own hidden pixels.

        Raises:
            UsageError: there are neither as many images as rows of noise, nor twice as many.
        """
        if len(pixels) not in (len(noise), 2 * len(noise)):
            raise UsageError(f"{len(pixels)} images come with noise for {len(noise)}; give a row of noise for each image.")
        latent, mask, restore = self.encode(pixels[: len(noise)], noise)
        target = patchify(pixels[-len(noise) :], self.patch_size)
        if self.norm_pix:
            target = _normalised(target)[0]
        exact = target.to(torch.promote_types(target.dtype, torch.float32))
        errors = (self.decode(latent, restore) - exact).square().mean(dim=-1)
        return (errors * mask).sum(dim=1) / mask.sum(dim=1)

    def features(self, pixels: Pixels) -> Features:
        """The mean of the latents of all patches, none hidden: what a classifier of `global_pool: avg` begins with."""
        tokens = self.patch_embed(pixels) + self.pos_embed[:, 1:]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(tokens.shape[0], -1, -1)
        return self.norm(self.blocks(torch.cat([first, tokens], dim=1)))[:, 1:].mean(dim=1)

    def reconstruct(self, pixels: Pixels, noise: Noise) -> tuple[Pixels, Mask]:
        """The images with their hidden patches as predicted, and which are hidden (1); with `norm_pix`, in the true scale."""
        latent, mask, restore = self.encode(pixels, noise)
        predicted, own = self.decode(latent, restore), patchify(pixels, self.patch_size)
        if self.norm_pix:
            _, mean, deviation = _normalised(own)
            predicted = predicted * deviation + mean
        return unpatchify(torch.where(mask[..., None] == 1, predicted, own), self.patch_size), mask

    def encode(self, pixels: Pixels, noise: Noise) -> tuple[Kept, Mask, Order]:
        """Latents of the class token and of the patches that are seen; what is hidden (1); where each patch is in the order."""
        tokens = self.patch_embed(pixels) + self.pos_embed[:, 1:]
        seen, mask, restore = random_masking(tokens, noise, mask_ratio=self.mask_ratio)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(seen.shape[0], -1, -1)
        return self.norm(self.blocks(torch.cat([first, seen], dim=1))), mask, restore

    def decode(self, latent: Kept, restore: Order) -> Patches:
        """The pixels of every patch, predicted from the latents of those that were seen."""
        first, seen = self.decoder_embed(latent).split([1, latent.shape[1] - 1], dim=1)
        hidden = self.mask_token.to(seen.dtype).expand(seen.shape[0], restore.shape[1] - seen.shape[1], -1)
        tokens = _gathered(torch.cat([seen, hidden], dim=1), restore)
        decoded = self.decoder_blocks(torch.cat([first, tokens], dim=1) + self.decoder_pos_embed)
        return self.decoder_pred(self.decoder_norm(decoded))[:, 1:]

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)


def patchify(images: Pixels, patch_size: int) -> Patches:
    """Pixels of each patch, row by row, the colours of a pixel side by side."""
    batch, colours, height, width = images.shape
    cut = images.reshape(batch, colours, height // patch_size, patch_size, width // patch_size, patch_size)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch_size**2 * colours)


def unpatchify(patches: Patches, patch_size: int) -> Pixels:
    """Square images of their patches: the inverse of `patchify`."""
    batch, side = len(patches), round(patches.shape[1] ** 0.5)
    cut = patches.reshape(batch, side, side, patch_size, patch_size, 3)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, side * patch_size, side * patch_size)


def random_masking(tokens: Tokens, noise: Noise, *, mask_ratio: float) -> tuple[Kept, Mask, Order]:
    """The tokens of the smallest `noise` in its order, a mask that is 1 for the others, and each token's place in the order."""
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    kept = int(tokens.shape[1] * (1 - mask_ratio))
    return _gathered(tokens, order[:, :kept]), (restore >= kept).to(noise.dtype), restore


def sincos_positions(width: int, grid: int, *, cls_token: bool) -> Positions:
    """Position embedding of a `grid` x `grid` of patches in float64: the column's half, then the row's; sines, then cosines.

    The class token's, which comes first, is zero.

    Raises:
        UsageError: a width that is no multiple of 4.

    Source: facebookresearch/mae:util/pos_embed.py, which says "w goes first".
    """
    if width % 4:
        raise UsageError(f"A width of {width} cannot hold sines and cosines of rows and columns; write a multiple of 4.")
    rates = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    rows, columns = (axis.reshape(-1, 1) * rates for axis in np.mgrid[:grid, :grid].astype(np.float64))
    table = np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), table]) if cls_token else table)


def positions_resampled(positions: Tensor, network: VisionTransformer, name: str) -> Tensor:
    """Learned positions of a file, for the grid of patches of a network, as timm does it.

    Raises:
        CheckpointError: they are those of no square grid.
    """
    before = 0 if network.no_embed_class else network.num_prefix_tokens
    count = positions.shape[1] - before if positions.ndim == 3 else 0
    if count < 1 or round(count**0.5) ** 2 != count:
        raise CheckpointError(f"{name} has positions of shape {tuple(positions.shape)}, which are those of no square grid.")
    return resample_abs_pos_embed(positions, new_size=list(network.patch_embed.grid_size), num_prefix_tokens=before)


def take_mae(network: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Give a classifier the weights of a masked autoencoder: of its pre-training, or already tuned; in place.

    `network` is timm's vision transformer with `global_pool: avg`, whose norm after pooling (`fc_norm`) the pre-training does
    not have. Positions are resampled to the grid of the network, and are trained from then on. A head for other classes, or
    none, becomes a new one, drawn from torch's global stream with a deviation of 2e-5.

    Raises:
        UsageError: the network is another one.
        CheckpointError: they are those of another network; `name` is the file's.

    Source: facebookresearch/mae:main_finetune.py, models_vit.py.
    """
    if not isinstance(network, VisionTransformer) or not {"fc_norm.weight", "cls_token", "head.weight"} <= {
        *network.state_dict()
    }:
        raise UsageError(
            f"The weights of a masked autoencoder do not fit this {type(network).__name__}; take timm's "
            "vit_base_patch16_224, vit_large_patch16_224 or vit_huge_patch14_224 with options: {global_pool: avg}."
        )
    given = _without_decoder(tensors)
    own = network.state_dict()
    if "pos_embed" in given:
        given["pos_embed"] = positions_resampled(given["pos_embed"], network, name)
    new = {key for key in own if key.startswith("fc_norm.") and key not in given}
    if any(key not in given or given[key].shape != own[key].shape for key in ("head.weight", "head.bias")):
        new |= {"head.weight", "head.bias"}
        nn.init.trunc_normal_(own["head.weight"], std=2e-5)  # the parameter's own memory
        nn.init.zeros_(own["head.bias"])
    load_strictly(network, {**given, **{key: own[key] for key in new}}, name=name)


def _without_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the classifier uses: the `norm` of a pre-training came after each token, and is not its `fc_norm`."""
    dropped = ("decoder_", "mask_token") if "fc_norm.weight" in tensors else ("decoder_", "mask_token", "norm.")
    return {key: value.float() for key, value in tensors.items() if not key.startswith(dropped)}


def _normalised(patches: Patches) -> tuple[Patches, Tensor, Tensor]:
    """Each patch at zero mean and unit variance, its mean, and its deviation."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    deviation = (variance + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation


def _fixed_positions(width: int, grid: int) -> nn.Parameter:
    # A parameter, though fixed, because it is one in the published weights and in the classifier that takes them over.
    return nn.Parameter(sincos_positions(width, grid, cls_token=True).float()[None], requires_grad=False)


def _gathered(tokens: Tokens, choice: Choice) -> Chosen:
    return tokens.gather(1, choice[..., None].expand(-1, -1, tokens.shape[2]))


def _check(img_size: int, patch_size: int, mask_ratio: float) -> None:
    if img_size % patch_size:
        raise UsageError(f"patch_size {patch_size} does not divide pictures of {img_size} pixels a side; write one that does.")
    patches = (img_size // patch_size) ** 2
    if not (0 < mask_ratio < 1 and 0 < int(patches * (1 - mask_ratio)) < patches):
        raise UsageError(f"mask_ratio is {mask_ratio} of {patches} patches; write a share that hides some and leaves some.")


def _check_widths(**widths: int) -> None:
    """Of tokens, and by how many heads they are divided."""
    _check_counts(**widths)
    (name, width), (of_heads, heads) = widths.items()
    if width % heads:
        raise UsageError(f"{of_heads} {heads} does not divide {name} {width}; write one that does.")


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            meant = "the side of a patch in pixels" if name == "patch_size" else "a whole number"
            raise UsageError(f"{name} is {value!r}; write {meant}, 1 or more.")
