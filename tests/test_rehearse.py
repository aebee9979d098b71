"""Two steps of every shipped recipe with networks shrunk to nothing."""

from pathlib import Path

import pytest
import torch

from dat import recipe as recipes
from dat import recipe_file
from dat.errors import UsageError
from dat.rehearse import rehearse

RECIPES = [
    # For a GPU they differ in sizes only, which are shrunk: the same two steps as for a CPU.
    pytest.param(name, marks=pytest.mark.slow) if name.startswith("cifar10/gpu/") else name
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
