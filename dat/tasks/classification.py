"""Classification: cross-entropy with integer or soft targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from dat.types import Images, PerImage, Targets


@dataclass(frozen=True)
class Classification:
    """Cross-entropy per image; `smoothing` moves that share of an integer target to all classes evenly.

    Soft targets `(batch, classes)` (mixup, cutmix) are taken as they are: `timm.data.Mixup` smooths them itself.
    """

    smoothing: float = 0.0

    def losses(self, model: nn.Module, images: Images, targets: Targets) -> PerImage:
        """One cross-entropy per image, in float32 whatever the precision of the model."""
        logits = model(images).float()
        smoothing = self.smoothing if targets.ndim == 1 else 0.0
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
