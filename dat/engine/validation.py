"""Pictures that a training is judged by while it goes on: which state was the best, and whether to go on.

Knows no data: what is measured is a function of the model, whose first number is the one that counts; more is better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from torch import Tensor, nn

Validate = Callable[[nn.Module], Mapping[str, float]]
"""Numbers of a model that evaluates in float32, by names that begin with `validation_`; the same on every process."""
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Judged:
    """The highest number so far, of which epoch, and the epoch that was judged last."""

    highest: float
    best_epoch: int
    epoch: int

    def waits(self) -> int:
        """So many epochs did not rise above the best."""
        return self.epoch - self.best_epoch


class Judge:
    """What `validate` says after each epoch. Where `keeps` the best weights stay in memory, and in every checkpoint.

    Of two equal epochs the first is the best. `patience`: so many epochs without a better one end the training.
    """

    def __init__(self, validate: Validate | None, *, keeps: bool, patience: int | None) -> None:
        self.validate, self.keeps, self.patience = validate, keeps, patience
        self.judged: Judged | None = None
        self.best: Weights | None = None

    def epoch_end(self, epoch: int, model: nn.Module) -> Mapping[str, float]:
        """Measure the model, and keep its weights where they are the best."""
        if self.validate is None:
            return {}
        with in_float32(model):
            found = self.validate(model)
        value = float(next(iter(found.values())))
        if self.judged is None or value > self.judged.highest:
            self.judged = Judged(value, epoch, epoch)
            self.best = _copied(model.state_dict()) if self.keeps else None
        self.judged = replace(self.judged, epoch=epoch)
        return found

    def is_over(self) -> bool:
        """Whether the patience is at its end."""
        return self.patience is not None and self.judged is not None and self.judged.waits() >= self.patience

    def is_best(self) -> bool:
        """Whether the epoch that was judged last is the best, and its weights are kept."""
        return self.best is not None and self.judged is not None and not self.judged.waits()

    def state(self) -> tuple[dict[str, Weights], dict[str, object]]:
        """Tensors and numbers for a checkpoint."""
        weights = {} if self.best is None else {"best": self.best}
        return weights, {} if self.judged is None else {"judged": asdict(self.judged)}

    def load(self, tensors: Mapping[str, Weights], numbers: Mapping[str, object]) -> None:
        """What `state` gave."""
        judged = numbers.get("judged")
        self.judged = Judged(**judged) if isinstance(judged, dict) else None
        self.best = tensors.get("best") if self.keeps else None


@contextmanager
def in_float32(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode without the autocast that Accelerate put around its `forward`; then as it was."""
    was_training, wrapped = model.training, model.__dict__.pop("forward", None)
    try:
        yield model.eval()
    finally:
        model.train(was_training)
        if wrapped is not None:
            model.forward = wrapped


def weights_of(tensors: Mapping[str, Weights]) -> Weights:
    """Of the parts of a checkpoint the weights that a training ends with: the best, else the average, else the last ones."""
    return next((tensors[part] for part in ("best", "ema", "model") if part in tensors), {})


def _copied(weights: Weights) -> Weights:
    return {name: tensor.detach().clone().cpu() for name, tensor in weights.items()}
