"""DAT in timm's own train.py, by one import. In your copy of the script, write below its imports

    from timm_task import DATTask as ClassificationTask

beside this file, and start it as always: DAT_DISCRETIZER=photos-f4-1024-fast DAT_ALPHA=0.1 python train.py ...
"""

import os
from typing import Any

import torch
from timm.task.classification import ClassificationTask
from timm.utils.model import unwrap_model
from torch import Tensor, nn

import dat


class DATTask(ClassificationTask):
    """timm's task of classification on adversarial images; mixup, smoothing, averages and compilation stay the script's."""

    def __init__(self, model: nn.Module, *args: Any, **settings: Any) -> None:
        super().__init__(model, *args, **settings)
        self.alpha = float(os.environ.get("DAT_ALPHA", "0.1"))
        self.discretizer = dat.load_discretizer(os.environ.get("DAT_DISCRETIZER", "photos-f4-1024-fast")).to(self.device)
        shown: Any = model.pretrained_cfg  # with --mean and --std, write those here, too
        self.mean, self.std = (torch.tensor(shown[key], device=self.device).view(3, 1, 1) for key in ("mean", "std"))

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The script's loss; the adversary climbs the cross-entropy of the model without its wrappers."""
        bare = unwrap_model(self.trainable_module)

        def loss_fn(x: Tensor) -> Tensor:
            return dat.cross_entropy(bare((x - self.mean) / self.std), target)

        adversarial = dat.discrete_adversary(input * self.std + self.mean, loss_fn, self.discretizer, alpha=self.alpha)
        return super().forward((adversarial - self.mean) / self.std, target)
