"""Fast AdvProp: AdvProp at little more than the cost of standard training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from dat.errors import UsageError
from dat.methods.advprop import check_attack, route, start_of
from dat.methods.settings import check_sorts
from dat.nn.norm import scaled_norm_gradients
from dat.types import Batch, Images, Task


@dataclass(frozen=True)
class FastAdvProp:
    """Train on most images as they are and on the rest as adversarial ones, whose attack trains the model as well.

    Source: Mei et al., "Fast AdvProp", ICLR 2022; `meijieru/fast_advprop:imagenet.py`, `fast_advprop.py`,
    `scripts/run_fastadvprop.sh`. The first images of a micro-batch are only shown clean; the last `adversarial_share` of them
    only through the auxiliary normalisation layers: once at the start of the attack (in train mode; the gradient of this
    pass trains the weights and moves the images by one step), once moved, each with weight 1/2. Every parameter's gradient is
    the mean over the images that it has seen: all of them, or those of its kind of normalisation layer.

    The start is AdvProp's: noise, where one normal number per step exceeds `noise_threshold`. As an epoch costs
    1 + `adversarial_share` times as much, the official schedule is shorter by that factor: 105 epochs become 88.

    Where we depart: the official code shuffles the moved images across processes, which only changes who shares statistics of
    a batch; here they stay. Noise is kept in [0, 1] before the gradient is taken. `step_size` is used as written; the official
    code makes it epsilon at least. The split is made in each micro-batch: other sizes of these are another choice of images.

    Cost per step: 1 + `adversarial_share` forward and backward passes. Needs of the model: normalisation layers.
    """

    epsilon: float = 1 / 255
    step_size: float = 1 / 255
    adversarial_share: float = 0.2
    noise_threshold: float = 0.2
    auxiliary_norms: bool = True

    def __post_init__(self) -> None:
        check_sorts(self)
        check_attack(self.noise_threshold, epsilon=self.epsilon, step_size=self.step_size)
        if not 0 < self.adversarial_share < 1:
            raise UsageError(f"adversarial_share is {self.adversarial_share}, but both kinds need images; write e.g. 0.2.")

    def __call__(self, model: nn.Module, batch: Batch, task: Task) -> Iterator[Tensor]:
        """Yield the losses of the clean images, of the start, and of the adversarial images, by the count of all images."""
        count = len(batch.images)
        few = self._adversarial_count(count)
        images, targets = batch.images[-few:], batch.targets[-few:]
        start = start_of(batch, epsilon=self.epsilon, noise_threshold=self.noise_threshold)[-few:]
        with self._means_over_images_seen(model, count, few):
            yield task.losses(model, batch.images[:-few], batch.targets[:-few]).sum() / count

            start = start.detach().requires_grad_()
            with route(model, auxiliary=self.auxiliary_norms):
                loss = 0.5 * task.losses(model, start, targets).sum() / count
            yield loss

            with route(model, auxiliary=self.auxiliary_norms):
                loss = 0.5 * task.losses(model, self._moved(images, start), targets).sum() / count
            yield loss

    def _adversarial_count(self, count: int) -> int:
        few = round(self.adversarial_share * count)
        if not 0 < few < count:
            raise UsageError(
                f"adversarial_share is {self.adversarial_share}, which makes {few} of the {count} images of a micro-batch "
                "adversarial; choose a larger training.batch_size per process and micro-batch, so that both kinds are there."
            )
        return few

    def _means_over_images_seen(self, model: nn.Module, count: int, few: int) -> AbstractContextManager[None]:
        """The losses are means over all images; a layer that saw one part needs the mean over that part."""
        if not self.auxiliary_norms:
            return nullcontext()
        return scaled_norm_gradients(model, main=count / (count - few), auxiliary=count / few)

    def _moved(self, images: Images, start: Images) -> Images:
        if start.grad is None:
            raise UsageError("FastAdvProp uses gradients of losses it yields; back-propagate each before asking for the next.")
        # Where the gradient overflowed in float16 (the sign of NaN is 0) the images must stay finite all the same: the loop
        # leaves out that step of the weights, but running statistics keep what is shown here.
        delta = start.detach() + self.step_size * start.grad.sign() - images
        return (images + delta.clamp(-self.epsilon, self.epsilon)).clamp(0, 1)
