"""The logits of a classifier, in whatever form and precision it gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from dat.errors import UsageError
from dat.types import Images


def logits_of(model: nn.Module, images: Images) -> Tensor:
    """What the model says of the images, which it is shown in its own precision; as it gives it, which should be logits.

    Of an output with `logits` (an attribute or a key) these; of a dictionary its only matrix; of a tuple its first, if all
    its matrices have as many columns: the others are those of auxiliary heads.

    Raises:
        UsageError: the output is something else, or could be several things.
    """
    own = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), images.dtype)
    outputs = model(images.to(own))
    return outputs if isinstance(outputs, Tensor) else _found(outputs)


def _found(outputs: object) -> Tensor:
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(named, Tensor):
        return named
    inside = outputs.values() if isinstance(outputs, Mapping) else outputs
    parts = list(inside) if isinstance(inside, Iterable) else []
    matrices = [part for part in parts if isinstance(part, Tensor) and part.ndim == 2]
    if len({matrix.shape[1] for matrix in matrices}) == 1 and (len(matrices) == 1 or not isinstance(outputs, Mapping)):
        return matrices[0]
    shapes = ", ".join(str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in parts)
    raise UsageError(
        f"The model gives {type(outputs).__name__}{f' of {shapes}' if shapes else ''}, and no logits by that name; "
        "wrap it in a module that returns its logits alone."
    )
