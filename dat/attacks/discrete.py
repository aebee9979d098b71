"""The discrete adversary: Algorithm 1, lines 3 to 5."""

from __future__ import annotations

from dat.attacks.gradient import GRADIENT_SCALES, GradientScale, choose, exactly, input_gradient, into_range, unchanged
from dat.errors import UsageError
from dat.types import Discretizer, Images, LossFn, check_images


def discrete_adversary(
    images: Images,
    loss_fn: LossFn,
    discretizer: Discretizer,
    *,
    alpha: float,
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
        gradient_scale: how the gradient becomes a direction. The paper writes "raw"; its published values of alpha
            (0.1, 0.2, 0.4) are lengths, which its official code takes in L2.
        clamp: whether `x + delta` is kept in [0, 1], the domain of the discretizer, as the official code does. The
            paper's formula does not say so; without it the discretizer must allow it (`check_range = False`).
        steps: how often line 4 is done; the paper does it once. Later steps start from `Q(x + delta)`, so that they see
            which words have changed, and keep delta in the ball of radius alpha around 0 ("raw" has none).
        step_size: length of one step where it is not alpha itself, of which it is at most the whole.

    Raises:
        UsageError: a setting that `check_discrete_steps` refuses, images that are not float or not in [0, 1], or a
            `loss_fn` that does not give one loss per image.

    Source: Mao et al., NeurIPS 2022, Algorithm 1; differences to the official code: docs/method.md. Several steps: ours.
    """
    check_discrete_steps(alpha=alpha, gradient_scale=gradient_scale, steps=steps, step_size=step_size)
    check_images(images)
    scaled, project = GRADIENT_SCALES[gradient_scale]
    length = alpha if step_size is None else step_size
    inside = into_range if clamp else unchanged

    exact, loss_fn = exactly(images, loss_fn)
    reconstruction = discretizer(exact)  # line 3:  x_hat = Q(x)
    delta = length * scaled(input_gradient(reconstruction, loss_fn))  # line 4:  straight-through: d x_hat / d x ~ 1
    for _ in range(steps - 1):
        reconstruction = discretizer(inside(exact + delta))
        delta = project(delta + length * scaled(input_gradient(reconstruction, loss_fn)), alpha)
    return discretizer(inside(exact + delta)).to(images.dtype)  # line 5:  x_adv = Q(x + delta)


def check_discrete_steps(*, alpha: float, gradient_scale: str, steps: int, step_size: float | None) -> None:
    """Refuse settings of `discrete_adversary` that have no meaning.

    Raises:
        UsageError: alpha or step_size is negative, a step longer than alpha, fewer steps than one, an unknown scale, or
            "raw" with more than the one step of length alpha that the paper writes.
    """
    choose(GRADIENT_SCALES, "gradient_scale", gradient_scale)
    if not alpha >= 0:
        raise UsageError(f"alpha is {alpha}, but it is the length of a step; write 0 or more (the paper uses 0.1).")
    if not steps >= 1:
        raise UsageError(f"steps is {steps}, but Algorithm 1 takes at least one; write 1 or more, or alpha=0 for Q(x).")
    if step_size is not None and not 0 <= step_size <= alpha:
        raise UsageError(f"step_size is {step_size}, but delta never leaves the ball of radius alpha; write 0 to {alpha}.")
    if gradient_scale == "raw" and (steps > 1 or step_size is not None):
        raise UsageError(
            "gradient_scale is 'raw', whose alpha is a factor and no radius; "
            'write steps=1 without step_size, or gradient_scale "l2" or "linf".'
        )
