"""The discrete adversary: Algorithm 1, lines 3 to 5."""

from __future__ import annotations

from collections.abc import Callable

from dat.attacks.gradient import GRADIENT_SCALES, GradientScale, choose, exactly, input_gradient, into_range, unchanged
from dat.attacks.rate import Step, check_rate, exactly_encoding, length_for, longest_step
from dat.errors import UsageError
from dat.types import Discretizer, Images, LossFn, check_discretizer, check_images, check_number


def discrete_adversary(
    images: Images,
    loss_fn: LossFn,
    discretizer: Discretizer,
    *,
    alpha: float | None = None,
    modified: float | None = None,
    gradient_scale: GradientScale = "l2",
    clamp: bool = True,
    steps: int = 1,
    step_size: float | None = None,
) -> Images:
    """Discrete adversarial images `Q(x + delta)` in the images' dtype: Algorithm 1, lines 3 to 5.

    Of images in half precision, `x + delta` is in float32, and `loss_fn` sees reconstructions in the images' own dtype.
    Costs `steps` forward and backward passes of the model (image gradient only) and `steps` + 1 passes of the discretizer.

    Args:
        images: in [0, 1].
        loss_fn: images to one loss each, larger is worse for the model.
        discretizer: `Q`, frozen.
        alpha: length of the step; 0 gives `Q(x)`. Its unit follows `gradient_scale`: "l2" is the L2 length of delta per
            image, "linf" the size of every entry, "raw" the factor of the gradient as the paper writes it. With `clamp` an
            upper bound: what [0, 1] cuts off at black and white pixels is not made up for (nor is it in the official code).
        modified: in place of alpha the share of the codes of this batch that shall change, between x and x + delta, in
            float32: one alpha for the batch that reaches it within 2 % is sought first (`dat.attacks.rate.length_for`), which
            costs some six passes of the encoder, and with several steps as many attacks.
        gradient_scale: how the gradient becomes a direction. The paper writes "raw"; its published values of alpha
            (0.1, 0.2, 0.4) are lengths, which its official code takes in L2.
        clamp: whether `x + delta` is kept in [0, 1], the domain of the discretizer, as the official code does. The
            paper's formula does not say so; without it the discretizer must allow it (`check_range = False`).
        steps: how often line 4 is done; the paper does it once. Later steps start from `Q(x + delta)`, so that they see
            which words have changed, and keep delta in the ball of radius alpha around 0 ("raw" has none).
        step_size: length of one step where it is not alpha itself, of which it is at most the whole.

    Raises:
        UsageError: not one of alpha and modified, or a setting that `check_discrete_steps` refuses; a share that no alpha
            reaches; images that are not float or not in [0, 1], or a
            `loss_fn` that does not give one loss per image.

    Source: Mao et al., NeurIPS 2022, Algorithm 1; differences to the official code: docs/method.md. Several steps: ours.
    """
    _check_length(alpha, modified, gradient_scale=gradient_scale, steps=steps, step_size=step_size)
    check_images(images)
    check_discretizer(discretizer)
    exact, loss_fn = exactly(images, loss_fn)
    settings = {"gradient_scale": gradient_scale, "clamp": clamp, "steps": steps, "step_size": step_size}
    perturbed = discrete_steps(exact, loss_fn, discretizer, **settings)
    if alpha is None:
        step = Step(exact, perturbed, loss_fn, longest_step(exact, gradient_scale))
        alpha, _ = length_for(modified or 0.0, [step], exactly_encoding(discretizer))
    return discretizer(perturbed(alpha)).to(images.dtype)  # line 5:  x_adv = Q(x + delta)


def discrete_steps(
    images: Images,
    loss_fn: LossFn,
    discretizer: Discretizer,
    *,
    gradient_scale: GradientScale = "l2",
    clamp: bool = True,
    steps: int = 1,
    step_size: float | None = None,
) -> Callable[[float], Images]:
    """`x + delta` for each alpha, whose first gradient is the same: it is taken once. Settings as `discrete_adversary`."""
    scaled, project = GRADIENT_SCALES[gradient_scale]
    inside = into_range if clamp else unchanged
    reconstruction = discretizer(images)  # line 3:  x_hat = Q(x)
    first = scaled(input_gradient(reconstruction, loss_fn))  # line 4, straight-through:  d x_hat / d x ~ 1

    def perturbed(alpha: float) -> Images:
        length = alpha if step_size is None else step_size
        delta = length * first
        for _ in range(steps - 1):
            reconstruction = discretizer(inside(images + delta))
            delta = project(delta + length * scaled(input_gradient(reconstruction, loss_fn)), alpha)
        return inside(images + delta)

    return perturbed


def _check_length(
    alpha: float | None, modified: float | None, *, gradient_scale: str, steps: int, step_size: float | None
) -> None:
    if (alpha is None) == (modified is None):
        raise UsageError(
            f"alpha is {alpha} and modified is {modified}; write one of them: the length of the step, e.g. alpha=0.1, or the "
            "share of the codes that it changes, e.g. modified=0.1."
        )
    if alpha is not None:
        check_number("alpha", alpha, more=", or modified=0.1 for the length that changes a tenth of the codes")
    if modified is not None:
        check_rate(modified, "modified")
        check_sought(modified, gradient_scale=gradient_scale, step_size=step_size)
    check_discrete_steps(alpha=alpha or 0.0, gradient_scale=gradient_scale, steps=steps, step_size=step_size)


def check_sought(rate: float, *, gradient_scale: str = "l2", step_size: float | None = None, name: str = "alpha") -> None:
    """Refuse settings with which no length is sought.

    Raises:
        UsageError: the rate is none; "raw", whose alpha is no length; a step_size, which is one.
    """
    check_rate(rate)
    if gradient_scale == "raw":
        raise UsageError(
            'gradient_scale is \'raw\', whose alpha is a factor and no length that a rate could decide; write "l2" or "linf".'
        )
    if step_size is not None:
        raise UsageError(
            f"step_size is {step_size}, a length, but {name} is sought by the rate of codes it changes; write step_size: null, "
            "so that a step is as long as what is found."
        )


def check_discrete_steps(*, alpha: float, gradient_scale: str, steps: int, step_size: float | None) -> None:
    """Refuse settings of `discrete_adversary` that have no meaning.

    Raises:
        UsageError: alpha or step_size is negative, a step longer than alpha, fewer steps than one, an unknown scale, or
            "raw" with more than the one step of length alpha that the paper writes.
    """
    choose(GRADIENT_SCALES, "gradient_scale", gradient_scale)
    if not alpha >= 0:
        raise UsageError(f"alpha is {alpha}, but it is the length of a step; write 0 or more (the paper uses 0.1).")
    check_number("steps", steps, whole=True)
    if not steps >= 1:
        raise UsageError(f"steps is {steps}, but Algorithm 1 takes at least one; write 1 or more, or alpha=0 for Q(x).")
    if step_size is not None:
        check_number("step_size", step_size)
        if not 0 <= step_size <= alpha:
            raise UsageError(f"step_size is {step_size}, but delta never leaves the ball of radius alpha; write 0 to {alpha}.")
    if gradient_scale == "raw" and (steps > 1 or step_size is not None):
        raise UsageError(
            "gradient_scale is 'raw', whose alpha is a factor and no radius; "
            'write steps=1 without step_size, or gradient_scale "l2" or "linf".'
        )
