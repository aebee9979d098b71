"""DAT in a Lightning module: python examples/lightning_module.py cifar-f2-1024-fast   (pip install lightning)."""

import sys

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dat
from dat.data.embedded import digits


class DATModule(lightning.LightningModule):
    """A classifier of images in [0, 1]. On several processes Lightning wraps this module, and `self.model` stays bare."""

    def __init__(self, model: nn.Module, discretizer: dat.FrozenDiscretizer, *, alpha: float) -> None:
        super().__init__()
        self.model, self.alpha = model, alpha
        self.frozen = [discretizer]  # in a list it is no part of the module, and in no checkpoint

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        """The loss of the adversarial images; the passes of the adversary leave no gradient at any weight."""
        images, labels = batch
        loss_fn = lambda x: dat.cross_entropy(self.model(x), labels)  # noqa: E731
        discretizer = self.frozen[0].to(self.device)
        adversarial = dat.discrete_adversary(images, loss_fn, discretizer, alpha=self.alpha)
        return loss_fn(adversarial).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Any will do."""
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


if __name__ == "__main__":
    numbers = digits("train")
    pictures = TensorDataset(torch.from_numpy(numbers.images).float() / 255, torch.from_numpy(numbers.targets))
    module = DATModule(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), dat.load_discretizer(sys.argv[1]), alpha=0.4)
    lightning.Trainer(max_epochs=1).fit(module, DataLoader(pictures, 64, shuffle=True))
