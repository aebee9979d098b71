"""What is compared with: the discretizer and the training step as one writes them down, and as official code does."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dat.discretizers.networks.vqgan import GROUPS, VQGAN
from dat.types import Batch, Codes, Discretizer, Images, Latents


class Straightforward:
    """What is compared with: public weights by their keys, evaluated as one writes it down and as official code does.

    NCHW, nothing in place, the whole attention and the whole N x K matrix of distances in memory.
    """

    def __init__(self, network: VQGAN) -> None:
        self.config = network.config
        self.codebook_size, self.stride = network.codebook_size, network.stride
        self.weights = {key: value.detach().float().contiguous() for key, value in network.state_dict().items()}

    def __call__(self, images: Images) -> Images:
        """`Q(x)`."""
        return self.decode(self.encode(images))

    @torch.no_grad()
    def encode(self, images: Images) -> Codes:
        """Codes by the full matrix of squared distances."""
        latents = self.latents(2 * images - 1)
        vectors, codebook = latents.permute(0, 2, 3, 1).flatten(0, 2), self.weights["quantize.embedding.weight"]
        squares = vectors.square().sum(1, keepdim=True) + codebook.square().sum(1)
        return (squares - 2 * vectors @ codebook.T).argmin(1).view(len(images), *latents.shape[2:])

    @torch.no_grad()
    def decode(self, codes: Codes) -> Images:
        """Images in [0, 1]."""
        vectors = self.weights["quantize.embedding.weight"][codes].permute(0, 3, 1, 2).contiguous()
        x = self.conv(self.conv(vectors, "post_quant_conv"), "decoder.conv_in", padding=1)
        x = self.middle(x, "decoder.mid")
        for level in reversed(range(len(self.config.ch_mult))):
            x = self.blocks(x, f"decoder.up.{level}", self.config.num_res_blocks + 1)
            if level > 0:
                x = self.conv(F.interpolate(x, scale_factor=2.0), f"decoder.up.{level}.upsample.conv", padding=1)
        x = self.conv(silu(self.norm(x, "decoder.norm_out")), "decoder.conv_out", padding=1)
        return (torch.clamp(x, -1.0, 1.0) + 1) / 2

    def latents(self, x: Tensor) -> Latents:
        """What the codes are searched for."""
        x = self.conv(x, "encoder.conv_in", padding=1)
        for level in range(len(self.config.ch_mult)):
            x = self.blocks(x, f"encoder.down.{level}", self.config.num_res_blocks)
            if level < len(self.config.ch_mult) - 1:
                x = self.conv(F.pad(x, (0, 1, 0, 1)), f"encoder.down.{level}.downsample.conv", stride=2)
        x = silu(self.norm(self.middle(x, "encoder.mid"), "encoder.norm_out"))
        return self.conv(self.conv(x, "encoder.conv_out", padding=1), "quant_conv")

    def middle(self, x: Tensor, key: str) -> Tensor:
        """The blocks at the lowest resolution."""
        x = self.attention(self.residual(x, f"{key}.block_1"), f"{key}.attn_1")
        return self.residual(x, f"{key}.block_2")

    def blocks(self, x: Tensor, key: str, count: int) -> Tensor:
        """The residual blocks of one level."""
        for block in range(count):
            x = self.attention(self.residual(x, f"{key}.block.{block}"), f"{key}.attn.{block}")
        return x

    def residual(self, x: Tensor, key: str) -> Tensor:
        """Norm, activation and convolution, twice, and the shortcut."""
        hidden = self.conv(silu(self.norm(x, f"{key}.norm1")), f"{key}.conv1", padding=1)
        hidden = self.conv(silu(self.norm(hidden, f"{key}.norm2")), f"{key}.conv2", padding=1)
        widens = f"{key}.nin_shortcut.weight" in self.weights
        return (self.conv(x, f"{key}.nin_shortcut") if widens else x) + hidden

    def attention(self, x: Tensor, key: str) -> Tensor:
        """Attention over all positions, where the weights have one."""
        if f"{key}.norm.weight" not in self.weights:
            return x
        normed = self.norm(x, f"{key}.norm")
        query, key_, value = (self.conv(normed, f"{key}.{part}").flatten(2) for part in "qkv")
        weights = torch.softmax(torch.bmm(query.mT, key_) * query.shape[1] ** -0.5, dim=2)
        return x + self.conv(torch.bmm(value, weights.mT).view_as(x), f"{key}.proj_out")

    def norm(self, x: Tensor, key: str) -> Tensor:
        """Group norm by the weights of `key`."""
        return F.group_norm(x, GROUPS, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"], eps=1e-6)

    def conv(self, x: Tensor, key: str, *, stride: int = 1, padding: int = 0) -> Tensor:
        """Convolution by the weights of `key`."""
        return F.conv2d(x, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"], stride, padding)


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid, as official code writes it."""
    return x * torch.sigmoid(x)


def official_step(model: nn.Module, discretizer: Discretizer, batch: Batch, *, radius: float = 0.1) -> Callable[[], Tensor]:
    """One optimizer step of the released program (ViT, 8 GPUs) in float32, for integer targets.

    The attack's backward pass also reaches the weights, and one forward pass after it is not used.

    Source: `alibaba/easyrobust:examples/imageclassification/imagenet/dat/main.py`, `easyrobust/attacks/pgd.py`.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, targets = batch.images, batch.targets

    def attacked(start: Images) -> Images:
        noise = torch.randn_like(start)
        shifted = (start + radius * per_picture(noise)).clamp(0, 1).requires_grad_()
        F.cross_entropy(model(shifted), targets).backward()
        delta = shifted.detach() + radius * per_picture(shifted.grad) - start
        delta = delta.renorm(2, 0, radius)
        moved = (start + delta).clamp(0, 1)
        model(moved)
        return moved

    def step() -> Tensor:
        loss = F.cross_entropy(model(images), targets)
        moved = attacked(discretizer(images))
        loss = loss + F.cross_entropy(model(discretizer(moved)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def per_picture(values: Tensor | None) -> Tensor:
    """Each picture of length 1."""
    assert values is not None
    return values / (torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True) + 1e-10)
