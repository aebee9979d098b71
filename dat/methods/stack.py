"""DeepAugment, AugMix and discrete adversarial training together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from dat.attacks.rate import Length, Rate, Step
from dat.methods.augmix import AugMix
from dat.methods.dat import DAT
from dat.methods.deepaugment import DeepAugment
from dat.methods.settings import check_sorts
from dat.types import Batch, Discretizer, Task


@dataclass(frozen=True)
class DeepAugmentAugMixDAT:
    """Distort a share of the images, then train on AugMix's loss of that batch and on DAT's.

    Source: Mao et al., NeurIPS 2022, Table 1, the row of DAT together with DeepAugment and AugMix. The paper does not say
    how they are combined, and no code of it is public: this order and the sum of both losses, weighed equally, are ours.
    `share` is DeepAugment's; `width`, `depth`, `severity`, `concentration` and `jsd_weight` are AugMix's, `alpha` is DAT's.
    Cost per step: Noise2Net for a share of the images; a forward and backward pass of three views of each image; one image
    gradient, two passes of the discretizer, one forward and backward pass. Needs of the model: one logit per class.
    """

    discretizer: Discretizer
    alpha: Length = 0.1
    share: float = 0.5
    width: int = 3
    depth: int = -1
    severity: float = 1.0
    concentration: float = 1.0
    jsd_weight: float = 12.0

    def __post_init__(self) -> None:
        check_sorts(self)
        self._parts()  # each refuses its own settings

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield AugMix's loss of the batch with its distorted images, then DAT's.

        Raises:
            UsageError: the task gives no loss of logits, which AugMix's divergence needs.
        """
        deepaugment, augmix, discrete = self._parts()
        batch = deepaugment.distorted(batch)
        yield from augmix(model, batch, task)
        yield from discrete(model, batch, task)

    @property
    def sought(self) -> Rate | None:
        """The rate that decides alpha, if one does."""
        return self.alpha if isinstance(self.alpha, Rate) else None

    def settled(self, length: float) -> DeepAugmentAugMixDAT:
        """The same with this alpha."""
        return replace(self, alpha=length)

    def step(self, model: nn.Module, batch: Batch, task: Task) -> Step:
        """That of DAT, on the batch with its distorted images."""
        deepaugment, _, discrete = self._parts()
        return discrete.step(model, deepaugment.distorted(batch), task)

    def _parts(self) -> tuple[DeepAugment, AugMix, DAT]:
        return (
            DeepAugment(share=self.share),
            AugMix(self.width, self.depth, self.severity, self.concentration, self.jsd_weight),
            DAT(self.discretizer, self.alpha),
        )
