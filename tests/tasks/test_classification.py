"""The losses of classification, against their formulas."""

import numpy as np
import pytest
import torch
from scipy.special import log_expit, log_softmax
from torch import Tensor, nn

from dat.attacks.discrete import discrete_adversary
from dat.tasks.classification import Classification

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3
CLASSES = torch.tensor([0, 4, 2, 2, 1, 3])
SHARES = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


def smoothed(smoothing: float) -> np.ndarray:
    return np.eye(5)[CLASSES.numpy()] * (1 - smoothing) + smoothing / 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_integer_targets_are_smoothed_and_soft_ones_are_not(smoothing: float, sigmoid: bool) -> None:
    task, logits = Classification(smoothing, sigmoid=sigmoid), LOGITS.double().numpy()
    for targets, shares in ((CLASSES, smoothed(smoothing)), (SHARES, SHARES.double().numpy())):
        if sigmoid:
            expected = -(shares * log_expit(logits) + (1 - shares) * log_expit(-logits)).sum(axis=1)
        else:
            expected = -(shares * log_softmax(logits, axis=1)).sum(axis=1)
        torch.testing.assert_close(
            task.losses_of_logits(LOGITS, targets).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("sigmoid", [False, True])
def test_losses_are_float32_and_extreme_logits_stay_finite(sigmoid: bool) -> None:
    task = Classification(sigmoid=sigmoid)
    for targets in (CLASSES, SHARES, SHARES.bfloat16().float()):
        losses = task.losses_of_logits((LOGITS * 100).bfloat16(), targets)
        assert losses.dtype == torch.float32
        assert losses.isfinite().all()


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32])
def test_classes_are_integers_of_any_size(dtype: torch.dtype, sigmoid: bool) -> None:
    logits, targets = torch.randn(3, 4), torch.tensor([0, 3, 1])
    task = Classification(num_classes=4, sigmoid=sigmoid)
    assert torch.equal(task.losses_of_logits(logits, targets.to(dtype)), task.losses_of_logits(logits, targets))


class Sure(nn.Module):
    """The logit of a class is `margin` where its pixel is 0.7, and minus that where it is 0.3."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, images: Tensor) -> Tensor:
        return self.margin * 5 * (images.flatten(1)[:, :5] - 0.5)


class Unchanged:
    """A discretizer in which nothing is lost."""

    codebook_size, stride = 1, 1

    def encode(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("margin", [1.0, 15.0, 40.0])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_the_adversary_of_a_well_fitted_image_is_as_long_as_any_other(margin: float, sigmoid: bool, soft: bool) -> None:
    """The gradient of a softmax in float32 loses its term of the right class, then all of it, and the step its length."""
    task, model, labels = Classification(sigmoid=sigmoid), Sure(margin), torch.arange(5)
    targets = torch.eye(5) if soft else labels
    images = torch.full((5, 3, 4, 4), 0.5)
    images.flatten(1)[:, :5] = 0.3 + 0.4 * torch.eye(5)

    def losses(shown: Tensor) -> Tensor:
        return task.losses(model, shown, targets)

    moved = discrete_adversary(images, losses, Unchanged(), alpha=0.1) - images
    torch.testing.assert_close(torch.linalg.vector_norm(moved, dim=(1, 2, 3)), torch.full((5,), 0.1), atol=1e-5, rtol=0)
    assert (moved.flatten(1)[labels, labels] < -0.04).all()  # away from the right class, whose share of the step is largest
