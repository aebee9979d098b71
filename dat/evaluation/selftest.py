"""Before numbers: what is wrong with a model, its pictures or its labels, found on a few dozen pictures in seconds.

Looks from outside wherever it can: at pictures fetched twice, at outputs, at input gradients, and at whether another reading
of the labels or another scale of the pictures explains the outputs better. A model that is merely bad raises no alarm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.special import bdtrc
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from dat.data.pipeline import ImageDataset
from dat.data.testsets.class_maps import NOTHING
from dat.errors import DataError, UsageError
from dat.evaluation.cells import View, all_classes
from dat.evaluation.intervals import certain_sign
from dat.nn.outputs import logits_of
from dat.results import mean_interval
from dat.tasks.losses import margin
from dat.types import RANGE_TOLERANCE, Discretizer, Images, Logits

Again = Float[Tensor, "batch 3 _ _"]
Targets = Int64[Tensor, " batch"]
Right = Bool[Tensor, "batch outputs"]
Ranks = Int64[np.ndarray, " counted"]
Shown = Bool[Tensor, " outputs"]
Order = Int64[np.ndarray, " _"]
Scale = Float64[np.ndarray, "2 3"]
Differences = Float[Tensor, " pictures"]

PICTURES_FOR_GRADIENTS = 8
PICTURES_ALONE = 4
# One picture in four, of 16 or more, is enough to see that another scale makes a model worse.
SCREENED, LEAST_SCREENED = 4, 16

# Relative to the spread of a model's outputs. Other kernels for another batch size differ by less even in bfloat16.
SAME_BATCH, OTHER_BATCH = 1e-3, 0.05
# Two brightnesses so close that only a step function does not tell them apart; beside 0 because 8-bit values lie on edges.
TINY_STEPS = (3e-5, 4e-5)

SATURATED = 0.25
"""So large a share of pictures of which a model is sure beyond float32 makes a comparison elsewhere worthless."""

CERTAIN, PROMISING = 1e-4, 0.2
GAIN = 0.05
FEW_CLASSES = 0.9  # of two or three classes, an untrained model may tell most apart, with any names
TIMES_CHANCE = 5  # below, a reading or a scale makes no model of any use: an untrained one may get there
SCALE_TOLERANCE = 0.02

STATISTICS = {
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean 0.5 and deviation 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "the range 0 to 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
OTHER_STATISTICS = (
    ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),  # CIFAR-10
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # CIFAR-10, as most programs have it
    ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),  # CIFAR-100
    ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),  # CLIP
)


@dataclass(frozen=True)
class Alarm:
    """One defect. `name` is its kind, `sentence` what was seen, with the value, and what to do.

    `stops`: numbers would be wrong; otherwise they are right here, and misleading elsewhere.
    """

    name: str
    sentence: str
    stops: bool = True


@dataclass(frozen=True, eq=False)
class Sample:
    """Some pictures of a set with their classes; `classes` their names, `again` the same pictures fetched a second time.

    `again` None: nothing is known of a second time.
    """

    images: Images
    targets: Targets
    classes: tuple[str, ...] = ()
    again: Again | None = None


def selftest(
    model: nn.Module,
    pictures: ImageDataset | Sample,
    view: View | None = None,
    *,
    device: torch.device | str = "cpu",
    count: int = 64,
    batch_size: int = 32,
) -> list[Alarm]:
    """What is wrong, the likeliest cause first; nothing for a healthy model, trained or not.

    Puts the model into eval mode on the device, and changes nothing else of it. Costs about five forward passes of `count`
    pictures (more where another scale looks promising), and one backward pass of eight. `view` says which output stands for
    which class (output i for class i by default).

    Raises:
        UsageError: the model does not give one row of outputs per picture, or there are no pictures to test on, or they
            are of a class that the view does not have.
        DataError: no picture can be read, or they differ in size.
    """
    sample = pictures if isinstance(pictures, Sample) else spread(pictures, count=count)
    if not len(sample.images):
        raise UsageError("There are no pictures to test the model on; give at least one, some dozens are better.")
    model.eval().to(device)
    sample = replace(sample, images=sample.images.to(device), targets=sample.targets.cpu())
    with _buffers_kept(model):
        probe = _Probe(model, batch_size)
        return list(_alarms(probe, sample, view)) or list(_saturation_alarms(probe(sample.images)))


def _alarms(probe: _Probe, sample: Sample, view: View | None) -> Iterator[Alarm]:
    yield from _picture_alarms(sample)
    logits = probe(sample.images)
    if not logits.isfinite().all():
        share = 100 * float((~logits.isfinite()).any(dim=1).float().mean())
        advice = "check its weights, and the precision it is run in"
        yield Alarm("not-a-number", f"Outputs for {share:.0f} % of the pictures are NaN or infinite; {advice}.")
        return
    yield from _state_alarms(probe, sample, logits)
    yield from _changed_alarms(probe, sample)
    yield from _probability_alarms(logits)
    yield from _gradient_alarms(probe, sample, logits)
    yield from _accuracy_alarms(probe, sample, view, logits)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """A model that stays in train mode would take its statistics from pictures of another scale."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in before:
                buffer.copy_(values)


