"""Test sets made from a clean one: what happens to a batch before the model sees it, and how that is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from dat.attacks.pixels import fgsm
from dat.data.corruptions.frost import Texture, textures_sha256
from dat.data.corruptions.severities import ParameterSet, check_parameter_set
from dat.data.corruptions.table import CORRUPTIONS, check_request, corrupt, corruption_protocol
from dat.types import Images, Indices, LossFn

SEVERITIES = (1, 2, 3, 4, 5)


@runtime_checkable
class Suite(Protocol):
    """One test set. `depends_on_model`: whether its images are made against the model that is tested."""

    @property
    def name(self) -> str:
        """As in result rows."""
        ...

    @property
    def depends_on_model(self) -> bool:
        """Whether each model needs images of its own."""
        ...

    def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
        """What the model is shown instead of the clean images."""
        ...

    def protocol(self, height: int, width: int) -> dict[str, object]:
        """How the images were made: goes into every row."""
        ...


def clean_beside(name: str) -> str:
    """The suite of the very pictures that a set of corruptions was made of, where the suite `clean` shows others."""
    return f"clean-{name}"


CLIMBED = "logsumexp(others) - true"
"""What attacks of an evaluation climb, in the protocol: `dat.tasks.losses.margin`, in the words of its formula."""


@dataclass(frozen=True)
class Clean:
    """The images as they are."""

    name: str = "clean"
    depends_on_model: bool = False

    def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
        """The images themselves."""
        return images

    def protocol(self, height: int, width: int) -> dict[str, object]:
        """Nothing was done."""
        return {}


@dataclass(frozen=True)
class FGSM:
    """One signed step against the true label, no random start, model in eval mode.

    The paper does not state its epsilon; the same group's RVT code uses 1/255.
    """

    epsilon: float = 1 / 255
    name: str = "fgsm"
    depends_on_model: bool = True

    def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
        """The attacked images."""
        assert loss_fn is not None
        return fgsm(images, loss_fn, epsilon=self.epsilon)

    def protocol(self, height: int, width: int) -> dict[str, object]:
        """The radius, in units of 1/255."""
        return {"epsilon_255": round(255 * self.epsilon, 4), "norm": "linf", "steps": 1, "loss": CLIMBED}


@dataclass(frozen=True)
class Corruption:
    """One of the 15 corruptions of ImageNet-C at one severity, generated here: not the published files.

    `parameters`: whose severities; None takes those that suit the size.
    """

    corruption: str
    severity: int
    seed: int = 0
    frost_textures: Sequence[Texture] | None = field(default=None, repr=False, compare=False)
    parameters: ParameterSet | None = None
    depends_on_model: bool = False

    def __post_init__(self) -> None:
        check_request(self.corruption, self.severity, self.seed)
        if self.parameters is not None:
            check_parameter_set(self.parameters)

    @property
    def name(self) -> str:
        """`c/<corruption>/<severity>`."""
        return f"c/{self.corruption}/{self.severity}"

    def images(self, images: Images, ids: Indices, loss_fn: LossFn | None) -> Images:
        """The corrupted images: a function of (seed, id) per image."""
        made_of = {"seed": self.seed, "frost_textures": self.frost_textures, "parameters": self.parameters}
        return corrupt(images, self.corruption, self.severity, ids=ids, **made_of)

    def protocol(self, height: int, width: int) -> dict[str, object]:
        """That it was generated, with which parameters and textures."""
        drawn = corruption_protocol(height, width, self.frost_textures, self.parameters)
        made_with = {"generated": True, "seed": self.seed, **drawn}
        if self.corruption == "frost" and self.frost_textures is not None:
            return {**made_with, "frost_sha256": textures_sha256(self.frost_textures)[:12]}
        return made_with


def corruption_suites(*, seed: int = 0, frost_textures: Sequence[Texture] | None = None) -> Sequence[Corruption]:
    """All 75 cells: 15 corruptions at 5 severities."""
    return [Corruption(name, severity, seed, frost_textures) for name in CORRUPTIONS for severity in SEVERITIES]
