"""Classification: cross-entropy, or one sigmoid per class, with integer or soft targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from dat.errors import UsageError
from dat.nn.outputs import logits_of
from dat.tasks.losses import binary_cross_entropy, cross_entropy
from dat.types import ClassTargets, Images, Logits, PerImage


@dataclass(frozen=True)
class Classification:
    """Cross-entropy per image; `smoothing` moves that share of an integer target to all classes evenly.

    Soft targets `(batch, classes)` (mixup, cutmix) are taken as they are: `timm.data.Mixup` smooths them itself.
    `num_classes` is needed by methods that aim at random classes, where targets are integers.
    `sigmoid` asks of each class alone whether it is there, and sums their binary cross-entropies; smoothing and soft targets
    are the same. AugReg's recipe uses it.
    Both losses are those of `dat.tasks.losses`, whose gradient does not vanish where the model is sure, up to a margin of 100:
    the adversary of a well-fitted image is as long as that of any other.
    """

    smoothing: float = 0.0
    num_classes: int | None = None
    sigmoid: bool = False

    def losses(self, model: nn.Module, images: Images, targets: ClassTargets) -> PerImage:
        """One cross-entropy per image, in float32 whatever the precision of the model."""
        return self.losses_of_logits(logits_of(model, images), targets)

    def losses_of_logits(self, logits: Logits, targets: ClassTargets) -> PerImage:
        """One cross-entropy per image, of what the model gave for it."""
        loss = binary_cross_entropy if self.sigmoid else cross_entropy
        return loss(logits, targets, smoothing=self.smoothing)

    def random_classes(self, targets: ClassTargets, numbers: PerImage) -> ClassTargets:
        """The class `floor(number x classes)` steps after the target's, around: all classes equally likely, the own one, too.

        Of soft targets the likeliest class counts, and the result is one-hot.

        Raises:
            UsageError: integer targets, and `num_classes` was not given.
        """
        count = targets.shape[1] if targets.ndim == 2 else self.num_classes
        if count is None:
            raise UsageError("Random classes need their number; write Classification(num_classes=...).")
        labels = targets.argmax(dim=1) if targets.ndim == 2 else targets
        chosen = (labels + (numbers.double() * count).long()) % count
        return F.one_hot(chosen, count).to(targets.dtype) if targets.ndim == 2 else chosen
