"""DAT as a callback of fastai: python examples/fastai_callback.py cifar-f2-1024-fast   (pip install fastai)."""

import sys

import torch
from fastai.callback.core import Callback  # pyright: ignore[reportMissingImports]  # the tests are without it
from fastai.data.core import DataLoaders  # pyright: ignore[reportMissingImports]
from fastai.learner import Learner  # pyright: ignore[reportMissingImports]
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import dat
from dat.data.embedded import digits


class DiscreteAdversary(Callback):
    """Of batches of images in [0, 1] and classes (no `Normalize` among the transforms: dat.Normalized is part of the model)."""

    def __init__(self, discretizer: dat.FrozenDiscretizer, *, alpha: float) -> None:
        self.discretizer, self.alpha = discretizer, alpha

    def before_batch(self) -> None:
        """Put adversarial images in the place of those that are trained on; the model is attacked without its wrapper."""
        if self.training:
            images, labels = (part.as_subclass(torch.Tensor) for part in (*self.xb, *self.yb))
            bare = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
            loss_fn = lambda x: dat.cross_entropy(bare(x), labels)  # noqa: E731
            discretizer = self.discretizer.to(images.device)
            self.learn.xb = (dat.discrete_adversary(images, loss_fn, discretizer, alpha=self.alpha),)


if __name__ == "__main__":
    numbers = digits("train")
    pictures = TensorDataset(torch.from_numpy(numbers.images).float() / 255, torch.from_numpy(numbers.targets))
    loaders = [DataLoader(pictures, 64, shuffle=True) for _ in range(2)]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    adversary = DiscreteAdversary(dat.load_discretizer(sys.argv[1]), alpha=0.4)
    Learner(DataLoaders(*loaders), model, loss_func=nn.CrossEntropyLoss(), cbs=adversary).fit(1, 0.01)
