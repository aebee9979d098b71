"""What a VQGAN is trained for: taming's objective and the paper's, as pure functions.

Nothing here knows of optimizers, loops or data. Images are in [-1, 1].
Source: Esser et al. (2021); CompVis/taming-transformers:taming/modules/losses/vqperceptual.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dat.discretizers.quantizers.nearest import Quantized, vq_loss
from dat.errors import UsageError
from dat.types import Images

Scalar = Float[Tensor, ""]
Logits = Float[Tensor, "..."]
Perceptual = Callable[[Tensor, Tensor], Tensor]
"""How different do two batches of images look? `(batch, 3, height, width)` twice `-> (batch,)`."""


@dataclass(frozen=True)
class GeneratorLoss:
    """The loss to back-propagate, and its parts, detached, for the log."""

    total: Scalar
    parts: dict[str, float | Tensor]


@dataclass(frozen=True)
class VQGANObjective:
    """Weights of the terms. The defaults are taming's; `paper()` gives the DAT paper's.

    `generator_term`: the generator raises the mean logit (taming, with both losses of the discriminator), or lowers
    `log(1 - D)`. `adaptive`: `disc_weight` times `adaptive_weight`, or `disc_weight` alone.
    `disc_start` counts updates of the generator: the adversarial terms are 0 before it. (taming compares it with a counter
    whose meaning depends on the version of its trainer.) `beta` and `legacy`: see `vq_loss`. `entropy_weight`: of the
    quantizer's entropy loss, which makes it use all codes; 0.1 is usual with "lfq", 5e-4 with "gumbel".
    """

    pixel_weight: float = 1.0
    perceptual_weight: float = 1.0
    codebook_weight: float = 1.0
    beta: float = 0.25
    legacy: bool = True
    entropy_weight: float = 0.0
    disc_loss: Literal["hinge", "vanilla"] = "hinge"
    generator_term: Literal["logit", "minimax"] = "logit"
    adaptive: bool = True
    disc_weight: float = 0.8
    disc_factor: float = 1.0
    disc_start: int = 250_001

    def __post_init__(self) -> None:
        if self.disc_loss not in DISCRIMINATOR_LOSSES:
            raise UsageError(f"disc_loss is {self.disc_loss!r}; it must be 'hinge' or 'vanilla'.")
        if self.generator_term not in GENERATOR_TERMS:
            raise UsageError(f"generator_term is {self.generator_term!r}; it must be 'logit' or 'minimax'.")
        if self.pixel_weight <= 0 and self.perceptual_weight <= 0:
            raise UsageError("A VQGAN needs pixel_weight or perceptual_weight above 0; nothing else asks for the image.")

    @classmethod
    def paper(cls, *, disc_start: int = 0) -> VQGANObjective:
        """The DAT paper's formula: perceptual instead of pixel loss, every weight 1, minimax GAN.

        But for two factors: squared distances are means over entries, and the discriminator's loss is halved, which its Adam
        does not notice.
        """
        return cls(
            pixel_weight=0.0,
            beta=1.0,
            disc_loss="vanilla",
            generator_term="minimax",
            adaptive=False,
            disc_weight=1.0,
            disc_start=disc_start,
        )

    def generator_loss(
        self,
        images: Images,
        reconstruction: Images,
        quantized: Quantized,
        *,
        last_layer: Tensor,
        logits_fake: Logits | None = None,
        perceptual: Perceptual | None = None,
        updates: int = 0,
        codebook_term: bool = True,
    ) -> GeneratorLoss:
        """Loss of encoder, codebook and decoder after `updates` updates of them; `last_layer` is decoder.conv_out.weight.

        `logits_fake` are those of the reconstruction, with their graph. Before `disc_start` they are not needed.
        `codebook_term` False: the codebook is not learned by gradient; `beta` times the commitment is left, legacy or not.

        Raises:
            UsageError: the objective needs `perceptual`, an entropy loss of the quantizer or, from `disc_start` on,
                `logits_fake`, and it is missing.
        """
        nll = self.reconstruction_loss(images, reconstruction, perceptual)
        codebook = self.beta * quantized.commitment_loss
        if codebook_term:
            codebook = vq_loss(quantized.codebook_loss, quantized.commitment_loss, beta=self.beta, legacy=self.legacy)
        total = nll + self.codebook_weight * codebook
        parts: dict[str, float | Tensor] = {"reconstruction": nll.detach(), "codebook": codebook.detach()}
        if self.entropy_weight:
            entropy = _entropy_loss(quantized, self.entropy_weight)
            total = total + self.entropy_weight * entropy
            parts["entropy"] = entropy.detach()
        if self.adversarial(updates):
            if logits_fake is None:
                raise UsageError(f"Update {updates} is past disc_start={self.disc_start}; give logits_fake.")
            generator = GENERATOR_TERMS[self.generator_term](logits_fake)
            weight = self.disc_weight * (adaptive_weight(nll, generator, last_layer) if self.adaptive else 1.0)
            total = total + weight * self.disc_factor * generator
            parts |= {"generator": generator.detach(), "generator_weight": weight}
        return GeneratorLoss(total, parts)

    def discriminator_loss(self, logits_real: Logits, logits_fake: Logits, *, updates: int) -> Scalar:
        """Loss of the discriminator, whose images came without graph; 0 before `disc_start`, with a graph all the same."""
        factor = self.disc_factor if self.adversarial(updates) else 0.0
        return factor * DISCRIMINATOR_LOSSES[self.disc_loss](logits_real, logits_fake)

    def adversarial(self, updates: int) -> bool:
        """Whether the discriminator plays a part after so many updates of the generator."""
        return self.disc_factor > 0 and updates >= self.disc_start

    def reconstruction_loss(self, images: Images, reconstruction: Images, perceptual: Perceptual | None) -> Scalar:
        """Mean over images of the pixel L1 and the perceptual distance, as weighted.

        Raises:
            UsageError: `perceptual_weight` is above 0 and there is no `perceptual`.
        """
        loss = self.pixel_weight * pixel_loss(images, reconstruction)
        if not self.perceptual_weight:
            return loss
        if perceptual is None:
            raise UsageError(f"perceptual_weight is {self.perceptual_weight}; give a perceptual distance, or set it to 0.")
        return loss + self.perceptual_weight * perceptual(images, reconstruction).mean()


def _entropy_loss(quantized: Quantized, weight: float) -> Scalar:
    if quantized.entropy_loss is None:
        raise UsageError(
            f"entropy_weight is {weight}, but this quantizer has no entropy loss; write 0, or quantizer: lfq, ibq or gumbel."
        )
    return quantized.entropy_loss


def pixel_loss(images: Images, reconstruction: Images) -> Scalar:
    """Mean absolute difference."""
    return (images - reconstruction).abs().mean()


def hinge_loss(logits_real: Logits, logits_fake: Logits) -> Scalar:
    """Discriminator's loss, half of the two means of `relu(1 -+ logit)`. Source: Lim and Ye (2017)."""
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def vanilla_loss(logits_real: Logits, logits_fake: Logits) -> Scalar:
    """Discriminator's loss, half of `-log D(x) - log(1 - D(x_hat))` for D the sigmoid. Source: Goodfellow et al. (2014)."""
    return 0.5 * (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean())


def raised_logit(logits_fake: Logits) -> Scalar:
    """Generator's term, minus the mean logit of its images."""
    return -logits_fake.mean()


def minimax(logits_fake: Logits) -> Scalar:
    """Generator's term, mean `log(1 - D(x_hat))`; vanishes where the discriminator is sure of its case."""
    return -F.softplus(logits_fake).mean()


DISCRIMINATOR_LOSSES = {"hinge": hinge_loss, "vanilla": vanilla_loss}
GENERATOR_TERMS = {"logit": raised_logit, "minimax": minimax}


def adaptive_weight(nll: Scalar, generator: Scalar, last_layer: Tensor) -> Scalar:
    """`|d nll / d W| / (|d generator / d W| + 1e-4)` at the decoder's last layer, at most 1e4, detached.

    Keeps both graphs. Source: Esser et al. (2021), eq. 7.
    """
    (of_nll,) = torch.autograd.grad(nll, last_layer, retain_graph=True)
    (of_generator,) = torch.autograd.grad(generator, last_layer, retain_graph=True)
    return (of_nll.norm() / (of_generator.norm() + 1e-4)).clamp(0.0, 1e4).detach()