def adversary_alarm(above_random: Differences, modified: Differences) -> Alarm | None:
    """What is wrong with an adversary, by the mean loss of its pictures above that of random steps of the same length.

    It is good if that mean is above 0 beyond chance: a paired t-test on one side, at one in a thousand. Below 0 by the same
    test, it works against itself, as with the sign of its gradient turned. Between them nothing can be said: of too few
    pictures, or of a step so short that hardly a code changes, this is no fault. How many codes change says nothing: a step
    in any direction changes about as many.

    Args:
        above_random: of each picture, its loss after the adversary's step less that after the random one.
        modified: of each picture, the percentage of codes that the adversary modified.
    """
    count = len(above_random)
    mean, interval = mean_interval(above_random.double().tolist())
    sign = certain_sign(mean, interval, count)
    if sign > 0:
        return None
    many = f"{count} pictures, of whose codes it modifies {float(modified.double().mean()):.2g} %"
    if sign < 0:
        fact = f"The adversary lowers the loss by {-mean:.2g} below that of a random step of its length, on {many}"
        return Alarm("adversary-backwards", f"{fact}; look for the sign of its gradient, and for labels that are not those.")
    fact = f"The adversary's loss is {mean:+.2g} from that of a random step of its length, which may be chance, on {many}"
    advice = "take more pictures or a longer step before you call it an adversary"
    return Alarm("adversary-unproven", f"{fact}; {advice}.", stops=False)


def spread(dataset: ImageDataset, *, count: int = 64) -> Sample:
    """At most `count` pictures at equal distances, fetched twice (in two epochs); those that cannot be read are left out.

    Raises:
        DataError: no picture can be read, or they differ in size.
    """
    positions = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(np.int64)).tolist()
    try:
        images, targets, _ = dataset.__getitems__([(0, position) for position in positions])
    except DataError as error:
        positions = [position for position in positions if _is_readable(dataset, position)]
        if not positions:
            raise error
        images, targets, _ = dataset.__getitems__([(0, position) for position in positions])
    again, *_ = dataset.__getitems__([(1, position) for position in positions])
    return Sample(images, targets, tuple(dataset.source.classes), again)


def _is_readable(dataset: ImageDataset, position: int) -> bool:
    try:
        dataset[(0, position)]
    except DataError:
        return False
    return True


