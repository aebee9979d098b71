"""What recipes name, each opened once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from dat.discretizers.frozen import FrozenDiscretizer
from dat.discretizers.objective import Perceptual
from dat.discretizers.pretrained import load_discretizer, weight_file
from dat.engine import checkpoint
from dat.engine.validation import weights_of
from dat.errors import CheckpointError
from dat.nn.imagenet_networks import ImageNetNetwork
from dat.nn.transformers_detectors import CONFIG, tensors_of_folder
from dat.nn.weights import file_sha256, read_weights
from dat.progress import warn
from dat.recipe.boxes import BoxedData, BoxesData, build_boxes
from dat.recipe.data import Data, DataSection, build_data
from dat.recipe.perceptual import FrechetSection, PerceptualSection, build_frechet, build_perceptual
from dat.recipe.unlabelled import DigitPictures, FolderPictures, UnlabelledData, build_unlabelled

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of the networks of a discretizer."""
Part = TypeVar("Part")


@runtime_checkable
class Parts(Protocol):
    """Where what a recipe names comes from: the disk, or thin air for a rehearsal. Twice the same is the same object."""

    def data(self, section: DataSection) -> Data:
        """Training and test pictures."""
        ...

    def boxed(self, section: BoxesData) -> BoxedData:
        """Training and test pictures with boxes."""
        ...

    def unlabelled(self, section: DigitPictures | FolderPictures, *, views: int) -> UnlabelledData:
        """Training pictures, so many views of each, with those that features are judged by."""
        ...

    def discretizer(self, source: str, *, precision: Precision = "fp32", compiled: bool = False) -> FrozenDiscretizer:
        """A trained discretizer, on the CPU at first."""
        ...

    def origin(self, source: str) -> dict[str, str]:
        """Which weights a discretizer has, for those that are made from it."""
        ...

    def perceptual(self, section: PerceptualSection) -> Perceptual | None:
        """A perceptual distance."""
        ...

    def features(self, section: FrechetSection | None) -> ImageNetNetwork | None:
        """The network of a Frechet distance."""
        ...

    def weights(self, path: str) -> Mapping[str, Tensor]:
        """Tensors to begin with; not to be changed."""
        ...


class OnDisk:
    """Parts from the disk. One object serves all recipes of a call, so that what two of them name is opened once."""

    def __init__(self) -> None:
        self._opened: dict[tuple[object, ...], Any] = {}

    def data(self, section: DataSection) -> Data:
        """As `build_data`."""
        return self._once(("data", section.model_dump_json()), lambda: build_data(section, seed=0))

    def boxed(self, section: BoxesData) -> BoxedData:
        """As `build_boxes`."""
        return self._once(("boxed", section.model_dump_json()), lambda: build_boxes(section, seed=0))

    def unlabelled(self, section: DigitPictures | FolderPictures, *, views: int) -> UnlabelledData:
        """As `build_unlabelled`."""
        key = ("unlabelled", views, section.model_dump_json())
        return self._once(key, lambda: build_unlabelled(section, views=views))

    def discretizer(self, source: str, *, precision: Precision = "fp32", compiled: bool = False) -> FrozenDiscretizer:
        """As `load_discretizer`."""
        return self._once(
            ("discretizer", source, precision, compiled), lambda: _loaded(source, precision=precision, compiled=compiled)
        )

    def origin(self, source: str) -> dict[str, str]:
        """The name and the SHA-256 of its file."""
        return self._once(("origin", source), lambda: {"name": Path(source).stem, "sha256": file_sha256(weight_file(source))})

    def perceptual(self, section: PerceptualSection) -> Perceptual | None:
        """As `build_perceptual`."""
        return self._once(("perceptual", section.model_dump_json()), lambda: build_perceptual(section))

    def features(self, section: FrechetSection | None) -> ImageNetNetwork | None:
        """As `build_frechet`."""
        return None if section is None else self._once(("features", section.model_dump_json()), lambda: build_frechet(section))

    def weights(self, path: str) -> Mapping[str, Tensor]:
        """As `read_weights`; of a folder of a run, those of its newest checkpoint, as its training ends with them; of one
        with a `config.json`, those of transformers' network.
        """
        return self._once(("weights", path), lambda: _of_folder(path) if Path(path).is_dir() else read_weights(path)[0])

    def _once(self, key: tuple[object, ...], opened: Callable[[], Part]) -> Part:
        if key not in self._opened:
            self._opened[key] = opened()
        return self._opened[key]


def _of_folder(path: str) -> Mapping[str, Tensor]:
    return tensors_of_folder(path) if (Path(path) / CONFIG).is_file() else _of_run(Path(path))


def _of_run(folder: Path) -> Mapping[str, Tensor]:
    """Tensors of a run's `<method>-seed<k>`, or of a checkpoint there.

    Raises:
        CheckpointError: it is no such folder, or its newest checkpoint is damaged.
    """
    found = [folder] if (folder / checkpoint.MANIFEST).is_file() else checkpoint.list_checkpoints(folder / "checkpoints")[-1:]
    if not found:
        raise CheckpointError(
            f"{folder} holds no checkpoint; name a file of weights, or RUN/<method>-seed<k> of a finished run."
        )
    state = checkpoint.load(found[0])
    for sentence in checkpoint.unfinished(state, folder) if found != [folder] else ():
        warn(sentence)
    return weights_of(state.tensors)


def _loaded(source: str, *, precision: Precision, compiled: bool) -> FrozenDiscretizer:
    discretizer = load_discretizer(source, dtype=PRECISIONS[precision])
    return discretizer.compile_networks() if compiled else discretizer
