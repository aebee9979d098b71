"""How good frozen features are: by their nearest neighbours in a bank of labelled pictures, and by a linear probe on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from dat.data.pipeline import ImageDataset
from dat.errors import DataError, DivergenceError, UsageError
from dat.evaluation.cells import Predictions
from dat.evaluation.predict import Shelf, add_up
from dat.evaluation.suites import Suite
from dat.tasks.losses import margin
from dat.types import Images, Indices, Logits, PerImage

Name = TypeVar("Name", bound=Hashable)
Features = Float[Tensor, "batch depth"]
Bank = Float[Tensor, "bank depth"]
Labels = Int[Tensor, " bank"]
Found = Int[Tensor, "batch neighbours"]
Votes = Float64[Tensor, "batch classes"]
Weights = Float64[Tensor, "classes depth"]
Bias = Float64[Tensor, " classes"]
Scale = Float64[Tensor, " depth"]

AT_ONCE = 2**27
"""Similarities that are held at once: 1 GiB."""
KINDS = ("knn", "probe")
"""Of judges, as metrics of result rows."""


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """The classes of the `k` pictures of a bank whose features are most alike, each weighing exp(similarity / temperature).

    Similarity is the cosine. All is done in double precision, and the largest similarity is taken off before the exponential,
    so that no temperature makes the weights overflow. Of classes with equal votes the first is said.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.4;
    k and temperature of Caron et al. (DINO), ICCV 2021.

    Raises:
        UsageError: k is below 1 or above the bank, or the temperature is not above 0.
    """

    bank: Bank
    labels: Labels
    classes: int
    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        check_neighbours(self.k, self.temperature, bank=len(self.bank))

    def nearest(self, features: Features) -> Found:
        """Positions in the bank of the `k` most alike, the most alike first."""
        return torch.cat([found for _, found in self._nearest(features)])

    def votes(self, features: Features) -> Votes:
        """What each class weighs, up to a factor of the image."""
        return torch.cat([self._votes(*part) for part in self._nearest(features)])

    def _nearest(self, features: Features) -> Iterator[tuple[Tensor, Tensor]]:
        for part in features.split(max(1, AT_ONCE // len(self.bank))):
            similar = (F.normalize(part.double(), dim=1) @ self._unit_bank.T).topk(self.k, dim=1)
            yield similar.values, similar.indices

    def _votes(self, similar: Tensor, found: Tensor) -> Tensor:
        weights = ((similar - similar[:, :1]) / self.temperature).exp()
        return torch.zeros(len(found), self.classes).to(weights).scatter_add_(1, self.labels[found], weights)

    @cached_property
    def _unit_bank(self) -> Tensor:
        return F.normalize(self.bank.double(), dim=1)


def check_neighbours(k: int, temperature: float, *, bank: int | None = None) -> None:
    """Refuse settings of a nearest-neighbour classifier that cannot be.

    Raises:
        UsageError: naming the value, and the size of the bank.
    """
    if k < 1:
        raise UsageError(f"k is {k}; write how many neighbours vote, 1 or more.")
    if bank is not None and k > bank:
        raise UsageError(f"k is {k}, but the bank has {bank} pictures; write {bank} or less.")
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature is {temperature}, and similarities are divided by it; write a number above 0.")


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """One linear layer on frozen features, which are shifted and scaled first."""

    weights: Weights
    bias: Bias

    def __call__(self, features: Features) -> Logits:
        """One logit per class, in the precision of the features."""
        return F.linear(features, self.weights.to(features.dtype), self.bias.to(features.dtype))


def fit_probe(bank: Bank, labels: Labels, classes: int, *, decay: float = 1e-4, iterations: int = 200) -> LinearProbe:
    """The linear layer of least mean cross-entropy plus `decay` / 2 times the squared weights; the same bits every time.

    Features are brought to zero mean and unit deviation over the bank; weights begin at 0 and are found by L-BFGS on the whole
    bank in double precision. A feature that never varies is left out.

    Raises:
        UsageError: a negative decay, or fewer iterations than one.
        DivergenceError: the features are not finite.
    """
    if not (decay >= 0 and iterations >= 1):
        raise UsageError(f"decay is {decay} and iterations {iterations}; write a decay of 0 or more and at least 1 iteration.")
    scaled, mean, scale = _standardised(bank)
    weights = torch.zeros(classes, bank.shape[1] + 1, dtype=torch.float64, device=bank.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=iterations, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.linear(scaled, weights[:, :-1], weights[:, -1])
        value = F.cross_entropy(logits, labels) + decay / 2 * weights[:, :-1].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = weights.detach()
    by_feature = found[:, :-1] * scale
    return LinearProbe(by_feature, found[:, -1] - by_feature @ mean)


def _standardised(bank: Bank) -> tuple[Tensor, Scale, Scale]:
    """The bank in double precision at zero mean and unit deviation, its mean, and one over its deviation."""
    if not bank.isfinite().all():
        raise DivergenceError("The features of the bank are NaN or infinite; train with a lower learning rate.")
    exact = bank.double()
    deviation, mean = torch.std_mean(exact, dim=0, correction=0)
    varies = exact.amax(dim=0) > exact.amin(dim=0)
    scale = torch.where(varies, 1 / torch.where(varies, deviation, 1), 0)
    return (exact - mean) * scale, mean, scale


class Probed(nn.Module):
    """An encoder and the probe on it: a classifier, as the self-test takes one."""

    def __init__(self, encoder: nn.Module, probe: LinearProbe) -> None:
        super().__init__()
        self.encoder, self.probe = encoder, probe

    def forward(self, images: Images) -> Logits:
        """One logit per class."""
        return self.probe(self.encoder(images))


@dataclass(frozen=True, eq=False)
class Judge:
    """An encoder in eval mode with what its features are judged by. Without a probe, no attack goes through it."""

    encoder: nn.Module
    neighbours: NearestNeighbours
    probe: LinearProbe | None

    def shown(self, change: Suite, images: Images, targets: Indices, ids: Indices) -> Images:
        """What the encoder is shown: an attack climbs the margin of the probe."""
        if not change.depends_on_model:
            return change.images(images, ids, None)
        probe = self.probe
        assert probe is not None

        def losses(candidates: Images) -> PerImage:
            return margin(probe(self.encoder(candidates)), targets)

        return change.images(images, ids, losses)

    @torch.inference_mode()
    def says(self, images: Images) -> dict[str, Tensor]:
        """The class of each image, by its neighbours (`knn`) and by the probe (`probe`).

        Raises:
            DivergenceError: a feature is NaN or infinite, which would count as the first class.
        """
        features = self.encoder(images)
        if not features.isfinite().all():
            raise DivergenceError("The features of a test picture are NaN or infinite; train with a lower learning rate.")
        said = {"knn": self.neighbours.votes(features).argmax(dim=1)}
        return said if self.probe is None else said | {"probe": self.probe(features).argmax(dim=1)}


def answers(
    judges: Mapping[Name, Judge], dataset: ImageDataset, change: Suite, shelf: Shelf, *, advance: Callable[[int], None]
) -> dict[Name, Predictions]:
    """The class that each judge says of every picture; the same on every process. Those without a probe are not attacked.

    `advance` is told how many pictures were shown.

    Raises:
        DataError: a picture cannot be read, or the set changed meanwhile.
        DivergenceError: features, or what is climbed in an attack, are NaN or infinite.
    """
    asked = {name: judge for name, judge in judges.items() if judge.probe is not None or not change.depends_on_model}
    said = {name: _unasked(judge, dataset) for name, judge in asked.items()}
    seen, device = np.zeros(len(dataset), np.int64), shelf.place.device
    for *fetched, ids in shelf.batches(dataset):
        seen[ids.numpy()] += 1
        images, targets = (tensor.to(device) for tensor in fetched)
        shared = None if change.depends_on_model else change.images(images, ids, None)
        for name, judge in asked.items():
            shown = judge.shown(change, images, targets, ids) if shared is None else shared
            for kind, classes in judge.says(shown).items():
                said[name].outputs[kind][ids.numpy()] = classes.cpu().numpy()
        advance(len(ids))
    add_up([seen, *(values for predictions in said.values() for values in predictions.outputs.values())], shelf.place)
    if (seen != 1).any():
        raise DataError(f"{int((seen != 1).sum())} pictures were not shown exactly once; the set changed meanwhile.")
    return said


def _unasked(judge: Judge, dataset: ImageDataset) -> Predictions:
    kinds = KINDS if judge.probe is not None else KINDS[:1]
    return Predictions(dataset.source.targets, {kind: np.zeros(len(dataset), np.int64) for kind in kinds})


def features_of(
    encoder: nn.Module, dataset: ImageDataset, shelf: Shelf, *, advance: Callable[[int], None]
) -> tuple[Bank, Labels]:
    """The features of all pictures of a set in their order, and their classes, on the device of the shelf, on every process."""
    found: np.ndarray | None = None
    for images, _, ids in shelf.batches(dataset):
        with torch.inference_mode():
            rows = encoder(images.to(shelf.place.device)).float().cpu().numpy()
        if found is None:
            found = np.zeros((len(dataset), rows.shape[1]), np.float32)
        found[ids.numpy()] = rows
        advance(len(ids))
    if found is None:
        raise DataError("A process has no picture of the bank to show; use fewer processes, or more pictures.")
    add_up([found], shelf.place)
    device = shelf.place.device
    return torch.from_numpy(found).to(device), torch.from_numpy(dataset.source.targets).to(device)