@dataclass(frozen=True)
class _Probe:
    """A model in eval mode that is asked in batches, without gradients."""

    model: nn.Module
    batch_size: int

    def __call__(self, images: Images) -> Logits:
        with torch.no_grad():
            return torch.cat([self.outputs(part) for part in images.split(self.batch_size)]).float()

    def outputs(self, images: Images) -> Logits:
        """Of one batch, with the gradient that the caller asks for."""
        outputs = logits_of(self.model, images)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(images):
            form = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise UsageError(f"The model gives {form} for {len(images)} pictures; it must give one row of logits for each.")
        return outputs


def _picture_alarms(sample: Sample) -> Iterator[Alarm]:
    if sample.again is None:
        return
    images, again = sample.images, sample.again.to(sample.images)
    advice = "evaluate on a fixed resize and centre crop"
    if images.shape != again.shape:
        sizes = " and then ".join(f"{shape[3]}x{shape[2]}" for shape in (images.shape, again.shape))
        yield Alarm("random-pictures", f"The same pictures are {sizes} when they are fetched twice; {advice}.")
        return
    differs = (images != again).flatten(1).any(dim=1)
    if differs.any():
        fact = f"{int(differs.sum())} of {len(images)} pictures differ when they are fetched twice"
        largest = float((images - again).abs().max())
        yield Alarm("random-pictures", f"{fact}, by up to {largest:.2g}, as random augmentation does; {advice}.")


def _state_alarms(probe: _Probe, sample: Sample, logits: Logits) -> Iterator[Alarm]:
    """Dropout, statistics of the batch, other randomness: what makes outputs depend on more than the picture."""
    few = sample.images[: max(2, PICTURES_ALONE)]
    scale = float(logits.std(correction=0)) or 1.0
    change = _change(probe(few), probe(few)) / scale
    dependence = _change(probe(few), logits[: len(few)]) / scale if len(few) < len(logits) else 0.0
    is_random = change > SAME_BATCH
    if not is_random and dependence <= OTHER_BATCH:
        return
    operations = _operations(probe, few)
    training = {type(part).__name__ for part in probe.model.modules() if part.training}
    said = f" (in train mode after eval(): {', '.join(sorted(training))})" if training else ""
    if is_random:
        fact = f"The same pictures give outputs that differ by {100 * change:.2g} % of their spread when they are shown twice"
        if "dropout" in operations or _trains(probe.model, _DropoutNd):
            yield Alarm("dropout", f"{fact}: dropout is active{said}; turn it off where the model is in eval mode.")
        elif "batch" not in operations:
            yield Alarm("random-model", f"{fact}: the model draws random numbers, e.g. to resize; make it fixed.")
    if "batch" in operations or not is_random or _trains(probe.model, _BatchNorm):
        fact = f"Outputs change by {100 * dependence:.2g} % of their spread with the other pictures of the batch"
        advice = "use the running statistics, which eval() selects"
        yield Alarm("batch-statistics", f"{fact}, as batch normalisation in train mode does{said}; {advice}.")


def _trains(model: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(part, kind) and part.training for part in model.modules())


def _change(first: Logits, second: Logits) -> float:
    return float((first - second).abs().max())


