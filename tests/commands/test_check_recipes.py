"""Two steps of every shipped recipe with networks shrunk to nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dat.commands.check_recipes import rehearse
from dat.errors import UsageError
from dat.recipe import file as recipe_file
from dat.recipe import read as recipes
from dat.recipe.rehearsal import MadeUp, smaller

RECIPES = [
    # Those for a GPU differ from those for a CPU in sizes only, which are shrunk, and the comparison holds all of them.
    pytest.param(name, marks=pytest.mark.slow)
    if name.startswith(("cifar10/gpu/", "cifar10/compare", "cifar10/controls"))
    else name
    for name in sorted(recipe_file.shipped_recipes())
]


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps_of_a_shipped_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    rehearse(recipes.load(name))
    assert not list(tmp_path.iterdir())


def test_what_would_stop_the_training_is_said() -> None:
    recipe = recipes.load("demo", ["training.mixup=0.8", "training.smoothing=0.1", "methods.dat.training.batch_size=9"])
    rehearse(recipe)
    with pytest.raises(UsageError, match="does not take the options"):
        rehearse(recipes.load("demo", ["model.options={depht: 3}"]))


def test_a_share_that_is_none_of_the_few_pictures_of_a_rehearsal_may_be_some_of_the_training() -> None:
    small = "fast-advprop: {adversarial_share: 0.03}, dat-fast: {adversarial_share: 0.03, clean_share: 0.9}"
    large = "most: {method: fast-advprop, adversarial_share: 0.97}, b: {method: dat-fast, adversarial_share: 1, clean_share: 0}"
    rehearse(recipes.load("demo", [f"methods={{{small}, {large}}}"]))


def test_what_a_network_says_of_its_images_becomes_a_sentence() -> None:
    """A network that cannot be shrunk is run as it is, at the size of the recipe; what it refuses is no traceback."""
    model = (
        "model={name: swin_tiny_patch4_window7_224, options: {img_size: 56, embed_dim: 24, depths: [1, 1], num_heads: [3, 3]}}"
    )
    with pytest.raises(UsageError, match=r"swin_tiny\S+ does not run on images of 32 x 32 pixels: .*32.*56"):
        rehearse(recipes.load("demo", [model, "methods={standard: {}}", "data.size=32"]))
    rehearse(recipes.load("demo", [model, "methods={standard: {}}", "data.size=56"]))


def test_a_network_that_does_not_take_the_shrinking_is_run_as_it_is() -> None:
    rehearse(recipes.load("demo", ["model={name: resnet10t}", "methods={standard: {}}", "data.size=32"]))
    rehearse(recipes.load("demo", ["model={name: test_resnet}", "methods={standard: {}}", "data.size=32"]))


def test_a_rehearsal_is_as_small_as_its_networks_allow() -> None:
    """bfloat16 takes a hundred times as long on most processors: a picture too many is a minute."""
    plain: Any = recipes.load("demo", ["model={name: tf_efficientnet_lite0}"])
    assert smaller(plain.model, side=160) == (plain.model, 64)
    detection: Any = recipes.load("detection/coco-fcos-gpu").rehearsal()
    assert {section.training["batch_size"] for section in detection.methods.values()} == {2}
    assert len(MadeUp().boxed(detection.data).train) == 2 * 2
    discretizer: Any = recipes.load("discretizer/photos-f4").rehearsal()
    assert (discretizer.network.ch, discretizer.network.ch_mult) == (32, (1, 1, 1))
