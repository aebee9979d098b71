"""The PatchGAN discriminator in the key layout of taming-transformers.

Source: Isola et al. (2017); CompVis/taming-transformers:taming/modules/discriminator/model.py.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from dat.errors import UsageError
from dat.types import Images

PatchLogits = Float[Tensor, "batch 1 rows columns"]


class PatchDiscriminator(nn.Module):
    """One logit per patch: high for real, low for reconstructed; keys `main.*`.

    `layers` convolutions of stride 2, the first with `width` channels, doubling up to 8 times; two of stride 1 follow.
    Weights start from N(0, 0.02), norm scales from N(1, 0.02). Images need 6 pixels a side with one layer, 24 with three.
    """

    def __init__(self, *, layers: int = 3, width: int = 64) -> None:
        super().__init__()
        if layers < 1:
            raise UsageError(f"A patch discriminator with {layers} layers does not exist; give 1 or more (3 is usual).")
        self.layers = layers
        widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
        self.main = nn.Sequential(nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True))
        for layer in range(1, layers + 1):
            stride = 2 if layer < layers else 1
            self.main.append(nn.Conv2d(widths[layer - 1], widths[layer], 4, stride=stride, padding=1, bias=False))
            self.main.append(nn.BatchNorm2d(widths[layer]))
            self.main.append(nn.LeakyReLU(0.2, inplace=True))
        self.main.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.apply(_initialise)

    def forward(self, images: Images) -> PatchLogits:
        """Logits of the patches of images in [-1, 1].

        Raises:
            UsageError: the images are smaller than one patch.
        """
        check_patch_size((images.shape[-2], images.shape[-1]), self.layers)
        return self.main(images)


def check_patch_size(size: tuple[int, int], layers: int) -> None:
    """Refuse images of this height and width where they are smaller than one patch.

    Raises:
        UsageError: the size, and what is needed.
    """
    if min(size) < smallest_side(layers):
        raise UsageError(
            f"Images of {size[0]}x{size[1]} are too small for this patch discriminator, which needs "
            f"{smallest_side(layers)} pixels a side; use fewer layers."
        )


def smallest_side(layers: int) -> int:
    """Fewest pixels a side from which a discriminator of that many layers gets a logit."""
    # Each stride-1 convolution takes one pixel away, so 3 must reach them; each stride-2 one halves, rounding down.
    return 3 * 2**layers


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