class _Recorder(TorchDispatchMode):
    """Notes which operations of training run; sees those that no module is behind, too."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.seen = batch, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "dropout" in name or "bernoulli" in name:
            self.seen.add("dropout")
        # Instance normalisation and standardised weights use the same operation, on one row.
        if "batch_norm" in name and len(args[0]) == self.batch and any(argument is True for argument in args[3:7]):
            self.seen.add("batch")
        if "batch_norm" in name and "no_stats" in name and len(args[0]) == self.batch:
            self.seen.add("batch")
        return func(*args, **(kwargs or {}))


def _operations(probe: _Probe, images: Images) -> set[str]:
    with _Recorder(len(images)) as recorder:
        probe(images)
    return recorder.seen


def _probability_alarms(logits: Logits) -> Iterator[Alarm]:
    sums, advice = logits.sum(dim=1), "give logits: losses, attacks and masks take the softmax themselves"
    lies_within = bool(((logits >= 0) & (logits <= 1 + 1e-3)).all())
    if logits.shape[1] > 1 and lies_within and bool(((sums - 1).abs() < 0.01).all()):
        yield Alarm("probabilities", f"The outputs of each picture lie in [0, 1] and add up to {float(sums[0]):.4g}; {advice}.")
    totals = logits.logsumexp(dim=1)
    if logits.shape[1] > 1 and bool((logits <= 1e-3).all()) and bool((totals.abs() < 0.01).all()):
        fact = f"The exponentials of each picture's outputs add up to {float(totals[0].exp()):.4g}, as of a log-softmax"
        yield Alarm("probabilities", f"{fact}; {advice}.")


def _changed_alarms(probe: _Probe, sample: Sample) -> Iterator[Alarm]:
    """Pictures as corruptions and attacks leave them: without contrast, black, white, nothing but noise."""
    few = sample.images[:PICTURES_ALONE]
    noise = torch.rand(few.shape, generator=torch.Generator().manual_seed(0)).to(few)
    grey = few.mean(dim=(1, 2, 3), keepdim=True).expand_as(few)
    changed = {"without any contrast": grey, "black": few * 0, "white": few * 0 + 1, "of noise": noise}
    odd = [said for said, images in changed.items() if not probe(images).isfinite().all()]
    if odd:
        advice = "check it for divisions by a deviation, roots and logarithms of 0"
        yield Alarm("not-a-number", f"Outputs for pictures {' and '.join(odd)} are NaN or infinite; {advice}.")


def _saturation_alarms(logits: Logits) -> Iterator[Alarm]:
    """Where the likeliest class has a probability of exactly 1 in float32, the gradient of a usual cross-entropy is 0."""
    share = float((logits.float().softmax(dim=1).amax(dim=1) == 1).float().mean())
    if logits.shape[1] > 1 and share >= SATURATED:
        fact = f"The model is so sure of {100 * share:.0f} % of the pictures that their softmax is exactly 1 in float32"
        advice = "compare it elsewhere only if these take the margin, too, or its logits divided by a temperature"
        said = f"{fact}: attacks on its cross-entropy see no gradient and find it robust. Here they climb the margin"
        yield Alarm("saturated", f"{said}; {advice}.", stops=False)


def _gradient_alarms(probe: _Probe, sample: Sample, logits: Logits) -> Iterator[Alarm]:
    images = sample.images[:: max(1, len(sample.images) // PICTURES_FOR_GRADIENTS)][:PICTURES_FOR_GRADIENTS]
    try:
        gradient = _input_gradient(probe, images)
    except RuntimeError as error:
        gradient, said = None, f" ({str(error).splitlines()[0][:100]})"
    else:
        said = ""
    if gradient is not None and not gradient.isfinite().all():
        yield Alarm(
            "no-gradient", "The gradient with respect to the pictures is NaN or infinite; check roots, logarithms, norms."
        )
        return
    zeros = len(images) if gradient is None else int((gradient.flatten(1) == 0).all(dim=1).sum())
    is_constant = bool((logits == logits[0]).all())  # a head that begins with zeros: its gradient is zero, and right
    if 2 * zeros < len(images) or (gradient is not None and is_constant):
        return
    fact = f"The gradient with respect to the picture is {'missing' if gradient is None else 'zero'}{said}"
    if (part := _discretizer_in(probe.model)) or _is_step_function(probe, images):
        cause = f"the discretizer {part!r} blocks it" if part else "a discretizer, round or argmax in the model blocks it"
        advice = "pass it straight through (images + (reconstruction - images).detach())"
        yield Alarm("discretizer-blocks-gradient", f"{fact} for {zeros} of {len(images)} pictures: {cause}; {advice}.")
    else:
        advice = "look for detach, no_grad, inference_mode or NumPy in its forward pass"
        yield Alarm("no-gradient", f"{fact} for {zeros} of {len(images)} pictures, so that attacks do nothing; {advice}.")


def _input_gradient(probe: _Probe, images: Images) -> Images | None:
    """Of the loss of what the model says, by picture; none where nothing leads back to the pictures."""
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = probe.outputs(images).float()
        loss = margin(logits, logits.detach().argmax(dim=1)).sum()
        return torch.autograd.grad(loss, images, allow_unused=True)[0] if loss.requires_grad else None


def _is_step_function(probe: _Probe, images: Images) -> bool:
    first, second = (probe(images + step) for step in TINY_STEPS)
    return 2 * int((first == second).all(dim=1).sum()) >= len(images)


def _discretizer_in(model: nn.Module) -> str | None:
    for part in model.modules():
        for held in (part, *vars(part).values()):
            if isinstance(held, Discretizer):
                return type(held).__name__
    return None


@dataclass(frozen=True, eq=False)
class _Reading:
    """One way to read outputs: `right` where an output is right for a picture, of those that are looked at (`shown`)."""

    said: str
    right: Right
    shown: Shown

    def ranks(self, logits: Logits) -> Ranks:
        """How many wrong outputs are no lower than the best right one, for each picture that counts; 0 is a hit."""
        counted = self.right.any(dim=1)
        logits, right = logits.cpu()[counted], self.right[counted]
        best = logits.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        return (((logits >= best) & ~right & self.shown).sum(dim=1)).numpy()

    def chance(self, logits: Logits) -> float:
        """The share of hits if what the model says were shuffled among the pictures."""
        outputs = logits.cpu().masked_fill(~self.shown, -torch.inf).argmax(dim=1)
        counted = self.right.any(dim=1)
        return float(self.right[counted].float().mean(dim=0)[outputs[counted]].mean())

    def of(self, rows: slice) -> _Reading:
        """The same for some of the pictures."""
        return replace(self, right=self.right[rows])


def _read(said: str, groups: Order, labels: Order, targets: Targets) -> _Reading:
    right = torch.from_numpy(groups)[None] == torch.from_numpy(labels)[targets][:, None]
    return _Reading(said, right & torch.from_numpy(groups != NOTHING)[None], torch.from_numpy(groups != NOTHING))


def _accuracy_alarms(probe: _Probe, sample: Sample, view: View | None, logits: Logits) -> Iterator[Alarm]:
    """Labels first: under the best reading of them, the scale of the pictures."""
    width = logits.shape[1]
    view = _checked_view(view, sample, width)
    if width < len(view.groups) or width > len(view.groups) + 1:
        advice = "take the head, or the view, that belongs to the data set"
        yield Alarm("outputs", f"The model gives {width} outputs where {len(view.groups)} are expected; {advice}.")
        return
    groups = np.pad(view.groups, (0, width - len(view.groups)), constant_values=NOTHING)
    reading = _read("as they are", groups, view.labels, sample.targets)
    if not reading.right.any():
        return
    found, alarm = _best_label_alarm(reading, groups, view, sample, logits)
    if alarm is not None:
        yield alarm
    elif width > len(view.groups):
        advice = "drop the one too many"
        yield Alarm("outputs", f"The model gives {width} outputs where {len(view.groups)} are expected; {advice}.")
    yield from _scale_alarms(probe, sample, found, logits)


def _checked_view(view: View | None, sample: Sample, width: int) -> View:
    largest = int(sample.targets.max())
    if view is None:
        return all_classes(max(width, largest + 1, len(sample.classes)))
    if largest >= len(view.labels):
        raise UsageError(f"A picture is of class {largest}, but the view has labels for {len(view.labels)} classes; give all.")
    return view


def _best_label_alarm(
    given: _Reading, groups: Order, view: View, sample: Sample, logits: Logits
) -> tuple[_Reading, Alarm | None]:
    shifted = [("shifted-labels", reading) for reading in _shifts(groups, view, sample.targets)]
    ordered = [("class-order", reading) for reading in _orders(groups, view, sample)]
    learned = [("class-order", reading) for reading in _learned(given, groups, view, sample, logits)]
    for candidates in (shifted, ordered, learned):
        better = [(name, reading) for name, reading in candidates if _explains_better(reading, given, logits)]
        if better:
            name, best = max(better, key=lambda pair: _accuracy(pair[1].ranks(logits)))
            before, after = (_accuracy(reading.ranks(logits)) for reading in (given, best))
            fact = f"{after:.0f} % of {len(sample.images)} pictures are right if {best.said}, and {before:.0f} % as they are"
            return best, Alarm(name, f"{fact}; bring the classes of the data set and of the model into the same order.")
    return given, None


def _shifts(groups: Order, view: View, targets: Targets) -> Iterator[_Reading]:
    """Outputs shifted by one, as by a background class; or the targets, as by counting from 1."""
    for step, said in ((1, "output k + 1 stands for class k"), (-1, "output k - 1 stands for class k")):
        yield _read(said, _moved(groups, step), view.labels, targets)
        yield _read(f"each target is {'raised' if step > 0 else 'lowered'} by one", groups, _moved(view.labels, -step), targets)


def _moved(values: Order, step: int) -> Order:
    moved = np.roll(values, step)
    moved[0 if step > 0 else -1] = NOTHING
    return moved


def _orders(groups: Order, view: View, sample: Sample) -> Iterator[_Reading]:
    """Classes, or all outputs, in another order that programs sort names into."""
    for said, order in _name_orders(sample.classes, len(view.labels)):
        yield _read(f"the classes are sorted {said}", groups, view.labels[order], sample.targets)
    for said, order in _name_orders((), len(groups)):
        yield _read(f"the outputs are sorted {said}", groups[order], view.labels, sample.targets)


def _name_orders(names: Sequence[str], count: int) -> Iterator[tuple[str, Order]]:
    keys: dict[str, Callable[[int], Any]] = {"as text (0, 1, 10, 100, ...)": str}
    if len(names) == count:
        keys["as text by name"] = lambda index: names[index]
        keys["by name without regard to case"] = lambda index: names[index].casefold()
        keys["by the length of the name"] = lambda index: (len(names[index]), names[index])
    for said, key in keys.items():
        order = np.array(sorted(range(count), key=key), dtype=np.int64)
        for permutation in (order, np.argsort(order)):
            if (permutation != np.arange(count)).any():
                yield said, permutation


def _learned(given: _Reading, groups: Order, view: View, sample: Sample, logits: Logits) -> Iterator[_Reading]:
    """The order that explains one half of the pictures best, tried on the other half, and the reverse; for few classes."""
    truth = view.labels[sample.targets.numpy()]  # a tensor of one element is one number to NumPy
    said = groups[logits.cpu().masked_fill(~given.shown, -torch.inf).argmax(dim=1)]
    kinds = np.unique(groups[groups != NOTHING])
    if len(truth) < 4 * len(kinds) or not np.isin(truth, kinds).all():
        return
    from scipy.optimize import linear_sum_assignment  # takes a second, and a training needs none of it

    right = given.right.clone()
    for half in (0, 1):
        counts = np.zeros((len(kinds), len(kinds)))
        np.add.at(counts, (np.searchsorted(kinds, truth[half::2]), np.searchsorted(kinds, said[half::2])), 1)
        stands_for = kinds[linear_sum_assignment(-counts)[1]]
        others = stands_for[np.searchsorted(kinds, truth[1 - half :: 2])]
        right[1 - half :: 2] = torch.from_numpy(groups[None] == others[:, None])
    yield _Reading("the classes are in another order, learned from the other half of them", right, given.shown)


def _explains_better(reading: _Reading, given: _Reading, logits: Logits) -> bool:
    """Whether the reading, not chance, makes the model right, on the pictures that count for both."""
    counted = given.right.any(dim=1) & reading.right.any(dim=1)
    reading, given = (replace(one, right=one.right & counted[:, None]) for one in (reading, given))
    if not counted.any() or not _is_no_chance(reading, logits):
        return False
    return _is_better(reading.ranks(logits), given.ranks(logits))


def _is_no_chance(reading: _Reading, logits: Logits) -> bool:
    """Whether there are far more hits than outputs would have that are shuffled among the pictures."""
    ranks, classes = reading.ranks(logits), int(reading.right.any(dim=0).sum())
    hits, shuffled = int((ranks == 0).sum()), min(1.0, reading.chance(logits))
    is_certain = _at_least(hits, len(ranks), shuffled) < CERTAIN
    return bool(is_certain and hits >= min(FEW_CLASSES, TIMES_CHANCE / classes) * len(ranks))


def _is_better(ranks: Ranks, before: Ranks) -> bool:
    gained = _accuracy(ranks) - _accuracy(before) > 100 * GAIN
    return gained and _sign_test(ranks, before) < CERTAIN


def _sign_test(ranks: Ranks, before: Ranks) -> float:
    """Probability that so many pictures rank better by chance."""
    better, worse = int((ranks < before).sum()), int((ranks > before).sum())
    return _at_least(better, better + worse, 0.5) if better + worse else 1.0


def _accuracy(ranks: Ranks) -> float:
    return 100 * float((ranks == 0).mean()) if len(ranks) else 0.0


def _scale_alarms(probe: _Probe, sample: Sample, reading: _Reading, logits: Logits) -> Iterator[Alarm]:
    """Normalisation twice or missing: by what the first layer sees, and by a scale that explains the outputs better."""
    low, high = float(sample.images.min()), float(sample.images.max())
    is_outside = low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE
    scales = first_scales(probe.model, sample.images)
    again = [scale for scale in scales if is_outside and _is_among(scale, NORMALISATIONS)]
    doubled = slope_of_two(scales)
    advice = "give pictures in [0, 1] to a model that normalises them once, inside"
    if again:
        fact = f"Pictures go from {low:.3g} to {high:.3g}, and the model multiplies them by {again[0][0, 0]:.3g} once more"
        yield Alarm("normalised-twice", f"{fact}; {advice}.")
    elif doubled is not None:
        yield Alarm("normalised-twice", f"{said_of_two(doubled)}; {advice}.")
    elif better := _better_scale(probe, sample.images, reading, logits):
        name, said, before, after = better
        yield Alarm(name, f"{after:.0f} % of the pictures are right, not {before:.0f} %, when {said}; {advice}.")
    elif is_outside:
        yield Alarm("range", f"Pictures go from {low:.3g} to {high:.3g}, beyond [0, 1], where attacks look; {advice}.")


def _better_scale(probe: _Probe, images: Images, reading: _Reading, logits: Logits) -> tuple[str, str, float, float] | None:
    """The alarm's name, what was done, and the accuracies before and after; a quarter of the pictures usually settles it."""
    before = reading.ranks(logits)
    found = []
    for name, said, repair in repairs():
        some = slice(None, None, _stride(len(images)))
        if (tried := _repaired(probe, repair(images[some]))) is None:
            continue
        if _sign_test(reading.of(some).ranks(tried), reading.of(some).ranks(logits[some])) > PROMISING:
            continue
        if (whole := _repaired(probe, repair(images))) is None:
            continue
        ranks = reading.ranks(whole)
        if _is_better(ranks, before) and _is_no_chance(reading, whole):
            found.append((name, said, _accuracy(before), _accuracy(ranks)))
    return max(found, key=lambda one: one[-1], default=None)


def repairs() -> Iterator[tuple[str, str, Callable[[Images], Images]]]:
    """What may undo a wrong normalisation: the name of the fault, what is done to the pictures, in words, and what does it."""
    for said, statistics in STATISTICS.items():
        normalise, restore = _affine(_scale(*statistics)), _affine(_inverse(_scale(*statistics)))
        yield "normalised-twice", f"the normalisation by {said} is undone", restore
        yield "normalisation-missing", f"they are normalised by {said}", normalise


def _stride(pictures: int) -> int:
    return SCREENED if pictures >= SCREENED * LEAST_SCREENED else 1


def _repaired(probe: _Probe, images: Images) -> Logits | None:
    """None where the model refuses such pictures: then it was not made for them."""
    try:
        logits = probe(images)
    except (ValueError, AssertionError, RuntimeError):
        return None
    return logits if bool(logits.isfinite().all()) else None


def _scale(mean: Sequence[float], std: Sequence[float]) -> Scale:
    """Slope and intercept of a normalisation, per colour."""
    slope = 1 / np.array(std)
    return np.stack([slope, -np.array(mean) * slope])


def _then(first: Scale, second: Scale) -> Scale:
    return np.stack([first[0] * second[0], first[1] * second[0] + second[1]])


def _inverse(scale: Scale) -> Scale:
    return np.stack([1 / scale[0], -scale[1] / scale[0]])


def _affine(scale: Scale) -> Callable[[Images], Images]:
    def apply(images: Images) -> Images:
        slope, intercept = (torch.from_numpy(row).to(images).view(3, 1, 1) for row in scale)
        return images * slope + intercept

    return apply


NORMALISATIONS = [_scale(*statistics) for statistics in (*STATISTICS.values(), *OTHER_STATISTICS)]
TWICE = [_then(first, second) for first, second in product(NORMALISATIONS, repeat=2)]


def _is_among(scale: Scale, known: Sequence[Scale]) -> bool:
    return any(bool((np.abs(scale - one) <= SCALE_TOLERANCE * np.abs(one[0])).all()) for one in known)


def slope_of_two(scales: Sequence[Scale]) -> float | None:
    """By how much the first colour is multiplied where pictures are normalised twice in a row; None where they are not."""
    return next((float(scale[0, 0]) for scale in scales if _is_among(scale, TWICE)), None)


def said_of_two(slope: float) -> str:
    """The fact, in words."""
    return f"The first layer sees pictures multiplied by {slope:.3g}, as two normalisations in a row do"


def first_scales(model: nn.Module, images: Images) -> list[Scale]:
    """Slope and intercept of each tensor that a module is given and that is the pictures, scaled per colour.

    Blind to modules that are compiled or scripted, and to pictures that were resized or turned to BGR before.
    """
    images, given = images[:PICTURES_ALONE], list[Tensor]()

    def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        given.extend(one.detach() for one in arguments if isinstance(one, Tensor) and one.shape == images.shape)

    handles = [part.register_forward_pre_hook(note) for part in model.modules()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    fits = (_fitted(images, one) for one in given)
    return [scale for scale in fits if scale is not None]


def _fitted(images: Images, given: Images) -> Scale | None:
    """Slope and intercept per colour, by least squares; None where a scale does not explain the tensor."""
    x, y = (tensor.double().cpu().transpose(0, 1).flatten(1).numpy() for tensor in (images, given))
    spread_of_x = x.std(axis=1)
    if (spread_of_x == 0).any():
        return None
    centred, others = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    slope = (centred * others).mean(axis=1) / spread_of_x**2
    is_scaled = np.abs(others - slope[:, None] * centred).max() <= SCALE_TOLERANCE * np.abs(others).max()
    return np.stack([slope, y.mean(axis=1) - slope * x.mean(axis=1)]) if is_scaled else None


def _at_least(hits: int, trials: int, share: float) -> float:
    """How likely so many hits or more are by chance: the p-value of a binomial test, one side."""
    return float(bdtrc(hits - 1, trials, share))
